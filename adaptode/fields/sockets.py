"""Functions given by the user, behind an address with one C signature, so that the loop that calls them is compiled once and kept on disk.

    value   int64 (double t, y*, theta*, out*, int64 n, int64 m)                          out = f(t, y; θ)
    vjp     int64 (double t, y*, theta*, w*, y_bar*, theta_bar*, int64 n, int64 m)        y_bar += (∂f/∂y)ᵀ w, theta_bar += (∂f/∂θ)ᵀ w

n is the number of states, m of parameters; the arrays are contiguous and of one dtype. A value answers with the address of out, a
vjp with 1; anything else stands for an exception: a compiled function's is then found by calling it once more from Python, a Python function's was kept.
Not 1 for a value: where Ctrl-C strikes before a Python function's own `try`, ctypes drops it and leaves the last call's answer standing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import NumbaError
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from .._jit import JIT_DISABLED, inline, kernel
from ..errors import FieldError, InputError
from .protocol import Array, Bound

_ADDRESS = types.uintp
_VALUE = types.intp(types.float64, *[_ADDRESS] * 3, types.intp, types.intp)
_VJP = types.intp(types.float64, *[_ADDRESS] * 5, types.intp, types.intp)
_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_double, *[ctypes.c_size_t] * 3, ctypes.c_ssize_t, ctypes.c_ssize_t)
_ELEMENTS = {"f": types.float32, "d": types.float64, "D": types.complex128}


def _caller(signature: Any) -> Any:
    """An intrinsic that calls the function of that signature at an address."""

    @intrinsic
    def call(context, address, arguments):
        def generate(context, builder, typed, values):
            result, inputs = context.get_value_type(signature.return_type), [context.get_value_type(a) for a in signature.args]
            pointer = builder.inttoptr(values[0], ir.FunctionType(result, inputs).as_pointer())
            return builder.call(pointer, [builder.extract_value(values[1], i) for i in range(len(inputs))])

        return signature.return_type(_ADDRESS, types.Tuple(signature.args)), generate

    return call


_call_value, _call_vjp = _caller(_VALUE), _caller(_VJP)


def _array_at(element: Any) -> tuple[Any, Any]:
    """The type of a flat array of `element`, and what generates a view of it, from the address and size that end an intrinsic's arguments."""
    flat = types.Array(element, 1, "C")

    def generate(context, builder, typed, values):
        where, size = values[-2:]
        view, native = context.make_array(flat)(context, builder), context.get_data_type(element)
        item = context.get_constant(types.intp, context.get_abi_sizeof(native))
        populate_array(view, data=builder.inttoptr(where, native.as_pointer()), shape=(size,), strides=(item,), itemsize=item, meminfo=None)
        return view._getvalue()

    return flat, generate


def _view(element: Any) -> Any:
    flat, generate = _array_at(element)

    @intrinsic
    def view(context, where, size):
        return flat(where, size), generate

    return view


_VIEWS = {code: _view(element) for code, element in _ELEMENTS.items()}


@intrinsic
def _view_like(context, array, where, size):
    """A view (size,) of array's dtype at an address."""
    flat, generate = _array_at(array.dtype)
    return flat(array, where, size), generate


class RaisedError(Exception):
    """A function behind a socket raised an exception, which its socket knows."""


@intrinsic
def address_of(context, array):
    """Where an array begins; `array.ctypes.data` would count references at every call."""

    def generate(context, builder, typed, values):
        return builder.ptrtoint(context.make_array(typed.args[0])(context, builder, values[0]).data, context.get_value_type(_ADDRESS))

    return _ADDRESS(array), generate


@inline
def _row(array, row):
    """Where row `row` of an (m, N) array begins."""
    return address_of(array) + np.uintp(row * array.shape[1] * array.itemsize)


@kernel(forceinline=True)
def socket_value(t, Y, r, pack, K, i):
    """`step.value` for a function behind an address; pack is (value, vjp, where theta begins, m): numbers alone, since arrays would be counted."""
    out = _row(K, i)
    if _call_value(pack[0], (t, _row(Y, r), pack[2], out, np.intp(Y.shape[1]), np.intp(pack[3]))) != np.intp(out):
        raise RaisedError


@kernel
def socket_linearize(t, y, pack, out, kept):
    """`step.linearize`: nothing is kept, so with an empty out there is nothing to do."""
    if out.size and _call_value(pack[0], (t, address_of(y), pack[2], address_of(out), np.intp(y.size), np.intp(pack[3]))) != np.intp(address_of(out)):
        raise RaisedError


@kernel
def socket_pullback(t, y, pack, kept, w, y_bar, theta_bar):
    """`step.pullback`."""
    sizes = np.intp(y.size), np.intp(pack[3])
    if _call_vjp(pack[1], (t, address_of(y), pack[2], address_of(w), address_of(y_bar), address_of(theta_bar), sizes[0], sizes[1])) != 1:
        raise RaisedError


def inlined_value(function: Any) -> Any:
    """`step.value` for one compiled function, with the same pack, called directly."""

    @inline
    def value(t, Y, r, pack, K, i):
        function(t, Y[r], _view_like(Y, pack[2], np.intp(pack[3])), K[i])

    return value


def array_signature(count: int, dtype: Any) -> tuple[Any, ...]:
    """Numba's types of t and `count` flat arrays."""
    return (types.float64, *[types.Array(_ELEMENTS[np.dtype(dtype).char], 1, "C")] * count)


def compile_for(function: Any, signature: tuple[Any, ...], role: str, usage: str, returns_nothing: bool = True) -> None:
    """Compile `function` for those argument types; FieldError in words a person can act on when it does not."""
    name = function.py_func.__name__
    shown = ", ".join(str(a).replace("Array", "array") for a in signature)
    try:
        function.compile(signature)
    except (NumbaError, TypeError) as error:  # TypeError: another number of arguments
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if line and "pipeline" not in line and "nopython frontend" not in line), "")
        raise FieldError(f"the compiled {role} `{name}` cannot be called with ({shown}): {reason}\n{usage}") from error
    if returns_nothing and not isinstance(function.overloads[signature].signature.return_type, types.NoneType):
        raise FieldError(f"the compiled {role} `{name}` must fill its last array in place and return nothing.\n{usage}")


def value_socket(function: Any, dtype: Any) -> Any:
    """The C function of a compiled value(t, y, theta, out), and its `.address`."""
    view = _VIEWS[np.dtype(dtype).char]

    def call(t, y, theta, out, n, m):
        try:
            function(t, view(y, n), view(theta, m), view(out, n))
        except Exception:  # noqa: BLE001 - numba knows no other
            return 0
        return np.intp(out)

    return _compiled(call, _VALUE)


def number_socket(function: Any) -> Any:
    """The C function of a compiled g(t, y, p) -> float on float64 arrays, of value's signature: out has one element."""
    view = _VIEWS["d"]

    def call(t, y, p, out, n, m):
        try:
            view(out, 1)[0] = function(t, view(y, n), view(p, m))
        except Exception:  # noqa: BLE001
            return 0
        return 1

    return _compiled(call, _VALUE)


@kernel
def call_number(where, t, y, p, out):
    """out[0] = g(t, y, p) of the function behind a `number_socket`."""
    if _call_value(where, (t, address_of(y), address_of(p), address_of(out), np.intp(y.size), np.intp(p.size))) != 1:
        raise RaisedError


def vjp_socket(function: Any, dtype: Any) -> Any:
    """The C function of a compiled vjp(t, y, theta, w, y_bar, theta_bar), and its `.address`."""
    view = _VIEWS[np.dtype(dtype).char]

    def call(t, y, theta, w, y_bar, theta_bar, n, m):
        try:
            function(t, view(y, n), view(theta, m), view(w, n), view(y_bar, n), view(theta_bar, m))
        except Exception:  # noqa: BLE001
            return 0
        return 1

    return _compiled(call, _VJP)


def _compiled(call: Callable[..., int], signature: Any) -> Any:
    return numba.cfunc(signature, error_model="numpy", fastmath={"contract"})(call)


def socket_bound(value: Any, vjp: Any, value_function: Any, vjp_function: Any, theta: Array) -> Bound:
    """A compiled value (and vjp) as the loop and the adjoint take them; theta (m,)."""
    pack = tuple(np.uintp(x) for x in (value.address, vjp.address if vjp is not None else 0, theta.ctypes.data, theta.size))

    def plain_value(t: float, y: Array, pack: Any, out: Array) -> None:
        value_function(t, y, theta, out)

    def linearize(t: float, y: Array, pack: Any, out: Array, kept: Array) -> None:
        if out.size:
            value_function(t, y, theta, out)

    def pullback(t: float, y: Array, pack: Any, kept: Array, w: Array, y_bar: Array, theta_bar: Array) -> None:
        vjp_function(t, y, theta, w, y_bar, theta_bar)

    return Bound("socket", plain_value, linearize, pullback, pack, 0, owner=(value, vjp, theta))


def through_socket(entry: Any, interpreted: Any, bound: Bound, *arguments: Any) -> Any:
    """entry(bound.pack, …), where an exception of the function behind the socket comes out as itself.

    A Python function's was kept. A compiled function's is met again by its `interpreted` copy, which goes on from where the compiled one stopped.
    """
    try:
        return entry(bound.pack, *arguments)
    except RaisedError:
        pass
    reraise(interpreted, bound, *arguments)


def reraise(interpreted: Any, bound: Bound, *arguments: Any) -> None:
    """Raise what the function behind a socket raised: outside of any handler, so that the traceback speaks of the function alone."""
    if bound.reraise is not None:
        bound.reraise()
    interpreted(bound, *arguments)
    raise FieldError("the compiled function raised an exception that did not come again when it was called once more")


_SHORT = 16  # numbers up to which a list is copied faster than made an array
_PLAIN = frozenset((float, int, np.float64))


@lru_cache(maxsize=64)
def _bytes(size: int) -> Any:
    return ctypes.c_char * size


class _Views(dict):
    """Address -> array of one shape and dtype that lies there."""

    def __init__(self, size: int, dtype: np.dtype) -> None:
        self.bytes, self.dtype = _bytes(size * dtype.itemsize), dtype

    def __missing__(self, where: int) -> Array:
        self[where] = view = np.frombuffer(self.bytes.from_address(where), self.dtype)
        return view


class PythonSocket:
    """A Python function f(t, y) -> array-like behind an address.

    The function gets a copy of the state, what it returns is checked and copied, and its exception is kept for `reraise`.
    """

    def __init__(self, function: Callable[[float, Array], Any], shape: tuple[int], dtype: Any, name: str) -> None:
        self.function, self.shape, self.dtype, self.name = function, shape, np.dtype(dtype), name
        self.errors: list[BaseException] = []
        self.keep = _PROTOTYPE(_callback(function, _checker(shape, self.dtype, name), shape, self.dtype, self.errors))
        self.address = ctypes.cast(self.keep, ctypes.c_void_p).value

    def value(self, t: float, y: Array) -> Array:
        """f(t, y), an array of the state's shape and dtype."""
        return _checker(self.shape, self.dtype, self.name)(t, self.function(t, y.copy()))

    def reraise(self) -> None:
        """Raise what the function raised, unchanged; an interrupt that came before it was called has no other trace."""
        raise self.errors.pop() if self.errors else KeyboardInterrupt


def _callback(function: Any, checked: Any, shape: tuple[int], dtype: np.dtype, errors: list[BaseException]) -> Callable[..., int]:
    """What C calls; no method, so that a solve leaves no cycle of references behind."""
    views, array = _Views(shape[0], dtype), np.ndarray

    def call(t: float, y: int, theta: int, out: int, n: int, m: int) -> int:
        try:
            answer = function(t, views[y].copy())
            if type(answer) is list and len(answer) == n <= _SHORT and _PLAIN.issuperset(map(type, answer)):  # without an array in between
                views[out][:] = answer
            elif type(answer) is array and answer.dtype is dtype and answer.shape == shape:
                views[out][:] = answer
            else:
                views[out][:] = checked(t, answer)
        except BaseException as error:  # noqa: BLE001 - nothing may leave through C
            errors.append(error)
            return 0
        return out

    return call


def _checker(shape: tuple[int], dtype: np.dtype, name: str) -> Callable[[float, Any], Array]:
    """(t, answer) -> the answer as an array of that shape (or a single number for it) and dtype; InputError in words where it is none."""

    def checked(t: float, answer: Any) -> Array:
        try:
            array = np.asarray(answer)
            if array.dtype.kind == "c" and dtype.kind != "c":
                raise InputError(f"{name} returned complex numbers at t = {t:g} for a real y0; give y0 a complex dtype")
            if array.dtype.kind == "O" and any(value is None for value in array.flat):
                raise InputError(f"{name} returned None, or None among its numbers, at t = {t:g}: does it end without `return`?")
            array = array.astype(dtype, copy=False)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} must return numbers; at t = {t:g} it returned {type(answer).__name__} ({error})") from error
        if array.shape != shape and not (array.ndim == 0 and shape == (1,)):
            raise InputError(f"{name} must return an array of shape {shape}, as y0; at t = {t:g} it returned shape {array.shape}")
        return array

    return checked


def python_bound(socket: PythonSocket) -> Bound:
    """A Python function of (t, y) alone, for the compiled loop; interpreted under NUMBA_DISABLE_JIT."""

    def value(t: float, y: Array, pack: Any, out: Array) -> None:
        out[:] = socket.value(t, y)

    pack = tuple(np.uintp(x) for x in (socket.address, 0, 0, 0))
    return Bound("python" if JIT_DISABLED else "socket", value, None, None, pack, 0, socket.reraise, socket)  # type: ignore[arg-type]
