"""The loop, written once: attempts, accept or reject, outputs, log.

`advance` is a dual function: compiled with an MLP inside, compiled with a user's function behind its address, or interpreted for a Python field.
It works in chunks, so that Ctrl-C is seen, memory grows as needed and nothing is allocated inside; see `adaptode.integration`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from ._jit import JIT_DISABLED, borrow, dual, inline, specialize
from .control import SMALLEST, accepts, compiled_first_guess, compiled_first_size, next_factor, next_time
from .dense import dense_state
from .fields.hidden import hidden_value_row
from .fields.mlp_kernels import mlp_value_row
from .fields.protocol import Array
from .fields.rhs import Rhs
from .fields.sockets import inlined_value, socket_value
from .lifted import hidden_measure
from .norms import scaled_rms
from .solution import MAX_STEPS, NONFINITE, RUNNING, SUCCESS, TOO_SMALL
from .step import borrowed, bound_value, constant, measure, stages, unrolled, value
from .tableau import Tableau

T, H, Q1, Q2 = range(4)  # clock: time, next |h|, the two last accepted errors
ATTEMPTS, NFEV, SAVED, STATUS, AFTER_REJECT, FRESH, ROWS, KEPT = range(8)  # counters; FRESH: K[0] is f(t, y); ROWS, KEPT: of this chunk


class State(NamedTuple):
    """Everything the loop carries from one attempt to the next; flat arrays of N = B n, err of 2 N where the estimate is made of two."""

    y: Array
    y1: Array
    err: Array
    Y: Array
    K: Array
    clock: Array
    count: Array


class Span(NamedTuple):
    """Where the loop goes, and its limits."""

    end: float
    direction: float
    max_step: float
    max_steps: int
    saveat: Array


class Store(NamedTuple):
    """Where a chunk puts its rows: the log and error vectors of its attempts; the states at the start of accepted steps, their stages; the outputs.

    Empty arrays are not filled.
    """

    t: Array
    h: Array
    error: Array
    stiffness: Array
    accepted: Array
    errors: Array
    states: Array
    stages: Array
    out: Array


@dual(apart=True)
def look_inside(theta, tab, span, state, store, t, t1):
    """Outputs within an accepted step, and its stages where they are kept: with those of the continuous extension, if any of the two needs them."""
    y, Y, K, count, saveat = state.y, state.Y, state.K, state.count, span.saveat
    s, total, width, h = tab.b.size, tab.c.size, store.stages.shape[1], t1 - t
    due = count[SAVED] < saveat.size and span.direction * (saveat[count[SAVED]] - t1) < 0.0
    if total > s and (due or (store.stages.shape[0] > 0 and width > s)):
        stages(theta, tab, t, h, y, s, total, Y, K)
        count[NFEV] += total - s
    while count[SAVED] < saveat.size and span.direction * (saveat[count[SAVED]] - t1) <= 0.0:
        dense_state(tab, (saveat[count[SAVED]] - t) / h, h, y, state.y1, K, store.out[count[SAVED]])
        count[SAVED] += 1
    if store.stages.shape[0] > 0:
        kept = count[KEPT]
        for i in range(width):
            for e in range(y.size):
                store.stages[kept, i, e] = K[i, e]


@dual
def own_stages(theta, tab, t, h, y, Y, K):
    """The stages of a step but the first."""
    stages(theta, tab, t, h, y, 1, tab.b.size, Y, K)


@dual
def advance(theta, tab, rule, span, atol, rtol, state, store, budget):
    """At most `budget` attempts. state.count tells how many were logged (ROWS) and accepted (KEPT), and whether to go on (STATUS)."""
    theta, span, atol, rtol, state, store, tab = borrow(theta), borrow(span), borrow(atol), borrow(rtol), borrow(state), borrow(store), borrowed(tab)
    y, y1, err, Y, K, clock, count = state
    saveat = span.saveat
    n, s = y.size, tab.b.size
    count[ROWS] = count[KEPT] = 0
    while count[ROWS] < budget and count[STATUS] == RUNNING:
        t = float(clock[T])  # of Python's kind where interpreted: faster, and deaf to np.seterr
        t1 = next_time(rule, t, float(clock[H]), span.end, span.direction, span.max_step, count[AFTER_REJECT] != 0)
        if math.isnan(t1):
            count[STATUS] = TOO_SMALL
            break
        if count[ATTEMPTS] >= span.max_steps:
            count[STATUS] = MAX_STEPS
            break
        h = t1 - t

        if not count[FRESH]:
            for e in range(n):
                Y[0, e] = y[e]
            value(t, Y, 0, theta, K, 0)
            count[NFEV] += 1
            count[FRESH] = 1
        own_stages(theta, tab, t, h, y, Y, K)
        count[NFEV] += s - 1
        q, stiffness = measure(theta, tab, h, y, K, Y, atol, rtol, y1, err)
        accepted = accepts(rule, q)
        count[ATTEMPTS] += 1
        row = count[ROWS]
        if store.t.shape[0] > 0:
            store.t[row], store.h[row], store.error[row], store.stiffness[row], store.accepted[row] = t, h, q, stiffness, accepted
        if store.errors.shape[0] > 0:
            for e in range(err.size):
                store.errors[row, e] = err[e]

        if tab.adaptive:
            clock[H] = abs(h) * next_factor(rule, q, clock[Q1], clock[Q2], accepted, count[AFTER_REJECT] != 0)
        elif not accepted:
            count[STATUS] = NONFINITE
        count[AFTER_REJECT] = not accepted
        if not accepted:
            count[ROWS] = row + 1
            continue

        kept = count[KEPT]
        if store.stages.shape[0] > 0 or (count[SAVED] < saveat.size and span.direction * (saveat[count[SAVED]] - t1) <= 0.0):
            look_inside(theta, tab, span, state, store, t, t1)
        if store.states.shape[0] > 0:
            for e in range(n):
                store.states[kept, e] = y[e]
        for e in range(n):
            y[e] = y1[e]
            if tab.fsal:
                K[0, e] = K[s - 1, e]
        count[ROWS], count[KEPT] = row + 1, kept + 1  # now, so that an exception in between leaves no half of a step
        clock[T] = t1
        clock[Q2], clock[Q1] = clock[Q1], max(q, rule.floor)
        count[FRESH] = tab.fsal
        if span.direction * (t1 - span.end) >= 0.0:
            count[STATUS] = SUCCESS


@dual
def begin(theta, rule, span, atol, rtol, state, t0, limit, order):
    """f(t₀, y₀), and the first step by `control.first_step`, not longer than `limit`; a start that is not finite ends the solve here."""
    theta, atol, rtol, state = borrow(theta), borrow(atol), borrow(rtol), borrow(state)
    y, y1, _, Y, K, clock, count = state
    for e in range(y.size):
        Y[0, e] = y[e]
    value(t0, Y, 0, theta, K, 0)
    count[NFEV], count[FRESH], count[STATUS] = 1, 1, RUNNING
    for e in range(y.size):
        if not math.isfinite(K[0, e]):
            count[STATUS] = NONFINITE
            return
    d1 = scaled_rms(K[0], y, y, atol, rtol)
    h0 = compiled_first_guess(scaled_rms(y, y, y, atol, rtol), d1, limit)
    clock[H] = SMALLEST
    if h0 > 0.0:
        h = y.dtype.type(span.direction * h0)
        for e in range(y.size):
            Y[0, e] = y[e] + h * K[0, e]
        value(t0 + span.direction * h0, Y, 0, theta, K, 1)
        count[NFEV] = 2
        for e in range(y.size):
            y1[e] = K[1, e] - K[0, e]
        clock[H] = compiled_first_size(h0, scaled_rms(y1, y, y, atol, rtol), d1, order, limit)


begin_mlp = specialize(begin, compiled=True, value=mlp_value_row)
advance_mlp = specialize(advance, compiled=True, value=mlp_value_row)
advance_hidden = specialize(advance, compiled=True, value=hidden_value_row, measure=hidden_measure)
advance_socket = specialize(advance, compiled=True, value=socket_value)
advance_python = specialize(advance, compiled=False, value=bound_value)


def specialized(right_hand_side: Rhs, method: Tableau) -> Any:
    """`advance` compiled around one right-hand side and one method's numbers; once in a process for each pair, some seconds."""
    return None if JIT_DISABLED else _specialized(right_hand_side.dispatcher, method)


@lru_cache(maxsize=128)
def _specialized(function: Any, method: Tableau) -> Any:
    value, coefficients = inlined_value(function), method.coefficients()
    bound = {"value": value, "borrowed": constant(coefficients), "own_stages": unrolled(coefficients, value, stage_rows(method))}
    return specialize(advance, compiled=True, finish=inline, **bound)


def stage_rows(method: Tableau) -> int:
    """How many stage states are kept at a time: those from the stiffness pair's first on."""
    return method.stages - method.stiffness_pair[0] if method.stiffness_pair else min(2, method.stages)
