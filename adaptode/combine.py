"""Sums of stages, y₀ + h Σ_j w_j K_j, and their transpose."""

from __future__ import annotations

import numpy as np

from ._jit import inline, kernel

_BLOCK = 1024  # elements worked on at a time, so that the running sum stays in the first-level cache
_SMALL = 16  # up to this many elements, one element after the other: the sum stays in a register


@inline
def _at(a, i, e):
    """a[i, e], or a[e] of a vector: by numbers, since a slice costs more in a compiled loop than a whole sum over a small state."""
    if a.ndim == 1:
        return a[e]
    return a[i, e]


@inline
def _put(a, i, e, x):
    if a.ndim == 1:
        a[e] = x
    else:
        a[i, e] = x


@kernel
def _combine_blocks(y0, h, W, i, K, m, out, r, base):
    row = out if out.ndim == 1 else out[r]
    n = row.size
    if n <= _BLOCK:  # without slices: a tenth faster at n = 28
        for e in range(n):
            row[e] = y0[e] if base else out.dtype.type(0.0)
        for j in range(m):
            w = _at(W, i, j)
            if w != 0.0:
                w = out.dtype.type(h * w)
                for e in range(n):
                    row[e] += w * K[j, e]
        return
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        o = row[start:stop]
        b = y0[start:stop]
        for e in range(stop - start):
            o[e] = b[e] if base else o.dtype.type(0.0)
        for j in range(m):
            w = _at(W, i, j)
            if w != 0.0:
                w = o.dtype.type(h * w)
                k = K[j, start:stop]
                for e in range(stop - start):
                    o[e] += w * k[e]


@inline
def combine_each(y0, h, W, i, K, m, out, r, base):
    for e in range(K.shape[1]):
        total = y0[e] if base else out.dtype.type(0.0)
        for j in range(m):
            w = _at(W, i, j)
            if w != 0.0:
                total += out.dtype.type(h * w) * K[j, e]
        _put(out, r, e, total)


@kernel(forceinline=True)
def combine(y0, h, W, i, K, m, out, r, base=True):
    """out[r] = y0 + h Σ_{j<m} W[i, j] K[j], summed in the order of j; zero weights are skipped; without y0 if not `base`.

    W and out may be vectors, of which i and r then say nothing.
    """
    if y0.size <= _SMALL:
        combine_each(y0, h, W, i, K, m, out, r, base)
    else:
        _combine_blocks(y0, h, W, i, K, m, out, r, base)


@inline
def combine_lanes(y0, h, weights, K, m, out, size):
    """`combine` where every element has its own step size: out, y0 and h (size,), K (s, size).

    Weights and m are constants of the kernel that this becomes part of, so that the inner sum is unrolled and the loop over elements becomes SIMD instructions.
    """
    for e in range(size):
        total = y0[e]
        for j in range(m):
            if weights[j] != 0.0:
                total += (h[e] * weights[j]) * K[j, e]
        out[e] = total


@kernel
def combine_vjp(h, weights, m, out_bar, K_bar):
    """The transpose of `combine` in K: K_bar_j += h weights_j out_bar for j < m."""
    n = out_bar.size
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        o = out_bar[start:stop]
        for j in range(m):
            if weights[j] != 0.0:
                w = o.dtype.type(h * weights[j])
                k = K_bar[j, start:stop]
                for i in range(stop - start):
                    k[i] += w * o[i]


@kernel
def add(x, out):
    """out += x, flat."""
    for i in range(x.size):
        out[i] += x[i]


def all_finite(x) -> bool:
    """True when no element of an array is NaN or inf."""
    return bool(_all_finite(x.reshape(x.size))) if x.dtype.char in "fd" else bool(np.isfinite(x).all())


@kernel
def _all_finite(x):
    bad = 0
    for i in range(x.size):
        bad += not x[i] - x[i] == 0.0
    return bad == 0


@kernel
def is_zero(x):
    """True when every element is 0."""
    for i in range(x.size):
        if x[i] != 0.0:
            return False
    return True
