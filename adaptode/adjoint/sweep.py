"""The way home, compiled: the transposes of some accepted steps, one after the other.

On a given grid samples see each other in nothing but the norms of a step. So where no norm has a cotangent, all steps are walked with some samples, then with
the next: a step's stages, which are many arrays, then stay in the cache. Cotangents of parameters are summed within a tile of samples, then tile by tile.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .._jit import borrow, dual, specialize
from ..combine import add, combine, combine_vjp, is_zero
from ..dense import dense_weights
from ..fields.hidden import hidden_linearize, hidden_pullback, hidden_rows
from ..fields.mlp_kernels import mlp_linearize, mlp_pullback, mlp_rows
from ..fields.protocol import Array, Bound
from ..fields.sockets import socket_linearize, socket_pullback, through_socket
from ..lifted import hidden_estimates_vjp
from ..step import borrowed, bound_linearize, bound_pullback, carry_vjp, estimates_vjp, linearized_stages, pullback, stages_vjp
from ..tableau import Tableau
from ..threads import how_many, together

_CACHE = 2**20  # bytes of a core's second-level cache
_LEAST = 32  # samples a tile: fewer, and products are slow
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
    """What comes in, in the order of time: outputs by step index and fraction θ of the step, (k, N); q̄ and S̄ of every step, (m,)."""

    step: Array
    fraction: Array
    output: Array
    error: Array
    stiffness: Array


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
            estimates_vjp(
                theta, tab, h, y0, y1, K, Y, atol, rtol, q_bar, stiffness_bar, err, y_bar, err_bar, y0_bar, K_bar, Y_pair_bar, theta_bar
            )
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

_ROWS = {"mlp": mlp_rows, "hidden": hidden_rows}


def tile_rows(method: Tableau, kind: str, kept: int, batch: int, size: int, dtype: Any) -> int:
    """Samples that are walked home together, of `size` numbers in all: as many as the cache holds a step of, where the field lets them be told apart."""
    if kind not in _ROWS:
        return batch
    stages = method.stages + method.extra_stages
    row = np.dtype(dtype).itemsize * (stages * (3 * size + kept) + 4 * size) / batch
    return min(batch, max(_LEAST, int(_CACHE / row) // _LEAST * _LEAST))


class Tile:
    """Some samples of a run on their way home, part by part."""

    def __init__(self, method: Tableau, bound: Bound, batch: int, size: int, lo: int, hi: int, dtype: Any) -> None:
        n, kept = size // batch, bound.kept // batch
        pack, self.shared, one = _ROWS[bound.kind](bound.pack, lo, hi)
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

    def join(self, theta_bar: Array) -> None:
        """Its cotangents of parameters, added."""
        theta_bar[: self.shared] += self.theta[: self.shared]
        theta_bar[self.own] += self.theta[self.shared :]


def rows_of(theta, lo, hi):
    """As `mlp_rows`; bound by `specialize`."""
    raise NotImplementedError


def home(theta, tab, grid, atol, rtol, cotangents, scratch, y_bar, theta_bar, first, last):
    """`sweep` of one kind of field; bound by `specialize`."""
    raise NotImplementedError


@dual
def all_tiles(theta, tab, grid, atol, rtol, cotangents, kept, batch, rows, cuts, which, y_bar, shared_bars, own_bar):
    """A whole run, as by `Tile` after `Tile`, of the samples in some groups: of group k they are cuts[k] … cuts[k + 1] − 1.

    shared_bars, own_bar: cotangents of the parameters that samples share, (groups, ·), and of those that are a sample's own
    """
    n, total, calls, dtype = y_bar.size // batch, tab.c.size, 0, y_bar.dtype
    step, fraction, output, error, stiffness = cotangents
    steps, (_, kinds, _), full, keep = grid.t.size, grid.stages.shape, rows * n, kept // batch
    room, kept_room = np.empty((3 * total + 6) * full, dtype), np.empty(total * keep * rows, dtype)  # for all tiles: new memory costs as much as a few sums
    states_room, stages_room = np.empty(steps * full, dtype), np.empty(grid.stages.shape[0] * kinds * full, dtype)
    for k in which:
        for lo in range(cuts[k], cuts[k + 1], rows):
            hi = min(lo + rows, cuts[k + 1])
            own, shared, one = rows_of(theta, lo, hi)
            a, b = lo * n, hi * n
            size = b - a
            states = states_room[: steps * size].reshape(steps, size)
            states[:] = grid.states[:, a:b]
            stages = stages_room[: grid.stages.shape[0] * kinds * size].reshape(grid.stages.shape[0], kinds, size)
            if stages.shape[0] > 0:
                stages[:] = grid.stages[:, :, a:b]
            bars = Cotangents(step, fraction, output[:, a:b].copy(), error, stiffness)
            S, pair = total * size, (3 * total + 2) * size
            scratch = Scratch(
                room[:S].reshape(total, size),
                room[S : 2 * S].reshape(total, size),
                room[2 * S : 3 * S].reshape(total, size),
                kept_room[: total * keep * (hi - lo)].reshape(total, keep * (hi - lo)),
                room[3 * S : pair].reshape(2, size),
                room[pair : pair + size],
                room[pair + size : pair + 2 * size],
                room[pair + 2 * size : pair + 3 * size],
                room[pair + 3 * size : pair + 4 * size],
            )
            bar = np.zeros(shared + one * (hi - lo), dtype)
            calls = max(calls, home(own, tab, Grid(grid.t, states, stages, grid.kept), atol, rtol, bars, scratch, y_bar[a:b], bar, True, True))
            add(bar[:shared], shared_bars[k])
            add(bar[shared:], own_bar[one * lo : one * hi])
    return calls


mlp_tiles = specialize(all_tiles, compiled=True, home=sweep_mlp, rows_of=mlp_rows)
_ALL_TILES = {
    "mlp": mlp_tiles,
    "hidden": specialize(all_tiles, compiled=True, home=_sweep_hidden, rows_of=hidden_rows),
}


def enter_all_tiles(
    bound: Bound, tab: Any, grid: Grid, atol: Array, rtol: Array, bars: Cotangents, batch: int, rows: int, y_bar: Array, theta_bar: Array
) -> int:
    """`all_tiles` by the copy that serves the field, of some groups of tiles apart, which threads share; their cotangents are added in the groups' order."""
    tiles, shared = -(-batch // rows), _ROWS[bound.kind](bound.pack, 0, 0)[1]
    groups = max(1, min(_GROUPS, tiles, _NUMBERS // shared))
    cuts = np.array([min(batch, rows * (tiles * k // groups)) for k in range(groups + 1)])
    parties = how_many(3 * batch * shared * (grid.t.size - 1) * tab.b.size, groups)
    parts, calls = np.zeros((groups, shared), y_bar.dtype), np.zeros(parties, np.int64)

    def some(thread: int) -> None:
        which, bars_out = np.arange(thread, groups, parties), (y_bar, parts, theta_bar[shared:])
        calls[thread] = _ALL_TILES[bound.kind](bound.pack, tab, grid, atol, rtol, bars, bound.kept, batch, rows, cuts, which, *bars_out)

    together([partial(some, thread) for thread in range(parties)])
    for part in parts:
        add(part, theta_bar[:shared])
    return int(calls.max())
