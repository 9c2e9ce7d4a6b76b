"""The norms of a step in hidden coordinates, taken of the state itself.

With α the state that is stepped and y = y₀ + α Ŵ (`fields.hidden`), after the stages:

(1)  y₁ = y₀ + α₁ Ŵ,   err = err_α Ŵ,   q of `step.scaled_error`: two products with Ŵ an attempt, three where the estimate is made of two
(2)  S = ‖(K_j − K_i) Ŵ‖ / (‖(Y_j − Y_i) Ŵ‖ C),   ‖D Ŵ‖ = ‖D Rᵀ‖ with Ŵᵀ = Q R

and in the transpose, with x̄ the cotangent of any x = x_α Ŵ of these, and of y₀ + α Ŵ:

(3)  x̄_α += x̄ Ŵᵀ,   Ŵ̄ += x_αᵀ x̄,   ȳ₀ += x̄ for a state
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import kernel
from .combine import is_zero
from .fields.hidden import LIFT_ROWS
from .norms import add_squares, rms_of
from .products import add_outer, product
from .step import end_state, error_vector, estimates_vjp, finish, of_two, pair_rows, scaled_error, scaled_error_vjp, stiffness_slopes


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
    """out = a Ŵ, flat; of all rows or some."""
    m, n = lift.weights.shape
    rows = a.size // m
    product(a.reshape(rows, m), lift.weights, out.reshape(rows, n))


@kernel
def hidden_measure(pack, tab, h, a0, K, Y, atol, rtol, a1, err):
    """Equations (1) and (2), in the place of `step.finish`; err stays in hidden coordinates.

    Some rows at a time: what is lifted of them is still in the cache when its squares are taken.
    """
    lift = pack[2]
    end_state(tab, h, a0, K, Y, a1)
    error_vector(tab, h, a0, K, err)
    batch, n = lift.base.shape
    small, m = a0.size, lift.weights.shape[0]
    before = lifted_state(lift, a0)
    after = 1 - before
    lift.newest[0] = after
    lift.at[after] = a1
    sums = np.zeros((2, 4))
    for lo in range(0, batch, LIFT_ROWS):
        hi = min(lo + LIFT_ROWS, batch)
        y0, y1, base = lift.states[before, lo * n : hi * n], lift.states[after, lo * n : hi * n], lift.base[lo:hi].reshape((hi - lo) * n)
        lifted(lift, a1[lo * m : hi * m], y1)
        for e in range(y1.size):
            y1[e] += base[e]
        of_atol, of_rtol = atol if atol.size == 1 else atol[lo * n : hi * n], rtol if rtol.size == 1 else rtol[lo * n : hi * n]
        for part in range(err.size // small):
            start = part * small
            e_seen = lift.err[: y1.size]
            lifted(lift, err[start + lo * m : start + hi * m], e_seen)
            add_squares(e_seen, y0, y1, of_atol, of_rtol, sums[part])
    q = rms_of(sums[0], batch * n)
    if err.size > small:
        q = of_two(q, rms_of(sums[1], batch * n))
    stiffness = np.nan
    if tab.pair_i >= 0:
        i, j = pair_rows(tab, Y)
        n_d = _lifted_norm(lift, K, tab.pair_j, tab.pair_i)
        n_g = _lifted_norm(lift, Y, j, i)
        stiffness = n_d / (n_g * tab.constant) if n_g > 0.0 else 0.0
    return q, stiffness


@kernel
def _squares(x):
    """The sum of squares."""
    s0 = s1 = s2 = s3 = 0.0
    whole = x.size - x.size % 4
    for e in range(0, whole, 4):
        s0 += np.float64(x[e]) * x[e]
        s1 += np.float64(x[e + 1]) * x[e + 1]
        s2 += np.float64(x[e + 2]) * x[e + 2]
        s3 += np.float64(x[e + 3]) * x[e + 3]
    for e in range(whole, x.size):
        s0 += np.float64(x[e]) * x[e]
    return (s0 + s1) + (s2 + s3)


@kernel
def _lifted_norm(lift, A, i, j):
    """Root mean square of (Aᵢ − Aⱼ) Ŵ by the small triangle."""
    (batch, n), (m, r) = lift.base.shape, lift.factor.shape
    total = 0.0
    for lo in range(0, batch, LIFT_ROWS):
        hi = min(lo + LIFT_ROWS, batch)
        pair, seen = lift.pair[: (hi - lo) * m], lift.err[: (hi - lo) * r]
        one, other = A[i, lo * m : hi * m], A[j, lo * m : hi * m]
        for e in range(pair.size):
            pair[e] = one[e] - other[e]
        product(pair.reshape(hi - lo, m), lift.factor, seen.reshape(hi - lo, r))
        total += _squares(seen)
    return math.sqrt(total / (batch * n))


@kernel
def _pull(lift, x, x_bar, out_bar, weights_bar):
    """Equation (3): x (B m,) with the cotangent x_bar (B n,) of x Ŵ."""
    batch, n = lift.base.shape
    m = lift.weights.shape[0]
    bar = x_bar.reshape(batch, n)
    down = np.dot(bar, lift.weights.T).reshape(batch * m)
    for e in range(batch * m):
        out_bar[e] += down[e]
    add_outer(x.reshape(batch, m), bar, weights_bar.reshape(m, n))


@kernel
def hidden_estimates_vjp(pack, tab, h, a0, a1, K, Y, atol, rtol, q_bar, stiffness_bar, err, a1_bar, err_bar, a0_bar, K_bar, Y_bar, theta_bar):
    """In the place of `step.estimates_vjp`: the cotangents of Ŵ and y₀ go behind those of the small system's parameters."""
    inner, _, lift = pack
    size, small = lift.base.size, a0.size
    start = inner[0].size + inner[3].size
    weights_bar = theta_bar[start : start + lift.weights.size]
    base_bar = theta_bar[start + lift.weights.size :]
    error_vector(tab, h, a0, K, err)
    before = lifted_state(lift, a0)
    lift.newest[0] = before  # the other one is to be overwritten
    y0, y1 = lift.states[before], lift.states[lifted_state(lift, a1)]
    e = np.empty(err.size // small * size, err.dtype)
    for part in range(err.size // small):
        lifted(lift, err[part * small : (part + 1) * small], e[part * size : (part + 1) * size])
    q = scaled_error(tab, e, y0, y1, atol, rtol)
    e_bar, y0_bar, y1_bar = np.zeros_like(e), np.zeros_like(y0), np.zeros_like(y0)
    scaled_error_vjp(tab, e, y0, y1, atol, rtol, q, q_bar, e_bar, y0_bar, y1_bar)
    for part in range(e.size // size):
        lo, hi = part * small, (part + 1) * small
        _pull(lift, err[lo:hi], e_bar[part * size : (part + 1) * size], err_bar[lo:hi], weights_bar)
    if not is_zero(y0_bar):
        _pull(lift, a0, y0_bar, a0_bar, weights_bar)
    if not is_zero(y1_bar):
        _pull(lift, a1, y1_bar, a1_bar, weights_bar)
    for i in range(size):
        base_bar[i] += y0_bar[i] + y1_bar[i]
    if stiffness_bar == 0.0 or tab.pair_i < 0:
        return
    i, j = tab.pair_i, tab.pair_j
    seen = np.empty((2, size), a0.dtype)
    pair = np.empty((2, small), a0.dtype)
    for c in range(small):
        pair[0, c] = K[j, c] - K[i, c]
        pair[1, c] = Y[j, c] - Y[i, c]
    norms = np.empty(2)
    for k in range(2):
        lifted(lift, pair[k], seen[k])
        norms[k] = math.sqrt(_squares(seen[k]) / size)
    slopes = stiffness_slopes(tab, size, norms[0], norms[1], stiffness_bar)
    for k in range(2):
        for c in range(size):
            seen[k, c] *= slopes[k]
        down = np.zeros_like(a0)
        _pull(lift, pair[k], seen[k], down, weights_bar)
        for c in range(small):
            if k == 0:
                K_bar[j, c] += down[c]
                K_bar[i, c] -= down[c]
            else:
                Y_bar[1, c] += down[c]
                Y_bar[0, c] -= down[c]



# For one step at a time, of any bound field.


def bound_measure(bound, tab, *arguments):
    """`step.finish`, or `hidden_measure` where the numbers stepped are hidden coordinates."""
    return hidden_measure(bound.pack, tab, *arguments) if bound.kind == "hidden" else finish(tab, *arguments)


def bound_estimates_vjp(bound, tab, *arguments):
    """`step.estimates_vjp`, or `hidden_estimates_vjp`."""
    if bound.kind == "hidden":
        hidden_estimates_vjp(bound.pack, tab, *arguments)
    else:
        estimates_vjp(bound.pack, tab, *arguments)
