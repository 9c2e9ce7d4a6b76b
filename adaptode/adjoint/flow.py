"""A solve and its gradient as two calls of compiled code, for states so small that everything around the arithmetic costs more than it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._jit import borrow, direct, kernel, part, specialize
from ..checked import check_saveat, check_span, check_tolerances
from ..control import Controller, get_controller
from ..errors import InputError, NonFiniteGradientError
from ..fields.mlp import MLP
from ..fields.mlp_kernels import kept_size, mlp_linearize, mlp_packed, mlp_transposed, mlp_work
from ..fields.protocol import Array
from ..loop import KEPT, NFEV, ROWS, SAVED, STATUS, Span, State, Store, T, advance, advance_mlp, begin_mlp, stage_rows
from ..products import BY_TILES
from ..solution import RUNNING, SUCCESS
from ..solver import solve
from ..tableau import Tableau, get_tableau
from .discrete import discrete
from .sweep import Cotangents, Grid, mlp_tile_room, mlp_tiles, tile_rows

_ROWS = 32  # attempts of a chunk
_STEPS, _MOST = 1024, 3 * 2**23  # steps and bytes at most whose stages are kept: from beyond the last cache it would be quicker to compute them again


class Tape(NamedTuple):
    """What a gradient needs of a solve: its arguments, the accepted times (m + 1,) and the states (m + 1, N) there; evaluations, and the largest error.

    memory: what was kept of the stages, until the first gradient
    """

    theta: Array
    y0: Array
    grid: Array
    states: Array
    nfev: int
    error: float
    memory: list[tuple[Array, Array]]


class Flow:
    """y(times) of an MLP's flow from y₀, and the transpose of that map: the steps and numbers of `adaptode.solve` and `adaptode.adjoint.discrete`.

    field         an MLP; solved in its own coordinates                tspan        (t0, t1), t1 ≠ t0
    times         (k,) in the order of integration; None: t1 alone     the rest     as in `adaptode.solve`

    `flow(theta, y0)` gives the states (k, B, n) and a tape; `flow.vjp(tape, y_bar)` takes cotangents (k, B, n) and gives ȳ₀ (B, n), θ̄ (P,) and how many
    evaluations and pullbacks it made. To be quick it leaves out the log, and pauses in which Ctrl-C is seen. SolveError and InputError are those of `solve`,
    which is asked again where something failed, NonFiniteGradientError that of `discrete`. A call takes some microseconds over its arithmetic, which counts
    where states are a few numbers; for large ones it gains nothing, nor has it hidden coordinates.

    >>> import adaptode as ao, numpy as np
    >>> field = ao.MLP((2, 8, 2))
    >>> flow = ao.Flow(field, (0.0, 1.0), rtol=1e-6, atol=1e-6)
    >>> y, tape = flow(field.init(0), np.ones((3, 2)))
    >>> y0_bar, theta_bar, calls = flow.vjp(tape, y)         # of |y(1)|^2 / 2
    >>> y.shape, y0_bar.shape, theta_bar.shape
    ((1, 3, 2), (3, 2), (42,))
    """

    def __init__(
        self,
        field: MLP,
        tspan: tuple[float, float],
        *,
        method: str | Tableau = "Tsit5",
        rtol: float = 1e-6,
        atol: float = 1e-6,
        times: ArrayLike | None = None,
        controller: str | Controller | None = None,
        max_steps: int = 10_000,
        dtype: Any = np.float64,
    ) -> None:
        if not isinstance(field, MLP):
            raise InputError(f"a Flow is compiled around an MLP; got {field!r}. adaptode.solve takes any field")
        self.field, self.tspan, self.dtype = field, check_span(tspan), np.dtype(dtype)
        t0, t1 = self.tspan
        if t0 == t1:
            raise InputError(f"a Flow needs a span of some length; got {tspan}")
        self.method, self.controller = get_tableau(method), get_controller(controller)
        if not self.method.adaptive:
            raise InputError(f"{self.method.name} has no error estimate to choose its steps by; a Flow needs an adaptive method")
        self.times = check_saveat(times, t0, t1, "times")
        self._options = {"method": self.method, "rtol": rtol, "atol": atol, "controller": self.controller, "max_steps": int(max_steps)}
        tolerances = check_tolerances(rtol, atol, field.n, 1, self.dtype)
        if any(x.size > 1 for x in tolerances):
            raise InputError("a Flow takes one rtol and one atol for all components")
        rule = self.controller.rule(self.method.error_order)
        span = Span(t1, 1.0 if t1 > t0 else -1.0, np.inf, int(max_steps), self.times)
        limit = abs(t1 - t0) if self.controller.clip_first_step else np.inf
        numbers = (t0, limit, self.method.error_order, stage_rows(self.method), self.method.estimates)
        self._fixed = (field.meta, self.method.coefficients(self.dtype), rule, span, *tolerances, numbers)
        self._forward = self._back = None  # the compiled code, once it was called
        self._nothing = np.empty((0, 0, 0), self.dtype), np.empty((0, 0, 0), self.dtype)
        many = 2**20
        stages = self.method.stages + self.method.extra_stages
        self._sample = self.dtype.itemsize * (stages * kept_size(field.meta, 1) + self.method.stages * field.n)  # kept of a step
        self._spare: list[tuple[Array, Array]] = []
        self._tile = tile_rows(self.method, "mlp", kept_size(field.meta, many), many, many * field.n, self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_forward": None, "_back": None, "_spare": []}

    def __call__(self, theta: Array, y0: Array, keep: bool = False) -> tuple[Array, Tape]:
        """The states (k, B, n) at the times, and what `vjp` needs; theta (P,), y0 (B, n).

        keep: for a gradient that follows at once, which then need not compute stages again; the memory, up to 24 MB, is this Flow's, from one to the next
        """
        theta, y0 = np.ascontiguousarray(theta, self.dtype), np.ascontiguousarray(y0, self.dtype)
        if not (theta.shape == (self.field.n_params,) and y0.ndim == 2 and y0.shape[1] == self.field.n and y0.shape[0] > 0):
            self._again(theta, y0)
        memory = self._memory(len(y0)) if keep and self.method.fsal else self._nothing
        status, nfev, error, y, grid, states, kept = (self._forward or _flow)(theta, y0, *self._fixed, *memory)
        if status != SUCCESS:
            self._again(theta, y0)
        if self._forward is None:
            self._forward = direct(_flow, theta, y0, *self._fixed, *memory)
        if not kept:
            self._take_back(memory)
        return y, Tape(theta, y0, grid, states, nfev, error, [memory] if kept else [])

    def vjp(self, tape: Tape, y_bar: Array) -> tuple[Array, Array, int]:
        """ȳ₀ (B, n) and θ̄ (P,) of cotangents (k, B, n) of the states, and the evaluations and pullbacks made."""
        y_bar = np.ascontiguousarray(y_bar, self.dtype)
        if y_bar.shape != (self.times.size, *tape.y0.shape):
            raise InputError(f"y_bar must have the shape of the states, {(self.times.size, *tape.y0.shape)}; got {y_bar.shape}")
        meta, tab, _, span, atol, rtol, _ = self._fixed
        memory = tape.memory.pop() if tape.memory else self._nothing
        rows = len(tape.y0) if len(memory[0]) else min(self._tile, len(tape.y0))
        arguments = tape.theta, y_bar, meta, tab, span, atol, rtol, rows, tape.grid, tape.states, *memory
        y0_bar, theta_bar, calls, finite = (self._back or _flow_vjp)(*arguments)
        if self._back is None:
            self._back = direct(_flow_vjp, *arguments)
        self._take_back(memory)
        if not finite:
            discrete(self._again(tape.theta, tape.y0), y_bar)
            raise NonFiniteGradientError("the gradient is NaN or infinite")  # and `discrete` found none
        return y0_bar, theta_bar, calls

    def _memory(self, batch: int) -> tuple[Array, Array]:
        """Stages (slots, s, N) and what is kept of them (slots, S, R), for as many steps as are worth it."""
        slots, method = min(_STEPS, _MOST // (self._sample * batch)), self.method
        if slots < 2:
            return self._nothing
        try:
            memory = self._spare.pop()  # at once, for threads may share a Flow
        except IndexError:
            memory = self._nothing
        if memory[0].shape[2] != batch * self.field.n:
            shapes = (method.stages, batch * self.field.n), (method.stages + method.extra_stages, kept_size(self.field.meta, batch))
            memory = np.empty((slots, *shapes[0]), self.dtype), np.empty((slots, *shapes[1]), self.dtype)
        return memory

    def _take_back(self, memory: tuple[Array, Array]) -> None:
        if len(memory[0]) and not self._spare:
            self._spare.append(memory)

    def _again(self, theta: Array, y0: Array) -> Any:
        """The run by `solve`, which says what is wrong."""
        return solve(self.field, theta, y0, self.tspan, saveat=self.times, coordinates="state", **self._options).require_success()


@kernel
def _kept_row(t, Y, r, packs, K, i):
    """In the place of `step.value`: keeps what the stage's transpose needs."""
    pack, kept = packs
    mlp_linearize(t, Y[r], pack, K[i], kept[i])


_advance_keeping = specialize(advance, compiled=True, value=_kept_row)


@kernel
def _flow(theta, y0, meta, tab, rule, span, atol, rtol, numbers, stages_kept, kept):
    """(status, evaluations, largest accepted error, outputs (k, B, n), accepted times (m + 1,), states there (m + 1, N), whether all stages are kept)."""
    _, _, _, rows, estimates = numbers
    batch, size = y0.shape[0], y0.size
    # memory in few pieces, which take as long as an evaluation to get; whose they are, outlives what `_run` makes of them
    room = np.empty((2 + estimates + rows + tab.c.size + _ROWS) * size + mlp_work(meta, batch), y0.dtype)
    clock, count, accepted, out = np.empty(4 + 4 * _ROWS), np.zeros(8, np.int64), np.empty(_ROWS, np.bool_), np.empty((span.saveat.size, *y0.shape), y0.dtype)
    memory = room, clock, count, accepted, out, mlp_transposed(theta, meta) if BY_TILES else np.empty(0, theta.dtype)
    worst, grid, states, keeping = _run(theta, y0, meta, tab, rule, span, atol, rtol, numbers, stages_kept, kept, memory)
    return count[STATUS], count[NFEV], worst, out, grid, states, keeping


@kernel
def _run(theta, y0, meta, tab, rule, span, atol, rtol, numbers, stages_kept, kept, memory):
    """The solve of `_flow` in its memory."""
    room, clock, count, accepted, out, transposed = borrow(memory)
    theta, y0, meta, tab, span, atol, rtol = borrow(theta), borrow(y0), borrow(meta), borrow(tab), borrow(span), borrow(atol), borrow(rtol)
    t0, limit, order, rows, estimates = numbers
    size, dtype, stages = y0.size, y0.dtype, tab.c.size
    ends = 2 + estimates, 2 + estimates + rows, 2 + estimates + rows + stages, 2 + estimates + rows + stages + _ROWS  # in rows of `size`
    nothing = part(room, 0, (0,))
    pack = theta, meta, part(room, ends[3] * size, (room.size - ends[3] * size,)), nothing, transposed
    state = State(
        part(room, 0, (size,)),
        part(room, size, (size,)),
        part(room, 2 * size, (estimates * size,)),
        part(room, ends[0] * size, (rows, size)),
        part(room, ends[1] * size, (stages, size)),
        part(clock, 0, (4,)),
        count,
    )
    clock[0], clock[1], clock[2], clock[3] = t0, 0.0, rule.start, rule.start
    state.y[:] = part(y0, 0, (size,))
    times = span.saveat
    flat = part(out, 0, (times.size, size))
    while count[SAVED] < times.size and times[count[SAVED]] == t0:
        flat[count[SAVED]] = state.y
        count[SAVED] += 1
    grid, states = np.empty(_ROWS + 1), np.empty((_ROWS + 1, size), dtype)
    steps, worst = 0, 0.0
    begin_mlp(pack, rule, span, atol, rtol, state, t0, limit, order)
    store = Store(
        part(clock, 4, (_ROWS,)),
        part(clock, 4 + _ROWS, (_ROWS,)),
        part(clock, 4 + 2 * _ROWS, (_ROWS,)),
        part(clock, 4 + 3 * _ROWS, (_ROWS,)),
        accepted,
        part(room, 0, (0, estimates * size)),
        part(room, ends[2] * size, (_ROWS, size)),
        part(room, 0, (0, 0, size)),
        flat,
    )
    s, keeping = tab.b.size, stages_kept.shape[0] > 0
    while count[STATUS] == RUNNING:
        keeping = keeping and steps < stages_kept.shape[0]
        if keeping:  # one attempt, whose stages are another's if it is rejected
            own = stages_kept[steps]
            own[0] = state.K[0]
            _advance_keeping((pack, kept[steps]), tab, rule, span, atol, rtol, state, store, 1)
            own[1:] = state.K[1:s]
        else:
            advance_mlp(pack, tab, rule, span, atol, rtol, state, store, _ROWS)
        made = count[KEPT]
        if steps + made + 1 > grid.size:
            longer, more = np.empty(2 * grid.size + made), np.empty((2 * grid.size + made, size), dtype)
            longer[:steps], more[:steps] = grid[:steps], states[:steps]
            grid, states = longer, more
        states[steps : steps + made] = store.states[:made]
        for row in range(count[ROWS]):
            if store.accepted[row]:
                grid[steps] = store.t[row]
                steps += 1
                worst = max(worst, store.error[row])
    grid[steps], states[steps] = clock[T], state.y
    return worst, grid[: steps + 1], states[: steps + 1], keeping


@kernel
def _flow_vjp(theta, bars, meta, tab, span, atol, rtol, rows, grid, states, stages_kept, kept):
    """`rows` samples at a time: (ȳ₀ (B, n), θ̄ (P,), evaluations and pullbacks, whether both cotangents are finite)."""
    batch, n = bars.shape[1], bars.shape[2]
    size, steps, dtype = batch * n, grid.size - 1, bars.dtype
    times = span.saveat
    step, fraction = np.empty(times.size, np.int64), np.empty(times.size)
    at = 0
    for k in range(times.size):
        while at < steps - 1 and span.direction * (times[k] - grid[at + 1]) > 0.0:
            at += 1
        step[k], fraction[k] = at, (times[k] - grid[at]) / (grid[at + 1] - grid[at])
    pack = mlp_packed(theta, meta, batch, np.empty(0, dtype))
    cotangents = Cotangents(step, fraction, part(bars, 0, (times.size, size)), np.zeros(steps), np.zeros(steps), np.zeros(steps))
    y_bar, theta_bar = np.zeros((batch, n), dtype), np.zeros(theta.size, dtype)
    all_samples, shared, own = np.array([0, batch]), theta_bar.reshape(1, theta.size), np.empty(0, dtype)
    known = steps if stages_kept.shape[0] > 0 else 0
    accepted = Grid(grid, states, stages_kept[:known], kept[:known])
    sizes = kept_size(meta, batch), batch, rows
    room = np.empty(mlp_tile_room(pack, tab, accepted, cotangents, sizes[0], batch, rows), dtype)
    bars_out = y_bar.reshape(size), shared, own, own.reshape(1, 0), room
    calls = mlp_tiles(pack, tab, accepted, atol, rtol, cotangents, *sizes, all_samples, range(1), *bars_out)
    bad = 0.0
    for e in range(theta_bar.size):
        bad += theta_bar[e] - theta_bar[e]
    flat = y_bar.reshape(size)
    for e in range(size):
        bad += flat[e] - flat[e]
    return y_bar, theta_bar, calls, bad == 0.0
