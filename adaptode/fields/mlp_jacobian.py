"""The Jacobians of a multilayer perceptron, one (n, n) matrix a sample, and their transpose.

With D_l = diag σ′(z_l), C_l = diag σ″(z_l), rows that are samples and tangents (sample b's i-th is the image of e_i) as in `mlp_kernels`:

(1)  J_bᵀ = p′ W_1 D_1 W_2 D_2 ⋯ W_L D_L                                               [D_L: the outer activation's, p′: the preactivation's]

The unit tangents are never multiplied: the first product is W_1, its rows and columns scaled. Samples go through the layers a few at a time, so that their
products stay in the cache.

The gradient of Σ_b ⟨J̄_b, J_b⟩ is (4) of `mlp_kernels` with u_m = e_m and w_m = J̄ e_m, where p and the outer activation are the identity:

(2)  ẋ̄_{L−1} = J̄ᵀ W_Lᵀ,   ż̄_l = D_l ⊙ ẋ̄_l,   ẋ̄_{l−1} = ż̄_l W_lᵀ,   s_l = C_l ⊙ Σ_m ż_lm ⊙ ẋ̄_lm           (tangents, down to the first layer)
     W̄_L = ẋ_{L−1}ᵀ J̄ᵀ,   W̄_l += ẋ_{l−1}ᵀ ż̄_l,   W̄_1 += Σ_b ż̄_1b
(3)  z̄_l = D_l ⊙ x̄_l + s_l,   x̄_{l−1} = z̄_l W_lᵀ,   W̄_l += x_{l−1}ᵀ z̄_l,   b̄_l = Σ_B z̄_l,   v̄_l = t b̄_l,   ȳ = x̄₀     (values; x̄_{L−1} = 0)

ż_l, l = 2 … L − 1, is what J itself was made of, and not made again.
"""

from __future__ import annotations

import numpy as np

from .._jit import kernel
from ..activations import IDENTITY, curvature, through
from ..products import add_outer, affine, product
from .mlp_kernels import HIDDEN, LAYERS, OUTER, PRE, SIZES, _kept_of, _layer_gradient, _matrix, _parameters, _sees_time, _sum_rows, _widest, hidden_slopes
from .tangents import add_tangents, curve_pullback, scale_tangents

_ROWS = 256  # tangents a group of samples
_TURN = 8  # rows and columns that are transposed at a time


@kernel
def tangents_size(meta, batch):
    """Numbers that `mlp_jacobian` keeps for its transpose."""
    total = 0
    for layer in range(2, meta[LAYERS]):
        total += batch * meta[SIZES] * meta[SIZES + layer]
    return total


@kernel
def mlp_jacobian(pack, batch, kept, J, tangents):
    """Equation (1) with the slopes that `mlp_linearize` kept, into J (batch, n, n); into `tangents`, if not empty, ż_l of l = 2 … L − 1, layer after layer."""
    theta, meta, _, _, _ = pack
    layers, n = meta[LAYERS], meta[SIZES]
    group = min(batch, max(1, _ROWS // n))
    one, two = np.empty(group * n * _widest(meta), kept.dtype), np.empty(group * n * _widest(meta), kept.dtype)
    slopes = np.empty(group * _widest(meta), kept.dtype)
    for first in range(0, batch, group):
        count = min(group, batch - first)
        m = meta[SIZES + 1]
        k, at = 0, 0
        z = _matrix(theta, 0, n, m)
        if meta[PRE] != IDENTITY:
            k = 2 * batch * n
            z = _matrix(one, 0, count * n, m)
            for r in range(count * n):
                for j in range(m):
                    z[r, j] = theta[(r % n) * m + j] * kept[batch * n + first * n + r]
        start = _parameters(meta, 0)
        for layer in range(1, layers):
            hidden_slopes(meta, kept, k + first * m, batch * m, slopes[: count * m])
            x = _matrix(two, 0, count * n, m)
            scale_tangents(z, _matrix(slopes, 0, count, m), x)
            k += _kept_of(meta) * batch * m
            before, m = m, meta[SIZES + layer + 1]
            last = layer == layers - 1
            z = _matrix(one, 0, count * n, m) if last or tangents.size == 0 else _matrix(tangents, at + first * n * m, count * n, m)
            product(x, _matrix(theta, start, before, m), z)
            start += _parameters(meta, layer)
            at += batch * n * m
        for b in range(count):
            _transpose(z, b * n if z.shape[0] == count * n else 0, J[first + b], 0)
            if meta[OUTER] != IDENTITY:
                for j in range(n):
                    for i in range(n):
                        J[first + b, j, i] *= kept[k + (first + b) * n + j]


@kernel
def _transpose(a, from_row, b, to_row):
    """n rows of b, from to_row on, are the transpose of n rows of a, from from_row on; n columns each."""
    n = a.shape[1]
    for first in range(0, n, _TURN):
        for second in range(0, n, _TURN):
            for i in range(first, min(n, first + _TURN)):
                for j in range(second, min(n, second + _TURN)):
                    b[to_row + j, i] = a[from_row + i, j]


@kernel
def mlp_jacobian_pullback(t, y, pack, kept, tangents, J_bar, y_bar, theta_bar):
    """Equations (2) and (3) with what `mlp_linearize` and `mlp_jacobian` kept, J̄ (batch, n, n); adds to y_bar and theta_bar, flat."""
    theta, meta, _, _, transposed = pack
    layers, n = meta[LAYERS], meta[SIZES]
    batch = J_bar.shape[0]
    widths = 0
    for layer in range(1, layers):
        widths += meta[SIZES + layer]
    sources, room = np.zeros(batch * widths, y.dtype), np.empty(_widest(meta), y.dtype)
    first_bar = np.zeros((n, meta[SIZES + 1]), y.dtype)
    group = min(batch, max(1, _ROWS // n))
    one, two = np.empty(group * n * _widest(meta), y.dtype), np.empty(group * n * _widest(meta), y.dtype)
    scaled, slopes, curves = np.empty(one.size, y.dtype), np.empty(group * _widest(meta), y.dtype), np.empty(group * _widest(meta), y.dtype)
    for first in range(0, batch, group):
        _pull_tangents(pack, kept, tangents, J_bar, first, min(group, batch - first), one, two, scaled, slopes, curves, sources, first_bar, theta_bar)
    for e in range(first_bar.size):
        theta_bar[e] += first_bar[e // first_bar.shape[1], e % first_bar.shape[1]]
    if layers == 1:
        return
    end, at, each = theta.size - _parameters(meta, layers - 1), sources.size, _kept_of(meta)
    m = meta[SIZES + layers - 1]
    at -= batch * m
    z_bar = _matrix(sources, at, batch, m)
    _sum_rows(z_bar, room[:m])
    for layer in range(layers - 2, -1, -1):
        before, start = meta[SIZES + layer], end - _parameters(meta, layer)
        at -= batch * before if layer > 0 else 0
        x = _matrix(kept, each * at, batch, before) if layer > 0 else _matrix(y, 0, batch, n)
        _layer_gradient(t, x, z_bar, room[:m], start, _sees_time(meta, layer), theta_bar)
        x_bar = np.empty((batch, before), y.dtype)
        affine(z_bar, _matrix(transposed, start, m, before), _matrix(theta, start, before, m), room[:0], x_bar)
        flat = x_bar.reshape(batch * before)
        if layer > 0:
            through(meta[HIDDEN], x_bar, _matrix(kept, each * at + (each - 1) * batch * before, batch, before), room[:before])
            for e in range(flat.size):
                flat[e] += sources[at + e]
            _sum_rows(x_bar, room[:before])
        else:
            for e in range(flat.size):
                y_bar[e] += flat[e]
        z_bar, m, end = x_bar, before, start


@kernel
def _pull_tangents(pack, kept, tangents, J_bar, first, count, one, two, scaled, slopes, curves, sources, first_bar, theta_bar):
    """Equation (2) for `count` samples: s_l of each hidden layer into `sources`, Σ_b ż̄_1b added to first_bar."""
    theta, meta, _, _, transposed = pack
    layers, n = meta[LAYERS], meta[SIZES]
    batch, rows = J_bar.shape[0], count * n
    bar = _matrix(one, 0, rows, n)
    for b in range(count):
        _transpose(J_bar[first + b], 0, bar, b * n)
    k, at, end, m = sources.size, tangents.size, theta.size, n
    for layer in range(layers - 1, 0, -1):
        before, start = meta[SIZES + layer], end - _parameters(meta, layer)
        k -= batch * before
        own = _matrix(sources, k + first * before, count, before)
        D, C = _matrix(slopes, 0, count, before), _matrix(curves, 0, count, before)
        lo, hi = _kept_of(meta) * k + first * before, _kept_of(meta) * k + (first + count) * before
        hidden_slopes(meta, kept, lo, batch * before, slopes[: count * before])
        curvature(meta[HIDDEN], kept[lo:hi], kept[lo:hi], slopes[: count * before], curves[: count * before])
        z_dots = _matrix(theta, 0, n, before)
        if layer > 1:
            at -= batch * n * before
            z_dots = _matrix(tangents, at + first * n * before, rows, before)
        x_dots = _matrix(scaled, 0, rows, before)
        scale_tangents(z_dots, D, x_dots)
        add_outer(x_dots, bar, _matrix(theta_bar, start, before, m))
        x_dot_bar = _matrix(two if (layers - layer) % 2 == 1 else one, 0, rows, before)
        product(bar, _matrix(transposed, start, m, before), x_dot_bar)
        curve_pullback(z_dots, D, C, own, x_dot_bar)
        bar, m, end = x_dot_bar, before, start
    add_tangents(bar, first_bar)
