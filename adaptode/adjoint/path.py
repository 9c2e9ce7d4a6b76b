"""The states of a run at any time, for the adjoints that are differential equations themselves and ask for y(t) wherever their own steps take them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..dense import dense_state
from ..errors import InputError
from ..fields.protocol import Array, Bound
from ..solution import Run
from ..solver import solve
from ..step import bound_stages

_STEPS, _SEGMENTS = 4, 2  # held at a time: an attempt of the adjoint looks at few steps of the run, and one that is rejected at the same again


class Path:
    """y(t) by the dense output of a run with its states; the stages of the steps visited last are held, so that each is evaluated about once.

    evaluations   of the field, so far
    """

    def __init__(self, run: Run, bound: Bound) -> None:
        self.run, self.bound, self.evaluations = run, bound, 0
        self.states = run.require_states("the path of the states").reshape(run.grid.size, -1)
        self.tab = run.method.coefficients(self.states.dtype)
        self.grid, self.sign = run.grid.tolist(), 1.0 if run.tspan[1] >= run.tspan[0] else -1.0
        self._ordered = [self.sign * t for t in self.grid]
        self._Y = np.empty((2, self.states.shape[1]), self.states.dtype)
        self._held: dict[int, Array] = {}

    def __call__(self, t: float, out: Array) -> None:
        """out (N,) = y(t); beyond the ends the outermost step's polynomial goes on."""
        i = min(max(bisect_left(self._ordered, self.sign * t) - 1, 0), len(self.grid) - 2)
        h = self.grid[i + 1] - self.grid[i]
        dense_state(self.tab, (t - self.grid[i]) / h, h, self.states[i], self.states[i + 1], self._stages(i), out)

    def _stages(self, i: int) -> Array:
        """The stages (S, N) of step i, with those of the continuous extension."""
        K = self._held.pop(i, None)
        if K is None:
            s, total = self.tab.b.size, self.tab.c.size
            K = np.empty((total, self._Y.shape[1]), self._Y.dtype) if len(self._held) < _STEPS else self._held.pop(next(iter(self._held)))
            first = 0
            if self.run.stages is not None:
                K[:s], first = self.run.stages[i], s
            bound_stages(self.bound, self.tab, self.grid[i], self.grid[i + 1] - self.grid[i], self.states[i], first, total, self._Y, K)
            self.evaluations += total - first
        self._held[i] = K  # the last one in is the last one out
        return K

    def breaks(self, start: float, end: float) -> Iterator[float]:
        """The accepted times strictly between two times, from `start`, the later one in the direction of the run, back to `end`."""
        low, high = bisect_right(self._ordered, self.sign * end), bisect_left(self._ordered, self.sign * start)
        yield from reversed(self.grid[low:high])


class CheckpointedPath:
    """y(t) from few states: from one to the next the run is solved again where y is asked for, and the segments visited last are held.

    times (k + 1,)   of the checkpoints and of the end, in the order of the run; states (k, B, n)
    """

    def __init__(self, run: Run, bound: Bound, times: Array, states: Array, spent: int = 0) -> None:
        self.run, self.bound, self.times, self.states = run, bound, times.tolist(), states
        self.sign = 1.0 if times[-1] >= times[0] else -1.0
        self._ordered = [self.sign * t for t in self.times]
        self._spent = spent
        self._held: dict[int, Path] = {}

    @property
    def evaluations(self) -> int:
        return self._spent + sum(path.evaluations for path in self._held.values())

    def __call__(self, t: float, out: Array) -> None:
        self._segment(min(max(bisect_left(self._ordered, self.sign * t) - 1, 0), len(self.times) - 2))(t, out)

    def _segment(self, j: int) -> Path:
        path = self._held.pop(j, None)
        if path is None:
            if len(self._held) == _SEGMENTS:
                self._spent += self._held.pop(next(iter(self._held))).evaluations
            segment = again(self.run, self.states[j], (self.times[j], self.times[j + 1]), keep="states").require_success()
            self._spent += segment.nfev
            path = Path(segment, self.bound)
        self._held[j] = path
        return path

    def breaks(self, start: float, end: float) -> Iterator[float]:
        low, high = bisect_right(self._ordered, self.sign * end) - 1, bisect_left(self._ordered, self.sign * start) - 1
        for j in range(min(high, len(self.times) - 2), max(low, 0) - 1, -1):
            yield from self._segment(j).breaks(start if self.sign * start < self._ordered[j + 1] else self.times[j + 1], end)


def again(run: Run, y0: Array, tspan: tuple[float, float], **options: Any) -> Run:
    """A part of a run, solved once more from y0 with its method and tolerances."""
    batch, n = y0.shape
    atol, rtol = (x if x.size == 1 else x.reshape(batch, n)[0] for x in (run.atol, run.rtol))
    first = None if run.method.adaptive else own_step(run)
    return solve(
        run.field, run.theta, y0, tspan, method=run.method, rtol=rtol, atol=atol, first_step=first, max_steps=1000 + 10 * len(run.steps), **options
    )


def own_step(run: Run) -> float:
    """The step of a run with fixed ones."""
    return abs(float(run.steps.h[0]))


def path_of(run: Run, bound: Bound, checkpoints: int | str | None) -> Path | CheckpointedPath:
    """The path of a run from its states (None), from k states found by solving once more (k), or from its outputs ("outputs")."""
    if checkpoints is None:
        return Path(run, bound)
    t0, t1 = run.tspan
    if isinstance(checkpoints, str) and checkpoints == "outputs":
        times, states, spent = np.append(t0, run.t), np.concatenate([run.y0[None], run.y]), 0
    elif isinstance(checkpoints, (int, np.integer)) and not isinstance(checkpoints, bool) and checkpoints > 0:
        times = t0 + (t1 - t0) / checkpoints * np.arange(checkpoints)
        pass_ = again(run, run.y0, run.tspan, saveat=times, keep="none").require_success() if checkpoints > 1 else None
        states, spent = (run.y0[None], 0) if pass_ is None else (pass_.y, pass_.nfev)
    else:
        raise InputError(f'checkpoints must be a positive number of states to keep, "outputs", or None for the states of the run; got {checkpoints!r}')
    distinct = np.append(True, np.diff(times) != 0) & (times != t1)
    return CheckpointedPath(run, bound, np.append(times[distinct], t1), states[distinct], spent)
