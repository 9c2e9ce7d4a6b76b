"""The Jacobians of a multilayer perceptron, one (n, n) matrix a sample.

With D_l = diag σ′(z_l), and rows that are samples as in `mlp_kernels`:

(1)  J_bᵀ = p′ W_1 D_1 W_2 D_2 ⋯ W_L D_L                                               [D_L: the outer activation's, p′: the preactivation's]

The unit tangents are never multiplied: the first product is W_1, its rows and columns scaled. Samples go through the layers a few at a time, so that their
products stay in the cache.
"""

from __future__ import annotations

import numpy as np

from .._jit import kernel
from ..activations import IDENTITY
from ..products import product
from .mlp_kernels import LAYERS, OUTER, PRE, SIZES, _kept_of, _matrix, _parameters, _scale_rows, _widest, hidden_slopes

_ROWS = 512  # tangents a group of samples
_WHOLE = 16  # n from which the last product is made in place, transposed


@kernel
def mlp_jacobian(pack, batch, kept, J):
    """Equation (1) with the slopes that `mlp_linearize` kept, into J (batch, n, n)."""
    theta, meta, _, _, _ = pack
    layers, n = meta[LAYERS], meta[SIZES]
    group = min(batch, max(1, _ROWS // n))
    one, two = np.empty(group * n * _widest(meta), kept.dtype), np.empty(group * n * _widest(meta), kept.dtype)
    slopes = np.empty(group * _widest(meta), kept.dtype)
    for first in range(0, batch, group):
        count = min(group, batch - first)
        m = meta[SIZES + 1]
        k = 2 * batch * n if meta[PRE] != IDENTITY else 0
        x = _matrix(one, 0, count * n, m)
        for r in range(count * n):
            before = kept[batch * n + first * n + r] if meta[PRE] != IDENTITY else one.dtype.type(1.0)
            row = theta[(r % n) * m : (r % n + 1) * m]
            for j in range(m):
                x[r, j] = row[j] * before
        start = _parameters(meta, 0)
        for layer in range(1, layers):
            hidden_slopes(meta, kept, k + first * m, batch * m, slopes[: count * m])
            _scale_rows(x, _matrix(slopes, 0, count, m))
            k += _kept_of(meta) * batch * m
            before, m = m, meta[SIZES + layer + 1]
            W = _matrix(theta, start, before, m)
            start += _parameters(meta, layer)
            if layer == layers - 1 and n >= _WHOLE:
                for b in range(count):
                    np.dot(W.T, x[b * n : (b + 1) * n].T, J[first + b])
            else:
                z = _matrix(two if layer % 2 == 1 else one, 0, count * n, m)
                product(x, W, z)
                x = z
        for b in range(count):
            if layers == 1 or n < _WHOLE:
                for i in range(n):
                    for j in range(n):
                        J[first + b, j, i] = x[b * n + i, j]
            if meta[OUTER] != IDENTITY:
                for j in range(n):
                    for i in range(n):
                        J[first + b, j, i] *= kept[k + (first + b) * n + j]
