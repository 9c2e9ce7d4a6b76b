"""Schedules: a number that changes with the training step, or with the epoch (learning rates, penalty weights).

A schedule is called with the number of steps already complete, so that `schedule(0)` is the first value used. All of
them are frozen, comparable and JSON-able (`to_dict`, `from_dict`); values are dimensionless and never negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from .errors import InputError


@dataclass(frozen=True)
class Schedule:
    """Base of the schedules: `schedule(step) -> float`. Subclasses are frozen dataclasses of numbers."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            name = f"{type(self).__name__}: {field.name}"
            if field.name == "steps":
                if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                    raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
                plain = int(value)
            else:
                if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
                    raise InputError(f"{name} must be a finite number of at least 0, not {value!r}")
                plain = float(value)
            object.__setattr__(self, field.name, plain)  # NumPy scalars become plain numbers, which JSON knows

    def __call__(self, step: int) -> float:
        raise NotImplementedError

    def by_epochs(self, steps_per_epoch: int | None) -> Schedule:
        """The schedule where an epoch has so many steps: itself, unless it counts epochs and has not been told."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """`{"kind": "Linear", "start": ..., ...}`, ready for JSON; `from_dict` reads it back."""
        return {"kind": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class Constant(Schedule):
    """λ(s) = value."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear(Schedule):
    """λ(s) = start + (end − start) s / steps, held at `end` afterwards."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * (step / self.steps)


@dataclass(frozen=True)
class Exponential(Schedule):
    """λ(s) = start · exp(−k s),  k = ln(start / end) / steps, held at `end` afterwards; start and end > 0."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == 0 or self.end == 0:
            raise InputError(
                f"Exponential: start and end must be positive, not {self.start!r} and {self.end!r}; Linear can reach 0"
            )

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.end
        # start · (end / start)^(s / steps), by logarithms because the ratio of two extreme numbers may overflow
        share = step / self.steps
        return math.exp((1.0 - share) * math.log(self.start) + share * math.log(self.end)) if step else self.start


@dataclass(frozen=True)
class InverseDecay(Schedule):
    """λ(s) = start / (1 + rate · s)."""

    start: float
    rate: float

    def __call__(self, step: int) -> float:
        return self.start / (1.0 + self.rate * step)


@dataclass(frozen=True)
class Cosine(Schedule):
    """λ(s) = end + (start − end) (1 + cos(π s / steps)) / 2, held at `end` afterwards.          [LH17, (5)]"""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.end
        share = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.start * share + self.end * (1.0 - share)


@dataclass(frozen=True)
class PerEpoch(Schedule):
    """λ(s) = schedule(e), e the number of epochs already complete: constant within an epoch, and `steps` of the schedule are epochs.

    schedule         any other schedule, e.g. PerEpoch(Exponential(100.0, 10.0, 75))
    steps_per_epoch  e = s // steps_per_epoch; None: as `adaptode.fit` counts them, which sets it
    """

    schedule: Schedule
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule) or isinstance(self.schedule, PerEpoch):
            raise InputError(f"PerEpoch: schedule must be a schedule of the epoch such as Exponential(100.0, 10.0, 75), not {self.schedule!r}")
        n = self.steps_per_epoch
        if n is not None:
            if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
                raise InputError(f"PerEpoch: steps_per_epoch must be a whole number of at least 1, or None, not {n!r}")
            object.__setattr__(self, "steps_per_epoch", int(n))

    def by_epochs(self, steps_per_epoch: int | None) -> Schedule:
        return self if self.steps_per_epoch is not None else replace(self, steps_per_epoch=steps_per_epoch)

    def __call__(self, step: int) -> float:
        if self.steps_per_epoch is None:
            raise InputError(f"{self!r} has not been told how many steps an epoch has; adaptode.fit does, or give steps_per_epoch=")
        return self.schedule(step // self.steps_per_epoch)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "PerEpoch", "schedule": self.schedule.to_dict(), "steps_per_epoch": self.steps_per_epoch}


_KINDS = {kind.__name__: kind for kind in (Constant, Linear, Exponential, InverseDecay, Cosine, PerEpoch)}


def as_schedule(x: float | Schedule) -> Schedule:
    """A number as a constant schedule, a schedule as itself. Anything else, NaN, negative: InputError."""
    if isinstance(x, Schedule):
        return x
    if isinstance(x, Real):
        return Constant(x)
    raise InputError(f"expected a number or a schedule ({', '.join(_KINDS)}), not {x!r}")


def from_dict(data: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_dict` wrote. An unknown kind or wrong fields: InputError."""
    if not isinstance(data, Mapping):
        raise InputError(f"expected what a schedule's to_dict gives, not {data!r}")
    kind = _KINDS.get(data.get("kind", ""))
    if kind is None:
        raise InputError(f"unknown schedule {data.get('kind')!r}; known: {', '.join(_KINDS)}")
    values = {name: value for name, value in data.items() if name != "kind"}
    if set(values) != {field.name for field in fields(kind)}:
        raise InputError(f"{kind.__name__} takes {', '.join(f.name for f in fields(kind))}, not {', '.join(values)}")
    if kind is PerEpoch:
        values["schedule"] = from_dict(values["schedule"])
    return kind(**values)
