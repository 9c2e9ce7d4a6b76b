"""The norms of a step in hidden coordinates, taken of the state itself.

With α the state that is stepped and y = y₀ + α Ŵ (`fields.hidden`), after the stages:

(1)  y₁ = y₀ + α₁ Ŵ,   err = err_α Ŵ,   q of `step.scaled_error`: two products with Ŵ an attempt, three where the estimate is made of two
(2)  S = ‖(K_j − K_i) Ŵ‖ / (‖(Y_j − Y_i) Ŵ‖ C),   ‖D Ŵ‖ = ‖D Rᵀ‖ with Ŵᵀ = Q R
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import kernel
from .step import end_state, error_vector, pair_rows, scaled_error


@kernel
def lifted_state(lift, a):
    """The number of the row of lift.states that holds y₀ + a Ŵ; made there unless it is one of the two made last."""
    for k in range(2):
        same = True
        for e in range(a.size):
            if a[e] != lift.at[k, e]:
                same = False
                break
        if same:
            return k
    k = 1 - lift.newest[0]
    lift.newest[0] = k
    lift.at[k] = a
    y = lift.states[k]
    lifted(lift, a, y)
    base = lift.base.reshape(y.size)
    for e in range(y.size):
        y[e] += base[e]
    return k


@kernel
def lifted(lift, a, out):
    """out = a Ŵ, flat."""
    batch, n = lift.base.shape
    np.dot(a.reshape(batch, lift.weights.shape[0]), lift.weights, out.reshape(batch, n))


@kernel
def hidden_measure(pack, tab, h, a0, K, Y, atol, rtol, a1, err):
    """Equations (1) and (2), in the place of `step.finish`; err stays in hidden coordinates."""
    lift = pack[2]
    end_state(tab, h, a0, K, Y, a1)
    error_vector(tab, h, a0, K, err)
    size, small = lift.base.size, a0.size
    before = lifted_state(lift, a0)
    lift.newest[0] = before  # the other one is to be overwritten
    after = lifted_state(lift, a1)
    parts = err.size // small
    for part in range(parts):
        lifted(lift, err[part * small : (part + 1) * small], lift.err[part * size : (part + 1) * size])
    q = scaled_error(tab, lift.err[: parts * size], lift.states[before], lift.states[after], atol, rtol)
    stiffness = np.nan
    if tab.pair_i >= 0:
        i, j = pair_rows(tab, Y)
        n_d = _lifted_norm(lift, K, tab.pair_j, tab.pair_i)
        n_g = _lifted_norm(lift, Y, j, i)
        stiffness = n_d / (n_g * tab.constant) if n_g > 0.0 else 0.0
    return q, stiffness


@kernel
def _lifted_norm(lift, A, i, j):
    """Root mean square of (Aᵢ − Aⱼ) Ŵ by the small triangle."""
    batch, m = lift.base.shape[0], lift.weights.shape[0]
    for e in range(lift.pair.size):
        lift.pair[e] = A[i, e] - A[j, e]
    product = np.dot(lift.pair.reshape(batch, m), lift.factor)
    flat = product.reshape(product.size)
    total = 0.0
    for e in range(flat.size):
        total += np.float64(flat[e]) * flat[e]
    return math.sqrt(total / lift.base.size)
