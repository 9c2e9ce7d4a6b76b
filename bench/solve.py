"""`python -m bench solve`: seconds, right-hand sides and achieved error of every solver at hand, on six problems and a range of tolerances."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from adaptode.experiments.report import open_folder, write_text

from . import record, report, timing
from .contenders import CONTENDERS, Case, Contender
from .problems import PROBLEMS, Problem

PACKAGES = ("CyRK", "numbalsoda", "heyoka", "diffrax", "jax", "torchdiffeq", "torch")
BASE = "scipy-rk45"
OVERHEAD_SPAN = 1e-3


@dataclass(frozen=True)
class Settings:
    """Tolerances of the tables and of the curves, seconds given to a contender at each, and how long a solve may be expected to take before it is left out.

    patient : solves at the tables' tolerances are never left out; SciPy's RK45, the measure of all, is not in any case
    """

    tolerances: tuple[float, ...] = (1e-6, 1e-9)
    curve: tuple[float, ...] = (1e-4, 1e-6, 1e-8, 1e-9, 1e-10, 1e-12)
    budget: float = 0.3
    curve_budget: float = 0.05
    longest: float = 2.0
    patient: bool = True
    runs: int = 7


FULL = Settings()
QUICK = replace(FULL, curve=(1e-6, 1e-9), budget=0.03, curve_budget=0.03, longest=0.5, patient=False)


def run(
    out: str = "runs/bench-solve",
    *,
    quick: bool = False,
    only: Sequence[str] | None = None,
    contenders: Sequence[str] | None = None,
    ensemble: bool = True,
    command: str = "",
) -> str:
    """Measure, write result.jsonl (rows of kind "overhead", "solve", "ensemble"), report.md and the figures to `out`; the report.

    only       : keys of problems; contenders : their keys, or names of libraries; None for all
    InputError : a name that is unknown, or a folder that cannot be written
    """
    folder, settings = open_folder(out), QUICK if quick else FULL
    problems = [PROBLEMS[key] for key in record.chosen(only, PROBLEMS, "problem")]
    libraries = sorted({contender.library for contender in CONTENDERS.values()})
    names = record.chosen(contenders, [*CONTENDERS, *libraries], "contender")
    wanted = [c for c in CONTENDERS.values() if c.key in names or c.library in names]
    absent = {contender.key: reason for contender in wanted if (reason := contender.missing())}
    present = [contender for contender in wanted if contender.key not in absent]
    config = asdict(settings) | {"problems": [problem.key for problem in problems], "contenders": [c.key for c in wanted]}
    head, rows = record.header(command, config, PACKAGES, absent), _of_kind("overhead", overhead(present, settings))
    for problem in problems:
        rows += _of_kind("solve", measure(problem, present, settings))
        text = _write(folder, head, rows)  # after each problem: what is measured is not lost
    if ensemble and (found := ensemble_rows(quick)):
        rows += _of_kind("ensemble", found)
        text = _write(folder, head, rows)
    return text


def _of_kind(kind: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"kind": kind, **row} for row in rows]


def _write(folder: Path, head: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    record.write(folder, head, rows)
    measured = [key for key in head["config"]["problems"] if any(row.get("problem") == key and row["kind"] == "solve" for row in rows)]
    images = report.figures(folder, rows, measured)
    write_text(folder / record.REPORT, text := report.markdown(head, rows, images, measured))
    return text


def measure(problem: Problem, contenders: list[Contender], settings: Settings) -> list[dict[str, Any]]:
    """A row for each contender and tolerance, the contenders of one tolerance in turn and turn about."""
    rows, last = [], {}
    for tol in sorted({*settings.tolerances, *settings.curve}, reverse=True):
        budget = settings.budget if tol in settings.tolerances else settings.curve_budget
        here, cases, fresh = {}, {}, {}
        for contender in contenders:
            _say(f"{problem.key}, {tol:g}: {contender.key}")
            row = here[contender.key] = _row(problem, contender, tol)
            expected = _expected(last.get(contender.key), tol)
            wanted = contender.key == BASE or settings.patient
            if expected > settings.longest and not (wanted and tol in settings.tolerances):
                row["skipped"] = f"about {expected:.2g} s a solve"
                continue
            if (case := _prepared(problem, contender, tol, row)) is not None:
                cases[contender.key] = partial(case.solve, problem.t1)
                fresh[contender.key] = row.pop("warm_seconds")
                last[contender.key] = (tol, fresh[contender.key])
        slow = {key for key, seconds in fresh.items() if seconds > budget}  # the warm solve was its one run
        timed = timing.rounds({key: case for key, case in cases.items() if key not in slow}, budget, settings.runs)
        for key in cases:
            seconds = [fresh[key]] if key in slow else timed[key]
            here[key] |= {"seconds": median(seconds), "fastest": min(seconds), "runs": len(seconds)}
        base = here.get(BASE, {}).get("seconds")
        for row in here.values():
            row["times_scipy"] = base / row["seconds"] if base and "seconds" in row else None
        rows += here.values()
    _say("")
    return rows


def _expected(last: tuple[float, float] | None, tol: float) -> float:
    """Seconds at tol, from those at a looser one, for a method of order five."""
    return 0.0 if last is None else last[1] * (last[0] / tol) ** 0.2


def _row(problem: Problem, contender: Contender, tol: float) -> dict[str, Any]:
    names = {"contender": contender.key, "library": contender.library, "method": contender.method, "how": contender.how, "output": contender.output}
    return {"problem": problem.key, "tolerance": tol, **names}


def _prepared(problem: Problem, contender: Contender, tol: float, row: dict[str, Any]) -> Case | None:
    """The case, compiled and warm; fills in error and work. A solver that fails has its reason in the row and is not timed."""
    began = time.perf_counter()
    try:
        case = contender.prepare(problem, tol)
        row["error"] = problem.error(case.state(case.solve(problem.check)))
        row["first_seconds"] = time.perf_counter() - began
        answers: list[Any] = []
        row["warm_seconds"] = timing.clock(lambda: answers.append(case.solve(problem.t1)))
        case.state(answers[0])
        row["work"], row["work_unit"] = case.work(answers[0]), contender.work_unit
    except Exception as error:  # any library, any fault: the others still have their rows
        row.pop("warm_seconds", None)
        row["failed"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        return None
    return case


def overhead(contenders: list[Contender], settings: Settings) -> list[dict[str, Any]]:
    """Seconds of a call that has one step to take: Lotka–Volterra over a tiny span."""
    problem, rows, cases = PROBLEMS["lotka-volterra"], {}, {}
    for contender in contenders:
        row = rows[contender.key] = _row(problem, contender, 1e-6)
        try:
            case = contender.prepare(problem, 1e-6)
            case.state(case.solve(OVERHEAD_SPAN))
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"
            continue
        cases[contender.key] = partial(case.solve, OVERHEAD_SPAN)
    for key, seconds in timing.rounds(cases, settings.curve_budget, settings.runs).items():
        rows[key] |= {"seconds": median(seconds), "fastest": min(seconds), "runs": len(seconds)}
    return list(rows.values())


def ensemble_rows(quick: bool) -> Any:
    """What `bench.ensemble.run` returns, where there is such a bench."""
    try:
        module = importlib.import_module("bench.ensemble")
    except ModuleNotFoundError:
        return None
    return module.run(quick=quick)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<70}", end="" if text else "\r", file=sys.stderr, flush=True)
