"""Solves inside compiled code: a solver that is itself a function of numba.njit."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .control import SMALLEST, Controller, compiled_first_guess, compiled_first_size, get_controller
from .errors import InputError
from .fields.rhs import Rhs, rhs
from .fields.sockets import address_of
from .loop import FRESH, NFEV, STATUS, H, Span, State, Store, specialized, stage_rows
from .norms import scaled_rms
from .solution import NONFINITE, RUNNING, SUCCESS
from .step import constant
from .tableau import Tableau, get_tableau


def jit_solver(fun: Any, method: str | Tableau | type = "Tsit5", *, controller: str | Controller = "scipy", max_steps: int = 1_000_000) -> Any:
    """A solver of one right-hand side by one method, compiled around it: the least there is between you and the end of the span.

    fun        made by `adaptode.rhs`, or by numba.njit as f(t, y, p, dy)
    returns    solver(t0, t1, y0, p, rtol, atol) -> (status, t, y, nfev), a function of numba.njit, to be called from Python or from compiled code:
               y0 (n,), p (m,) arrays, rtol and atol numbers; status 0 when t1 was reached, else as in `adaptode.Status`; t, y (n,) where it ended

    The same steps as `solve_ivp`, to rounding; no log, no outputs in between, and of the arguments only NaN is noticed. It compiles on its first call, some
    seconds, and once in a process. What fun raises passes through.

    >>> import numpy as np, adaptode as ao
    >>> @ao.rhs
    ... def decay(t, y, p, dy):
    ...     dy[0] = -p[0] * y[0]
    >>> solver = ao.jit_solver(decay)
    >>> status, t, y, nfev = solver(0.0, 1.0, np.ones(1), np.ones(1), 1e-8, 1e-8)
    >>> round(float(y[0]), 6)
    0.367879
    """
    right_hand_side = fun if isinstance(fun, Rhs) else rhs(fun)
    function, tab = right_hand_side.dispatcher, get_tableau(method)
    if not tab.adaptive:
        raise InputError(f"{tab.name} has no error estimate to choose steps by; jit_solver needs a method that has one")
    rule = get_controller(controller).with_(overshoot=False).rule(tab.error_order)
    loop, coefficients = specialized(right_hand_side, tab), constant(tab.coefficients())
    stages, rows, estimates, order = tab.stages + tab.extra_stages, stage_rows(tab), tab.estimates, tab.error_order

    @numba.njit(error_model="numpy", fastmath={"contract"}, nogil=True)
    def solver(t0, t1, y0, p, rtol, atol):
        n = y0.size
        y, params = np.ascontiguousarray(y0).astype(np.float64), np.ascontiguousarray(p).astype(np.float64)  # both copies
        y1, err, Y, K = np.empty(n), np.empty(estimates * n), np.empty((rows, n)), np.empty((stages, n))
        if not (np.isfinite(t0) and np.isfinite(t1) and rtol >= 0.0 and atol >= 0.0):
            return NONFINITE, float(t0), y, 0
        clock, count = np.array([t0, 0.0, rule.start, rule.start]), np.zeros(8, np.int64)
        direction = 1.0 if t1 >= t0 else -1.0
        absolute, relative = np.array([atol]), np.array([rtol])
        function(t0, y, params, K[0])
        count[NFEV], count[FRESH], count[STATUS] = 1, 1, RUNNING
        for e in range(n):
            if not np.isfinite(K[0, e]):
                return NONFINITE, float(t0), y, 1
        if t1 == t0:
            return SUCCESS, float(t0), y, 1
        d1 = scaled_rms(K[0], y, y, absolute, relative)
        h0 = compiled_first_guess(scaled_rms(y, y, y, absolute, relative), d1, abs(t1 - t0))
        clock[H] = SMALLEST
        if h0 > 0.0:
            for e in range(n):
                Y[0, e] = y[e] + direction * h0 * K[0, e]
            function(t0 + direction * h0, Y[0], params, y1)
            count[NFEV] = 2
            for e in range(n):
                y1[e] -= K[0, e]
            clock[H] = compiled_first_size(h0, scaled_rms(y1, y, y, absolute, relative), d1, order, abs(t1 - t0))
        pack = (np.uintp(0), np.uintp(0), address_of(params), np.uintp(params.size))
        nothing, no_flags, no_rows, no_stages = np.empty(0), np.empty(0, np.bool_), np.empty((0, n)), np.empty((0, 0, n))
        store = Store(nothing, nothing, nothing, nothing, no_flags, no_rows, no_rows, no_stages, no_rows)
        span = Span(t1, direction, np.inf, max_steps, nothing)
        loop(pack, coefficients(0), rule, span, absolute, relative, State(y, y1, err, Y, K, clock, count), store, max_steps + 1)
        return count[STATUS], clock[0], y, count[NFEV]

    return solver
