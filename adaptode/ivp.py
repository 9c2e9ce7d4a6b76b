"""Initial value problems in SciPy's manner: `solve_ivp`, on the same loop as the neural solver."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .checked import check_initial, check_ivp_steps, check_ivp_tolerances, check_max_steps, check_steppable, check_unpackable, warn_extraneous
from .control import Controller, get_controller
from .dense import DenseSolution
from .errors import InputError
from .events import EventFinder, Found
from .fields.protocol import Array, Bound
from .fields.rhs import bind_rhs, compiled_rhs
from .integration import Chunk, Integration
from .loop import specialized
from .progress import Progress
from .result import IVPResult, failure_message, warn_if_stiff
from .solution import Status, StepInfo
from .tableau import Tableau, get_tableau

_STIFF_ONLY = ("radau", "bdf", "lsoda")
_KEEP = ("stages", "errors")
_SUCCESS = "The solver successfully reached the end of the integration interval."
_EVENT = "A termination event occurred."


def solve_ivp(
    fun: Any,
    t_span: Sequence[float],
    y0: ArrayLike,
    method: str | Tableau | type = "RK45",
    t_eval: ArrayLike | None = None,
    dense_output: bool = False,
    events: Any = None,
    vectorized: bool = False,
    args: Any = None,
    *,
    rtol: ArrayLike = 1e-3,
    atol: ArrayLike = 1e-6,
    first_step: float | None = None,
    max_step: float = math.inf,
    max_steps: int = 1_000_000,
    controller: str | Controller = "scipy",
    callback: Callable[[StepInfo], Any] | None = None,
    progress: bool = False,
    p: ArrayLike | None = None,
    specialize: bool = False,
    keep: str | Sequence[str] = (),
    **options: Any,
) -> IVPResult:
    """Solve y′ = f(t, y), y(t₀) = y₀, with scipy.integrate.solve_ivp's arguments, result and behaviour, every attempt logged.

    fun         f(t, y, *args) -> (n,); or a function made by `adaptode.rhs`, or by numba.njit in SciPy's manner: then the whole loop is compiled
    t_span      (t0, tf), forwards or backwards                      y0          (n,) real or complex; real becomes float64
    method      "Tsit5", "Dopri5" or "RK45", "BS32" or "RK23", "DOP853" (any case), `adaptode.Tsit5` and its like, or a Tableau
    t_eval      times of the output, in order within t_span; None: every accepted step
    dense_output, events, vectorized, args      as in SciPy; an event may be compiled too (see `adaptode.events`)
    rtol, atol  numbers or (n,); rtol below 100 eps is raised to it with a warning
    first_step, max_step                        as in SciPy                      max_steps   attempts, accepted or not, before giving up
    controller  "scipy" (its RK45 and RK23 to rounding), "pi", "pid", … or a Controller                  p   (m,) parameters of a compiled right-hand side
    callback    called with a `StepInfo` after each accepted step but one that a terminal event cuts; a true answer ends the solve (status 1)
    progress    bar on stderr                                                    specialize  compile the loop around this right-hand side: seconds
                once in a process, for the last factor of speed                  keep        "stages", "errors": keep these arrays in `.steps`
    options     unknown ones are named in a warning, as SciPy does

    returns IVPResult: SciPy's t (k,), y (n, k), sol, t_events, y_events, nfev, njev, nlu, status, message, success, and `.steps`, `.stats`

    A solve that cannot go on ends with status −1 and a message that names t, the component and the last attempts; Ctrl-C with status −1 and what was
    computed. An exception of fun or of an event passes through. A warning says when the problem looks stiff. InputError (a ValueError), and TypeError where
    SciPy has it: arguments that make no sense.
    """
    began = time.perf_counter()
    tab, control = _method(method), get_controller(controller)
    t0, tf = _span(t_span)
    arguments = check_unpackable(args)
    state = check_initial(y0)
    check_ivp_steps(first_step, max_step, abs(tf - t0))
    p = None if p is None else np.array(p)
    check_max_steps(max_steps)
    tolerances = check_ivp_tolerances(rtol, atol, state)
    check_steppable(tab, first_step)
    times = _output_times(t_eval, t0, tf)
    kept = _kept(keep)
    warn_extraneous(options, stacklevel=2)
    bound = bind_rhs(fun, t0, state, arguments, p, vectorized)
    finder = EventFinder(events, t0, state, args=arguments, p=p) if events is not None else None
    names = {"states"} | ({"dense"} if dense_output or finder else {"stages"} & kept) | ({"errors"} & kept)
    integration = Integration(
        bound,
        state,
        (t0, tf),
        tab,
        control.with_(overshoot=False),
        tolerances,
        saveat=times if times is not None else np.empty(0),
        max_step=max_step,
        max_steps=max_steps,
        keep=frozenset(names),
        advance=_specialized(fun, arguments, p, tab) if specialize else None,
    )
    integration.start(first_step)
    end = _drive(integration, finder, callback, bound, progress)
    result = _result(integration, end, finder, times, dense_output, tab, kept)
    result.stats["seconds"] = time.perf_counter() - began

    problem = (fun, (t0, float(result.t[-1]) if result.t.size else tf), state.copy())
    same = {"method": tab, "vectorized": vectorized, "args": arguments, "max_step": max_step, "max_steps": max_steps, "controller": controller, "p": p}

    def again(**changes: Any) -> IVPResult:
        return solve_ivp(*problem, **same | changes)

    result.remember(again, tab, tolerances)
    warn_if_stiff(result.steps, tab, stacklevel=3)
    return result


class _End(NamedTuple):
    """How the loop ended, if not by itself: status and message, and in a chunk's step that an event cut short, what was found."""

    status: int = 0
    message: str = ""
    found: Found | None = None


def _drive(integration: Integration, finder: EventFinder | None, callback: Any, bound: Bound, progress: bool) -> _End:
    """Chunks until the end, an event, the callback or Ctrl-C. One step at a time where Python code is to see each, or must not be called beyond an event."""
    single = callback is not None or (finder is not None and bound.reraise is not None)
    length = abs(integration.span.end - integration.t0)
    bar = Progress(progress, 0, 100, "solve", "%")
    scanned = 0
    try:
        while integration.running:
            try:
                chunk = integration.advance(1 if single else None)
            except Exception:  # perhaps beyond the end: of the steps before it an event may be the last
                chunk = integration.chunks[-1]
                if finder is not None and len(chunk.states):
                    found = finder.scan(*_steps(integration, chunk))
                    if found.terminated:
                        return _End(1, _EVENT, found)
                raise
            if finder is not None and len(chunk.states):
                found = finder.scan(*_steps(integration, chunk))
                if found.terminated:
                    return _End(1, _EVENT, found)
            scanned = len(integration.chunks)
            if callback is not None and len(chunk.states):
                log, t, y = chunk.log, integration.t, integration.state.y.copy()
                if callback(StepInfo(t, y, float(log.h[-1]), float(log.error[-1]), float(log.stiffness[-1]), integration.nfev)):
                    return _End(1, f"The callback ended the solve at t = {t:.9g}.")
            t = integration.t
            bar.tick(time.perf_counter(), int(100 * (abs(t - integration.t0) / length)), t=t)
    except KeyboardInterrupt:
        if finder is not None:  # in the steps that it has not seen an event may have ended the solve
            integration.forget(scanned)
        warnings.warn(f"interrupted at t = {integration.t:.9g}: the result holds the solution up to there", RuntimeWarning, stacklevel=3)
        return _End(-1, f"Interrupted at t = {integration.t:.9g}, before the end of the span.")
    finally:
        bar.close()
    return _End()


def _steps(integration: Integration, chunk: Chunk) -> tuple[Array, Array, Any, Any]:
    """The accepted steps of a chunk as `EventFinder.scan` takes them."""
    t = np.append(chunk.log.t[chunk.log.accepted], integration.t)
    Y = np.concatenate([chunk.states, integration.state.y[None]])
    dense = DenseSolution(integration.method, t, Y, chunk.stages)
    return t, Y, dense.within, dense.within_steps


def _result(integration: Integration, end: _End, finder: Any, times: Array | None, dense_output: bool, tab: Tableau, kept: frozenset[str]) -> IVPResult:
    log, t, Y = integration.log(), integration.grid(), integration.kept("states")
    stages = integration.kept("stages") if dense_output or "stages" in kept else None
    nfev, saved = integration.nfev, integration.saved
    t_end = integration.t
    if end.found is not None:  # what lies beyond the terminal event is dropped, its evaluations too
        last = t.size - 1 - len(integration.chunks[-1].states) + end.found.step
        t_end = end.found.t
        rows = int(np.flatnonzero(log.accepted)[last]) + 1
        nfev -= (len(log) - rows) * (tab.stages - 1) + (0 if tab.fsal else int(log.accepted[rows:].sum()))
        if "dense" in integration.keep:
            nfev -= int(log.accepted[rows:].sum()) * tab.extra_stages
        log = log.rows(slice(rows))
        t, Y = np.append(t[: last + 1], t_end), np.concatenate([Y[: last + 1], end.found.y[None]])
        whole = integration.kept("states")[last + 1], integration.grid()[last + 1]
        stages = None if stages is None else stages[: last + 1]
    sol = None
    if dense_output and t.size > 1:
        cut = None if end.found is None else whole
        sol = DenseSolution(tab, t, Y, stages, cut)
    elif dense_output:
        sol = DenseSolution(tab, np.append(t, t), np.concatenate([Y, Y]), np.zeros((1, tab.stages + tab.extra_stages, Y.shape[1]), Y.dtype))
    if t.size == 1 and integration.status is Status.SUCCESS:  # a span of length zero, as SciPy answers it
        t, Y = np.append(t, t), np.concatenate([Y, Y])
    if "errors" in kept:
        log = log.with_(err=integration.kept("errors")[: len(log)])
    if "stages" in kept:
        log = log.with_(stages=stages)
    if times is not None:
        direction = integration.span.direction
        saved = min(saved, int(np.searchsorted(direction * times, direction * t_end, side="right")))
        t, Y = times[:saved], integration.out[:saved]
    status, message = end.status, end.message
    if not message and integration.status is Status.SUCCESS:
        message = _SUCCESS
    elif not message:
        status, message = -1, failure_message(integration, log)
    return IVPResult(
        t=t,
        y=Y.T,
        sol=sol,
        t_events=finder.t_events if finder is not None else None,
        y_events=finder.y_events if finder is not None else None,
        nfev=nfev,
        njev=0,
        nlu=0,
        status=status,
        message=message,
        success=status >= 0,
        steps=log,
        stats={
            "method": tab.name,
            "controller": integration.control.name,
            "attempts": len(log),
            "accepted": int(log.accepted.sum()),
            "rejected": int((~log.accepted).sum()),
        },
    )


def _specialized(fun: Any, args: tuple[Any, ...], p: Any, tab: Tableau) -> Any:
    compiled = compiled_rhs(fun, args, p)
    if compiled is None:
        raise InputError("specialize=True compiles the loop around a compiled right-hand side: make fun with adaptode.rhs or numba.njit")
    return specialized(compiled, tab)


def _method(method: Any) -> Tableau:
    name = method if isinstance(method, str) else getattr(method, "__name__", "")
    if name.lower() in _STIFF_ONLY:
        raise InputError(f"adaptode has explicit methods only; for {name} use scipy.integrate.solve_ivp(fun, t_span, y0, method={name!r})")
    return get_tableau(method)


def _span(t_span: Any) -> tuple[float, float]:
    try:
        t0, tf = map(float, t_span)
    except (TypeError, ValueError):
        raise InputError(f"`t_span` must be two numbers (t0, tf); got {t_span!r}") from None
    if not math.isfinite(t0) or math.isnan(tf):
        raise InputError(f"`t_span` must start at a finite time and end at a number, or at infinity with an event to stop at; got ({t0}, {tf})")
    if math.isfinite(tf) and not math.isfinite(tf - t0):
        raise InputError(f"the length of `t_span` is beyond the largest number; got ({t0}, {tf})")
    return t0, tf


def _output_times(t_eval: Any, t0: float, tf: float) -> Array | None:
    if t_eval is None:
        return None
    try:
        times = np.array(t_eval, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"`t_eval` must be an array of times; got {t_eval!r}") from None
    if times.ndim != 1:
        raise InputError(f"`t_eval` must be 1-dimensional; got shape {times.shape}")
    if np.isnan(times).any() or (times < min(t0, tf)).any() or (times > max(t0, tf)).any():
        outside = times[np.isnan(times) | (times < min(t0, tf)) | (times > max(t0, tf))][0]
        raise InputError(f"Values in `t_eval` are not within `t_span`: {outside} is not in [{t0}, {tf}]")
    steps = np.diff(times) * (1.0 if tf > t0 else -1.0)
    if (steps <= 0).any():
        i = int(np.argmax(steps <= 0))
        raise InputError(f"Values in `t_eval` are not properly sorted: {times[i + 1]} comes after {times[i]} on the way from {t0} to {tf}")
    return times


def _kept(keep: Any) -> frozenset[str]:
    names = frozenset((keep,) if isinstance(keep, str) else keep or ())
    if not names <= set(_KEEP):
        raise InputError(f'keep may name "stages" and "errors"; got {keep!r}')
    return names
