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

from ._jit import inline, kernel, part
from .elementary import (
    cube,
    gelu,
    relu,
    relu_slope,
    relu_slopes,
    sigmoid,
    sigmoid_slope,
    sigmoid_slopes,
    sine,
    softplus,
    tanh_fraction,
    tanh_reduced,
    tanh_slope,
    tanh_slopes,
    tanhs,
)
from .errors import InputError
from .simd import add, div, full, load, mul, store, width, with_sign

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
CURVED_BY_ARGUMENT = frozenset({"gelu", "cube"})  # σ″(z) is a function of z, not of σ(z) and σ′(z)


def activation_code(name: str) -> int:
    """The code of a named activation; InputError names the known ones."""
    try:
        return CODES[name]
    except (KeyError, TypeError):
        raise InputError(f"unknown activation {name!r}; known: {', '.join(CODES)}") from None


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


@inline
def _shifted(flat, b, k, j):
    """A vector of z + b."""
    return add(load(flat, k), load(b, j)) if b.size > 0 else load(flat, k)


@inline
def _next_column(j, lanes, columns):
    return 0 if j + lanes == columns else j + lanes


@inline
def _tanh_of_vectors(flat, b, columns):
    """tanh of z + b by whole vectors; b may be empty. A software pipeline: vector k is divided while k + 1 becomes a fraction and k + 2 is reduced."""
    lanes = width(flat)
    if flat.size < 2 * lanes:
        for k in range(0, flat.size, lanes):
            store(flat, k, tanhs(_shifted(flat, b, k, 0)))
        return
    first, column = 0, _next_column(0, lanes, columns)  # of b, for the vector that ends, and the one that begins
    y, d = tanh_fraction(*tanh_reduced(_shifted(flat, b, 0, 0)))
    t, u = tanh_reduced(_shifted(flat, b, lanes, column))
    for k in range(2 * lanes, flat.size, lanes):
        column = _next_column(column, lanes, columns)
        z = _shifted(flat, b, k, column)
        quotient = div(y, d)
        y, d = tanh_fraction(t, u)
        t, u = tanh_reduced(z)
        store(flat, k - 2 * lanes, with_sign(quotient, _shifted(flat, b, k - 2 * lanes, first)))
        first = _next_column(first, lanes, columns)
    k = flat.size - 2 * lanes
    store(flat, k, with_sign(div(y, d), _shifted(flat, b, k, first)))
    y, d = tanh_fraction(t, u)
    store(flat, k + lanes, with_sign(div(y, d), _shifted(flat, b, k + lanes, column)))


@inline
def _tanh_value(z, b):
    """tanh over rows by vectors; what is left over goes through one of its own, so that a number's result does not depend on its place."""
    flat, lanes, columns = part(z, 0, (z.size,)), width(z), z.shape[1]
    if b.size > 0 and columns % lanes == 0:
        _tanh_of_vectors(flat, b, columns)
        return
    add_row(b, z)
    whole = z.size - z.size % lanes
    _tanh_of_vectors(part(z, 0, (whole,)), part(b, 0, (0,)), 0)
    if whole < z.size:
        rest = np.zeros(lanes, z.dtype)
        for l in range(z.size - whole):
            rest[l] = flat[whole + l]
        store(rest, 0, tanhs(load(rest, 0)))
        for l in range(z.size - whole):
            flat[whole + l] = rest[l]


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


_sigmoid_value, _relu_value = map(_value_loop, (sigmoid, relu))
_softplus_both, _sine_both, _gelu_both, _cube_both = map(_both_loop, (softplus, sine, gelu, cube))


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
            slope[e] = tanh_slope(y[e])
    elif code == SIGMOID:
        for e in range(y.size):
            slope[e] = sigmoid_slope(y[e])
    elif code == RELU:
        for e in range(y.size):
            slope[e] = relu_slope(y[e])
    else:
        for e in range(y.size):
            slope[e] = y.dtype.type(1.0)


_ROWS = 32  # which stay in the first-level cache


def _through_loop(rule, of_vectors):
    @inline
    def through(bar, y, total):
        (rows, columns), lanes = bar.shape, width(bar)
        whole, one = columns - columns % (2 * lanes), full(bar.dtype.type(1.0))
        for first in range(0, rows, _ROWS):
            last = min(first + _ROWS, rows)
            for j in range(0, whole, 2 * lanes):  # whose sums stay in registers from row to row
                s0, s1 = load(total, j), load(total, j + lanes)
                for k in range(first * columns + j, last * columns, columns):
                    z0 = mul(load(bar, k), of_vectors(load(y, k), one))
                    z1 = mul(load(bar, k + lanes), of_vectors(load(y, k + lanes), one))
                    store(bar, k, z0)
                    store(bar, k + lanes, z1)
                    s0, s1 = add(s0, z0), add(s1, z1)
                store(total, j, s0)
                store(total, j + lanes, s1)
        for i in range(rows):
            for j in range(whole, columns):
                bar[i, j] *= rule(y[i, j])
                total[j] += bar[i, j]

    return through


@inline
def _itself(slope):
    return slope


@inline
def _itself_of_vectors(slope, one):
    return slope


_through_tanh, _through_sigmoid = _through_loop(tanh_slope, tanh_slopes), _through_loop(sigmoid_slope, sigmoid_slopes)
_through_relu, _through_slope = _through_loop(relu_slope, relu_slopes), _through_loop(_itself, _itself_of_vectors)


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
