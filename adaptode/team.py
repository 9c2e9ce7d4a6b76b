"""A solve in hidden coordinates by several threads, each with some of the rows.

Each runs the whole loop on its own rows. All see the same norms, for they meet once an attempt to add them up (`lifted.hidden_measure`), and so do the same.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from .fields.hidden import MEETINGS, hidden_rows, hidden_rows_room, lift_size, shared_lift
from .fields.protocol import Array, Bound
from .loop import KEPT, ROWS, SAVED, State, Store, advance_hidden
from .products import BLOCK_ROWS, cuts
from .room import Room
from .tableau import Tableau
from .threads import how_many, together

_GIVEN_UP = -(2**62)


class Team:
    """The parts of one solve; `enter` is `advance`."""

    def __init__(self, bound: Bound, state: State, parties: int) -> None:
        lift = bound.pack[2]
        self.counter = lift.counter
        bounds = list(pairwise(cuts(len(lift.base), parties)))
        lifts = parties * lift_size(*lift.weights.shape[::-1])
        room = Room(sum(a.size for a in state[:5]) + lifts + sum(hidden_rows_room(bound.pack, hi - lo) for lo, hi in bounds), state.y.dtype)
        self.parts = [_Part(bound.pack, lo, hi, state, parties, room) for lo, hi in bounds]

    def enter(self, tab: Any, rule: Any, span: Any, atol: Array, rtol: Array, state: State, store: Store, budget: int) -> None:
        """At most `budget` attempts."""
        self.counter[0] = 0
        saved = int(state.count[SAVED])
        for part in self.parts:
            part.begin(state, store)
        tasks = [partial(part.advance, tab, rule, span, atol, rtol, budget) for part in self.parts]
        together(tasks, give_up=partial(self.counter.fill, _GIVEN_UP))
        for part in self.parts:
            part.end(state, store, saved)


class _Part:
    """Rows lo … hi − 1."""

    def __init__(self, pack: Any, lo: int, hi: int, state: State, parties: int, room: Room) -> None:
        lift = pack[2]
        inner, x, _ = hidden_rows(pack, lo, hi, room.take(hidden_rows_room(pack, hi - lo)), lift.weights_bar)[0]
        self.pack = inner, x, shared_lift(lift, lo, hi, parties, room)
        (batch, n), m = lift.base.shape, len(lift.weights)
        self.numbers, self.components, self.all = slice(lo * m, hi * m), slice(lo * n, hi * n), batch * m
        arrays = [room.take(*a.shape[:-1], a.shape[-1] // self.all * (hi - lo) * m) for a in state[:5]]
        self.state = State(*arrays, state.clock.copy(), state.count.copy())
        self.store: Store = None  # type: ignore[assignment]

    def begin(self, state: State, store: Store) -> None:
        """Takes what its rows begin with."""
        own, which = self.state, self.numbers
        own.y[:], own.K[0], own.clock[:], own.count[:] = state.y[which], state.K[0, which], state.clock, state.count
        self.pack[2].place[MEETINGS] = 0
        if self.store is None or len(self.store.t) != len(store.t):
            log = [np.empty_like(column) for column in store[:5]]
            self.store = Store(*log, *(np.empty((*a.shape[:-1], own.y.size), a.dtype) for a in store[5:]))

    def advance(self, tab: Any, rule: Any, span: Any, atol: Array, rtol: Array, budget: int) -> None:
        """As in `loop`."""
        tolerances = (x if x.size == 1 else x[self.components] for x in (atol, rtol))
        advance_hidden(self.pack, tab, rule, span, *tolerances, self.state, self.store, budget)

    def end(self, state: State, store: Store, saved: int) -> None:
        """Gives back what its rows have come to; the log is every part's."""
        own, which = self.state, self.numbers
        state.y[which], state.K[0, which], state.clock[:], state.count[:] = own.y, own.K[0], own.clock, own.count
        rows, kept = own.count[ROWS], own.count[KEPT]
        for column, mine in zip(store[:5], self.store, strict=False):
            column[:rows] = mine[:rows]
        if store.states.size:
            store.states[:kept, which] = self.store.states[:kept]
        if store.stages.size:
            store.stages[:kept, :, which] = self.store.stages[:kept]
        store.out[saved : own.count[SAVED], which] = self.store.out[saved : own.count[SAVED]]


def team_of(bound: Bound, state: State, method: Tableau) -> Team | None:
    """None where one thread does, and where there are no rows to divide."""
    if bound.kind != "hidden":
        return None
    inner, _, lift = bound.pack
    batch = len(lift.base)
    attempt = 2 * batch * lift.weights.size + (method.stages - 1) * batch * inner[0].size
    parties = how_many(attempt, batch // BLOCK_ROWS)
    return Team(bound, state, parties) if parties > 1 else None
