"""What `python -m bench solve` leaves behind: tables in Markdown and work–precision figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adaptode.experiments import plots
from adaptode.experiments.report import table

from . import record
from .contenders import CONTENDERS
from .problems import PROBLEMS
from .timing import ONE_THREAD
from .units import seconds, times

LIBRARY_COLOR = {  # Okabe and Ito
    "SciPy": "#4d4d4d", "adaptode": "#0072b2", "CyRK": "#e69f00", "numbalsoda": "#56b4e9",
    "heyoka": "#009e73", "diffrax": "#cc79a7", "torchdiffeq": "#d55e00",
}  # fmt: skip
METHOD_MARKER = {"RK45": "o", "dopri5": "o", "Tsit5": "^", "DOP853": "s", "Dopri8": "s", "Taylor": "*", "LSODA": "X"}
SAME_METHOD = ("RK45", "Tsit5", "DOP853")
SAME = (
    "CyRK's seconds over adaptode's, at the same method, tolerance and error: above 1, adaptode is faster. CyRK, @rhs and specialize store every step; "
    "jit_solver, which like CyRK is called without Python between, brings back the end alone."
)
ENSEMBLES = (
    "Lorenz systems from 0 to 10 with different ρ, by `bench.ensemble`, on the clock. The error is the median over some trajectories; times at equal error "
    "are read off each solver's curve of time over error, at the error of adaptode's Tsit5 at 1e-6. All tolerances are in result.jsonl."
)
FORMS = {"": "@rhs", "-specialize": "specialize", "-lean": "jit_solver"}


def markdown(head: dict[str, Any], rows: list[dict[str, Any]], images: list[str], problems: list[str]) -> str:
    tolerances, solves = head["config"]["tolerances"], of_kind(rows, "solve")
    parts = ["# Solvers, timed", _setting(head)]
    parts += [f"![{Path(name).stem}]({name})" for name in images]
    for key in problems:
        own = [row for row in solves if row["problem"] == key and row["tolerance"] in tolerances]
        parts += [f"## {PROBLEMS[key].title}", _problem_table(own, tolerances)]
        if PROBLEMS[key].note:
            parts.append(PROBLEMS[key].note[0].upper() + PROBLEMS[key].note[1:] + ".")
    overhead = of_kind(rows, "overhead")
    parts += ["## One call", "Lotka–Volterra over 0.001 at 1e-6, one step: what a call costs whatever the problem.", _overhead_table(overhead)]
    if any(row["library"] == "adaptode" and "seconds" in row for row in solves):
        parts += ["## The same method", SAME]
        parts += [_same_method_table(solves, tolerances), "## Targets", record.targets(targets(rows, tolerances))]
    if ensembles := of_kind(rows, "ensemble"):
        parts += ["## Ensembles", ENSEMBLES, _ensemble(ensembles)]
    failed = [f"{CONTENDERS[r['contender']].label}, {r['problem']} at {r['tolerance']:g}: {_why(r)}" for r in solves if "failed" in r or "skipped" in r]
    absent = [f"{CONTENDERS[key].label}: {why}" for key, why in head["absent"].items()]
    return record.markdown([*parts, record.left_out({}, absent + failed)])


def of_kind(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == kind]


def _why(row: dict[str, Any]) -> str:
    return f"skipped, {row['skipped']}" if "skipped" in row else f"failed, {row['failed']}"


def _setting(head: dict[str, Any]) -> str:
    config = head["config"]
    lines = [
        f"Median seconds of calls taken turn and turn about by all contenders, until each has had {config['budget']:g} s or {config['runs']} rounds; "
        "compiling and the first call are apart. Seconds are those in which the process had the CPU: on an idle machine, those on the clock. "
        "rtol = atol = the tolerance. The error is the largest error of a component at the end, relative to the "
        "largest component; × is the speed relative to SciPy's RK45 with a Python right-hand side at the same tolerance.",
        "All single-threaded: " + ("yes" if _pinned(head["machine"]["environment"]) else "**no**, the environment says otherwise") + ".",
        "CyRK, numbalsoda and adaptode call the same compiled right-hand side. "
        "CyRK's evaluations are those that the same C++ solver asks of a Python function; "
        "heyoka has no evaluations to count, its steps are given; diffrax's are counted from its steps.",
    ]
    return "\n\n".join([record.setting(head), *lines])


def _pinned(environment: dict[str, str]) -> bool:
    return all(environment.get(name) == value for name, value in ONE_THREAD.items() if name.endswith("NUM_THREADS"))


def _problem_table(rows: list[dict[str, Any]], tolerances: Iterable[float]) -> str:
    header, body = ["solver", "returns"], {}
    for tol in tolerances:
        header += [f"{tol:g}: time", "evaluations", "error", "×"]
    for row in rows:
        contender = CONTENDERS[row["contender"]]
        cells = body.setdefault(row["contender"], [contender.label, contender.output])
        if "seconds" in row:
            work = f"{row['work']} steps" if "steps" in row["work_unit"] else str(row["work"])
            cells += [seconds(row["seconds"]), work, f"{row['error']:.1e}", times(row["times_scipy"])]
        else:
            cells += ["skipped" if "skipped" in row else "failed", "—", "—", "—"]
    return table(header, body.values())


def _overhead_table(rows: list[dict[str, Any]]) -> str:
    timed = sorted((row for row in rows if "seconds" in row), key=lambda row: row["seconds"])
    return table(["solver", "returns", "time"], [(CONTENDERS[r["contender"]].label, r["output"], seconds(r["seconds"])) for r in timed])


def _lookup(rows: list[dict[str, Any]]) -> dict[tuple[str, float, str], dict[str, Any]]:
    return {(row["problem"], row["tolerance"], row["contender"]): row for row in rows if "seconds" in row}


def against_cyrk(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """CyRK's seconds over those of each form of adaptode with the same method, and the ratio of their errors."""
    found, ratios = _lookup(rows), []
    for (problem, tol, key), theirs in found.items():
        method = theirs["method"]
        if key != f"cyrk-{method.lower()}" or method not in SAME_METHOD:
            continue
        for suffix, form in FORMS.items():
            ours = found.get((problem, tol, f"adaptode-{method.lower()}{suffix}"))
            if ours:
                ratio, error = theirs["seconds"] / ours["seconds"], ours["error"] / theirs["error"]
                ratios.append({"problem": problem, "tolerance": tol, "method": method, "form": form, "ratio": ratio, "error": error})
    return ratios


def _same_method_table(rows: list[dict[str, Any]], tolerances: Iterable[float]) -> str:
    body: dict[tuple[str, str, float], dict[str, str]] = {}
    for ratio in against_cyrk(rows):
        if ratio["tolerance"] in tolerances:
            cells = body.setdefault((ratio["problem"], ratio["method"], ratio["tolerance"]), {})
            cells[ratio["form"]] = times(ratio["ratio"])
            cells["error"] = f"{ratio['error']:.2g}"
    lines = [
        (PROBLEMS[problem].title, method, f"{tol:g}", *(cells.get(form, "—") for form in FORMS.values()), cells["error"])
        for (problem, method, tol), cells in body.items()
    ]
    return table(("problem", "method", "tolerance", *FORMS.values(), "adaptode's error / CyRK's"), lines)


def targets(everything: list[dict[str, Any]], tolerances: Iterable[float]) -> list[tuple[str, bool, str]]:
    """What the solver set out to reach: the sentence, whether it holds at the tables' tolerances, the worst figure."""
    rows = [row for row in of_kind(everything, "solve") if row["tolerance"] in tolerances and "seconds" in row]
    checks: list[tuple[str, bool, str]] = []

    def check(sentence: str, figures: list[tuple[float, str]], limit: float) -> None:
        if figures:
            worst, where = min(figures)
            checks.append((sentence, worst >= limit, f"{times(worst)} ({where})"))

    def best_of_compiled(problem: str, tol: float) -> list[tuple[float, str]]:
        own = [r for r in rows if r["problem"] == problem and r["tolerance"] == tol and r["library"] == "adaptode" and r["how"] == "@rhs"]
        figures = [(r["times_scipy"], f"{problem} at {tol:g}, {r['method']}") for r in own if r["times_scipy"]]
        return [max(figures)] if figures else []

    fast = [f for problem in ("lorenz-10", "lorenz-100", "van-der-pol") for tol in tolerances for f in best_of_compiled(problem, tol)]
    check("a compiled right-hand side makes Lorenz and van der Pol 150 times as fast as SciPy's RK45 in Python", fast, 150.0)
    for form, limit in (("@rhs", 1.0), ("jit_solver", 1.0), ("specialize", 1.5)):
        same = [
            (r["ratio"], f"{r['problem']} at {r['tolerance']:g}, {r['method']}")
            for r in against_cyrk(rows)
            if r["form"] == form and r["tolerance"] in tolerances
        ]
        check(f"{form} is at least {limit:g} times as fast as CyRK's compiled path with the same method on every problem", same, limit)
    python = [(r["times_scipy"], f"{r['problem']} at {r['tolerance']:g}") for r in rows if r["contender"] == "adaptode-rk45-python" and r["times_scipy"]]
    check("with a Python right-hand side, RK45 is twice as fast as SciPy's on the small problems", [f for f in python if "pleiades" not in f[1]], 2.0)
    calls = [r for r in of_kind(everything, "overhead") if r["library"] == "adaptode" and r["how"] != "Python f" and "seconds" in r]
    if calls:
        quickest = min(calls, key=lambda r: r["seconds"])
        checks.append(("a call costs 20 µs at most", quickest["seconds"] <= 20e-6, f"{seconds(quickest['seconds'])} ({quickest['contender']})"))
    return checks


def _ensemble(rows: list[dict[str, Any]]) -> str:
    """Rows of bench.ensemble in short: seconds at 1e-6, and at equal error, for each number of threads."""
    timed = [row for row in rows if "seconds" in row]
    threads = sorted({row["threads"] for row in timed})
    at = {(row["contender"], row["threads"]): row for row in timed if row["tolerance"] == 1e-6}
    header, lines = ["solver", "trajectories", "1e-06: error"], []
    for n in threads:
        header += [f"time, {n} thread{'s' * (n > 1)}", f"at equal error, {n}"]
    for name in dict.fromkeys(name for name, _ in at):
        own = [at[name, n] for n in threads if (name, n) in at]
        cells = [text for row in own for text in (seconds(row["seconds"]), seconds(row["at equal error"]))]
        lines.append([name, str(own[0]["trajectories"]), f"{own[0]['error']:.1e}", *cells])
    absent = [f"{row['contender']}: {row['note']}" for row in rows if "seconds" not in row]
    return "\n\n".join([table(header, lines), *absent])


# --- figures ----------------------------------------------------------------------------------------------------------------


def figures(folder: Path, rows: list[dict[str, Any]], problems: list[str]) -> list[str]:
    """Draw what was measured; the names of the files."""
    columns = min(3, len(problems))
    lines = math.ceil(len(problems) / columns)
    fig, axes = plots.figure(lines, columns, size=(4.6 * columns, 3.9 * lines + 3.6 / columns), squeeze=False)
    handles: dict[str, Any] = {}
    for ax, key in zip(axes.flat, problems, strict=False):
        handles |= work_precision([row for row in of_kind(rows, "solve") if row["problem"] == key], ax, PROBLEMS[key].title)
    for ax in axes.flat[len(problems) :]:
        ax.set_visible(False)
    if handles:
        order = [key for key in CONTENDERS if key in handles]
        labels = [CONTENDERS[key].short for key in order]
        fig.legend([handles[key] for key in order], labels, loc="outside lower center", ncols=(1, 2, 4)[columns - 1], frameon=False)
    return [plots.save(fig, folder / "work-precision.png")]


def work_precision(rows: list[dict[str, Any]], ax: Any = None, title: str = "") -> dict[str, Any]:
    """Seconds against achieved error, one curve a contender; its lines by contender."""
    ax = plots.figure()[1] if ax is None else ax
    lines = {}
    for key, contender in CONTENDERS.items():
        points = [(r["error"], r["seconds"]) for r in rows if r["contender"] == key and "seconds" in r and r["error"] > 0]
        if not points or not contender.plotted:
            continue
        interpreted = contender.how in ("Python f", "njit f")
        color, ours = LIBRARY_COLOR[contender.library], contender.library == "adaptode"
        (lines[key],) = ax.plot(
            *zip(*points, strict=True), color=color, marker=METHOD_MARKER[contender.method], ms=5.5, lw=1.9 if ours else 1.2,
            ls={"Python f": "--", "njit f": ":"}.get(contender.how, "-"), mfc="white" if interpreted else color, zorder=3 if ours else 2,
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="achieved error", ylabel="seconds", title=title)
    return lines
