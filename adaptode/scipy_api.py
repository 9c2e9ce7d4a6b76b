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
from .dense import DenseSolution
from .errors import InputError
from .fields.protocol import Array
from .fields.sockets import PythonSocket, python_bound
from .integration import Integration
from .loop import KEPT, ROWS, STATUS
from .solution import Status, StepLog, explain
from .tableau import BS32 as _BS32
from .tableau import DOP853 as _DOP853
from .tableau import DOPRI5, TSIT5, Tableau

_REMEMBERED = 5  # attempts that a message can tell of


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
    through; the solver stays as it was before the step. InputError (a ValueError): arguments that make no sense. Answers of another shape too.
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
        control = get_controller(controller).with_(overshoot=False, clip_first_step=True)
        bound = python_bound(PythonSocket(self.fun, self.y.shape, self.y.dtype, "fun"))
        self._integration = Integration(
            bound,
            self.y,
            (float(t0), float(t_bound)),
            self.tableau,
            control,
            self._tolerances,
            saveat=np.empty(0),
            max_step=max_step,
            max_steps=np.iinfo(np.int64).max,
            keep=frozenset({"states", "stages"}),
        )
        self._store = self._integration.new_store(1)
        if self.n and t0 != t_bound:
            self._integration.start(first_step)
        else:
            bound.value(float(t0), self.y, bound.pack, np.empty_like(self.y))

    def _step_impl(self) -> tuple[bool, str | None]:
        integration, store, count = self._integration, self._store, self._integration.state.count
        count[KEPT] = 0
        while not count[KEPT]:
            count[ROWS] = 0
            if integration.running:
                integration.enter(store, 1)
            if not count[ROWS]:
                return False, self._explain()
            attempt = Attempt(float(store.t[0]), float(store.h[0]), float(store.error[0]), float(store.stiffness[0]), bool(store.accepted[0]))
            self._last.append(attempt)
            if self.recorder is not None:
                self.recorder.append(attempt)
        self.t, self.y = integration.t, integration.state.y.copy()
        return True, None

    def _dense_output_impl(self) -> DenseOutput:
        stages = self._integration.extended(self.t_old, self._store.h[0], self._store.states[0], self._store.stages[0])
        return Interpolant(self.tableau, self.t_old, self.t, np.stack([self._store.states[0], self.y]), stages[None])

    def _explain(self) -> str:
        """SciPy's sentence where it has one, and what the log and the stages of the last attempt tell."""
        integration, log = self._integration, _log(self._last)
        status, K = Status(int(integration.state.count[STATUS])), integration.state.K
        if status is Status.STEP_TOO_SMALL and not math.isfinite(self._last[-1].error):
            status = Status.NONFINITE
        bad = np.flatnonzero(~np.isfinite(K).all(axis=1)) if status is Status.NONFINITE and self._last else [0]
        text = explain(status, log, integration.t, K[bad[0] if len(bad) else 0], "fun")
        return text if status is Status.NONFINITE else f"{self.TOO_SMALL_STEP[:-1]}: {text}"


class Interpolant(DenseOutput):
    """The state within one step: the method's continuous extension, exact at both ends. It owns what it needs, so later steps do not change it."""

    def __init__(self, method: Tableau, t_old: float, t: float, states: Array, stages: Array) -> None:
        super().__init__(t_old, t)
        self._solution = DenseSolution(method, np.array([t_old, t]), states, stages)

    def _call_impl(self, t: Array) -> Array:
        return self._solution(t)


class Tsit5(ExplicitRungeKutta):
    """Tsitouras' pair of orders 5(4), usually the best of these: SciPy's `OdeSolver`, see `ExplicitRungeKutta`.                [Tsi11]"""

    tableau = TSIT5


class Dopri5(ExplicitRungeKutta):
    """Dormand and Prince's pair of orders 5(4), SciPy's RK45: SciPy's `OdeSolver`, see `ExplicitRungeKutta`.                    [DP80]"""

    tableau = DOPRI5


class BS32(ExplicitRungeKutta):
    """Bogacki and Shampine's pair of orders 3(2), SciPy's RK23: SciPy's `OdeSolver`, see `ExplicitRungeKutta`.                  [BS89]"""

    tableau = _BS32


class DOP853(ExplicitRungeKutta):
    """Dormand and Prince's pair of order 8 with Hairer's estimate, for tight tolerances: SciPy's `OdeSolver`, see `ExplicitRungeKutta`.   [HNW93]"""

    tableau = _DOP853


def _warn_extraneous(options: dict[str, Any]) -> None:
    if options:
        names = ", ".join(f"`{name}`" for name in options)
        warnings.warn(f"The following arguments have no effect for a chosen solver: {names}.", stacklevel=3)
