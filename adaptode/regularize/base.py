"""What every penalty is: a value of a solved batch, and the transpose of that value."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..fields.protocol import Array, Field
from ..schedules import Schedule, as_schedule
from ..solution import Run
from ..tableau import Tableau


class Pulled(NamedTuple):
    """What a penalty's transpose gives, besides the field evaluations spent.

    theta (P,)                 θ̄ of its own
    jumps [(t, ȳ (B, n))]      cotangents of states at times of the span, for whichever adjoint is in use
    error, stiffness (m,)      cotangents of the scaled error and stiffness estimate of each accepted step, for the discrete adjoint
    """

    theta: Array
    jumps: list[tuple[float, Array]]
    evaluations: int
    error: Array | None = None
    stiffness: Array | None = None


class Term(NamedTuple):
    """A penalty evaluated on a run: its value, the field evaluations it cost, and `pull(bar)`, its transpose."""

    value: float
    evaluations: int
    pull: Callable[[float], Pulled]


class Penalty:
    """Base of the penalties: `weight` λ >= 0 (a number or a schedule), a `name` for reports.

    `check` refuses, before any work, a field or method the penalty cannot serve, `check_times` output times; `span` may move the span that is solved, and
    `times` says at which times of it the state is wanted, `reservoirs` which accepted states drawn at random, all before the solve; `evaluate` gives the Term.
    All randomness comes from one uniform variate a training step, drawn before the solve.
    adjoints: the names of those that can serve it; None: any.
    """

    name: str = "penalty"
    adjoints: tuple[str, ...] | None = None

    def __init__(self, weight: float | Schedule) -> None:
        try:
            self.weight = as_schedule(weight)
        except InputError as error:
            raise InputError(f"{type(self).__name__}: its weight must be a number of at least 0 or a schedule: {error}") from None

    def check(self, field: Field, method: Tableau) -> None:
        """Raises a named error when the penalty cannot be had of this field and method."""

    def using(self, adjoint: str) -> Penalty:
        """The same penalty, for an objective whose gradient comes from that adjoint: some are had more cheaply from one."""
        return self

    def check_times(self, times: Array, tspan: tuple[float, float]) -> None:
        """Raises a named error when the penalty cannot be had with outputs at these times of this span."""

    def span(self, tspan: tuple[float, float], variate: float) -> tuple[float, float]:
        """The span to solve in training, in the place of the nominal one."""
        return tspan

    def times(self, tspan: tuple[float, float], variate: float) -> tuple[float, ...]:
        """Output times the penalty needs of the solve, within the span that is solved."""
        return ()

    def reservoirs(self, variate: float) -> tuple[int, ...]:
        """Seeds of the reservoirs the penalty needs of the solve; see `adaptode.solve`."""
        return ()

    def evaluate(self, run: Run, variate: float) -> Term:
        """The penalty of a successful run."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """The arguments that make this penalty, for JSON."""
        return {"penalty": type(self).__name__, "weight": self.weight.to_dict()}

    def __repr__(self) -> str:
        rest = "".join(f", {key}={value!r}" for key, value in self.config().items() if key not in ("penalty", "weight"))
        return f"{type(self).__name__}({self.weight!r}{rest})"


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """`value` if it is one of `choices`; InputError that lists them otherwise."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return value


def whole(name: str, value: Any) -> int:
    """`value` as an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1; got {value!r}")
    return int(value)


def require_estimate(penalty: str, method: Tableau, stiffness: bool) -> None:
    """InputError for a method without the estimate that a penalty is made of."""
    if not stiffness and not method.adaptive:
        raise InputError(f"{penalty} needs an error estimate, which {method.name} has not; use Tsit5, Dopri5, BS32 or DOP853")
    if stiffness and method.stiffness_pair is None:
        raise InputError(f'{penalty}(estimate="stiffness") needs a stiffness estimate, which {method.name} has not; use Tsit5, Dopri5 or DOP853')


def detached(detach: str | Iterable[str], choices: tuple[str, ...]) -> tuple[str, ...]:
    """The names in `detach`, each one of `choices`."""
    return tuple(one_of("each of detach", d, choices) for d in ([detach] if isinstance(detach, str) else detach))


def require_second(field: Field, what: str, *derivatives: str) -> None:
    """MissingDerivativeError unless the field has these derivatives, and no activation in it is known to lack second ones."""
    field.require_smooth(what)
    field.require(*derivatives)


def seed_of(variate: float) -> int:
    """A whole number for `np.random.default_rng`, one to one with the variate: where a penalty needs more than one random number."""
    return int(variate * 2**53)


def state_at(run: Run, t: float, what: str) -> Array:
    """The state (B, n) at t: as it was saved, the start, or from the dense output."""
    saved = np.flatnonzero(run.t == t)
    if saved.size:
        return run.y[saved[0]]
    run.require_kept(what)
    return run.y0 if t == run.tspan[0] else run.sol(t)
