"""The loop, written once: attempts, accept or reject, outputs, log.

`advance` is a dual function: compiled with an MLP inside, compiled with a user's function behind its address, or interpreted for a Python field.
It works in chunks, so that Ctrl-C is seen, memory grows as needed and nothing is allocated inside. `Integration` holds what it works on.
"""

from __future__ import annotations

import copy
import math
import time
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ._jit import JIT_DISABLED, borrow, dual, inline, specialize
from .control import Controller, accepts, first_step, next_factor, next_time
from .dense import dense_state
from .fields.mlp_kernels import mlp_value_row
from .fields.protocol import Array, Bound
from .fields.rhs import Rhs
from .fields.sockets import inlined_value, socket_value, through_socket
from .norms import scaled_rms
from .solution import Status, StepLog
from .step import borrowed, bound_stages, bound_value, constant, finish, stages, value
from .tableau import Tableau

T, H, Q1, Q2 = range(4)  # clock: time, next |h|, the two last accepted errors
ATTEMPTS, NFEV, SAVED, STATUS, AFTER_REJECT, FRESH, ROWS, KEPT = range(8)  # counters; FRESH: K[0] is f(t, y); ROWS, KEPT: of this chunk

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


@inline
def _borrowed(s):
    a, b, c, d, e, f, g, h, i = s
    return Store(borrow(a), borrow(b), borrow(c), borrow(d), borrow(e), borrow(f), borrow(g), borrow(h), borrow(i))


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
def advance(theta, tab, rule, span, atol, rtol, state, store, budget):
    """At most `budget` attempts. state.count tells how many were logged (ROWS) and accepted (KEPT), and whether to go on (STATUS)."""
    y, y1, err, Y, K = borrow(state.y), borrow(state.y1), borrow(state.err), borrow(state.Y), borrow(state.K)
    clock, count = borrow(state.clock), borrow(state.count)
    atol, rtol, saveat = borrow(atol), borrow(rtol), borrow(span.saveat)
    tab, store = borrowed(tab), _borrowed(store)
    n, s = y.size, tab.b.size
    count[ROWS] = count[KEPT] = 0
    while count[ROWS] < budget and count[STATUS] == _RUNNING:
        t = float(clock[T])  # of Python's kind where interpreted: faster, and deaf to np.seterr
        t1 = next_time(rule, t, float(clock[H]), span.end, span.direction, span.max_step, count[AFTER_REJECT] != 0)
        if math.isnan(t1):
            count[STATUS] = _TOO_SMALL
            break
        if count[ATTEMPTS] >= span.max_steps:
            count[STATUS] = _MAX_STEPS
            break
        h = t1 - t

        if not count[FRESH]:
            for e in range(n):
                Y[0, e] = y[e]
            value(t, Y, 0, theta, K, 0)
            count[NFEV] += 1
            count[FRESH] = 1
        stages(theta, tab, t, h, y, 1, s, Y, K)
        count[NFEV] += s - 1
        q, stiffness = finish(tab, h, y, K, Y, atol, rtol, y1, err)
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
            count[STATUS] = _NONFINITE
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
            count[STATUS] = _SUCCESS


_advance_mlp = specialize(advance, compiled=True, value=mlp_value_row)
_advance_socket = specialize(advance, compiled=True, value=socket_value)
_advance_python = specialize(advance, compiled=False, value=bound_value)


_SPECIALIZED: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def specialized(right_hand_side: Rhs, method: Tableau) -> Any:
    """`advance` compiled around one right-hand side and one method's numbers; once in a process for each pair, some seconds."""
    function = right_hand_side.dispatcher
    if JIT_DISABLED:
        return None
    known = _SPECIALIZED.setdefault(function, {})
    if repr(method) not in known:
        known[repr(method)] = specialize(advance, compiled=True, finish=inline, value=inlined_value(function), borrowed=constant(method.coefficients()))
    return known[repr(method)]


class Chunk(NamedTuple):
    """What some attempts left: their log and error vectors, and of the accepted ones the states they began with and their stages."""

    log: StepLog
    errors: Array
    states: Array
    stages: Array


class Integration:
    """A solve under way. The arguments have been checked; y0 is flat, (N,), and is copied.

    `saveat` are output times in order, the last of them the end or before; `out` (k, N) receives them. `keep` holds some of "states", "errors", "stages"
    and "dense", which are the stages with those of the continuous extension.
    """

    def __init__(
        self,
        bound: Bound,
        y0: Array,
        tspan: tuple[float, float],
        method: Tableau,
        control: Controller,
        tolerances: tuple[Array, Array],
        *,
        saveat: Array,
        max_step: float,
        max_steps: int,
        keep: frozenset[str],
        advance: Any = None,
    ) -> None:
        t0, t1 = tspan
        self.bound, self.method, self.control, self.tolerances, self.keep = bound, method, control, tolerances, keep
        self.t0, self.size, dtype = t0, y0.size, y0.dtype
        self.tab, self.rule = method.coefficients(dtype), control.rule(method.error_order)
        self.span = Span(t1, 1.0 if t1 >= t0 else -1.0, float(max_step), int(max_steps), saveat)
        stage_states = method.stages - method.stiffness_pair[0] if method.stiffness_pair else min(2, method.stages)
        self.state = State(
            y0.copy(),
            np.empty(y0.size, dtype),
            np.empty(method.estimates * y0.size, dtype),
            np.empty((stage_states, y0.size), dtype),
            np.empty((method.stages + method.extra_stages, y0.size), dtype),
            np.array([t0, 0.0, self.rule.start, self.rule.start]),
            np.zeros(8, np.int64),
        )
        self.out = np.empty((saveat.size, y0.size), dtype)
        self.own_advance = advance
        self.chunks: list[Chunk] = []
        count = self.state.count
        while count[SAVED] < saveat.size and saveat[count[SAVED]] == t0:
            self.out[count[SAVED]] = self.state.y
            count[SAVED] += 1
        count[STATUS] = _RUNNING if t1 != t0 else _SUCCESS
        self._stages = method.stages + method.extra_stages if "dense" in keep else method.stages * ("stages" in keep)
        row_bytes = y0.itemsize * y0.size * (("states" in keep) + method.estimates * ("errors" in keep) + self._stages) + 40
        self._largest = max(1, 2**26 // row_bytes)  # 64 MiB a chunk at most
        self._budget = max(1, min(64, 2**20 // max(1, self.state.K.size)))

    @property
    def running(self) -> bool:
        return bool(self.state.count[STATUS] == _RUNNING)

    @property
    def status(self) -> Status:
        """Why it ended; a step that shrank away because nothing was finite any more is NONFINITE."""
        status = Status(int(self.state.count[STATUS]))
        if status is Status.STEP_TOO_SMALL and self.chunks:
            log = next((chunk.log for chunk in reversed(self.chunks) if len(chunk.log)), None)
            if log is not None and not np.isfinite(log.error[-1]):
                return Status.NONFINITE
        return status

    @property
    def t(self) -> float:
        """The time reached."""
        return float(self.state.clock[T])

    @property
    def nfev(self) -> int:
        return int(self.state.count[NFEV])

    @nfev.setter
    def nfev(self, value: int) -> None:
        self.state.count[NFEV] = value

    def remember(self, log: StepLog) -> None:
        """Take a log that was kept elsewhere for the chunks that were not."""
        self.chunks = [Chunk(log, np.empty(0), np.empty(0), np.empty(0))]

    def copy(self) -> Integration:
        """An independent one at the same place; a Python right-hand side is shared."""
        twin = copy.copy(self)
        twin.state, twin.out, twin.chunks = State(*(array.copy() for array in self.state)), self.out.copy(), list(self.chunks)
        return twin

    @property
    def saved(self) -> int:
        """How many output times have been reached."""
        return int(self.state.count[SAVED])

    def start(self, first: float | None) -> None:
        """f(t₀, y₀) and the first step size, `first` if given; a start that is not finite ends the solve here."""
        if not self.running:
            return
        state, span, bound, control = self.state, self.span, self.bound, self.control
        t0, f0, y = self.t0, state.K[0], state.y
        atol, rtol = self.tolerances
        f0[:] = np.nan  # what a field forgets to fill must not pass for an answer
        bound.value(t0, y, bound.pack, f0)
        state.count[NFEV], state.count[FRESH] = 1, 1
        if not np.isfinite(f0).all():
            state.count[STATUS] = _NONFINITE
            return
        if first is not None:
            state.clock[H] = first
            return
        seconds = 0.0

        def d2_at(h0: float) -> float:
            nonlocal seconds
            h = span.direction * h0
            began = time.perf_counter()
            bound.value(t0 + h, y + y.dtype.type(h) * f0, bound.pack, state.y1)
            seconds = time.perf_counter() - began
            state.count[NFEV] += 1
            return scaled_rms(state.y1 - f0, y, y, atol, rtol)

        limit = abs(span.end - t0) if control.clip_first_step else math.inf  # max_step limits it in the loop, as in SciPy
        state.clock[H] = first_step(scaled_rms(y, y, y, atol, rtol), scaled_rms(f0, y, y, atol, rtol), d2_at, self.method.error_order, limit)
        if seconds:  # as many attempts at first as surely take less than a tenth of a second
            self._budget = max(self._budget, int(0.03 / (seconds * self.method.stages)))

    def new_store(self, rows: int) -> Store:
        """Room for that many attempts."""
        state, keep, dtype = self.state, self.keep, self.state.y.dtype
        return Store(
            *(np.empty(rows) for _ in range(4)),
            np.empty(rows, bool),
            np.empty((rows if "errors" in keep else 0, state.err.size), dtype),
            np.empty((rows if "states" in keep else 0, self.size), dtype),
            np.empty((rows if self._stages else 0, self._stages, self.size), dtype),
            self.out,
        )

    def enter(self, store: Store, budget: int) -> None:
        """At most `budget` attempts into a store; `state.count` says how many."""
        self._enter(self.tab, self.rule, self.span, *self.tolerances, self.state, store, budget)

    def advance(self, budget: int | None = None) -> Chunk:
        """Some attempts, as many as take a few hundredths of a second, or at most `budget`."""
        state = self.state
        rows = min(self._budget, self._largest, 4096 if not self.chunks else 2**16) if budget is None else budget
        store = self.new_store(rows)
        began = time.perf_counter()
        state.count[ROWS] = state.count[KEPT] = 0
        try:
            self.enter(store, rows)
        finally:  # an interrupt or an exception of the right-hand side loses nothing
            made, kept = int(state.count[ROWS]), int(state.count[KEPT])
            log = StepLog(*(column[:made] for column in store[:5]))
            self.chunks.append(Chunk(log, store.errors[:made], store.states[:kept], store.stages[:kept]))
        if budget is None:
            seconds = time.perf_counter() - began
            if seconds < 0.02:  # far below a tenth of a second: Ctrl-C can wait for more attempts
                self._budget *= 4
            elif seconds > 0.1:
                self._budget = max(1, self._budget // 2)
        return self.chunks[-1]

    def _enter(self, *arguments: Any) -> None:
        """`advance` by the copy that serves the field."""
        bound = self.bound
        if bound.kind == "mlp":
            _advance_mlp(bound.pack, *arguments)
        elif bound.kind == "python":
            _advance_python(bound, *arguments)
        else:
            through_socket(self.own_advance or _advance_socket, _advance_python, bound, *arguments)

    def extended(self, t: float, h: float, y: Array, K: Array) -> Array:
        """The stages (S, N) of an accepted step with those of the continuous extension, a copy; K holds its own s."""
        s, total = self.method.stages, self.method.stages + self.method.extra_stages
        out = np.empty((total, self.size), K.dtype)
        out[:s] = K[:s]
        if total > s:
            bound_stages(self.bound, self.tab, t, h, y, s, total, np.empty((2, self.size), K.dtype), out)
        return out

    def run(self) -> None:
        """To the end."""
        while self.running:
            self.advance()

    def log(self) -> StepLog:
        """Every attempt so far."""
        if not self.chunks:
            return StepLog(*(np.empty(0, bool if i == 4 else float) for i in range(5)))
        if len(self.chunks) == 1:
            return self.chunks[0].log
        columns = ("t", "h", "error", "stiffness", "accepted")
        return StepLog(*(np.concatenate([getattr(chunk.log, name) for chunk in self.chunks]) for name in columns))

    def grid(self) -> Array:
        """The accepted times (m + 1,)."""
        return np.append(np.concatenate([chunk.log.t[chunk.log.accepted] for chunk in self.chunks]) if self.chunks else np.empty(0), self.t)

    def kept(self, what: str) -> Array:
        """Rows of all chunks: "states" (m + 1, N) with the last one, "stages" (m, s, N), "errors" (attempts, N)."""
        parts = [getattr(chunk, what) for chunk in self.chunks]
        if what == "states":
            parts.append(self.state.y[None])
        if not parts:
            shape = {"stages": (0, self._stages, self.size), "errors": (0, self.state.err.size)}[what]
            return np.empty(shape, self.state.y.dtype)
        return np.concatenate(parts)
