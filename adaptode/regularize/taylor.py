"""TayNODE: flows whose high derivatives in time are small take long steps.                                                         [Kelly20]

    φ_b(t) = mean_i (d^K y_bi/dt^K)²,   d^K y/dt^K = K! y_K,   R_K = mean_b ∫ φ_b dt

with y_K of `Field.taylor`, a Taylor coefficient of the solution through (t, y(t)). Transpose:

    ȳ_K = φ̄_b (2 K!/n) d^K y/dt^K,   (ȳ, θ̄) = taylor_vjp(ȳ_K at order K, 0 at the others)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import InputError
from ..fields.protocol import Array, Field
from ..schedules import Schedule
from ..tableau import Tableau
from .base import require_second
from .pointwise import PointwisePenalty


class Taylor(PointwisePenalty):
    """λ R_K, R_K = ∫ mean_i (d^K y_i/dt^K)² dt, mean over the batch: in units of y² time^(1 − 2K).                                [Kelly20]

    K       2, 3, 4 or 5: order of the derivative; a method of order K − 1 leaves local errors of h^K times derivatives of that order
    weight  λ, a number or a schedule
    at, nodes, reduce, detach
            as in `PointwisePenalty`; at="path", the default, is the integral by Gauss–Legendre with `nodes` nodes on the dense output; "random" an
            unbiased estimate of it from one node; "start" the value at t₀ alone

    The mean over components is the published code's; the paper writes the squared norm, n times as much, so that its λ is n times smaller. Published λ with
    the mean: 6e-5 (K = 3, MNIST), 1e-2 (K = 3, latent ODE), 1e-2 (K = 2, MiniBooNE), 3e-4 (K = 2, FFJORD on MNIST).
    MissingDerivativeError for a field without Taylor coefficients (relu, or a user's field). Cost a node: that of about K evaluations and K
    pullbacks, as it is counted; docs/taylor.md has the seconds.
    """

    integral = True

    def __init__(
        self,
        K: int,
        weight: float | Schedule | None = None,
        *,
        at: str = "path",
        nodes: int = 8,
        reduce: str = "mean",
        detach: str | Iterable[str] = (),
    ) -> None:
        if isinstance(K, bool) or not isinstance(K, (int, np.integer)) or not 2 <= K <= 5 or weight is None:
            given = repr(K) if weight is None else f"{K!r}, {weight!r}"
            raise InputError(f"Taylor takes the order K of the derivative, 2, 3, 4 or 5, then its weight, as in Taylor(3, 0.01); got Taylor({given})")
        super().__init__(weight, at=at, nodes=nodes, reduce=reduce, detach=detach)
        self.K = self.pullbacks = int(K)
        self.name = f"taylor_{K}"

    def config(self) -> dict[str, Any]:
        return {**super().config(), "K": self.K}

    def check(self, field: Field, method: Tableau) -> None:
        require_second(field, "Taylor", "taylor")

    def pointwise(self, field: Field, t: float, y: Array, theta: Array, variate: float) -> tuple[Array, Callable[[Array], tuple[Array, Array]], int]:
        path, cache = field.taylor(t, y, theta, self.K)
        factorial = path.dtype.type(math.factorial(self.K))
        derivative = factorial * path[self.K]

        def pull(bar: Array) -> tuple[Array, Array]:
            path_bar = np.zeros_like(path)
            path_bar[self.K] = (2 * factorial / field.n) * bar[:, None] * derivative
            return field.taylor_vjp(cache, path_bar)

        return np.mean(derivative * derivative, axis=1), pull, self.K
