"""Step-size control as data: accept or reject, the next step, the first step.

With q the scaled error of an attempt, q₁ and q₂ those of the two accepted steps before it (at least `floor`):

    accepted:   h ← h clip(safety q^(−β₁) q₁^(β₂) q₂^(−β₃), shrink or 1, grow)
    rejected:   h ← h clip(safety q^(−β_r), shrink, 1)

Every rule used by the libraries one may want to compare with is a row of numbers in that form. No gradient flows through any of it: the grid of
accepted steps is data.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ._jit import inline
from .errors import InputError

SMALLEST = sys.float_info.min


class Rule(NamedTuple):
    """A controller as compiled code sees it; `Controller` documents the fields."""

    safety: float
    beta1: float
    beta2: float
    beta3: float
    beta_reject: float
    shrink: float
    grow: float
    floor: float
    start: float
    accept_below_one: bool
    never_shrink_accepted: bool
    never_grow_after_reject: bool
    overshoot: bool


@dataclass(frozen=True)
class Controller:
    """A step-size rule; exponents are given times k = error_order + 1, so that one rule serves every method.

    i, p, d          exponents of q, q₁, q₂ as β₁ = i/k, β₂ = p/k, β₃ = d/k, in the signs of the module's formula
    reject           exponent after a rejection, times k
    safety           factor on every change
    shrink, grow     smallest and largest change of h in one step
    floor, start     smallest q kept as history, and the history before the first step
    accept_below_one accept only q < 1 (SciPy) rather than q <= 1
    never_shrink_accepted      an accepted step never shrinks the next (torchdiffeq)
    never_grow_after_reject    the first step accepted after a rejection does not grow the next (SciPy, Hairer)
    overshoot        step past the end and interpolate there (torchdiffeq, JAX) instead of landing on it
    clip_first_step  keep the first step within the span (SciPy, OrdinaryDiffEq)
    """

    name: str
    i: float
    p: float = 0.0
    d: float = 0.0
    reject: float = 1.0
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0
    floor: float = 1e-4
    start: float = 1e-4
    accept_below_one: bool = False
    never_shrink_accepted: bool = False
    never_grow_after_reject: bool = False
    overshoot: bool = False
    clip_first_step: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.safety <= 1 and 0 < self.shrink < 1 < self.grow and self.i > 0 and self.reject > 0):
            raise InputError(f"controller {self.name!r}: need 0 < safety <= 1, 0 < shrink < 1 < grow, i > 0 and reject > 0")

    def rule(self, error_order: int) -> Rule:
        """The numbers for a method whose error estimate has order `error_order`."""
        k = error_order + 1
        return Rule(
            float(self.safety),
            self.i / k,
            self.p / k,
            self.d / k,
            self.reject / k,
            float(self.shrink),
            float(self.grow),
            float(self.floor),
            float(self.start),
            self.accept_below_one,
            self.never_shrink_accepted,
            self.never_grow_after_reject,
            self.overshoot,
        )

    def with_(self, **changes: float | bool | str) -> Controller:
        """A copy with some numbers changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


SCIPY = Controller("scipy", i=1.0, accept_below_one=True, never_grow_after_reject=True)
"""SciPy's RK45 and RK23: pure I control, accepts q < 1.                                                        [Vir20]"""

HAIRER_PI = Controller("pi", i=1.0 - 0.75 * 0.2, p=0.2, reject=1.0 - 0.75 * 0.2, shrink=0.2, grow=10.0, never_grow_after_reject=True)
"""Hairer's dopri5.f: β = 0.04 = 0.2/5, exponent 1/5 − 0.75 β.                                         [HNW93, IV.2; Gus91]"""

ORDINARYDIFFEQ = Controller("ordinarydiffeq", i=0.7, p=0.4, reject=0.7)
"""OrdinaryDiffEq's PI rule for Tsit5: β₁ = 7/50, β₂ = 2/25, γ = 0.9, h changes by 1/5 to 10.                        [RN17]"""

ORDINARYDIFFEQ_DP5 = Controller("ordinarydiffeq-dp5", i=0.85, p=0.2, reject=0.85)
"""OrdinaryDiffEq's PI rule for DP5: β₂ = 0.04, β₁ = 1/5 − 3β₂/4 = 0.17.                                            [RN17]"""

TORCHDIFFEQ = Controller("torchdiffeq", i=1.0, never_shrink_accepted=True, overshoot=True, clip_first_step=False)
"""torchdiffeq's and JAX's dopri5: I control, accepted steps never shrink, the end is passed and interpolated.      [Chen18]"""

PID = Controller("pid", i=0.49, p=0.34, d=0.10, start=1.0)
"""PID34 after Söderlind, in the signs of the module's formula: k β = (0.49, 0.34, 0.10).                    [Sod03; KCL00]"""

CONTROLLERS = {c.name: c for c in (SCIPY, HAIRER_PI, ORDINARYDIFFEQ, ORDINARYDIFFEQ_DP5, TORCHDIFFEQ, PID)}


def get_controller(controller: Controller | str | None) -> Controller:
    """A controller by name or itself; None is "pi". InputError lists the names."""
    if controller is None:
        return HAIRER_PI
    if isinstance(controller, Controller):
        return controller
    try:
        return CONTROLLERS[controller.lower()]
    except (KeyError, AttributeError):
        raise InputError(f"unknown controller {controller!r}; known: {', '.join(CONTROLLERS)}, or a Controller(...)") from None


@inline
def accepts(rule, q):
    """True when an attempt with scaled error q is kept; NaN is not."""
    return q < 1.0 or (q == 1.0 and not rule.accept_below_one)


@inline
def next_factor(rule, q, q1, q2, accepted, after_reject):
    """The factor on h after an attempt with scaled error q; NaN and inf shrink as far as the rule allows."""
    if not accepted:
        if not q < math.inf:
            return rule.shrink
        return min(1.0, max(rule.shrink, rule.safety * q**-rule.beta_reject))
    factor = rule.grow
    if q > 0.0:
        factor = rule.safety * q**-rule.beta1
        if rule.beta2 != 0.0:
            factor *= q1**rule.beta2
        if rule.beta3 != 0.0:
            factor *= q2**-rule.beta3
        lowest = 1.0 if rule.never_shrink_accepted else rule.shrink
        factor = min(rule.grow, max(lowest, factor))
    if after_reject and rule.never_grow_after_reject:
        factor = min(1.0, factor)
    return factor


def first_step(d0: float, d1: float, d2_at, error_order: int, limit: float) -> float:
    """The size of the first step, always positive.

    h₀ = 0.01 d₀/d₁,   d₂ = ‖f(t₀ + h₀, y₀ + h₀ f₀) − f₀‖/h₀,   h₁ = (0.01 / max(d₁, d₂))^(1/k),   h = min(100 h₀, h₁, limit)   [HNW93, II.4]

    d0, d1      scaled norms of y₀ and f₀
    d2_at(h0)   the scaled norm of f(t₀ + h₀, y₀ + h₀ f₀) − f₀, one evaluation
    error_order order of the error estimate, k = error_order + 1
    limit       length of the span, or inf
    """
    h0 = first_guess(d0, d1, limit)
    return first_size(h0, d2_at(h0), d1, error_order, limit) if h0 > 0.0 else SMALLEST


def first_guess(d0, d1, limit):
    """h₀ of `first_step`, or 0 where a norm overflowed: then a step as small as can be, which the controller grows."""
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    h0 = min(h0, limit)
    return h0 if 0.0 < h0 < math.inf else 0.0


def first_size(h0, difference, d1, error_order, limit):
    """h of `first_step`, with difference = h₀ d₂."""
    d2 = difference / h0
    if not d2 < math.inf:  # f is not finite a little further on: start from where it is
        return h0
    largest = max(d1, d2)
    h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1.0 / (error_order + 1))
    return max(min(100.0 * h0, h1, limit), SMALLEST)


compiled_first_guess, compiled_first_size = inline(first_guess), inline(first_size)


@inline
def next_time(rule, t, h, end, direction, max_step, after_reject):
    """Where an attempt from t with step size h > 0 ends, or NaN where a rejected step became smaller than ten spacings of numbers at t."""
    if h < 1e-14 * abs(t) + 1e-322:  # else it is larger than ten spacings, and need not be compared with them
        smallest = 10.0 * abs(np.nextafter(t, direction * np.inf) - t)
        if h < smallest:
            if after_reject:
                return np.nan
            h = smallest
    t1 = t + direction * min(h, max_step)
    if not rule.overshoot and direction * (t1 - end) > 0.0:
        return end
    return t1
