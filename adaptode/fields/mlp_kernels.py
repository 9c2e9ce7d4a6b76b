"""A multilayer perceptron on a batch: value, jvp, vjp, derivative in time, second order.

Rows are samples. Layer l = 1 … L, with x₀ = p(y), slopes D = σ′(z), curvatures C = σ″(z), t the time and (W, v, b) the layer's parameters
(v only where the layer sees the time):

(1)  z = x W + (b + t v),   x⁺ = σ(z)
(2)  ẋ⁺ = D ⊙ (ẋ W)                                                            x moves, parameters rest
(3)  z̄ = D ⊙ x̄⁺,   x̄ = z̄ Wᵀ,   W̄ = xᵀ z̄,   b̄ = Σ_B z̄,   v̄ = t b̄
(4)  ∇ Σ_m ⟨w_m, J u_m⟩, u and w held (`mlp_bilinear`); with ż_m = ẋ_m W, ẋ₀ₘ = p′(y) ⊙ u_m, cotangents ẋ̄⁺_m (w_m at the top) and x̄⁺ (0 at the top):
     ż̄_m = D ⊙ ẋ̄⁺_m,   z̄ = D ⊙ x̄⁺ + C ⊙ Σ_m ż_m ⊙ ẋ̄⁺_m,   ẋ̄_m = ż̄_m Wᵀ,   x̄ = z̄ Wᵀ
     W̄ = xᵀ z̄ + Σ_m ẋ_mᵀ ż̄_m,   b̄ = Σ_B z̄,   v̄ = t b̄
     and below the first layer, through p:   ȳ = p′ ⊙ x̄ + p″ ⊙ Σ_m u_m ⊙ ẋ̄₀ₘ
(5)  t̄ = Σ_l ⟨Σ_B z̄_l, v_l⟩ over the layers that see the time, with (3)'s z̄

Parameters lie flat, layer after layer: W (in, out) row by row, v (out) where present, b (out). `pack` is (theta, meta, work, shift, transposed);
meta = [L, time mode, preactivation, hidden activation, outer activation, n₀, …, n_L], work three areas of B max(n) and one of max(n),
shift (B n₁,) is added to z of the first layer, or is empty; its cotangent goes after the parameters' in theta_bar; transposed has each Wᵀ where theta has W.
"""

from __future__ import annotations

import numpy as np

from .._jit import borrow, inline, kernel, part
from ..activations import IDENTITY, SLOPE_ITSELF, activate, add_row, slopes_of, through, told_by_value
from ..products import add_outer, affine, product

LAYERS, TIME, PRE, HIDDEN, OUTER, SIZES = range(6)
TIME_NONE, TIME_FIRST, TIME_EVERY = range(3)


@inline
def _sees_time(meta, layer):
    return meta[TIME] == TIME_EVERY or (meta[TIME] == TIME_FIRST and layer == 0)


@inline
def _code(meta, layer):
    return meta[OUTER] if layer == meta[LAYERS] - 1 else meta[HIDDEN]


@inline
def _widest(meta):
    widest = 0
    for layer in range(meta[LAYERS] + 1):
        widest = max(widest, meta[SIZES + layer])
    return widest


@inline
def _matrix(flat, start, rows, columns):
    return flat[start : start + rows * columns].reshape(rows, columns)


@kernel
def _affine(t, x, theta, transposed, start, sees_time, z, room):
    """z = x W of equation (1), and b + t v added where that is free; returns the row still to be added (maybe empty) and where the next layer starts."""
    theta, transposed = borrow(theta), borrow(transposed)
    rows, columns = x.shape[1], z.shape[1]
    W, v = part(theta, start, (rows, columns)), start + rows * columns
    row, end = part(theta, v, (columns,)), v + columns
    if sees_time:
        b, end = v + columns, end + columns
        row = part(room, 0, (columns,))
        for j in range(columns):
            row[j] = theta[b + j] + t * theta[v + j]
    if affine(x, W, part(transposed, start, (columns, rows)), row, z):
        row = part(room, 0, (0,))
    return row, end


@kernel
def mlp_value(t, y, pack, out):
    """Equation (1) through all layers: out = f(t, y; θ), flat."""
    y, out, pack = borrow(y), borrow(out), borrow(pack)
    theta, meta, work, shift, transposed = pack
    layers, n = meta[LAYERS], meta[SIZES]
    batch = y.size // n
    area = batch * _widest(meta)
    room = part(work, 3 * area, (_widest(meta),))
    x = part(y, 0, (batch, n))
    if meta[PRE] != IDENTITY:
        x = part(work, area, (batch, n))
        x[:] = part(y, 0, (batch, n))
        activate(meta[PRE], part(x, 0, (1, y.size)), part(room, 0, (0,)), part(room, 0, (0,)))
    start = 0
    for layer in range(layers):
        m = meta[SIZES + layer + 1]
        z = part(out, 0, (batch, m)) if layer == layers - 1 else part(work, (layer % 2) * area, (batch, m))
        row, start = _affine(t, x, theta, transposed, start, _sees_time(meta, layer), z, room)
        if layer == 0 and shift.size > 0:
            _add(shift, part(z, 0, (z.size,)))
        code = _code(meta, layer)
        if code == IDENTITY:
            add_row(row, z)
        else:
            activate(code, z, row, part(room, 0, (0,)))
        x = z


@kernel
def mlp_value_row(t, Y, r, pack, K, i):
    """`mlp_value` of one row into another."""
    mlp_value(t, Y[r], pack, K[i])


@kernel
def mlp_linearize(t, y, pack, out, kept):
    """`mlp_value` that keeps, in this order, x₀ and p′ (with a preactivation), each hidden layer's x⁺ and D, and the last layer's D (if not 1).

    D of a hidden layer only if it is not told by x⁺. With an empty `out` only what is kept is computed.
    """
    y, out, kept, pack = borrow(y), borrow(out), borrow(kept), borrow(pack)
    theta, meta, work, shift, transposed = pack
    layers, n = meta[LAYERS], meta[SIZES]
    batch = y.size // n
    room = part(work, 3 * batch * _widest(meta), (_widest(meta),))
    x = part(y, 0, (batch, n))
    k = 0
    if meta[PRE] != IDENTITY:
        x = part(kept, 0, (batch, n))
        x[:] = part(y, 0, (batch, n))
        _activate_both(meta[PRE], part(x, 0, (1, y.size)), room[:0], part(kept, y.size, (y.size,)))
        k = 2 * y.size
    each = _kept_of(meta)
    start = 0
    for layer in range(layers):
        m = meta[SIZES + layer + 1]
        size = batch * m
        last = layer == layers - 1
        if last and out.size == 0 and meta[OUTER] == IDENTITY:
            return
        if last:
            z = part(out if out.size > 0 else work, 0, (batch, m))
        else:
            z = part(kept, k, (batch, m))
        row, start = _affine(t, x, theta, transposed, start, _sees_time(meta, layer), z, room)
        if layer == 0 and shift.size > 0:
            _add(shift, part(z, 0, (size,)))
        if not last:
            activate(meta[HIDDEN], z, row, part(kept, k + size, ((each - 1) * size,)))
            k += each * size
        elif meta[OUTER] != IDENTITY:
            _activate_both(meta[OUTER], z, row, part(kept, k, (size,)))
        else:
            add_row(row, z)
        x = z


@kernel
def _activate_both(code, z, row, slope):
    """`activate`, with σ′ of any σ."""
    activate(code, z, row, slope)
    if told_by_value(code):
        slopes_of(code, part(z, 0, (slope.size,)), slope)


@inline
def _kept_of(meta):
    """1 if x⁺ alone is kept of a hidden layer, 2 if D too."""
    return 1 if told_by_value(meta[HIDDEN]) else 2


@inline
def _kept_total(meta, batch):
    """Numbers kept before the last layer's slope."""
    total = 2 * batch * meta[SIZES] if meta[PRE] != IDENTITY else 0
    for layer in range(meta[LAYERS] - 1):
        total += _kept_of(meta) * batch * meta[SIZES + layer + 1]
    return total


@kernel
def hidden_slopes(meta, kept, first, size, out):
    """D of numbers of a hidden layer of which x⁺ is kept from `first` on: where it is kept `size` numbers after them, or else computed into out."""
    if told_by_value(meta[HIDDEN]):
        slopes_of(meta[HIDDEN], part(kept, first, (out.size,)), out)
    else:
        out[:] = part(kept, first + size, (out.size,))


@kernel
def kept_size(meta, batch):
    """How many numbers `mlp_linearize` keeps."""
    return _kept_total(meta, batch) + (batch * meta[SIZES + meta[LAYERS]] if meta[OUTER] != IDENTITY else 0)


@inline
def _parameters(meta, layer):
    """Number of parameters of one layer."""
    columns = meta[SIZES + layer + 1]
    return meta[SIZES + layer] * columns + (2 * columns if _sees_time(meta, layer) else columns)


@kernel
def _add(x, out):
    for i in range(x.size):
        out[i] += x[i]


@kernel
def _multiply(a, b, out):
    for i in range(a.size):
        out[i] = a[i] * b[i]


@kernel
def mlp_pushforward(pack, batch, kept, directions, y_dot, out):
    """Equation (2) for `directions` tangents a sample, slopes from `mlp_linearize`: y_dot and out are flat (B, directions, n)."""
    theta, meta, _, _, _ = pack
    layers, n = meta[LAYERS], meta[SIZES]
    rows = batch * directions
    x_dot = y_dot.copy().reshape(rows, n)
    k = 0
    if meta[PRE] != IDENTITY:
        _scale_rows(x_dot, _matrix(kept, batch * n, batch, n))
        k = 2 * batch * n
    start = 0
    for layer in range(layers):
        m = meta[SIZES + layer + 1]
        z_dot = np.empty((rows, m), y_dot.dtype)
        product(x_dot, _matrix(theta, start, x_dot.shape[1], m), z_dot)
        start += _parameters(meta, layer)
        if layer < layers - 1:
            slope = np.empty((batch, m), y_dot.dtype)
            hidden_slopes(meta, kept, k, batch * m, slope.reshape(batch * m))
            _scale_rows(z_dot, slope)
            k += _kept_of(meta) * batch * m
        elif meta[OUTER] != IDENTITY:
            _scale_rows(z_dot, _matrix(kept, k, batch, m))
        x_dot = z_dot
    out[:] = x_dot.reshape(out.size)


@kernel
def _scale_rows(x, slope):
    """x[b·M + m, j] *= slope[b, j]."""
    directions = x.shape[0] // slope.shape[0]
    for r in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[r, j] *= slope[r // directions, j]


@kernel
def _sum_rows(z_bar, total):
    """total = Σ_B z̄"""
    rows, columns = z_bar.shape
    if columns < 8:  # down each column, by two sums that do not wait for each other
        for j in range(columns):
            s0 = s1 = z_bar.dtype.type(0.0)
            for i in range(1, rows, 2):
                s0 += z_bar[i - 1, j]
                s1 += z_bar[i, j]
            total[j] = s0 + s1 + (z_bar[rows - 1, j] if rows % 2 == 1 else 0.0)
        return
    total[:] = 0.0
    for i in range(rows):
        for j in range(columns):
            total[j] += z_bar[i, j]


@kernel
def _layer_gradient(t, x, z_bar, total, start, sees_time, theta_bar):
    """W̄ += xᵀ z̄, and with total = Σ_B z̄   b̄ += total, v̄ += t total of equation (3)."""
    rows, columns = x.shape[1], z_bar.shape[1]
    add_outer(x, z_bar, part(theta_bar, start, (rows, columns)))
    b = start + rows * columns
    if sees_time:
        for j in range(columns):
            theta_bar[b + j] += t * total[j]
        b += columns
    for j in range(columns):
        theta_bar[b + j] += total[j]


@kernel
def mlp_pullback(t, y, pack, kept, w, y_bar, theta_bar):
    """Equation (3) from the last layer to the first, with what `mlp_linearize` kept; adds to y_bar and theta_bar."""
    y, kept, w, y_bar, theta_bar = borrow(y), borrow(kept), borrow(w), borrow(y_bar), borrow(theta_bar)
    theta, meta, work, shift, transposed = borrow(pack)
    layers, n = meta[LAYERS], meta[SIZES]
    batch = y.size // n
    area = batch * _widest(meta)
    room = part(work, 3 * area, (_widest(meta),))
    k, each = _kept_total(meta, batch), _kept_of(meta)
    end = theta.size
    columns = w.size // batch
    z_bar = part(w, 0, (batch, columns))
    if meta[OUTER] != IDENTITY:
        z_bar = part(work, 2 * area, (batch, columns))
        z_bar[:] = part(w, 0, (batch, columns))
        through(SLOPE_ITSELF, z_bar, part(kept, k, (batch, columns)), part(room, 0, (columns,)))
    else:
        _sum_rows(z_bar, part(room, 0, (columns,)))
    for layer in range(layers - 1, -1, -1):
        m, columns = meta[SIZES + layer], z_bar.shape[1]
        size = batch * m
        start = end - _parameters(meta, layer)
        if layer > 0:
            k -= each * size
            x = part(kept, k, (batch, m))
        elif meta[PRE] != IDENTITY:
            x = part(kept, 0, (batch, m))
        else:
            x = part(y, 0, (batch, m))
        _layer_gradient(t, x, z_bar, part(room, 0, (columns,)), start, _sees_time(meta, layer), theta_bar)
        if layer == 0 and shift.size > 0:
            _add(part(z_bar, 0, (shift.size,)), theta_bar[theta.size :])
        x_bar = part(work, (layer % 2) * area, (batch, m))
        affine(z_bar, part(transposed, start, (columns, m)), part(theta, start, (m, columns)), part(room, 0, (0,)), x_bar)
        if layer > 0:
            through(meta[HIDDEN], x_bar, part(kept, k + (each - 1) * size, (batch, m)), part(room, 0, (m,)))
        else:
            flat = part(x_bar, 0, (size,))
            if meta[PRE] != IDENTITY:
                for i in range(size):
                    y_bar[i] += flat[i] * kept[size + i]
            else:
                _add(flat, y_bar)
        z_bar = x_bar
        end = start


@kernel
def mlp_transposed(theta, meta):
    """A vector with Wᵀ where theta has W, layer after layer: what the transposes of a pullback multiply by."""
    out = np.empty_like(theta)
    start = 0
    for layer in range(meta[LAYERS]):
        rows, columns = meta[SIZES + layer], meta[SIZES + layer + 1]
        for i in range(rows):
            for j in range(columns):
                out[start + j * rows + i] = theta[start + i * columns + j]
        start += _parameters(meta, layer)
    return out


@kernel
def mlp_time_pullback(pack, kept, w):
    """Equation (5), with what `mlp_linearize` kept: ⟨w, ∂f/∂t⟩."""
    theta, meta, work, _, transposed = pack
    layers = meta[LAYERS]
    n = meta[SIZES + layers]
    batch = w.size // n
    area = batch * _widest(meta)
    k = _kept_total(meta, batch)
    end = theta.size
    z_bar = _matrix(w, 0, batch, n)
    if meta[OUTER] != IDENTITY:
        z_bar = _matrix(work, 2 * area, batch, n)
        _multiply(w, kept[k : k + w.size], z_bar.reshape(w.size))
    t_bar = 0.0
    for layer in range(layers - 1, -1, -1):
        m, columns = meta[SIZES + layer], z_bar.shape[1]
        start = end - _parameters(meta, layer)
        if _sees_time(meta, layer):
            v = start + m * columns
            for i in range(batch):
                for j in range(columns):
                    t_bar += z_bar[i, j] * theta[v + j]
        if layer == 0:
            break
        x_bar = _matrix(work, (layer % 2) * area, batch, m)
        product(z_bar, _matrix(transposed, start, columns, m), x_bar)
        flat = x_bar.reshape(batch * m)
        k -= _kept_of(meta) * batch * m
        slope = np.empty(batch * m, w.dtype)
        hidden_slopes(meta, kept, k, batch * m, slope)
        _multiply(flat, slope, flat)
        z_bar = x_bar
        end = start
    return t_bar


@kernel
def mlp_work(meta, batch):
    """Numbers of `work`."""
    return (3 * batch + 1) * _widest(meta)


@kernel
def mlp_packed(theta, meta, batch, shift):
    """A `pack` for `batch` samples."""
    return theta, meta, np.empty(mlp_work(meta, batch), theta.dtype), shift, mlp_transposed(theta, meta)


@kernel
def mlp_rows_room(pack, rows):
    """Numbers of the room that `mlp_rows` needs for so many samples."""
    return mlp_work(pack[1], rows)


@kernel
def mlp_rows(pack, lo, hi, room, wide_bar):
    """`pack` for samples lo … hi − 1, with a room of their own; how many cotangents of parameters all samples share, and how many are one sample's own."""
    theta, meta, _, shift, transposed = pack
    one = meta[SIZES + 1] if shift.size > 0 else 0
    return (theta, meta, room[: mlp_work(meta, hi - lo)], shift[lo * one : hi * one], transposed), theta.size, one
