"""Solving by hand: one step at a time, backwards in history too, and in copies."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .checked import check_bounds, check_initial, check_ivp_steps, check_ivp_tolerances, check_steppable, check_unpackable
from .control import Controller, get_controller
from .dense import DenseSolution
from .errors import InputError, SolveError
from .fields.protocol import Array
from .fields.rhs import bind_rhs
from .integration import Integration
from .loop import H
from .result import failure_message
from .solution import Attempt, StepInfo, StepLog
from .tableau import Tableau, get_tableau


class _Moment(NamedTuple):
    """Everything that a step changes."""

    state: tuple[Array, ...]
    rows: int
    last: Any


class Stepper:
    """A solve of y′ = f(t, y) driven by hand.

    fun, y0, method, args, p, rtol, atol, first_step, max_step, controller as in `solve_ivp`; t0, t_bound: start and end, which may be infinite

    t, y (n,)   where it is          h      the next step's length         nfev    evaluations; those of undone steps count
    steps       the log of every attempt that was not undone               done    True at t_bound
    InputError for arguments that make no sense; what fun raises passes through and leaves the stepper as it was before the step.
    """

    def __init__(
        self,
        fun: Any,
        t0: float,
        y0: ArrayLike,
        t_bound: float = math.inf,
        method: str | Tableau | type = "Tsit5",
        *,
        args: Sequence[Any] | None = None,
        p: ArrayLike | None = None,
        vectorized: bool = False,
        rtol: ArrayLike = 1e-3,
        atol: ArrayLike = 1e-6,
        first_step: float | None = None,
        max_step: float = math.inf,
        controller: str | Controller = "scipy",
    ) -> None:
        tab, state = get_tableau(method), check_initial(y0)
        check_bounds(t0, t_bound)
        check_steppable(tab, first_step)
        check_ivp_steps(first_step, max_step, abs(t_bound - t0))
        bound = bind_rhs(fun, float(t0), state, check_unpackable(args), p, vectorized)
        self._integration = Integration(
            bound,
            state,
            (float(t0), float(t_bound)),
            tab,
            get_controller(controller).with_(overshoot=False),
            check_ivp_tolerances(rtol, atol, state),
            saveat=np.empty(0),
            max_step=max_step,
            max_steps=np.iinfo(np.int64).max,
            keep=frozenset({"states", "stages"}),
        )
        self._integration.start(first_step)
        self._rows: list[Attempt] = []
        self._past: list[_Moment] = []
        self._last: DenseSolution | None = None

    @property
    def t(self) -> float:
        return self._integration.t

    @property
    def y(self) -> Array:
        return self._integration.state.y.copy()

    @property
    def h(self) -> float:
        return float(self._integration.state.clock[H])

    @property
    def nfev(self) -> int:
        return self._integration.nfev

    @property
    def done(self) -> bool:
        return self._integration.status >= 0 and not self._integration.running

    @property
    def steps(self) -> StepLog:
        return StepLog.of(self._rows)

    def step(self) -> StepInfo:
        """One accepted step, after however many rejected attempts. SolveError, with the diagnosis, when none can be made; InputError at the end."""
        integration = self._integration
        if self.done:
            raise InputError(f"the stepper is at its end, t = {self.t:g}")
        moment, store = self._moment(), integration.new_store(1)
        try:
            if not integration.step(store, self._rows.append):
                raise SolveError(failure_message(integration, self.steps))
            self._last = integration.last_step(store)
        except BaseException:
            self._restore(moment)
            raise
        self._past.append(moment)
        t, h, error, stiffness, _ = self._rows[-1]
        return StepInfo(self.t, self.y, h, error, stiffness, self.nfev)

    def undo(self) -> None:
        """Go back to where the last step began. InputError when no step is left to undo."""
        if not self._past:
            raise InputError("there is no step to undo")
        self._restore(self._past.pop())

    def copy(self) -> Stepper:
        """An independent stepper at the same place, with the same history."""
        twin = copy.copy(self)
        twin._integration = self._integration.copy()
        twin._rows, twin._past = list(self._rows), list(self._past)
        return twin

    def __deepcopy__(self, memo: Any) -> Stepper:
        return self.copy()

    def sol(self, t: ArrayLike) -> Array:
        """Dense output of the last step: (n,) at a scalar time, (n, k) at times (k,). InputError before the first step."""
        if self._last is None:
            raise InputError("there is no step yet: call step() first")
        return self._last(t)

    def _moment(self) -> _Moment:
        return _Moment(tuple(array.copy() for array in self._integration.state), len(self._rows), self._last)

    def _restore(self, moment: _Moment) -> None:
        spent = self.nfev
        for array, value in zip(self._integration.state, moment.state, strict=True):
            array[...] = value
        self._integration.nfev = spent
        del self._rows[moment.rows :]
        self._last = moment.last

    def __repr__(self) -> str:
        return f"<Stepper {self._integration.method.name} at t = {self.t:g}, {len(self._rows)} attempts, next h = {self.h:.3g}>"
