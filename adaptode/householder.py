"""The triangular factor of a wide matrix by blocks of reflections.

Numba and NumPy have LAPACK's, whose products call BLAS's threads: these go on looking for work for hundredths of a second, on cores that `threads` would have.

With rows x of A and H = I − τ vᵀ v, so chosen that x H has no number but the first of those not yet zero:

(1)  v = x + sign(x₁) ‖x‖ e₁,   τ = 2/‖v‖²
(2)  H₁ H₂ … H_b = I − Vᵀ T V,   T upper triangular, T_jj = τ_j,   T_{1…j−1, j} = −τ_j T_{1…j−1} V_{1…j−1} v_jᵀ                [SV89]

so that the rows below a block of them, C, become C − (C Vᵀ T) V: two products.
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import inline, kernel
from .products import add_outer, product

_BLOCK = 8


def triangle(matrix: np.ndarray) -> np.ndarray:
    """L (m, min(m, n)), lower triangular, of a matrix (m, n) = L Q with orthonormal rows of Q: ‖d L‖ = ‖d matrix‖ for each row d."""
    largest = float(np.abs(matrix).max(initial=0.0))
    power = -math.frexp(largest)[1] if math.isfinite(largest) else 0
    reduced = np.ldexp(np.ascontiguousarray(matrix), power)  # squares neither overflow nor vanish
    _reduce(reduced)
    return np.ldexp(np.tril(reduced[:, : len(matrix)]), -power)


@inline
def _dot(x, y):
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = x.dtype.type(0.0)
    whole = x.size - x.size % 8
    for e in range(0, whole, 8):
        s0 += x[e] * y[e]
        s1 += x[e + 1] * y[e + 1]
        s2 += x[e + 2] * y[e + 2]
        s3 += x[e + 3] * y[e + 3]
        s4 += x[e + 4] * y[e + 4]
        s5 += x[e + 5] * y[e + 5]
        s6 += x[e + 6] * y[e + 6]
        s7 += x[e + 7] * y[e + 7]
    for e in range(whole, x.size):
        s0 += x[e] * y[e]
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@kernel
def _reduce(A):
    """A (m, n) becomes L; what is right of its diagonal is not to be read."""
    m, n = A.shape
    least = min(m, n)
    V, transposed, T = np.empty((_BLOCK, n), A.dtype), np.empty((n, _BLOCK), A.dtype), np.empty((_BLOCK, _BLOCK), A.dtype)
    below, weighted = np.empty((m, _BLOCK), A.dtype), np.empty((_BLOCK, m), A.dtype)
    for first in range(0, least, _BLOCK):
        size = min(_BLOCK, least - first)
        V[:] = 0.0
        T[:] = 0.0
        for j in range(size):
            k = first + j
            v, x = V[j], A[k]
            v[k:] = x[k:]
            length = math.sqrt(_dot(v[k:], v[k:]))
            x[k] = -math.copysign(length, v[k])
            v[k] -= x[k]
            squares = _dot(v[k:], v[k:])
            tau = v.dtype.type(2.0) / squares if squares != 0.0 else v.dtype.type(0.0)
            for i in range(k + 1, first + size):
                row = A[i]
                share = tau * _dot(row[k:], v[k:])
                for c in range(k, n):
                    row[c] -= share * v[c]
            T[j, j] = tau
            for i in range(j):
                seen = -tau * _dot(V[i, k:], v[k:])
                for r in range(i + 1):
                    T[r, j] += T[r, i] * seen
        rest = m - first - size
        if rest == 0:
            break
        for j in range(_BLOCK):
            for c in range(n):
                transposed[c, j] = V[j, c]
        C = A[first + size :]
        product(C, transposed, below[:rest])
        weights = weighted.reshape(-1)[: _BLOCK * rest].reshape(_BLOCK, rest)
        for j in range(_BLOCK):
            for r in range(rest):
                total = A.dtype.type(0.0)
                for i in range(j + 1):
                    total -= below[r, i] * T[i, j]
                weights[j, r] = total
        add_outer(weights, V, C)
