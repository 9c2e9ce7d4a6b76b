"""Penalties on how the flow moves: kinetic energy, Frobenius norm of the Jacobian, derivative along the flow.                    [Fin20; Kelly20]

    (1)  kinetic energy        φ = (1/2n) ‖f‖²
    (2)  Jacobian              φ = (1/n) ‖J‖_F² = E φ_ε,     φ_ε = (1/n) ‖Jᵀ ε‖²  or  (1/n) ‖J ε‖²,   E ε εᵀ = 1             [Hut89]
    (3)  along the flow        φ = (1/2n) ‖J f‖²

at f = f(t, y(t); θ), J = ∂f/∂y, n components; each is an integral over time: the R of `adaptode.regularize.pointwise` with c = |t₁ − t₀|. With w and u held,
J's own derivatives come from the bilinear form ⟨w, J u⟩ alone:

    (1')  f̄ = φ̄ f/n;                     ȳ, θ̄ = vjp(f̄)
    (2')  v = Jᵀ ε:  ∇φ_ε = (2/n) ∇⟨ε, J v⟩;     v = J ε:  (2/n) ∇⟨v, J ε⟩;     exact:  (2/n) Σ_j ∇⟨J e_j, J e_j⟩, the first held
    (3')  a = J f, ā = φ̄ a/n:  ∇⟨ā, J f⟩ with f held, and f̄ = Jᵀ ā:  vjp(f̄)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import InputError
from ..fields.protocol import Array, Field
from ..schedules import Schedule
from ..tableau import Tableau
from .base import one_of, require_second, seed_of
from .pointwise import PointwisePenalty

_Pointwise = tuple[Array, Callable[[Array], tuple[Array, Array]], int]


class _PathIntegral(PointwisePenalty):
    """A penalty that is published as an integral along the path."""

    integral = True

    def __init__(
        self,
        weight: float | Schedule,
        *,
        at: str = "path",
        nodes: int = 8,
        reduce: str = "mean",
        detach: str | Iterable[str] = (),
    ) -> None:
        super().__init__(weight, at=at, nodes=nodes, reduce=reduce, detach=detach)


class Kinetic(_PathIntegral):
    """λ ∫ mean_b (1/2n) ‖f‖² dt: the kinetic energy of RNODE.                                                                   [Fin20]

    weight  λ, a number or a schedule
    at, nodes, reduce, detach
            as in `PointwisePenalty`; at="path", the default, is the integral by Gauss–Legendre, "random" its unbiased estimate at one time

    Published: the paper writes ∫ ‖f‖² dt; its code takes half the mean over components, as here; Kelly's copy [Kelly20] leaves out the half.
    Smooth everywhere; any field with `vjp` has it. Cost: an evaluation and a pullback a node.
    """

    name = "kinetic"
    pullbacks = 1

    def pointwise(self, field: Field, t: float, y: Array, theta: Array, variate: float) -> _Pointwise:
        f, pullback = _linearized(field, t, y, theta)
        return (f * f).sum(axis=1) / (2 * field.n), lambda bar: pullback(bar[:, None] * f / field.n), 1


class JacobianFrobenius(_PathIntegral):
    """λ ∫ mean_b (1/n) ‖J‖_F² dt: the Jacobian penalty of RNODE, by one random projection or exactly.                             [Fin20; Hut89]

    weight     λ, a number or a schedule
    estimator  law of ε, drawn once a solve for every sample: "gaussian" (published, the default: standard normal) or "rademacher" (±1, of less variance);
               or "exact": ‖J‖_F² itself, some n times the work, or less than a projection for a network with one hidden layer
    product    the projection: "vjp", Jᵀ ε (as the published code, that has it at hand), or "jvp", J ε (as Kelly's copy [Kelly20])
    at, nodes, reduce, detach
               as in `PointwisePenalty`; at="path", the default, is the integral by Gauss–Legendre, "random" its unbiased estimate at one time

    Both products have the expectation of "exact". Beside `JacobianNorm("frobenius")`, this one is squared, divided by n and smooth at J = 0.
    MissingDerivativeError for a field without second derivatives. Cost a node: one product and one bilinear form; "exact": that of `Field.frobenius`.
    """

    name = "jacobian_frobenius"

    def __init__(
        self,
        weight: float | Schedule,
        estimator: str = "gaussian",
        *,
        product: str = "vjp",
        at: str = "path",
        nodes: int = 8,
        reduce: str = "mean",
        detach: str | Iterable[str] = (),
    ) -> None:
        super().__init__(weight, at=at, nodes=nodes, reduce=reduce, detach=detach)
        self.estimator = one_of("estimator", estimator, ("gaussian", "rademacher", "exact"))
        self.product = one_of("product", product, ("vjp", "jvp"))
        if reduce == "max" and estimator != "exact":
            raise InputError(f'JacobianFrobenius(reduce="max") needs estimator="exact": the maximum of random projections is biased; got {estimator!r}')

    def config(self) -> dict[str, Any]:
        return {**super().config(), "estimator": self.estimator, "product": self.product}

    def check(self, field: Field, method: Tableau) -> None:
        require_second(field, type(self).__name__, "jacobian" if self.estimator == "exact" else self.product, "bilinear_vjp")

    def projection(self, shape: tuple[int, ...], dtype: Any, variate: float) -> Array:
        """ε (B, n) of a training step."""
        rng = np.random.default_rng(seed_of(variate))
        epsilon = rng.standard_normal(shape) if self.estimator == "gaussian" else 2.0 * rng.integers(0, 2, shape) - 1.0
        return epsilon.astype(dtype)

    def pointwise(self, field: Field, t: float, y: Array, theta: Array, variate: float) -> _Pointwise:
        if self.estimator == "exact":
            norms, transpose = field.frobenius(t, y, theta)
            return norms * norms / field.n, lambda bar: transpose(2.0 / field.n * bar * norms), 0
        epsilon = self.projection(y.shape, y.dtype, variate)
        if self.product == "vjp":
            v, evaluations = _linearized(field, t, y, theta)[1](epsilon)[0], 2
            u, w = v, epsilon
        else:
            v, evaluations = field.jvp(t, y, theta, epsilon), 0
            u, w = epsilon, v

        def pull(bar: Array) -> tuple[Array, Array]:
            return field.bilinear_vjp(t, y, theta, u, (2.0 / field.n * bar).astype(y.dtype)[:, np.newaxis] * w)

        return (v * v).sum(axis=1) / field.n, pull, evaluations


class Directional(_PathIntegral):
    """λ ∫ mean_b (1/2n) ‖J f‖² dt: how the velocity changes along the flow, by the state alone.                                    [Fin20]

    weight  λ, a number or a schedule
    at, nodes, reduce, detach
            as in `PointwisePenalty`; at="path", the default, is the integral by Gauss–Legendre, "random" its unbiased estimate at one time

    For a field that does not see the time, J f = y″; for one that does, y″ = J f + ∂f/∂t, whose mean square is twice `Taylor(2)` with half the weight.
    MissingDerivativeError for a field without second derivatives. Cost a node: an evaluation, a jvp, two pullbacks and a bilinear form.
    """

    name = "directional"
    pullbacks = 2

    def check(self, field: Field, method: Tableau) -> None:
        require_second(field, type(self).__name__, "jvp", "bilinear_vjp")

    def pointwise(self, field: Field, t: float, y: Array, theta: Array, variate: float) -> _Pointwise:
        f, pullback = _linearized(field, t, y, theta)
        a = field.jvp(t, y, theta, f)

        def pull(bar: Array) -> tuple[Array, Array]:
            a_bar = bar[:, None] * a / field.n
            y_bar, theta_bar = field.bilinear_vjp(t, y, theta, f, a_bar)
            y_more, theta_more = pullback(pullback(a_bar)[0])
            return y_bar + y_more, theta_bar + theta_more

        return (a * a).sum(axis=1) / (2 * field.n), pull, 1


def _linearized(field: Field, t: float, y: Array, theta: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """f (B, n), and the field's transpose there: w (B, n) -> (ȳ (B, n), θ̄ (P,)), as often as it is needed."""
    y = np.ascontiguousarray(y)
    bound = field.bind(theta, y.shape[0], y.dtype)
    f, kept = np.empty_like(y), np.empty(bound.kept, y.dtype)
    bound.linearize(t, y.ravel(), bound.pack, f.ravel(), kept)

    def pullback(w: Array) -> tuple[Array, Array]:
        y_bar, theta_bar = np.zeros_like(y), np.zeros(field.n_params, y.dtype)
        bound.pullback(t, y.ravel(), bound.pack, kept, np.ascontiguousarray(w, dtype=y.dtype).ravel(), y_bar.ravel(), theta_bar)
        return y_bar, theta_bar

    return f, pullback
