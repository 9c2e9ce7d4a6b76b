"""The linear field, exact in every derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError
from .mlp import MLP
from .protocol import Array, Bound, Field
from .series import Series


class LinearField(Field):
    """y′ = y A + b: rows of a batch are states, so that one state follows Aᵀ y + b.

    (1)  f = y A + b
    (2)  J = Aᵀ,   ḟ = ẏ A
    (3)  ȳ = w Aᵀ,   Ā = yᵀ w,   b̄ = Σ_B w
    (4)  ∇ Σ_m ⟨w_m, J u_m⟩:   Ā = Σ_m u_mᵀ w_m,   ȳ = 0,   b̄ = 0
    (5)  y_{k+1} = (y_k A + [k = 0] b)/(k + 1)

    n     components
    bias  whether there is a b

    Parameters are A (n, n) row by row, then b (n,). With a bias it is `MLP((n, n))` to the solver, whose compiled loop serves it.
    """

    def __init__(self, n: int, *, bias: bool = True) -> None:
        if isinstance(n, bool) or not (isinstance(n, (int, np.integer)) and n > 0):
            raise InputError(f"n must be a positive whole number; got {n!r}")
        self.n, self.bias = int(n), bool(bias)
        self.n_params = self.n * self.n + (self.n if self.bias else 0)
        self.name = f"LinearField({self.n})"
        self._mlp = MLP((self.n, self.n))

    def __repr__(self) -> str:
        return f"LinearField({self.n}, bias={self.bias})"

    def config(self) -> dict[str, Any]:
        """The arguments that make this field, for JSON."""
        return {"field": "LinearField", "n": self.n, "bias": self.bias}

    def views(self, theta: Array) -> dict[str, Array]:
        """A (n, n), and b (n,) where there is one: views of a flat parameter vector."""
        theta = np.asarray(theta)
        if theta.shape != (self.n_params,):
            raise InputError(f"theta must have shape ({self.n_params},) for {self!r}; got {theta.shape}")
        square = self.n * self.n
        parts = {"A": theta[:square].reshape(self.n, self.n)}
        return parts | {"b": theta[square:]} if self.bias else parts

    def init(self, rng: np.random.Generator | int | None = None, scheme: str = "glorot_uniform", *, scale: float = 1.0, dtype: Any = np.float64) -> Array:
        """Initial parameters (P,), A by a scheme of `MLP.init`, b zero."""
        return self._mlp.init(rng, scheme, scale=scale, dtype=dtype)[: self.n_params]

    def bind(self, theta: Array, batch: int, dtype: Any) -> Bound:
        if self.bias:
            return self._mlp.bind(theta, batch, dtype)
        shape = (batch, self.n)
        A = np.ascontiguousarray(theta, dtype=dtype).reshape(self.n, self.n)

        def value(t: float, y: Array, pack: Array, out: Array) -> None:
            np.matmul(y.reshape(shape), pack, out=out.reshape(shape))

        def linearize(t: float, y: Array, pack: Array, out: Array, kept: Array) -> None:
            if out.size:
                value(t, y, pack, out)

        def pullback(t: float, y: Array, pack: Array, kept: Array, w: Array, y_bar: Array, theta_bar: Array) -> None:
            w = w.reshape(shape)
            y_bar += (w @ pack.T).ravel()
            theta_bar += (y.reshape(shape).T @ w).ravel()

        return Bound("python", value, linearize, pullback, A, 0)

    def jvp(self, t: float, y: Array, theta: Array, y_dot: Array) -> Array:
        y, theta = self.check(y, theta)
        return self._like(y_dot, y, "y_dot") @ self.views(theta)["A"]

    def jacobian(self, t: float, y: Array, theta: Array) -> Array:
        y, theta = self.check(y, theta)
        return np.repeat(np.ascontiguousarray(self.views(theta)["A"].T)[None], len(y), axis=0)

    def bilinear_vjp(self, t: float, y: Array, theta: Array, u: Array, w: Array) -> tuple[Array, Array]:
        y, theta = self.check(y, theta)
        u, w = self._directions(u, w, y)
        theta_bar = np.zeros_like(theta)
        self.views(theta_bar)["A"][:] = u.reshape(-1, self.n).T @ w.reshape(-1, self.n)
        return np.zeros_like(y), theta_bar

    def time_vjp(self, t: float, y: Array, theta: Array, w: Array) -> float:
        """0: the field does not see the time."""
        self._like(w, self.check(y, theta)[0], "w")
        return 0.0

    def series(self, t: Any, y: Array, theta: Array, rate: Any = 1.0) -> Series:
        return _LinearSeries(self, y, theta)


class _LinearSeries(Series):
    """Equation (5)."""

    def __init__(self, field: LinearField, y: Array, theta: Array) -> None:
        self.field, self.y, self.parts = field, y, field.views(theta)

    def push(self, k: int) -> Array:
        f = self.y[k] @ self.parts["A"]
        return f + self.parts["b"] if k == 0 and self.field.bias else f

    def transpose(self, y_bar: Array, theta_bar: Array) -> Callable[[int, Array], None]:
        parts = self.field.views(theta_bar)

        def pull(k: int, f_bar: Array) -> None:
            y_bar[k] += f_bar @ self.parts["A"].T
            parts["A"] += self.y[k].T @ f_bar
            if k == 0 and self.field.bias:
                parts["b"] += f_bar.sum(0)

        return pull
