"""Bidiagonal matrices, eight at a time, one a lane: the reduction to them, and their largest and smallest singular values with vectors.

Equations (1)–(5) of `adaptode.spectral`.
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import kernel
from .simd import WIDTH, add, div, full, load, madd, msub, mul, store, sub, where

ROUNDS = 40
CONVERGED = 1e-14  # ρ/θ
GAP = 1e-6  # between σ² of neighbours, relative
ANGLE = CONVERGED / GAP


@kernel
def _pivots(q, e, n, s, sign, D):
    """(2): D, and how many of them have not the sign `sign`, a lane."""
    zero, one = full(0.0), full(1.0)
    wrong = zero
    t = sub(load(q, 0), s)
    for i in range(n):
        pivot = add(t, load(e, WIDTH * i))
        store(D, WIDTH * i, pivot)
        wrong = add(wrong, where(mul(sign, pivot), zero, one))
        if i < n - 1:
            t = sub(mul(t, div(load(q, WIDTH * (i + 1)), pivot)), s)
    return wrong


@kernel
def _solve(off, inverse, n, x, y):
    """(T − s) y = x with inverse = 1/D."""
    previous = load(x, 0)
    store(y, 0, previous)
    for i in range(1, n):
        a = WIDTH * i
        previous = msub(mul(load(off, a - WIDTH), load(inverse, a - WIDTH)), previous, load(x, a))
        store(y, a, previous)
    previous = mul(previous, load(inverse, WIDTH * (n - 1)))
    store(y, WIDTH * (n - 1), previous)
    for i in range(n - 2, -1, -1):
        a = WIDTH * i
        previous = mul(load(inverse, a), msub(load(off, a), previous, load(y, a)))
        store(y, a, previous)


@kernel
def _dot(x, y, n):
    total = full(0.0)
    for i in range(0, WIDTH * n, WIDTH):
        total = madd(load(x, i), load(y, i), total)
    return total


@kernel
def _scale(x, factor, n):
    for i in range(0, WIDTH * n, WIDTH):
        store(x, i, mul(factor, load(x, i)))


@kernel
def _power(x, exponent):
    """x to the power 1/2 or −1/2, a lane, of a tuple."""
    out = np.empty(WIDTH)
    for l in range(WIDTH):
        root = math.sqrt(x[l])
        out[l] = root if exponent > 0.0 else 1.0 / root
    return load(out, 0)


@kernel
def bidiagonal_extreme(d, f, n, end, x, v, work, sigma, certified):
    """Equations (1)–(5) for eight bidiagonal matrices: d, f, x = Pᵀu and v flat (n, 8), sigma and certified (8,); f[n − 1] = 0.

    end : 1.0 for the smallest singular value, −1.0 for the largest
    """
    m = WIDTH * n
    q, e, off, D, inverse, y = work[:m], work[m : 2 * m], work[2 * m : 3 * m], work[3 * m : 4 * m], work[4 * m : 5 * m], work[5 * m : 6 * m]
    done, trial, theta, rho, bound = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH), np.empty(WIDTH), np.zeros(WIDTH)
    sign = full(end)
    for i in range(m):
        q[i], e[i] = d[i] * d[i], f[i] * f[i]
        off[i] = f[i] * d[i + WIDTH] if i < m - WIDTH else 0.0
        before, own = (abs(off[i - WIDTH]), x[i - WIDTH]) if i >= WIDTH else (0.0, 1.0)
        # the signs of the vector sought, by Perron and Frobenius: the start cannot be orthogonal to it
        x[i] = own * (-end if i >= WIDTH and off[i - WIDTH] > 0.0 else end if i >= WIDTH else 1.0)
        bound[i % WIDTH] = max(bound[i % WIDTH], (q[i] + e[i]) + (before + abs(off[i])))
    for l in range(WIDTH):
        trial[l] = 0.0 if end > 0.0 else bound[l] * (1.0 + 1e-10)
    shift = load(trial, 0)
    _pivots(q, e, n, shift, sign, D)
    for i in range(0, m, WIDTH):
        store(inverse, i, div(full(1.0), load(D, i)))
    _scale(x, full(1.0 / math.sqrt(n)), n)
    margin = 4.0 * n * 2.2e-16

    for _ in range(ROUNDS):
        _solve(off, inverse, n, x, y)
        scale = _power(_dot(y, y, n), -1.0)
        _scale(y, scale, n)
        c = _dot(x, y, n)
        active = sub(full(1.0), load(done, 0))
        squares = full(0.0)
        for i in range(0, m, WIDTH):
            new, old = load(y, i), load(x, i)
            miss = msub(c, new, old)
            squares = madd(miss, miss, squares)
            store(x, i, where(active, new, old))
        left = 0
        for l in range(WIDTH):
            if done[l] == 0.0:
                theta[l] = shift[l] + c[l] * scale[l]
                rho[l] = math.sqrt(squares[l]) * scale[l]
                if rho[l] <= CONVERGED * theta[l]:
                    done[l] = 1.0
                elif math.isfinite(rho[l]):
                    left += 1
            trial[l] = theta[l] - end * (rho[l] + margin * theta[l])
        if left == 0:
            break
        new_shift = load(trial, 0)
        wrong = _pivots(q, e, n, new_shift, sign, D)
        better = where(sub(full(0.5), wrong), mul(sign, sub(new_shift, shift)), full(0.0))  # not past the end, and nearer to it than before
        better = where(sub(full(1.0), load(done, 0)), better, full(0.0))
        shift = where(better, new_shift, shift)
        for i in range(0, m, WIDTH):
            store(inverse, i, where(better, div(full(1.0), load(D, i)), load(inverse, i)))

    for l in range(WIDTH):
        trial[l] = theta[l] * (1.0 + end * GAP)
    wrong = _pivots(q, e, n, load(trial, 0), sign, D)
    for l in range(WIDTH):
        certified[l] = done[l] == 1.0 and wrong[l] == 1.0
    if end > 0.0:
        w = full(0.0)
        for i in range(m - WIDTH, -1, -WIDTH):
            w = div(msub(load(f, i), w, load(x, i)), load(d, i))
            store(v, i, w)
    else:
        w = full(0.0)
        for i in range(0, m, WIDTH):
            store(v, i, madd(load(d, i), load(x, i), w))
            w = mul(load(f, i), load(x, i))
    squares = _dot(v, v, n)
    _scale(v, _power(squares, -1.0), n)
    size = _power(squares, -end)
    for l in range(WIDTH):
        sigma[l] = size[l]


# --- the whole reduction, eight matrices a time -----------------------------------------------------------------------------


@kernel
def _reflection(x, n, tau, beta):
    """1 − τ h hᵀ that makes x = (β, 0 …): h replaces x, its first element 1; x flat (n, 8)."""
    squares = full(0.0)
    for i in range(WIDTH, WIDTH * n, WIDTH):
        a = load(x, i)
        squares = madd(a, a, squares)
    for l in range(WIDTH):
        first = x[l]
        if squares[l] == 0.0:
            tau[l], beta[l], x[l] = 0.0, first, 1.0
        else:
            beta[l] = -math.copysign(math.sqrt(first * first + squares[l]), first)
            tau[l] = (beta[l] - first) / beta[l]
            x[l] = 1.0 / (first - beta[l])
    factor = load(x, 0)
    store(x, 0, full(1.0))
    _scale(x[WIDTH:], factor, n - 1)


@kernel
def _bidiagonalize(A, n, d, f, left, right, work):
    """Householder's reduction of eight matrices, A flat (n, n, 8): vectors h of the left reflections in its columns, of the right in its rows.

    With h, g the vectors of a step and z = τ Aᵀ h, x = τ′ (A − h zᵀ) g, the next matrix is A − h zᵀ − x gᵀ. It is made where the next step reads it for its z.
    """
    m = WIDTH * n
    h, z, x, g, new, column = work[:m], work[m : 2 * m], work[2 * m : 3 * m], work[3 * m : 4 * m], work[4 * m : 5 * m], work[5 * m : 6 * m]
    work[: 4 * m] = 0.0
    for k in range(n):
        at = WIDTH * k
        z_k, g_k = load(z, at), load(g, at)
        for i in range(at, m, WIDTH):
            store(new, i, msub(load(x, i), g_k, msub(load(h, i), z_k, load(A, i * n + at))))
        _reflection(new[at:m], n - k, left[at : at + WIDTH], d[at : at + WIDTH])
        for i in range(at, m, WIDTH):
            store(A, i * n + at, load(new, i))
        if k == n - 1:
            break
        column[at:] = 0.0
        for i in range(at, m - WIDTH, 2 * WIDTH):
            _update_two(A, n, at, i, h, z, x, g, new, column)
        if (n - k) % 2 == 1:
            i = m - WIDTH
            h_0, x_0, new_0 = load(h, i), load(x, i), load(new, i)
            for j in range(at + WIDTH, m, WIDTH):
                a = msub(x_0, load(g, j), msub(h_0, load(z, j), load(A, i * n + j)))
                store(A, i * n + j, a)
                store(column, j, madd(new_0, a, load(column, j)))
        tau = load(left, at)
        for j in range(at + WIDTH, m, WIDTH):
            z_j = mul(tau, load(column, j))
            store(z, j, z_j)
            store(g, j, sub(load(A, at * n + j), z_j))
        _reflection(g[at + WIDTH : m], n - k - 1, right[at : at + WIDTH], f[at : at + WIDTH])
        for j in range(at + WIDTH, m, WIDTH):
            store(A, at * n + j, load(g, j))
        s, tau = _dot(z[at + WIDTH : m], g[at + WIDTH : m], n - k - 1), load(right, at)
        i = at + WIDTH
        while i < m:
            rows = 4 if i + 3 * WIDTH < m else 1
            if rows == 4:
                _four_products(A, n, at + WIDTH, i, g, x)
            else:
                total = full(0.0)
                for j in range(at + WIDTH, m, WIDTH):
                    total = madd(load(A, i * n + j), load(g, j), total)
                store(x, i, total)
            i += rows * WIDTH
        for i in range(at + WIDTH, m, WIDTH):
            store(x, i, mul(tau, msub(load(new, i), s, load(x, i))))
        h[at:] = new[at:]
    f[m - WIDTH :] = 0.0


@kernel(forceinline=True)
def _update_two(A, n, at, i, h, z, x, g, new, column):
    """Two rows of the next matrix, and their share in Aᵀ h."""
    m, r = WIDTH * n, i + WIDTH
    h_0, h_1, x_0, x_1, new_0, new_1 = load(h, i), load(h, r), load(x, i), load(x, r), load(new, i), load(new, r)
    for j in range(at + WIDTH, m, WIDTH):
        z_j, g_j, p = load(z, j), load(g, j), i * n + j
        a_0, a_1, total = load(A, p), load(A, p + m), load(column, j)
        a_0 = msub(x_0, g_j, msub(h_0, z_j, a_0))
        a_1 = msub(x_1, g_j, msub(h_1, z_j, a_1))
        total = madd(new_1, a_1, madd(new_0, a_0, total))
        store(A, p, a_0)
        store(A, p + m, a_1)
        store(column, j, total)


@kernel(forceinline=True)
def _four_products(A, n, start, i, g, x):
    """Four elements of A g."""
    m = WIDTH * n
    s_0 = s_1 = s_2 = s_3 = full(0.0)
    for j in range(start, m, WIDTH):
        g_j, p = load(g, j), i * n + j
        s_0, s_1 = madd(load(A, p), g_j, s_0), madd(load(A, p + m), g_j, s_1)
        s_2, s_3 = madd(load(A, p + 2 * m), g_j, s_2), madd(load(A, p + 3 * m), g_j, s_3)
    store(x, i, s_0)
    store(x, i + WIDTH, s_1)
    store(x, i + 2 * WIDTH, s_2)
    store(x, i + 3 * WIDTH, s_3)


@kernel
def _reflect(A, n, tau, x, rows):
    """P x (rows = 0) or Q x (rows = 1) in place: the reflections of `_bidiagonalize`, the last first."""
    m = WIDTH * n
    for k in range(n - 2, -1, -1):
        at = WIDTH * k
        start = at + WIDTH * rows
        base, step = (at * n, 1) if rows == 1 else (at, n)
        total = full(0.0)
        for i in range(start, m, WIDTH):
            total = madd(load(A, base + i * step), load(x, i), total)
        total = mul(load(tau, at), total)
        for i in range(start, m, WIDTH):
            store(x, i, msub(total, load(A, base + i * step), load(x, i)))


@kernel
def reduced_extremes(J, scale, bottom, memory, s_1, u_1, v_1, certified_1, s_n, u_n, v_n, certified_n):
    """`extremes` by the whole reduction; memory of 8 n (n + 6) for what is read most."""
    batch, n, _ = J.shape
    m = WIDTH * n
    A, work, x, v = memory[: n * m], memory[n * m :], np.empty(m), np.empty(m)
    d, f, left, right = np.empty(m), np.empty(m), np.empty(m), np.empty(m)
    sigma, certified = np.empty(WIDTH), np.empty(WIDTH, np.bool_)
    for first in range(0, batch, WIDTH):
        for l in range(WIDTH):
            b = min(first + l, batch - 1)
            one, factor = J[b].reshape(n * n), 1.0 / scale[b]
            for i in range(n * n):
                A[WIDTH * i + l] = one[i] * factor
        _bidiagonalize(A, n, d, f, left, right, work)
        for end in (-1.0, 1.0):
            if end > 0.0 and not bottom:
                continue
            bidiagonal_extreme(d, f, n, end, x, v, work, sigma, certified)
            _reflect(A, n, left, x, 0)
            _reflect(A, n, right, v, 1)
            for l in range(min(WIDTH, batch - first)):
                b = first + l
                values, u_out, v_out, sure = (s_n, u_n, v_n, certified_n) if end > 0.0 else (s_1, u_1, v_1, certified_1)
                values[b], sure[b] = sigma[l], certified[l]
                for i in range(n):
                    u_out[b, i], v_out[b, i] = x[WIDTH * i + l], v[WIDTH * i + l]
