"""Right-hand sides f(t, y) of one system: compiled, compiled in SciPy's manner, or plain Python; each becomes the `Bound` that the loop takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numba
import numpy as np
from numba.core.errors import NumbaError

from .._jit import JIT_DISABLED, is_compiled
from ..errors import FieldError, InputError
from .protocol import Array, Bound
from .sockets import PythonSocket, array_signature, compile_for, python_bound, socket_bound, value_socket

_USAGE = "Write it as\n    @adaptode.rhs\n    def f(t, y, p, dy):\n        dy[0] = ...\nwith y and dy of length n and p the parameters, all flat arrays of float64."
_SCIPY_USAGE = "A right-hand side made by numba.njit in SciPy's manner is f(t, y, *args) -> array or tuple of n numbers, with numbers for args."


class Rhs:
    """A compiled right-hand side, f(t, y, p, dy) filling dy; `adaptode.rhs` makes it.

    t float64; y, dy (n,), p (m,) float64 (complex128 where y0 is complex), contiguous. `.dispatcher` is the function made by numba.njit.
    """

    def __init__(self, function: Callable[..., None], usage: str = _USAGE) -> None:
        self.name = getattr(function, "__name__", "f")
        self.__doc__ = getattr(function, "__doc__", None)
        self.dispatcher: Any = function if is_compiled(function) or JIT_DISABLED else numba.njit(function, error_model="numpy", nogil=True)
        self._usage = usage
        self._sockets: dict[np.dtype, Any] = {}

    def __call__(self, t: float, y: Array, p: Array, dy: Array) -> None:
        self.dispatcher(t, y, p, dy)

    def __repr__(self) -> str:
        return f"<adaptode.rhs {self.name}(t, y, p, dy)>"

    def socket(self, dtype: np.dtype) -> Any:
        """The C function for one dtype, made once."""
        if dtype not in self._sockets:
            compile_for(self.dispatcher, array_signature(3, dtype), "right-hand side", self._usage)
            self._sockets[dtype] = value_socket(self.dispatcher, dtype)
        return self._sockets[dtype]

    def bind(self, p: Array, dtype: np.dtype) -> Bound:
        """The right-hand side with parameters p (m,)."""
        p = np.array(p, dtype=dtype)
        if JIT_DISABLED:
            return Bound("python", self.dispatcher, None, None, p, 0)  # type: ignore[arg-type]
        return socket_bound(self.socket(dtype), None, self.dispatcher, None, p)


def rhs(function: Callable[..., None]) -> Rhs:
    """Compile f(t, y, p, dy), which fills dy with the derivative of y at t for parameters p, on first use.

    t float; y, dy (n,), p (m,) float64 arrays. The loop that calls it is compiled once for all and kept on disk: a new right-hand side costs its own
    compilation only. InputError when it does not take four arguments.

    >>> @rhs
    ... def decay(t, y, p, dy):
    ...     dy[0] = -p[0] * y[0]
    """
    if not callable(function):
        raise InputError(f"rhs decorates a function f(t, y, p, dy); got {function!r}")
    try:
        parameters = inspect.signature(getattr(function, "py_func", function)).parameters
    except (TypeError, ValueError):
        parameters = None
    if parameters is not None and len(parameters) != 4:
        raise InputError(f"a right-hand side takes (t, y, p, dy) and fills dy; {getattr(function, '__name__', 'this one')} takes ({', '.join(parameters)})")
    return Rhs(function)


_ADAPTED: WeakKeyDictionary[Any, dict[int, Rhs]] = WeakKeyDictionary()


def _in_scipy_manner(function: Any, count: int) -> Rhs:
    """f(t, y, *args) -> numbers, made by numba.njit, with `count` numbers for args, as f(t, y, p, dy)."""
    known = _ADAPTED.setdefault(function, {})
    if count not in known:
        arguments = _first(count)

        def adapted(t, y, p, dy):
            answer = function(t, y, *arguments(p))
            if len(answer) != dy.size:
                raise ValueError("the right-hand side must return as many numbers as y0 has")
            for i, value in enumerate(answer):
                dy[i] = value

        adapted.__name__ = function.__name__
        known[count] = Rhs(adapted, _SCIPY_USAGE)
    return known[count]


def _first(count: int) -> Any:
    """p -> (p[0], …, p[count − 1]), compiled."""
    if count == 0:
        return numba.njit(lambda p: ())
    before, last = _first(count - 1), count - 1
    return numba.njit(lambda p: (*before(p), p[last]))


def compiled_rhs(function: Any, args: tuple[Any, ...], p: Any) -> Rhs | None:
    """The compiled form f(t, y, p, dy) of what solve_ivp was given; None for a Python function, or one whose args are not numbers."""
    if isinstance(function, Rhs):
        return function
    if JIT_DISABLED and p is not None and callable(function) and len(inspect.signature(function).parameters) == 4:
        return Rhs(function)
    if not is_compiled(function):
        return None
    if p is not None or (not args and len(inspect.signature(function.py_func).parameters) == 4):
        return _ADAPTED.setdefault(function, {}).setdefault(-1, Rhs(function))
    if all(np.ndim(a) == 0 and np.asarray(a).dtype.kind in "buif" for a in args):
        return _in_scipy_manner(function, len(args))
    return None


def bind_rhs(function: Any, y0: Array, args: tuple[Any, ...], p: Any, vectorized: bool) -> Bound:
    """What solve_ivp was given, bound to its arguments; y0 (n,) in the dtype of the solve. InputError when it is no right-hand side."""
    compiled = None if vectorized else compiled_rhs(function, args, p)
    if compiled is not None:
        return compiled.bind(_parameters(compiled.name, args, p), y0.dtype)
    if not callable(function):
        raise InputError(f"fun must be a function f(t, y), or one made by adaptode.rhs; got {function!r}")
    if p is not None:
        raise InputError("p= belongs to a right-hand side made by adaptode.rhs; give a plain function its extra arguments as args=(...)")
    plain = _with_reasons(function, args) if is_compiled(function) else function
    if vectorized:

        def function(t: float, y: Array) -> Any:
            return np.ravel(plain(t, y[:, None], *args))
    elif args:

        def function(t: float, y: Array) -> Any:
            return plain(t, y, *args)

    return python_bound(PythonSocket(function, y0.shape, y0.dtype, getattr(plain, "__name__", type(plain).__name__)))


def _with_reasons(function: Any, args: tuple[Any, ...]) -> Any:
    """A compiled function called from Python, because of its arguments, whose compilation fails in a sentence."""

    def call(t: float, y: Array, *more: Any) -> Any:
        try:
            return function(t, y, *more)
        except NumbaError as error:
            kinds = ", ".join(type(a).__name__ for a in args)
            raise FieldError(f"the compiled right-hand side `{function.py_func.__name__}` does not compile for args of types ({kinds}).\n{_SCIPY_USAGE}") from error

    return call


def _parameters(name: str, args: tuple[Any, ...], p: Any) -> Array:
    if p is not None and args:
        raise InputError(f"{name} takes its parameters once: as p=array, or as args=(...), not both")
    parts = [p] if p is not None else args
    try:
        flat = [np.ravel(np.asarray(part, dtype=complex if np.iscomplexobj(part) else float)) for part in parts]
    except (TypeError, ValueError) as error:
        raise InputError(f"the parameters of {name} must be numbers or arrays of numbers: {error}") from None
    return np.concatenate(flat) if flat else np.empty(0)
