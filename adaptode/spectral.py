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
pair [How08]. Above, where eight matrices do not fit the cache, it is k × k with k ≪ n, from k steps of Lanczos's process on AᵀA, A = J for the top and, by
the triangular solves of one LU factorization, A = J⁻¹ for the bottom:

(6)  AᵀA v_k = β_k−1 v_k−1 + α_k v_k + β_k v_k+1, all v_k kept orthogonal,   T = tridiag(β, α, β) = B Bᵀ,   T x = σ² x          [GV13, 10.1–10.4]
     v = Σ_k x_k v_k,   |AᵀA v − σ² v| = β_k |x_k|,   u = A v / |A v|

Accuracy: a triplet is `certified` where ρ <= 1e-14 θ and a count by (2) finds no other σ² within 1e-6 θ of θ, so that its vectors make an angle of at most
1e-8 with those of B [GV13, 8.1], and in (6) where the residual is besides at most 1e-13 σ²: 1e-7 then, if the process has not missed a σ² so near. B has
J's singular values to rounding, n eps σ_1, as an SVD has. Samples that are not certified (σ_1 or σ_n repeated, or nearly, or J singular) are the caller's:
`numpy.linalg.svd`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bidiagonal import reduced_extremes
from .krylov import krylov_extreme
from .simd import WIDTH

Array = NDArray[np.float64]

LARGEST = 128  # n up to which the whole B is made


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
