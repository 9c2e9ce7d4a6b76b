"""Local regularization: the solver's own error estimate at a random time of the solve.                                           [Pal23]

    r = q(t_r, u_r) |h|                with one step of the method from u_r = y(t_r), q its scaled error   ("error")
    r = S(t_r, u_r)                    its stiffness estimate                                              ("stiffness")

and R the mean of r over the sample points t_r. θ̄ += the transpose of that one step (equations (4)–(7) of `adaptode.step`) with q̄ = |h|, then, unless k₁ is
detached, of k₁ = f(t_r, u_r); unless the state is detached, ȳ at t_r is a jump for the adjoint in use.

Where t_r is an accepted time, h the step that was made from it, and nothing is detached, that one step is the solver's own: its r is in the log, and
q̄ = |h| or S̄ a cotangent of that step, which the discrete adjoint pulls through it on its way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..control import first_step
from ..dense import locate
from ..errors import InputError
from ..fields.hidden import norm_bars
from ..fields.protocol import Array, Field
from ..lifted import bound_estimates_vjp, bound_measure
from ..norms import scaled_rms
from ..reservoir import held
from ..schedules import Schedule
from ..solution import Run
from ..step import bound_linearized_stages, bound_stages_vjp, carry_vjp
from ..tableau import Tableau
from .base import Penalty, Pulled, Term, detached, one_of, require_estimate, seed_of, state_at, whole


class LocalError(Penalty):
    """E·|h| or the stiffness estimate of one step at a random time: λ r.                                                    [Pal23]

    weight    λ, a number or a schedule
    sampling  where t_r lies. "unbiased": uniform on the span, so that with estimate="error" and step="solver" the expectation is the mean over time of
              q|h|;  "biased": uniform on the accepted times between the ends, so that hard stretches are drawn more often (t₀ where the solve took a single
              step), by a reservoir: the solve need not keep its states;  "saveat": uniform on the output times before the end, as the published code
              does where output times are given
    estimate  "error": q |h|, in units of time;  "stiffness": S, in units of 1/time, not multiplied by |h|
    step      "solver": h is the accepted step that contains t_r, cut at the end of the span; "initial": the published choice, Hairer's first-step rule at
              (t_r, u_r), 1 evaluation more. In float64 at tight tolerances "initial" gives a much smaller h and, as q ~ h⁵, a penalty near 0
    detach    what is held fixed in the gradient, any of "state" (u_r), "k1" and "step" (h). Default ("state",): the gradient is exact in θ for the given u_r
              and h. The published code also holds k₁ fixed: detach=("state", "step", "k1"); the estimate lives on Σ e_i = 0, and a frozen k₁ breaks that
              cancellation. h is a number of the accepted grid or of the first-step rule, through neither of which a gradient ever flows: "step" is
              always in force, named or not.
    samples   how many sample points; R is their mean. "unbiased" and "saveat": stratified, one in each of so many equal parts of the span or of the list of
              times, with a variance never above that of independent ones; "biased": independent. Published: 1

    Where q is 0, the gradient is 0. Cost: s evaluations and s pullbacks a sample point and training step; next to nothing for sampling="biased" with detach=()
    and the discrete adjoint, which has the solver's own step at hand.
    """

    def __init__(
        self,
        weight: float | Schedule,
        sampling: str = "unbiased",
        *,
        estimate: str = "error",
        step: str = "solver",
        detach: str | Iterable[str] = ("state",),
        samples: int = 1,
    ) -> None:
        super().__init__(weight)
        self.sampling = one_of("sampling", sampling, ("unbiased", "biased", "saveat"))
        self.estimate = one_of("estimate", estimate, ("error", "stiffness"))
        self.step = one_of("step", step, ("solver", "initial"))
        self.detach = tuple(d for d in detached(detach, ("state", "k1", "step")) if d != "step")
        self.samples = whole("samples", samples)
        self.name = f"local_{estimate}"
        self._own = False  # of the solver's own steps, and their cotangents the adjoint's

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "sampling": self.sampling,
            "estimate": self.estimate,
            "step": self.step,
            "detach": list(self.detach),
            "samples": self.samples,
        }

    def check(self, field: Field, method: Tableau) -> None:
        require_estimate("LocalError", method, self.estimate == "stiffness")

    def check_times(self, times: Array, tspan: tuple[float, float]) -> None:
        if self.sampling == "saveat" and (np.asarray(times) == tspan[1]).all():
            raise InputError('LocalError(sampling="saveat") draws from the output times before the end of the span, of which there is none; try "unbiased"')

    def times(self, tspan: tuple[float, float], variate: float) -> tuple[float, ...]:
        if self.sampling != "unbiased":
            return ()
        return tuple(tspan[0] + share * (tspan[1] - tspan[0]) for share in self._shares(variate))

    def reservoirs(self, variate: float) -> tuple[int, ...]:
        return tuple(seed_of(variate) + k for k in range(self.samples)) if self.sampling == "biased" else ()

    def using(self, adjoint: str) -> LocalError:
        twin = copy.copy(self)
        twin._own = adjoint == "discrete" and self.sampling == "biased" and self.step == "solver" and not self.detach
        return twin

    def _shares(self, variate: float) -> list[float]:
        """Places in [0, 1), one in each of `samples` equal parts."""
        if self.samples == 1:
            return [variate]
        return [(k + v) / self.samples for k, v in enumerate(np.random.default_rng(seed_of(variate)).random(self.samples).tolist())]

    def evaluate(self, run: Run, variate: float) -> Term:
        t0, t1 = run.tspan
        if self._own and 0.0 < abs(run.grid[-1] - t0) <= abs(t1 - t0):  # else the last step is cut at the end of the span
            return self._of_own_steps(run, variate)
        parts = [self._at(run, t, u) for t, u in self._points(run, variate)]
        share = 1.0 / len(parts)

        def pull(bar: float) -> Pulled:
            theta_bar, jumps, calls = np.zeros_like(run.theta), [], 0
            for part in parts:
                pulled = part.pull(share * bar)
                theta_bar += pulled.theta
                jumps += pulled.jumps
                calls += pulled.evaluations
            return Pulled(theta_bar, jumps, calls)

        return Term(share * sum(part.value for part in parts), sum(part.evaluations for part in parts), pull)

    def _of_own_steps(self, run: Run, variate: float) -> Term:
        """r of the solver's own steps from the times drawn."""
        drawn = [held(seed, run.grid.size - 1) for seed in self.reservoirs(variate)]
        share, by_error = 1.0 / len(drawn), self.estimate == "error"
        lengths = np.abs(np.diff(run.grid)) if by_error else np.ones(run.grid.size - 1)
        r = run.accepted(self.estimate) * lengths

        def pull(bar: float) -> Pulled:
            bars = np.zeros(r.size)
            np.add.at(bars, drawn, share * bar * lengths[drawn])
            return Pulled(np.zeros_like(run.theta), [], 0, **{self.estimate: bars})

        return Term(share * float(r[drawn].sum()), 0, pull)

    def _points(self, run: Run, variate: float) -> list[tuple[float, Array]]:
        """(t_r, u_r) of every sample point."""
        if self.sampling == "biased":
            drawn = [(seed, held(seed, run.grid.size - 1)) for seed in self.reservoirs(variate)]
            return [(float(run.grid[i]), run.held[seed] if seed in run.held else run.seen(run.require_kept("biased sampling")[i])) for seed, i in drawn]
        if self.sampling == "saveat":
            self.check_times(run.t, run.tspan)
            before = run.t[run.t != run.tspan[1]].tolist()
            return [(before[i], run.y[i]) for i in (int(share * len(before)) for share in self._shares(variate))]
        return [(t, state_at(run, t, "unbiased sampling")) for t in self.times(run.tspan, variate)]

    def _at(self, run: Run, t: float, u: Array) -> Term:
        """r of the step from u at t."""
        h, evaluations = self._step_size(run, t, u)
        if h == 0.0:
            return Term(0.0, evaluations, lambda bar: Pulled(np.zeros_like(run.theta), [], 0))
        # k₁ is held as the numbers f(t_r, u_r), which hidden coordinates would let move with their weights
        moves = "state" not in self.detach
        local = _OneStep(run.lifted() if "k1" in self.detach else run, t, h, u, moves)
        by_error = self.estimate == "error"
        value = local.q * abs(h) if by_error else local.stiffness

        def pull(bar: float) -> Pulled:
            theta_bar, u_bar, calls = local.vjp(bar * abs(h) if by_error else 0.0, 0.0 if by_error else bar, "k1" not in self.detach)
            return Pulled(theta_bar, [(t, u_bar)] if moves else [], calls)

        return Term(float(value), evaluations + run.method.b.size, pull)

    def _step_size(self, run: Run, t: float, u: Array) -> tuple[float, int]:
        """Signed h and the evaluations it cost."""
        left = run.tspan[1] - t
        if left == 0.0:
            return 0.0, 0
        if self.step == "solver":
            i = int(locate(run, t))
            if i + 2 < run.grid.size and run.grid[i + 1] == t:  # a step belongs to the time it starts from
                i += 1
            h = run.grid[i + 1] - run.grid[i]
            return float(h if abs(h) < abs(left) else left), 0
        bound = run.field.bind(run.theta, u.shape[0], u.dtype)
        y, f0, f1 = u.ravel(), np.empty(u.size, u.dtype), np.empty(u.size, u.dtype)
        bound.value(t, y, bound.pack, f0)

        def d2_at(h0: float) -> float:
            h = float(np.copysign(h0, left))
            bound.value(t + h, y + y.dtype.type(h) * f0, bound.pack, f1)
            return scaled_rms(f1 - f0, y, y, run.atol, run.rtol)

        d0, d1 = (scaled_rms(x, y, y, run.atol, run.rtol) for x in (y, f0))
        return float(np.copysign(first_step(d0, d1, d2_at, run.method.error_order, abs(left)), left)), 2


class _OneStep:
    """One step of a run's method from (t, u), linearized, with its transpose; in the run's coordinates, which begin at u. moves: ū is asked for."""

    def __init__(self, run: Run, t: float, h: float, u: Array, moves: bool) -> None:
        self.run, self.t, self.h, self.shape, self.moves, dtype = run, t, h, u.shape, moves, u.dtype
        self.hidden = None if run.coordinates is None else run.coordinates.at(u)
        self.bound = run.field.bind(run.theta, u.shape[0], dtype) if self.hidden is None else self.hidden.bind(opened=True, start=moves)
        self.u = u.ravel() if self.hidden is None else np.zeros(self.hidden.size, dtype)
        self.tab = tab = run.method.coefficients(dtype)
        s, size = tab.b.size, self.u.size
        self.u1, self.err = np.empty(size, dtype), np.empty(run.method.estimates * size, dtype)
        self.Y, self.K, self.kept = np.empty((s, size), dtype), np.empty((s, size), dtype), np.empty((s, self.bound.kept), dtype)
        bound_linearized_stages(self.bound, tab, t, h, self.u, 0, s, self.Y, self.K, self.kept, False)
        self.q, self.stiffness = bound_measure(self.bound, tab, h, self.u, self.K, self.Y, run.atol, run.rtol, self.u1, self.err)

    def vjp(self, q_bar: float, stiffness_bar: float, through_k1: bool) -> tuple[Array, Array | None, int]:
        """(θ̄, ū, pullbacks) of q̄ q + S̄ S; in hidden coordinates ū is None unless it was asked for."""
        tab, dtype, size, run, bound = self.tab, self.u.dtype, self.u.size, self.run, self.bound
        K_bar, pair_bar = np.zeros_like(self.K), np.zeros((2, size), dtype)
        u_bar, u1_bar, scratch, err_bar = (*(np.zeros(size, dtype) for _ in range(3)), np.zeros_like(self.err))
        theta_bar = np.zeros(run.field.n_params if self.hidden is None else self.hidden.n_params, dtype)
        if self.hidden is not None:
            for bar in norm_bars(bound):
                bar.fill(0)
        bars = self.err, u1_bar, err_bar, u_bar, K_bar, pair_bar
        bound_estimates_vjp(bound, tab, self.h, self.u, self.u1, self.K, self.Y, run.atol, run.rtol, self.q, q_bar, stiffness_bar, *bars)
        carry_vjp(tab, self.h, u1_bar, err_bar, u_bar, K_bar)
        calls = bound_stages_vjp(bound, tab, self.t, self.h, self.Y, self.kept, 1, pair_bar, scratch, u_bar, K_bar, theta_bar)
        if through_k1:
            bound.pullback(self.t, self.u, bound.pack, self.kept[0], K_bar[0], u_bar, theta_bar)
            calls += 1
        if self.hidden is None:
            return theta_bar, u_bar.reshape(self.shape), calls
        y_bar, theta_bar = self.hidden.pull(theta_bar, np.empty((0, size), dtype), (), bound, self.moves)
        return theta_bar, y_bar, calls
