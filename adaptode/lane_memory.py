"""The memory of a worker that steps many trajectories at a time: components in rows, lanes in columns.

All lies in one block, at places that are constants of the kernel: so LLVM sees that nothing overlaps and turns loops over lanes into SIMD instructions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.core import types
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


def column(memory, start, size):
    """Every LANES-th number of memory from start on."""
    return memory[start : start + size * LANES : LANES]


@intrinsic
def _strided(typing, memory, start, size):
    array = types.Array(memory.dtype, 1, "A")

    def generate(context, builder, signature, arguments):
        source = make_array(memory)(context, builder, arguments[0])
        made = make_array(array)(context, builder)
        item = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(array.dtype)))
        step = context.get_constant(types.intp, LANES)
        data = builder.gep(source.data, [arguments[1]])
        populate_array(made, data=data, shape=[arguments[2]], strides=[builder.mul(step, item)], itemsize=item, meminfo=None)
        return made._getvalue()

    return array(memory, types.intp, types.intp), generate


@overload(column, jit_options={"forceinline": True})
def _column(memory, start, size):
    return lambda memory, start, size: _strided(memory, start, size)
