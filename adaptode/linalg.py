"""Singular values of many matrices, and the gradients of what is made of them.

Each quantity is a pair: `foo(J) -> (value, cache)` with value (B,), and `foo_vjp(cache, bar) -> J_bar` with bar (B,),
J_bar like J. J is (B, n, n), float64 or float32, one matrix a sample; the work is done in float64 and returned in J's
dtype. n = 1 is trivial, n = 2 a closed form, n > 2 `adaptode.spectral`, and `numpy.linalg.svd` for the samples that it
does not vouch for (`cache.by_svd` says how many). A sample with a NaN or inf in it has the value NaN and a gradient of
NaN; the others are not touched by it.

J_bar is a sum of few outer products, sum_m w_m u_m^T: two for kappa, one for the spectral norm. `directions(cache, bar)`
gives u and w, which is all that a field's `bilinear_vjp` needs: sum_m <w_m, J u_m> = <J_bar, J>.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._jit import JIT_DISABLED
from .errors import InputError, SingularJacobianError
from .room import empty
from .spectral import Triplets, extremes

Array = NDArray[np.float64]

# The ends of the float range give inf or 0 and no warning: a gradient of kappa at entries of 1e-308 is that large.
_quiet = np.errstate(over="ignore", under="ignore")


class Slope(NamedTuple):
    """A gradient with respect to J in few directions, sum_m w_m u_m^T: w and u are (B, M, n). u = None: the n unit vectors."""

    w: Array
    u: Array | None


class Gradient(NamedTuple):
    """What a VJP keeps of its forward: d value / d J, the dtype of J, and the number of samples that took an SVD."""

    slope: Slope
    dtype: DTypeLike
    by_svd: int = 0


class Extremes(NamedTuple):
    """The largest and smallest singular values, (B,), their gradients with respect to J, and how many took an SVD."""

    largest: Array
    smallest: Array
    d_largest: Slope
    d_smallest: Slope
    by_svd: int = 0


@_quiet
def directions(cache: Gradient, bar: ArrayLike) -> tuple[Array, Array]:
    """The cotangent of J, bar dv/dJ = sum_m w_m u_m^T, as u and w, both (B, M, n)."""
    slope = cache.slope
    w = (_column(_checked(cache, bar)) * slope.w).astype(cache.dtype, copy=False)
    if slope.u is None:
        return np.broadcast_to(np.eye(w.shape[-1], dtype=cache.dtype), w.shape), w
    return slope.u.astype(cache.dtype, copy=False), w


@_quiet
def scaled(cache: Gradient, factor: ArrayLike) -> Gradient:
    """The gradient of a function of the quantity, whose slope in it is factor (B,)."""
    return cache._replace(slope=cache.slope._replace(w=_column(_checked(cache, factor)) * cache.slope.w))


@_quiet
def cotangent(cache: Gradient, bar: ArrayLike) -> Array:
    """The cotangent of J itself, bar dv/dJ, (B, n, n)."""
    w, u = cache.slope
    if u is None:
        J_bar = np.multiply(_column(_checked(cache, bar)), w.transpose(0, 2, 1), out=empty(w.shape, w.dtype))
    else:
        J_bar = (_column(_checked(cache, bar)) * w).transpose(0, 2, 1) @ u
    return J_bar.astype(cache.dtype, copy=False)


# --- Frobenius norm ---------------------------------------------------------------------------------------------------


@_quiet
def frobenius(J: ArrayLike) -> tuple[Array, Gradient]:
    """Frobenius norm of each matrix.

    v = sqrt( sum_ij J_ij^2 ),   dv/dJ = J / v                                              [GV13, 2.3]

    J : (B, n, n), units of 1 / time for the Jacobian of a vector field
    returns v (B,) >= 0, in J's units, and what `frobenius_vjp` needs

    Not differentiable at J = 0, where the gradient is taken to be 0. Entries from 1e-300 to 1e300 are safe.
    """
    J, scale, dtype, finite = _batch(J)
    slope = np.divide(J, _column(scale), out=empty(J.shape, J.dtype))
    norm = np.sqrt(np.einsum("bij,bij->b", slope, slope))
    slope *= _column(_ratio(1.0, norm))
    return _masked(norm * scale, Slope(slope.transpose(0, 2, 1), None), dtype, finite)


def frobenius_vjp(cache: Gradient, bar: ArrayLike) -> Array:
    """Cotangent of J: bar dv/dJ, bar (B,)."""
    return cotangent(cache, bar)


# --- spectral norm ----------------------------------------------------------------------------------------------------


@_quiet
def spectral(J: ArrayLike) -> tuple[Array, Gradient]:
    """Spectral norm (largest singular value) of each matrix.

    v = s_1,   dv/dJ = u_1 v_1^T                                                            [GV13, 2.4]

    J : (B, n, n)
    returns v (B,) >= 0, in J's units, and what `spectral_vjp` needs

    Not differentiable where s_1 = s_2. There the result is an element of the subdifferential: u v^T of one pair of
    singular vectors for n > 2, the mean of the two for n = 2, and 0 at J = 0.
    """
    J, scale, dtype, finite = _batch(J)
    ends = _extremes(J, scale, smallest=False)
    return _masked(ends.largest * scale, ends.d_largest, dtype, finite, ends.by_svd)


def spectral_vjp(cache: Gradient, bar: ArrayLike) -> Array:
    """Cotangent of J: bar dv/dJ, bar (B,)."""
    return cotangent(cache, bar)


# --- condition number -------------------------------------------------------------------------------------------------


@_quiet
def condition(J: ArrayLike, floor: float = 0.0) -> tuple[Array, Gradient]:
    """Condition number of each matrix in the spectral norm, or its bounded surrogate.

    kappa = s_1 / s_n = 1 / r                                                               [JB22; GV13, 2.6]
    kappa_floor = s_1 / sqrt(s_n^2 + (floor s_1)^2) = (r^2 + floor^2)^(-1/2)
    d kappa_floor / dJ = -kappa_floor^3 r dr/dJ,   dr/dJ = (u_n v_n^T - r u_1 v_1^T) / s_1

    J     : (B, n, n)
    floor : >= 0, dimensionless
    returns kappa_floor (B,), dimensionless, and what `condition_vjp` needs

    With floor = 0 this is kappa itself. With floor > 0 it is smooth up to and at a singular J, never above 1 / floor,
    and differs from kappa by the factor (1 + (floor kappa)^2)^(-1/2): a floor of 1e-3 changes a kappa of 30 by 5 parts
    in 10 000. Invariant under J -> c J; its gradient grows as 1 / |J|. Where r = 1 (to n ulps) kappa has a kink and its
    minimum: the gradient is 0 there. Where s_1 or s_n is repeated, one pair of singular vectors is taken.

    SingularJacobianError: J = 0; or floor = 0 and s_n <= n eps s_1, eps that of J's dtype: J is singular as far as its
    rounding can tell.
    """
    if not 0.0 <= floor < np.inf:
        raise InputError(f"floor must be a number >= 0, not {floor!r}")
    J, scale, dtype, finite = _batch(J)
    n = J.shape[-1]
    ends = _extremes(J, scale)
    singular = ends.largest == 0.0
    if floor == 0.0:
        singular |= ends.smallest <= n * np.finfo(dtype).eps * ends.largest
    if singular.any():
        _refuse(singular, ends, scale)
    r = ends.smallest / ends.largest
    kappa = 1.0 / np.hypot(r, floor)
    tie = 1.0 - r <= n * np.finfo(np.float64).eps
    outer = np.where(tie, 0.0, -(kappa**3) * r) / ends.largest  # times dr/dJ s_1
    # of scaled J; J's own is larger by 1 / scale
    slope = _combined(outer / scale, ends.d_smallest, -outer * r / scale, ends.d_largest)
    return _masked(kappa, slope, dtype, finite, ends.by_svd)


def condition_vjp(cache: Gradient, bar: ArrayLike) -> Array:
    """Cotangent of J: bar d kappa/dJ, bar (B,)."""
    return cotangent(cache, bar)


def _refuse(singular: NDArray[np.bool_], ends: Extremes, scale: Array) -> None:
    which, count = int(np.flatnonzero(singular)[0]), np.count_nonzero(singular)
    s_1, s_n = ends.largest[which] * scale[which], ends.smallest[which] * scale[which]
    others = f" (and {count - 1} more in the batch)" if count > 1 else ""
    if s_1 == 0.0:
        advice = "a zero Jacobian has no condition number with any floor: start from other parameters"
    else:
        advice = (
            "a hidden layer narrower than the state makes it so for any parameters; floor > 0 bounds kappa by 1 / floor"
        )
    raise SingularJacobianError(
        f"the Jacobian of sample {which}{others} is singular: largest singular value {s_1:.6g}, "
        f"smallest {s_n:.6g}; {advice}"
    )


# --- singular values --------------------------------------------------------------------------------------------------


@_quiet
def singular_values_2x2(J: ArrayLike) -> tuple[Array, Array]:
    """Both singular values of each 2 x 2 matrix [[a, b], [c, d]], each to a few ulps however close J is to singular.

    p = hypot(a + d, b - c),   m = hypot(a - d, b + c):   s_1 = (p + m) / 2,   s_2 = |p - m| / 2 = |det J| / s_1

    J : (B, 2, 2)
    returns s_1 >= s_2, each (B,)

    s_2 is computed in its second form, with det J to full accuracy: p - m cancels.
    """
    J, scale, dtype, finite = _batch(J)
    if J.shape[-1] != 2:
        raise InputError(f"J must have shape (B, 2, 2), not {J.shape}")
    ends = _extremes_2x2(J / _column(scale))
    out = [np.where(finite, s * scale, np.nan).astype(dtype) for s in (ends.largest, ends.smallest)]
    return out[0], out[1]


def _extremes(J: Array, scale: Array, smallest: bool = True) -> Extremes:
    """Of J / scale."""
    n = J.shape[-1]
    if n > 2 and not JIT_DISABLED:
        return _extremes_certified(J, scale, smallest)
    J = J / _column(scale)
    if n == 1:
        return Extremes(np.abs(J[:, 0, 0]), np.abs(J[:, 0, 0]), Slope(np.sign(J), None), Slope(np.sign(J), None))
    return _extremes_2x2(J) if n == 2 else _extremes_svd(J)


def _extremes_certified(J: Array, scale: Array, smallest: bool) -> Extremes:
    """By `spectral.extremes`; by an SVD for the samples that it does not certify, and where J could be singular but for rounding."""
    top, bottom = extremes(J, scale, smallest)
    left = ~top.certified
    if bottom is None:
        bottom = top  # not asked for, and not looked at
    else:
        with np.errstate(invalid="ignore"):
            left |= ~(bottom.certified & (bottom.sigma > 64 * J.shape[-1] * np.finfo(np.float64).eps * top.sigma))
    count = np.count_nonzero(left)
    if count:
        U, s, Vt = np.linalg.svd(J[left] / _column(scale[left]))
        for triplets, k in ((top, 0), (bottom, -1)):
            triplets.sigma[left], triplets.u[left], triplets.v[left] = s[:, k], U[:, :, k], Vt[:, k]
            if bottom is top:
                break
    return Extremes(top.sigma, bottom.sigma, _rank_one(top), _rank_one(bottom), count)


def _rank_one(triplets: Triplets) -> Slope:
    """d sigma / dJ = u v^T"""
    return Slope(triplets.u[:, np.newaxis], triplets.v[:, np.newaxis])


def _extremes_svd(J: Array) -> Extremes:
    U, s, Vt = np.linalg.svd(J)
    ends = (Slope(U[:, np.newaxis, :, k], Vt[:, np.newaxis, k]) for k in (0, -1))
    return Extremes(s[:, 0], s[:, -1], *ends, by_svd=len(J))


def _combined(a: Array, x: Slope, b: Array, y: Slope) -> Slope:
    """a x + b y, a and b (B,)"""
    left, right = _column(a) * x.w, _column(b) * y.w
    if x.u is None or y.u is None:
        return Slope(left + right, None)
    return Slope(np.concatenate([left, right], axis=1), np.concatenate([x.u, y.u], axis=1))


def _extremes_2x2(J: Array) -> Extremes:
    """The closed form of `singular_values_2x2` and its derivative.

    ds_1/dJ = (dp/dJ + dm/dJ) / 2,   ds_2/dJ = sign(det J) (dp/dJ - dm/dJ) / 2,   sign(0) = 0
    dp/dJ = [[x, y], [-y, x]] / p,   x = a + d,   y = b - c;   0 where p = 0
    dm/dJ = [[u, v], [v, -u]] / m,   u = a - d,   v = b + c;   0 where m = 0
    """
    a, b, c, d = J[:, 0, 0], J[:, 0, 1], J[:, 1, 0], J[:, 1, 1]
    x, y, u, v = a + d, b - c, a - d, b + c
    p, m = np.hypot(x, y), np.hypot(u, v)
    det = _determinant(a, b, c, d)
    largest = (p + m) / 2
    smallest = _ratio(np.abs(det), largest)
    x, y, u, v = _ratio(x, p), _ratio(y, p), _ratio(u, m), _ratio(v, m)
    d_p = np.stack([x, y, -y, x], axis=-1).reshape(J.shape)
    d_m = np.stack([u, v, v, -u], axis=-1).reshape(J.shape)
    d_1, d_2 = (Slope(d.transpose(0, 2, 1), None) for d in ((d_p + d_m) / 2, _column(np.sign(det)) * (d_p - d_m) / 2))
    # s_2 <= s_1 holds but for rounding at a tie
    return Extremes(largest, np.minimum(smallest, largest), d_1, d_2)


def _determinant(a: Array, b: Array, c: Array, d: Array) -> Array:
    """a d - b c to about 2 ulps, for entries scaled to at most 1: each product is exactly a sum of two floats."""
    p, p_error = _product(a, d)
    q, q_error = _product(b, c)
    return (p - q) + (p_error - q_error)


def _product(x: Array, y: Array) -> tuple[Array, Array]:
    """x y = p + error exactly (barring underflow). [Dek71]"""
    p = x * y
    x_high, x_low = _split(x)
    y_high, y_low = _split(y)
    return p, ((x_high * y_high - p) + x_high * y_low + x_low * y_high) + x_low * y_low


def _split(x: Array) -> tuple[Array, Array]:
    big = 134217729.0 * x  # 2^27 + 1: two halves of 26 bits, whose products are exact
    high = big - (big - x)
    return high, x - high


# --- shapes, scale, zeros ---------------------------------------------------------------------------------------------


def _batch(J: ArrayLike) -> tuple[Array, Array, DTypeLike, NDArray[np.bool_]]:
    """J in float64 with the identity for non-finite samples, its scale, the dtype to answer in, and which samples are finite.

    J / scale has entries at most 1; scale (B,) are powers of two, so that the division is exact. J = 0 has scale 1.
    """
    given = np.asarray(J)
    if given.ndim != 3 or given.shape[1] != given.shape[2] or given.shape[1] == 0 or given.dtype.kind not in "fiu":
        raise InputError(f"J must be real with shape (B, n, n), n >= 1, not {given.dtype} {given.shape}")
    dtype = np.float32 if given.dtype == np.float32 else np.float64
    J = np.ascontiguousarray(given, dtype=np.float64)
    flat = J.reshape(J.shape[0], J.shape[1] ** 2)
    size = np.maximum(flat.max(axis=1), -flat.min(axis=1))
    finite = np.isfinite(size)
    if not finite.all():
        J = J.copy()
        J[~finite] = np.eye(J.shape[-1])
        size[~finite] = 1.0
    _, exponent = np.frexp(size)
    exponent = np.clip(exponent, -1021, 1022)  # so that scale and 1 / scale are both normal numbers
    return J, np.ldexp(1.0, exponent), dtype, finite


def _column(x: Any) -> Array:
    return x[:, np.newaxis, np.newaxis]


def _ratio(x: Array, y: Array) -> Array:
    """x / y, and 0 where y = 0."""
    return np.divide(x, y, out=np.zeros(np.broadcast(x, y).shape), where=y != 0.0)


def _masked(value: Array, slope: Slope, dtype: DTypeLike, finite: NDArray[np.bool_], by_svd: int = 0) -> tuple[Array, Gradient]:
    if not finite.all():
        value = np.where(finite, value, np.nan)
        slope = Slope(np.where(_column(finite), slope.w, np.nan), slope.u)
    return value.astype(dtype, copy=False), Gradient(slope, dtype, by_svd)


def _checked(cache: Gradient, bar: ArrayLike) -> Array:
    bar = np.asarray(bar, dtype=np.float64)
    if bar.shape != cache.slope.w.shape[:1]:
        raise InputError(f"the cotangent must have shape {cache.slope.w.shape[:1]}, not {bar.shape}")
    return bar
