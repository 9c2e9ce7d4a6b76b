"""The largest and the smallest singular value of many square matrices, with their vectors, and without an SVD of each.

Let J = P B Qᵀ with P, Q orthogonal and B upper bidiagonal, diagonal d, superdiagonal f, and T = B Bᵀ, tridiagonal:

(1)  T_ii = q_i + e_i,   T_i,i+1 = f_i d_i+1,   q = d², e = f²                        eigenvalues σ², eigenvectors P ᵀu
(2)  T − s = L D Lᵀ:   t_1 = q_1 − s,   D_i = t_i + e_i,   t_i+1 = t_i q_i+1 / D_i − s                              [FP94]
     s < σ_n²  ⟺  all D_i > 0,      s > σ_1²  ⟺  all D_i < 0,      σ² below s: as many as D_i < 0                   [GV13, 8.4]
(3)  inverse iteration, |x| = 1:   (T − s) y = x,   ν = |y|,   x⁺ = y / ν,   c = ⟨x, x⁺⟩
     θ = s + c / ν,   ρ = |T x⁺ − θ x⁺| = |x − c x⁺| / ν
(4)  s⁺ = θ ∓ ρ, taken where the signs of (2) say that it has not passed the end of the spectrum: convergence is then at least quadratic
(5)  bottom: B w = x, σ = 1/|w|, v = w/|w|        top: w = Bᵀ x, σ = |w|, v = w/|w|

B comes from n − 1 pairs of reflections where n <= `LARGEST`, eight matrices at a time, one a lane, their rank-two updates fused with the products of the next
pair [HDFHW08]. Above, where eight matrices do not fit the cache, it is k × k with k ≪ n, from k steps of Golub and Kahan's process on J for the top
and, by the triangular solves of one LU factorization, on its inverse for the bottom:

(6)  A v_k = β_k−1 u_k−1 + α_k u_k,   Aᵀ u_k = α_k v_k + β_k v_k+1,   A = J or J⁻¹,   d = α, f = β; v reorthogonalized      [GV13, 10.4; SZ00]
     |Aᵀ u − σ v| = β_k |x_k|  for the top triplet of B,  u = A v / σ

Accuracy: a triplet is `certified` where ρ <= 1e-14 θ and a count by (2) finds no other σ² within 1e-6 θ of θ, so that its vectors make an angle of at most
1e-8 with those of B [GV13, 8.1]; in (6) where the residual is at most 1e-8 of the gap, and at most 1e-13 σ, besides. B has J's singular values to
rounding, n eps σ_1, as an SVD has. Samples that are not certified (σ_1 or σ_n repeated, or nearly, or J singular) are the caller's: `numpy.linalg.svd`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._jit import kernel
from .simd import WIDTH, add, div, full, load, madd, msub, mul, store, sub, where

Array = NDArray[np.float64]

LARGEST = 128  # n up to which the whole B is made
ROUNDS = 40
CONVERGED = 1e-14  # ρ/θ
GAP = 1e-6  # between σ² of neighbours, relative
ANGLE = CONVERGED / GAP
RESIDUAL = 1e-13  # of (6), relative to σ


def most_steps(n: int) -> int:
    """Of (6), at most; an SVD costs no more."""
    return n // 2



class Triplets(NamedTuple):
    """sigma (B,), u and v (B, n) with J v = σ u, Jᵀ u = σ v, and certified (B,), False where these are not to be used."""

    sigma: Array
    u: Array
    v: Array
    certified: NDArray[np.bool_]


def extremes(J: Array, scale: Array, bottom: bool = True) -> tuple[Triplets, Triplets | None]:
    """The triplets of σ_1 and (if `bottom`) of σ_n of J / scale, J (B, n, n), n >= 3: float64, C-contiguous, finite.

    scale : (B,), powers of two such that no entry of J / scale is above 1

    Deterministic, and for every sample the same numbers whatever the others are.
    """
    batch, n, _ = J.shape
    ends = [Triplets(np.empty(batch), np.empty((batch, n)), np.empty((batch, n)), np.zeros(batch, np.bool_)) for _ in range(2 if bottom else 1)]
    top, low = ends[0], ends[-1]
    if n <= LARGEST:
        reduced_extremes(J, scale, bottom, _aligned(WIDTH * n * (n + 6)), *top, *low)
    else:
        _krylov_extremes(J, scale, top, low if bottom else None)
    return top, low if bottom else None


def _aligned(size: int) -> Array:
    """(size,) that starts with a cache line: a vector of eight then lies in one."""
    memory = np.empty(size + WIDTH)
    first = -(memory.ctypes.data // 8) % WIDTH
    return memory[first : first + size]


# --- eight bidiagonal matrices ----------------------------------------------------------------------------------------------


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


# --- one large matrix -------------------------------------------------------------------------------------------------------


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


def _krylov_extremes(J: Array, scale: Array, top: Triplets, bottom: Triplets | None) -> None:
    """`extremes` by equation (6), a sample at a time."""
    from scipy.linalg.lapack import dgetrf

    n = J.shape[-1]
    start = np.random.default_rng(0).standard_normal(n)
    start /= np.linalg.norm(start)
    basis, scaled, factors = np.empty((most_steps(n) + 1, n)), _aligned(n * n).reshape(n, n), _aligned(n * n).reshape(n, n)
    none, no_swaps = np.empty((0, n)), np.empty(0, np.int64)
    for b in range(J.shape[0]):
        np.multiply(J[b], 1.0 / scale[b], out=scaled)
        top.sigma[b], top.certified[b] = krylov_extreme(scaled, none, no_swaps, start, basis, top.u[b], top.v[b])
        if bottom is not None:
            factors[:] = scaled
            _, swaps, info = dgetrf(factors.T, overwrite_a=True)
            if info == 0:
                bottom.sigma[b], bottom.certified[b] = krylov_extreme(scaled, factors, swaps.astype(np.int64), start, basis, bottom.u[b], bottom.v[b])
