"""The states of a run at any time, for the adjoints that are differential equations themselves and ask for y(t) wherever their own steps take them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, TypeVar

import numpy as np

from ..dense import dense_state
from ..errors import InputError
from ..fields.protocol import Array, Bound
from ..solution import Run
from ..step import bound_stages
from .checkpoints import Retrace

_STEPS, _SEGMENTS = 4, 2  # held at a time: an attempt of the adjoint looks at few steps of the run, and one that is rejected at the same again

_T = TypeVar("_T")


class Path:
    """y(t) by a run's dense output; states that it did not keep are computed again from the checkpoint before them, to the same bits.

    The stages of the steps visited last are held, so that each is evaluated about once on the way home, and so are the states between two checkpoints.

    evaluations   of the field, so far
    """

    def __init__(self, run: Run, bound: Bound, checkpoints: int | None = None) -> None:
        """checkpoints: how many states to hold of a run that kept none; they take its steps once more."""
        self.run, self.bound, self._stage_calls = run, bound, 0
        self.tab = run.method.coefficients(run.end.dtype)
        self.grid, self.sign = run.grid.tolist(), 1.0 if run.tspan[1] >= run.tspan[0] else -1.0
        self._ordered = [self.sign * t for t in self.grid]
        self._Y = np.empty((2, run.end.size), run.end.dtype)
        self._stages_held: dict[int, Array] = {}
        self._states_held: dict[int, Array] = {}
        self._retrace = None
        if run.states is not None:
            self.index, self.kept = list(range(run.grid.size)), run.states.reshape(-1, run.end.size)
            return
        self._retrace = Retrace(run, bound)
        self.index, self.kept = run.checkpoints.index.tolist(), run.checkpoints.states.reshape(-1, run.end.size)  # type: ignore[union-attr]
        if checkpoints is not None and run.checkpoints.every == 0:  # type: ignore[union-attr]
            ends = self.kept
            self.index = sorted({round(i) for i in np.linspace(0, len(self.grid) - 1, checkpoints + 1)})
            self.kept = np.empty((len(self.index), run.end.size), run.end.dtype)
            self.kept[0], self.kept[-1] = ends[0], ends[-1]
            for j in range(1, len(self.index) - 1):
                self._retrace.forward(self.kept[j - 1], self.index[j - 1], self.index[j], self.kept[j : j + 1])

    @property
    def evaluations(self) -> int:
        return self._stage_calls + (0 if self._retrace is None else self._retrace.evaluations)

    def __call__(self, t: float, out: Array) -> None:
        """out (N,) = y(t); beyond the ends the outermost step's polynomial goes on."""
        i = min(max(bisect_left(self._ordered, self.sign * t) - 1, 0), len(self.grid) - 2)
        h = self.grid[i + 1] - self.grid[i]
        y0, y1 = self._states(i)
        dense_state(self.tab, (t - self.grid[i]) / h, h, y0, y1, self._stages(i, h, y0), out)

    def breaks(self, start: float, end: float) -> list[float]:
        """The accepted times strictly between two times, from `start`, the later one in the direction of the run, back to `end`."""
        return self.grid[bisect_right(self._ordered, self.sign * end) : bisect_left(self._ordered, self.sign * start)][::-1]

    def _stages(self, i: int, h: float, y0: Array) -> Array:
        """The stages (S, N) of step i, with those of the continuous extension."""
        K = self._stages_held.pop(i, None)
        if K is None:
            s, total = self.tab.b.size, self.tab.c.size
            K = _oldest(self._stages_held, _STEPS)
            if K is None:
                K = np.empty((total, y0.size), y0.dtype)
            first = 0
            if self.run.stages is not None:
                K[:s], first = self.run.stages[i], s
            bound_stages(self.bound, self.tab, self.grid[i], h, y0, first, total, self._Y, K)
            self._stage_calls += total - first
        self._stages_held[i] = K  # the last one in is the last one out
        return K

    def _states(self, i: int) -> tuple[Array, Array]:
        """The states at both ends of step i."""
        j = bisect_right(self.index, i) - 1
        first, last = self.index[j], self.index[j + 1]
        if last - first == 1:
            return self.kept[j], self.kept[j + 1]
        part = self._states_held.pop(j, None)
        if part is None:
            _oldest(self._states_held, _SEGMENTS)  # its memory is free before there is another
            part = np.empty((last - first + 1, self.kept.shape[1]), self.kept.dtype)
            part[0], part[-1] = self.kept[j : j + 2]
            self._retrace.forward(part[0], first, last - 1, part[1:-1])  # type: ignore[union-attr]
        self._states_held[j] = part
        return part[i - first], part[i - first + 1]


def _oldest(held: dict[int, _T], most: int) -> _T | None:
    """What was used least recently, taken out of a full store."""
    return held.pop(next(iter(held))) if len(held) >= most else None


def check_checkpoints(run: Run, checkpoints: Any, name: str) -> int | None:
    """A number of states to hold, or None; InputError for anything else, and for None where the run kept no states."""
    if checkpoints is None:
        if run.states is None and run.checkpoints.every == 0:  # type: ignore[union-attr]
            raise InputError(
                f'{name} needs states of the run: solve with keep="states" (the default) or keep=k, every k-th, or give checkpoints=k, which holds k and '
                "computes the others again. backsolve needs none"
            )
    elif not isinstance(checkpoints, (int, np.integer)) or isinstance(checkpoints, bool) or checkpoints < 1:
        raise InputError(f"checkpoints must be a positive number of states to hold, or None; got {checkpoints!r}")
    return checkpoints
