"""What every penalty is: a value of a solved batch, and the transpose of that value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import InputError
from ..fields.protocol import Array, Field
from ..schedules import Schedule, as_schedule
from ..solution import Run
from ..tableau import Tableau


class Pulled(NamedTuple):
    """What a penalty's transpose gives: θ̄ (P,) of its own, jumps (t, ȳ (B, n)) for whichever adjoint is in use, field evaluations spent."""

    theta: Array
    jumps: list[tuple[float, Array]]
    evaluations: int


class Term(NamedTuple):
    """A penalty evaluated on a run: its value, the field evaluations it cost, and `pull(bar)`, its transpose."""

    value: float
    evaluations: int
    pull: Callable[[float], Pulled]


class Penalty:
    """Base of the penalties: `weight` λ (a number or a schedule of the training step), a `name` for reports.

    `check` refuses, before any work, a field or method the penalty cannot serve; `times` says, before the solve, at which times its state is wanted;
    `evaluate` gives the Term. All randomness comes from one uniform variate a training step, drawn before the solve.
    """

    name: str = "penalty"

    def __init__(self, weight: float | Schedule) -> None:
        self.weight = as_schedule(weight)

    def check(self, field: Field, method: Tableau) -> None:
        """Raises a named error when the penalty cannot be had of this field and method."""

    def times(self, tspan: tuple[float, float], variate: float) -> tuple[float, ...]:
        """Output times the penalty needs of the solve."""
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
