"""Products of matrices that lie row by row.

With AVX-512 they are made in blocks: OpenBLAS has kernels for small matrices, of up to a million multiplications, that read them as they lie, at one and a
half times the speed at which it packs and multiplies larger ones. With AVX2 it has none; there `tiles` makes most, and BLAS, also in blocks, most of what has
one row, and what has fewer columns and fewer rows of b than a vector has numbers. Blocks are so small that BLAS does not call its own threads, which do not
help with little work and go on looking for more for hundredths of a second, on cores that `threads` would have. Numba reaches SciPy's BLAS by the symbol
under its own `np.dot`, which sees whole matrices alone and cannot add to what is there.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba.core import types
from numpy.typing import DTypeLike

from ._jit import JIT_DISABLED, borrow, inline, kernel, part
from .room import empty
from .simd import full, load, madd, store, width
from .threads import how_many, together
from .tiles import narrow_outer, narrow_product, panel_product, panels_of, scalar_products, tiled_outer, tiled_product

BLOCK_ROWS = 64
_CPU = get_host_cpu_features()
_SMALL_KERNELS = bool(_CPU.get("avx512f"))  # of BLAS
BY_TILES = bool(_CPU.get("avx2") and _CPU.get("fma")) and not _SMALL_KERNELS
FEWEST_ROWS = 64 if BY_TILES else 32  # of a part of a batch: with fewer, products are slow
_MOST = 1_000_000 if _SMALL_KERNELS else 2**18  # multiplications of a block
_NARROW = 32  # columns below which a block had better have fewer rows
_VERY_NARROW = 7  # columns up to which scalar products are quicker than BLAS without kernels for small matrices
_FEW = 256  # multiplications that take less time than a call of BLAS

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
    """(rows, inner, columns) of the blocks of a product."""
    r = max(1, min(rows, BLOCK_ROWS))
    each = r * max(1, inner)
    if each * columns > _MOST and _MOST // each < _NARROW:
        r = min(r, BLOCK_ROWS // 2)
        each = r * inner
    if each * columns <= _MOST:
        return r, max(1, inner), max(1, columns)
    c = min(columns, max(16, _MOST // each // 16 * 16))
    return r, min(inner, max(1, _MOST // (r * c))), c


@inline
def _few(a, b, row, c):
    """`affine` of one row."""
    inner, m = b.shape
    zero = c.dtype.type(0.0)
    if m < 8:
        whole = inner - inner % 4
        for j in range(m):
            s0, s1, s2, s3 = row[j] if row.size > 0 else zero, zero, zero, zero
            for k in range(0, whole, 4):
                s0 += a[k] * b[k, j]
                s1 += a[k + 1] * b[k + 1, j]
                s2 += a[k + 2] * b[k + 2, j]
                s3 += a[k + 3] * b[k + 3, j]
            for k in range(whole, inner):
                s0 += a[k] * b[k, j]
            c[j] = (s0 + s1) + (s2 + s3)
        return
    for j in range(m):
        c[j] = row[j] if row.size > 0 else zero
    for k in range(inner):
        for j in range(m):
            c[j] += a[k] * b[k, j]


@inline
def _spread(a, b, row, c, inner):
    """`affine` of an a with so many columns, 1 to 4, and a c with a vector's or more; where columns are left over, the last of them are computed twice."""
    m, lanes = b.shape[1], width(c)
    for first in range(0, c.shape[0], BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, c.shape[0])
        for turn in range(0, m, lanes):
            j = min(turn, m - lanes)
            base = load(row, j) if row.size > 0 else full(c.dtype.type(0.0))
            w0 = load(b, j)
            w1 = load(b, m + j) if inner > 1 else w0
            w2 = load(b, 2 * m + j) if inner > 2 else w0
            w3 = load(b, 3 * m + j) if inner > 3 else w0
            for i in range(first, last):
                z = madd(full(a[i, 0]), w0, base)
                if inner > 1:
                    z = madd(full(a[i, 1]), w1, z)
                if inner > 2:
                    z = madd(full(a[i, 2]), w2, z)
                if inner > 3:
                    z = madd(full(a[i, 3]), w3, z)
                store(c, i * m + j, z)


@kernel
def affine(a, b, bt, row, c):
    """c = a b or 1 rowᵀ + a b, whichever is quicker, and whether it is the latter.

    a (B, k), b (k, m), bt (m, k) its transpose if it is at hand, or empty, row (m,), empty for a row of zeros, c (B, m), all by rows and of one dtype
    """
    a, b, bt, row, c = borrow(a), borrow(b), borrow(bt), borrow(row), borrow(c)
    inner = a.shape[1]
    if b.shape[1] >= width(c):
        if inner == 1:
            _spread(a, b, row, c, 1)
            return True
        if inner == 2:
            _spread(a, b, row, c, 2)
            return True
        if inner == 3:
            _spread(a, b, row, c, 3)
            return True
        if inner == 4:
            _spread(a, b, row, c, 4)
            return True
    if a.shape[0] == 1 and b.size <= _FEW:
        _few(a[0], b, row, c[0])
        return True
    if _in_registers(a, b, bt, row, c):
        return True
    _product_in_blocks(a, b, c)
    return row.size == 0


@inline
def _product_in_blocks(a, b, c):
    inner, m = b.shape
    rows, depth, columns = _block(a.shape[0], inner, m)
    if rows == a.shape[0] and depth >= inner and columns == m:
        _gemm(_AS_IT_LIES, rows, m, inner, a, inner, b, m, 0, c, m)
        return
    for i in range(0, a.shape[0], rows):
        r = min(rows, a.shape[0] - i)
        for j in range(0, m, columns):
            for k in range(0, max(1, inner), depth):
                _gemm(_AS_IT_LIES, r, min(columns, m - j), min(depth, inner - k), a[i:, k:], inner, b[k:, j:], m, min(k, 1), c[i:, j:], m)


@inline
def _outer_in_blocks(a, b, c):
    k, m = c.shape
    inner, rows, columns = _block(a.shape[0], k, m)
    if inner == a.shape[0] and rows == k and columns == m:
        _gemm(_TRANSPOSED, k, m, inner, a, k, b, m, 1, c, m)
        return
    for i in range(0, a.shape[0], inner):
        depth = min(inner, a.shape[0] - i)
        for j in range(0, m, columns):
            for l in range(0, k, rows):
                _gemm(_TRANSPOSED, min(rows, k - l), min(columns, m - j), depth, a[i:, l:], k, b[i:, j:], m, 1, c[l:, j:], m)


@inline
def _in_registers(a, b, bt, row, c):
    """`affine` by `tiles`, where that is quicker than BLAS; whether it is."""
    (inner, m), lanes = b.shape, width(c)
    narrow = m <= _VERY_NARROW and inner >= lanes
    if not BY_TILES:
        return False
    if narrow and bt.size > 0:
        scalar_products(a, bt, row, c)
    elif a.shape[0] == 1:
        return False
    elif m >= lanes:
        tiled_product(a, b, row, c)
    elif narrow:
        narrow_product(a, b, row, c)
    else:
        return False
    return True


@kernel
def product(a, b, c):
    """c = a b: a (B, k), b (k, m), c (B, m), all by rows and of one dtype."""
    a, b, c = borrow(a), borrow(b), borrow(c)
    if a.shape[0] == 1 and b.size <= _FEW:
        _few(a[0], b, part(c, 0, (0,)), c[0])
    elif not _in_registers(a, b, part(c, 0, (0, 0)), part(c, 0, (0,)), c):
        _product_in_blocks(a, b, c)


@kernel
def prepared(b):
    """What `prepared_product` multiplies by in the place of b (k, m), as often as it likes: empty where nothing is to be gained."""
    if BY_TILES and b.shape[1] >= width(b):
        return panels_of(b)
    return np.empty(0, b.dtype)


@kernel
def prepared_product(a, b, panels, c):
    """`product` with a b that is `prepared`, for which a few rows are as good as many."""
    if panels.size > 0:
        panel_product(a, b, panels, c)
    else:
        product(a, b, c)


@kernel
def add_outer(a, b, c):
    """c += aᵀ b: a (B, k), b (B, m), c (k, m), all by rows and of one dtype."""
    a, b, c = borrow(a), borrow(b), borrow(c)
    k, m = c.shape
    if a.shape[0] == 1 and k * m <= _FEW:
        for i in range(k):
            for j in range(m):
                c[i, j] += a[0, i] * b[0, j]
    elif BY_TILES and a.shape[0] > 1 and m >= width(c):
        tiled_outer(a, b, c)
    elif BY_TILES and a.shape[0] > 1 and k >= width(c):
        narrow_outer(a, b, c)
    else:
        _outer_in_blocks(a, b, c)


if JIT_DISABLED:

    def product(a, b, c):  # noqa: F811
        np.matmul(a, b, out=c)

    def prepared(b):  # noqa: F811
        return np.empty(0, b.dtype)

    def affine(a, b, bt, row, c):  # noqa: F811
        np.matmul(a, b, out=c)
        return row.size == 0

    def add_outer(a, b, c):  # noqa: F811
        c += a.T @ b


_LITTLE = 2**17  # multiplications up to which NumPy does as well, whose BLAS then has one thread
_HALVED = 20_000_000  # multiplications from which a sum of products is made in two halves, which two threads can share


def matrix_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b of two matrices, in float32 if both are, else in float64; by several threads where there is enough to do."""
    dtype = np.float32 if a.dtype == b.dtype == np.float32 else np.float64
    if a.size * b.shape[1] <= _LITTLE:
        with np.errstate(over="ignore", invalid="ignore"):  # as in compiled code, whoever looks at the result sees what is in it
            return np.matmul(a, b, dtype=dtype)
    a, b = np.ascontiguousarray(a, dtype), np.ascontiguousarray(b, dtype)
    out = empty((a.shape[0], b.shape[1]), dtype)
    parties = how_many(a.size * b.shape[1], len(a) // BLOCK_ROWS)
    together([partial(product, a[lo:hi], b, out[lo:hi]) for lo, hi in pairwise(cuts(len(a), parties))])
    return out


def add_matrix_product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out += aᵀ b in out's precision, which lies in one piece; as in `matrix_product`."""
    work = a.size * b.shape[1]
    if work <= _LITTLE:
        with np.errstate(over="ignore", invalid="ignore"):
            out += a.T @ b
        return
    a, b = np.ascontiguousarray(a, out.dtype), np.ascontiguousarray(b, out.dtype)
    if work < _HALVED:
        add_outer(a, b, out)
        return
    middle, other = len(a) // 2, np.zeros_like(out)
    halves = [partial(add_outer, a[:middle], b[:middle], out), partial(add_outer, a[middle:], b[middle:], other)]
    if how_many(work, 2) == 2:
        together(halves)
    else:
        for half in halves:
            half()
    out += other


class Factors:
    """A matrix (B, n) known as left right, (B, r) and (r, n), with r much less than n: what is to be multiplied by it is multiplied by one after the other.

    `numpy.asarray` gives the matrix itself.
    """

    def __init__(self, left: np.ndarray, right: np.ndarray) -> None:
        self.left, self.right = left, right

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), self.right.shape[1]

    def __array__(self, dtype: DTypeLike = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("factors must be multiplied to be an array")
        return matrix_product(self.left, self.right).astype(dtype or self.right.dtype, copy=False)

    def astype(self, dtype: DTypeLike) -> Factors:
        """The factors in another precision."""
        return Factors(self.left.astype(dtype, copy=False), self.right.astype(dtype, copy=False))

    def is_finite(self) -> bool:
        """Whether all numbers of the matrix are finite."""
        left, right = (float(np.abs(x).max(initial=0.0)) for x in (self.left, self.right))
        certain = left * right * self.right.shape[0] < float(np.finfo(self.right.dtype).max)  # no product overflows, nor a sum of them, and nothing is NaN
        return certain or bool(np.isfinite(np.asarray(self)).all())
