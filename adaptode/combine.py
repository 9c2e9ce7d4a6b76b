"""Sums of stages, y₀ + h Σ_j w_j K_j, and their transpose."""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import overload

from ._jit import JIT_DISABLED, borrow, inline, kernel
from .simd import full, load, madd, store, width

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


@inline
def combine_each(y0, h, W, i, K, m, out, r, base, first=0):
    """`combine` of the elements from `first` on, one after the other."""
    for e in range(first, K.shape[1]):
        total = y0[e] if base else out.dtype.type(0.0)
        for j in range(m):
            w = _at(W, i, j)
            if w != 0.0:
                total += out.dtype.type(h * w) * K[j, e]
        _put(out, r, e, total)


def _in_blocks(y0, h, W, i, K, m, out, r, base):
    row = out if out.ndim == 1 else out[r]
    n = row.size
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
def _by_vectors(y0, h, W, i, K, m, out, r, base):
    n, lanes, dtype, row = y0.size, width(y0), y0.dtype.type, K.shape[1]
    first = r * out.shape[1] if out.ndim == 2 else 0
    whole, fours = n - n % lanes, n - n % (4 * lanes)
    for e in range(0, fours, 4 * lanes):
        s0 = s1 = s2 = s3 = full(dtype(0.0))
        if base:
            s0, s1, s2, s3 = load(y0, e), load(y0, e + lanes), load(y0, e + 2 * lanes), load(y0, e + 3 * lanes)
        for j in range(m):
            w = _at(W, i, j)
            if w != 0.0:
                by, k = full(dtype(h * w)), j * row + e
                s0 = madd(by, load(K, k), s0)
                s1 = madd(by, load(K, k + lanes), s1)
                s2 = madd(by, load(K, k + 2 * lanes), s2)
                s3 = madd(by, load(K, k + 3 * lanes), s3)
        store(out, first + e, s0)
        store(out, first + e + lanes, s1)
        store(out, first + e + 2 * lanes, s2)
        store(out, first + e + 3 * lanes, s3)
    for e in range(fours, whole, lanes):
        s0 = load(y0, e) if base else full(dtype(0.0))
        for j in range(m):
            w = _at(W, i, j)
            if w != 0.0:
                s0 = madd(full(dtype(h * w)), load(K, j * row + e), s0)
        store(out, first + e, s0)
    combine_each(y0, h, W, i, K, m, out, r, base, whole)


def _sums(y0, h, W, i, K, m, out, r, base):
    """`combine` of many elements, by vectors where all arrays are of one real dtype and lie in one piece: each element's sum in the same order either way."""
    _in_blocks(y0, h, W, i, K, m, out, r, base)


_by_blocks = inline(_in_blocks)


@overload(_sums, jit_options={"forceinline": True})
def _choose(y0, h, W, i, K, m, out, r, base):
    arrays = y0, K, out
    if all(a.layout == "C" and a.dtype == y0.dtype for a in arrays) and isinstance(y0.dtype, types.Float) and y0.dtype.bitwidth >= 32:
        return lambda y0, h, W, i, K, m, out, r, base: _by_vectors(y0, h, W, i, K, m, out, r, base)
    return lambda y0, h, W, i, K, m, out, r, base: _by_blocks(y0, h, W, i, K, m, out, r, base)


@kernel
def _combine_many(y0, h, W, i, K, m, out, r, base):
    y0, W, K, out = borrow(y0), borrow(W), borrow(K), borrow(out)
    _sums(y0, h, W, i, K, m, out, r, base)


@kernel(forceinline=True)
def combine(y0, h, W, i, K, m, out, r, base=True):
    """out[r] = y0 + h Σ_{j<m} W[i, j] K[j], summed in the order of j; zero weights are skipped; without y0 if not `base`.

    W and out may be vectors, of which i and r then say nothing.
    """
    if y0.size <= _SMALL:
        combine_each(y0, h, W, i, K, m, out, r, base)
    else:
        _combine_many(y0, h, W, i, K, m, out, r, base)


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
    return bool(_all_finite(x.reshape(x.size))) if x.dtype.char in "fd" and not JIT_DISABLED else bool(np.isfinite(x).all())


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
