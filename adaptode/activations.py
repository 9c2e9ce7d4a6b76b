"""Activation functions with their first and second derivatives, element by element, on whole arrays.

An activation is known by its code in compiled code and by its name elsewhere. `activate` gives y = σ(z) and, where it is not told by y, σ′(z), else `slopes_of`
does; `curvature` gives σ″(z), `through` a cotangent's way back.
tanh and sigmoid are computed in the precision of their argument, the others in double.

    identity  z                            1                     0
    tanh      tanh z                       1 − y²                −2 y σ′
    sigmoid   1/(1 + e⁻ᶻ)                  y (1 − y)             (1 − 2y) σ′
    softplus  log(1 + eᶻ)                  s = sigmoid z         s (1 − s)
    sine      sin z                        cos z                 −y
    gelu      z Φ(z)                       Φ + z φ               (2 − z²) φ                     [HG16]
    cube      z³                           3 z²                  6 z
    relu      max(z, 0)                    1 for z > 0, else 0   (none: not twice differentiable)
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import by_precision, inline, kernel, part
from .errors import InputError

IDENTITY, TANH, SIGMOID, SOFTPLUS, SINE, GELU, CUBE, RELU = range(8)
CODES = {
    "identity": IDENTITY,
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "softplus": SOFTPLUS,
    "sine": SINE,
    "gelu": GELU,
    "cube": CUBE,
    "relu": RELU,
}
SLOPE_ITSELF = -1  # for `through`
SMOOTH = frozenset(CODES) - {"relu"}


def activation_code(name: str) -> int:
    """The code of a named activation; InputError names the known ones."""
    try:
        return CODES[name]
    except (KeyError, TypeError):
        raise InputError(f"unknown activation {name!r}; known: {', '.join(CODES)}") from None


# eˣ − 1 by Cody–Waite reduction x = n log 2 + r, |r| <= log(2)/2, and the Taylor polynomial of eʳ − 1: branch free, so that a loop around it
# vectorizes. [CW80]
_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6
_HALF_LN2 = 3.4657359027997264e-1
_C2, _C3, _C4, _C5, _C6, _C7 = 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040
_C8, _C9, _C10, _C11, _C12, _C13 = 1 / 40320, 1 / 362880, 1 / 3628800, 1 / 39916800, 1 / 479001600, 1 / 6227020800

# The same numbers in single precision, log 2 split after 12 bits: a literal would make everything double.
_F = np.float32
_F0, _FHALF, _F1, _F10, _F87 = _F(0), _F(0.5), _F(1), _F(10), _F(87)
_ONES, _FONES = 1.5 * 2.0**52 + 1022, _F(1.5 * 2.0**23 + 126)
_FA0, _FQ1 = _F(15.012859989731482), _F(6.004285594735828)
_F2LOG2E, _FHALF_LN2 = _F(2 * _LOG2E), _F(_HALF_LN2)
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


# Each rule gives σ(z), and σ′(z) too where that is not told by σ(z): `SLOPES`.


# tanh |z| with |z| = n log(2)/2 + u, |u| <= log(2)/4, by its addition theorem, with e = (2ⁿ − 1)/2 and tanh u = a/q:
# y/(y + q − a), y = e (q + a) + a: nothing cancels where u is small. u q/a is a quotient of polynomials in u², the best of its degree (relative error 2e-17,
# in single precision 2e-9), with the same constant term above and below, so that small numbers stay themselves. n is rounded by adding a number whose last bit
# counts ones, and whose last bits are 1022 or 126: then those of the sum are the exponent of 2ⁿ/2. What log(2)/2 lacks as one number, and the rounding of a
# product that is not fused, is little beside the rest: n is small, or tanh hardly depends on u.


@inline
def _tanh_double(z):
    """Within 4 units in the last place; ±1 beyond ±20; NaN stays NaN, and zero its sign."""
    x = abs(z)
    x = 20.0 if x > 20.0 else x
    t = x * (2.0 * _LOG2E) + _ONES
    u = x - (t - _ONES) * _HALF_LN2
    s = u * u
    a = u * (945.5734843447622 + s * (105.05461267497848 + s))
    q = 945.5734843447622 + s * (420.24577412323194 + s * 15.005460129093507)
    e = np.int64(np.float64(t).view(np.int64) << 52).view(np.float64) - 0.5
    y = e * (q + a) + a
    return math.copysign(y / (y + (q - a)), z)


@inline
def _tanh_single(z):
    """`_tanh_double` in single precision, ±1 beyond ±10."""
    x = abs(z)
    x = _F10 if x > _F10 else x
    t = x * _F2LOG2E + _FONES
    u = x - (t - _FONES) * _FHALF_LN2
    s = u * u
    a = u * (_FA0 + s)
    q = _FA0 + s * _FQ1
    e = np.int32(np.float32(t).view(np.int32) << 23).view(np.float32) - _FHALF
    y = e * (q + a) + a
    return np.copysign(y / (y + (q - a)), z)


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
def _softplus(z):
    x = np.float64(z)
    return (max(x, 0.0) + math.log1p(math.exp(-abs(x))) if x == x else x), _sigmoid_double(x)


@inline
def _sine(z):
    return np.sin(z), np.cos(z)  # NaN at inf, where math.sin raises in plain Python


@inline
def _gelu(z):
    x = np.float64(z)
    cdf = 0.5 * math.erfc(-x * 0.7071067811865476)
    return x * cdf, cdf + x * math.exp(-0.5 * x * x) * 0.3989422804014327


@inline
def _cube(z):
    return z * z * z, 3.0 * z * z


@inline
def _relu(z):
    return z if z > 0.0 or z != z else 0.0


_tanh, _sigmoid = by_precision(_tanh_double, _tanh_single), by_precision(_sigmoid_double, _sigmoid_single)


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
def _relu_slope(y):
    return 1.0 if y > 0.0 else 0.0


_tanh_slope = by_precision(_tanh_slope_double, _tanh_slope_single)
_sigmoid_slope = by_precision(_sigmoid_slope_double, _sigmoid_slope_single)


@inline
def told_by_value(code):
    """Whether σ′(z) is a function of σ(z), so that one need not be kept beside the other."""
    return code == TANH or code == SIGMOID or code == RELU or code == IDENTITY


_NARROW = 16  # columns below which it is quicker to go down each of them


@kernel
def add_row(b, z):
    """z += b, row by row; b may be empty."""
    if b.size == 0:
        return
    rows, columns = z.shape
    if columns < _NARROW:
        flat = part(z, 0, (z.size,))
        for j in range(columns):
            shift = b[j]
            for k in range(j, z.size, columns):
                flat[k] += shift
        return
    for i in range(rows):
        for j in range(columns):
            z[i, j] += b[j]


_LANES = 16  # at most in a vector: of a row that does not fill them, what is left over would be computed one by one


def _value_loop(rule):
    """A rule of values over rows."""

    @inline
    def value(z, b):
        if b.size > 0:
            if z.shape[1] % _LANES == 0 or z.shape[0] == 1:
                for i in range(z.shape[0]):
                    for j in range(z.shape[1]):
                        z[i, j] = rule(z[i, j] + b[j])
                return
            add_row(b, z)
        flat = part(z, 0, (z.size,))
        for e in range(flat.size):
            flat[e] = rule(flat[e])

    return value


def _both_loop(rule):
    """A rule of values and slopes over rows; without slopes where there is no room for them."""

    @inline
    def both(z, b, slope):
        add_row(b, z)
        flat = part(z, 0, (z.size,))
        if slope.size == 0:
            for e in range(flat.size):
                flat[e] = rule(flat[e])[0]
        else:
            slopes = part(slope, 0, (z.size,))
            for e in range(flat.size):
                flat[e], slopes[e] = rule(flat[e])

    return both


_tanh_value, _sigmoid_value, _relu_value = map(_value_loop, (_tanh, _sigmoid, _relu))
_softplus_both, _sine_both, _gelu_both, _cube_both = map(_both_loop, (_softplus, _sine, _gelu, _cube))


@kernel
def activate(code, z, b, slope):
    """z = σ(z + b) in place, and before it slope = σ′(z + b) of a σ that is not `told_by_value`: z (rows, columns), b (columns,) or empty, slope as z or empty.

    In place because LLVM vectorizes no loop that reads one array and writes another, which may be the same.
    """
    if code == IDENTITY:
        add_row(b, z)
    elif code == TANH:
        _tanh_value(z, b)
    elif code == SIGMOID:
        _sigmoid_value(z, b)
    elif code == SOFTPLUS:
        _softplus_both(z, b, slope)
    elif code == SINE:
        _sine_both(z, b, slope)
    elif code == GELU:
        _gelu_both(z, b, slope)
    elif code == CUBE:
        _cube_both(z, b, slope)
    else:
        _relu_value(z, b)


@kernel
def slopes_of(code, y, slope):
    """slope = σ′(z) of y = σ(z), flat and of one length, for a σ that is `told_by_value`."""
    if code == TANH:
        for e in range(y.size):
            slope[e] = _tanh_slope(y[e])
    elif code == SIGMOID:
        for e in range(y.size):
            slope[e] = _sigmoid_slope(y[e])
    elif code == RELU:
        for e in range(y.size):
            slope[e] = _relu_slope(y[e])
    else:
        for e in range(y.size):
            slope[e] = y.dtype.type(1.0)


def _through_loop(rule):
    @inline
    def through(bar, y, total):
        for i in range(bar.shape[0]):
            for j in range(bar.shape[1]):
                bar[i, j] *= rule(y[i, j])
                total[j] += bar[i, j]

    return through


@inline
def _as_it_is(slope):
    return slope


_through_tanh, _through_sigmoid, _through_relu, _through_slope = map(_through_loop, (_tanh_slope, _sigmoid_slope, _relu_slope, _as_it_is))


@kernel
def through(code, bar, y, total):
    """In place z̄ = σ′(z) ⊙ ȳ, and total = Σ_rows z̄: bar, y (rows, columns), total (columns,); y is σ(z), or if it is not `told_by_value` σ′(z) itself."""
    total[:] = 0.0
    if code == TANH:
        _through_tanh(bar, y, total)
    elif code == SIGMOID:
        _through_sigmoid(bar, y, total)
    elif code == RELU:
        _through_relu(bar, y, total)
    elif code == IDENTITY:
        for i in range(bar.shape[0]):
            for j in range(bar.shape[1]):
                total[j] += bar[i, j]
    else:
        _through_slope(bar, y, total)


@kernel
def curvature(code, z, y, slope, curve):
    """curve = σ″(z), given y = σ(z) and slope = σ′(z); all flat and of one length."""
    n = z.size
    if code == TANH:
        for i in range(n):
            curve[i] = -2.0 * y[i] * slope[i]
    elif code == SIGMOID:
        for i in range(n):
            curve[i] = (1.0 - 2.0 * y[i]) * slope[i]
    elif code == SOFTPLUS:
        for i in range(n):
            curve[i] = slope[i] * (1.0 - slope[i])
    elif code == SINE:
        for i in range(n):
            curve[i] = -y[i]
    elif code == GELU:
        for i in range(n):
            x = z[i]
            curve[i] = (2.0 - x * x) * math.exp(-0.5 * x * x) * 0.3989422804014327
    elif code == CUBE:
        for i in range(n):
            curve[i] = 6.0 * z[i]
    else:
        for i in range(n):
            curve[i] = 0.0
