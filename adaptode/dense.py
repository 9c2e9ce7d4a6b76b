"""Between the steps: the method's continuous extension, and its transpose.

y(t + θ h) = y₀ + h Σ w_i(θ) K_i,   w(θ) = θ²(3 − 2θ) b + θ²(θ−1)² p₄ + θ(θ−1)² e₁ + θ²(θ−1) e_s          [Sha86; Tsi11]

The same polynomial as each method's published one, written so that it is exact at both ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._jit import kernel
from .errors import InputError
from .step import bound_stages, combine

if TYPE_CHECKING:
    from .fields.protocol import Array
    from .solution import Run


@kernel
def dense_weights(tab, theta):
    """w(θ), shape (s,)."""
    s = tab.b.size
    w = np.empty(s)
    cubic, bump = theta * theta * (3.0 - 2.0 * theta), (theta * (theta - 1.0)) ** 2
    for i in range(s):
        w[i] = cubic * tab.b[i] + bump * tab.p4[i]
    w[0] += theta * (theta - 1.0) ** 2
    w[s - 1] += theta * theta * (theta - 1.0)
    return w


@kernel
def dense_state(tab, theta, h, y0, y1, K, out):
    """The state at the fraction θ of a step from y0 to y1; exactly y1 at θ = 1 and y0 at 0."""
    if theta == 1.0:
        out[:] = y1
    else:
        combine(y0, h, dense_weights(tab, theta), K, tab.b.size, out)


def _times(t: Any) -> Array:
    try:
        return np.asarray(t, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"times must be numbers; got {t!r}") from None


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
    states = run.require_states("dense output")
    times = np.atleast_1d(_times(t))
    steps = locate(run, times)
    out = np.empty((times.size, *states.shape[1:]), states.dtype)
    if run.grid.size == 1:
        out[:] = states[0]
        return out[0] if np.ndim(t) == 0 else out
    bound = run.field.bind(run.theta, states.shape[1], states.dtype)
    tab = run.method.coefficients(states.dtype)
    s, size = tab.b.size, states[0].size
    K, Y = np.empty((s, size), states.dtype), np.empty((min(2, s), size), states.dtype)
    for i in np.unique(steps):
        t0, h, y0 = run.grid[i], run.grid[i + 1] - run.grid[i], states[i].ravel()
        bound_stages(bound, tab, t0, h, y0, 0, s, Y, K)
        for k in np.flatnonzero(steps == i):
            dense_state(tab, (times[k] - t0) / h, h, y0, states[i + 1].ravel(), K, out[k].reshape(-1))
    return out[0] if np.ndim(t) == 0 else out
