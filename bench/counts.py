"""What a gradient of each workload of `bench train` counts, on any machine: evaluations, steps, operations of matrix products, blocks of memory.

CI compares with bench/counts.json: a change that makes work fails there, where seconds would tell too late or wrongly. `--write` stores the counts anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numba.core.runtime import _nrt_python, rtsys

from adaptode.control import get_controller
from adaptode.experiments.report import open_folder, table, write_text
from adaptode.fields.hidden import HiddenCoordinates
from adaptode.integration import Integration

from . import floor, record
from .workloads import WORKLOADS, Workload

STORED = Path(__file__).with_name("counts.json")
FEW, MORE = 4, 8  # attempts of which the blocks of memory are compared


def count(workload: Workload, dtype: str, tolerance: float) -> dict[str, Any]:
    """One row.

    nfev, attempts, accepted   of the forward solve           backward   evaluations and pullbacks of the discrete adjoint
    gemm                       operations of the matrix products of forward solve and gradient, in millions
    blocks                     of memory that compiled code takes for an attempt
    """
    X, y = workload.data
    objective, params = workload.objective(dtype, tolerance), workload.params.astype(dtype)
    run = objective.solve(params, X)
    accepted = int(run.steps.accepted.sum())
    evaluation = objective.value_and_grad(params, X, y, rng=np.random.default_rng(0))
    work = floor.count(workload, run.nfev, run.steps.t.size, accepted, run.coordinates is not None, gradient=True)
    about = {"workload": workload.key, "dtype": dtype, "tolerance": tolerance}
    counts = {"nfev": run.nfev, "attempts": run.steps.t.size, "accepted": accepted, "backward": evaluation.nfe_backward}
    return about | counts | {"gemm": round(work.flops / 1e6, 3), "blocks": _blocks(run)}


def _blocks(run: Any) -> float:
    hidden = run.coordinates
    hidden = hidden if hidden is None else HiddenCoordinates(run.field, run.theta, run.y0)
    bound = run.bind() if hidden is None else hidden.bind()
    tolerances = run.atol, run.rtol
    options = {"saveat": np.array([1e6]), "max_step": 1e-3, "max_steps": 100, "keep": frozenset({"states"})}
    solve = Integration(bound, run.start, (0.0, 1e6), run.method, get_controller(None), tolerances, **options)
    solve.team = None
    solve.start(None)
    store, taken = solve.new_store(MORE), []
    solve.enter(store, 1)
    _nrt_python.memsys_enable_stats()
    try:
        for attempts in (FEW, MORE):
            before = rtsys.get_allocation_stats().alloc
            solve.enter(store, attempts)
            taken.append(rtsys.get_allocation_stats().alloc - before)
    finally:
        _nrt_python.memsys_disable_stats()
    return (taken[1] - taken[0]) / (MORE - FEW)


def rows() -> list[dict[str, Any]]:
    """Of every workload without penalty, in float64."""
    return [count(w, "float64", tolerance) for w in WORKLOADS.values() if not w.penalty for tolerance in w.tolerances]


def run(out: str, *, write: bool = False, command: str = "") -> str:
    """Counts, compares, and writes the report; the stored counts too, if asked."""
    folder, found = open_folder(out), rows()
    if write:
        write_text(STORED, "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in found) + "\n]\n")
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    head = record.header(command, {})
    record.write(folder, head, found)
    lines = [[str(value) for value in row.values()] for row in found]
    other = [row["workload"] for row in found if row not in stored]
    same = [("the counts are those stored in bench/counts.json", not other, ", ".join(other) or "none differs")]
    parts = ["# Counts", record.setting(head), __doc__, table(list(found[0]), lines), "## Targets\n\n" + record.targets(same)]
    text = record.markdown(parts)
    write_text(folder / record.REPORT, text)
    return text
