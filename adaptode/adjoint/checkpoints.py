"""States computed again: from the nearest checkpoint forwards, on the accepted grid, to the same bits.

A run that kept every k-th state is walked home segment by segment: the k states of one are computed again from its checkpoint, m − m/k steps in all.
Under a budget of c − 1 states besides the one a segment begins with, checkpoints are placed and given up by the binomial schedule [GW00], which needs the
fewest repeated steps of all: with β(c, r) = (c + r choose c) and r the number for which β(c, r − 1) < m <= β(c, r),

(1)  t(m, c) = r m − β(c + 1, r − 1)
(2)  t(m, c) = min_l  l + t(m − l, c − 1) + t(l, c):     the next checkpoint after l steps;   t(m, c) = m − 1 where m <= c,   t(m, 1) = m (m − 1)/2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..control import HAIRER_PI
from ..errors import InputError, SolveError
from ..fields.protocol import Array, Bound
from ..integration import Integration
from ..loop import FRESH, STATUS, H, T
from ..solution import RUNNING, Run


class Part(NamedTuple):
    """Some steps of a run, from number `first` on: states (k + 1, N), stages (k, s, N) or (0, s, N), and the evaluations that these took."""

    first: int
    states: Array
    stages: Array
    evaluations: int


def repeated_steps(steps: int, snapshots: int) -> int:
    """t(m, c), equation (1): the fewest steps that a walk home must compute again, the state at the start being one of the snapshots."""
    r = _repeats(steps, snapshots)
    return r * steps - math.comb(snapshots + r, snapshots + 1) if steps > 0 else 0


def _repeats(steps: int, snapshots: int) -> int:
    """The smallest r with m <= β(c, r)."""
    r = 0
    while math.comb(snapshots + r, snapshots) < steps:
        r += 1
    return r


def _split(steps: int, snapshots: int) -> int:
    """An l that attains the minimum (2)."""
    r = _repeats(steps, snapshots)
    return min(math.comb(snapshots + r - 1, snapshots), steps - math.comb(snapshots + r - 2, snapshots - 1))


class Segment(NamedTuple):
    """Steps first … last − 1. whole: computed again with all their states, and then walked home; else only the state at `last` is wanted, as a snapshot."""

    first: int
    last: int
    whole: bool


def schedule(steps: int, snapshots: int) -> Iterator[Segment]:
    """What to compute, in order. There are never more states than snapshots asked for (the start is one) and the one at hand."""
    pending = [(0, steps, snapshots)]
    while pending:
        a, b, c = pending.pop()
        if b - a <= c:
            yield Segment(a, b, True)
        elif c == 1:
            for n in range(b - 1, a - 1, -1):
                if n > a:
                    yield Segment(a, n, False)
                yield Segment(n, n + 1, True)
        else:
            middle = a + _split(b - a, c)
            yield Segment(a, middle, False)
            pending += [(a, middle, c), (middle, b, c - 1)]


class Retrace:
    """The accepted steps of a run once more, by the loop that made them, so that every bit is the same."""

    def __init__(self, run: Run, bound: Bound) -> None:
        tolerances, y0 = (run.atol, run.rtol), run.y0.ravel()
        no_limit = {"saveat": np.empty(0), "max_step": math.inf, "max_steps": 2**62, "keep": frozenset()}
        self.run, self.bound = run, bound
        self.integration = Integration(bound, y0, run.tspan, run.method, HAIRER_PI, tolerances, **no_limit)
        self.store = self.integration.new_store(1)
        self.evaluations, self.error = 0, run.accepted("error")

    def forward(self, state: Array, first: int, last: int, out: Array) -> None:
        """From the state (N,) at the accepted time number `first` to number `last`: out (k, N) receives the last k states."""
        now, grid = self.integration.state, self.run.grid
        now.y[:] = state
        before = self.integration.nfev
        t = grid[first]
        if self.run.method.fsal and first > 0:  # as it was evaluated: at t + h of the step before, which may miss the accepted time by a bit
            t = grid[first - 1] + (grid[first] - grid[first - 1])
        self.bound.value(float(t), now.y, self.bound.pack, now.K[0])
        now.count[FRESH] = 1
        now.clock[T] = grid[first]
        for n in range(first, last):
            end = grid[n + 1]
            self.integration.span = self.integration.span._replace(end=float(end), direction=1.0 if end > grid[n] else -1.0)
            now.clock[H], now.count[STATUS] = math.inf, RUNNING
            self.integration.enter(self.store, 1)
            if now.clock[T] != end or abs(self.store.error[0] - self.error[n]) > 1e-3:
                raise SolveError(f"the step from t = {grid[n]:.9g} comes out otherwise when it is computed again: is the field random?", self.run)
            if last - n <= len(out):
                out[len(out) - (last - n)] = now.y
        self.evaluations += self.integration.nfev - before + 1


def check_parts(run: Run, budget: int | None) -> Callable[[Bound], Iterator[Part]]:
    """The parts of a run on its way home, for its bound field; InputError where there is nothing to compute states from."""
    size = run.end.size
    if run.states is not None:
        none = np.empty((0, run.method.stages, size), run.end.dtype)
        stages = none if run.stages is None else run.stages
        return lambda bound: iter([Part(0, run.states.reshape(-1, size), stages, 0)])  # type: ignore[union-attr]
    assert run.checkpoints is not None
    snapshots = None
    if budget is not None:
        if not isinstance(budget, (int, np.integer, float)) or not budget >= run.end.nbytes:
            raise InputError(f"budget must be a number of bytes, at least those of one state, {run.end.nbytes}; got {budget!r}")
        snapshots = 1 + int(budget // run.end.nbytes)
    elif run.checkpoints.every == 0:
        run.require_states("the discrete adjoint without a budget for computing them again")
    return lambda bound: _computed_again(run, bound, snapshots)


def _computed_again(run: Run, bound: Bound, snapshots: int | None) -> Iterator[Part]:
    index, kept = run.checkpoints.index, run.checkpoints.states.reshape(-1, run.end.size)  # type: ignore[union-attr]
    retrace, none = Retrace(run, bound), np.empty((0, run.method.stages, run.end.size), run.end.dtype)
    after, told = kept[-1], 0  # the state at the end of what comes next; evaluations reported
    for i in range(len(index) - 2, -1, -1):
        base, length = int(index[i]), int(index[i + 1] - index[i])
        states = {0: kept[i]}
        for a, b, whole in schedule(length, length if snapshots is None else snapshots):
            if not whole:
                states[b] = np.empty_like(after)
                retrace.forward(states[a], base + a, base + b, states[b][None])
                continue
            part = np.empty((b - a + 1, run.end.size), run.end.dtype)
            part[0], part[-1] = states[a], after
            if b - a > 1:
                retrace.forward(part[0], base + a, base + b - 1, part[1:-1])
            yield Part(base + a, part, none, retrace.evaluations - told)
            told, after = retrace.evaluations, part[0].copy()
            del part  # before there is another
            if a:
                del states[a]
