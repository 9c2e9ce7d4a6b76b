"""What every command of the bench leaves in its folder: result.jsonl, report.md and pictures.

The first line of result.jsonl is the header {command, machine, versions, config, absent}, every other one a measured row. JSON has no NaN: it is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptode.errors import InputError
from adaptode.experiments.report import versions, write_text

from .timing import load, machine, version_of

Row = dict[str, Any]
RESULT, REPORT = "result.jsonl", "report.md"


def header(command: str, config: Mapping[str, Any], packages: Iterable[str] = (), absent: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The first line; packages: those whose versions tell too, where they are installed."""
    found = versions() | {package: version for package in packages if (version := version_of(package))}
    return {"command": command, "machine": machine(), "versions": found, "config": dict(config), "absent": dict(absent or {})}


def write(folder: Path, head: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """The whole of result.jsonl anew, after each part of the work: what is measured is not lost, and no reader sees half of it."""
    head["machine"]["load_after"] = load()
    write_text(folder / RESULT, "".join(json.dumps(plain(line), allow_nan=False) + "\n" for line in (head, *rows)))


def read(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """Header and rows of a folder."""
    head, *rows = map(json.loads, (folder / RESULT).read_text(encoding="utf-8").splitlines())
    return head, rows


def plain(value: Any) -> Any:
    """`value` in what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def chosen(names: Sequence[str] | None, known: Iterable[str], what: str) -> list[str]:
    """`names`, or all that are known for None; InputError for one that is not."""
    known = list(known)
    for name in names or []:
        if name not in known:
            raise InputError(f"no {what} is called {name!r}; there are {', '.join(known)}")
    return known if names is None else list(names)


def setting(head: Mapping[str, Any]) -> str:
    """The command, the machine and the versions, for a report."""
    about = head["machine"]
    environment = ", ".join(f"`{name}={value}`" for name, value in about["environment"].items()) or "nothing that tells"
    lines = [
        f"`{head['command']}`" if head["command"] else "",
        f"CPU: {about['cpu']}, {about['cores']} cores; load average {about['load']} before and {about['load_after']} after{_load_warning(about)}. "
        f"Environment: {environment}.",
        ", ".join(f"{name} {version}" for name, version in head["versions"].items() if version != "not installed") + ".",
    ]
    return "\n\n".join(line for line in lines if line)


def _load_warning(about: Mapping[str, Any]) -> str:
    busiest = max(about["load"] or 0.0, about["load_after"] or 0.0)
    return ": **the machine was busy with more than one process, so that caches and clock rates were shared**" if busiest > 1.5 else ""


def targets(checks: Iterable[tuple[str, bool, str]]) -> str:
    """A list of what was set out to be reached: the sentence, whether it holds, the worst figure."""
    return "\n".join(f"- {'yes' if holds else '**no**'}: {sentence}. Worst: {figure}." for sentence, holds, figure in checks)


def left_out(absent: Mapping[str, str], failed: Iterable[str] = ()) -> str:
    """A section on who is missing, or nothing."""
    lines = [f"- {name}: {why}" for name, why in absent.items()] + [f"- {line}" for line in failed]
    return "## Left out\n\n" + "\n".join(lines) if lines else ""


def markdown(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
