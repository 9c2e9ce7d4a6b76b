"""Between the steps: the method's continuous extension, and its transpose.

y(t + θ h) = y₀ + h Σ w_i(θ) K_i                                                                    [Sha86; Tsi11; HNW93, II.6]
w(θ) = θ²(3 − 2θ) b + θ(θ−1)² E₁ + θ²(θ−1) E_s + θ²(θ−1)² (D₀ + θ (D₁ + (1−θ) (D₂ + θ (D₃ + …))))

The same polynomial as each method's published one, written so that it is exact at both ends. A method with extra stages (DOP853: three) evaluates them
only for a step in which the solution between the ends is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._jit import kernel
from .combine import combine
from .errors import InputError
from .step import bound_stages

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .fields.protocol import Array, Bound
    from .solution import Run
    from .tableau import Coefficients, Tableau


@kernel
def dense_weights(tab, theta):
    """w(θ), shape (S,), the extra stages last."""
    s, rows, total = tab.b.size, tab.dense.shape[0], tab.dense.shape[1]
    w = np.empty(total)
    cubic, bump = theta * theta * (3.0 - 2.0 * theta), (theta * (theta - 1.0)) ** 2
    for i in range(s):
        w[i] = cubic * tab.b[i] + bump * tab.dense[0, i]
    for i in range(s, total):
        w[i] = bump * tab.dense[0, i]
    for k in range(1, rows):
        bump *= theta if k % 2 == 1 else 1.0 - theta
        for i in range(total):
            w[i] += bump * tab.dense[k, i]
    w[0] += theta * (theta - 1.0) ** 2
    w[s - 1] += theta * theta * (theta - 1.0)
    return w


@kernel
def dense_state(tab, theta, h, y0, y1, K, out):
    """The state at the fraction θ of a step from y0 to y1; exactly y1 at θ = 1 and y0 at 0. K has all S stages unless θ = 1."""
    if theta == 1.0:
        for e in range(y1.size):
            out[e] = y1[e]
    else:
        combine(y0, h, dense_weights(tab, theta), 0, K, tab.c.size, out, 0)


def _times(t: Any) -> Array:
    try:
        return np.asarray(t, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"times must be numbers; got {t!r}") from None


@kernel
def _evaluate_at(tab, times, direction, ts, widths, states, ends, stages, out):
    """`dense_state` at times in any order, each in the step that ends at it or after it; the outermost steps go on beyond the ends."""
    segments = widths.size
    for k in range(times.size):
        low, high = 0, segments - 1  # the first step that ends at t or after
        while low < high:
            middle = (low + high) // 2
            if direction * ts[middle + 1] < direction * times[k]:
                low = middle + 1
            else:
                high = middle
        h = widths[low]
        theta = (times[k] - ts[low]) / h if h != 0.0 else 1.0
        dense_state(tab, theta, h, states[low], ends[low + 1], stages[low], out[k])


def locate(run: Run, t: Any) -> Array:
    """Index of the accepted step that contains each time: grid[i] < t <= grid[i + 1] in the direction of integration, 0 at the start."""
    t = _times(t)
    direction = 1.0 if run.tspan[1] >= run.tspan[0] else -1.0
    grid = direction * run.grid
    inside = (direction * t >= grid[0]) & (direction * t <= grid[-1])
    if not np.all(inside):
        raise InputError(f"t = {np.atleast_1d(t)[~np.atleast_1d(inside)][0]:g} is outside the solved span [{run.grid[0]:g}, {run.grid[-1]:g}]")
    return np.clip(np.searchsorted(grid, direction * t, side="left") - 1, 0, max(grid.size - 2, 0))


def evaluate(run: Run, t: Any) -> Array:
    """The states at times t from the accepted states, recomputing the stages of each step that is needed."""
    states = run.seen(evaluate_stepped(run, np.atleast_1d(_times(t))))
    return states[0] if np.ndim(t) == 0 else states


def evaluate_stepped(run: Run, times: Array) -> Array:
    """`evaluate` of the numbers that were stepped, (k, N), at times (k,)."""
    kept = run.require_kept("dense output")
    steps = locate(run, times)
    out = np.empty((times.size, kept.shape[1]), kept.dtype)
    if run.grid.size == 1:
        out[:] = kept[0]
        return out
    bound, tab = run.bind(), run.method.coefficients(kept.dtype)
    for i in np.unique(steps):
        t0, h, which = run.grid[i], run.grid[i + 1] - run.grid[i], np.flatnonzero(steps == i)
        out[which] = inside(bound, tab, t0, h, kept[i], kept[i + 1], (times[which] - t0) / h)
    return out


def inside(bound: Bound, tab: Coefficients, t0: float, h: float, y0: Array, y1: Array, fractions: Array) -> Array:
    """The states (k, N) at fractions of one step, its stages computed again."""
    s, size = tab.c.size, y0.size
    K, Y, out = np.empty((s, size), y0.dtype), np.empty((min(2, s), size), y0.dtype), np.empty((fractions.size, size), y0.dtype)
    bound_stages(bound, tab, t0, h, y0, 0, s, Y, K)
    for k, fraction in enumerate(fractions):
        dense_state(tab, fraction, h, y0, y1, K, out[k])
    return out


class DenseSolution:
    """The solution of one system between its first and its last time, from what its steps left; what SciPy calls OdeSolution.

    ts (m + 1,) accepted times, states (m + 1, n), stages (m, S, n) with those of the continuous extension. Beyond the ends the outermost step's polynomial
    goes on, as in SciPy. `cut`: (state, time) at the true end of the last step where the solution ends within it.
    """

    def __init__(self, method: Tableau, ts: Array, states: Array, stages: Array, cut: tuple[Array, float] | None = None) -> None:
        self.method, self.ts, self.states, self.stages = method, ts, states, stages
        self.ends = states if cut is None else np.concatenate([states[:-1], cut[0][None]])
        self.widths = np.diff(ts if cut is None else np.append(ts[:-1], cut[1]))

    @property
    def t_min(self) -> float:
        return float(min(self.ts[0], self.ts[-1]))

    @property
    def t_max(self) -> float:
        return float(max(self.ts[0], self.ts[-1]))

    @property
    def n_segments(self) -> int:
        return self.ts.size - 1

    def __call__(self, t: ArrayLike) -> Array:
        """The states: (n,) at a scalar time, (n, k) at times (k,) in any order."""
        t = np.asarray(t, dtype=np.float64)
        if t.ndim > 1:
            raise InputError(f"`t` must be a float or a 1-D array; got shape {t.shape}")
        times, direction = np.atleast_1d(t), 1.0 if self.ts[-1] >= self.ts[0] else -1.0
        out = np.empty((times.size, self.states.shape[1]), self.states.dtype)
        _evaluate_at(self.method.coefficients(out.dtype), times, direction, self.ts, self.widths, self.states, self.ends, self.stages, out)
        return out[0] if t.ndim == 0 else out.T

    def within(self, step: int, theta: Array) -> Array:
        """The states (k, n) at fractions theta (k,) of one step."""
        return self.within_steps(step, step + 1, theta)[0]

    def within_steps(self, first: int, last: int, theta: Array) -> Array:
        """The states (last − first, k, n) at fractions theta (k,) of each of some steps."""
        W, h = self.method.weights(theta), self.widths[first:last]
        return self.states[first:last, None] + h[:, None, None] * np.matmul(W, self.stages[first:last])
