"""The loop, written once: attempts, accept or reject, outputs, log.

`advance` is a dual function: compiled with an MLP inside, compiled with a user's field behind a function pointer, or interpreted for a Python field.
It works in chunks, so that Ctrl-C is seen, memory grows as needed and nothing is allocated inside.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._jit import call_socket, dual, kernel, specialize
from .checked import check_finite, check_saveat, check_scale, check_span, check_steps, check_tolerances
from .control import Controller, accepts, first_step, get_controller, next_factor
from .dense import dense_state
from .errors import InputError
from .fields.mlp_kernels import mlp_value
from .fields.protocol import Array, Bound, Field
from .fields.user import socket_signatures, socket_value
from .norms import scaled_rms
from .solution import Run, Status, StepLog, explain
from .step import bound_value, finish, stages, value
from .tableau import Tableau, get_tableau

T, H, Q1, Q2 = range(4)  # clock: time, next |h|, the two last accepted errors
ATTEMPTS, NFEV, SAVED, STATUS, AFTER_REJECT, FRESH = range(6)  # counters; FRESH: K[0] is f(t, y)

_SUCCESS, _TOO_SMALL, _MAX_STEPS, _NONFINITE, _RUNNING = (
    int(s) for s in (Status.SUCCESS, Status.STEP_TOO_SMALL, Status.MAX_STEPS, Status.NONFINITE, Status.RUNNING)
)


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
    """Where a chunk puts its rows: the log, the states at the start of accepted steps, their stages, the outputs; empty arrays are not filled."""

    t: Array
    h: Array
    error: Array
    stiffness: Array
    accepted: Array
    states: Array
    stages: Array
    out: Array


@dual
def advance(theta, tab, rule, span, atol, rtol, state, store, budget):
    """At most `budget` attempts; returns (rows logged, steps accepted). state.count[STATUS] tells whether to go on."""
    y, y1, err, Y, K, clock, count = state
    s = tab.b.size
    rows = kept = 0
    while rows < budget and count[STATUS] == _RUNNING:
        t = clock[T]
        smallest = 10.0 * abs(np.nextafter(t, span.direction * np.inf) - t)
        h = clock[H]
        if h < smallest:
            if count[AFTER_REJECT]:
                count[STATUS] = _TOO_SMALL
                break
            h = smallest
        if count[ATTEMPTS] >= span.max_steps:
            count[STATUS] = _MAX_STEPS
            break
        t1 = t + span.direction * min(h, span.max_step)
        if not rule.overshoot and span.direction * (t1 - span.end) > 0.0:
            t1 = span.end
        h = t1 - t

        if not count[FRESH]:
            value(t, y, theta, K[0])
            count[NFEV] += 1
            count[FRESH] = 1
        stages(theta, tab, t, h, y, 1, s, Y, K)
        count[NFEV] += s - 1
        q, stiffness = finish(tab, h, y, K, Y, atol, rtol, y1, err)
        accepted = accepts(rule, q)
        count[ATTEMPTS] += 1
        store.t[rows], store.h[rows], store.error[rows], store.stiffness[rows], store.accepted[rows] = t, h, q, stiffness, accepted
        rows += 1

        if tab.adaptive:
            clock[H] = abs(h) * next_factor(rule, q, clock[Q1], clock[Q2], accepted, count[AFTER_REJECT] != 0)
        elif not accepted:
            count[STATUS] = _NONFINITE
        count[AFTER_REJECT] = not accepted
        if not accepted:
            continue

        extended = s
        while count[SAVED] < span.saveat.size and span.direction * (span.saveat[count[SAVED]] - t1) <= 0.0:
            if extended < tab.c.size and span.saveat[count[SAVED]] != t1:
                stages(theta, tab, t, h, y, s, tab.c.size, Y, K)
                count[NFEV] += tab.c.size - s
                extended = tab.c.size
            dense_state(tab, (span.saveat[count[SAVED]] - t) / h, h, y, y1, K, store.out[count[SAVED]])
            count[SAVED] += 1
        if store.states.shape[0] > 0:
            store.states[kept] = y
        if store.stages.shape[0] > 0:
            store.stages[kept] = K[:s]
        kept += 1
        clock[T] = t1
        clock[Q2], clock[Q1] = clock[Q1], max(q, rule.floor)
        y[:] = y1
        if tab.fsal:
            K[0] = K[s - 1]
        else:
            count[FRESH] = 0
        if span.direction * (t1 - span.end) >= 0.0:
            count[STATUS] = _SUCCESS
    return rows, kept


_advance_mlp = specialize(advance, compiled=True, value=mlp_value)
_advance_compiled = specialize(advance, compiled=True, value=socket_value)
_advance_python = specialize(advance, compiled=False, value=bound_value)


@kernel
def _advance_socket(value, theta, tab, rule, span, atol, rtol, state, store, budget):
    return _advance_compiled((value, theta), tab, rule, span, atol, rtol, state, store, budget)


def _enter(bound: Bound, *arguments: Any) -> tuple[int, int]:
    """`advance` by the copy that serves the field."""
    if bound.kind == "mlp":
        return _advance_mlp(bound.pack, *arguments)
    if bound.kind == "python":
        return _advance_python(bound, *arguments)
    return call_socket(_advance_socket, (bound.value,), socket_signatures(bound.pack.dtype)[:1], bound.pack, *arguments)


def solve(
    field: Field,
    theta: ArrayLike,
    y0: ArrayLike,
    tspan: tuple[float, float],
    *,
    method: str | Tableau = "Tsit5",
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike = 1e-6,
    saveat: ArrayLike | None = None,
    controller: str | Controller | None = None,
    first_step: float | None = None,
    max_step: float = math.inf,
    max_steps: int = 10_000,
    keep: str = "states",
) -> Run:
    """Integrate y′ = f(t, y; θ) for a batch of states stepped jointly, every attempt logged.

    field      a Field: MLP, CompiledField, PythonField          theta    (P,) parameters
    y0         (B, n) float64 or float32 (anything else real becomes float64)
    tspan      (t0, t1), forwards or backwards                   saveat   (k,) output times in the order of integration; None: t1 alone
    method     "Tsit5", "Dopri5", "Dopri5_Shampine", "BS32", "DOP853", "RK4", "Euler" or a Tableau
    rtol, atol tolerances: scalars, or (n,) one a component; rtol dimensionless, atol in units of y
    controller "pi" (Hairer; the default), "scipy", "torchdiffeq", "ordinarydiffeq", "pid", or a Controller
    first_step length of the first step; None: Hairer's rule (one evaluation more). Fixed-step methods need it: it is their step
    max_steps  attempts, accepted or not, before giving up
    keep       "states" (what the adjoints need), "stages" (more memory, less recomputing), or "none"

    "DOP853", of order 8, is for tight tolerances; a step with outputs between its ends takes three evaluations more than its twelve.
    One batch has one step size: the error norm is the RMS over all B n entries. A solve that cannot go on ends with a status and a message
    (`run.success` is False) and keeps what it has; an exception from the field passes through. InputError for arguments that make no sense.
    """
    tab = get_tableau(method)
    control = get_controller(controller)
    if not isinstance(field, Field):
        raise InputError(f"solve needs a field, not {type(field).__name__}: wrap a function f(t, y, theta) as adaptode.PythonField(f, n=...)")
    y0, theta = field.check(y0, theta)
    theta = theta.copy()  # a run is a record: updating the caller's parameters in place must not change it
    batch, dtype = y0.shape[0], y0.dtype
    t0, t1 = check_span(tspan)
    times = check_saveat(saveat, t0, t1)
    tolerances = check_tolerances(rtol, atol, field.n, batch, dtype)
    check_finite(y0, theta)
    check_scale(y0, tolerances[0])
    if keep not in ("states", "stages", "none"):
        raise InputError(f'keep must be "states", "stages" or "none"; got {keep!r}')
    check_steps(first_step, max_step, max_steps)
    if not tab.adaptive and first_step is None:
        raise InputError(f"{tab.name} has no error estimate to choose steps by; give its step as first_step=")

    bound = field.bind(theta, batch, dtype)
    direction = 1.0 if t1 >= t0 else -1.0
    state = State(
        y0.ravel().copy(),
        np.empty(y0.size, dtype),
        np.empty(tab.estimates * y0.size, dtype),
        np.empty((tab.stages - tab.stiffness_pair[0] if tab.stiffness_pair else min(2, tab.stages), y0.size), dtype),
        np.empty((tab.stages + tab.extra_stages, y0.size), dtype),
        np.array([t0, 0.0, 1.0, 1.0]),
        np.zeros(6, np.int64),
    )
    rule = control.rule(tab.error_order)
    state.clock[Q1:] = rule.start
    wanted = times if times.size and times[-1] == t1 else np.append(times, t1)
    span = Span(t1, direction, float(max_step), int(max_steps), wanted)
    out = np.empty((span.saveat.size, y0.size), dtype)
    while state.count[SAVED] < span.saveat.size and span.saveat[state.count[SAVED]] == t0:
        out[state.count[SAVED]] = state.y
        state.count[SAVED] += 1

    state.count[STATUS] = _RUNNING if t1 != t0 else _SUCCESS
    if t1 != t0:
        _start(bound, tab, control, state, span, tolerances, first_step)
    chunks, states, stage_chunks = _loop(bound, tab, rule, span, tolerances, state, out, keep)

    log = StepLog(*(np.concatenate([c[i] for c in chunks]) if chunks else np.empty(0, bool if i == 4 else float) for i in range(5)))
    accepted = log.accepted
    grid = np.concatenate([log.t[accepted], [state.clock[T]]])
    saved = int(state.count[SAVED])
    status = Status(int(state.count[STATUS]))
    if status is Status.STEP_TOO_SMALL and not np.isfinite(log.error[-1]):
        status = Status.NONFINITE
    shape = (-1, batch, field.n)
    return Run(
        t=times[: min(saved, times.size)],
        y=out[: min(saved, times.size)].reshape(shape),
        steps=log,
        grid=grid,
        nfev=int(state.count[NFEV]),
        status=status,
        message=explain(status, log, state.clock[T], state.K[0].reshape(batch, field.n), field.name),
        field=field,
        theta=theta,
        tspan=(t0, t1),
        method=tab,
        atol=tolerances[0],
        rtol=tolerances[1],
        end=out[-1].reshape(batch, field.n) if saved == out.shape[0] else state.y.reshape(batch, field.n),
        states=None if keep == "none" else np.concatenate([*states, state.y[None]]).reshape(shape),
        stages=np.concatenate(stage_chunks) if keep == "stages" and stage_chunks else None,
    )


def _start(bound, tab, control: Controller, state: State, span: Span, tolerances, given: float | None) -> None:
    """f(t₀, y₀) and the first step size; a start that is not finite ends the solve here."""
    t0, length = state.clock[T], abs(span.end - state.clock[T])
    f0 = state.K[0]
    f0[:] = np.nan  # what a field forgets to fill must not pass for an answer
    bound.value(t0, state.y, bound.pack, f0)
    state.count[NFEV], state.count[FRESH] = 1, 1
    if not np.isfinite(f0).all():
        state.count[STATUS] = _NONFINITE
        return
    if given is not None:
        state.clock[H] = given
        return
    atol, rtol = tolerances
    y = state.y

    def d2_at(h0: float) -> float:
        h = span.direction * h0
        bound.value(t0 + h, y + y.dtype.type(h) * f0, bound.pack, state.y1)
        state.count[NFEV] += 1
        return scaled_rms(state.y1 - f0, y, y, atol, rtol)

    limit = min(length, span.max_step) if control.clip_first_step else math.inf
    state.clock[H] = first_step(scaled_rms(y, y, y, atol, rtol), scaled_rms(f0, y, y, atol, rtol), d2_at, tab.error_order, limit)


def _loop(bound, tab, rule, span, tolerances, state, out, keep):
    """Chunks of `advance` until it ends: lists of log columns, states and stages."""
    chunks, states, stage_chunks = [], [], []
    size, tab = state.y.size, tab.coefficients(state.y.dtype)
    row_bytes = state.y.itemsize * size * {"none": 0, "states": 1, "stages": 1 + tab.b.size}[keep] + 40
    budget, largest = max(1, min(64, 2**20 // state.K.size)), max(1, 2**26 // row_bytes)  # 64 MiB a chunk at most
    while state.count[STATUS] == _RUNNING:
        budget = min(budget, largest)
        store = Store(
            *(np.empty(budget) for _ in range(4)),
            np.empty(budget, bool),
            np.empty((0 if keep == "none" else budget, size), state.y.dtype),
            np.empty((budget if keep == "stages" else 0, tab.b.size, size), state.y.dtype),
            out,
        )
        began = time.perf_counter()
        rows, kept = _enter(bound, tab, rule, span, *tolerances, state, store, budget)
        seconds = time.perf_counter() - began
        if seconds < 0.02:  # far below a tenth of a second: Ctrl-C can wait for more attempts
            budget *= 2
        elif seconds > 0.1:
            budget = max(1, budget // 2)
        chunks.append([column[:rows] for column in store[:5]])
        if keep != "none":
            states.append(store.states[:kept])
        if keep == "stages":
            stage_chunks.append(store.stages[:kept])
    return chunks, states, stage_chunks
