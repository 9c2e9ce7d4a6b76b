"""The norms of a step in hidden coordinates, taken of the state itself.

With α the state that is stepped and y = y₀ + α Ŵ (`fields.hidden`), after the stages:

(1)  y₁ = y₀ + α₁ Ŵ,   err = err_α Ŵ,   q of `step.scaled_error`: two products with Ŵ an attempt, three where the estimate is made of two
(2)  S = ‖(K_j − K_i) Ŵ‖ / (‖(Y_j − Y_i) Ŵ‖ C),   ‖D Ŵ‖ = ‖D L‖ with Ŵ = L Q

and in the transpose, with x̄ the cotangent of any x = x_α Ŵ of these, and of y₀ + α Ŵ:

(3)  x̄_α += x̄ Ŵᵀ,   Ŵ̄ += x_αᵀ x̄,   ȳ₀ += x̄ for a state
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np

from ._jit import inline, kernel, meet
from .combine import add
from .fields.hidden import ALL, FIRST, LIFT_ROWS, MEETINGS, PARTIES
from .norms import add_squares, rms_of, scaled_rms_bars
from .products import add_outer, prepared_product, product
from .room import empty
from .step import bars_of_two, end_state, error_vector, estimates_vjp, finish, of_two, pair_rows, stiffness_slopes
from .threads import how_many, together

_STACKED = LIFT_ROWS // 2  # rows of which all that a norm is made of is lifted at a time; four times as many have room in a `Lift`


@kernel
def find_lifted(lift, a):
    """The number of the row of lift.states that holds y₀ + a Ŵ, one of the two made last; −1 if none does."""
    for k in range(2):
        same = True
        for e in range(a.size):
            if a[e] != lift.at[k][e]:
                same = False
                break
        if same:
            return k
    return -1


@kernel
def lifted_state(lift, a):
    """`find_lifted`, where there is none after making it."""
    k = find_lifted(lift, a)
    if k >= 0:
        return k
    k = 1 - lift.newest[0]
    lift.newest[0] = k
    lift.at[k][:] = a
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
    prepared_product(a.reshape(rows, m), lift.weights, lift.panels, out.reshape(rows, n))


@inline
def _of_rows(tolerance, start, stop):
    """A tolerance, or those of some elements."""
    return tolerance if tolerance.size == 1 else tolerance[start:stop]


@kernel
def _lifted_squares(lift, x, atol, rtol, first, last, seen, sums):
    """Sums of squares of x Ŵ against y₀, a row of (T, 4) for each LIFT_ROWS rows; of the rows first … last − 1 of these."""
    (batch, n), m = lift.base.shape, lift.weights.shape[0]
    base = lift.base.reshape(lift.base.size)
    for two in range(first, last, 2):
        start, stop = two * LIFT_ROWS, min(min(two + 2, last) * LIFT_ROWS, batch)
        lifted(lift, x[start * m : stop * m], seen[: (stop - start) * n])
        for tile in range(two, min(two + 2, last)):
            lo, hi = tile * LIFT_ROWS, min((tile + 1) * LIFT_ROWS, batch)
            e, y = seen[(lo - start) * n : (hi - start) * n], base[lo * n : hi * n]
            sums[tile] = 0.0
            add_squares(e, y, y, _of_rows(atol, lo * n, hi * n), _of_rows(rtol, lo * n, hi * n), sums[tile])


def lifted_rms(lift, x, atol, rtol):
    """The scaled RMS of x Ŵ against y₀, by several threads where there is enough to do."""
    (batch, n), m = lift.base.shape, lift.weights.shape[0]
    tiles = -(-batch // LIFT_ROWS)
    parties, sums = how_many(batch * m * n, tiles // 2), np.empty((tiles, 4))
    pairs = -(-tiles // 2)  # the same with any number of threads, for rows that are multiplied together may show in their bits
    edges = [*(2 * (pairs * k // parties) for k in range(parties)), tiles]
    rooms = [lift.err, *(empty(2 * LIFT_ROWS * n, x.dtype) for _ in range(parties - 1))]
    tasks = [partial(_lifted_squares, lift, x, atol, rtol, *ends, seen, sums) for ends, seen in zip(pairwise(edges), rooms, strict=True)]
    together(tasks)
    return rms_of(sums.sum(axis=0), batch * n)


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
    lift.at[after][:] = a1
    place[MEETINGS] += 1
    sums = lift.sums[place[MEETINGS] % 2]
    for lo in range(0, batch, LIFT_ROWS):
        hi = min(lo + LIFT_ROWS, batch)
        own = sums[place[FIRST] + lo // LIFT_ROWS]
        own[:] = 0.0
        y0, y1, base = lift.states[before][lo * n : hi * n], lift.states[after][lo * n : hi * n], lift.base[lo:hi].reshape((hi - lo) * n)
        inner, seen = (hi - lo) * m, lift.err[: 2 * y1.size]
        both, e_seen = lift.pair[: 2 * inner], seen[y1.size :]
        both[:inner], both[inner:] = a1[lo * m : hi * m], err[lo * m : hi * m]
        lifted(lift, both, seen)  # at once: Ŵ is larger than most caches
        for e in range(y1.size):
            y1[e] = seen[e] + base[e]
        of_atol, of_rtol = _of_rows(atol, lo * n, hi * n), _of_rows(rtol, lo * n, hi * n)
        add_squares(e_seen, y0, y1, of_atol, of_rtol, own[:4])
        if err.size > small:
            lifted(lift, err[small + lo * m : small + hi * m], e_seen)
            add_squares(e_seen, y0, y1, of_atol, of_rtol, own[4:8])
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


@inline
def _stack(lift, err, low, a0, a1, lo, hi):
    """Some rows of an error vector, of a second one if there is one, and of both states, one below the other: in hidden coordinates, and lifted."""
    (_, n), m = lift.base.shape, lift.weights.shape[0]
    rows, parts = hi - lo, 3 if low.size == 0 else 4
    x, seen = lift.pair[: parts * rows * m].reshape(parts, rows * m), lift.err[: parts * rows * n].reshape(parts, rows * n)
    x[0], x[parts - 2], x[parts - 1] = err[lo * m : hi * m], a0[lo * m : hi * m], a1[lo * m : hi * m]
    if parts == 4:
        x[1] = low[lo * m : hi * m]
    prepared_product(x.reshape(parts * rows, m), lift.weights, lift.panels, seen.reshape(parts * rows, n))
    base = lift.base[lo:hi].reshape(rows * n)
    add(base, seen[parts - 2])
    add(base, seen[parts - 1])
    return x, seen


@kernel
def _norm_of(lift, err, a0, a1, atol, rtol):
    """The scaled RMS of err Ŵ against both states."""
    batch, n = lift.base.shape
    sums = np.zeros(4)
    for lo in range(0, batch, _STACKED):
        hi = min(lo + _STACKED, batch)
        seen = _stack(lift, err, err[:0], a0, a1, lo, hi)[1]
        add_squares(seen[0], seen[1], seen[2], _of_rows(atol, lo * n, hi * n), _of_rows(rtol, lo * n, hi * n), sums)
    return rms_of(sums, batch * n)


@kernel
def _norms_vjp(lift, tab, a0, a1, atol, rtol, q, q_bar, err, a1_bar, err_bar, a0_bar):
    """The transpose of q: (3) with x one of err, α₀ and α₁, all of some rows at a time; q as in `step.scaled_error_vjp`."""
    (batch, n), m = lift.base.shape, lift.weights.shape[0]
    small, size = a0.size, lift.base.size
    low, q_low, low_bar = err[small:], 0.0, 0.0
    if low.size > 0:
        q, q_low = _norm_of(lift, err[:small], a0, a1, atol, rtol), _norm_of(lift, low, a0, a1, atol, rtol)
        q_bar, low_bar = bars_of_two(q, q_low, q_bar)
    elif math.isnan(q):
        q = _norm_of(lift, err, a0, a1, atol, rtol)
    if q == 0.0:
        return
    transposed, weights_bar = lift.weights.T.copy(), lift.weights_bar.reshape(m, n)
    for lo in range(0, batch, _STACKED):
        hi = min(lo + _STACKED, batch)
        rows, of_atol, of_rtol = hi - lo, _of_rows(atol, lo * n, hi * n), _of_rows(rtol, lo * n, hi * n)
        x, bars = _stack(lift, err[:small], low, a0, a1, lo, hi)
        parts = len(bars)
        if parts == 4:
            y0, y1 = bars[2].copy(), bars[3].copy()
            scaled_rms_bars(bars[1], y0, y1, of_atol, of_rtol, low_bar / (size * q_low) if q_low > 0.0 else 0.0)
        scaled_rms_bars(bars[0], bars[parts - 2], bars[parts - 1], of_atol, of_rtol, q_bar / (size * q))
        if parts == 4:
            add(y0, bars[2])
            add(y1, bars[3])
        add_outer(x.reshape(parts * rows, m), bars.reshape(parts * rows, n), weights_bar)
        product(bars.reshape(parts * rows, n), transposed, x.reshape(parts * rows, m))
        add(x[0], err_bar[lo * m : hi * m])
        if parts == 4:
            add(x[1], err_bar[small + lo * m : small + hi * m])
        add(x[parts - 2], a0_bar[lo * m : hi * m])
        add(x[parts - 1], a1_bar[lo * m : hi * m])
        if lift.base_bar.size > 0:
            add(bars[parts - 2], lift.base_bar[lo * n : hi * n])
            add(bars[parts - 1], lift.base_bar[lo * n : hi * n])


@kernel
def hidden_estimates_vjp(pack, tab, h, a0, a1, K, Y, atol, rtol, q, q_bar, stiffness_bar, err, a1_bar, err_bar, a0_bar, K_bar, Y_bar):
    """In the place of `step.estimates_vjp`: the cotangents of Ŵ and of y₀ as what is lifted from are added to those of the `Lift`."""
    lift = pack[2]
    size, small = lift.base.size, a0.size
    error_vector(tab, h, a0, K, err)
    if q_bar != 0.0:
        _norms_vjp(lift, tab, a0, a1, atol, rtol, q, q_bar, err, a1_bar, err_bar, a0_bar)
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
        _pull(lift, pair[k], seen[k], down, lift.weights_bar)
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
