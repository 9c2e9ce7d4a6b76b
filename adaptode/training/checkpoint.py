"""Checkpoints: a training on disk, whole or not at all.

A checkpoint is one file, `checkpoint-<step>.npz`: the arrays, a JSON text (member `meta`: format, versions, seed,
config, and the plain numbers of the result), and in the archive's comment the SHA-256 of every byte before it. It is
written under a temporary name in the same folder, flushed to the disk and renamed, so that a crash, `kill -9` or a full
disk leaves the earlier ones as they were; the last two are kept. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import re
import warnings
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..errors import CheckpointError
from .history import FitResult, History

FORMAT = 1
_KEEP = 2
_NAME = re.compile(r"checkpoint-(\d+)\.npz")
_DIGEST_LENGTH = 64  # hexadecimal SHA-256, the archive's comment and so the last bytes of the file
_PREFIXES = ("history/", "optimizer/")


class SavedRun(NamedTuple):
    """A checkpoint read back: the training's result so far, and what made it."""

    result: FitResult
    seed: int
    config: dict[str, Any]
    versions: dict[str, str]


def save_run(directory: str | os.PathLike, result: FitResult, *, seed: int, config: Mapping[str, Any]) -> Path:
    """Write `result` as the newest checkpoint of `directory` (made if missing) and return its path.

    config : JSON-able description of what must be the same to continue; see `check_config`.

    A full disk, a missing permission: CheckpointError, and the earlier checkpoints stay as they were.
    """
    directory = Path(directory)
    path = directory / f"checkpoint-{result.step:09d}.npz"
    content = _pack(result, seed, config)
    temporary = directory / f".{path.name}.{os.getpid()}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(directory)
        _tidy(directory, newest=path)
    except OSError as error:
        earlier = "; the earlier checkpoints there are intact" if _has_checkpoints(directory) else ""
        advice = "Free some space, or give" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Give"
        raise CheckpointError(f"cannot write the checkpoint {path}: {error.strerror or error}{earlier}. {advice} another folder") from error
    return path


def load_run(directory: str | os.PathLike) -> SavedRun:
    """The newest undamaged checkpoint of `directory`, as `SavedRun(result, seed, config, versions)`.

    A damaged newest one is passed over with a RuntimeWarning that says so. None at all, all damaged, or a format that
    this version of adaptode does not know: CheckpointError.
    """
    paths = list_checkpoints(directory)
    if not paths:
        raise CheckpointError(f"no checkpoint in {Path(directory)}")
    damaged = []
    for path in reversed(paths):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
        if _digest(content) != content[-_DIGEST_LENGTH:]:
            damaged.append(path.name)
            continue
        if damaged:
            warnings.warn(
                f"damaged checkpoint passed over in {path.parent}: {', '.join(damaged)} (its checksum does not match); "
                f"the earlier {path.name} is used",
                RuntimeWarning,
                stacklevel=2,
            )
        return _unpack(path, content)
    raise CheckpointError(
        f"every checkpoint in {Path(directory)} is damaged ({', '.join(damaged)}: the checksum does not match); "
        "restore one from a backup, or start anew in another folder"
    )


def list_checkpoints(directory: str | os.PathLike) -> list[Path]:
    """The checkpoint files of a folder, oldest first; empty if there is no such folder."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted((path for path in directory.iterdir() if _NAME.fullmatch(path.name)), key=_step)


def _has_checkpoints(directory: Path) -> bool:
    try:
        return bool(list_checkpoints(directory))
    except OSError:
        return False


def check_config(saved: Mapping[str, Any], current: Mapping[str, Any], where: str | os.PathLike) -> None:
    """Refuse, by CheckpointError, a checkpoint whose config is not `current`; the message names what differs."""
    differences = list(_differences(saved, json.loads(json.dumps(current)), ""))
    if differences:
        raise CheckpointError(
            f"the checkpoint in {Path(where)} belongs to another training: {'; '.join(differences[:5])}. "
            "Give the settings it was made with, or another folder; to go on from its parameters under other settings, "
            "pass params=load_run(folder).result.params"
        )


def check_versions(saved: Mapping[str, str]) -> None:
    """Warn, by RuntimeWarning, of software that changed since a checkpoint: numbers may differ in their last bits."""
    current = versions()
    changed = [f"{name} {saved.get(name)} -> {current[name]}" for name in current if saved.get(name) != current[name]]
    if changed:
        warnings.warn(
            f"the checkpoint was made with other versions ({', '.join(changed)}): training continues, "
            "but may not reproduce an uninterrupted run bit for bit",
            RuntimeWarning,
            stacklevel=3,
        )


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"adaptode": __version__, "python": platform.python_version()}
    for name in ("numpy", "numba"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _pack(result: FitResult, seed: int, config: Mapping[str, Any]) -> bytes:
    meta = {
        "format": FORMAT,
        "versions": versions(),
        "seed": seed,
        "config": config,
        "result": {name: getattr(result, name) for name in ("step", "epoch", "status", "message", "seconds")},
    }
    try:
        text = json.dumps(meta, indent=1).encode()
    except TypeError as error:
        raise CheckpointError(f"the config of a checkpoint must be JSON-able: {error}") from error
    members = {"meta": np.frombuffer(text, np.uint8), "params": result.params}
    for prefix, arrays in zip(_PREFIXES, (result.history.to_arrays(), result.optimizer_state), strict=True):
        members |= {prefix + name: array for name, array in arrays.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez takes no comment
        for name, array in members.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(name + ".npy"), member.getbuffer())
        archive.comment = b" " * _DIGEST_LENGTH
    content = buffer.getvalue()
    return content[:-_DIGEST_LENGTH] + _digest(content)


def _unpack(path: Path, content: bytes) -> SavedRun:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        members = {name: archive[name] for name in archive.files}
    meta = json.loads(members["meta"].tobytes())
    if meta["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {meta['format']}, this version of adaptode reads format {FORMAT}; "
            f"it was written by adaptode {meta['versions']['adaptode']}"
        )
    history, optimizer_state = (
        {name.removeprefix(prefix): array for name, array in members.items() if name.startswith(prefix)}
        for prefix in _PREFIXES
    )
    result = FitResult(
        params=members["params"],
        history=History.from_arrays(history),
        optimizer_state=optimizer_state,
        **meta["result"],
    )
    return SavedRun(result, meta["seed"], meta["config"], meta["versions"])


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content[:-_DIGEST_LENGTH]).hexdigest().encode()


def _step(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])


def _sync_folder(directory: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _tidy(directory: Path, newest: Path) -> None:
    """Remove all but the last checkpoints, and what a killed process left half-written."""
    older = [path for path in list_checkpoints(directory) if path != newest]
    for path in (*older[: len(older) - (_KEEP - 1)], *directory.glob(".checkpoint-*.tmp")):
        path.unlink(missing_ok=True)


def _differences(saved: Any, current: Any, where: str) -> Any:
    if isinstance(saved, dict) and isinstance(current, dict):
        for name in dict.fromkeys((*saved, *current)):
            yield from _differences(saved.get(name), current.get(name), f"{where}.{name}" if where else name)
    elif saved != current:
        yield f"{where} was {_short(saved)}, now {_short(current)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
