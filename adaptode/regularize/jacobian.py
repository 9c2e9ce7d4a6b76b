"""Jacobian penalties: norms and condition number of J = ∂f/∂y at the initial states.                                              [JB22]

    R = mean_b φ(J_b),   J_b = ∂f/∂y (t₀, y₀ᵦ; θ),   φ = ‖·‖_F, σ₁, or κ = σ₁/σ_n

With J̄_b = ∂R/∂J_b of `adaptode.linalg`, R's gradient is the bilinear form's: Σ_j ⟨J̄ e_j, J e_j⟩ with J̄ held, so that
θ̄, ȳ₀ = bilinear_vjp(u_j = e_j, w_j = J̄ e_j). No other second-order primitive is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import linalg
from ..errors import InputError, SingularJacobianError
from ..fields.mlp import MLP
from ..fields.protocol import Array, Field
from ..schedules import Schedule
from ..solution import Run
from ..tableau import Tableau
from .base import Penalty, Pulled, Term, one_of


class _JacobianPenalty(Penalty):
    """Batch mean of a function of the Jacobian at the start of the run."""

    detach: tuple[str, ...] = ()

    def check(self, field: Field, method: Tableau) -> None:
        field.require("jacobian", "bilinear_vjp")
        if isinstance(field, MLP):
            field.require_smooth(type(self).__name__)

    def _measure(self, J: Array) -> tuple[Array, Callable[[Array], Array]]:
        """φ(J_b), shape (B,), and its transpose."""
        raise NotImplementedError

    def evaluate(self, run: Run, variate: float) -> Term:
        t, y = run.tspan[0], run.require_states(type(self).__name__)[0]
        J = run.field.jacobian(t, y, run.theta)
        values, transpose = self._measure(J)
        batch, n = y.shape

        def pull(bar: float) -> Pulled:
            J_bar = transpose(np.full(batch, bar / batch))
            u = np.broadcast_to(np.eye(n, dtype=y.dtype), J_bar.shape)
            y_bar, theta_bar = run.field.bilinear_vjp(t, y, run.theta, u, J_bar.transpose(0, 2, 1))
            return Pulled(theta_bar, [(t, y_bar)], 0)

        return Term(float(values.mean()), 0, pull)


class JacobianNorm(_JacobianPenalty):
    """λ mean_b ‖J_b‖_F ("frobenius") or λ mean_b σ₁(J_b) ("spectral") at (t₀, y₀), in units of 1/time.                            [JB22]

    kind    which norm
    weight  λ, a number or a schedule of the training step

    At J = 0 the gradient is 0; where the largest singular value is repeated, one of its subgradients. MissingDerivativeError for a field without
    second derivatives (relu, or a user's field without `jacobian` and `bilinear_vjp`).
    """

    def __init__(self, kind: str, weight: float | Schedule | None = None) -> None:
        if weight is None or not isinstance(kind, str):
            given = repr(kind) if weight is None else f"{kind!r}, {weight!r}"
            raise InputError(f'JacobianNorm takes the kind of norm, then its weight, as in JacobianNorm("frobenius", 0.1); got JacobianNorm({given})')
        super().__init__(weight)
        self.kind = one_of("kind", kind, ("frobenius", "spectral"))
        self.name = kind

    def config(self) -> dict[str, Any]:
        return {**super().config(), "kind": self.kind}

    def _measure(self, J: Array) -> tuple[Array, Callable[[Array], Array]]:
        value, vjp = (linalg.frobenius, linalg.frobenius_vjp) if self.kind == "frobenius" else (linalg.spectral, linalg.spectral_vjp)
        values, cache = value(J)
        return values, lambda bar: vjp(cache, bar)


class ConditionNumber(_JacobianPenalty):
    """λ mean_b κ(J_b) at (t₀, y₀), κ = σ₁/σ_n, dimensionless.                                                                     [JB22]

    weight  λ, a number or a schedule of the training step
    floor   δ: the surrogate κ_δ = σ₁ / sqrt(σ_n² + (δ σ₁)²) <= 1/δ stays finite at a singular Jacobian and differs from κ by the relative (δκ)²/2;
            δ = 0 is κ itself, and a singular Jacobian then a SingularJacobianError

    Closed form for n = 2, SVD otherwise. At κ = 1 the gradient is 0. A field whose hidden width is below n has a singular Jacobian everywhere:
    SingularJacobianError before any work.
    """

    name = "condition_number"

    def __init__(self, weight: float | Schedule, *, floor: float = 1e-4) -> None:
        super().__init__(weight)
        if not 0.0 <= floor < 1.0:
            raise InputError(f"floor must lie in [0, 1); got {floor!r}")
        self.floor = float(floor)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "floor": self.floor}

    def check(self, field: Field, method: Tableau) -> None:
        super().check(field, method)
        if isinstance(field, MLP) and min(field.sizes) < field.n:
            raise SingularJacobianError(
                f"the Jacobian of {field!r} has rank at most {min(field.sizes)} < {field.n} everywhere, so its condition number is infinite; "
                f"widen its hidden layers to {field.n} or more"
            )

    def _measure(self, J: Array) -> tuple[Array, Callable[[Array], Array]]:
        values, cache = linalg.condition(J, self.floor)
        return values, lambda bar: linalg.condition_vjp(cache, bar)
