"""A multilayer perceptron on a batch: value, jvp, vjp, derivative in time, second order.

Rows are samples. Layer l = 1 … L, with x₀ = p(y), slopes D = σ′(z), curvatures C = σ″(z), t the time and (W, v, b) the layer's parameters
(v only where the layer sees the time):

(1)  z = x W + (b + t v),   x⁺ = σ(z)
(2)  ẋ⁺ = D ⊙ (ẋ W)                                                            x moves, parameters rest
(3)  z̄ = D ⊙ x̄⁺,   x̄ = z̄ Wᵀ,   W̄ = xᵀ z̄,   b̄ = Σ_B z̄,   v̄ = t b̄
(4)  ∇ Σ_m ⟨w_m, J u_m⟩, u and w held; with ż_m = ẋ_m W, ẋ₀ₘ = p′(y) ⊙ u_m, cotangents ẋ̄⁺_m (w_m at the top) and x̄⁺ (0 at the top):
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
from ..activations import IDENTITY, activate, curvature

LAYERS, TIME, PRE, HIDDEN, OUTER, SIZES = range(6)
TIME_NONE, TIME_FIRST, TIME_EVERY = range(3)
_ROWS = 256  # tangents that go through the layers at a time in `mlp_bilinear`


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


@kernel
def mlp_bilinear(t, y, pack, directions, u, w, y_bar, theta_bar):
    """Equation (4): adds the gradient of Σ_b Σ_m ⟨w_bm, J_b u_bm⟩; u and w are flat (B, directions, n).

    u may be flat (directions, n), the same for all samples, where there is no preactivation: the first product is then made once. Samples go through the
    layers some at a time, so that what they keep stays in the cache.
    """
    theta, meta, _, _ = pack
    n, m = meta[SIZES], meta[SIZES + 1]
    batch = y.size // n
    shared = u.size < w.size
    group = max(1, _ROWS // directions)
    first, first_bar = np.empty((directions if shared else 0, m), y.dtype), np.zeros((directions if shared else 0, m), y.dtype)
    if shared:
        np.dot(_matrix(u, 0, directions, n), _matrix(theta, 0, n, m), first)
    for a in range(0, batch, group):
        lo, hi = a * n, min(a + group, batch) * n
        own = u if shared else u[lo * directions : hi * directions]
        _bilinear_group(t, y[lo:hi], pack, directions, own, w[lo * directions : hi * directions], first, first_bar, y_bar[lo:hi], theta_bar)
    if shared:
        W_bar = np.dot(_matrix(u, 0, directions, n).T, first_bar)
        for i in range(n * m):
            theta_bar[i] += W_bar[i // m, i % m]


@kernel
def _bilinear_group(t, y, pack, directions, u, w, first, first_bar, y_bar, theta_bar):
    """Equation (4) for some samples; where u is shared, with first = u W₁ of all of them, and Σ_b ż̄ of the first layer added to first_bar."""
    theta, meta, work, _ = pack
    layers, n = meta[LAYERS], meta[SIZES]
    batch = y.size // n
    rows = batch * directions
    shared = first.size > 0
    weights = work[work.size - _largest(meta) :]
    widths = 0
    for layer in range(layers + 1):
        widths += meta[SIZES + layer]
    x, slope, curve = np.empty(batch * widths, y.dtype), np.ones(batch * widths, y.dtype), np.zeros(batch * widths, y.dtype)
    x_dot, z_dot = np.empty(rows * widths, y.dtype), np.empty(rows * widths, y.dtype)

    # forward: x, slopes and curvatures of every layer (layer 0 is the preactivation), and both tangents
    size, z_size = batch * n, rows * n
    x[:size] = y
    if meta[PRE] != IDENTITY:
        activate(meta[PRE], y, x[:size], slope[:size])
        curvature(meta[PRE], y, x[:size], slope[:size], curve[:size])
    if not shared:
        z_dot[:z_size] = u
        _scaled_rows(_matrix(z_dot, 0, rows, n), _matrix(slope, 0, batch, n), _matrix(x_dot, 0, rows, n))
    a, start, before = 0, 0, n
    for layer in range(layers):
        m = meta[SIZES + layer + 1]
        c = a + before
        z = np.empty((batch, m), y.dtype)
        next_start = _affine(t, _matrix(x, batch * a, batch, before), theta, start, _sees_time(meta, layer), z)
        flat, lo, hi = z.reshape(z.size), batch * c, batch * (c + m)
        activate(_code(meta, layer), flat, x[lo:hi], slope[lo:hi])
        curvature(_code(meta, layer), flat, x[lo:hi], slope[lo:hi], curve[lo:hi])
        z_dots = first if shared and layer == 0 else _matrix(z_dot, rows * c, rows, m)
        if not shared or layer > 0:
            np.dot(_matrix(x_dot, rows * a, rows, before), _matrix(theta, start, before, m), z_dots)
        _scaled_rows(z_dots, _matrix(slope, lo, batch, m), _matrix(x_dot, rows * c, rows, m))
        a, start, before = c, next_start, m

    # backward
    x_bar = np.zeros((batch, n), y.dtype)
    x_dot_bar = w.copy().reshape(rows, n)
    end = theta.size
    for layer in range(layers - 1, -1, -1):
        m, before = meta[SIZES + layer + 1], meta[SIZES + layer]
        z_dots = first if shared and layer == 0 else _matrix(z_dot, rows * a, rows, m)
        _curve_pullback(z_dots, _matrix(slope, batch * a, batch, m), _matrix(curve, batch * a, batch, m), x_bar, x_dot_bar)
        # x_bar and x_dot_bar are now z̄ and ż̄
        start = end - _parameters(meta, layer)
        a -= before
        _layer_gradient(t, _matrix(x, batch * a, batch, before), x_bar, start, _sees_time(meta, layer), weights, theta_bar)
        if shared and layer == 0:
            for r in range(rows):
                total, own = first_bar[r % directions], x_dot_bar[r]
                for j in range(m):
                    total[j] += own[j]
        else:
            np.dot(_matrix(x_dot, rows * a, rows, before).T, x_dot_bar, _matrix(weights, 0, before, m))
            for i in range(before * m):
                theta_bar[start + i] += weights[i]
        transposed = _matrix(theta, start, before, m).T
        x_bar = np.dot(x_bar, transposed)
        if layer > 0 or meta[PRE] != IDENTITY:
            x_dot_bar = np.dot(x_dot_bar, transposed)
        end = start
    if meta[PRE] != IDENTITY:
        _curve_pullback(_matrix(z_dot, 0, rows, n), _matrix(slope, 0, batch, n), _matrix(curve, 0, batch, n), x_bar, x_dot_bar)
    flat = x_bar.reshape(batch * n)
    for i in range(flat.size):
        y_bar[i] += flat[i]


@kernel
def _scaled_rows(x, slope, out):
    """out[b·M + m, j] = slope[b, j] x[b·M + m, j]; x may be one sample's, (M, …), for all."""
    directions = out.shape[0] // slope.shape[0]
    for r in range(out.shape[0]):
        scale, row, target = slope[r // directions], x[r % x.shape[0]], out[r]
        for j in range(out.shape[1]):
            target[j] = row[j] * scale[j]


@kernel
def _curve_pullback(z_dot, slope, curve, x_bar, x_dot_bar):
    """In place: x̄⁺ becomes z̄ = D ⊙ x̄⁺ + C ⊙ Σ_m ż_m ⊙ ẋ̄⁺_m, and ẋ̄⁺_m becomes ż̄_m = D ⊙ ẋ̄⁺_m; z_dot may be one sample's for all."""
    batch, columns = slope.shape
    directions = x_dot_bar.shape[0] // batch
    for b in range(batch):
        total, D, C = x_bar[b], slope[b], curve[b]
        for j in range(columns):
            total[j] *= D[j]
        for r in range(b * directions, (b + 1) * directions):
            tangent, bar = z_dot[r % z_dot.shape[0]], x_dot_bar[r]
            for j in range(columns):
                total[j] += C[j] * tangent[j] * bar[j]
                bar[j] *= D[j]
