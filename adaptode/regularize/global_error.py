"""Global regularization: the solver's own estimates, summed over every accepted step.                                            [PKR21]

    r_n = q_n |h_n|   ("error", in units of time),   q_n²   ("error_squared"),   S_n   ("stiffness", in units of 1/time)
    R = Σ_n r_n,   (1/m) Σ_n r_n,   or   max_n r_n        over the m accepted steps of the solve

q_n and S_n are the scaled error and stiffness estimate by which the steps were chosen: the value costs nothing. With h_n data,

    q̄_n = |h_n| r̄_n   or   2 q_n r̄_n,     S̄_n = r̄_n;     r̄_n = R̄,  R̄/m,  or R̄ where r_n is the maximum

are cotangents of the steps themselves, which the discrete adjoint pulls through each of them and through all that came before it; no jump of a continuous
adjoint can say that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..fields.protocol import Array, Field
from ..schedules import Schedule
from ..solution import Run
from ..tableau import Tableau
from .base import Penalty, Pulled, Term, one_of, require_estimate


class GlobalError(Penalty):
    """λ Σ q|h|, λ Σ q² or λ Σ S over every accepted step (ERNODE, SRNODE), exact through all of them.                            [PKR21]

    weight    λ, a number or a schedule
    estimate  "error": q|h|;  "error_squared": q²;  "stiffness": S, not multiplied by |h|
    reduce    "sum", "mean" or "max" over the accepted steps

    Published: the paper writes Σ q|h|, Σ S|h| and, for one experiment, Σ q²; the code that its weights belong to takes the mean of q|h|
    (reduce="mean") and the maximum of S (estimate="stiffness", reduce="max"). Where m steps are alike, sum and mean differ by the factor m.

    Undefined points: a step with q = 0, or whose stage pair coincides, has gradient 0; where several steps share the maximum, it is that of the first.
    How many steps there are is held fixed: R jumps where the controller accepts one more. Needs the discrete adjoint: InputError with another. Cost: about
    an evaluation and a pullback a step more than the discrete adjoint alone.
    """

    adjoints = ("discrete",)

    def __init__(self, weight: float | Schedule, estimate: str = "error", *, reduce: str = "sum") -> None:
        super().__init__(weight)
        self.estimate = one_of("estimate", estimate, ("error", "error_squared", "stiffness"))
        self.reduce = one_of("reduce", reduce, ("sum", "mean", "max"))
        self.name = f"global_{estimate}"

    def config(self) -> dict[str, Any]:
        return {**super().config(), "estimate": self.estimate, "reduce": self.reduce}

    def check(self, field: Field, method: Tableau) -> None:
        require_estimate("GlobalError", method, self.estimate == "stiffness")

    def evaluate(self, run: Run, variate: float) -> Term:
        r, slope = self._steps(run)
        nothing = np.zeros_like(run.theta)
        if not r.size:
            return Term(0.0, 0, lambda bar: Pulled(nothing, [], 0))

        def pull(bar: float) -> Pulled:
            r_bar = np.zeros(r.size)
            if self.reduce == "max":
                r_bar[np.argmax(r)] = bar
            else:
                r_bar[:] = bar if self.reduce == "sum" else bar / r.size
            return Pulled(nothing, [], 0, **{"stiffness" if self.estimate == "stiffness" else "error": r_bar * slope})

        return Term(float(getattr(r, self.reduce)()), 0, pull)

    def _steps(self, run: Run) -> tuple[Array, Array]:
        """r_n of every accepted step, and its derivative with respect to q_n or S_n."""
        if self.estimate == "stiffness":
            S = run.accepted("stiffness")
            return S, np.ones_like(S)
        q, h = run.accepted("error"), np.abs(np.diff(run.grid))
        return (q * h, h) if self.estimate == "error" else (q**2, 2 * q)
