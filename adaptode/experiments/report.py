"""What an experiment leaves behind: `result.json`, tables, the folder they are in."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError

_PACKAGES = ("numpy", "scipy", "numba", "scikit-learn", "matplotlib")


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the packages that a result may depend on."""
    found = {"adaptode": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def summarize(values: Iterable[float]) -> dict[str, Any]:
    """`{"mean", "std", "values"}` over the seeds; std is the sample standard deviation, 0 for a single seed."""
    values = [float(value) for value in values]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": spread, "values": values}


def open_folder(out: str | os.PathLike[str]) -> Path:
    """The folder `out`, made and found writable before hours of work go into it."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}; choose another folder with --out") from error
    return folder


class RunFolder:
    """The folder of a run: what has finished is on disk at once, and a run that fails before that leaves nothing behind.

    `add(training)` writes `partial.json`, which holds every training so far, parameters and all, until the run ends well and `result.json` takes its place.
    """

    def __init__(self, out: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
        self._made = [path for path in (Path(out), *Path(out).parents) if not path.exists()]
        self.path = open_folder(out)
        self._config, self._trainings = config, []

    def add(self, training: Mapping[str, Any]) -> None:
        self._trainings.append(dict(training))
        content = {"config": self._config, "versions": versions(), "trainings": self._trainings}
        try:
            write_text(self._partial, json.dumps(_plain(content), allow_nan=False) + "\n")
        except OSError as error:  # hours of work do not end because of a copy
            print(f"cannot write {self._partial}: {error.strerror or error}", file=sys.stderr)

    @property
    def _partial(self) -> Path:
        return self.path / "partial.json"

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._partial.unlink(missing_ok=True)
        elif self._trainings:
            count = len(self._trainings)
            print(f"{count} finished training{'s' * (count > 1)} kept in {self._partial}", file=sys.stderr)
        else:
            for path in self._made:
                with suppress(OSError):  # not empty: not ours alone
                    path.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none: a reader never sees half of it."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_result(folder: Path, config: Mapping[str, Any], seeds: Sequence[int], rows: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """Write `result.json`: config, versions, seeds, rows, and what else an experiment has to say.

    A row is `{"name": …, "nfe": {"mean": …, "std": …}, …}`. JSON has no NaN and no infinity: they are written as null.
    """
    content = {"config": config, "versions": versions(), "seeds": list(seeds), "rows": list(rows), **more}
    path = folder / "result.json"
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")
    return path


def _plain(value: Any) -> Any:
    """`value` in what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def plus_minus(summary: Mapping[str, Any], digits: int, scale: float = 1.0) -> str:
    """`mean ± std` with `digits` decimals; the mean alone where there was one seed."""
    mean = f"{summary['mean'] * scale:.{digits}f}"
    return mean if len(summary.get("values", (0, 0))) == 1 else f"{mean} ± {summary['std'] * scale:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up on a terminal: first column left, the others right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
