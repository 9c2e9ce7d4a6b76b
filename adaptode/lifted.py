"""The norms of a step in hidden coordinates, taken of the state itself.

With α the state that is stepped and y = y₀ + α Ŵ (`fields.hidden`), after the stages:

(1)  y₁ = y₀ + α₁ Ŵ,   err = err_α Ŵ,   q of `step.scaled_error`: two products with Ŵ an attempt, three where the estimate is made of two
(2)  S = ‖(K_j − K_i) Ŵ‖ / (‖(Y_j − Y_i) Ŵ‖ C),   ‖D Ŵ‖ = ‖D L‖ with Ŵ = L Q

and in the transpose, with x̄ the cotangent of any x = x_α Ŵ of these, and of y₀ + α Ŵ:

(3)  x̄_α += x̄ Ŵᵀ,   Ŵ̄ += x_αᵀ x̄,   ȳ₀ += x̄ for a state
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import inline, kernel, meet
from .combine import add
from .fields.hidden import ALL, FIRST, LIFT_ROWS, MEETINGS, PARTIES
from .norms import add_squares, rms_of, scaled_rms_vjp
from .products import add_outer, product
from .step import end_state, error_vector, estimates_vjp, finish, norms_and_bars, of_two, pair_rows, stiffness_slopes


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


@inline
def _of_rows(tolerance, start, stop):
    """A tolerance, or those of some elements."""
    return tolerance if tolerance.size == 1 else tolerance[start:stop]


@kernel
def lifted_rms(pack, x, atol, rtol):
    """The scaled RMS of x Ŵ against y₀."""
    lift = pack[2]
    batch, n = lift.base.shape
    m = lift.weights.shape[0]
    base, sums = lift.base.reshape(lift.base.size), np.zeros(4)
    for lo in range(0, batch, LIFT_ROWS):
        hi = min(lo + LIFT_ROWS, batch)
        seen, y = lift.err[: (hi - lo) * n], base[lo * n : hi * n]
        lifted(lift, x[lo * m : hi * m], seen)
        add_squares(seen, y, y, _of_rows(atol, lo * n, hi * n), _of_rows(rtol, lo * n, hi * n), sums)
    return rms_of(sums, base.size)


@inline
def _total(sums, column):
    total = 0.0
    for row in range(sums.shape[0]):
        total += sums[row, column]
    return total


@kernel
def hidden_measure(pack, tab, h, a0, K, Y, atol, rtol, a1, err):
    """Equations (1) and (2), in the place of `step.finish`; err stays in hidden coordinates.

    Some rows at a time: what is lifted of them is still in the cache when its squares are taken. Several threads may have a part of the rows each; each adds up
    the sums of all.
    """
    lift = pack[2]
    end_state(tab, h, a0, K, Y, a1)
    error_vector(tab, h, a0, K, err)
    batch, n = lift.base.shape
    small, m, place = a0.size, lift.weights.shape[0], lift.place
    before = lifted_state(lift, a0)
    after = 1 - before
    lift.newest[0] = after
    lift.at[after] = a1
    place[MEETINGS] += 1
    sums = lift.sums[place[MEETINGS] % 2]
    for lo in range(0, batch, LIFT_ROWS):
        hi = min(lo + LIFT_ROWS, batch)
        own = sums[place[FIRST] + lo // LIFT_ROWS]
        own[:] = 0.0
        y0, y1, base = lift.states[before, lo * n : hi * n], lift.states[after, lo * n : hi * n], lift.base[lo:hi].reshape((hi - lo) * n)
        lifted(lift, a1[lo * m : hi * m], y1)
        for e in range(y1.size):
            y1[e] += base[e]
        of_atol, of_rtol = _of_rows(atol, lo * n, hi * n), _of_rows(rtol, lo * n, hi * n)
        for part in range(err.size // small):
            start = part * small
            e_seen = lift.err[: y1.size]
            lifted(lift, err[start + lo * m : start + hi * m], e_seen)
            add_squares(e_seen, y0, y1, of_atol, of_rtol, own[4 * part : 4 * part + 4])
        if tab.pair_i >= 0:
            i, j = pair_rows(tab, Y)
            own[8] = _pair_squares(lift, K, tab.pair_j, tab.pair_i, lo, hi)
            own[9] = _pair_squares(lift, Y, j, i, lo, hi)
    if place[PARTIES] > 1 and not meet(lift.counter, place[PARTIES], place[MEETINGS]):
        return np.nan, np.nan
    size = place[ALL] * n
    q = rms_of((_total(sums, 0), _total(sums, 1), _total(sums, 2), _total(sums, 3)), size)
    if err.size > small:
        q = of_two(q, rms_of((_total(sums, 4), _total(sums, 5), _total(sums, 6), _total(sums, 7)), size))
    stiffness = np.nan
    if tab.pair_i >= 0:
        n_d, n_g = math.sqrt(_total(sums, 8) / size), math.sqrt(_total(sums, 9) / size)
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
def _pair_squares(lift, A, i, j, lo, hi):
    """The sum of squares of (Aᵢ − Aⱼ) Ŵ over some rows, by the small triangle."""
    m, r = lift.factor.shape
    pair, seen = lift.pair[: (hi - lo) * m], lift.err[: (hi - lo) * r]
    one, other = A[i, lo * m : hi * m], A[j, lo * m : hi * m]
    for e in range(pair.size):
        pair[e] = one[e] - other[e]
    product(pair.reshape(hi - lo, m), lift.factor, seen.reshape(hi - lo, r))
    return _squares(seen)


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
def _norms_vjp(lift, tab, a0, a1, atol, rtol, q_bar, err, a1_bar, err_bar, a0_bar, weights_bar, base_bar):
    """The transpose of q: (3) with x one of err, α₀ and α₁, all three of some rows at a time."""
    (batch, n), m = lift.base.shape, lift.weights.shape[0]
    size, small = batch * n, a0.size
    parts = err.size // small
    before = lifted_state(lift, a0)
    lift.newest[0] = before  # the other one is to be overwritten
    y0, y1 = lift.states[before], lift.states[lifted_state(lift, a1)]
    e = np.empty(parts * size, err.dtype)
    for part in range(parts):
        lifted(lift, err[part * small : (part + 1) * small], e[part * size : (part + 1) * size])
    q_e, q_low, e_bar, low_bar = norms_and_bars(tab, e, y0, y1, atol, rtol, q_bar)
    transposed = lift.weights.T.copy()
    x, x_bar = np.empty(((parts + 2) * LIFT_ROWS, m), err.dtype), np.empty(((parts + 2) * LIFT_ROWS, n), err.dtype)
    down = np.empty_like(x)
    for lo in range(0, batch, LIFT_ROWS):
        hi = min(lo + LIFT_ROWS, batch)
        rows, first, last, share = hi - lo, lo * n, hi * n, (hi - lo) / batch  # a norm's mean is over all rows
        of_atol, of_rtol = _of_rows(atol, first, last), _of_rows(rtol, first, last)
        bars = x_bar[: (parts + 2) * rows].reshape(parts + 2, rows * n)
        bars[:] = 0.0
        for part in range(parts):
            q, bar = (q_e, e_bar) if part == 0 else (q_low, low_bar)
            start = part * size
            scaled_rms_vjp(e[start + first : start + last], y0[first:last], y1[first:last], of_atol, of_rtol, q, share * bar, bars[part], bars[-2], bars[-1])
            x[part * rows : (part + 1) * rows] = err[part * small + lo * m : part * small + hi * m].reshape(rows, m)
        x[parts * rows : (parts + 1) * rows] = a0[lo * m : hi * m].reshape(rows, m)
        x[(parts + 1) * rows : (parts + 2) * rows] = a1[lo * m : hi * m].reshape(rows, m)
        stack = (parts + 2) * rows
        add_outer(x[:stack], x_bar[:stack], weights_bar.reshape(m, n))
        product(x_bar[:stack], transposed, down[:stack])
        flat = down[:stack].reshape(parts + 2, rows * m)
        for part in range(parts):
            add(flat[part], err_bar[part * small + lo * m : part * small + hi * m])
        add(flat[parts], a0_bar[lo * m : hi * m])
        add(flat[parts + 1], a1_bar[lo * m : hi * m])
        add(bars[parts], base_bar[first:last])
        add(bars[parts + 1], base_bar[first:last])


@kernel
def hidden_estimates_vjp(pack, tab, h, a0, a1, K, Y, atol, rtol, q_bar, stiffness_bar, err, a1_bar, err_bar, a0_bar, K_bar, Y_bar, theta_bar):
    """In the place of `step.estimates_vjp`: the cotangents of Ŵ and y₀ go behind those of the small system's parameters."""
    inner, _, lift = pack
    size, small = lift.base.size, a0.size
    start = inner[0].size + inner[3].size
    weights_bar = theta_bar[start : start + lift.weights.size]
    error_vector(tab, h, a0, K, err)
    if q_bar != 0.0:
        base_bar = theta_bar[start + lift.weights.size :]
        _norms_vjp(lift, tab, a0, a1, atol, rtol, q_bar, err, a1_bar, err_bar, a0_bar, weights_bar, base_bar)
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
