"""The way home, compiled: the transposes of some accepted steps, one after the other.

On a given grid samples see each other in nothing but the norms of a step. So where no norm has a cotangent, all steps are walked with some samples, then with
the next: a step's stages, which are many arrays, then stay in the cache. Cotangents of parameters are summed within a tile of samples, then tile by tile.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .._jit import borrow, dual, inline, part, specialize
from ..combine import add, combine, combine_vjp, is_zero
from ..dense import dense_weights
from ..fields.hidden import hidden_linearize, hidden_pullback, hidden_rows, hidden_rows_room
from ..fields.mlp_kernels import mlp_linearize, mlp_pullback, mlp_rows, mlp_rows_room
from ..fields.protocol import Array, Bound
from ..fields.sockets import socket_linearize, socket_pullback, through_socket
from ..lifted import hidden_estimates_vjp
from ..products import FEWEST_ROWS
from ..room import empty, zeros
from ..step import borrowed, bound_linearize, bound_pullback, carry_vjp, estimates_vjp, linearized_stages, pullback, stages_vjp
from ..tableau import Tableau
from ..threads import how_many, together

_CACHE = 2**20  # bytes of a core's second-level cache
_GROUPS = 8  # of tiles, at most, which threads can share
_NUMBERS = 2**22  # in the cotangents of all groups, at most


class Grid(NamedTuple):
    """The accepted steps: times (m + 1,), states (m + 1, N), stages (m, s, N), or none of these (0, s, N).

    kept: what the field keeps of their stages but the very first, (m, S, R), with all stages given; or nothing (0, 0, 0)
    """

    t: Array
    states: Array
    stages: Array
    kept: Array


def nothing_kept(dtype: Any) -> Array:
    """`Grid.kept` where all is computed again."""
    return np.empty((0, 0, 0), dtype)


class Cotangents(NamedTuple):
    """What comes in, in the order of time: outputs by step index and fraction θ of the step, (k, N); q̄ and S̄ of every step, (m,).

    scaled: q of every step, (m,), if it is to be taken as known, NaN if not; see `step.scaled_error_vjp`
    """

    step: Array
    fraction: Array
    output: Array
    error: Array
    stiffness: Array
    scaled: Array


class Scratch(NamedTuple):
    """Buffers of one step, S = s + extra stages: Y, K, K_bar (S, N), kept (S, R), Y_pair_bar (2, N), err, err_bar (N,) or (2 N,), y0_bar, Y_bar (N,)."""

    Y: Array
    K: Array
    K_bar: Array
    kept: Array
    Y_pair_bar: Array
    err: Array
    err_bar: Array
    y0_bar: Array
    Y_bar: Array


@dual
def sweep(theta, tab, grid, atol, rtol, cotangents, scratch, y_bar, theta_bar, first, last):
    """Walks some steps home: y_bar (N,) becomes λ at their start, theta_bar (P,) is added to; returns evaluations and pullbacks made.

    first, last: whether they begin with the run's first step, and end with its last. If not, the scratch of the steps after them is found as it was left.
    """
    theta, tab, grid, atol, rtol, cotangents = borrow(theta), borrowed(tab), borrow(grid), borrow(atol), borrow(rtol), borrow(cotangents)
    y_bar, theta_bar = borrow(y_bar), borrow(theta_bar)
    Y, K, K_bar, kept, Y_pair_bar, err, err_bar, y0_bar, Y_bar = borrow(scratch)
    s, total = tab.b.size, tab.c.size
    steps = grid.t.size - 1
    last_output = cotangents.step.size - 1
    calls = 0
    for n in range(steps - 1, -1, -1):
        t, h = grid.t[n], grid.t[n + 1] - grid.t[n]
        y0, y1 = grid.states[n], grid.states[n + 1]
        y0_bar[:] = 0.0
        err_bar[:] = 0.0
        Y_pair_bar[:] = 0.0
        final = last and n == steps - 1
        known = grid.kept.shape[0] > 0
        if known:
            kept = grid.kept[n]
        if tab.fsal and not final:  # the next step's first stage is this step's last
            K_bar[s - 1] = K_bar[0]
            if not known:
                K[s - 1] = K[0]
                kept[s - 1] = kept[0]
        else:
            K_bar[s - 1] = 0.0
        K_bar[: s - 1] = 0.0
        K_bar[s:] = 0.0
        stages = s
        while last_output >= 0 and cotangents.step[last_output] == n:
            bar = cotangents.output[last_output]
            if cotangents.fraction[last_output] == 1.0:
                add(bar, y_bar)
            elif cotangents.fraction[last_output] == 0.0:
                add(bar, y0_bar)
            else:
                combine_vjp(h, dense_weights(tab, cotangents.fraction[last_output]), total, bar, K_bar)
                add(bar, y0_bar)
                stages = total
            last_output -= 1
        q_bar, stiffness_bar = cotangents.error[n], cotangents.stiffness[n]
        opened = q_bar != 0.0 or stiffness_bar != 0.0

        # with FSAL, the very last stage of all is needed only if something depends on it
        stop = s
        if tab.fsal:
            Y[s - 1] = y1
            if not final or not (opened or stages > s or not is_zero(K_bar[s - 1])):
                stop = s - 1
        if grid.stages.shape[0] > 0:
            K[:s] = grid.stages[n]
        if known:
            if first and n == 0:
                calls += linearized_stages(theta, tab, t, h, y0, 0, 1, Y, K, kept, True)
            for i in range(1, stop):
                combine(y0, h, tab.A, i, K, i, Y, i)
        else:
            calls += linearized_stages(theta, tab, t, h, y0, 0, stop, Y, K, kept, grid.stages.shape[0] > 0)
        calls += linearized_stages(theta, tab, t, h, y0, s, stages, Y, K, kept, False)

        if opened:
            bars = q_bar, stiffness_bar, err, y_bar, err_bar, y0_bar, K_bar, Y_pair_bar
            estimates_vjp(theta, tab, h, y0, y1, K, Y, atol, rtol, cotangents.scaled[n], *bars)
        carry_vjp(tab, h, y_bar, err_bar, y0_bar, K_bar)
        calls += stages_vjp(theta, tab, t, h, Y, kept, 1, Y_pair_bar, Y_bar, y0_bar, K_bar[:stages], theta_bar)
        if not (tab.fsal and (n > 0 or not first)) and not is_zero(K_bar[0]):
            pullback(t, y0, theta, kept[0], K_bar[0], y0_bar, theta_bar)
            calls += 1
        y_bar[:] = y0_bar
    return calls


sweep_mlp = specialize(sweep, compiled=True, linearize=mlp_linearize, pullback=mlp_pullback)
_sweep_hidden = specialize(sweep, compiled=True, linearize=hidden_linearize, pullback=hidden_pullback, estimates_vjp=hidden_estimates_vjp)
_sweep_socket = specialize(sweep, compiled=True, linearize=socket_linearize, pullback=socket_pullback)
_sweep_python = specialize(sweep, compiled=False, linearize=bound_linearize, pullback=bound_pullback)


def enter(bound: Bound, *arguments: Any) -> int:
    """`sweep` by the copy that serves the field."""
    if bound.kind == "mlp":
        return sweep_mlp(bound.pack, *arguments)
    if bound.kind == "hidden":
        return _sweep_hidden(bound.pack, *arguments)
    if bound.kind == "python":
        return _sweep_python(bound, *arguments)
    return through_socket(_sweep_socket, _sweep_python, bound, *arguments)


def new_scratch(method: Tableau, size: int, kept: int, dtype: Any) -> Scratch:
    """For states of `size` numbers of which `kept` are kept a stage."""
    total = method.stages + method.extra_stages
    rows = (np.zeros((total, size), dtype) for _ in range(3))
    errors = (np.empty(method.estimates * size, dtype) for _ in range(2))
    return Scratch(*rows, np.empty((total, kept), dtype), np.empty((2, size), dtype), *errors, *(np.empty(size, dtype) for _ in range(2)))


# --- by tiles of samples ----------------------------------------------------------------------------------------------------

_ROWS, _ROWS_ROOM = {"mlp": mlp_rows, "hidden": hidden_rows}, {"mlp": mlp_rows_room, "hidden": hidden_rows_room}


def tile_rows(method: Tableau, kind: str, kept: int, batch: int, size: int, dtype: Any) -> int:
    """Samples that are walked home together, of `size` numbers in all: as many as the cache holds a step of, where the field lets them be told apart."""
    if kind not in _ROWS:
        return batch
    stages = method.stages + method.extra_stages
    row = np.dtype(dtype).itemsize * (stages * (3 * size + kept) + 4 * size) / batch
    return min(batch, max(FEWEST_ROWS, int(_CACHE / row) // FEWEST_ROWS * FEWEST_ROWS))


class Tile:
    """Some samples of a run on their way home, part by part."""

    def __init__(self, method: Tableau, bound: Bound, batch: int, size: int, lo: int, hi: int, dtype: Any) -> None:
        n, kept = size // batch, bound.kept // batch
        nothing = np.empty(0, dtype)
        room = np.empty(_ROWS_ROOM[bound.kind](bound.pack, hi - lo), dtype)
        pack, self.shared, one = _ROWS[bound.kind](bound.pack, lo, hi, room, nothing)
        self.bound = bound._replace(pack=pack)
        self.theta = np.zeros(self.shared + one * (hi - lo), dtype)
        self.numbers, self.own = slice(lo * n, hi * n), slice(self.shared + lo * one, self.shared + hi * one)
        self.scratch = new_scratch(method, (hi - lo) * n, (hi - lo) * kept, dtype)

    def back(self, tab: Any, grid: Grid, tolerances: tuple[Array, Array], bars: Cotangents, y_bar: Array, first: bool, last: bool) -> int:
        """`sweep` over some steps of the whole run, its tile of them."""
        which = self.numbers
        states, stages = (np.ascontiguousarray(x[..., which]) for x in (grid.states, grid.stages))
        bars = bars._replace(output=np.ascontiguousarray(bars.output[:, which]))
        return enter(self.bound, tab, Grid(grid.t, states, stages, grid.kept), *tolerances, bars, self.scratch, y_bar[which], self.theta, first, last)


def _groups(tiles: int, numbers: int) -> list[int]:
    """Of so many tiles, edges between the groups whose `numbers` cotangents each are added up apart."""
    groups = max(1, min(_GROUPS, tiles, _NUMBERS // numbers))
    return [tiles * k // groups for k in range(groups + 1)]


def join(tiles: list[Tile], theta_bar: Array) -> None:
    """Adds what all tiles found, in the order of `enter_all_tiles`."""
    shared = tiles[0].shared
    for a, b in pairwise(_groups(len(tiles), shared)):
        total = np.zeros(shared, theta_bar.dtype)
        for tile in tiles[a:b]:
            total += tile.theta[:shared]
            theta_bar[tile.own] += tile.theta[shared:]
        theta_bar[:shared] += total


def rows_of(theta, lo, hi, room, wide_bar):
    """As `mlp_rows`; bound by `specialize`."""
    raise NotImplementedError


def home(theta, tab, grid, atol, rtol, cotangents, scratch, y_bar, theta_bar, first, last):
    """`sweep` of one kind of field; bound by `specialize`."""
    raise NotImplementedError


def rows_room(theta, rows):
    """As `mlp_rows_room`; bound by `specialize`."""
    raise NotImplementedError


@dual
def tile_room(theta, tab, grid, cotangents, kept, batch, rows):
    """Numbers of the room that `all_tiles` needs for tiles of so many samples."""
    total, kinds, full = tab.c.size, grid.stages.shape[1], rows * (grid.states.shape[1] // batch)
    step = 3 * total + 6 + grid.t.size + grid.stages.shape[0] * kinds + cotangents.output.shape[0]
    _, shared, one = rows_of(theta, 0, 0, cotangents.output.reshape(-1)[:0], cotangents.output.reshape(-1)[:0])
    return step * full + total * (kept // batch) * rows + shared + one * rows + rows_room(theta, rows)


@inline
def _next(room, taken, shape):
    """What follows the numbers that are taken, taken too."""
    first = taken[0]
    size = 1
    for length in shape:
        size *= length
    taken[0] += size
    return part(room, first, shape)


@dual
def all_tiles(theta, tab, grid, atol, rtol, cotangents, kept, batch, rows, cuts, which, y_bar, shared_bars, own_bar, wide_bars, room):
    """A whole run, as by `Tile` after `Tile`, of the samples in some groups: of group k they are cuts[k] … cuts[k + 1] − 1.

    shared_bars, own_bar: cotangents of the parameters that samples share, (groups, ·), and of those that are a sample's own;  wide_bars (groups, ·): of what
    is shared where norms are lifted;  room: `tile_room` numbers, for one tile after the other
    """
    n, total, calls = y_bar.size // batch, tab.c.size, 0
    step, fraction, output, error, stiffness, scaled = cotangents
    steps, (has_stages, kinds, _), keep = grid.t.size, grid.stages.shape, kept // batch
    wide = atol.size // batch, rtol.size // batch  # 0 where one tolerance is all components'
    taken = np.zeros(1, np.int64)
    for k in which:
        for lo in range(cuts[k], cuts[k + 1], rows):
            hi = min(lo + rows, cuts[k + 1])
            taken[0] = 0
            own, shared, one = rows_of(theta, lo, hi, _next(room, taken, (rows_room(theta, hi - lo),)), wide_bars[k])
            a, b = lo * n, hi * n
            size = b - a
            states, stages = _next(room, taken, (steps, size)), _next(room, taken, (has_stages, kinds, size))
            states[:] = grid.states[:, a:b]
            if has_stages > 0:
                stages[:] = grid.stages[:, :, a:b]
            some = _next(room, taken, (output.shape[0], size))
            some[:] = output[:, a:b]
            bars = Cotangents(step, fraction, some, error * ((hi - lo) / batch), stiffness, scaled)
            scratch = Scratch(
                _next(room, taken, (total, size)),
                _next(room, taken, (total, size)),
                _next(room, taken, (total, size)),
                _next(room, taken, (total, keep * (hi - lo))),
                _next(room, taken, (2, size)),
                _next(room, taken, (size,)),
                _next(room, taken, (size,)),
                _next(room, taken, (size,)),
                _next(room, taken, (size,)),
            )
            tolerances = atol[lo * wide[0] : hi * wide[0]] if wide[0] > 0 else atol, rtol[lo * wide[1] : hi * wide[1]] if wide[1] > 0 else rtol
            bar = _next(room, taken, (shared + one * (hi - lo),))
            bar[:] = 0.0
            calls = max(calls, home(own, tab, Grid(grid.t, states, stages, grid.kept), *tolerances, bars, scratch, y_bar[a:b], bar, True, True))
            add(bar[:shared], shared_bars[k])
            add(bar[shared:], own_bar[one * lo : one * hi])
    return calls


_MLP = {"home": sweep_mlp, "rows_of": mlp_rows, "rows_room": mlp_rows_room}
_HIDDEN = {"home": _sweep_hidden, "rows_of": hidden_rows, "rows_room": hidden_rows_room}
mlp_tiles, mlp_tile_room = (specialize(function, compiled=True, **_MLP) for function in (all_tiles, tile_room))
_ALL_TILES = {"mlp": mlp_tiles, "hidden": specialize(all_tiles, compiled=True, **_HIDDEN)}
_TILE_ROOM = {"mlp": mlp_tile_room, "hidden": specialize(tile_room, compiled=True, **_HIDDEN)}


def enter_all_tiles(
    bound: Bound, tab: Any, grid: Grid, atol: Array, rtol: Array, bars: Cotangents, batch: int, rows: int, y_bar: Array, theta_bar: Array
) -> int:
    """`all_tiles` by the copy that serves the field, of some groups of tiles apart, which threads share; their cotangents are added in the groups' order."""
    tiles, dtype, wide_bar = -(-batch // rows), y_bar.dtype, bound.pack[2].weights_bar if bound.kind == "hidden" else y_bar[:0]
    shared = _ROWS[bound.kind](bound.pack, 0, 0, y_bar[:0], wide_bar)[1]
    edges = _groups(tiles, shared + wide_bar.size)
    groups, cuts = len(edges) - 1, np.array([min(batch, rows * edge) for edge in edges])
    parties = how_many(3 * batch * shared * (grid.t.size - 1) * tab.b.size, groups)
    sums, calls = zeros(groups * (shared + wide_bar.size), dtype, scratch=True), np.zeros(parties, np.int64)
    parts, wide_parts = sums[: groups * shared].reshape(groups, shared), sums[groups * shared :].reshape(groups, -1)
    numbers = _TILE_ROOM[bound.kind](bound.pack, tab, grid, bars, bound.kept, batch, rows)
    rooms = [empty(numbers, dtype, scratch=True) for _ in range(parties)]

    def some(thread: int) -> None:
        which, out = np.arange(thread, groups, parties), (y_bar, parts, theta_bar[shared:], wide_parts, rooms[thread])
        calls[thread] = _ALL_TILES[bound.kind](bound.pack, tab, grid, atol, rtol, bars, bound.kept, batch, rows, cuts, which, *out)

    together([partial(some, thread) for thread in range(parties)])
    for k in range(groups):
        add(parts[k], theta_bar[:shared])
        add(wide_parts[k], wide_bar)
    return int(calls.max())
