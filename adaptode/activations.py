"""Activation functions with their first and second derivatives, element by element, on whole arrays.

An activation is known by its code in compiled code and by its name elsewhere. `activate` gives y = σ(z) and σ′(z); `curvature` gives σ″(z).

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

from ._jit import inline, kernel
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
_C2, _C3, _C4, _C5, _C6, _C7 = 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040
_C8, _C9, _C10, _C11, _C12, _C13 = 1 / 40320, 1 / 362880, 1 / 3628800, 1 / 39916800, 1 / 479001600, 1 / 6227020800


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
def _tanh(z):
    """tanh z = (e²ᶻ − 1)/(e²ᶻ + 1) for |z| < 20 and ±1 beyond; within 3 units in the last place; NaN stays NaN."""
    a = abs(z)
    p, two_n = _reduced_exp(2.0 * (a if a < 20.0 else 20.0))
    e = two_n * p + (two_n - 1.0)
    y = e / (e + 2.0)
    return y if z > 0.0 else (-y if z < 0.0 else z)


@inline
def _sigmoid(z):
    """1/(1 + e⁻ᶻ), accurate in the tails down to e⁻⁷⁰⁰; NaN stays NaN."""
    a = abs(z)
    p, two_n = _reduced_exp(-(a if a < 700.0 else 700.0))
    e = two_n + two_n * p
    y = (e if z < 0.0 else 1.0) / (1.0 + e)
    return y if z == z else z


@kernel
def activate(code, z, y, slope):
    """y = σ(z) and slope = σ′(z); all flat and of one length; y may be z itself."""
    n = z.size
    if code == IDENTITY:
        for i in range(n):
            y[i] = z[i]
            slope[i] = 1.0
    elif code == TANH:
        for i in range(n):
            v = _tanh(np.float64(z[i]))
            y[i] = v
            slope[i] = 1.0 - v * v
    elif code == SIGMOID:
        for i in range(n):
            v = _sigmoid(np.float64(z[i]))
            y[i] = v
            slope[i] = v * (1.0 - v)
    elif code == SOFTPLUS:
        for i in range(n):
            x = z[i]
            y[i] = max(x, 0.0) + math.log1p(math.exp(-abs(x))) if x == x else x
            slope[i] = _sigmoid(np.float64(x))
    elif code == SINE:
        for i in range(n):
            x = z[i]
            y[i] = np.sin(x)  # NaN at inf, where math.sin raises in plain Python
            slope[i] = np.cos(x)
    elif code == GELU:
        for i in range(n):
            x = np.float64(z[i])
            cdf = 0.5 * math.erfc(-x * 0.7071067811865476)
            y[i] = x * cdf
            slope[i] = cdf + x * math.exp(-0.5 * x * x) * 0.3989422804014327
    elif code == CUBE:
        for i in range(n):
            x = z[i]
            y[i] = x * x * x
            slope[i] = 3.0 * x * x
    else:
        for i in range(n):
            x = z[i]
            y[i] = x if x > 0.0 or x != x else 0.0
            slope[i] = 1.0 if x > 0.0 else 0.0


@kernel
def curvature(code, z, y, slope, curve):
    """curve = σ″(z), given y = σ(z) and slope = σ′(z) from `activate`; all flat and of one length."""
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
