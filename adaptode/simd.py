"""Eight numbers at a time: the same arithmetic on eight independent problems, one a SIMD lane.

In a kernel a value of this module is one of LLVM's vectors, so that no loop has to be recognized as parallel and no sum is reordered: a lane's numbers are
those it would have alone. Outside kernels (`py_func`) it is a tuple of eight floats. Either way x[l] is one lane.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model
from numba.np.arrayobj import make_array

WIDTH = 8
_VECTOR = ir.VectorType(ir.DoubleType(), WIDTH)
_CONTRACT = ("contract",)


def load(a, i):
    """a[i : i + 8] of a flat float64 array."""
    return tuple(a[i : i + WIDTH].tolist())


def store(a, i, x):
    """a[i : i + 8] = x."""
    a[i : i + WIDTH] = x


def full(c):
    """c in every lane."""
    return (c,) * WIDTH


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

    def __init__(self) -> None:
        super().__init__(name="adaptode.simd.lanes")


_LANES = _Lanes()
_INLINE: dict[str, Any] = {"jit_options": {"forceinline": True}}


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _address(context: Any, builder: Any, array: Any, a: Any, i: Any) -> Any:
    start = builder.gep(make_array(array)(context, builder, a).data, [i])
    return builder.bitcast(start, _VECTOR.as_pointer())


@intrinsic
def _load(typing, a, i):
    def generate(context, builder, signature, arguments):
        vector = builder.load(_address(context, builder, signature.args[0], *arguments))
        vector.align = 8
        return vector

    return _LANES(a, types.intp), generate


@intrinsic
def _store(typing, a, i, x):
    def generate(context, builder, signature, arguments):
        made = builder.store(arguments[2], _address(context, builder, signature.args[0], *arguments[:2]))
        made.align = 8
        return context.get_dummy_value()

    return types.void(a, types.intp, _LANES), generate


@intrinsic
def _full(typing, c):
    def generate(context, builder, signature, arguments):
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))

    return _LANES(types.float64), generate


@intrinsic
def _lane(typing, x, l):
    return types.float64(_LANES, types.intp), lambda context, builder, signature, arguments: builder.extract_element(*arguments)


@overload(operator.getitem, **_INLINE)
def _getitem(x, l):
    if isinstance(x, _Lanes):
        return lambda x, l: _lane(x, l)
    return None


def _operation(python: Callable[..., Any], build: Callable[..., Any], operands: int) -> None:
    def generate(context, builder, signature, arguments):
        return build(builder, *arguments)

    if operands == 2:
        two = intrinsic(lambda typing, x, y: (_LANES(_LANES, _LANES), generate))
        overload(python, **_INLINE)(lambda x, y: lambda x, y: two(x, y))
    else:
        three = intrinsic(lambda typing, x, y, z: (_LANES(_LANES, _LANES, _LANES), generate))
        overload(python, **_INLINE)(lambda x, y, z: lambda x, y, z: three(x, y, z))


overload(load, **_INLINE)(lambda a, i: lambda a, i: _load(a, i))
overload(store, **_INLINE)(lambda a, i, x: lambda a, i, x: _store(a, i, x))
overload(full, **_INLINE)(lambda c: lambda c: _full(c))
_operation(add, lambda b, x, y: b.fadd(x, y), 2)
_operation(sub, lambda b, x, y: b.fsub(x, y), 2)
_operation(mul, lambda b, x, y: b.fmul(x, y), 2)
_operation(div, lambda b, x, y: b.fdiv(x, y), 2)
_operation(madd, lambda b, x, y, z: b.fadd(b.fmul(x, y, flags=_CONTRACT), z, flags=_CONTRACT), 3)
_operation(msub, lambda b, x, y, z: b.fsub(z, b.fmul(x, y, flags=_CONTRACT), flags=_CONTRACT), 3)
_operation(where, lambda b, x, y, z: b.select(b.fcmp_ordered(">", x, ir.Constant(_VECTOR, [0.0] * WIDTH)), y, z), 3)
