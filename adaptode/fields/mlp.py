"""The multilayer perceptron as a vector field, every derivative derived by hand in `mlp_kernels`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..activations import CODES, CURVED_BY_ARGUMENT, SMOOTH, activation_code
from ..checked import check_rng
from ..errors import InputError, MissingDerivativeError
from ..room import empty
from . import mlp_kernels as kernels
from .mlp_bilinear import mlp_bilinear
from .mlp_frobenius import frobenius_without_jacobian
from .mlp_jacobian import mlp_jacobian, mlp_jacobian_pullback, tangents_size
from .protocol import Array, Bound, Field
from .taylor import MLPSeries

_TIME_MODES = {"none": kernels.TIME_NONE, "first": kernels.TIME_FIRST, "every": kernels.TIME_EVERY}
_CURVED = ("bilinear_vjp", "jacobian_vjp", "frobenius", "taylor", "taylor_vjp")  # need a second derivative of every activation
_GAINS = {"glorot_uniform": (6.0, 1.0, 1.0), "glorot_normal": (2.0, 1.0, 1.0), "he_normal": (2.0, 1.0, 0.0), "lecun_normal": (1.0, 1.0, 0.0)}


def _at_rest(pack: Any, kept: Array, w: Array) -> float:
    """⟨w, ∂f/∂t⟩ where no layer sees the time."""
    return 0.0


class MLP(Field):
    """f(t, y; θ): a multilayer perceptron from n to n components, analytic in every derivative.

    x₀ = p(y),   x_l = σ(x_{l−1} W_l + b_l + t v_l)  for l < L,   f = o(x_{L−1} W_L + b_L + t v_L)

    sizes          (n, hidden widths …, n)
    activation     σ of the hidden layers: identity, tanh, sigmoid, softplus, sine, gelu, cube, relu
    time           the layers that see t: "none", "first" or "every"; v_l exists only there
    outer          o, an activation after the last layer ("identity": none)
    preactivation  p, an activation before the first ("identity": none; "cube" gives the spiral's y³)

    Parameters are one flat (P,) vector, layer after layer W (in, out), v (out) where the layer sees the time, b (out); `views` names the parts.
    relu has no second derivative: `bilinear_vjp` and `taylor`, and so every Jacobian and Taylor penalty, raise MissingDerivativeError for it.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "tanh",
        time: str = "none",
        outer: str = "identity",
        preactivation: str = "identity",
    ) -> None:
        sizes = tuple(sizes)
        if len(sizes) < 2 or not all(isinstance(s, (int, np.integer)) and s > 0 for s in sizes) or sizes[0] != sizes[-1]:
            raise InputError(f"sizes must be positive integers (n, hidden widths..., n), its ends equal; got {sizes}")
        if time not in _TIME_MODES:
            raise InputError(f"time must be one of {', '.join(map(repr, _TIME_MODES))}; got {time!r}")
        self.sizes = tuple(int(s) for s in sizes)
        self.activation, self.time, self.outer, self.preactivation = activation, time, outer, preactivation
        codes = [activation_code(name) for name in (preactivation, activation, outer)]
        self.meta = np.array([len(sizes) - 1, _TIME_MODES[time], *codes, *self.sizes], dtype=np.int64)
        self.n = self.sizes[0]
        self.name = f"MLP{self.sizes}"
        self._layout: list[tuple[str, int, tuple[int, ...]]] = []
        position = 0
        for layer, (rows, columns) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            parts = [("W", (rows, columns)), ("b", (columns,))]
            if time == "every" or (time == "first" and layer == 0):
                parts.insert(1, ("v", (columns,)))
            for letter, shape in parts:
                self._layout.append((f"{letter}{layer + 1}", position, shape))
                position += int(np.prod(shape))
        self.n_params = position

    def __repr__(self) -> str:
        extras = [f"{k}={getattr(self, k)!r}" for k in ("outer", "preactivation") if getattr(self, k) != "identity"]
        return f"MLP({', '.join([repr(self.sizes), f'activation={self.activation!r}', f'time={self.time!r}', *extras])})"

    def config(self) -> dict[str, Any]:
        """The arguments that make this field, for JSON."""
        return {
            "sizes": list(self.sizes),
            "activation": self.activation,
            "time": self.time,
            "outer": self.outer,
            "preactivation": self.preactivation,
        }

    def views(self, theta: Array) -> dict[str, Array]:
        """The parts of a flat parameter vector by name, W1, v1, b1, W2, …: views, so writing to one writes to theta."""
        theta = np.asarray(theta)
        if theta.shape != (self.n_params,):
            raise InputError(f"theta must have shape ({self.n_params},) for {self!r}; got {theta.shape}")
        return {name: theta[start : start + int(np.prod(shape))].reshape(shape) for name, start, shape in self._layout}

    def init(
        self, rng: np.random.Generator | int | None = None, scheme: str = "glorot_uniform", *, scale: float = 1.0, dtype: Any = np.float64
    ) -> Array:
        """Initial parameters (P,): weights at random, b and v zero.

        With fan-in m and fan-out k, W is
        glorot_uniform  U(−a, a), a = sqrt(6/(m + k))      [GB10]         glorot_normal  N(0, 2/(m + k))     [GB10]
        he_normal       N(0, 2/m)                          [He15]         lecun_normal   N(0, 1/m)           [LeC98]
        zeros           0
        times `scale`. A layer that sees the time counts it as an input.
        """
        if scheme != "zeros" and scheme not in _GAINS:
            raise InputError(f"unknown initialisation {scheme!r}; known: {', '.join([*_GAINS, 'zeros'])}")
        rng = check_rng(rng)
        theta = np.zeros(self.n_params, dtype)
        views = self.views(theta)
        for name, W in views.items():
            if name[0] != "W" or scheme == "zeros":
                continue
            fan_in, fan_out = W.shape[0] + (f"v{name[1:]}" in views), W.shape[1]
            gain, by_in, by_out = _GAINS[scheme]
            spread = scale * np.sqrt(gain / (by_in * fan_in + by_out * fan_out))
            W[...] = rng.uniform(-spread, spread, W.shape) if scheme == "glorot_uniform" else spread * rng.standard_normal(W.shape)
        return theta

    def bind(self, theta: Array, batch: int, dtype: Any) -> Bound:
        pack, kept = mlp_pack(theta, self.meta, batch, dtype)
        in_time = kernels.mlp_time_pullback if self.time != "none" else _at_rest
        return Bound("mlp", kernels.mlp_value, kernels.mlp_linearize, kernels.mlp_pullback, pack, kept, time_pullback=in_time)

    def jvp(self, t: float, y: Array, theta: Array, y_dot: Array) -> Array:
        y, theta = self.check(y, theta)
        return self._pushforward(t, y, theta, self._like(y_dot, y, "y_dot").reshape(y.shape[0], 1, self.n))[:, 0]

    def time_vjp(self, t: float, y: Array, theta: Array, w: Array) -> float:
        y, theta = self.check(y, theta)
        w = self._like(w, y, "w")
        if self.time == "none":
            return 0.0
        bound = self.bind(theta, y.shape[0], y.dtype)
        kept = np.empty(bound.kept, y.dtype)
        bound.linearize(float(t), y.ravel(), bound.pack, np.empty(0, y.dtype), kept)
        return float(kernels.mlp_time_pullback(bound.pack, kept, w.ravel()))

    def jacobian(self, t: float, y: Array, theta: Array) -> Array:
        y, theta = self.check(y, theta)
        return self._jacobian(float(t), y, self.bind(theta, y.shape[0], y.dtype), 0)[0]

    def jacobian_vjp(self, t: float, y: Array, theta: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        self.require_smooth("jacobian_vjp")
        if self.outer != "identity" or self.preactivation != "identity" or self.activation in CURVED_BY_ARGUMENT:
            return super().jacobian_vjp(t, y, theta)
        y, theta = self.check(y, theta)
        bound = self.bind(theta, y.shape[0], y.dtype)
        J, kept, tangents = self._jacobian(float(t), y, bound, int(tangents_size(self.meta, y.shape[0])))
        like = np.broadcast_to(J.dtype.type(0.0), J.shape)  # so that J itself need not be kept

        def transpose(J_bar: Array) -> tuple[Array, Array]:
            y_bar, theta_bar = np.zeros_like(y), np.zeros(self.n_params, y.dtype)
            mlp_jacobian_pullback(float(t), y.ravel(), bound.pack, kept, tangents, self._like(J_bar, like, "J_bar"), y_bar.ravel(), theta_bar)
            return y_bar, theta_bar

        return J, transpose

    def frobenius(self, t: float, y: Array, theta: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        self.require_smooth("frobenius")
        y, theta = self.check(y, theta)
        by_J = super().frobenius
        return frobenius_without_jacobian(self, float(t), y, theta, lambda some: by_J(t, some, theta)) or by_J(t, y, theta)

    def _jacobian(self, t: float, y: Array, bound: Bound, size: int) -> tuple[Array, Array, Array]:
        """J, what `mlp_linearize` kept of the point, and so many numbers that `mlp_jacobian` keeps."""
        kept, J, tangents = np.empty(bound.kept, y.dtype), empty((y.shape[0], self.n, self.n), y.dtype), empty(size, y.dtype)
        bound.linearize(t, y.ravel(), bound.pack, np.empty(0, y.dtype), kept)
        mlp_jacobian(bound.pack, y.shape[0], kept, J, tangents)
        return J, kept, tangents

    def _pushforward(self, t: float, y: Array, theta: Array, y_dot: Array) -> Array:
        """J applied to (B, M, n) tangents."""
        bound = self.bind(theta, y.shape[0], y.dtype)
        value, kept, out = np.empty_like(y), np.empty(bound.kept, y.dtype), np.empty(y_dot.shape, y.dtype)
        bound.linearize(float(t), y.ravel(), bound.pack, value.ravel(), kept)
        kernels.mlp_pushforward(bound.pack, y.shape[0], kept, y_dot.shape[1], np.ascontiguousarray(y_dot).ravel(), out.ravel())
        return out

    def bilinear_vjp(self, t: float, y: Array, theta: Array, u: Array, w: Array) -> tuple[Array, Array]:
        self.require_smooth("bilinear_vjp")
        y, theta = self.check(y, theta)
        if isinstance(u, np.ndarray) and u.ndim == 3 and u.shape == np.shape(w) and u.strides[0] == 0 and self.preactivation == "identity":
            # broadcast over the samples, as unit vectors are: the same directions for all
            w, _ = self._directions(w, w, y)
            u = np.ascontiguousarray(u[0], dtype=y.dtype)
        else:
            u, w = self._directions(u, w, y)
        bound = self.bind(theta, y.shape[0], y.dtype)
        y_bar, theta_bar = np.zeros_like(y), np.zeros(self.n_params, y.dtype)
        directions = w.shape[1] if w.ndim == 3 else 1
        mlp_bilinear(float(t), y.ravel(), bound.pack, directions, u.ravel(), w.ravel(), y_bar.ravel(), theta_bar)
        return y_bar, theta_bar

    def series(self, t: Any, y: Array, theta: Array, rate: Any = 1.0) -> MLPSeries:
        self.require_smooth("taylor")
        return MLPSeries(self, t, y, theta, rate)

    def require(self, *derivatives: str) -> None:
        for name in derivatives:
            if name in _CURVED:
                self.require_smooth(name)
        super().require(*derivatives)

    def _has(self, name: str) -> bool:
        return super()._has(name) and not (name in _CURVED and self._rough())

    def require_smooth(self, what: str) -> None:
        """MissingDerivativeError unless every activation has a second derivative."""
        rough = self._rough()
        if rough:
            known = ", ".join(name for name in CODES if name in SMOOTH)
            raise MissingDerivativeError(f"{what} of {self!r} needs second derivatives, which {rough[0]} has not; use one of {known}")

    def _rough(self) -> list[str]:
        """The activations without a second derivative."""
        return sorted({self.activation, self.outer, self.preactivation} - SMOOTH)


def mlp_pack(theta: Array, meta: Array, batch: int, dtype: Any, shift: Array | None = None) -> tuple[tuple[Array, ...], int]:
    """What the kernels take in the place of theta, and how many numbers `mlp_linearize` keeps."""
    theta = np.ascontiguousarray(theta, dtype=dtype)
    shift = np.empty(0, dtype) if shift is None else shift
    work = empty(int(kernels.mlp_work(meta, batch)), dtype)
    return (theta, meta, work, shift, kernels.mlp_transposed(theta, meta)), int(kernels.kept_size(meta, batch))
