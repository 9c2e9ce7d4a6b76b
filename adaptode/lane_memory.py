"""The memory of a worker that steps many trajectories at a time: components in rows, lanes in columns.

All lies in one block, at places that are constants of the kernel: so LLVM sees that nothing overlaps and turns loops over lanes into SIMD instructions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array, populate_array

from .tableau import Tableau

# A multiple of every vector length (2, 4, 8) times the number of vectors that LLVM works on at once (up to 4): loops over lanes have no remainder,
# which could round otherwise than they do.
LANES = 32


class Layout(NamedTuple):
    """Where things lie in a worker's memory, and the sizes that are constants of its kernel."""

    SIZE: int
    PARAMS: int
    STAGES: int
    FSAL: bool
    N: int
    Y: int
    H: int
    Z: int
    Y1: int
    E: int
    K: int
    P: int
    SUMS: int
    LANE: int
    ONE_Y: int
    ONE_Y1: int
    ONE_P: int
    ONE_F: int
    ONE_K: int
    TOTAL: int


def layout(tab: Tableau, n: int, m: int) -> Layout:
    """Blocks (n, LANES) of states y, steps h, stage states z, new states (z itself with FSAL), errors; (s, n, LANES) stages; then one trajectory alone."""
    block, s = n * LANES, tab.stages
    sizes = [block, block, block, 0 if tab.fsal else block, block, s * block, m * LANES, 4 * LANES, 8 * LANES, n, n, m, n, s * n]
    places = [0, *np.cumsum(sizes).tolist()]
    if tab.fsal:
        places[3] = places[2]
    return Layout(n, m, s, tab.fsal, block, *places)


def window(memory, start, shape):
    """memory[start:] seen as a C-contiguous array of that shape. Compiled it owns nothing: counting its owners would keep loops from being SIMD."""
    return memory[start : start + math.prod(shape)].reshape(shape)


def column(memory, start, size):
    """Every LANES-th number of memory from start on."""
    return memory[start : start + size * LANES : LANES]


def _borrowed(memory: Any, ndim: int, layout: str) -> Any:
    """An intrinsic that makes an array of memory owned by another."""
    array = types.Array(memory.dtype, ndim, layout)

    @intrinsic
    def borrow(typing, memory, start, shape, strides):
        def generate(context, builder, signature, arguments):
            source = make_array(memory)(context, builder, arguments[0])
            made = make_array(array)(context, builder)
            item = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(array.dtype)))
            data = builder.gep(source.data, [arguments[1]])
            lengths, steps = (cgutils.unpack_tuple(builder, arguments[i]) for i in (2, 3))
            populate_array(made, data=data, shape=lengths, strides=[builder.mul(s, item) for s in steps], itemsize=item, meminfo=None)
            return made._getvalue()

        return array(memory, types.intp, types.UniTuple(types.intp, ndim), types.UniTuple(types.intp, ndim)), generate

    return borrow


@overload(window, jit_options={"forceinline": True})
def _window(memory, start, shape):
    borrow = _borrowed(memory, len(shape), "C")
    if len(shape) == 1:
        return lambda memory, start, shape: borrow(memory, start, shape, (1,))
    return lambda memory, start, shape: borrow(memory, start, shape, (shape[1], 1))


@overload(column, jit_options={"forceinline": True})
def _column(memory, start, size):
    borrow = _borrowed(memory, 1, "A")
    return lambda memory, start, size: borrow(memory, start, (size,), (LANES,))
