"""Truncated Taylor series along a path: two primitives, what every smooth activation is made of them, and the transposes.

A series a(τ) = Σ_k a_k τᵏ is an array (K, N) of its coefficients, known order by order. With σ′ along the path as the series s, y = σ(z) has y′ = s z′:

(1)  product    out_k = ± Σ_{j=0..k} a_j b_{k−j}                      ā_j ±= b_{k−j} out̄_k,   b̄_{k−j} ±= a_j out̄_k;   both where b is a: ā_j ±= 2 a_{k−j} out̄_k
(2)  chain      out_k = ± (1/k) Σ_{j=1..k} j z_j s_{k−j},  k >= 1     z̄_j ±= (j/k) s_{k−j} out̄_k,   s̄_{k−j} ±= (j/k) z_j out̄_k
     its constant out_0 is given, with ∂out_0/∂z_0 = ± s_0:           z̄_0 ±= s_0 out̄_0
(3)  the solution y of y′ = f(t, y):   y_{k+1} = f_k / (k + 1),   f̄_k = ȳ_{k+1} / (k + 1)                            [HNW93, I.8; Kelly20]

No order uses a later one, so one pass k = 0, 1, … goes up through all layers, and one pass from the last order to the first comes down again; when
order k's turn comes, the cotangents of order k are complete. All of it runs on complex arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._jit import kernel
from ..activations import CUBE, GELU, IDENTITY, SIGMOID, SINE, SOFTPLUS, TANH
from .arena import Arena

Array = NDArray[Any]


@kernel
def _set_product(w, x, y, out):
    for e in range(out.size):
        out[e] = w * x[e] * y[e]


@kernel
def _add_product(w, x, y, out):
    for e in range(out.size):
        out[e] += w * x[e] * y[e]


@kernel
def product(k, sign, a, b, out):
    """Equation (1): out[k] = ± Σ_j a[j] b[k − j]."""
    w = out.dtype.type(sign)
    _set_product(w, a[0], b[k], out[k])
    for j in range(1, k + 1):
        _add_product(w, a[j], b[k - j], out[k])


@kernel
def product_vjp(k, sign, a, b, out_bar, a_bar, b_bar):
    """Equation (1), right: adds to a_bar and b_bar."""
    w = out_bar.dtype.type(sign)
    for j in range(k + 1):
        _add_product(w, b[k - j], out_bar[k], a_bar[j])
        _add_product(w, a[j], out_bar[k], b_bar[k - j])


@kernel
def square_vjp(k, sign, a, out_bar, a_bar):
    """`product_vjp` of a product of a series with itself, in half the work."""
    w = out_bar.dtype.type(2.0 * sign)
    for j in range(k + 1):
        _add_product(w, a[k - j], out_bar[k], a_bar[j])


@kernel
def chain(k, sign, z, s, out):
    """Equation (2) for k >= 1: out[k]."""
    _set_product(out.dtype.type(sign / k), z[1], s[k - 1], out[k])
    for j in range(2, k + 1):
        _add_product(out.dtype.type(sign * j / k), z[j], s[k - j], out[k])


@kernel
def chain_vjp(k, sign, z, s, out_bar, z_bar, s_bar):
    """Equation (2), right, for k >= 0: adds to z_bar and s_bar."""
    if k == 0:
        _add_product(out_bar.dtype.type(sign), s[0], out_bar[0], z_bar[0])
    for j in range(1, k + 1):
        w = out_bar.dtype.type(sign * j / k)
        _add_product(w, s[k - j], out_bar[k], z_bar[j])
        _add_product(w, z[j], out_bar[k], s_bar[k - j])


# Activations: `push(k, z, y, *more)` makes order k of y = σ(z) and of the series it needs; `pull(k, z, y, *more, z_bar, y_bar, *more_bar)` takes order
# k's cotangents down, adding.


# tanh, y′ = s z′:   s = 1 − y²
def _tanh(k, z, y, s):
    if k == 0:
        y[0] = np.tanh(z[0])
    else:
        chain(k, 1.0, z, s, y)
    product(k, -1.0, y, y, s)
    if k == 0:
        s[0] += 1.0


def _tanh_pull(k, z, y, s, z_bar, y_bar, s_bar):
    square_vjp(k, -1.0, y, s_bar, y_bar)
    chain_vjp(k, 1.0, z, s, y_bar, z_bar, s_bar)


# sigmoid, y′ = s z′:   s = y − y²
def _sigmoid(k, z, y, s):
    if k == 0:
        y[0] = _logistic(z[0])
    else:
        chain(k, 1.0, z, s, y)
    product(k, -1.0, y, y, s)
    s[k] += y[k]


def _sigmoid_pull(k, z, y, s, z_bar, y_bar, s_bar):
    y_bar[k] += s_bar[k]
    square_vjp(k, -1.0, y, s_bar, y_bar)
    chain_vjp(k, 1.0, z, s, y_bar, z_bar, s_bar)


# softplus, y′ = g z′:   g = sigmoid z,   g′ = s z′,   s = g − g²
def _softplus(k, z, y, g, s):
    if k == 0:
        small = np.exp(np.where(z[0].real > 0, -z[0], z[0]))
        y[0] = np.where(z[0].real > 0, z[0], 0) + np.log1p(small)
    else:
        chain(k, 1.0, z, g, y)
    _sigmoid(k, z, g, s)


def _softplus_pull(k, z, y, g, s, z_bar, y_bar, g_bar, s_bar):
    _sigmoid_pull(k, z, g, s, z_bar, g_bar, s_bar)
    chain_vjp(k, 1.0, z, g, y_bar, z_bar, g_bar)


# sine, y′ = c z′:   c = cos z,   c′ = −y z′
def _sine(k, z, y, c):
    if k == 0:
        y[0], c[0] = np.sin(z[0]), np.cos(z[0])
    else:
        chain(k, 1.0, z, c, y)
        chain(k, -1.0, z, y, c)


def _sine_pull(k, z, y, c, z_bar, y_bar, c_bar):
    chain_vjp(k, -1.0, z, y, c_bar, z_bar, y_bar)
    chain_vjp(k, 1.0, z, c, y_bar, z_bar, c_bar)


# gelu, y = z Φ(z):   Φ′ = φ z′,   φ′ = −q z′,   q = z φ
def _gelu(k, z, y, cdf, pdf, q):
    if k == 0:
        from scipy.special import erf

        pdf[0] = np.exp(-0.5 * z[0] * z[0]) / math.sqrt(2 * math.pi)
        cdf[0] = 0.5 * (1.0 + erf(z[0] / math.sqrt(2)))
    else:
        chain(k, -1.0, z, q, pdf)
        chain(k, 1.0, z, pdf, cdf)
    product(k, 1.0, z, pdf, q)
    product(k, 1.0, z, cdf, y)


def _gelu_pull(k, z, y, cdf, pdf, q, z_bar, y_bar, cdf_bar, pdf_bar, q_bar):
    product_vjp(k, 1.0, z, cdf, y_bar, z_bar, cdf_bar)
    product_vjp(k, 1.0, z, pdf, q_bar, z_bar, pdf_bar)
    chain_vjp(k, 1.0, z, pdf, cdf_bar, z_bar, pdf_bar)
    chain_vjp(k, -1.0, z, q, pdf_bar, z_bar, q_bar)


# cube, y = z q:   q = z²
def _cube(k, z, y, q):
    product(k, 1.0, z, z, q)
    product(k, 1.0, z, q, y)


def _cube_pull(k, z, y, q, z_bar, y_bar, q_bar):
    product_vjp(k, 1.0, z, q, y_bar, z_bar, q_bar)
    square_vjp(k, 1.0, z, q_bar, z_bar)


def _logistic(z: Array) -> Array:
    """1/(1 + e⁻ᶻ) without overflow, of real or complex z."""
    small = np.exp(np.where(z.real > 0, -z, z))  # |e^∓ᶻ| <= 1
    return np.where(z.real > 0, 1, small) / (1 + small)


class Rule(NamedTuple):
    """An activation on series: how many series it needs beside z and y, its recursion and the transpose."""

    more: int
    push: Callable[..., None]
    pull: Callable[..., None]


RULES = {
    TANH: Rule(1, _tanh, _tanh_pull),
    SIGMOID: Rule(1, _sigmoid, _sigmoid_pull),
    SOFTPLUS: Rule(2, _softplus, _softplus_pull),
    SINE: Rule(1, _sine, _sine_pull),
    GELU: Rule(3, _gelu, _gelu_pull),
    CUBE: Rule(1, _cube, _cube_pull),
}


class Activated:
    """y = σ(z) for a series z (K, N) that is filled order by order; for the identity `y` is z itself.

    The arena gives `arrays(code)` arrays like z, as many again to the transpose.
    """

    def __init__(self, code: int, z: Array, arena: Arena) -> None:
        self.rule = None if code == IDENTITY else RULES[code]
        self.z, self.y = z, z if self.rule is None else arena.array(z.shape)
        self.more = [arena.array(z.shape) for _ in range(self.rule.more)] if self.rule else []

    @staticmethod
    def arrays(code: int) -> int:
        """How many series an activation needs beside z."""
        return 0 if code == IDENTITY else 1 + RULES[code].more

    def push(self, k: int) -> None:
        """Order k of y, from orders up to k of z."""
        if self.rule:
            self.rule.push(k, self.z, self.y, *self.more)

    def transpose(self, z_bar: Array, arena: Arena) -> tuple[Array, Callable[[int], None]]:
        """ȳ (K, N), zeros to add to, and `pull(k)` for k = K − 1 … 0, which takes its order k down to z_bar, adding; for the identity ȳ is z_bar."""
        if self.rule is None:
            return z_bar, lambda k: None
        pull, y_bar, bars = self.rule.pull, arena.zeros(z_bar.shape), [arena.zeros(z_bar.shape) for _ in self.more]
        return y_bar, lambda k: pull(k, self.z, self.y, *self.more, z_bar, y_bar, *bars)


class Series:
    """A field along a path y(τ), time t + rate τ. The path (K, B, n) is given as a buffer that is filled order by order."""

    def push(self, k: int) -> Array:
        """f_k (B, n), once the path's orders up to k are filled; called for k = 0, 1, … in turn."""
        raise NotImplementedError

    def transpose(self, y_bar: Array, theta_bar: Array) -> Callable[[int, Array], None]:
        """`pull(k, f_bar)` for k = K − 1 … 0 in turn, all of them: adds to y_bar (K, B, n) and, by the last, to theta_bar (P,)."""
        raise NotImplementedError


class Expansion(NamedTuple):
    """What the transpose of an expansion needs: the field along the path, and the path (order + 1, B, n)."""

    series: Series
    path: Array


def expand(along: Callable[[Array], Series], y: Array, order: int) -> Expansion:
    """Equation (3): the path of the solution from y (B, n), for a field that `along` gives the series of on a path's buffer."""
    path = np.empty((order + 1, *y.shape), y.dtype)
    path[0] = y
    series = along(path[:order])
    for k in range(order):
        np.divide(series.push(k), path.real.dtype.type(k + 1), out=path[k + 1])
    return Expansion(series, path)


def expand_vjp(expansion: Expansion, bar: Array, n_params: int) -> tuple[Array, Array]:
    """Equation (3), right: (y_bar (B, n), theta_bar (P,)) for cotangents (order + 1, B, n) of the path."""
    y_bar, theta_bar = bar.copy(), np.zeros(n_params, bar.dtype)
    order = len(bar) - 1
    pull = expansion.series.transpose(y_bar[:order], theta_bar)
    for k in range(order - 1, -1, -1):
        pull(k, y_bar[k + 1] / bar.real.dtype.type(k + 1))
    return y_bar[0], theta_bar
