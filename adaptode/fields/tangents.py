"""Rows of tangents through the slopes of a layer, M of them a sample, by vectors of `simd`."""

from __future__ import annotations

from .._jit import borrow, kernel
from ..simd import add, full, load, madd, mul, store, width


@kernel
def scale_tangents(x, slope, out):
    """out[b·M + m] = slope[b] ⊙ x[b·M + m]; x, out (B·M, columns), slope (B, columns), by rows; x may be one sample's, (M, columns), for all."""
    x, slope, out = borrow(x), borrow(slope), borrow(out)
    (batch, columns), lanes = slope.shape, width(out)
    directions = out.shape[0] // batch
    whole = columns - columns % lanes
    for b in range(batch):
        first, own = b * directions * columns, (b * directions if x.shape[0] == out.shape[0] else 0)
        for j in range(0, whole, lanes):
            D = load(slope, b * columns + j)
            for m in range(directions):
                store(out, first + m * columns + j, mul(D, load(x, (own + m) * columns + j)))
        for m in range(directions if whole < columns else 0):
            for j in range(whole, columns):
                out[b * directions + m, j] = slope[b, j] * x[own + m, j]


@kernel
def curve_pullback(z_dot, slope, curve, x_bar, x_dot_bar):
    """In place: x̄⁺ becomes z̄ = D ⊙ x̄⁺ + C ⊙ Σ_m ż_m ⊙ ẋ̄⁺_m, and ẋ̄⁺_m becomes ż̄_m = D ⊙ ẋ̄⁺_m.

    z_dot, x_dot_bar (B·M, columns), slope = D, curve = C, x_bar (B, columns), by rows; z_dot may be one sample's, (M, columns), for all.
    """
    z_dot, slope, curve, x_bar, x_dot_bar = borrow(z_dot), borrow(slope), borrow(curve), borrow(x_bar), borrow(x_dot_bar)
    (batch, columns), lanes = slope.shape, width(slope)
    directions = x_dot_bar.shape[0] // batch
    whole = columns - columns % lanes
    for b in range(batch):
        first, own = b * directions * columns, (b * directions if z_dot.shape[0] == x_dot_bar.shape[0] else 0)
        for j in range(0, whole, lanes):
            at = b * columns + j
            D, total = load(slope, at), full(slope.dtype.type(0.0))
            for m in range(directions):
                bar = load(x_dot_bar, first + m * columns + j)
                total = madd(load(z_dot, (own + m) * columns + j), bar, total)
                store(x_dot_bar, first + m * columns + j, mul(D, bar))
            store(x_bar, at, madd(load(curve, at), total, mul(D, load(x_bar, at))))
        for j in range(whole, columns):
            sum_ = slope.dtype.type(0.0)
            for m in range(directions):
                sum_ += z_dot[own + m, j] * x_dot_bar[b * directions + m, j]
                x_dot_bar[b * directions + m, j] *= slope[b, j]
            x_bar[b, j] = slope[b, j] * x_bar[b, j] + curve[b, j] * sum_


@kernel
def add_tangents(x, total):
    """total[m] += Σ_b x[b·M + m], x (B·M, columns), total (M, columns), by rows."""
    x, total = borrow(x), borrow(total)
    (directions, columns), lanes = total.shape, width(x)
    whole = columns - columns % lanes
    for m in range(directions):
        for j in range(0, whole, lanes):
            s = load(total, m * columns + j)
            for r in range(m, x.shape[0], directions):
                s = add(s, load(x, r * columns + j))
            store(total, m * columns + j, s)
        for j in range(whole, columns):
            for r in range(m, x.shape[0], directions):
                total[m, j] += x[r, j]
