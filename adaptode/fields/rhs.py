"""Right-hand sides f(t, y) of one system: compiled, compiled in SciPy's manner, or plain Python; each becomes the `Bound` that the loop takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba.core.errors import NumbaError

from .._jit import JIT_DISABLED, is_compiled
from ..errors import FieldError, InputError
from .protocol import Array, Bound
from .sockets import PythonSocket, array_signature, compile_for, python_bound, socket_bound, value_socket

_USAGE = """Write it as
    @adaptode.rhs
    def f(t, y, p, dy):
        dy[0] = ...
with y and dy of length n and p the parameters, all flat arrays of float64."""
_REMEMBERED = 128  # functions whose adapters are kept: these hold their functions, for which Numba's cycles are no garbage
_MARGIN = 16  # numbers beyond the arrays of a first call, and two values for them that no derivative has by chance
_BEYOND = (7.071067811865476e8, -1.618033988749895e-5)
_SCIPY_USAGE = "A right-hand side made by numba.njit in SciPy's manner is f(t, y, *args) -> array or tuple of n numbers, with numbers for args."


class Rhs:
    """A compiled right-hand side, f(t, y, p, dy) filling dy; `adaptode.rhs` makes it.

    t float64; y, dy (n,), p (m,) float64 (complex128 where y0 is complex), contiguous. `.dispatcher` is the function made by numba.njit.
    """

    def __init__(self, function: Callable[..., None], usage: str = _USAGE) -> None:
        self.name = getattr(function, "__name__", "f")
        self.__doc__ = getattr(function, "__doc__", None)
        self.dispatcher: Any = function if is_compiled(function) or JIT_DISABLED else numba.njit(function, error_model="numpy", nogil=True)
        self._usage, self.in_scipys_manner = usage, usage is _SCIPY_USAGE
        self._sockets: dict[np.dtype, Any] = {}
        self._seen: set[tuple[int, int, np.dtype]] = set()

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

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_sockets": {}, "_seen": set()}  # compiled code stays in its process

    def bind(self, p: Array, y0: Array, t0: float) -> Bound:
        """The right-hand side with parameters p (m,), for states as y0 (n,). InputError when it needs more parameters or components than there are."""
        if np.iscomplexobj(p) and not np.iscomplexobj(y0):
            raise InputError(f"{self.name} has complex parameters but a real y0; give y0 a complex dtype")
        dtype = y0.dtype
        p = np.array(p, dtype=dtype)
        if JIT_DISABLED:
            return Bound("python", self.dispatcher, None, None, p, 0)  # type: ignore[arg-type]
        socket, sizes = self.socket(dtype), (y0.size, p.size, dtype)
        if sizes not in self._seen:
            self._stay_inside(t0, y0, p)
            self._seen.add(sizes)
        return socket_bound(socket, None, self.dispatcher, None, p)

    def _stay_inside(self, t0: float, y0: Array, p: Array) -> None:
        """One call inside larger arrays: compiled code does not check its indices, and would take what lies beyond for numbers."""
        answers = []
        for beyond in _BEYOND:
            padded = [np.full(x.size + _MARGIN, beyond, x.dtype) for x in (y0, p, y0)]
            y, parameters, dy = (whole[: x.size] for whole, x in zip(padded, (y0, p, y0), strict=True))
            y[:], parameters[:] = y0, p
            try:
                self.dispatcher(t0, y, parameters, dy)
            except Exception:  # met again in the solve
                return
            answers.append(padded[2])
            if not (padded[2][y0.size :] == beyond).all():
                raise InputError(f"{self.name} writes more derivatives than y0 has components, {y0.size}")
            dy[:] = np.where(dy == beyond, np.nan, dy)
        if not np.array_equal(*(answer[: y0.size] for answer in answers), equal_nan=True):
            many = f"y0 has {y0.size} and p {p.size} numbers"
            raise InputError(f"{self.name} reads beyond its arrays: {many}. Give all its parameters as p=array or args=(...), and a y0 of all its components")


def rhs(function: Callable[..., None]) -> Rhs:
    """Compile f(t, y, p, dy), which fills dy with the derivative of y at t for parameters p, on first use.

    t float; y, dy (n,), p (m,) float64 arrays; y and p are to be read only, and every element of dy filled. The loop that calls it is compiled once for
    all and kept on disk: a new right-hand side costs its own compilation only. InputError when it does not take four arguments.

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


@lru_cache(maxsize=_REMEMBERED)
def _as_rhs(function: Any) -> Rhs:
    """f(t, y, p, dy) made by numba.njit."""
    return Rhs(function)


@lru_cache(maxsize=_REMEMBERED)
def _in_scipy_manner(function: Any, count: int) -> Rhs:
    """f(t, y, *args) -> numbers, made by numba.njit, with `count` numbers for args, as f(t, y, p, dy)."""
    arguments = _first(count)

    def adapted(t, y, p, dy):
        answer = function(t, y, *arguments(p))
        if len(answer) != dy.size:
            raise ValueError("the right-hand side must return as many numbers as y0 has")
        for i, value in enumerate(answer):
            dy[i] = value

    adapted.__name__ = function.__name__
    return Rhs(adapted, _SCIPY_USAGE)


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
        return _as_rhs(function)
    if all(np.ndim(a) == 0 and np.asarray(a).dtype.kind in "buif" for a in args):
        return _in_scipy_manner(function, len(args))
    return None


def bind_rhs(function: Any, t0: float, y0: Array, args: tuple[Any, ...], p: Any, vectorized: bool) -> Bound:
    """What solve_ivp was given, bound to its arguments; y0 (n,) in the dtype of the solve. InputError when it is no right-hand side."""
    compiled = None if vectorized else compiled_rhs(function, args, p)
    if compiled is not None and compiled.in_scipys_manner and not JIT_DISABLED:
        try:
            compiled.socket(y0.dtype)
        except FieldError:  # it compiles for other types of arguments or answers only: then it is called from Python
            compiled = None
    if compiled is not None:
        return compiled.bind(_parameters(compiled.name, args, p), y0, t0)
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
            name = function.py_func.__name__
            raise FieldError(f"the compiled right-hand side `{name}` does not compile for args of types ({kinds}).\n{_SCIPY_USAGE}") from error

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
