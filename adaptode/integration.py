"""A solve under way: what the loop works on, chunk by chunk, and what it has left so far."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .control import Controller, first_step
from .dense import DenseSolution
from .fields.protocol import Array, Bound
from .fields.sockets import RaisedError, reraise
from .lifted import find_lifted, lifted_rms
from .loop import FRESH, KEPT, NFEV, ROWS, SAVED, STATUS, H, Span, State, Store, T, advance_hidden, advance_mlp, advance_python, advance_socket, stage_rows
from .norms import scaled_rms
from .reservoir import replacements
from .room import Room, empty
from .solution import NONFINITE, RUNNING, SUCCESS, Attempt, Status, StepLog
from .step import bound_stages
from .tableau import Tableau
from .team import team_of


class Chunk(NamedTuple):
    """What some attempts left: their log and error vectors, and of the accepted ones the states they began with and their stages.

    room: in which the states lie, if it is hardly larger than they are, with one row for the last state
    """

    log: StepLog
    errors: Array
    states: Array
    stages: Array
    room: Array | None = None


class Integration:
    """A solve under way. The arguments have been checked; y0 is flat, (N,), and is copied.

    `saveat` are output times in order, the last of them the end or before; `out` (k, N) receives them. `keep` holds some of "states", "errors", "stages"
    and "dense", which are the stages with those of the continuous extension. Of the states every `every`-th is kept, and the last.
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
        every: int = 1,
        advance: Any = None,
    ) -> None:
        t0, t1 = tspan
        self.bound, self.method, self.control, self.tolerances, self.keep = bound, method, control, tolerances, keep
        self.t0, self.size, dtype = t0, y0.size, y0.dtype
        self.tab, self.rule = method.coefficients(dtype), control.rule(method.error_order)
        self.span = Span(t1, 1.0 if t1 >= t0 else -1.0, float(max_step), int(max_steps), saveat)
        rows, total = stage_rows(method), method.stages + method.extra_stages
        room = Room((2 + method.estimates + rows + total) * y0.size, dtype)
        self.state = State(
            room.take(y0.size),
            room.take(y0.size),
            room.take(method.estimates * y0.size),
            room.take(rows, y0.size),
            room.take(total, y0.size),
            np.array([t0, 0.0, self.rule.start, self.rule.start]),
            np.zeros(8, np.int64),
        )
        self.state.y[:] = y0
        self.out = empty((saveat.size, y0.size), dtype)
        self.own_advance = advance
        self.team = None if "errors" in keep else team_of(bound, self.state, method)
        self.chunks: list[Chunk] = []
        count = self.state.count
        while count[SAVED] < saveat.size and saveat[count[SAVED]] == t0:
            self.out[count[SAVED]] = self.state.y
            count[SAVED] += 1
        count[STATUS] = RUNNING if t1 != t0 else SUCCESS
        self._stages = method.stages + method.extra_stages if "dense" in keep else method.stages * ("stages" in keep)
        row_bytes = y0.itemsize * y0.size * (("states" in keep) + method.estimates * ("errors" in keep) + self._stages) + 40
        self._largest, self._first = max(1, 2**26 // row_bytes), max(8, min(4096, 2**22 // row_bytes))  # 64 MiB a chunk at most, and 4 at first
        self._every, self._accepted = max(1, every), 0
        if every > 1:  # few states are kept: then a chunk must not hold many more
            self._largest = max(every, 2**20 // row_bytes)
        self._budget = max(1, min(64, 2**20 // max(1, self.state.K.size)))

    @property
    def running(self) -> bool:
        return bool(self.state.count[STATUS] == RUNNING)

    @property
    def status(self) -> Status:
        """Why it ended; a step that shrank away because nothing was finite any more is NONFINITE."""
        return self.ended(next((chunk.log for chunk in reversed(self.chunks) if len(chunk.log)), None))

    def ended(self, log: StepLog | None) -> Status:
        """`status`, where the last attempts were logged elsewhere."""
        status = Status(int(self.state.count[STATUS]))
        if status is Status.STEP_TOO_SMALL and log and not np.isfinite(log.error[-1]):
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

    def forget(self, first: int) -> None:
        """Go back to where chunk number `first` began; what it cost stays counted."""
        begun = next((chunk for chunk in self.chunks[first:] if len(chunk.states)), None)
        if begun is not None:
            self.state.clock[T], self.state.y[:] = begun.log.t[begun.log.accepted][0], begun.states[0]
            self.state.count[STATUS] = RUNNING
        self.chunks = self.chunks[:first]

    def copy(self) -> Integration:
        """An independent one at the same place; a Python right-hand side is shared."""
        twin = copy.copy(self)
        twin.state, twin.out = State(*(array.copy() for array in self.state)), self.out.copy()
        twin.chunks = [chunk._replace(room=None) for chunk in self.chunks]
        twin.team = self.team and team_of(twin.bound, twin.state, twin.method)
        return twin

    def lifted(self, alpha: Array) -> Array | None:
        """y₀ + α Ŵ (B n,) of a state in hidden coordinates, if the last norm was of it; the next may overwrite it."""
        lift = self.bound.pack[2]
        found = find_lifted(lift, alpha)
        return None if found < 0 else lift.states[found]

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
            state.count[STATUS] = NONFINITE
            return
        if first is not None:
            state.clock[H] = first
            return
        seconds = 0.0

        hidden = bound.kind == "hidden"  # norms are of the state and the slope themselves
        y_seen = bound.pack[2].base.ravel() if hidden else y

        def size_of(x: Array) -> float:
            return lifted_rms(bound.pack[2], x, atol, rtol) if hidden else scaled_rms(x, y_seen, y_seen, atol, rtol)

        def d2_at(h0: float) -> float:
            nonlocal seconds
            h = span.direction * h0
            began = time.perf_counter()
            bound.value(t0 + h, y + y.dtype.type(h) * f0, bound.pack, state.y1)
            seconds = time.perf_counter() - began
            state.count[NFEV] += 1
            return size_of(state.y1 - f0)

        limit = abs(span.end - t0) if control.clip_first_step else math.inf  # max_step limits it in the loop, as in SciPy
        state.clock[H] = first_step(scaled_rms(y_seen, y_seen, y_seen, atol, rtol), size_of(f0), d2_at, self.method.error_order, limit)
        if seconds:  # as many attempts at first as surely take less than a tenth of a second
            self._budget = max(self._budget, int(0.08 / (seconds * self.method.stages)))

    def new_store(self, rows: int) -> Store:
        """Room for that many attempts."""
        state, keep, dtype = self.state, self.keep, self.state.y.dtype
        return Store(
            *(np.empty(rows) for _ in range(4)),
            np.empty(rows, bool),
            empty((rows if "errors" in keep else 0, state.err.size), dtype),
            empty((rows + 1 if "states" in keep else 0, self.size), dtype),
            empty((rows if self._stages else 0, self._stages, self.size), dtype),
            self.out,
        )

    def enter(self, store: Store, budget: int) -> None:
        """At most `budget` attempts into a store; `state.count` says how many."""
        self._enter(self.tab, self.rule, self.span, *self.tolerances, self.state, store, budget)

    def step(self, store: Store, note: Callable[[Attempt], None]) -> bool:
        """Attempts, each in row 0 of the store and told to `note`, up to the first that is accepted; False when none can be made. In no chunk.

        No generator: one would make another error of a StopIteration that the right-hand side raises.
        """
        count = self.state.count
        count[KEPT] = 0
        while not count[KEPT]:
            count[ROWS] = 0
            if self.running:
                self.enter(store, 1)
            if not count[ROWS]:
                return False
            note(Attempt(*(float(column[0]) for column in store[:4]), bool(store.accepted[0])))
        return True

    def last_step(self, store: Store) -> DenseSolution:
        """The solution within the accepted step in row 0 of the store; it owns what it needs."""
        t, h, y, K = float(store.t[0]), float(store.h[0]), store.states[0], store.stages[0]
        return DenseSolution(self.method, np.array([t, self.t]), np.stack([y, self.state.y]), self.extended(t, h, y, K)[None])

    def advance(self, budget: int | None = None, most: int | None = None) -> Chunk:
        """Some attempts, as many as take a few hundredths of a second and `most` of these, or at most `budget`."""
        state = self.state
        rows = min(self._budget, self._largest, self._first if not self.chunks else 2**16) if budget is None else budget
        if budget is None:
            rows = 1 << rows.bit_length() - 1  # of few sizes, so that memory fits that was used before
        cut = most is not None and most < rows
        if cut:
            rows = most
        store = self.new_store(rows)
        began = time.perf_counter()
        state.count[ROWS] = state.count[KEPT] = 0
        try:
            self.enter(store, rows)
        finally:  # an interrupt or an exception of the right-hand side loses nothing
            made, kept = int(state.count[ROWS]), int(state.count[KEPT])
            log = StepLog(*(column[:made] for column in store[:5]))
            states = store.states[:kept]
            if self._every > 1:
                states = states[-self._accepted % self._every :: self._every].copy()
            self._accepted += kept
            room = store.states if "states" in self.keep and self._every == 1 and kept + 1 > 0.8 * len(store.states) else None
            self.chunks.append(Chunk(log, store.errors[:made], states, store.stages[:kept], room))
        if budget is None:
            seconds = time.perf_counter() - began
            if seconds < 0.02 and not cut:  # far below a tenth of a second: Ctrl-C can wait for more attempts
                self._budget *= 4
            elif seconds > 0.1:
                self._budget = max(1, self._budget // 2)
        return self.chunks[-1]

    def _enter(self, *arguments: Any) -> None:
        """`advance` by the copy that serves the field."""
        bound = self.bound
        if bound.kind == "mlp":
            advance_mlp(bound.pack, *arguments)
        elif self.team:
            self.team.enter(*arguments)
        elif bound.kind == "hidden":
            advance_hidden(bound.pack, *arguments)
        elif bound.kind == "python":
            advance_python(bound, *arguments)
        else:
            self._through_socket(*arguments)

    def _through_socket(self, *arguments: Any) -> None:
        count = self.state.count
        try:
            (self.own_advance or advance_socket)(self.bound.pack, *arguments)
        except RaisedError:
            made = count[ROWS], count[KEPT]
        else:
            return
        try:
            reraise(advance_python, self.bound, *arguments[:-2], self.new_store(1), 1)
        finally:  # what the exception is looked for with leaves no trace
            count[ROWS], count[KEPT] = made

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

    def run_holding(self, seeds: tuple[int, ...]) -> dict[int, Array]:
        """To the end, by way of the states that reservoirs hold in turn; what each holds at last, by its seed. See `adaptode.reservoir`."""
        draws = {seed: replacements(seed) for seed in seeds}
        due, held, done = {seed: next(draw) for seed, draw in draws.items()}, dict.fromkeys(seeds, self.state.y.copy()), 0
        while self.running:
            self.advance(most=min(due.values()) - done if seeds else None)
            done += int(self.state.count[KEPT])
            for seed in [seed for seed in due if due[seed] == done and self.running]:
                held[seed], due[seed] = self.state.y.copy(), next(draws[seed])
        return held

    def log(self) -> StepLog:
        """Every attempt so far."""
        if not self.chunks:
            return StepLog.of(())
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
        if what == "states" and len(parts) == 1 and self.chunks[0].room is not None:  # as they lie, with the last one below them
            room, size = self.chunks[0].room, len(parts[0])
            room[size] = self.state.y
            return room[: size + 1]
        if what == "states":
            parts.append(self.state.y[None])
        if not parts:
            shape = {"stages": (0, self._stages, self.size), "errors": (0, self.state.err.size)}[what]
            return np.empty(shape, self.state.y.dtype)
        out = empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
        return np.concatenate(parts, out=out)
