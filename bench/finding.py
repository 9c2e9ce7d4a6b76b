"""What every finding leaves behind: its tables in report.md, all its numbers in result.json, its figure; and the command line of its module.

A finding is a module with `measure(quick, …) -> rows`, a list of flat dictionaries, and `report(rows) -> Markdown`, `draw(rows) -> Figure`. The conclusions
are in docs/findings.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptode.errors import AdaptodeError
from adaptode.experiments import plots
from adaptode.experiments.jobs import one_blas_thread
from adaptode.experiments.report import open_folder, write_result, write_text

Rows = list[dict[str, Any]]


def publish(name: str, measure: Callable[..., Rows], report: Callable[[Rows], str], draw: Callable[[Rows], Any], out: str, **options: Any) -> str:
    """Measure and write `out`/report.md, result.json and <name>.png; the report."""
    folder = open_folder(out)
    began = time.perf_counter()
    with one_blas_thread():
        rows = measure(**options)
    seconds = time.perf_counter() - began
    command = shlex.join(["python", "-m", f"bench.{name}", *sys.argv[1:]])
    picture = plots.save(draw(rows), folder / f"{name}.png")
    text = report(rows)
    write_result(folder, options, sorted({row["seed"] for row in rows if "seed" in row}), rows, command=command, seconds=seconds)
    write_text(folder / "report.md", f"{text}\n\n![{name}]({picture})\n\n`{command}`, {seconds:.0f} s\n")
    return text


def command_line(
    name: str,
    description: str,
    measure: Callable[..., Rows],
    report: Callable[[Rows], str],
    draw: Callable[[Rows], Any],
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """`python -m bench.<name> [--out DIR] [--quick] [--<more> …]`."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description.splitlines()[0])
    parser.add_argument("--out", default=f"runs/{name}", help="folder of report.md, result.json and the figure (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few seconds' worth, for a look")
    for option, settings in (more or {}).items():
        parser.add_argument(f"--{option}", **settings)
    chosen = vars(parser.parse_args())
    try:
        print(publish(name, measure, report, draw, **chosen))
    except AdaptodeError as error:
        print(f"python -m bench.{name}: {error}", file=sys.stderr)
        return 2
    print(f"\n{Path(chosen['out']) / 'report.md'}")
    return 0


def groups(rows: Sequence[Mapping[str, Any]], *keys: str) -> dict[Any, list[Mapping[str, Any]]]:
    """Rows by their values of `keys` (a single key: by its value), in the order in which these come."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys), []).append(row)
    return found


def column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])


def median_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """An interval that holds the median of what the values are drawn from, by the binomial law of the order statistics; no law of the values assumed."""
    from scipy.stats import binom

    ordered, n = np.sort(values), len(values)
    k = int(binom.ppf((1.0 - level) / 2.0, n, 0.5))  # P(at most k − 1 of n lie below the median) <= (1 − level)/2
    return float(ordered[max(k - 1, 0)]), float(ordered[min(n - k, n - 1)])


def share_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion."""
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)
