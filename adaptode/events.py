"""Events: where a function of the solution, g(t, y(t)), crosses zero.

The solver's steps come in chunks. Each step is probed at θ = 1/8, …, 7/8, 1 of its dense output; a change of sign between two neighbours brackets a root, and
so may a dip of |g| towards zero: where the parabola through three probes of one sign has its extremum inside and at less than half of them, g is probed there
too. A compiled filter passes over the steps in which neither happens. Roots are found in θ by Brent's method to 4 eps, hence to rounding relative to the step.

Which crossings count follows scipy.integrate.solve_ivp: g <= 0 <= g_new is upward, g >= 0 >= g_new downward, but a zero exactly at a probe or at the end of a
step belongs to the interval that ends there, and is reported once.
"""

from __future__ import annotations

import inspect
import math
import numbers
import warnings
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ._jit import JIT_DISABLED, inline, is_compiled, kernel
from .errors import FieldError, InputError
from .fields.sockets import RaisedError, array_signature, call_number, compile_for, number_socket

# Of 536 roots of random events on RK45 at rtol 1e-3, the dips alone miss 196, seven probes inside alone 18, both together 2: tests/test_events.py.
_THETA = np.arange(1, 9) / 8
_PROBES = _THETA.tolist()
_BLOCK = 2**17  # numbers in the probed states of the steps that compiled events take at once
_EPS = float(np.finfo(np.float64).eps)
_USAGE = "A compiled event g(t, y, p) returns one real number; y and p are flat arrays of float64."


class Found(NamedTuple):
    """What a chunk of steps ends with: the step in which a terminal event happened, the time and the state (n,) there."""

    terminated: bool = False
    step: int = -1
    t: float = math.nan
    y: Any = None


def time_at(t0: float, t1: float, theta: float) -> float:
    """The time at the fraction θ of a step; exactly t1 at 1, and never beyond."""
    t = t0 + theta * (t1 - t0)
    return t if theta < 1.0 and (t < t1) == (t0 < t1) else t1


_time = inline(time_at)


@inline
def _dip(a, b, c):
    """Where, in spacings from b, the parabola through three values of one sign comes nearer to 0 than half of each; NaN if nowhere between."""
    if a < 0.0:
        a, b, c = -a, -b, -c
    if not (0.0 < a < np.inf and 0.0 < b < np.inf and 0.0 < c < np.inf):
        return np.nan
    bend = (a - b) + (c - b)
    if abs(a - c) < 2.0 * bend and b - (a - c) / bend * (a - c) / 8.0 < 0.5 * min(a, b, c):
        return 0.5 * (a - c) / bend
    return np.nan


@kernel
def _next_active(g, row):
    """The first step, from `row` on, that may hold a root: g (rows, 1 + k) at the start and the probes of each step; `rows` if there is none."""
    rows, points = g.shape
    for i in range(row, rows):
        a, b = np.nan, g[i, 0]
        for j in range(1, points):
            c = g[i, j]
            if not ((b > 0.0 and c > 0.0) or (b < 0.0 and c < 0.0)) or not np.isnan(_dip(a, b, c)):
                return i
            a, b = b, c
    return rows


@kernel
def _fill(g, p, t, theta, states, out):
    """out (rows, 1 + k): g(t, y, p) at the probes, beside that at the start; t (rows + 1,), theta (k,), states (rows, k, n); out[0, 0] is given."""
    y, answer = np.empty(states.shape[2]), np.empty(1)
    for i in range(states.shape[0]):
        if i > 0:
            out[i, 0] = out[i - 1, theta.size]
        for j in range(theta.size):
            y[:] = states[i, j]
            call_number(g, _time(t[i], t[i + 1], theta[j]), y, p, answer)
            out[i, j + 1] = answer[0]


def _is_real(x: Any) -> bool:
    return isinstance(x, numbers.Real) and not math.isnan(x)


def _needs_three(function: Any) -> bool:
    """Does it take exactly three arguments without a default?"""
    try:
        parameters = inspect.signature(getattr(function, "py_func", function)).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return False
    return not any(x.kind is x.VAR_POSITIONAL for x in parameters) and 3 == sum(x.default is x.empty and x.kind in (0, 1) for x in parameters)


@lru_cache(maxsize=128)
def _socket_of(function: Any) -> Any:
    """The event's C function, made once."""
    signature = array_signature(2, np.float64)
    compile_for(function, signature, "event", _USAGE, returns_nothing=False)
    returned = function.overloads[signature].signature.return_type
    if not isinstance(returned, types.Integer | types.Float | types.Boolean):
        raise FieldError(f"the compiled event `{function.py_func.__name__}` must return one real number, not {returned}.\n{_USAGE}")
    return number_socket(function)


class _NotANumber(Exception):
    """g is NaN between two points at which it is not."""


class _Event:
    """One event function: how it is called, which of its roots count, and those found so far."""

    def __init__(self, function: Any, index: int, t: float, y: Any, args: tuple[Any, ...], p: Any) -> None:
        self.label = f"events[{index}] (`{getattr(function, '__name__', type(function).__name__)}`)"
        if not callable(function):
            raise InputError(f"events[{index}] must be a function g(t, y); got {function!r}")
        terminal, direction = getattr(function, "terminal", None), getattr(function, "direction", 0)
        if not (terminal is None or isinstance(terminal, np.bool_) or (_is_real(terminal) and terminal >= 0 and terminal % 1 == 0)):
            raise InputError(f"{self.label}: `terminal` must be True, False, or the number of the event's occurrences to stop at; got {terminal!r}")
        if not _is_real(direction):
            raise InputError(f"{self.label}: `direction` must be a number, > 0 for upward crossings only, < 0 for downward, 0 for both; got {direction!r}")
        self.limit = int(terminal or 0) or math.inf
        self.direction = float(direction)
        takes_p = _needs_three(function) and (p is not None or not args)
        self.p = np.array([] if p is None else p, dtype=np.float64).ravel()
        self.function, self.extra = function, (self.p,) if takes_p else args
        self.compiled = takes_p and y.dtype == np.float64 and not JIT_DISABLED and is_compiled(function)
        if self.compiled:
            try:
                self.socket = _socket_of(function)
            except FieldError as error:
                raise InputError(f"{self.label}: {error}") from error
        self.t: list[float] = []
        self.y: list[Any] = []
        self.last = self(t, y.copy())  # g at the end of the steps seen so far
        self.at_zero = self.last == 0.0  # the first step starts with a root
        self.warned = False
        if math.isnan(self.last):
            raise InputError(f"{self.label} is NaN at the start, t = {t:.9g}, so that no change of its sign can be seen; check y0 and the function there")

    def __call__(self, t: float, y: Any) -> float:
        """g(t, y), with a y that the function may keep or overwrite."""
        answer = self.function(t, y, *self.extra)
        if isinstance(answer, float):
            return answer
        value = np.asarray(answer)
        if value.size != 1 or value.dtype.kind not in "biuf":  # a complex number has no sign
            raise InputError(f"{self.label} must return one real number; at t = {t:.9g} it returned {answer!r}")
        return float(value.reshape(-1)[0])

    def values(self, t: Any, states: Any) -> Any:
        """g (rows, 1 + k) at the start and the probes of some steps, or of one step for a function that is not compiled."""
        out = np.empty((states.shape[0], 1 + _THETA.size))
        out[0, 0] = self.last
        if self.compiled:
            try:
                _fill(np.uintp(self.socket.address), self.p, t, _THETA, states, out)
                return out
            except RaisedError:  # met again below, as itself
                pass
        for i, row in enumerate(states.copy()):
            if i > 0:
                out[i, 0] = out[i - 1, -1]
            t0, t1 = t[i : i + 2].tolist()
            out[i, 1:] = [self(time_at(t0, t1, theta), y) for theta, y in zip(_PROBES, row, strict=True)]
        return out

    def crosses(self, a: float, b: float) -> bool:
        """Is the change from a to b one that counts?"""
        return (a <= 0.0 <= b and self.direction >= 0.0) or (a >= 0.0 >= b and self.direction <= 0.0)

    def warn(self, t: float) -> None:
        if not self.warned:
            self.warned = True
            message = f"{self.label} is NaN at t = {t:.9g}; no root is looked for beside such points. Let it return a number wherever the solution goes"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


class _Chunk(NamedTuple):
    """Some accepted steps, and the solution anywhere in them."""

    t: Any
    Y: Any
    evaluate: Callable[[int, Any], Any]

    def point(self, step: int, theta: float) -> tuple[float, Any]:
        """The time and the state, a copy, at a fraction of a step."""
        y = self.Y[step + int(theta)] if theta in (0.0, 1.0) else self.evaluate(step, np.array([theta]))[0]
        return time_at(*self.t[step : step + 2].tolist(), theta), np.array(y)

    def probe(self, first: int, last: int, evaluate_steps: Any) -> Any:
        """The states (last − first, k, n) at the probes."""
        states = np.empty((last - first, _THETA.size, self.Y.shape[1]), self.Y.dtype)
        if evaluate_steps is not None:
            states[:, :-1] = evaluate_steps(first, last, _THETA[:-1])
        else:
            for i in range(first, last):
                states[i - first, :-1] = self.evaluate(i, _THETA[:-1])
        states[:, -1] = self.Y[first + 1 : last + 1]
        return states


def _roots(event: _Event, chunk: _Chunk, step: int, g: Any) -> list[tuple[float, bool]]:
    """The fractions of a step at which the event happens, each with False, or is NaN, with True; from g (1 + k,) at its start and its probes."""
    points = [(0.0, float(g[0])), *zip(_PROBES, g[1:].tolist(), strict=True)]
    for (_, a), (middle, b), (_, c) in list(zip(points, points[1:], points[2:], strict=False)):
        theta = middle + float(_dip(a, b, c)) / _THETA.size
        if not math.isnan(theta):
            points.append((theta, event(*chunk.point(step, theta))))
    points.sort(key=lambda point: point[0])
    at_zero, event.at_zero = event.at_zero, False
    roots = []
    for (left, a), (right, b) in pairwise(points):
        if math.isnan(b):
            roots.append((right, True))
        elif (a != 0.0 or (at_zero and left == 0.0)) and event.crosses(a, b):  # any other zero belongs to the interval before
            try:
                roots.append((_root(event, chunk, step, {left: a, right: b}), False))
            except _NotANumber as found:
                roots.append((found.args[0], True))
    return roots


def _root(event: _Event, chunk: _Chunk, step: int, ends: dict[float, float]) -> float:
    """The root between two fractions of a step whose values are known, and of which the event happens by `crosses`."""
    from scipy.optimize import brentq

    def g(theta: float) -> float:
        if theta in ends:
            return ends[theta]
        value = event(*chunk.point(step, theta))
        if math.isnan(value):
            raise _NotANumber(theta)
        return value

    for theta, value in ends.items():
        if value == 0.0:
            return theta
    return float(brentq(g, *ends, xtol=4 * _EPS, rtol=4 * _EPS, maxiter=1000))


class EventFinder:
    """The events of one solve, fed with its accepted steps in their order.

    events   None, a function g(t, y, *args) -> float, or a sequence of such; each with the attributes of SciPy's: `terminal` (True, or the number of
             occurrences that ends the solve) and `direction` (> 0 upward only, < 0 downward only). A function of exactly three arguments gets (t, y, p) where
             there is a p, or no args; compiled by numba.njit, with real y, it is then called from compiled code.
    t0, y0   where the solve starts, y0 (n,) real or complex
    InputError when an event is not usable, or NaN at the start. What an event raises passes through.
    """

    def __init__(self, events: Any, t0: float, y0: Any, *, args: Any = (), p: Any = None) -> None:
        self._given = events is not None
        functions = () if events is None else (events,) if callable(events) else events
        if not np.iterable(functions):
            raise InputError(f"events must be None, a function g(t, y), or a list of such functions; got {events!r}")
        args, y0 = () if args is None else tuple(args), np.asarray(y0)
        y0 = y0.astype(np.result_type(y0.dtype, np.float64))
        self._events = [_Event(function, i, float(t0), y0, args, p) for i, function in enumerate(functions)]

    @property
    def t_events(self) -> list[Any] | None:
        """For each event the times (k,) at which it happened; None where no events were given."""
        return [np.asarray(event.t, dtype=np.float64) for event in self._events] if self._given else None

    @property
    def y_events(self) -> list[Any] | None:
        """For each event the states (k, n) there; shape (0,), as in SciPy, if it never happened."""
        return [np.asarray(event.y) for event in self._events] if self._given else None

    def scan(self, t: Any, Y: Any, evaluate: Callable[[int, Any], Any], evaluate_steps: Callable[[int, int, Any], Any] | None = None) -> Found:
        """Record the events of further steps, up to and including the first that ends the solve.

        t (m + 1,), Y (m + 1, n)                 accepted times and states, the first ones those at which the last scan ended
        evaluate(i, theta (k,)) -> (k, n)        dense output at fractions of step i; asked for the same step several times in a row
        evaluate_steps(i, j, theta) -> (j − i, k, n)   the same for the steps i … j − 1 at once; saves time with compiled events only
        """
        chunk, events = _Chunk(np.array(t, dtype=np.float64), np.asarray(Y), evaluate), self._events
        if not events:
            return Found()
        many = max(1, _BLOCK // (_THETA.size * max(1, chunk.Y.shape[1]))) if all(event.compiled for event in events) else 1
        first, steps = 0, chunk.t.size - 1
        while first < steps:
            last = min(first + many, steps)
            states = chunk.probe(first, last, evaluate_steps)
            try:
                g = [event.values(chunk.t[first : last + 1], states) for event in events]
            except Exception:
                if many == 1:
                    raise
                many = 1  # the solve may end before the step in which an event raises
                continue
            row = min(_next_active(values, 0) for values in g)
            while row < last - first:
                found = self._record(chunk, first + row, [values[row] for values in g])
                if found.terminated:
                    return found
                row = min(_next_active(values, row + 1) for values in g)
            for event, values in zip(events, g, strict=True):
                event.last = values[-1, -1]
            first = last
        return Found()

    def _record(self, chunk: _Chunk, step: int, g: list[Any]) -> Found:
        """Record one step's events in the order in which the solve meets them; two at the same time in the order in which they were given."""
        roots = [(theta, i, nan) for i, event in enumerate(self._events) for theta, nan in _roots(event, chunk, step, g[i])]
        for theta, i, nan in sorted(roots):
            event, (t, y) = self._events[i], chunk.point(step, theta)
            if nan:
                event.warn(t)
                continue
            event.t.append(t)
            event.y.append(y)
            if len(event.t) >= event.limit:
                return Found(True, step, t, y.copy())
        return Found()
