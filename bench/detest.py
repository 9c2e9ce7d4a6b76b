"""DETEST's nonstiff problems: how honest a tolerance is, and what it costs.

`python -m bench detest` tells, for each method, class of problems and tolerance, the error at the end in units of the tolerance (geometric mean and
largest over the class), the evaluations, and the share of deceived steps: accepted, with a true local error above the tolerance.
Problems and intervals, [0, 20], are those of Hull, Enright, Fellen and Sedgwick, SIAM J. Numer. Anal. 9 (1972).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import adaptode as ao
from adaptode.experiments import plots
from adaptode.experiments.report import open_folder, table, write_text
from adaptode.tableau import METHODS as KNOWN

from . import record

END = 20.0
METHODS, TOLERANCES = ("Tsit5", "Dopri5", "BS32", "DOP853"), (1e-3, 1e-6, 1e-9)


class Problem(NamedTuple):
    """y′ = fun(t, y), y(0) = y0, to t = 20."""

    name: str
    fun: Callable[[float, np.ndarray], Any]
    y0: tuple[float, ...]


def _orbit(e: float) -> Problem:
    def fun(t: float, y: np.ndarray) -> list[float]:
        cube = (y[0] * y[0] + y[1] * y[1]) ** 1.5
        return [y[2], y[3], -y[0] / cube, -y[1] / cube]

    return Problem(f"D{round(5 * e + 0.5)}", fun, (1.0 - e, 0.0, 0.0, math.sqrt((1.0 + e) / (1.0 - e))))


def _torus(t: float, y: np.ndarray) -> list[float]:
    r = math.hypot(y[0], y[1])
    return [-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r]


def _chain(t: float, y: np.ndarray) -> np.ndarray:
    return np.concatenate([[-y[0]], y[:-2] - y[1:-1], [y[-2]]])


def _diffusion(t: float, y: np.ndarray) -> np.ndarray:
    return np.convolve(y, [1.0, -2.0, 1.0], "same")


PROBLEMS = (
    Problem("A1", lambda t, y: -y, (1.0,)),
    Problem("A2", lambda t, y: -0.5 * y**3, (1.0,)),
    Problem("A3", lambda t, y: y * math.cos(t), (1.0,)),
    Problem("A4", lambda t, y: 0.25 * y * (1.0 - y / 20.0), (1.0,)),
    Problem("A5", lambda t, y: (y - t) / (y + t), (4.0,)),
    Problem("B1", lambda t, y: [2.0 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])], (1.0, 3.0)),
    Problem("B2", lambda t, y: [-y[0] + y[1], y[0] - 2.0 * y[1] + y[2], y[1] - y[2]], (2.0, 0.0, 1.0)),
    Problem("B3", lambda t, y: [-y[0], y[0] - y[1] ** 2, y[1] ** 2], (1.0, 0.0, 0.0)),
    Problem("B4", _torus, (3.0, 0.0, 0.0)),
    Problem("B5", lambda t, y: [y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]], (0.0, 1.0, 1.0)),
    Problem("C1", _chain, (1.0, *[0.0] * 9)),
    Problem("C3", _diffusion, (1.0, *[0.0] * 9)),
    *(_orbit(e) for e in (0.1, 0.3, 0.5, 0.7, 0.9)),
    Problem("E1", lambda t, y: [y[1], -(y[1] / (t + 1.0) + (1.0 - 0.25 / (t + 1.0) ** 2) * y[0])], (0.6713967071418030, 0.09540051444747446)),
    Problem("E2", lambda t, y: [y[1], (1.0 - y[0] ** 2) * y[1] - y[0]], (2.0, 0.0)),
    Problem("E3", lambda t, y: [y[1], y[0] ** 3 / 6.0 - y[0] + 2.0 * math.sin(2.78535 * t)], (0.0, 0.0)),
    Problem("E4", lambda t, y: [y[1], 0.032 - 0.4 * y[1] ** 2], (30.0, 0.0)),
    Problem("E5", lambda t, y: [y[1], math.sqrt(1.0 + y[1] ** 2) / (25.0 - t)], (0.0, 0.0)),
)


@cache
def reference(problem: Problem) -> np.ndarray:
    """The state at the end, by DOP853 at 3e-14."""
    return ao.solve_ivp(problem.fun, (0.0, END), problem.y0, "DOP853", rtol=3e-14, atol=3e-14, t_eval=[END]).y[:, -1]


def measure(problem: Problem, method: str, tolerance: float, local: bool = True) -> dict[str, Any]:
    """One solve under SciPy's step rule: evaluations, error at the end / tolerance, accepted steps, and with `local` how many were deceived."""
    run = ao.solve_ivp(problem.fun, (0.0, END), problem.y0, method, rtol=tolerance, atol=tolerance)
    error = np.abs(run.y[:, -1] - reference(problem)).max()
    deceived = 0
    for i in range(run.t.size - 1) if local else ():
        start, scale = run.y[:, i], tolerance * (1.0 + np.maximum(np.abs(run.y[:, i]), np.abs(run.y[:, i + 1])))
        true = ao.solve_ivp(problem.fun, run.t[i : i + 2], start, "DOP853", rtol=1e-13, atol=1e-13, t_eval=run.t[i + 1 : i + 2]).y[:, -1]
        deceived += bool(np.sqrt(np.mean(((run.y[:, i + 1] - true) / scale) ** 2)) > 1.0)
    return {"problem": problem.name, "ratio": error / tolerance, "nfev": run.nfev, "steps": run.t.size - 1, "deceived": deceived}


def summaries(method: str, tolerance: float, local: bool = True) -> list[dict[str, Any]]:
    """A row for each class of problems and one for all: geometric mean and largest of error / tolerance, evaluations, the share of deceived steps."""
    rows, found = [measure(problem, method, tolerance, local) for problem in PROBLEMS], []
    for kind in ("A", "B", "C", "D", "E", ""):
        own = [row for row in rows if row["problem"].startswith(kind)]
        ratio = np.array([row["ratio"] for row in own])
        share = sum(row["deceived"] for row in own) / sum(row["steps"] for row in own) if local else None
        mean = float(np.exp(np.mean(np.log(np.maximum(ratio, 1e-16)))))
        about = {"method": method, "tolerance": tolerance, "class": kind or "all"}
        found.append(about | {"mean": mean, "largest": ratio.max(), "nfev": sum(row["nfev"] for row in own), "deceived": share})
    return found


def run(
    out: str = "runs/bench-detest",
    *,
    methods: Sequence[str] = METHODS,
    tolerances: Sequence[float] = TOLERANCES,
    local: bool = True,
    command: str = "",
) -> str:
    """Measure, write result.jsonl, report.md and a figure to `out`; the report. local: whether the deceived steps are counted, which takes longest."""
    folder, rows = open_folder(out), []
    head = record.header(command, {"methods": methods, "tolerances": tolerances})
    for method in record.chosen(methods, KNOWN, "method"):
        for tolerance in tolerances:
            rows += summaries(method, tolerance, local)
            record.write(folder, head, rows)
    write_text(folder / record.REPORT, text := markdown(head, rows, figure(folder, rows)))
    return text


def markdown(head: dict[str, Any], rows: Sequence[dict[str, Any]], image: str) -> str:
    header = ["method", "tolerance", "class", "error / tolerance: mean", "largest", "evaluations", "deceived steps"]
    lines = [
        [row["method"], f"{row['tolerance']:g}", row["class"], f"{row['mean']:.2g}", f"{row['largest']:.2g}", str(row["nfev"])]
        + ["—" if row["deceived"] is None else f"{row['deceived']:.1%}"]
        for row in rows
    ]
    how = "Error at the end, t = 20, in units of the tolerance (rtol = atol), under SciPy's step rule: geometric mean and largest over the class."
    deceived = "Deceived steps were accepted with a true local error above the tolerance."
    parts = ["# DETEST's nonstiff problems", record.setting(head), f"{how} {deceived}", f"![detest]({image})", table(header, lines)]
    return record.markdown(parts)


def figure(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Evaluations against the error in units of the tolerance, all classes together; the file's name."""
    fig, ax = plots.figure(size=(5.6, 3.8))
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and row["class"] == "all"]
        ax.plot([row["nfev"] for row in own], [row["mean"] for row in own], marker="o", ms=5, label=method)
        for row in own:
            ax.annotate(f"{row['tolerance']:g}", (row["nfev"], row["mean"]), textcoords="offset points", xytext=(5, 4), fontsize=8)
    ax.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="error / tolerance, geometric mean")
    ax.legend(frameon=False)
    return plots.save(fig, folder / "detest.png")
