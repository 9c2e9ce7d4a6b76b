"""What a solve leaves behind: status, log of attempts, run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from dataclasses import field as column
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import InputError, SolveError

if TYPE_CHECKING:
    from .fields.hidden import HiddenCoordinates
    from .fields.protocol import Array, Bound, Field
    from .tableau import Tableau


class Status(IntEnum):
    """How a solve ended; 0 and above are successes, as in SciPy."""

    SUCCESS = 0
    STEP_TOO_SMALL = -1
    MAX_STEPS = -2
    NONFINITE = -3
    RUNNING = 100


# The same as plain integers, which compiled code compares with its counters.
SUCCESS, TOO_SMALL, MAX_STEPS, NONFINITE, RUNNING = (
    int(s) for s in (Status.SUCCESS, Status.STEP_TOO_SMALL, Status.MAX_STEPS, Status.NONFINITE, Status.RUNNING)
)


class StepInfo(NamedTuple):
    """What is told of one accepted step: where it ended, t and y (n,); its length, scaled error and stiffness estimate; evaluations so far."""

    t: float
    y: Array
    h: float
    error: float
    stiffness: float
    nfev: int


class Attempt(NamedTuple):
    """One attempt at a step; the columns of `StepLog`."""

    t: float
    h: float
    error: float
    stiffness: float
    accepted: bool


@dataclass(frozen=True)
class StepLog:
    """One row an attempt, in the order in which they were made.

    t          (A,) time at the start of the attempt
    h          (A,) signed step
    error      (A,) scaled error q; q <= 1 accepts (NaN: something was not finite; 0 for fixed-step methods)
    stiffness  (A,) stiffness estimate S, in units of 1/time: |h| S is near 1 on the border of stability; NaN where the method has none
    accepted   (A,) bool
    stages     (m, s, n) of the m accepted attempts, err (A, n) error vectors, (A, 2 n) of methods with two: where solve_ivp was asked to keep them
    """

    t: Array
    h: Array
    error: Array
    stiffness: Array
    accepted: Array

    stages: Array | None = None
    err: Array | None = None

    @classmethod
    def of(cls, attempts: Collection[Attempt]) -> StepLog:
        """The log of attempts collected one by one."""
        columns = zip(*attempts, strict=True) if attempts else [()] * 5
        return cls(*(np.array(column, bool if i == 4 else np.float64) for i, column in enumerate(columns)))

    def __len__(self) -> int:
        return self.t.size

    def rows(self, which: slice) -> StepLog:
        """Some of the attempts."""
        return StepLog(self.t[which], self.h[which], self.error[which], self.stiffness[which], self.accepted[which])

    def with_(self, **arrays: Array | None) -> StepLog:
        """A copy with `stages` or `err`."""
        return replace(self, **arrays)

    def __str__(self) -> str:
        """A table, its middle left out where it is long."""
        rows = list(range(len(self)))
        if len(rows) > 12:
            rows = [*rows[:6], -1, *rows[-5:]]
        lines = ["  attempt           t            h     error  stiffness"]
        for i in rows:
            if i < 0:
                lines.append("      ...")
                continue
            mark = "" if self.accepted[i] else "  rejected"
            lines.append(f"  {i:7d} {self.t[i]:11.6g} {self.h[i]:12.5g} {self.error[i]:9.3g} {self.stiffness[i]:10.3g}{mark}")
        return "\n".join(lines)


class Checkpoints(NamedTuple):
    """States kept at some of the accepted times: every `every`-th, or none (0), the first and the last in any case.

    index (c,) into the grid, in order; states (c, B, n)
    """

    every: int
    index: Array
    states: Array


@dataclass(frozen=True, repr=False)
class Run:
    """A solved batch.

    t (k,)            output times: `saveat`, or the end alone            y (k, B, n)    the states there
    y0, y1 (B, n)     the states at the start and at the end of the span  held           {seed: (B, n)} what `reservoirs` drew
    steps             the log of every attempt
    grid (m + 1,)     accepted times t₀ … t_m                             states (m + 1, B, n)  the states there, unless keep="none"
    coordinates       None, or those of the last hidden layer, in which it was solved; kept_states (m + 1, N), kept_stages (m, s, N) and
                      kept_checkpoints are then in them; `states`, `stages` and `checkpoints` are made when asked for
    checkpoints       some of the states, where not all were kept
    nfev              evaluations of the field                            status, message, success
    """

    t: Array
    y: Array
    steps: StepLog
    grid: Array
    nfev: int
    status: Status
    message: str
    field: Field
    theta: Array
    tspan: tuple[float, float]
    method: Tableau
    atol: Array
    rtol: Array
    y0: Array
    end: Array
    kept_states: Array | None
    kept_stages: Array | None
    kept_checkpoints: Checkpoints | None = None
    coordinates: HiddenCoordinates | None = None
    held: dict[int, Array] = column(default_factory=dict)

    @property
    def success(self) -> bool:
        """True when the end of the span was reached."""
        return self.status >= 0

    @property
    def states(self) -> Array | None:
        """The states (m + 1, B, n) at the accepted times, if they were kept."""
        return None if self.kept_states is None else self.seen(self.kept_states)

    @property
    def stages(self) -> Array | None:
        """The stages (m, s, B n) of the accepted steps, if they were kept."""
        if self.kept_stages is None or self.coordinates is None:
            return self.kept_stages
        return self.coordinates.direction(self.kept_stages).reshape(*self.kept_stages.shape[:2], -1)

    @property
    def checkpoints(self) -> Checkpoints | None:
        """Some of the states, where not all were kept."""
        some = self.kept_checkpoints
        return None if some is None else some._replace(states=self.seen(some.states))

    def seen(self, flat: Array) -> Array:
        """States (…, B, n) of the numbers (…, N) that were stepped."""
        return flat.reshape(*flat.shape[:-1], *self.end.shape) if self.coordinates is None else self.coordinates.state(flat)

    def bind(self) -> Bound:
        """The field's functions on the numbers that were stepped."""
        return self.field.bind(self.theta, self.end.shape[0], self.end.dtype) if self.coordinates is None else self.coordinates.bind()

    def lifted(self) -> Run:
        """The same run as if it had been stepped in the state's own coordinates, without its stages."""
        if self.coordinates is None:
            return self
        states, some = self.states, self.checkpoints
        if some is not None:
            some = some._replace(states=some.states.reshape(len(some.index), -1))
        flat = None if states is None else states.reshape(len(states), -1)
        return replace(self, kept_states=flat, kept_stages=None, kept_checkpoints=some, coordinates=None)

    def detached(self) -> Run:
        """The same run with copies of theta and y0, which `solve(copy=False)` leaves out."""
        theta, y0, hidden = self.theta.copy(), self.y0.copy(), self.coordinates
        return replace(self, theta=theta, y0=y0, coordinates=type(hidden)(hidden.field, theta, y0) if hidden else None)

    @property
    def start(self) -> Array:
        """The numbers (N,) that were stepped, at t₀: y₀ itself, or 0 in hidden coordinates."""
        return self.y0.ravel() if self.coordinates is None else np.zeros(self.coordinates.size, self.end.dtype)

    @property
    def y1(self) -> Array:
        """The state (B, n) at the end of the span; SolveError when it was not reached."""
        self.require_success()
        return self.end

    @property
    def n_accepted(self) -> int:
        return int(self.steps.accepted.sum())

    @property
    def n_rejected(self) -> int:
        return len(self.steps) - self.n_accepted

    def require_success(self) -> Run:
        """This run, or SolveError with its message."""
        if not self.success:
            raise SolveError(self.message, self)
        return self

    def require_kept(self, what: str) -> Array:
        """What was kept of the states at the accepted times, in `coordinates`; InputError when nothing was."""
        if self.kept_states is None:
            raise InputError(f'{what} needs the states at the accepted times; solve with keep="states" (the default)')
        return self.kept_states

    def require_states(self, what: str) -> Array:
        """The states (m + 1, B, n) at the accepted times; InputError when the run kept none."""
        return self.seen(self.require_kept(what))

    def accepted(self, column: str) -> Array:
        """A column of the log at the accepted attempts only."""
        return getattr(self.steps, column)[self.steps.accepted]

    def sol(self, t: Any) -> Array:
        """Dense output: the states (k, B, n) at times (k,), or (B, n) at a scalar, anywhere within the accepted steps."""
        from .dense import evaluate

        return evaluate(self, t)

    def __repr__(self) -> str:
        largest = np.nanmax(self.accepted("error"), initial=0.0)
        return (
            f"{self.method.name} from {self.tspan[0]:g} to {self.tspan[1]:g}: {self.message}\n"
            f"  {self.nfev} evaluations, {self.n_accepted} steps accepted, {self.n_rejected} rejected, largest accepted error {largest:.3g}"
        )


def explain(status: Status, log: StepLog, t: float, slope: Array | None, name: str) -> str:
    """What happened, where, in which component, and what to try; `slope` is f at the last accepted state, or where it failed: (B, n) or (n,).

    A success needs no slope.
    """
    if status is Status.SUCCESS or slope is None:
        return "the end of the span was reached"
    where = f"at t = {t:.9g}"
    if not len(log):
        return f"{name} is not finite {where}, the start{_component(slope)}; check the initial values, the parameters and the function there"
    if not np.isfinite(slope).all():
        where += _component(slope)
    attempts = log.error[-5:]
    last = f"; the last {attempts.size} attempts had errors {', '.join(f'{q:.3g}' for q in attempts)} at |h| down to {abs(log.h[-1]):.3g}"
    if status is Status.MAX_STEPS:
        return (
            f"max_steps = {len(log)} attempts ended {where} before the end of the span{last}. "
            "Raise max_steps, loosen rtol and atol, or, if |h| times the stiffness estimate is near 1, use an implicit method (SciPy's Radau or BDF)"
        )
    if status is Status.NONFINITE:
        retried = log.error[:-1].any()  # a fixed step has no error, and is tried once
        how = f"just after t = {t:.9g}{_component(slope)}, however small the step{last}" if retried else f"in the step of {log.h[-1]:.6g} from t = {t:.9g}"
        cause = "A solution that blows up there, or a log or root out of its domain?" + ("" if retried else " Or a step too large: try a smaller one")
        return f"{name} gives NaN or inf {how}. {cause}"
    return (
        f"the step became smaller than the spacing of floating-point numbers {where}{last}. "
        "A singularity or a discontinuity there, or tolerances below what the precision allows?"
    )


def _component(values: Array) -> str:
    bad = np.argwhere(~np.isfinite(values))
    if not len(bad):
        return ""
    return " (" + ", ".join(f"{name} {i}" for name, i in zip(("sample", "component")[-values.ndim :], bad[0], strict=True)) + ")"
