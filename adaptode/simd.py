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
    return (c,) * 16 if isinstance(c, np.float32) else (float(c),) * WIDTH


def copies(a, i):
    """a[i] in every lane; i as in `load`."""
    return full(a.reshape(-1)[i])


def without(x, lanes):
    """x with zeros in the first so many lanes."""
    return (0.0,) * lanes + x[lanes:]


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


def total(x):
    """The sum of x's lanes, by halves."""
    while len(x) > 1:
        half = len(x) // 2
        x = add(x[:half], x[half:])
    return x[0]


def is_single(x):
    """Whether x has numbers of float32."""
    return isinstance(x[0], np.float32)


def like(x, c):
    """c in every lane of what x is."""
    return (np.float32(c) if is_single(x) else float(c),) * len(x)


def magnitude(x):
    """|x|, of NaN too."""
    return tuple(abs(a) for a in x)


def with_sign(x, y):
    """x >= 0 with the sign of y, zeros and NaN included."""
    return tuple(type(a)(np.copysign(a, b)) for a, b in zip(x, y, strict=True))


def at_most(x, c):
    """min(x, c) where x is a number, else NaN."""
    return tuple(b if a > b else a for a, b in zip(x, c, strict=True))


def exponent_bits(x):
    """The number whose exponent's bits are the last bits of x, and whose others are 0 where those before the last of x are."""
    if is_single(x):
        return tuple(np.int32(int(a.view(np.int32)) << 23 & 0x7F800000).view(np.float32) for a in x)
    return tuple(float(np.int64(int(np.float64(a).view(np.int64)) << 52 & 0x7FF0000000000000).view(np.float64)) for a in x)


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


def _repeat(builder: Any, lanes: _Lanes, number: Any) -> Any:
    one = builder.insert_element(ir.Constant(lanes.vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes.lanes), [0] * lanes.lanes))


@intrinsic
def _full(typing, c):
    lanes = _Lanes(c)
    return lanes(c), lambda context, builder, signature, arguments: _repeat(builder, lanes, arguments[0])


@intrinsic
def _copies(typing, a, i):
    lanes = _Lanes(a.dtype)

    def generate(context, builder, signature, arguments):
        number = builder.gep(make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        return _repeat(builder, lanes, builder.load(number))

    return lanes(a, types.intp), generate


@intrinsic
def _without(typing, x, lanes):
    def generate(context, builder, signature, arguments):
        vector, count = x.vector, ir.VectorType(ir.IntType(64), x.lanes)
        first = builder.insert_element(ir.Constant(count, ir.Undefined), arguments[1], ir.Constant(ir.IntType(32), 0))
        first = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), x.lanes), [0] * x.lanes))
        kept = builder.icmp_signed("<=", first, ir.Constant(count, list(range(x.lanes))))
        return builder.select(kept, arguments[0], ir.Constant(vector, [0.0] * x.lanes))

    return x(x, types.intp), generate


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

    if operands == 1:
        one = intrinsic(lambda typing, x: (x(x), generate))
        overload(python, **_INLINE)(lambda x: lambda x: one(x))
    elif operands == 2:
        two = intrinsic(lambda typing, x, y: (x(x, y), generate))
        overload(python, **_INLINE)(lambda x, y: lambda x, y: two(x, y))
    else:
        three = intrinsic(lambda typing, x, y, z: (x(x, y, z), generate))
        overload(python, **_INLINE)(lambda x, y, z: lambda x, y, z: three(x, y, z))


def _bits(builder: Any, x: Any) -> tuple[Any, Callable[[int], ir.Constant]]:
    """x as whole numbers, and one number in as many lanes."""
    kind = ir.VectorType(ir.IntType(64 if x.type.element == ir.DoubleType() else 32), x.type.count)
    return builder.bitcast(x, kind), lambda number: ir.Constant(kind, [number] * x.type.count)


def _sign_bit(x: Any) -> int:
    return 1 << (63 if x.type.element == ir.DoubleType() else 31)


def _build_magnitude(builder: Any, x: Any) -> Any:
    bits, every = _bits(builder, x)
    return builder.bitcast(builder.and_(bits, every(_sign_bit(x) - 1)), x.type)


def _build_with_sign(builder: Any, x: Any, y: Any) -> Any:
    (bits, every), (signs, _) = _bits(builder, x), _bits(builder, y)
    return builder.bitcast(builder.or_(bits, builder.and_(signs, every(_sign_bit(x)))), x.type)


def _build_exponent_bits(builder: Any, x: Any) -> Any:
    bits, every = _bits(builder, x)
    return builder.bitcast(builder.shl(bits, every(52 if _sign_bit(x) == 1 << 63 else 23)), x.type)


@intrinsic
def _like(typing, x, c):
    return x(x, types.float64), lambda context, builder, signature, arguments: _repeat(
        builder, x, arguments[1] if x.dtype == types.float64 else builder.fptrunc(arguments[1], ir.FloatType())
    )


@intrinsic
def _total(typing, x):
    def generate(context, builder, signature, arguments):
        (vector,), lanes = arguments, x.lanes
        while lanes > 1:
            lanes //= 2
            low, high = (ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(first, first + lanes))) for first in (0, lanes))
            vector = builder.fadd(builder.shuffle_vector(vector, vector, low), builder.shuffle_vector(vector, vector, high))
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return x.dtype(x), generate


@overload(is_single, **_INLINE)
def _is_single(x):
    single = x.dtype == types.float32
    return lambda x: single


@overload(width, **_INLINE)
def _width(a):
    lanes = _Lanes(a.dtype).lanes
    return lambda a: lanes


overload(load, **_INLINE)(lambda a, i: lambda a, i: _load(a, i))
overload(store, **_INLINE)(lambda a, i, x: lambda a, i, x: _store(a, i, x))
overload(full, **_INLINE)(lambda c: lambda c: _full(c))
overload(copies, **_INLINE)(lambda a, i: lambda a, i: _copies(a, i))
overload(without, **_INLINE)(lambda x, lanes: lambda x, lanes: _without(x, lanes))
_operation(add, lambda b, x, y: b.fadd(x, y), 2)
_operation(sub, lambda b, x, y: b.fsub(x, y), 2)
_operation(mul, lambda b, x, y: b.fmul(x, y), 2)
_operation(div, lambda b, x, y: b.fdiv(x, y), 2)
_operation(madd, lambda b, x, y, z: b.fadd(b.fmul(x, y, flags=_CONTRACT), z, flags=_CONTRACT), 3)
_operation(msub, lambda b, x, y, z: b.fsub(z, b.fmul(x, y, flags=_CONTRACT), flags=_CONTRACT), 3)
overload(total, **_INLINE)(lambda x: lambda x: _total(x))
overload(like, **_INLINE)(lambda x, c: lambda x, c: _like(x, c))
_operation(magnitude, _build_magnitude, 1)
_operation(with_sign, _build_with_sign, 2)
_operation(at_most, lambda b, x, c: b.select(b.fcmp_ordered(">", x, c), c, x), 2)
_operation(exponent_bits, _build_exponent_bits, 1)
_operation(where, lambda b, x, y, z: b.select(b.fcmp_ordered(">", x, ir.Constant(x.type, [0.0] * x.type.count)), y, z), 3)
