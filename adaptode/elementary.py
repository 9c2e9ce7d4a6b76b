"""Functions of one number, or of vectors of them, that activations are made of, with their derivatives.

For loops that are to become SIMD instructions: no branches, nothing called.
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import by_precision, inline
from .simd import add, at_most, div, exponent_bits, is_single, like, madd, magnitude, msub, mul, sub, where, with_sign

_ONES, _FONES = 1.5 * 2.0**52 + 1022, 1.5 * 2.0**23 + 126
_FA0, _FQ1 = 15.012859989731482, 6.004285594735828

# eˣ − 1 by Cody–Waite reduction x = n log 2 + r, |r| <= log(2)/2, and the Taylor polynomial of eʳ − 1: branch free, so that a loop around it
# vectorizes. [CW80]
_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6
_HALF_LN2 = 3.4657359027997264e-1
_C2, _C3, _C4, _C5, _C6, _C7 = 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040
_C8, _C9, _C10, _C11, _C12, _C13 = 1 / 40320, 1 / 362880, 1 / 3628800, 1 / 39916800, 1 / 479001600, 1 / 6227020800

# The same numbers in single precision, log 2 split after 12 bits: a literal would make everything double.
_F = np.float32
_F0, _FHALF, _F1, _F87 = _F(0), _F(0.5), _F(1), _F(87)
_FLOG2E, _FLN2_HIGH, _FLN2_LOW = _F(_LOG2E), _F(0.693359375), _F(-2.12194440054690583e-4)
_F3RD, _F4TH, _F5TH, _F6TH, _F7TH = _F(_C3), _F(_C4), _F(_C5), _F(_C6), _F(_C7)


@inline
def _reduced_exp(x):
    """(eʳ − 1, 2ⁿ) of eˣ = 2ⁿ eʳ, for −700 < x < 700."""
    n = np.floor(x * _LOG2E + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = _C12 + r * _C13
    p = _C11 + r * p
    p = _C10 + r * p
    p = _C9 + r * p
    p = _C8 + r * p
    p = _C7 + r * p
    p = _C6 + r * p
    p = _C5 + r * p
    p = _C4 + r * p
    p = _C3 + r * p
    p = _C2 + r * p
    return r + r * r * p, np.int64((np.int64(n) + 1023) << 52).view(np.float64)


@inline
def _reduced_exp_single(x):
    """`_reduced_exp` in single precision, for −87 <= x < 87."""
    n = np.floor(x * _FLOG2E + _FHALF)
    r = (x - n * _FLN2_HIGH) - n * _FLN2_LOW
    p = _F6TH + r * _F7TH
    p = _F5TH + r * p
    p = _F4TH + r * p
    p = _F3RD + r * p
    p = _FHALF + r * p
    return r + r * r * p, np.int32((np.int32(n) + 127) << 23).view(np.float32)


# Each gives σ(z), and σ′(z) too where that is not told by σ(z).


# tanh |z| with |z| = n log(2)/2 + u, |u| <= log(2)/4, by its addition theorem, with e = (2ⁿ − 1)/2 and tanh u = a/q:
# y/(y + q − a), y = e (q + a) + a: nothing cancels where u is small. u q/a is a quotient of polynomials in u², the best of its degree (relative error 2e-17,
# in single precision 2e-9), with the same constant term above and below, so that small numbers stay themselves. n is rounded by adding a number whose last bit
# counts ones, and whose last bits are 1022 or 126: then those of the sum are the exponent of 2ⁿ/2. What log(2)/2 lacks as one number, and the rounding of a
# product that is not fused, is little beside the rest: n is small, or tanh hardly depends on u.
#
# Of vectors of `simd`, all steps of one before those of the next: a loop over numbers that LLVM vectorizes takes a third more. In three parts, each of which
# waits for the one before it: a loop with three vectors on their way, one in each part, takes a seventh less (`activations`).


@inline
def tanh_reduced(z):
    """(t, u): n is in the last bits of t."""
    single = is_single(z)
    ones = like(z, _FONES if single else _ONES)
    x = at_most(magnitude(z), like(z, 10.0 if single else 20.0))
    t = madd(x, like(z, 2.0 * _LOG2E), ones)
    return t, msub(sub(t, ones), like(z, _HALF_LN2), x)


@inline
def tanh_fraction(t, u):
    """(numerator, denominator) of tanh |z|."""
    s = mul(u, u)
    if is_single(u):
        a = mul(u, add(s, like(u, _FA0)))
        q = madd(s, like(u, _FQ1), like(u, _FA0))
    else:
        a = mul(u, madd(s, add(s, like(u, 105.05461267497848)), like(u, 945.5734843447622)))
        q = madd(s, madd(s, like(u, 15.005460129093507), like(u, 420.24577412323194)), like(u, 945.5734843447622))
    e = sub(exponent_bits(t), like(u, 0.5))
    y = madd(e, add(q, a), a)
    return y, add(y, sub(q, a))


@inline
def tanhs(z):
    """Within 4 units in the last place; ±1 beyond ±20, in single precision ±10; NaN stays NaN, and zero its sign."""
    t, u = tanh_reduced(z)
    y, d = tanh_fraction(t, u)
    return with_sign(div(y, d), z)


@inline
def _sigmoid_double(z):
    """1/(1 + e⁻ᶻ), accurate in the tails down to e⁻⁷⁰⁰; NaN stays NaN."""
    a = abs(z)
    p, two_n = _reduced_exp(-(a if a < 700.0 else 700.0))
    e = two_n + two_n * p
    y = (e if z < 0.0 else 1.0) / (1.0 + e)
    return y if z == z else z


@inline
def _sigmoid_single(z):
    """`_sigmoid_double` in single precision, accurate down to e⁻⁸⁷."""
    a = abs(z)
    p, two_n = _reduced_exp_single(-(a if a < _F87 else _F87))
    e = two_n + two_n * p
    y = (e if z < _F0 else _F1) / (_F1 + e)
    return y if z == z else z


@inline
def softplus(z):
    x = np.float64(z)
    return (max(x, 0.0) + math.log1p(math.exp(-abs(x))) if x == x else x), _sigmoid_double(x)


@inline
def sine(z):
    return np.sin(z), np.cos(z)  # NaN at inf, where math.sin raises in plain Python


@inline
def gelu(z):
    x = np.float64(z)
    cdf = 0.5 * math.erfc(-x * 0.7071067811865476)
    return x * cdf, cdf + x * math.exp(-0.5 * x * x) * 0.3989422804014327


@inline
def cube(z):
    return z * z * z, 3.0 * z * z


@inline
def relu(z):
    return z if z > 0.0 or z != z else 0.0


sigmoid = by_precision(_sigmoid_double, _sigmoid_single)


# σ′(z) of y = σ(z)


@inline
def _tanh_slope_double(y):
    return 1.0 - y * y


@inline
def _tanh_slope_single(y):
    return _F1 - y * y


@inline
def _sigmoid_slope_double(y):
    return y * (1.0 - y)


@inline
def _sigmoid_slope_single(y):
    return y * (_F1 - y)


@inline
def relu_slope(y):
    return 1.0 if y > 0.0 else 0.0


tanh_slope = by_precision(_tanh_slope_double, _tanh_slope_single)
sigmoid_slope = by_precision(_sigmoid_slope_double, _sigmoid_slope_single)


# the same of vectors of `simd`, one a vector of ones


@inline
def tanh_slopes(y, one):
    return msub(y, y, one)


@inline
def sigmoid_slopes(y, one):
    return mul(y, sub(one, y))


@inline
def relu_slopes(y, one):
    return where(y, one, sub(one, one))
