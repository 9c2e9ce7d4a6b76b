"""Products of matrices by tiles of six rows and a vector of columns, whose sums stay in registers.

For processors with sixteen vector registers, of which a vector of `simd` fills two: twelve hold sums, and each vector of b is multiplied by six numbers of a.
An element of a product has the same bits whatever rows and columns are beside it.

Matrices are read as they lie; where there are rows enough to pay for it b is first copied by panels of one vector's columns, some at a time, and where a's rows
are long, too, a by panels of six: rows a multiple of some large power of two apart push each other out of the first-level cache.
"""

from __future__ import annotations

import numpy as np

from ._jit import FRAME_BYTES, borrow, in_frame, inline, kernel, part
from .simd import add, copies, full, load, madd, store, total, width, without

ROWS = 6
_MANY = 48  # rows that pay for a copy of b
_PASS = 48  # rows that meet all of b before the next do
_DEPTH = 128  # rows whose outer products are summed at a time
_LONG = 1024  # bytes of a's rows above which a is copied


@inline
def _tile(a, first, across, along, count, depth, b, at, to_next, base):
    """base + Σ_k a[i, k] b[k, :] of six rows i, of which those from `count` on are the last one again; i and k are `across` and `along` apart."""
    i0, last = first, first + (count - 1) * across
    i1, i2, i3 = min(i0 + across, last), min(i0 + 2 * across, last), min(i0 + 3 * across, last)
    i4, i5 = min(i0 + 4 * across, last), min(i0 + 5 * across, last)
    x0 = x1 = x2 = x3 = x4 = x5 = base
    for _ in range(depth):
        v = load(b, at)
        x0, x1, x2 = madd(copies(a, i0), v, x0), madd(copies(a, i1), v, x1), madd(copies(a, i2), v, x2)
        x3, x4, x5 = madd(copies(a, i3), v, x3), madd(copies(a, i4), v, x4), madd(copies(a, i5), v, x5)
        i0, i1, i2, i3, i4, i5 = i0 + along, i1 + along, i2 + along, i3 + along, i4 + along, i5 + along
        at += to_next
    return x0, x1, x2, x3, x4, x5


@inline
def _store_rows(c, k, m, count, rows):
    store(c, k, rows[0])
    if count > 1:
        store(c, k + m, rows[1])
    if count > 2:
        store(c, k + 2 * m, rows[2])
    if count > 3:
        store(c, k + 3 * m, rows[3])
    if count > 4:
        store(c, k + 4 * m, rows[4])
    if count > 5:
        store(c, k + 5 * m, rows[5])


@inline
def _increase(c, k, x, overlap):
    store(c, k, add(load(c, k), without(x, overlap)))


@inline
def _increase_rows(c, k, m, count, rows, overlap):
    _increase(c, k, rows[0], overlap)
    if count > 1:
        _increase(c, k + m, rows[1], overlap)
    if count > 2:
        _increase(c, k + 2 * m, rows[2], overlap)
    if count > 3:
        _increase(c, k + 3 * m, rows[3], overlap)
    if count > 4:
        _increase(c, k + 4 * m, rows[4], overlap)
    if count > 5:
        _increase(c, k + 5 * m, rows[5], overlap)


@inline
def _copy_panel(b, at, m, rows, panel, to):
    """A vector's columns of b, row under row."""
    for k in range(rows):
        store(panel, to + k * width(b), load(b, at + k * m))


@inline
def _copy_six(a, start, n, rows, lanes, panels):
    """Rows of a by panels of six columns; by vectors where they are within a row, the last one's numbers as often as it takes to fill six."""
    whole = max(0, (n - lanes) // ROWS + 1)
    for q in range(whole):
        for k in range(rows):
            store(panels, (q * rows + k) * ROWS, load(a, (start + k) * n + q * ROWS))
    for q in range(whole, (n + ROWS - 1) // ROWS):
        for k in range(rows):
            for l in range(ROWS):
                panels[(q * rows + k) * ROWS + l] = a[start + k, min(q * ROWS + l, n - 1)]


@inline
def _copy_panels(b, first, last, panels):
    """Columns first … last − 1 of b, by panels of a vector's; the last of them begins before it would reach beyond b."""
    (inner, m), lanes = b.shape, width(b)
    for turn in range(first, last, lanes):
        _copy_panel(b, min(turn, m - lanes), m, inner, panels, (turn - first) * inner)


@inline
def _columns(a, b, panels, row, c, first, last):
    """Columns first … last − 1 of c; `panels` those of b, or empty."""
    (rows, inner), m, lanes = a.shape, b.shape[1], width(c)
    for start in range(0, rows, _PASS):
        end = min(start + _PASS, rows)
        for turn in range(first, last, lanes):
            j = min(turn, m - lanes)  # where columns are left over, the last of them are computed twice
            base = load(row, j) if row.size > 0 else full(c.dtype.type(0.0))
            for i in range(start, end, ROWS):
                count = min(ROWS, end - i)
                if panels.size > 0:
                    sums = _tile(a, i * inner, inner, 1, count, inner, panels, (turn - first) * inner, lanes, base)
                else:
                    sums = _tile(a, i * inner, inner, 1, count, inner, b, j, m, base)
                _store_rows(c, i * m + j, m, count, sums)


@kernel
def tiled_product(a, b, row, c):
    """c = 1 rowᵀ + a b: a (B, k), b (k, m) with m a vector's length or more, row (m,) or empty for zeros, c (B, m), by rows and of one dtype."""
    a, b, row, c = borrow(a), borrow(b), borrow(row), borrow(c)
    (inner, m), lanes = b.shape, width(c)
    panels = in_frame(c)
    at_a_time = panels.size // (lanes * max(1, inner)) * lanes
    if a.shape[0] < _MANY or at_a_time == 0:
        _columns(a, b, part(panels, 0, (0,)), row, c, 0, m)
        return
    for first in range(0, m, at_a_time):
        last = min(first + at_a_time, m)
        _copy_panels(b, first, last, panels)
        _columns(a, b, panels, row, c, first, last)


@kernel
def panels_of(b):
    """b (k, m), m a vector's length or more, by panels of a vector's columns."""
    lanes = width(b)
    panels = np.empty((b.shape[1] + lanes - 1) // lanes * b.shape[0] * lanes, b.dtype)
    _copy_panels(b, 0, b.shape[1], panels)
    return panels


@kernel
def panel_product(a, b, panels, c):
    """`tiled_product` without a row, of a b whose `panels_of` are at hand."""
    a, b, panels, c = borrow(a), borrow(b), borrow(panels), borrow(c)
    _columns(a, b, panels, part(c, 0, (0,)), c, 0, b.shape[1])


@kernel
def tiled_outer(a, b, c):
    """c += aᵀ b: a (B, k), b (B, m) with m a vector's length or more, c (k, m), by rows and of one dtype."""
    a, b, c = borrow(a), borrow(b), borrow(c)
    (rows, n), m, lanes = a.shape, b.shape[1], width(c)
    zero = full(c.dtype.type(0.0))
    long, panel, six = n * c.itemsize > _LONG, in_frame(c), part(c, 0, (0,))
    most = min(_DEPTH, rows)
    if long:
        six = np.empty((n + 2 * ROWS) * most, c.dtype)
    for start in range(0, rows, most):
        depth = min(most, rows - start)
        if long:
            _copy_six(a, start, n, depth, lanes, six)
        for turn in range(0, m, lanes):
            j = min(turn, m - lanes)
            if n >= _MANY:
                _copy_panel(b, start * m + j, m, depth, panel, 0)
            for i in range(0, n, ROWS):
                count = min(ROWS, n - i)
                if long:
                    sums = _tile(six, i * depth, 1, ROWS, count, depth, panel, 0, lanes, zero)
                elif n >= _MANY:
                    sums = _tile(a, start * n + i, 1, n, count, depth, panel, 0, lanes, zero)
                else:
                    sums = _tile(a, start * n + i, 1, n, count, depth, b, start * m + j, m, zero)
                _increase_rows(c, i * m + j, m, count, sums, turn - j)


@kernel
def scalar_products(a, bt, row, c):
    """c = 1 rowᵀ + a b of rows of a (B, k) and of bᵀ (m, k): for an m that is less than a vector's length, and a k that is not."""
    a, bt, row, c = borrow(a), borrow(bt), borrow(row), borrow(c)
    (rows, inner), m, lanes = a.shape, bt.shape[0], width(c)
    whole, zero = inner - inner % lanes, full(c.dtype.type(0.0))
    for i in range(0, rows, 4):
        last = rows - 1
        i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)  # of rows left over the last is made again
        for j in range(m):
            x0 = x1 = x2 = x3 = zero
            for k in range(0, whole, lanes):
                v = load(bt, j * inner + k)
                x0, x1 = madd(load(a, i * inner + k), v, x0), madd(load(a, i1 * inner + k), v, x1)
                x2, x3 = madd(load(a, i2 * inner + k), v, x2), madd(load(a, i3 * inner + k), v, x3)
            s0, s1, s2, s3 = total(x0), total(x1), total(x2), total(x3)
            for k in range(whole, inner):
                w = bt[j, k]
                s0, s1, s2, s3 = s0 + a[i, k] * w, s1 + a[i1, k] * w, s2 + a[i2, k] * w, s3 + a[i3, k] * w
            shift = row[j] if row.size > 0 else c.dtype.type(0.0)
            c[i, j], c[i1, j], c[i2, j], c[i3, j] = s0 + shift, s1 + shift, s2 + shift, s3 + shift


@kernel
def narrow_product(a, b, row, c):
    """`scalar_products` with b (k, m) itself, which is transposed first: for a few rows that takes as long as the products."""
    a, b, row, c = borrow(a), borrow(b), borrow(row), borrow(c)
    inner, m = b.shape
    if m * inner * c.itemsize <= FRAME_BYTES:
        columns = part(in_frame(c), 0, (m, inner))
    else:
        columns = np.empty((m, inner), c.dtype)  # owned under this name until its last use, the call below
    for k in range(inner):
        for j in range(m):
            columns[j, k] = b[k, j]
    scalar_products(a, columns, row, c)


@kernel
def narrow_outer(a, b, c):
    """`tiled_outer` of fewer columns of b than a vector has, and no fewer of a: cᵀ += bᵀ a."""
    a, b, c = borrow(a), borrow(b), borrow(c)
    (rows, n), m, lanes = a.shape, b.shape[1], width(c)
    zero, tile = full(c.dtype.type(0.0)), in_frame(c)
    for turn in range(0, n, lanes):
        j = min(turn, n - lanes)
        for i in range(0, m, ROWS):
            count = min(ROWS, m - i)
            _store_rows(tile, 0, lanes, count, _tile(b, i, 1, m, count, rows, a, j, n, zero))
            for l in range(turn - j, lanes):
                for q in range(count):
                    c[j + l, i + q] += tile[q * lanes + l]
