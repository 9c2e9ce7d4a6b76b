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

Parameters lie flat, layer after layer: W (in, out) row by row, v (out) where present, b (out). `pack` is (theta, meta, work, shift);
meta = [L, time mode, preactivation, hidden activation, outer activation, n₀, …, n_L], work three areas of B max(n) and one of max(in·out, out),
shift (B n₁,) is added to z of the first layer, or is empty; its cotangent goes after the parameters' in theta_bar.
"""

from __future__ import annotations

import numpy as np

from .._jit import inline, kernel
from ..activations import IDENTITY, activate

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
    return meta[SIZES : SIZES + meta[LAYERS] + 1].max()


@inline
def _largest(meta):
    """Size of the last area of `work`."""
    largest = _widest(meta)
    for layer in range(meta[LAYERS]):
        largest = max(largest, meta[SIZES + layer] * meta[SIZES + layer + 1])
    return largest


@inline
def _matrix(flat, start, rows, columns):
    return flat[start : start + rows * columns].reshape(rows, columns)


@kernel
def _affine(t, x, theta, start, sees_time, z):
    """z = x W + (b + t v), equation (1); returns where the next layer's parameters start."""
    rows, columns = x.shape[1], z.shape[1]
    np.dot(x, _matrix(theta, start, rows, columns), z)
    v = start + rows * columns
    b = v + columns if sees_time else v
    shift = theta[b : b + columns].copy()
    if sees_time:
        for j in range(columns):
            shift[j] += t * theta[v + j]
    for i in range(z.shape[0]):
        for j in range(columns):
            z[i, j] += shift[j]
    return b + columns


@kernel
def mlp_value(t, y, pack, out):
    """Equation (1) through all layers: out = f(t, y; θ), flat."""
    theta, meta, work, shift = pack
    layers, n = meta[LAYERS], meta[SIZES]
    batch = y.size // n
    area = batch * _widest(meta)
    slope = work[2 * area : 3 * area]
    x = _matrix(y, 0, batch, n)
    if meta[PRE] != IDENTITY:
        x = _matrix(work, area, batch, n)
        activate(meta[PRE], y, x.reshape(x.size), slope)
    start = 0
    for layer in range(layers):
        m = meta[SIZES + layer + 1]
        z = _matrix(out, 0, batch, m) if layer == layers - 1 else _matrix(work, (layer % 2) * area, batch, m)
        start = _affine(t, x, theta, start, _sees_time(meta, layer), z)
        if layer == 0 and shift.size > 0:
            _add(shift, z.reshape(z.size))
        code = _code(meta, layer)
        if code != IDENTITY:
            flat = z.reshape(z.size)
            activate(code, flat, flat, slope)
        x = z


@kernel
def mlp_value_row(t, Y, r, pack, K, i):
    """`mlp_value` of one row into another."""
    mlp_value(t, Y[r], pack, K[i])


@kernel
def mlp_linearize(t, y, pack, out, kept):
    """`mlp_value` that keeps, in this order, x₀ and p′ (with a preactivation), each hidden layer's x⁺ and D, and the last layer's D (if not 1).

    With an empty `out` only what is kept is computed.
    """
    theta, meta, work, shift = pack
    layers, n = meta[LAYERS], meta[SIZES]
    batch = y.size // n
    x = _matrix(y, 0, batch, n)
    k = 0
    if meta[PRE] != IDENTITY:
        x = _matrix(kept, 0, batch, n)
        activate(meta[PRE], y, kept[: y.size], kept[y.size : 2 * y.size])
        k = 2 * y.size
    start = 0
    for layer in range(layers):
        size = batch * meta[SIZES + layer + 1]
        last = layer == layers - 1
        if last and out.size == 0 and meta[OUTER] == IDENTITY:
            return
        if last:
            z = _matrix(out if out.size > 0 else work, 0, batch, size // batch)
        else:
            z = _matrix(kept, k, batch, size // batch)
        start = _affine(t, x, theta, start, _sees_time(meta, layer), z)
        flat = z.reshape(size)
        if layer == 0 and shift.size > 0:
            _add(shift, flat)
        if not last:
            activate(meta[HIDDEN], flat, flat, kept[k + size : k + 2 * size])
            k += 2 * size
        elif meta[OUTER] != IDENTITY:
            activate(meta[OUTER], flat, flat, kept[k : k + size])
        x = z


@inline
def _kept_total(meta, batch):
    """Numbers kept before the last layer's slope."""
    total = 2 * batch * meta[SIZES] if meta[PRE] != IDENTITY else 0
    for layer in range(meta[LAYERS] - 1):
        total += 2 * batch * meta[SIZES + layer + 1]
    return total


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
    theta, meta, _, _ = pack
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
        np.dot(x_dot, _matrix(theta, start, x_dot.shape[1], m), z_dot)
        start += _parameters(meta, layer)
        if layer < layers - 1:
            _scale_rows(z_dot, _matrix(kept, k + batch * m, batch, m))
            k += 2 * batch * m
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
def _layer_gradient(t, x, z_bar, start, sees_time, weights, theta_bar):
    """W̄ += xᵀ z̄, b̄ += Σ_B z̄, v̄ += t Σ_B z̄ of equation (3); `weights` is scratch of in·out."""
    rows, columns = x.shape[1], z_bar.shape[1]
    product = _matrix(weights, 0, rows, columns)
    np.dot(x.T, z_bar, product)
    size = rows * columns
    for i in range(size):
        theta_bar[start + i] += weights[i]
    total = weights[:columns]
    total[:] = 0.0
    for i in range(z_bar.shape[0]):
        for j in range(columns):
            total[j] += z_bar[i, j]
    b = start + size
    if sees_time:
        for j in range(columns):
            theta_bar[b + j] += t * total[j]
        b += columns
    for j in range(columns):
        theta_bar[b + j] += total[j]


@kernel
def mlp_pullback(t, y, pack, kept, w, y_bar, theta_bar):
    """Equation (3) from the last layer to the first, with what `mlp_linearize` kept; adds to y_bar and theta_bar."""
    theta, meta, work, shift = pack
    layers, n = meta[LAYERS], meta[SIZES]
    batch = y.size // n
    area = batch * _widest(meta)
    weights = work[3 * area :]
    k = _kept_total(meta, batch)
    end = theta.size
    z_bar = _matrix(w, 0, batch, w.size // batch)
    if meta[OUTER] != IDENTITY:
        z_bar = _matrix(work, 2 * area, batch, w.size // batch)
        _multiply(w, kept[k : k + w.size], z_bar.reshape(w.size))
    for layer in range(layers - 1, -1, -1):
        m = meta[SIZES + layer]
        size = batch * m
        start = end - _parameters(meta, layer)
        if layer > 0:
            k -= 2 * size
            x = _matrix(kept, k, batch, m)
        elif meta[PRE] != IDENTITY:
            x = _matrix(kept, 0, batch, m)
        else:
            x = _matrix(y, 0, batch, m)
        _layer_gradient(t, x, z_bar, start, _sees_time(meta, layer), weights, theta_bar)
        if layer == 0 and shift.size > 0:
            _add(z_bar.reshape(shift.size), theta_bar[theta.size :])
        x_bar = _matrix(work, (layer % 2) * area, batch, m)
        np.dot(z_bar, _matrix(theta, start, m, z_bar.shape[1]).T, x_bar)
        flat = x_bar.reshape(size)
        if layer > 0:
            _multiply(flat, kept[k + size : k + 2 * size], flat)
        elif meta[PRE] != IDENTITY:
            for i in range(size):
                y_bar[i] += flat[i] * kept[size + i]
        else:
            for i in range(size):
                y_bar[i] += flat[i]
        z_bar = x_bar
        end = start


@kernel
def mlp_time_pullback(pack, kept, w):
    """Equation (5), with what `mlp_linearize` kept: ⟨w, ∂f/∂t⟩."""
    theta, meta, work, _ = pack
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
        np.dot(z_bar, _matrix(theta, start, m, columns).T, x_bar)
        flat = x_bar.reshape(batch * m)
        k -= 2 * batch * m
        _multiply(flat, kept[k + batch * m : k + 2 * batch * m], flat)
        z_bar = x_bar
        end = start
    return t_bar
