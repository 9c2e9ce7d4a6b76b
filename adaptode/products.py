"""Products of matrices that lie row by row, made in blocks that BLAS multiplies without packing them.

OpenBLAS has kernels for small matrices (with AVX-512, up to a million multiplications) that read them as they lie, at one and a half times the speed at which
it packs and multiplies larger ones; where it has none, blocks cost a few hundredths. Numba reaches SciPy's BLAS by the symbol under its own `np.dot`, which
sees whole matrices alone and cannot add to what is there.
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from ._jit import JIT_DISABLED, borrow, inline, kernel

BLOCK_ROWS = 64
_MOST = 1_000_000  # multiplications of a block
_NARROW = 32  # columns below which a block had better have fewer rows

_DOUBLE, _SINGLE, _AS_IT_LIES, _TRANSPOSED = map(ord, "dsnt")
_DOUBLES, _SINGLES = np.array([0.0, 1.0]), np.array([0.0, 1.0], np.float32)  # what BLAS multiplies the old and the new by
_char, _size, _pointer = types.int8, types.intp, types.voidptr
_xxgemm = types.ExternalFunction(
    "numba_xxgemm",
    types.intc(_char, _char, _char, _size, _size, _size, _pointer, _pointer, _size, _pointer, _size, _pointer, _pointer, _size),
)


@inline
def _gemm(of_a, rows, columns, inner, a, lda, b, ldb, add, c, ldc):
    """c = a b (aᵀ b) + add c from where the slices begin: BLAS counts by columns, so that it is told cᵀ = bᵀ aᵀ."""
    if c.itemsize == 8:
        one, old = _DOUBLES[1:].ctypes, _DOUBLES[add:].ctypes
        _xxgemm(_DOUBLE, _AS_IT_LIES, of_a, columns, rows, inner, one, b.ctypes, ldb, a.ctypes, lda, old, c.ctypes, ldc)
    else:
        one32, old32 = _SINGLES[1:].ctypes, _SINGLES[add:].ctypes
        _xxgemm(_SINGLE, _AS_IT_LIES, of_a, columns, rows, inner, one32, b.ctypes, ldb, a.ctypes, lda, old32, c.ctypes, ldc)


def cuts(rows: int, parts: int) -> list[int]:
    """Where `rows` may be divided into at most rows // BLOCK_ROWS parts, so that each row is multiplied in the block in which it is where there is one part.

    Its bits may depend on that.
    """
    blocks = rows // BLOCK_ROWS
    return [*(BLOCK_ROWS * (blocks * k // parts) for k in range(parts)), rows]


@inline
def _block(rows, inner, columns):
    """(rows, columns) of the blocks of a product."""
    r = max(1, min(rows, BLOCK_ROWS))
    c = _MOST // max(1, r * inner)
    if c >= columns:
        return r, max(1, columns)
    if c < _NARROW:
        r = min(r, BLOCK_ROWS // 2)
        c = _MOST // (r * inner)
    return r, max(16, c // 16 * 16)


@kernel
def product(a, b, c):
    """c = a b: a (B, k), b (k, m), c (B, m), all by rows and of one dtype."""
    a, b, c = borrow(a), borrow(b), borrow(c)
    inner, m = b.shape
    rows, columns = _block(a.shape[0], inner, m)
    if rows == a.shape[0] and columns == m:
        _gemm(_AS_IT_LIES, rows, m, inner, a, inner, b, m, 0, c, m)
        return
    for i in range(0, a.shape[0], rows):
        for j in range(0, m, columns):
            _gemm(_AS_IT_LIES, min(rows, a.shape[0] - i), min(columns, m - j), inner, a[i:], inner, b[:, j:], m, 0, c[i:, j:], m)


@kernel
def add_outer(a, b, c):
    """c += aᵀ b: a (B, k), b (B, m), c (k, m), all by rows and of one dtype."""
    a, b, c = borrow(a), borrow(b), borrow(c)
    k, m = c.shape
    inner, columns = _block(a.shape[0], k, m)
    if inner == a.shape[0] and columns == m:
        _gemm(_TRANSPOSED, k, m, inner, a, k, b, m, 1, c, m)
        return
    for i in range(0, a.shape[0], inner):
        for j in range(0, m, columns):
            _gemm(_TRANSPOSED, k, min(columns, m - j), min(inner, a.shape[0] - i), a[i:], k, b[i:, j:], m, 1, c[:, j:], m)


if JIT_DISABLED:

    def product(a, b, c):  # noqa: F811
        np.matmul(a, b, out=c)

    def add_outer(a, b, c):  # noqa: F811
        c += a.T @ b
