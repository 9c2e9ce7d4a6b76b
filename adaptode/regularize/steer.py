"""STEER: in training, the flow ends at a random time.                                                                              [Gho20]"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from ..errors import InputError
from ..fields.protocol import Array
from ..solution import Run
from .base import Penalty, Pulled, Term


class Steer(Penalty):
    """T ~ U(t₁ − b, t₁ + b) in the place of t₁, drawn anew in every training step; the prediction ends at t₁.                       [Gho20]

    b  half the width of the interval, in units of time, 0 < b < |t₁ − t₀|

    Has no weight and adds 0 to the objective: what regularizes is that the loss is asked for at every T. T does not depend on the parameters, and the
    gradient is exact for the T that was drawn. Published for a span of length 1: b = 0.5, with 0.25 comparable [PKR21]; the code for continuous
    normalizing flows takes b = |t₁ − t₀| − 0.25. An objective takes one Steer at most, and none with observation times, which are fixed.
    """

    name = "steer"

    def __init__(self, b: float) -> None:
        super().__init__(0.0)
        if isinstance(b, bool) or not isinstance(b, Real) or not (math.isfinite(b) and b > 0):
            raise InputError(f"Steer(b): b must be a time greater than 0; got {b!r}")
        self.b = float(b)

    def config(self) -> dict[str, Any]:
        return {"penalty": "Steer", "b": self.b}

    def __repr__(self) -> str:
        return f"Steer({self.b})"

    def check_times(self, times: Array, tspan: tuple[float, float]) -> None:
        length = abs(tspan[1] - tspan[0])
        if self.b >= length:
            raise InputError(f"Steer(b): b must be smaller than the length of the span, {length:g}, or T could fall before t0; got {self.b:g}")

    def span(self, tspan: tuple[float, float], variate: float) -> tuple[float, float]:
        return (tspan[0], tspan[1] + (2.0 * variate - 1.0) * self.b)

    def evaluate(self, run: Run, variate: float) -> Term:
        return Term(0.0, 0, lambda bar: Pulled(np.zeros_like(run.theta), [], 0))
