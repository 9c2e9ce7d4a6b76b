"""Penalties that are a function of (t, y(t)) alone, at the start, at a random time, or along the path.

    φ_b(t) = φ(t, y_b(t); θ),   Φ(t) = mean_b φ_b(t)  or  max_b φ_b(t)
    R = Φ(t₀)                                            at="start"
    R = c Φ(t),   t ~ U(t₀, t₁)                           at="random"
    R = c Σ_k w_k Φ(t_k)                                  at="path": Gauss–Legendre on the span, Σ w_k = 1                        [GW69]

with c = |t₁ − t₀| for a penalty that is an integral over time, so that "random" is an unbiased estimator of ∫ Φ dt, and c = 1 for one that is a mean over
time. y(t) is the solve's own output there, dense between its steps: its cotangents go back as jumps of whichever adjoint is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..fields.protocol import Array, Field
from ..schedules import Schedule
from ..solution import Run
from .base import Penalty, Pulled, Term, detached, one_of, state_at, whole


class PointwisePenalty(Penalty):
    """Base of the penalties of (t, y(t)); a subclass gives `pointwise` and says whether it is an `integral` over time.

    weight  λ, a number or a schedule
    at      "start", "random" or "path": see the module;   nodes  of the quadrature along the path
    reduce  over the batch: "mean" or "max" (where several samples share the maximum, its gradient is that of the first)
    detach  ("state",): y(t) is held fixed, and no cotangent goes back through the solve

    pullbacks: how many of the field's pullbacks the transpose takes a node.
    """

    places: tuple[str, ...] = ("start", "random", "path")
    integral = False
    pullbacks = 0

    def __init__(
        self,
        weight: float | Schedule,
        *,
        at: str = "start",
        nodes: int = 8,
        reduce: str = "mean",
        detach: str | Iterable[str] = (),
    ) -> None:
        super().__init__(weight)
        self.at = one_of("at", at, self.places)
        self.nodes = whole("nodes", nodes)
        self.reduce = one_of("reduce", reduce, ("mean", "max"))
        self.detach = detached(detach, ("state",))
        abscissas, weights = np.polynomial.legendre.leggauss(self.nodes)
        self._places, self._weights = (1.0 + abscissas) / 2, weights / 2

    def pointwise(
        self, field: Field, t: float, y: Array, theta: Array, variate: float
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]], int]:
        """φ (B,), its transpose φ̄ (B,) -> (ȳ (B, n), θ̄ (P,)), and the field evaluations it took."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        path = {"nodes": self.nodes} if self.at == "path" else {}
        return {**super().config(), "at": self.at, **path, "reduce": self.reduce, "detach": list(self.detach)}

    def times(self, tspan: tuple[float, float], variate: float) -> tuple[float, ...]:
        t0, t1 = tspan
        if self.at == "start":
            return (t0,)
        return tuple(t0 + float(place) * (t1 - t0) for place in (self._places if self.at == "path" else (variate,)))

    def evaluate(self, run: Run, variate: float) -> Term:
        times = self.times(run.tspan, variate)
        weights = self._weights if self.at == "path" else np.ones(1)
        if self.integral and self.at != "start":
            weights = abs(run.tspan[1] - run.tspan[0]) * weights
        what = f'{type(self).__name__}(at="{self.at}")'
        points = [self.pointwise(run.field, t, state_at(run, t, what), run.theta, variate) for t in times]
        value = sum(float(w * getattr(values, self.reduce)()) for w, (values, _, _) in zip(weights, points, strict=True))

        def pull(bar: float) -> Pulled:
            theta_bar, jumps = np.zeros_like(run.theta), []
            for t, w, (values, transpose, _) in zip(times, weights, points, strict=True):
                y_bar, of_theta = transpose(self._spread(values, bar * w))
                theta_bar += of_theta
                if "state" not in self.detach:
                    jumps.append((t, y_bar))
            return Pulled(theta_bar, jumps, self.pullbacks * len(times))

        return Term(value, sum(evaluations for _, _, evaluations in points), pull)

    def _spread(self, values: Array, bar: float) -> Array:
        """The cotangent (B,) of the values from that of their mean or maximum."""
        if self.reduce == "mean":
            return np.full(values.shape, bar / values.size, values.dtype)
        out = np.zeros_like(values)
        out[np.argmax(values)] = bar
        return out
