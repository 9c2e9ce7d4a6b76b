"""Jacobian penalties: norms and condition number of J = ∂f/∂y.                                                                    [JB22]

    φ_b(t) = φ(J_b),   J_b = ∂f/∂y (t, y_b(t); θ),   φ = ‖·‖_F, σ₁, κ = σ₁/σ_n, or log κ

at the initial states, along the path or at a random time: the R of `adaptode.regularize.pointwise`; or of J at the end of the span composed with the flow,
J_b ∂y_b(t₁)/∂y_b(t₀) ("end_to_end"): see `adaptode.regularize.sensitivity`. With J̄_b = φ̄_b ∂φ/∂J_b = Σ_m w_m u_mᵀ of `adaptode.linalg`, the gradient is the
bilinear form's: Σ_m ⟨w_m, J u_m⟩ with w and u held, so that θ̄, ȳ = bilinear_vjp(u, w); two directions m for κ, one for σ₁. ‖·‖_F has n, as all have where
n = 2: there J̄ goes back whole through the products that made J (`jacobian_vjp`). No other second-order primitive is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .. import linalg
from ..errors import InputError, SingularJacobianError
from ..fields.mlp import MLP
from ..fields.protocol import Array, Field
from ..schedules import Schedule
from ..solution import Run
from ..tableau import Tableau
from .base import Pulled, Term, one_of, require_second
from .pointwise import PointwisePenalty
from .sensitivity import EndToEnd


class _JacobianPenalty(PointwisePenalty):
    """A function of the Jacobian at points of the path, or of the end-to-end sensitivity."""

    places = ("start", "random", "path", "end_to_end")

    def __init__(self, weight: float | Schedule, *, at: str, nodes: int, reduce: str, detach: str | Iterable[str]) -> None:
        super().__init__(weight, at=at, nodes=nodes, reduce=reduce, detach=detach)
        if at == "end_to_end" and self.detach:
            raise InputError(f'{type(self).__name__}(at="end_to_end") is a derivative of the flow itself: its state cannot be detached')

    def times(self, tspan: tuple[float, float], variate: float) -> tuple[float, ...]:
        return (tspan[0],) if self.at == "end_to_end" else super().times(tspan, variate)

    def evaluate(self, run: Run, variate: float) -> Term:
        if self.at != "end_to_end":
            return super().evaluate(run, variate)
        sensitivity = EndToEnd(run, f'{type(self).__name__}(at="end_to_end")')
        values, cache = self._measure(sensitivity.M)

        def pull(bar: float) -> Pulled:
            y0_bar, theta_bar, calls = sensitivity.vjp(*linalg.directions(cache, self._spread(values, bar)))
            return Pulled(theta_bar, [(run.tspan[0], y0_bar)], calls)

        return Term(float(getattr(values, self.reduce)()), sensitivity.evaluations, pull)

    def check(self, field: Field, method: Tableau) -> None:
        require_second(field, type(self).__name__, "jacobian", "bilinear_vjp")

    def _measure(self, J: Array) -> tuple[Array, linalg.Gradient]:
        """φ(J_b), shape (B,), and its gradient."""
        raise NotImplementedError

    def pointwise(
        self, field: Field, t: float, y: Array, theta: Array, variate: float
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]], int]:
        if field.n <= 2:  # whose closed forms have no fewer than n directions
            J, transpose = field.jacobian_vjp(t, y, theta)
            values, cache = self._measure(J)
            return values, lambda bar: transpose(linalg.cotangent(cache, bar)), 0
        values, cache = self._measure(field.jacobian(t, y, theta))

        def pull(bar: Array) -> tuple[Array, Array]:
            return field.bilinear_vjp(t, y, theta, *linalg.directions(cache, bar))

        return values, pull, 0


class JacobianNorm(_JacobianPenalty):
    """λ mean_b ‖J_b‖_F ("frobenius") or λ mean_b σ₁(J_b) ("spectral"), in units of 1/time.                                        [JB22]

    kind    which norm
    weight  λ, a number or a schedule
    at, nodes, reduce, detach
            as in `PointwisePenalty`; at="start", the default, is J at (t₀, y₀), and along the path the penalty is a mean over time; at="end_to_end" takes
            J ∂y(t₁)/∂y(t₀), with J at the end, in the place of J: the sensitivity of the final slope to the initial state

    At J = 0 the gradient is 0; where the largest singular value is repeated, one of its subgradients. MissingDerivativeError for a field without
    second derivatives (relu, or a user's field without `jacobian` and `bilinear_vjp`).
    """

    def __init__(
        self,
        kind: str,
        weight: float | Schedule | None = None,
        *,
        at: str = "start",
        nodes: int = 8,
        reduce: str = "mean",
        detach: str | Iterable[str] = (),
    ) -> None:
        if weight is None or not isinstance(kind, str):
            given = repr(kind) if weight is None else f"{kind!r}, {weight!r}"
            raise InputError(f'JacobianNorm takes the kind of norm, then its weight, as in JacobianNorm("frobenius", 0.1); got JacobianNorm({given})')
        super().__init__(weight, at=at, nodes=nodes, reduce=reduce, detach=detach)
        self.kind = one_of("kind", kind, ("frobenius", "spectral"))
        self.name = kind

    def config(self) -> dict[str, Any]:
        return {**super().config(), "kind": self.kind}

    def _measure(self, J: Array) -> tuple[Array, linalg.Gradient]:
        return linalg.frobenius(J) if self.kind == "frobenius" else linalg.spectral(J)

    def pointwise(
        self, field: Field, t: float, y: Array, theta: Array, variate: float
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]], int]:
        if self.kind == "frobenius":
            return *field.frobenius(t, y, theta), 0
        return super().pointwise(field, t, y, theta, variate)


class ConditionNumber(_JacobianPenalty):
    """λ mean_b κ(J_b), κ = σ₁/σ_n, or of its logarithm; dimensionless.                                                             [JB22]

    weight  λ, a number or a schedule
    floor   δ: the surrogate κ_δ = σ₁ / sqrt(σ_n² + (δ σ₁)²) <= 1/δ stays finite at a singular Jacobian and differs from κ by the relative (δκ)²/2;
            δ = 0 is κ itself, and a singular Jacobian then a SingularJacobianError
    log     log κ_δ in the place of κ_δ: a sample that is nearly singular weighs no more than its order of magnitude
    at, nodes, reduce, detach
            as in `PointwisePenalty`; at="start", the default, is J at (t₀, y₀), and along the path the penalty is a mean over time; at="end_to_end" takes
            J ∂y(t₁)/∂y(t₀), with J at the end, in the place of J: the sensitivity of the final slope to the initial state

    Closed form for n = 2, `adaptode.spectral` otherwise, an SVD only for samples that it does not vouch for. At κ = 1 the gradient is 0. A field whose
    hidden width is below n has a singular Jacobian everywhere: SingularJacobianError before any work.
    """

    name = "condition_number"

    def __init__(
        self,
        weight: float | Schedule,
        *,
        floor: float = 1e-4,
        log: bool = False,
        at: str = "start",
        nodes: int = 8,
        reduce: str = "mean",
        detach: str | Iterable[str] = (),
    ) -> None:
        super().__init__(weight, at=at, nodes=nodes, reduce=reduce, detach=detach)
        if not 0.0 <= floor < 1.0:
            raise InputError(f"floor must lie in [0, 1); got {floor!r}")
        self.floor, self.log = float(floor), bool(log)
        if log:
            self.name = "log_condition_number"

    def config(self) -> dict[str, Any]:
        return {**super().config(), "floor": self.floor, "log": self.log}

    def check(self, field: Field, method: Tableau) -> None:
        super().check(field, method)
        if isinstance(field, MLP) and min(field.sizes) < field.n:
            raise SingularJacobianError(
                f"the Jacobian of {field!r} has rank at most {min(field.sizes)} < {field.n} everywhere, so its condition number is infinite; "
                f"widen its hidden layers to {field.n} or more"
            )

    def _measure(self, J: Array) -> tuple[Array, linalg.Gradient]:
        values, cache = linalg.condition(J, self.floor)
        return (np.log(values), linalg.scaled(cache, 1.0 / values)) if self.log else (values, cache)  # (log κ)‾ = κ̄ / κ
