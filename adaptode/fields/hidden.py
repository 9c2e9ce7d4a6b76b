"""An MLP with a linear last layer in the coordinates of its last hidden layer: the same solve with smaller products.

Rows are samples. Let x = x_{L−1}(t, y) be the last hidden layer, x̂ = [x, t, 1] and Ŵ = [W_L; v_L; b_L] its (m, n) weights (t and v_L where that layer sees the
time). The field is x̂ Ŵ, so that

(1)  y(t) = y₀ + α(t) Ŵ,   α′ = x̂,   α(t₀) = 0
(2)  and the first layer sees   y W₁ = z₀ + α M,   z₀ = y₀ W₁,   M = Ŵ W₁

α has m components where y has n. A Runge–Kutta step commutes with linear maps of the state, so its stages, error vector and continuous extension are those
of α times Ŵ: the same numbers but for rounding. The norms of y are taken by `adaptode.lifted`.

The parameters of the small system are [M, v₁, b₁], then layers 2 … L − 1 as they lie in the MLP's, then z₀, an additive parameter of each sample. With
their cotangents M̄, z̄₀ summed over all stages, and outputs y_k = y₀ + α_k Ŵ:

(3)  ᾱ_k = ȳ_k Ŵᵀ
(4)  W̄₁ = y₀ᵀ z̄₀ + Ŵᵀ M̄,   Ŵ̄ = M̄ W₁ᵀ + Σ_k α_kᵀ ȳ_k,   ȳ₀ = z̄₀ W₁ᵀ + Σ_k ȳ_k

Their cotangents lie as they do. Those of Ŵ and of y₀ that the norms of a step bring are added to the `Lift`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .._jit import inline, kernel
from ..activations import IDENTITY
from ..householder import triangle
from ..products import BLOCK_ROWS, Factors, add_matrix_product, cuts, matrix_product, prepared, product
from ..room import Room, empty, zeros
from ..threads import how_many, together
from . import mlp_kernels as kernels
from .mlp import MLP, mlp_pack
from .mlp_kernels import mlp_linearize, mlp_pullback, mlp_rows, mlp_time_pullback, mlp_value, mlp_work
from .protocol import Array, Bound

LIFT_ROWS = BLOCK_ROWS // 2  # lifted at a time; a multiple of four, as the running sums of a norm ask


class Lift(NamedTuple):
    """Equation (1) for compiled code: base y₀ (B, n), weights Ŵ (m, n), factor L (m, min(m, n)) of Ŵ = L Q; and room for what `adaptode.lifted` works on.

    panels           Ŵ as it is multiplied by, of `products.prepared`

    at 2 (B m,)      α of the two states lifted last       states 2 (B n,)   they themselves; `newest` (1,) is the number of the newer
    err, pair        2 LIFT_ROWS rows of lifted error vectors and states, and of them in hidden coordinates
    sums (2, T, 10)  of every LIFT_ROWS rows, sums of squares of which norms are made: of this attempt and of the one before
    place (4,)       number of the first of these rows; all rows there are; how many threads work on them, and how often they have met, by `counter` (1,)
    weights_bar (m n,), base_bar (B n,)   where a norm's transpose adds the cotangents of Ŵ and of y₀, of which it needs the first; or empty
    """

    base: Array
    weights: Array
    panels: Array
    factor: Array
    at: tuple[Array, Array]
    states: tuple[Array, Array]
    newest: Array
    err: Array
    pair: Array
    sums: Array
    place: Array
    counter: Array
    weights_bar: Array
    base_bar: Array


FIRST, ALL, PARTIES, MEETINGS = range(4)  # of `place`


@kernel
def lift_size(n, m):
    """Numbers of `err` and `pair`."""
    return 2 * LIFT_ROWS * (n + m)


def new_lift(base: Array, weights: Array, factor: Array, stepped: bool, opened: bool) -> Lift:
    """For all rows, by one thread. stepped: with room for norms;  opened: for their transpose, which needs no states."""
    (batch, n), (m, dtype), rows = base.shape, (len(weights), base.dtype), len(base) * stepped
    some_rows = 2 * LIFT_ROWS * (stepped or opened)
    at, states = ((empty(rows * size, dtype), empty(rows * size, dtype)) for size in (m, n))
    for a in at:
        a[:] = np.nan  # no state is lifted yet
    room, tiles, nothing = Room(some_rows * (n + m), dtype), -(-batch // LIFT_ROWS), np.empty(0, dtype)
    some = np.zeros(1, np.int64), room.take(some_rows * n), room.take(some_rows * m), np.empty((2, tiles, 10))
    panels = prepared(weights) if stepped or opened else np.empty(0, dtype)
    return Lift(base, weights, panels, factor, at, states, *some, np.array([0, batch, 1, 0]), np.zeros(1, np.int64), nothing, nothing)


def shared_lift(lift: Lift, lo: int, hi: int, parties: int, room: Room) -> Lift:
    """For rows lo … hi − 1, a thread's part of all; lo is a multiple of LIFT_ROWS."""
    m, n = lift.weights.shape
    at, states = tuple(a[lo * m : hi * m] for a in lift.at), tuple(y[lo * n : hi * n] for y in lift.states)
    own = {"newest": lift.newest.copy(), "err": room.take(2 * LIFT_ROWS * n), "pair": room.take(2 * LIFT_ROWS * m)}
    place = np.array([lo // LIFT_ROWS, len(lift.base), parties, 0])
    return lift._replace(base=lift.base[lo:hi], at=at, states=states, place=place, **own)


@inline
def _width(meta):
    return meta[kernels.SIZES + meta[kernels.LAYERS]]


@kernel
def _spread(t, x, width, out):
    """out = [x, t, 1] or [x, 1], row by row."""
    batch = x.size // width
    rows, wide = x.reshape(batch, width), out.reshape(batch, out.size // batch)
    m = wide.shape[1]
    for b in range(batch):
        for j in range(width):
            wide[b, j] = rows[b, j]
        if m == width + 2:
            wide[b, width] = t
        wide[b, m - 1] = 1.0


@kernel
def _narrow(w, width, x):
    """The columns of w that are x's; returns the sum over those of t, or 0."""
    batch = x.size // width
    rows, wide = x.reshape(batch, width), w.reshape(batch, w.size // batch)
    of_time = 0.0
    for b in range(batch):
        for j in range(width):
            rows[b, j] = wide[b, j]
        if wide.shape[1] == width + 2:
            of_time += wide[b, width]
    return of_time


@kernel
def hidden_value(t, a, pack, out):
    """x̂ at the state α = a, flat (B m,)."""
    inner, x, _ = pack
    mlp_value(t, a, inner, x)
    _spread(t, x, _width(inner[1]), out)


@kernel
def hidden_value_row(t, Y, r, pack, K, i):
    """`hidden_value` of one row into another."""
    hidden_value(t, Y[r], pack, K[i])


@kernel
def hidden_linearize(t, a, pack, out, kept):
    """`hidden_value` that keeps what its transpose needs; with an empty `out` only that."""
    inner, x, _ = pack
    mlp_linearize(t, a, inner, x, kept)
    if out.size > 0:
        _spread(t, x, _width(inner[1]), out)


@kernel
def hidden_pullback(t, a, pack, kept, w, a_bar, theta_bar):
    """Adds to a_bar (B m,) and to theta_bar, the cotangents of the small system's parameters and of z₀."""
    inner, x, _ = pack
    _narrow(w, _width(inner[1]), x)
    mlp_pullback(t, a, inner, kept, x, a_bar, theta_bar)


@kernel
def hidden_time_pullback(pack, kept, w):
    """⟨w, ∂x̂/∂t⟩, with what `hidden_linearize` kept."""
    inner, x, _ = pack
    of_time = _narrow(w, _width(inner[1]), x)
    return of_time + mlp_time_pullback(inner, kept, x)


@kernel
def hidden_rows_room(pack, rows):
    """As `mlp_rows_room`."""
    inner, _, lift = pack
    m, n = lift.weights.shape
    return mlp_work(inner[1], rows) + rows * _width(inner[1]) + lift_size(n, m)


@kernel
def hidden_rows(pack, lo, hi, room, wide_bar):
    """As `mlp_rows`, for the small system; wide_bar is `Lift.weights_bar` of these samples."""
    inner, _, lift = pack
    (m, n), width = lift.weights.shape, _width(inner[1])
    a = mlp_work(inner[1], hi - lo)
    b = a + (hi - lo) * width
    c = b + 2 * LIFT_ROWS * n
    own, shared, one = mlp_rows(inner, lo, hi, room[:a], wide_bar)
    base_bar = lift.base_bar[lo * n : hi * n] if lift.base_bar.size > 0 else lift.base_bar
    scratch = room[b:c], room[c : c + 2 * LIFT_ROWS * m]
    rows = Lift(
        lift.base[lo:hi],
        lift.weights,
        lift.panels,
        lift.factor,
        lift.at,
        lift.states,
        lift.newest,
        *scratch,
        lift.sums,
        lift.place,
        lift.counter,
        wide_bar,
        base_bar,
    )
    return (own, room[a:b], rows), shared, one


def norm_bars(bound: Bound) -> tuple[Array, Array]:
    """The cotangents of Ŵ and of y₀ that the transposes of norms have added up in a bound small system; empty where it was not opened for them."""
    lift = bound.pack[2]
    return lift.weights_bar, lift.base_bar


class HiddenCoordinates:
    """The small system of one MLP, one vector of its parameters and a start y₀ (B, n).

    shape (B, m) of its states         n_params    length of its vector of cotangents
    """

    def __init__(self, field: MLP, theta: Array, base: Array) -> None:
        batch, n = base.shape
        self.field, self.base = field, np.ascontiguousarray(base)
        self._second = n * field.sizes[1]  # where in theta the first layer's v and b begin
        self._last = field.n_params - hidden_size(field) * n
        self.W1, self.weights = theta[: self._second].reshape(n, -1), theta[self._last :].reshape(-1, n)
        self.shape = batch, len(self.weights)
        self._inner = empty(self.shape[1] * field.sizes[1] + self._last - self._second, base.dtype)
        mixing = self._inner[: self.shape[1] * field.sizes[1]].reshape(self.shape[1], -1)
        self._inner[mixing.size :] = theta[self._second : self._last]
        code, time = (int(field.meta[i]) for i in (kernels.HIDDEN, kernels.TIME))
        meta = np.array([len(field.sizes) - 2, time, IDENTITY, code, code, self.shape[1], *field.sizes[1:-1]])
        self._meta, shift = meta, empty((batch, field.sizes[1]), base.dtype)
        self._shift, self._factor = shift.ravel(), base[:0]

        def of_weights() -> None:
            product(self.weights, self.W1, mixing)
            self._factor = triangle(self.weights)

        parties = how_many(2 * base.size * field.sizes[1], 1 + batch // BLOCK_ROWS)
        rows = pairwise(cuts(batch, max(1, parties - 1)))  # for one thread the weights are as much work
        tasks = [of_weights, *(partial(product, self.base[lo:hi], self.W1, shift[lo:hi]) for lo, hi in rows)]
        if parties > 1:
            together(tasks)
        else:
            for task in tasks:
                task()
        self.n_params = self._inner.size + batch * field.sizes[1]

    def at(self, base: Array) -> HiddenCoordinates:
        """Those of the same parameters that begin at other states (B, n)."""
        other = copy.copy(self)
        other.base = np.ascontiguousarray(base)
        other._shift = matrix_product(other.base, other.W1).ravel()
        return other

    @property
    def size(self) -> int:
        """B m."""
        return self.shape[0] * self.shape[1]

    def bind(self, stepped: bool = True, opened: bool = False, start: bool = True) -> Bound:
        """The functions of the small system; buffers inside belong to this one use.

        stepped: for norms;  opened: for their transpose;  start: and for its part in ȳ₀
        """
        dtype, batch = self.base.dtype, self.shape[0]
        pack, kept = mlp_pack(self._inner, self._meta, batch, dtype, self._shift)
        room = empty(batch * self.field.sizes[-2], dtype)
        functions, lift = (hidden_value, hidden_linearize, hidden_pullback), new_lift(self.base, self.weights, self._factor, stepped, opened)
        if opened:
            lift = lift._replace(weights_bar=zeros(self.weights.size, dtype), base_bar=zeros(self.base.size * start, dtype))
        return Bound("hidden", *functions, (pack, room, lift), kept, owner=self, time_pullback=hidden_time_pullback)

    def direction(self, alpha: Array) -> Array:
        """α Ŵ: what a stage, a slope or an error of the small system is in y, (…, B, n)."""
        rows = matrix_product(alpha.reshape(-1, self.shape[1]), self.weights)
        return rows.reshape(*alpha.shape[:-1], *self.base.shape)

    def state(self, alpha: Array) -> Array:
        """y₀ + α Ŵ of flat α (…, B m): (…, B, n)."""
        out = self.direction(alpha)
        out += self.base
        return out

    def pull_output(self, y_bar: Array | Factors) -> Array:
        """Equation (3): ᾱ (B m,) of cotangents (B, n)."""
        if isinstance(y_bar, Factors):  # (l r) Ŵᵀ = l (Ŵ rᵀ)ᵀ
            return matrix_product(y_bar.left, matrix_product(self.weights, y_bar.right.T).T).ravel()
        return matrix_product(y_bar, self.weights.T).ravel()

    def pull(
        self, bar: Array, alpha: Array, y_bar: Sequence[Array | Factors], bound: Bound, start: bool = True
    ) -> tuple[Array | None, Array]:
        """Equation (4): (ȳ₀ (B, n), θ̄ (P,)) of a vector of cotangents (n_params,), and of outputs at α (k, B m) with cotangents (B, n) each.

        bound: what the steps were pulled back by, for its `norm_bars`;  start: False leaves out ȳ₀, and with it a wide product
        """
        theta_bar = zeros(self.field.n_params, self.base.dtype)
        mixing, rows = self.shape[1] * self.W1.shape[1], self.shape[0]
        z0 = self._inner.size
        M_bar, z0_bar = bar[:mixing].reshape(self.shape[1], -1), bar[z0:].reshape(rows, -1)
        W1_bar, weights_bar = theta_bar[: self._second].reshape(self.W1.shape), theta_bar[self._last :].reshape(self.weights.shape)
        W1_transposed = empty(self.W1.shape[::-1], self.base.dtype)
        W1_transposed[...] = self.W1.T
        add_matrix_product(self.base, z0_bar, W1_bar)
        add_matrix_product(self.weights, M_bar, W1_bar)
        theta_bar[self._second : self._last] = bar[mixing:z0]
        product(M_bar, W1_transposed, weights_bar)
        of_weights, of_base = norm_bars(bound)
        if of_weights.size:
            weights_bar += of_weights.reshape(self.weights.shape)
        for a, out_bar in zip(alpha, y_bar, strict=True):
            a = a.reshape(self.shape)
            if isinstance(out_bar, Factors):
                weights_bar += matrix_product(matrix_product(a.T, out_bar.left), out_bar.right)
            else:
                add_matrix_product(a, out_bar, weights_bar)
        if not start:
            return None, theta_bar
        y0_bar = matrix_product(z0_bar, W1_transposed)
        if of_base.size:
            y0_bar += of_base.reshape(self.base.shape)
        for out_bar in y_bar:
            y0_bar += np.asarray(out_bar)
        return y0_bar, theta_bar


def hidden_size(field: MLP) -> int:
    """m: the width of the last hidden layer, one more for its shift, and one more where the last layer sees the time."""
    return field.sizes[-2] + 1 + (field.time == "every")


def has_hidden(field: Any) -> bool:
    """True for an MLP with a hidden layer, a linear last one, and its first on the state itself."""
    return isinstance(field, MLP) and len(field.sizes) > 2 and field.outer == field.preactivation == "identity"


def hidden_pays(field: Any, stages: int) -> bool:
    """True where the small system takes fewer multiplications a step: its stages' products and two lifts, against the products with n."""
    if not has_hidden(field):
        return False
    n, m, first, last = field.n, hidden_size(field), field.sizes[1], field.sizes[-2]
    return (stages - 1) * m * first + 2 * m * n < 0.75 * (stages - 1) * n * (first + last)
