"""One large matrix: Golub and Kahan's process, and the solves with an LU factorization that it needs for the smallest singular value.

Equation (6) of `adaptode.spectral`.
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import kernel
from .bidiagonal import bidiagonal_extreme
from .simd import WIDTH, add, full, load, madd, msub, store

RESIDUAL = 1e-13  # relative to σ²


@kernel(forceinline=True)
def _sum(s):
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))


@kernel
def _inner(x, y):
    """⟨x, y⟩ in sixteen partial sums."""
    n = x.size
    one, two = full(0.0), full(0.0)
    i = 0
    while i + 2 * WIDTH <= n:
        one = madd(load(x, i), load(y, i), one)
        two = madd(load(x, i + WIDTH), load(y, i + WIDTH), two)
        i += 2 * WIDTH
    total = _sum(add(one, two))
    while i < n:
        total += x[i] * y[i]
        i += 1
    return total


@kernel
def _subtract(factor, x, y):
    """y −= factor x"""
    n = x.size
    for i in range(n):
        y[i] -= factor * x[i]


@kernel
def _four_inner(a, j, n, start, stop, x, sums):
    """sums = ⟨a_j+c [start : stop], x [start : stop]⟩ for four rows of a, flat (n, n); rows past the last count as the last."""
    r_0, r_1, r_2, r_3 = j * n, min(j + 1, n - 1) * n, min(j + 2, n - 1) * n, min(j + 3, n - 1) * n
    s_0 = s_1 = s_2 = s_3 = full(0.0)
    i = start
    while i + WIDTH <= stop:
        x_i = load(x, i)
        s_0, s_1 = madd(load(a, r_0 + i), x_i, s_0), madd(load(a, r_1 + i), x_i, s_1)
        s_2, s_3 = madd(load(a, r_2 + i), x_i, s_2), madd(load(a, r_3 + i), x_i, s_3)
        i += WIDTH
    t_0, t_1, t_2, t_3 = _sum(s_0), _sum(s_1), _sum(s_2), _sum(s_3)
    while i < stop:
        t_0 += a[r_0 + i] * x[i]
        t_1 += a[r_1 + i] * x[i]
        t_2 += a[r_2 + i] * x[i]
        t_3 += a[r_3 + i] * x[i]
        i += 1
    sums[0], sums[1], sums[2], sums[3] = t_0, t_1, t_2, t_3


@kernel
def _subtract_four(a, j, n, start, stop, factors, at, x):
    """x −= Σ_c factors[at + c] a_j+c on [start : stop], for four rows of a, flat (n, n); fewer factors count as zeros."""
    r_0, r_1, r_2, r_3 = j * n, min(j + 1, n - 1) * n, min(j + 2, n - 1) * n, min(j + 3, n - 1) * n
    size = factors.size - at
    f_0, f_1 = factors[at], factors[at + 1] if size > 1 else 0.0
    f_2, f_3 = factors[at + 2] if size > 2 else 0.0, factors[at + 3] if size > 3 else 0.0
    v_0, v_1, v_2, v_3 = full(f_0), full(f_1), full(f_2), full(f_3)
    i = start
    while i + WIDTH <= stop:
        total = msub(v_1, load(a, r_1 + i), msub(v_0, load(a, r_0 + i), load(x, i)))
        store(x, i, msub(v_3, load(a, r_3 + i), msub(v_2, load(a, r_2 + i), total)))
        i += WIDTH
    while i < stop:
        x[i] -= (f_0 * a[r_0 + i] + f_1 * a[r_1 + i]) + (f_2 * a[r_2 + i] + f_3 * a[r_3 + i])
        i += 1


@kernel
def _solve_lu(lu, swaps, transposed, x, sums):
    """x becomes J⁻ᵀ x, or J⁻¹ x (`transposed`), with the factors of Jᵀ as LAPACK leaves them: lu[j] is column j. Four columns at a time."""
    n = x.size
    a = lu.reshape(n * n)
    last = (n - 1) // 4 * 4
    if transposed:
        for j in range(0, n, 4):
            _four_inner(a, j, n, 0, j, x, sums)
            for c in range(j, min(j + 4, n)):
                total = x[c] - sums[c - j]
                for i in range(j, c):
                    total -= lu[c, i] * x[i]
                x[c] = total / lu[c, c]
        for j in range(last, -1, -4):
            end = min(j + 4, n)
            _four_inner(a, j, n, end, n, x, sums)
            for c in range(end - 1, j - 1, -1):
                total = x[c] - sums[c - j]
                for i in range(c + 1, end):
                    total -= lu[c, i] * x[i]
                x[c] = total
        for j in range(n - 1, -1, -1):
            p = swaps[j]
            x[j], x[p] = x[p], x[j]
    else:
        for j in range(n):
            p = swaps[j]
            x[j], x[p] = x[p], x[j]
        for j in range(0, n, 4):
            end = min(j + 4, n)
            for c in range(j, end):
                for i in range(c + 1, end):
                    x[i] -= x[c] * lu[c, i]
            _subtract_four(a, j, n, end, n, x, j, x)
        for j in range(last, -1, -4):
            for c in range(min(j + 4, n) - 1, j - 1, -1):
                x[c] /= lu[c, c]
                for i in range(j, c):
                    x[i] -= x[c] * lu[c, i]
            _subtract_four(a, j, n, 0, j, x, j, x)


@kernel
def _gram(J, x, sums, out):
    """out = JᵀJ x, four rows of J at a time, which are read once."""
    n = x.size
    a = J.reshape(n * n)
    out[:] = 0.0
    for j in range(0, n, 4):
        _four_inner(a, j, n, 0, n, x, sums)
        for c in range(min(n - j, 4), 4):
            sums[c] = 0.0
        _subtract_four(a, j, n, 0, n, sums, 0, out)
    for i in range(n):
        out[i] = -out[i]


@kernel
def _apply(J, lu, swaps, x, sums, out):
    """out = AᵀA x, A = J, or J⁻¹ where there are factors."""
    if lu.size == 0:
        _gram(J, x, sums, out)
    else:
        out[:] = x
        _solve_lu(lu, swaps, True, out, sums)
        _solve_lu(lu, swaps, False, out, sums)


@kernel
def _factors(diagonal, off, size, d, f):
    """d and f of (1), flat (size, 8), from T's diagonal and off-diagonal, T moved up by some ulps so that rounding leaves it positive."""
    shift = 16.0 * 2.2e-16 * diagonal[:size].max()
    q = shift
    for i in range(size - 1, -1, -1):
        upper = off[i] / math.sqrt(q) if i < size - 1 else 0.0
        q = max((diagonal[i] + shift) - upper * upper, 0.25 * shift)
        for l in range(WIDTH):
            d[WIDTH * i + l], f[WIDTH * i + l] = math.sqrt(q), upper


@kernel
def krylov_extreme(J, lu, swaps, start, basis, u_out, v_out):
    """Equation (6): the largest singular value of A, its vectors into u_out and v_out; for A = J⁻¹ turned into those of J's smallest.

    basis : (steps + 1, n), room for v_k
    returns sigma, certified
    """
    n, steps = start.size, basis.shape[0] - 1
    d, f, x, v = np.empty(WIDTH * steps), np.empty(WIDTH * steps), np.empty(WIDTH * steps), np.empty(WIDTH * steps)
    work, sigma, certified = np.empty(6 * WIDTH * steps), np.empty(WIDTH), np.empty(WIDTH, np.bool_)
    diagonal, off = np.empty(steps), np.empty(steps)
    r, product, sums = np.empty(n), np.empty(n), np.empty(4)
    basis[0] = start
    check, size, found = 6, 0, False
    for k in range(steps):
        _apply(J, lu, swaps, basis[k], sums, r)
        diagonal[k] = _inner(r, basis[k])
        if not (diagonal[k] > 0.0 and math.isfinite(diagonal[k])):
            break
        before = math.sqrt(_inner(r, r))
        seen = basis[: k + 1]
        for _ in range(3):  # the first pass subtracts what is known too; after it, twice is enough
            np.dot(seen.T, np.dot(seen, r), product)
            _subtract(1.0, product, r)
            off[k] = math.sqrt(_inner(r, r))
            if off[k] > 0.7 * before:
                break
            before = off[k]
        size = k + 1
        if size == check or size == steps or off[k] == 0.0:
            check += max(3, check // 8)
            _factors(diagonal, off, size, d, f)
            m = WIDTH * size
            bidiagonal_extreme(d[:m], f[:m], size, -1.0, x[:m], v[:m], work, sigma, certified)
            if certified[0] and off[k] * abs(x[m - WIDTH]) <= RESIDUAL * sigma[0] ** 2:
                found = True
                break
        if off[k] == 0.0:
            break
        for i in range(n):
            basis[k + 1, i] = r[i] / off[k]
    if not found:
        return math.nan, False
    np.dot(basis[:size].T, np.ascontiguousarray(x[: WIDTH * size : WIDTH]), r)
    norm = math.sqrt(_inner(r, r))
    for i in range(n):
        r[i] /= norm
    inverted = lu.size > 0
    if inverted:
        product[:] = r
        _solve_lu(lu, swaps, True, product, sums)
    else:
        np.dot(J, r, product)
    norm = math.sqrt(_inner(product, product))
    for i in range(n):
        product[i] /= norm
        u_out[i], v_out[i] = (r[i], product[i]) if inverted else (product[i], r[i])
    return (1.0 / norm if inverted else norm), True
