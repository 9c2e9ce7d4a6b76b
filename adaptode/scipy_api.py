"""The methods as SciPy knows them: subclasses of scipy.integrate.OdeSolver.

    scipy.integrate.solve_ivp(fun, t_span, y0, method=adaptode.Tsit5, recorder=recorder, ...)

or by hand, step by step. The loop is the solver's own `advance`, given one attempt at a time; SciPy's front door adds its outputs and events.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import DenseOutput, OdeSolver

from .checked import check_bounds, check_ivp_steps, check_ivp_tolerances, warn_extraneous
from .control import Controller, get_controller
from .dense import DenseSolution
from .errors import InputError
from .fields.protocol import Array
from .fields.sockets import PythonSocket, python_bound
from .integration import Integration
from .result import failure_message
from .solution import Attempt, StepLog
from .tableau import BS32 as _BS32
from .tableau import DOP853 as _DOP853
from .tableau import DOPRI5, TSIT5, Tableau

_REMEMBERED = 5  # attempts that a message can tell of


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
        return StepLog.of(self._rows)


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
        warn_extraneous(extraneous, stacklevel=2)
        check_bounds(t0, t_bound)
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
        integration = self._integration
        if not integration.step(self._store, self._note):
            return False, failure_message(integration, StepLog.of(self._last))
        self.t, self.y = integration.t, integration.state.y.copy()
        return True, None

    def _note(self, attempt: Attempt) -> None:
        self._last.append(attempt)
        if self.recorder is not None:
            self.recorder.append(attempt)

    def _dense_output_impl(self) -> DenseOutput:
        return Interpolant(self.t_old, self.t, self._integration.last_step(self._store))


class Interpolant(DenseOutput):
    """The state within one step: the method's continuous extension, exact at both ends. It owns what it needs, so later steps do not change it."""

    def __init__(self, t_old: float, t: float, solution: DenseSolution) -> None:
        super().__init__(t_old, t)
        self._solution = solution

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
