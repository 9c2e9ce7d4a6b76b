"""A multilayer perceptron along a path: its Taylor coefficients, order by order, and their transpose.

With x⁰ = p(y) and every z, x a series in τ, the time t + rate τ and [·] 1 where true, else 0:

(1)  z_k = x_k W + [k = 0] (b + t v) + [k = 1] rate v,   x⁺ = σ(z)                      σ by its rule in `series`: one linear map a layer and order
(2)  from the last order to the first:   z̄ from x̄⁺ by the rule,   x̄_k += z̄_k Wᵀ
(3)  once all orders are complete:   W̄ = Σ_k x_kᵀ z̄_k,   b̄ = Σ_B z̄_0,   v̄ = t Σ_B z̄_0 + rate Σ_B z̄_1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .arena import Arena
from .mlp_kernels import HIDDEN, OUTER, PRE
from .series import Activated, Array, Series

if TYPE_CHECKING:
    from .mlp import MLP


class _Layer(NamedTuple):
    """One layer: its number from 1, x (K, B, in), z (K, B, out), the activation of z, W (in, out), v (out) or None, b (out)."""

    number: int
    x: Array
    z: Array
    activated: Activated
    W: Array
    v: Array | None
    b: Array


class MLPSeries(Series):
    """The MLP along a path (K, B, n) from time t."""

    def __init__(self, field: MLP, t: float, y: Array, theta: Array, rate: float) -> None:
        self.field, self.t, self.rate = field, t, rate
        orders, batch, n = y.shape
        codes = [int(field.meta[i]) for i in (PRE, *(HIDDEN,) * (len(field.sizes) - 2), OUTER)]
        series = [Activated.arrays(codes[0]), *(1 + Activated.arrays(code) for code in codes[1:])]  # of each width, n and those of the layers
        self.needs = orders * batch * sum(a * b for a, b in zip(field.sizes, series, strict=True)) + batch * max(field.sizes), sum(series) + 1
        arena = Arena(*self.needs, y.dtype)
        parts = field.views(theta)
        self.before = Activated(codes[0], y.reshape(orders, -1), arena)
        self.layers: list[_Layer] = []
        x = self.before.y.reshape(y.shape)
        for i, (width, code) in enumerate(zip(field.sizes[1:], codes[1:], strict=True), start=1):
            z = arena.array((orders, batch, width))
            activated = Activated(code, z.reshape(orders, -1), arena)
            self.layers.append(_Layer(i, x, z, activated, parts[f"W{i}"], parts.get(f"v{i}"), parts[f"b{i}"]))
            x = activated.y.reshape(z.shape)
        self.out = x

    def push(self, k: int) -> Array:
        """Equation (1)."""
        self.before.push(k)
        for layer in self.layers:
            z = np.matmul(layer.x[k], layer.W, out=layer.z[k])
            if k == 0:
                z += layer.b if layer.v is None else layer.b + _like(z, self.t) * layer.v
            elif k == 1 and layer.v is not None:
                z += _like(z, self.rate) * layer.v
            layer.activated.push(k)
        return self.out[k]

    def transpose(self, y_bar: Array, theta_bar: Array) -> Callable[[int, Array], None]:
        """Equations (2) and (3)."""
        arena = Arena(*self.needs, y_bar.dtype)
        x_bar, pull_first = self.before.transpose(y_bar.reshape(len(y_bar), -1), arena)
        steps = []
        for layer in self.layers:
            below = x_bar
            z_bar = arena.zeros(layer.z.shape)
            x_bar, pull = layer.activated.transpose(z_bar.reshape(len(z_bar), -1), arena)
            steps.append((layer, below.reshape(layer.x.shape), z_bar, pull))
        f_bars, parts = x_bar.reshape(self.out.shape), self.field.views(theta_bar)
        scratch = arena.array((y_bar.shape[1] * max(self.field.sizes),))

        def pull_order(k: int, f_bar: Array) -> None:
            f_bars[k] += f_bar
            for layer, x_bar, z_bar, pull in reversed(steps):
                pull(k)
                into = scratch[: x_bar[k].size].reshape(x_bar[k].shape)
                x_bar[k] += np.matmul(z_bar[k], layer.W.T, out=into)
            pull_first(k)
            if k == 0:
                for layer, _, z_bar, _ in steps:
                    self._parameters(layer, z_bar, parts)

        return pull_order

    def _parameters(self, layer: _Layer, z_bar: Array, parts: dict[str, Array]) -> None:
        """Equation (3)."""
        rows, columns = layer.W.shape
        parts[f"W{layer.number}"] += layer.x.reshape(-1, rows).T @ z_bar.reshape(-1, columns)
        constant = z_bar[0].sum(0)
        parts[f"b{layer.number}"] += constant
        if layer.v is not None:
            parts[f"v{layer.number}"] += _like(z_bar, self.t) * constant
            if len(z_bar) > 1:
                parts[f"v{layer.number}"] += _like(z_bar, self.rate) * z_bar[1].sum(0)


def _like(array: Array, number: complex) -> Any:
    """A number in an array's dtype."""
    return array.dtype.type(number)
