"""Bytes that a gradient costs, by each adjoint and for each way to keep states: predicted from the sizes, and measured."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..loop import stage_rows
from ..solution import Run
from .continuous import backsolve, interpolating
from .discrete import discrete
from .forward import forward
from .gradient import Gradient, again, check_run


class MemoryRow(NamedTuple):
    """One mode: bytes that the run keeps for it, and that the gradient takes on top at its peak; measured: both together, or None."""

    mode: str
    run: int
    gradient: int
    measured: int | None = None

    @property
    def predicted(self) -> int:
        return self.run + self.gradient


class MemoryReport(NamedTuple):
    """The rows, and what they hold for; str() is a table."""

    title: str
    rows: tuple[MemoryRow, ...]

    def __getitem__(self, mode: Any) -> Any:
        """The row of a mode by its name."""
        if not isinstance(mode, str):
            return tuple.__getitem__(self, mode)
        for row in self.rows:
            if row.mode == mode:
                return row
        raise KeyError(f"{mode!r}; there are {', '.join(repr(row.mode) for row in self.rows)}")

    def __str__(self) -> str:
        width = max(len(row.mode) for row in self.rows)
        lines = [self.title, f"  {'mode':{width}}  {'run keeps':>10}  {'gradient':>10}  {'predicted':>10}  {'measured':>10}"]
        for row in self.rows:
            measured = "" if row.measured is None else _bytes(row.measured)
            lines.append(f"  {row.mode:{width}}  {_bytes(row.run):>10}  {_bytes(row.gradient):>10}  {_bytes(row.predicted):>10}  {measured:>10}".rstrip())
        return "\n".join(lines)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


class _Mode(NamedTuple):
    name: str
    keep: str | int
    gradient: Callable[[Run, Any], Gradient]
    bytes: int


def memory_report(run: Run, *, every: int | None = None, budget: int | None = None, measure: bool = False) -> MemoryReport:
    """What the gradient of run.y1 costs in memory, a row a mode.

    run       of `solve`, successful: its batch, steps, method and dtype are those of the report
    every     distance of the checkpoints of the mode "discrete, checkpoints"; None: about the root of the number of steps
    budget    bytes of the mode "discrete, budget"; None: as many states as the number of steps has binary digits
    measure   solves again in every mode, and takes its gradient, under tracemalloc: some solves, and slower ones

    Predictions count arrays of N = B n, P and what the field keeps a stage; measured are the blocks that Python hands out, NumPy's arrays among them. Neither
    counts what a user's function allocates inside, nor the log of attempts. A solve itself takes up to twice what its run keeps while it puts states together.
    `quadrature` is not in the table: it holds as many steps of its own as a tenth of a second makes.
    """
    check_run(run, "memory_report")
    if run.grid.size < 2:
        raise InputError("memory_report needs a run that made steps")
    m = run.grid.size - 1
    every = max(1, math.isqrt(m)) if every is None else every
    budget = run.start.nbytes * m.bit_length() if budget is None else budget
    sizes = _Sizes(run)
    snapshots = min(m, 1 + budget // run.start.nbytes)
    modes = [
        _Mode("discrete, states", "states", lambda r, bar: discrete(r, bar), sizes.walk()),
        _Mode("discrete, stages", "stages", lambda r, bar: discrete(r, bar), sizes.walk()),
        _Mode("discrete, checkpoints", every, lambda r, bar: discrete(r, bar), sizes.walk(sizes.retrace(min(every, m)))),
        _Mode("discrete, budget", "none", lambda r, bar: discrete(r, bar, budget=budget), sizes.walk(sizes.retrace(snapshots))),
        _Mode("backsolve", "none", lambda r, bar: backsolve(r, bar), sizes.solve(2 * sizes.N + sizes.P)),
        _Mode("interpolating", "states", lambda r, bar: interpolating(r, bar), sizes.solve(sizes.N + sizes.P) + sizes.path(m)),
        _Mode("forward", "none", lambda r, bar: forward(r, bar), sizes.tangents()),
    ]
    rows = tuple(MemoryRow(mode.name, sizes.kept(mode.keep, m), mode.bytes, _measured(run, mode) if measure else None) for mode in modes)
    batch, n = run.end.shape
    return MemoryReport(f"{run.method.name}, {m} steps, batch {batch}, n = {n}, {sizes.P} parameters, {run.end.dtype}", rows)


class _Sizes:
    """Bytes of the parts; N, P and the others are numbers of elements; n_stepped and p_stepped those of the coordinates in which the run was solved."""

    def __init__(self, run: Run) -> None:
        tab, field = run.method, run.field
        self.run, self.item, self.N, self.P = run, run.end.itemsize, run.end.size, field.n_params
        self.s, self.S, self.estimates, self.rows = tab.stages, tab.stages + tab.extra_stages, tab.estimates, stage_rows(tab)
        bound = field.bind(run.theta, run.end.shape[0], run.end.dtype)
        self.R = bound.kept
        hidden = run.coordinates
        self.n_stepped, self.p_stepped = run.start.size, self.P if hidden is None else hidden.n_params
        # in hidden coordinates: z̄₀ W₁ᵀ, θ̄ and what is added to Ŵ̄ in the end; what the run keeps of θ and y₀ W₁
        stepped = bound if hidden is None else hidden.bind()
        self.r_stepped, self.end, self.shared = stepped.kept, 0, 0
        if hidden is not None:
            self.end = self.N + 2 * hidden.weights.size + self.P
            self.shared = hidden.n_params + hidden.shape[1] ** 2
        self.work = sum(a.nbytes for a in bound.pack if isinstance(a, np.ndarray) and a is not run.theta) if isinstance(bound.pack, tuple) else run.theta.nbytes

    def kept(self, keep: str | int, m: int) -> int:
        """What a run keeps: states, y0, y1, its own θ."""
        states = {"states": m + 1, "stages": m + 1 + m * self.s, "none": 2}.get(keep) if isinstance(keep, str) else -(-m // keep) + 1
        return self.item * (states * self.n_stepped + 2 * self.N + self.P + self.shared)

    def walk(self, before: int = 0) -> int:
        """`Walk`: stages, their states and cotangents, what the field keeps; one cotangent. before: bytes that are free again in the end."""
        rows = (3 * self.S + 6 + 2 * self.estimates) * self.n_stepped + self.S * self.r_stepped
        return self.item * (rows + self.p_stepped) + self.work + max(before, self.item * self.end)

    def retrace(self, states: int) -> int:
        """`Retrace`, the states computed again with both ends, and the one handed on."""
        return self.item * (states + 2 + 2 + self.estimates + self.rows + self.S) * self.n_stepped

    def solve(self, Z: int) -> int:
        """A solve backwards of Z numbers, with two tolerances each, the copies for and from its right-hand side."""
        return self.item * (4 + 2 + self.estimates + self.rows + self.S) * Z + 2 * 8 * Z + self.item * (3 * self.N + self.R) + 8 * self.N + self.work

    def path(self, m: int) -> int:
        """Stages of some steps, and where the run was solved in hidden coordinates, its states themselves."""
        lifted = 0 if self.run.coordinates is None else m + 1
        return self.item * (2 + 4 * self.S + lifted) * self.N

    def tangents(self) -> int:
        """`forward`: K̇, and the tangents at both ends of a step, of a stage and of its slope."""
        run = self.run
        n, directions = run.field.n, run.field.n + self.P + 2
        return self.item * ((self.S + 4) * self.N * directions + (2 * self.S + 4) * self.N + self.N * (n + self.P) + self.R) + self.work


def _measured(run: Run, mode: _Mode) -> int:
    """Peak bytes of the run kept and its gradient."""
    bar = np.ones_like(run.end)
    once = again(run, run.y0, run.tspan, keep=mode.keep)
    mode.gradient(once, bar)  # compiles, and fills caches
    del once
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = again(run, run.y0, run.tspan, keep=mode.keep)
        tracemalloc.reset_peak()
        mode.gradient(kept, bar)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not tracing:
            tracemalloc.stop()
