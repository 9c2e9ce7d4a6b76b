"""Eight numbers of float64 at a time, or sixteen of float32: the same arithmetic on independent problems, one a SIMD lane.

In a kernel a value of this module is one of LLVM's vectors, so that no loop has to be recognized as parallel and no sum is reordered: a lane's numbers are
those it would have alone. Outside kernels (`py_func`) it is a tuple of numbers. Either way x[l] is one lane.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model
from numba.np.arrayobj import make_array

WIDTH = 8  # of float64
_CONTRACT = ("contract",)


def width(a):
    """Numbers at a time of an array's dtype."""
    return WIDTH * 8 // a.itemsize


def load(a, i):
    """a[i : i + width(a)] of an array that lies in one piece, counted as if it were flat."""
    some = a.reshape(-1)[i : i + width(a)]
    return tuple(some.tolist() if a.itemsize == 8 else some)  # Python's floats overflow without a word


def store(a, i, x):
    """a[i : i + width(a)] = x."""
    a.reshape(-1)[i : i + width(a)] = x


def full(c):
    """c, a number of float64 or float32, in every lane."""
    return (c,) * (16 if isinstance(c, np.float32) else WIDTH)


def add(x, y):
    """x + y"""
    return tuple(a + b for a, b in zip(x, y, strict=True))


def sub(x, y):
    """x - y"""
    return tuple(a - b for a, b in zip(x, y, strict=True))


def mul(x, y):
    """x y"""
    return tuple(a * b for a, b in zip(x, y, strict=True))


def div(x, y):
    """x / y, by zero inf or NaN."""
    return tuple(a / b if b else (a * math.inf if a else math.nan) for a, b in zip(x, y, strict=True))


def madd(x, y, z):
    """x y + z"""
    return tuple(a * b + c for a, b, c in zip(x, y, z, strict=True))


def msub(x, y, z):
    """z - x y"""
    return tuple(c - a * b for a, b, c in zip(x, y, z, strict=True))


def where(x, y, z):
    """y in the lanes where x > 0, else z, which is also where x is NaN."""
    return tuple(b if a > 0.0 else c for a, b, c in zip(x, y, z, strict=True))


# --- the same in kernels ----------------------------------------------------------------------------------------------------


class _Lanes(types.Type):
    """Numba's type of such a value: a vector of LLVM, also where it is carried from turn to turn of a loop, which a tuple would not be."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype, self.lanes = dtype, WIDTH * 64 // dtype.bitwidth
        self.vector = ir.VectorType(ir.DoubleType() if dtype.bitwidth == 64 else ir.FloatType(), self.lanes)
        super().__init__(name=f"adaptode.simd.lanes({dtype})")


_INLINE: dict[str, Any] = {"jit_options": {"forceinline": True}}


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, kind.vector)


def _address(context: Any, builder: Any, vector: Any, array: Any, a: Any, i: Any) -> Any:
    start = builder.gep(make_array(array)(context, builder, a).data, [i])
    return builder.bitcast(start, vector.as_pointer())


@intrinsic
def _load(typing, a, i):
    lanes = _Lanes(a.dtype)

    def generate(context, builder, signature, arguments):
        vector = builder.load(_address(context, builder, lanes.vector, signature.args[0], *arguments))
        vector.align = a.dtype.bitwidth // 8
        return vector

    return lanes(a, types.intp), generate


@intrinsic
def _store(typing, a, i, x):
    def generate(context, builder, signature, arguments):
        made = builder.store(arguments[2], _address(context, builder, x.vector, signature.args[0], *arguments[:2]))
        made.align = a.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(a, types.intp, x), generate


@intrinsic
def _full(typing, c):
    lanes = _Lanes(c)

    def generate(context, builder, signature, arguments):
        one = builder.insert_element(ir.Constant(lanes.vector, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes.lanes), [0] * lanes.lanes))

    return lanes(c), generate


@intrinsic
def _lane(typing, x, l):
    return x.dtype(x, types.intp), lambda context, builder, signature, arguments: builder.extract_element(*arguments)


@overload(operator.getitem, **_INLINE)
def _getitem(x, l):
    if isinstance(x, _Lanes):
        return lambda x, l: _lane(x, l)
    return None


def _operation(python: Callable[..., Any], build: Callable[..., Any], operands: int) -> None:
    def generate(context, builder, signature, arguments):
        return build(builder, *arguments)

    if operands == 2:
        two = intrinsic(lambda typing, x, y: (x(x, y), generate))
        overload(python, **_INLINE)(lambda x, y: lambda x, y: two(x, y))
    else:
        three = intrinsic(lambda typing, x, y, z: (x(x, y, z), generate))
        overload(python, **_INLINE)(lambda x, y, z: lambda x, y, z: three(x, y, z))


@overload(width, **_INLINE)
def _width(a):
    lanes = _Lanes(a.dtype).lanes
    return lambda a: lanes


overload(load, **_INLINE)(lambda a, i: lambda a, i: _load(a, i))
overload(store, **_INLINE)(lambda a, i, x: lambda a, i, x: _store(a, i, x))
overload(full, **_INLINE)(lambda c: lambda c: _full(c))
_operation(add, lambda b, x, y: b.fadd(x, y), 2)
_operation(sub, lambda b, x, y: b.fsub(x, y), 2)
_operation(mul, lambda b, x, y: b.fmul(x, y), 2)
_operation(div, lambda b, x, y: b.fdiv(x, y), 2)
_operation(madd, lambda b, x, y, z: b.fadd(b.fmul(x, y, flags=_CONTRACT), z, flags=_CONTRACT), 3)
_operation(msub, lambda b, x, y, z: b.fsub(z, b.fmul(x, y, flags=_CONTRACT), flags=_CONTRACT), 3)
_operation(where, lambda b, x, y, z: b.select(b.fcmp_ordered(">", x, ir.Constant(x.type, [0.0] * x.type.count)), y, z), 3)
