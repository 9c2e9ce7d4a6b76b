"""`python -m bench train`: forward solve and gradient of neural ODEs by every library at hand, on the same weights and data.

Numbers of threads are fixed when a process starts, and JAX's precision for its whole life: each workload, dtype and number of threads has a process of its
own, in which the contenders are timed turn and turn about, warm. Peak memory is taken in a process for each contender.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from adaptode.experiments.report import open_folder, write_text

from . import cold, floor, memory, record, timing, train_report
from .train_contenders import CONTENDERS, Contender
from .train_types import Case
from .workloads import GROUPS, WORKLOADS, Workload

Row = dict[str, Any]
PAUSE = 0.3  # seconds, after which thread pools of every library sleep
PACKAGES = ("jax", "jaxlib", "diffrax", "torch", "torchdiffeq", "torchode")
QUICK_BUDGET, QUICK_WITHOUT = 0.2, "left out of a quick run: it compiles for half a minute each time"
FLOORED, WEIGHED = ("moons", "mnist"), ("moons", "mnist")  # groups with a floor; with peak memory


def run(
    out: str = "runs/bench-train",
    *,
    only: Sequence[str] | None = None,
    contenders: Sequence[str] | None = None,
    threads: Sequence[int] = (1, 2),
    dtypes: Sequence[str] = ("float64", "float32"),
    budget: float = 2.0,
    quick: bool = False,
    command: str = "",
) -> str:
    """Measure, write result.jsonl, report.md and a figure to `out`; the report.

    budget : seconds for each contender and operation;  quick : a fifth of a second, float64 on one thread at each workload's first tolerance, no memory
    InputError : a name that is unknown, or a folder that cannot be written
    """
    dtypes = record.chosen(dtypes, ("float64", "float32"), "dtype")
    chosen = [w for w in WORKLOADS.values() if w.group in record.chosen(only, GROUPS, "group of workloads")]
    wanted = [CONTENDERS[key] for key in record.chosen(contenders, CONTENDERS, "contender")]
    if quick:
        threads, dtypes, budget = (1,), ("float64",), min(budget, QUICK_BUDGET)
    absent = {c.key: why for c in wanted if (why := c.missing() or (QUICK_WITHOUT if quick and c.compiler else None))}
    present = [c for c in wanted if c.key not in absent]
    folder = open_folder(out)
    config = {"workloads": [w.key for w in chosen], "contenders": [c.key for c in wanted], "threads": threads, "dtypes": dtypes, "budget": budget}
    head, rows = record.header(command, config | {"quick": quick}, PACKAGES, absent), []
    for part in _parts(chosen, present, threads, dtypes, budget, quick):
        rows += part
        record.write(folder, head, rows)
        write_text(folder / record.REPORT, text := train_report.markdown(head, rows, train_report.figures(folder, rows)))
    return text


def _parts(chosen: list[Workload], present: list[Contender], threads: Sequence[int], dtypes: Sequence[str], budget: float, quick: bool) -> Iterator[list[Row]]:
    """Rows as they come, process after process."""
    for workload in chosen:
        for dtype in dtypes:
            for count in threads:
                here = [c.key for c in present if c.serves(workload)]
                spec = {"workload": workload.key, "dtype": dtype, "threads": count, "contenders": here, "budget": budget, "quick": quick}
                yield _in_process(spec | {"task": "time"}) if here else []
    for workload in chosen:
        for contender in present if workload.group in WEIGHED and not quick else ():
            if contender.serves(workload):
                yield _in_process({"task": "memory", "workload": workload.key, "dtype": "float64", "threads": 1, "contenders": [contender.key]})
    if "moons" in [w.key for w in chosen] and "adaptode" in [c.key for c in present]:
        _say("cold start")
        yield cold.measure(["adaptode"], 3)


def _in_process(spec: Mapping[str, Any]) -> list[Row]:
    """The rows that a worker prints; one that dies leaves those it had and a row that says how."""
    _say(", ".join(str(spec[key]) for key in ("task", "workload", "dtype", "threads")))
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "bench", "train", "--worker", json.dumps(spec)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=timing.environment(spec["threads"]))
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [""])[-1]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        names = {key: spec[key] for key in ("workload", "dtype", "threads")}
        rows.append({"kind": spec["task"], **names, "contender": " ".join(spec["contenders"]), "failed": f"process ended with {done.returncode}: {last}"})
    return rows


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)


# --- in a worker ------------------------------------------------------------------------------------------------------------


def worker(spec: Mapping[str, Any]) -> None:
    """Prints rows, a line each."""
    threads, workload = spec["threads"], WORKLOADS[spec["workload"]]
    contenders = [CONTENDERS[key] for key in spec["contenders"]]
    if spec["task"] == "memory":
        _print([memory.row(workload, contenders[0], spec["dtype"])])
        return
    tolerances = workload.tolerances_of(spec["dtype"])
    for tolerance in tolerances[:1] if spec["quick"] else tolerances:
        _print(measure(workload, spec["dtype"], tolerance, threads, contenders, spec["budget"]))
        if workload.group in FLOORED and "adaptode" in spec["contenders"]:
            _print(floor.rows(workload, spec["dtype"], tolerance, threads))


def _print(rows: Sequence[Row]) -> None:
    for row in rows:
        print(json.dumps(record.plain(row)), flush=True)


def measure(workload: Workload, dtype: str, tolerance: float, threads: int, contenders: Sequence[Contender], budget: float) -> list[Row]:
    """A row for each contender and operation, the contenders in turn and turn about."""
    rows: dict[tuple[str, str], Row] = {}
    calls: dict[tuple[str, str], timing.Call] = {}
    about = {"kind": "time", "workload": workload.key, "tolerance": tolerance, "dtype": dtype, "threads": threads}
    for contender in contenders:
        both = {"gradient", "forward"} if contender.forward and not workload.penalty else {"gradient"}
        own = {op: about | {"contender": contender.key, "operation": op} for op in sorted(both)}
        rows |= {(contender.key, op): row for op, row in own.items()}
        try:
            case, more = _prepared(workload, contender, dtype, tolerance, threads, "forward" in both)
        except Exception as error:  # any library, any fault: the others still have their rows
            text = str(error).strip().splitlines()
            for row in own.values():
                row["failed"] = f"{type(error).__name__}: {text[0] if text else ''}"
            continue
        for op, row in own.items():
            row |= more[op]
            calls[contender.key, op] = getattr(case, op)
    watch = timing.Watch()
    timed = timing.rounds(calls, budget, by=timing.on_the_wall, pause=PAUSE if threads > 1 else 0.0)
    others = watch.others()
    for key, seconds in timed.items():
        lower, middle, upper = np.percentile(seconds, (25, 50, 75)).tolist()
        rows[key] |= {"seconds": middle, "lower": lower, "upper": upper, "calls": len(seconds), "others": others}
    return list(rows.values())


def _prepared(workload: Workload, contender: Contender, dtype: str, tolerance: float, threads: int, forward: bool) -> tuple[Case, dict[str, Row]]:
    """The case, compiled and warm, and what is known of each operation before it is timed."""
    began = time.perf_counter()
    case = contender.prepare(workload, dtype, tolerance, threads)
    found = case.gradient()
    first = {"gradient": time.perf_counter() - began}
    loss, gradient = case.read(found)
    if gradient.dtype != dtype:
        raise TypeError(f"the gradient is {gradient.dtype}, not {dtype}")
    if not np.isfinite(gradient).all():
        raise ValueError("the gradient is not finite")
    error = None if contender.key.startswith("adaptode-local") else workload.error(gradient)  # of a loss with a penalty in it
    more: dict[str, Row] = {"gradient": {"loss": loss, "error": error}, "forward": {}}
    if forward:
        began = time.perf_counter()
        outputs = case.forward()
        first["forward"] = time.perf_counter() - began
        if case.outputs(outputs).dtype != dtype:
            raise TypeError(f"the outputs are {case.outputs(outputs).dtype}, not {dtype}")
    work = case.work()
    for op, row in more.items():
        row |= {"nfe": work, "first": first.get(op)}
    return case, more
