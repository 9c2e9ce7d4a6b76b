"""What the solver, the adjoints and the penalties ask of a field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import linalg
from ..errors import InputError, MissingDerivativeError
from .series import Expansion, Series, expand, expand_vjp

Array = NDArray[Any]


class Bound(NamedTuple):
    """A field with its parameters, a batch size and a dtype, ready to be stepped: the functions of `adaptode.step`, on flat arrays.

    kind      "mlp", "socket" (behind an address) or "python": which copy of the loop serves it
    pack      what `value`, `linearize` and `pullback` take in the place of theta
    kept      numbers that `linearize` keeps a call
    reraise   raises what a Python function behind a socket raised
    owner     keeps alive what `pack` holds addresses of
    time_pullback   (pack, kept, w) -> ⟨w, ∂f/∂t⟩ from what `linearize` kept; None: ask the field's `time_vjp`
    """

    kind: str
    value: Callable[..., None]
    linearize: Callable[..., None]
    pullback: Callable[..., None]
    pack: Any
    kept: int
    reraise: Callable[[], None] | None = None
    owner: Any = None
    time_pullback: Callable[..., float] | None = None


class Field:
    """A vector field on states of `n` components with `n_params` parameters.

    Batches are (B, n) arrays, parameters one flat (P,) vector. Subclasses give `bind` and whichever derivatives they have; the others raise
    MissingDerivativeError with the field's name.
    """

    n: int
    n_params: int
    name: str = "field"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    def bind(self, theta: Array, batch: int, dtype: Any) -> Bound:
        """The field's functions for one batch size; buffers inside belong to this one use."""
        raise NotImplementedError

    def value(self, t: float, y: Array, theta: Array) -> Array:
        """f(t, y; θ), shape (B, n)."""
        y, bound = self._bound(y, theta)
        out = np.full_like(y, np.nan)  # what a field forgets to fill must not pass for an answer
        bound.value(float(t), y.ravel(), bound.pack, out.ravel())
        return out

    def vjp(self, t: float, y: Array, theta: Array, w: Array) -> tuple[Array, Array]:
        """(∂f/∂y)ᵀ w of shape (B, n) and (∂f/∂θ)ᵀ w of shape (P,), for cotangents w (B, n)."""
        y, bound = self._bound(y, theta)
        w = self._like(w, y, "w")
        out, kept = np.empty_like(y), np.empty(bound.kept, y.dtype)
        y_bar, theta_bar = np.zeros_like(y), np.zeros(self.n_params, y.dtype)
        bound.linearize(float(t), y.ravel(), bound.pack, out.ravel(), kept)
        bound.pullback(float(t), y.ravel(), bound.pack, kept, w.ravel(), y_bar.ravel(), theta_bar)
        return y_bar, theta_bar

    def jvp(self, t: float, y: Array, theta: Array, y_dot: Array) -> Array:
        """(∂f/∂y) ẏ, shape (B, n)."""
        raise self._missing("jvp")

    def time_vjp(self, t: float, y: Array, theta: Array, w: Array) -> float:
        """⟨w, ∂f/∂t⟩ for a cotangent w (B, n): what the gradients with respect to the ends of the span need."""
        raise self._missing("time_vjp")

    def jacobian(self, t: float, y: Array, theta: Array) -> Array:
        """J[b, i, j] = ∂f_i/∂y_j at sample b, shape (B, n, n)."""
        raise self._missing("jacobian")

    def bilinear_vjp(self, t: float, y: Array, theta: Array, u: Array, w: Array) -> tuple[Array, Array]:
        """Gradient of Σ_b Σ_m ⟨w_bm, J_b u_bm⟩ with u and w held: y_bar (B, n) and theta_bar (P,); u and w are (B, n) or (B, M, n)."""
        raise self._missing("bilinear_vjp")

    def jacobian_vjp(self, t: float, y: Array, theta: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """J as of `jacobian`, and its transpose J̄ (B, n, n) -> (ȳ (B, n), θ̄ (P,)), the gradient of Σ_b ⟨J̄_b, J_b⟩ with J̄ held.

        Where J̄ is a sum of fewer than n outer products `jacobian` and `bilinear_vjp` cost less.
        """
        J = self.jacobian(t, y, theta)
        like = np.broadcast_to(J.dtype.type(0.0), J.shape)  # so that J itself need not be kept

        def transpose(J_bar: Array) -> tuple[Array, Array]:
            w = np.ascontiguousarray(self._like(J_bar, like, "J_bar").transpose(0, 2, 1))
            return self.bilinear_vjp(t, y, theta, np.broadcast_to(np.eye(self.n, dtype=w.dtype), w.shape), w)

        return J, transpose

    def frobenius(self, t: float, y: Array, theta: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """‖J_b‖_F (B,), and its transpose φ̄ (B,) -> (ȳ (B, n), θ̄ (P,)), 0 where J_b = 0."""
        J, transpose = self.jacobian_vjp(t, y, theta)
        norms, cache = linalg.frobenius(J)
        return norms, lambda bar: transpose(linalg.cotangent(cache, bar))

    def taylor(self, t: float, y: Array, theta: Array, order: int) -> tuple[Array, Expansion]:
        """Taylor coefficients (order + 1, B, n) of the solution from y at t, y(t + τ) = Σ_k coefficients[k] τᵏ, and what `taylor_vjp` needs.

        d^k y/dt^k = k! coefficients[k]; order >= 1. Cost: that of about `order` evaluations, and O(order²) sums of products. See docs/taylor.md.
        """
        y, theta = self.check(y, theta)
        if isinstance(order, bool) or not (isinstance(order, (int, np.integer)) and order >= 1):
            raise InputError(f"the order of a Taylor expansion must be a whole number of at least 1; got {order!r}")
        expansion = expand(lambda path: self.series(float(t), path, theta), y, int(order))
        return expansion.path, expansion

    def taylor_vjp(self, cache: Expansion, bar: Array) -> tuple[Array, Array]:
        """Cotangents of y (B, n) and theta (P,) from those of the coefficients, bar (order + 1, B, n)."""
        return expand_vjp(cache, self._like(bar, cache.path, "bar"), self.n_params)

    def series(self, t: Any, y: Array, theta: Array, rate: Any = 1.0) -> Series:
        """The field along a path y (K, B, n), at the time t + rate τ: see `fields.series`. A field that has it has `taylor` and `taylor_vjp`."""
        raise self._missing("taylor")

    def require(self, *derivatives: str) -> None:
        """MissingDerivativeError that names the first of `derivatives` ("vjp", "jvp", "time_vjp", "jacobian", "bilinear_vjp", "taylor", …) it has not."""
        for name in derivatives:
            if not self._has(name):
                raise self._missing(name)

    def require_smooth(self, what: str) -> None:
        """MissingDerivativeError in the name of `what` for a field known to have no second derivatives somewhere."""

    def has(self, name: str) -> bool:
        """Whether the field has that derivative."""
        return self._has(name)

    def _has(self, name: str) -> bool:
        if name in ("jacobian_vjp", "frobenius"):
            return self._has("jacobian") and self._has("bilinear_vjp")
        if name in ("taylor", "taylor_vjp"):
            name = "series"
        return name == "vjp" or getattr(type(self), name) is not getattr(Field, name)

    def _missing(self, what: str) -> MissingDerivativeError:
        mend = "use a field" if what == "taylor" else f"give it one ({what}=...), or use a field"
        return MissingDerivativeError(f"{self!r} has no `{what}`; {mend} that has (adaptode.MLP has all)")

    def _bound(self, y: Array, theta: Array) -> tuple[Array, Bound]:
        y, theta = self.check(y, theta)
        return y, self.bind(theta, y.shape[0], y.dtype)

    def _like(self, x: Array, y: Array, name: str) -> Array:
        x = np.ascontiguousarray(x, dtype=y.dtype)
        if x.shape != y.shape:
            like = {"bar": "the coefficients", "J_bar": "J"}.get(name, "y")
            raise InputError(f"{name} must have the shape of {like}, {y.shape}; got {x.shape}")
        return x

    def _directions(self, u: Array, w: Array, y: Array) -> tuple[Array, Array]:
        u, w = (np.ascontiguousarray(x, dtype=y.dtype) for x in (u, w))
        if u.shape != w.shape or u.ndim not in (2, 3) or (u.shape[0], u.shape[-1]) != y.shape:
            raise InputError(f"u and w must both have shape {y.shape} or ({y.shape[0]}, M, {self.n}); got {u.shape} and {w.shape}")
        return u, w

    def check(self, y: Array, theta: Array) -> tuple[Array, Array]:
        """y as a C-contiguous (B, n) and theta as a (P,) array of one float dtype; InputError names what does not fit."""
        try:
            y, theta = np.asarray(y), np.asarray(theta)
        except ValueError as error:
            raise InputError(f"the states and theta must be arrays of numbers: {error}") from None
        dtype = np.float32 if y.dtype == np.float32 and theta.dtype in (np.float32, np.float64) else np.float64
        for name, value in (("y", y), ("theta", theta)):
            if not (np.issubdtype(value.dtype, np.number) or value.dtype == bool) or np.iscomplexobj(value):
                raise InputError(f"{name} must be real numbers; got dtype {value.dtype}")
        if y.ndim != 2 or y.shape[1] != self.n or y.shape[0] == 0:
            one = "; for one state write y[None, :]" if y.shape == (self.n,) else ""
            raise InputError(f"states y must have shape (batch, {self.n}) with batch >= 1; got {y.shape}{one}")
        if theta.shape != (self.n_params,):
            raise InputError(f"theta must have shape ({self.n_params},) for {self.name}; got {theta.shape}")
        return np.ascontiguousarray(y, dtype=dtype), np.ascontiguousarray(theta, dtype=dtype)
