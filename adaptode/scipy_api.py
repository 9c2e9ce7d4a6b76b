"""The methods as SciPy knows them: subclasses of scipy.integrate.OdeSolver.

    scipy.integrate.solve_ivp(fun, t_span, y0, method=adaptode.Tsit5, recorder=recorder, ...)

or by hand, step by step. The loop is the solver's own `advance`, given one attempt at a time; SciPy's front door adds its outputs and events.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import DenseOutput, OdeSolver

from .checked import check_ivp_steps, check_ivp_tolerances
from .control import Controller, get_controller
from .dense import dense_states
from .errors import FieldError, InputError
from .fields.protocol import Array, Bound
from .solution import Status, StepLog, explain
from .solver import STATUS, Span, Store, T, _advance_python, _start, new_state
from .tableau import DOPRI5, TSIT5, Coefficients, Tableau
from .tableau import BS32 as _BS32

_REMEMBERED = 5  # attempts that a message can tell of
_NOTHING = np.empty(0)


class Attempt(NamedTuple):
    """One attempt at a step; the columns of `StepLog`."""

    t: float
    h: float
    error: float
    stiffness: float
    accepted: bool


class StepRecorder:
    """Collects every attempt of a solve through SciPy; `log` is what it has as a `StepLog`.

    >>> import numpy as np, scipy.integrate, adaptode as ao
    >>> recorder = ao.StepRecorder()
    >>> sol = scipy.integrate.solve_ivp(lambda t, y: -y, (0, 1), [1.0], method=ao.Tsit5, recorder=recorder)
    >>> bool(recorder.log.accepted.sum() == sol.t.size - 1)
    True
    """

    def __init__(self) -> None:
        self._rows: list[Attempt] = []

    def append(self, attempt: Attempt) -> None:
        self._rows.append(attempt)

    def clear(self) -> None:
        """Forget everything, to be used again."""
        self._rows.clear()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._rows)

    @property
    def log(self) -> StepLog:
        """The attempts so far, in columns."""
        return _log(self._rows)


def _log(rows: Any) -> StepLog:
    columns = zip(*rows, strict=True) if len(rows) else [()] * 5
    return StepLog(*(np.array(column, bool if i == 4 else np.float64) for i, column in enumerate(columns)))


class ExplicitRungeKutta(OdeSolver):
    """An explicit method behind SciPy's `OdeSolver`; its subclasses name the tableau.

    fun         f(t, y) -> (n,); with vectorized=True also f(t, (n, k)) -> (n, k). It gets its own copy of y, and what it returns is copied
    t0, t_bound start and end; t_bound may be infinite                   y0          (n,) real or complex
    max_step    longest step                                             first_step  length of the first; None: Hairer's rule
    rtol, atol  tolerances, scalar or (n,); rtol below 100 eps is raised to that with a warning, as SciPy does
    controller  a step-size rule as in `adaptode.solve`; "scipy" makes Dopri5 take RK45's steps and BS32 RK23's. Always lands on t_bound
    recorder    a list, a StepRecorder, or anything with `append`: gets every `Attempt`, accepted or not

    Options it does not know are warned of, as SciPy does. A step fails, with a message that names t, the component and the last attempts, when `fun` is
    NaN or inf at the start or however small the step, and when the step falls below the spacing of floating-point numbers. Exceptions of `fun` pass
    through; the solver stays as it was before the step. InputError (a ValueError): arguments that make no sense. FieldError: an answer of another shape.
    """

    tableau: Tableau

    def __init__(
        self,
        fun: Callable[..., Any],
        t0: float,
        y0: ArrayLike,
        t_bound: float,
        max_step: float = math.inf,
        rtol: ArrayLike = 1e-3,
        atol: ArrayLike = 1e-6,
        vectorized: bool = False,
        first_step: float | None = None,
        controller: str | Controller = "scipy",
        recorder: Any = None,
        **extraneous: Any,
    ) -> None:
        _warn_extraneous(extraneous)
        if not math.isfinite(t0) or math.isnan(t_bound):
            raise InputError(f"t0 must be finite and t_bound a number; got {t0} and {t_bound}")
        if recorder is not None and not callable(getattr(recorder, "append", None)):
            raise InputError(f"recorder must be a list, a StepRecorder or another object with `append`; got {type(recorder).__name__}")
        super().__init__(fun, t0, y0, t_bound, vectorized, support_complex=True)
        check_ivp_steps(first_step, max_step, abs(t_bound - t0))
        self._tolerances = check_ivp_tolerances(rtol, atol, self.y)
        self.recorder = recorder
        self._last: deque[Attempt] = deque(maxlen=_REMEMBERED)
        tab, control = self.tableau, get_controller(controller).with_(overshoot=False, clip_first_step=True)
        self._rule, self._coefficients = control.rule(tab.error_order), tab.coefficients(self.y.dtype)
        self._state = state = new_state(tab, self._rule, float(t0), self.y)
        state.count[STATUS] = Status.RUNNING
        self._span = Span(float(t_bound), float(self.direction), float(max_step), np.iinfo(np.int64).max, _NOTHING)
        self._store = Store(
            *(np.empty(1) for _ in range(4)), np.empty(1, bool), np.empty((1, self.n), self.y.dtype), np.empty((1, *state.K.shape), self.y.dtype), _NOTHING
        )
        self._bound = Bound("python", self._value, _no_transpose, _no_transpose, None, 0)
        if self.n and t0 != t_bound:
            _start(self._bound, tab, control, state, self._span, self._tolerances, first_step)
        else:
            self._value(float(t0), state.y, None, state.K[0])

    def _value(self, t: float, y: Array, pack: Any, out: Array) -> None:
        answer = self.fun(t, y.copy())
        if answer.shape != out.shape and not (answer.ndim == 0 and out.size == 1):
            raise FieldError(f"fun must return an array of shape ({self.n},), that of y0; got {answer.shape} at t = {t:.9g}")
        out[:] = answer

    def _step_impl(self) -> tuple[bool, str | None]:
        state, store, last = self._state, self._store, self._last
        if self.t_old is None and state.count[STATUS] != Status.RUNNING:
            return False, self._explain(Status(int(state.count[STATUS])))
        accepted = 0
        while not accepted:
            rows, accepted = _advance_python(self._bound, self._coefficients, self._rule, self._span, *self._tolerances, state, store, 1)
            if rows == 0:
                return False, self._explain(Status(int(state.count[STATUS])))
            attempt = Attempt(float(store.t[0]), float(store.h[0]), float(store.error[0]), float(store.stiffness[0]), bool(store.accepted[0]))
            last.append(attempt)
            if self.recorder is not None:
                self.recorder.append(attempt)
        self.t, self.y = float(state.clock[T]), state.y.copy()
        return True, None

    def _dense_output_impl(self) -> DenseOutput:
        store = self._store
        return Interpolant(self.t_old, self.t, self._coefficients, store.h[0], store.states[0].copy(), self.y.copy(), store.stages[0].copy())

    def _explain(self, status: Status) -> str:
        """SciPy's sentence where it has one, and what the log and the stages of the last attempt tell."""
        log, K = _log(self._last), self._state.K
        if status is Status.STEP_TOO_SMALL and not math.isfinite(self._last[-1].error):
            status = Status.NONFINITE
        bad = np.flatnonzero(~np.isfinite(K).all(axis=1)) if status is Status.NONFINITE else [0]
        text = explain(status, log, self._state.clock[T], K[bad[0] if len(bad) else 0], "fun")
        return text if status is Status.NONFINITE else f"{self.TOO_SMALL_STEP[:-1]}: {text}"


class Interpolant(DenseOutput):
    """The state within one step: the method's continuous extension, exact at both ends. It owns what it needs, so later steps do not change it."""

    def __init__(self, t_old: float, t: float, tab: Coefficients, h: float, y0: Array, y1: Array, K: Array) -> None:
        super().__init__(t_old, t)
        self._arguments = tab, h, y0, y1, K

    def _call_impl(self, t: Array) -> Array:
        tab, h, y0, y1, K = self._arguments
        theta = np.reshape((t - self.t_old) / h, -1)
        out = np.empty((theta.size, y0.size), y0.dtype)
        dense_states(tab, theta, h, y0, y1, K, out)
        return out[0] if t.ndim == 0 else out.T


class Tsit5(ExplicitRungeKutta):
    """Tsitouras' pair of orders 5(4), usually the best of these: SciPy's `OdeSolver`, see `ExplicitRungeKutta`.                [Tsi11]"""

    tableau = TSIT5


class Dopri5(ExplicitRungeKutta):
    """Dormand and Prince's pair of orders 5(4), SciPy's RK45: SciPy's `OdeSolver`, see `ExplicitRungeKutta`.                    [DP80]"""

    tableau = DOPRI5


class BS32(ExplicitRungeKutta):
    """Bogacki and Shampine's pair of orders 3(2), SciPy's RK23: SciPy's `OdeSolver`, see `ExplicitRungeKutta`.                  [BS89]"""

    tableau = _BS32


def _no_transpose(*arguments: Any) -> None:
    raise NotImplementedError


def _warn_extraneous(options: dict[str, Any]) -> None:
    if options:
        names = ", ".join(f"`{name}`" for name in options)
        warnings.warn(f"The following arguments have no effect for a chosen solver: {names}.", stacklevel=3)
