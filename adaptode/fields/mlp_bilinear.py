"""The second order of a multilayer perceptron: equation (4) of `mlp_kernels`, the gradient of ⟨w, J u⟩."""

from __future__ import annotations

import numpy as np

from .._jit import kernel
from ..activations import IDENTITY, add_row, curvature
from ..products import add_outer, product
from .mlp_kernels import LAYERS, PRE, SIZES, _activate_both, _affine, _code, _layer_gradient, _matrix, _parameters, _sees_time, _sum_rows, _widest
from .tangents import add_tangents, curve_pullback, scale_tangents

_ROWS = 256  # tangents that go through the layers at a time


@kernel
def mlp_bilinear(t, y, pack, directions, u, w, y_bar, theta_bar):
    """Equation (4): adds the gradient of Σ_b Σ_m ⟨w_bm, J_b u_bm⟩; u and w are flat (B, directions, n).

    u may be flat (directions, n), the same for all samples, where there is no preactivation: the first product is then made once. Samples go through the
    layers some at a time, so that what they keep stays in the cache.
    """
    theta, meta, _, _, _ = pack
    n, m = meta[SIZES], meta[SIZES + 1]
    batch = y.size // n
    shared = u.size < w.size
    group = max(1, _ROWS // directions)
    first, first_bar = np.empty((directions if shared else 0, m), y.dtype), np.zeros((directions if shared else 0, m), y.dtype)
    if shared:
        np.dot(_matrix(u, 0, directions, n), _matrix(theta, 0, n, m), first)
    for a in range(0, batch, group):
        lo, hi = a * n, min(a + group, batch) * n
        own = u if shared else u[lo * directions : hi * directions]
        _bilinear_group(t, y[lo:hi], pack, directions, own, w[lo * directions : hi * directions], first, first_bar, y_bar[lo:hi], theta_bar)
    if shared:
        W_bar = np.dot(_matrix(u, 0, directions, n).T, first_bar)
        for i in range(n * m):
            theta_bar[i] += W_bar[i // m, i % m]


@kernel
def _bilinear_group(t, y, pack, directions, u, w, first, first_bar, y_bar, theta_bar):
    """Equation (4) for some samples; where u is shared, with first = u W₁ of all of them, and Σ_b ż̄ of the first layer added to first_bar."""
    theta, meta, _, _, transposed = pack
    layers, n = meta[LAYERS], meta[SIZES]
    batch = y.size // n
    rows = batch * directions
    shared = first.size > 0
    room = np.empty(_widest(meta), y.dtype)
    widths = 0
    for layer in range(layers + 1):
        widths += meta[SIZES + layer]
    x, slope, curve = np.empty(batch * widths, y.dtype), np.ones(batch * widths, y.dtype), np.zeros(batch * widths, y.dtype)
    x_dot, z_dot = np.empty(rows * widths, y.dtype), np.empty(rows * widths, y.dtype)

    # forward: x, slopes and curvatures of every layer (layer 0 is the preactivation), and both tangents
    size, z_size = batch * n, rows * n
    x[:size] = y
    if meta[PRE] != IDENTITY:
        _activate_both(meta[PRE], _matrix(x, 0, batch, n), room[:0], slope[:size])
        curvature(meta[PRE], y, x[:size], slope[:size], curve[:size])
    if not shared:
        z_dot[:z_size] = u
        scale_tangents(_matrix(z_dot, 0, rows, n), _matrix(slope, 0, batch, n), _matrix(x_dot, 0, rows, n))
    a, start, before = 0, 0, n
    for layer in range(layers):
        m = meta[SIZES + layer + 1]
        c = a + before
        z = np.empty((batch, m), y.dtype)
        row, next_start = _affine(t, _matrix(x, batch * a, batch, before), theta, transposed, start, _sees_time(meta, layer), z, room)
        add_row(row, z)
        flat, lo, hi = z.reshape(z.size), batch * c, batch * (c + m)
        x[lo:hi] = flat
        _activate_both(_code(meta, layer), _matrix(x, lo, batch, m), room[:0], slope[lo:hi])
        curvature(_code(meta, layer), flat, x[lo:hi], slope[lo:hi], curve[lo:hi])
        z_dots = first if shared and layer == 0 else _matrix(z_dot, rows * c, rows, m)
        if not shared or layer > 0:
            product(_matrix(x_dot, rows * a, rows, before), _matrix(theta, start, before, m), z_dots)
        scale_tangents(z_dots, _matrix(slope, lo, batch, m), _matrix(x_dot, rows * c, rows, m))
        a, start, before = c, next_start, m

    # backward
    x_bar = np.zeros((batch, n), y.dtype)
    x_dot_bar = w.copy().reshape(rows, n)
    end = theta.size
    for layer in range(layers - 1, -1, -1):
        m, before = meta[SIZES + layer + 1], meta[SIZES + layer]
        z_dots = first if shared and layer == 0 else _matrix(z_dot, rows * a, rows, m)
        curve_pullback(z_dots, _matrix(slope, batch * a, batch, m), _matrix(curve, batch * a, batch, m), x_bar, x_dot_bar)
        # x_bar and x_dot_bar are now z̄ and ż̄
        start = end - _parameters(meta, layer)
        a -= before
        _sum_rows(x_bar, room[:m])
        _layer_gradient(t, _matrix(x, batch * a, batch, before), x_bar, room[:m], start, _sees_time(meta, layer), theta_bar)
        if shared and layer == 0:
            add_tangents(x_dot_bar, first_bar)
        else:
            add_outer(_matrix(x_dot, rows * a, rows, before), x_dot_bar, _matrix(theta_bar, start, before, m))
        back = _matrix(transposed, start, m, before)
        x_bar = _times(x_bar, back)
        if layer > 0 or meta[PRE] != IDENTITY:
            x_dot_bar = _times(x_dot_bar, back)
        end = start
    if meta[PRE] != IDENTITY:
        curve_pullback(_matrix(z_dot, 0, rows, n), _matrix(slope, 0, batch, n), _matrix(curve, 0, batch, n), x_bar, x_dot_bar)
    flat = x_bar.reshape(batch * n)
    for i in range(flat.size):
        y_bar[i] += flat[i]


@kernel
def _times(a, b):
    """a b, in a new array."""
    c = np.empty((a.shape[0], b.shape[1]), a.dtype)
    product(a, b, c)
    return c
