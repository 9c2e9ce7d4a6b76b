"""Fields given by the user: plain NumPy functions, or functions compiled with numba.njit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from .._jit import JIT_DISABLED, is_compiled
from ..errors import FieldError, InputError
from .protocol import Array, Bound, Field
from .sockets import array_signature, compile_for, socket_bound, value_socket, vjp_socket

_USAGE = "Its arrays are flat; it fills or adds to its last ones in place and returns nothing. A plain Python function needs no jit at all."
_TIME_USAGE = "Its arrays are flat, and it returns one number."


class PythonField(Field):
    """f(t, y, theta) -> (B, n) in NumPy, with as many derivatives as are given.

    value        f(t, y, theta) -> (B, n)
    vjp          (t, y, theta, w) -> (y_bar (B, n), theta_bar (P,)); needed by every adjoint
    jvp          (t, y, theta, y_dot) -> (B, n)
    time_vjp     (t, y, theta, w) -> ⟨w, ∂f/∂t⟩, a number; for gradients with respect to the ends of the span
    jacobian     (t, y, theta) -> (B, n, n); bilinear_vjp (t, y, theta, u, w) -> (y_bar, theta_bar); needed by Jacobian penalties

    The functions get read-only views, and what they return is copied. An exception raised in one passes through unchanged.
    InputError when one does not take these arguments; FieldError when one returns something of another shape, or writes into its arguments.
    """

    def __init__(
        self,
        value: Callable[..., Any],
        n: int,
        n_params: int = 0,
        *,
        vjp: Callable[..., Any] | None = None,
        jvp: Callable[..., Any] | None = None,
        time_vjp: Callable[..., Any] | None = None,
        jacobian: Callable[..., Any] | None = None,
        bilinear_vjp: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        _check_counts(n, n_params)
        if not callable(value):
            raise InputError(f"PythonField needs a function value(t, y, theta) -> (B, n); got {value!r}")
        self.n, self.n_params = int(n), int(n_params)
        self.name = name or _name(value)
        self._functions = {"value": value, "vjp": vjp, "jvp": jvp, "time_vjp": time_vjp, "jacobian": jacobian, "bilinear_vjp": bilinear_vjp}
        for which, function in self._functions.items():
            if function is not None:
                _check_signature(which, function)

    def __repr__(self) -> str:
        return f"PythonField({self.name}, n={self.n}, n_params={self.n_params})"

    def bind(self, theta: Array, batch: int, dtype: Any) -> Bound:
        shape = (batch, self.n)
        theta = np.array(theta, dtype=dtype)
        theta.flags.writeable = False

        def view(x: Array) -> Array:
            x = x.reshape(shape)
            x.flags.writeable = False
            return x

        def value(t: float, y: Array, theta: Array, out: Array) -> None:
            out[:] = self._answer("value", (t, view(y), theta), (shape,))[0].ravel()

        def vjp(t: float, y: Array, theta: Array, w: Array, y_bar: Array, theta_bar: Array) -> None:
            y_part, theta_part = self._answer("vjp", (t, view(y), theta, view(w)), (shape, (self.n_params,)))
            y_bar += y_part.ravel()
            theta_bar += theta_part

        return _user_bound(value, vjp, theta)

    def jvp(self, t: float, y: Array, theta: Array, y_dot: Array) -> Array:
        y, theta = self.check(y, theta)
        return self._derivative("jvp", (t, y, theta, self._like(y_dot, y, "y_dot")), (y.shape,))[0]

    def time_vjp(self, t: float, y: Array, theta: Array, w: Array) -> float:
        y, theta = self.check(y, theta)
        return float(self._derivative("time_vjp", (t, y, theta, self._like(w, y, "w")), ((),))[0])

    def jacobian(self, t: float, y: Array, theta: Array) -> Array:
        y, theta = self.check(y, theta)
        return self._derivative("jacobian", (t, y, theta), ((*y.shape, self.n),))[0]

    def bilinear_vjp(self, t: float, y: Array, theta: Array, u: Array, w: Array) -> tuple[Array, Array]:
        y, theta = self.check(y, theta)
        y_bar, theta_bar = self._derivative("bilinear_vjp", (t, y, theta, *self._directions(u, w, y)), (y.shape, theta.shape))
        return y_bar, theta_bar

    def _derivative(self, which: str, arguments: tuple[Any, ...], shapes: tuple[tuple[int, ...], ...]) -> tuple[Array, ...]:
        """`_answer` to read-only views of (t, arrays …), copied, in the dtype of y."""
        arrays = [a.view() for a in arguments[1:]]
        for a in arrays:
            a.flags.writeable = False
        return tuple(a.astype(arrays[0].dtype) for a in self._answer(which, (arguments[0], *arrays), shapes))

    def function(self, name: str) -> Callable[..., Any] | None:
        """The function given for "value" or a derivative, as it is; None where there is none."""
        return self._functions[name]

    def _has(self, name: str) -> bool:
        return self._functions.get(name) is not None

    def _answer(self, which: str, arguments: tuple[Any, ...], shapes: tuple[tuple[int, ...], ...]) -> tuple[Array, ...]:
        function = self._functions[which]
        if function is None:
            raise self._missing(which)
        try:
            answer = function(*arguments)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise FieldError(
                f"`{which}` of {self.name} writes into its arguments, which belong to the solver ({error}); work on a copy: y = y.copy(), or y * 2 for y *= 2"
            ) from error
        parts = (answer,) if len(shapes) == 1 else answer
        try:
            arrays = tuple(np.asarray(part) for part in parts)
        except (TypeError, ValueError):  # None for a pair, a ragged list
            arrays = ()
        if any(a.dtype.kind not in "biuf" for a in arrays):  # NumPy would make NaN of None, and drop an imaginary part
            arrays = ()
        if tuple(a.shape for a in arrays) != shapes:
            got = type(answer).__name__ if not arrays else ", ".join(str(a.shape) for a in arrays)
            raise FieldError(f"`{which}` of {self.name} must return shape {', '.join(map(str, shapes))}; got {got}")
        return arrays


def _user_bound(value: Any, vjp: Any, theta: Array) -> Bound:
    """A user's field keeps nothing for its transpose."""

    def linearize(t: float, y: Array, theta: Array, out: Array, kept: Array) -> None:
        if out.size:
            value(t, y, theta, out)

    def pullback(t: float, y: Array, theta: Array, kept: Array, w: Array, y_bar: Array, theta_bar: Array) -> None:
        vjp(t, y, theta, w, y_bar, theta_bar)

    return Bound("python", value, linearize, pullback, theta, 0)


class CompiledField(Field):
    """f compiled with numba.njit: value(t, y, theta, out) fills out; vjp(t, y, theta, w, y_bar, theta_bar) adds to y_bar and theta_bar.

    time_vjp(t, y, theta, w), optional, returns the number ⟨w, ∂f/∂t⟩: for gradients with respect to the ends of the span.
    All arrays are flat and C-contiguous; a batch (B, n) arrives as its (B·n,) view, and the functions loop over its
    samples. The loop that calls them is compiled once for all such
    fields and kept on disk: a new field costs only its own compilation.
    """

    def __init__(self, value: Any, n: int, n_params: int = 0, *, vjp: Any = None, time_vjp: Any = None, name: str | None = None) -> None:
        _check_counts(n, n_params)
        for role, function in (("value", value), ("vjp", vjp), ("time_vjp", time_vjp)):
            if function is not None and not is_compiled(function) and not JIT_DISABLED:
                raise InputError(f"CompiledField needs a {role} made by numba.njit; for a plain Python function use PythonField")
        self.n, self.n_params = int(n), int(n_params)
        self.name = name or _name(getattr(value, "py_func", value))
        self._value, self._vjp, self._time_vjp = value, vjp, time_vjp
        self._sockets: dict[np.dtype, tuple[Any, Any]] = {}

    def __repr__(self) -> str:
        return f"CompiledField({self.name}, n={self.n}, n_params={self.n_params})"

    def bind(self, theta: Array, batch: int, dtype: Any) -> Bound:
        theta = np.array(theta, dtype=dtype)
        value, vjp = self._value, self._vjp or self._no_vjp
        if JIT_DISABLED:
            return _user_bound(value, vjp, theta)
        return socket_bound(*self._compiled(np.dtype(dtype)), value, vjp, theta)

    def _compiled(self, dtype: np.dtype) -> tuple[Any, Any]:
        """The functions' sockets for one dtype, made once."""
        if dtype not in self._sockets:
            compile_for(self._value, array_signature(3, dtype), "value", _USAGE)
            vjp = None
            if self._vjp is not None:
                compile_for(self._vjp, array_signature(5, dtype), "vjp", _USAGE)
                vjp = vjp_socket(self._vjp, dtype)
            self._sockets[dtype] = value_socket(self._value, dtype), vjp
        return self._sockets[dtype]

    def time_vjp(self, t: float, y: Array, theta: Array, w: Array) -> float:
        if self._time_vjp is None:
            raise self._missing("time_vjp")
        y, theta = self.check(y, theta)
        w = self._like(w, y, "w").ravel()
        if not JIT_DISABLED:
            compile_for(self._time_vjp, array_signature(3, y.dtype), "time_vjp", _TIME_USAGE, returns_nothing=False)
        answer = self._time_vjp(float(t), y.ravel(), theta, w)
        if not isinstance(answer, (float, int, np.floating)):
            raise FieldError(f"`time_vjp` of {self.name} must return a number; got {type(answer).__name__}")
        return float(answer)

    def _has(self, name: str) -> bool:
        return (name == "vjp" and self._vjp is not None) or (name == "time_vjp" and self._time_vjp is not None)

    def _no_vjp(self, *arguments: Any) -> None:
        raise self._missing("vjp")


_ARGUMENTS = {"value": "t, y, theta", "vjp": "t, y, theta, w", "jvp": "t, y, theta, y_dot", "time_vjp": "t, y, theta, w"}
_ARGUMENTS |= {"jacobian": "t, y, theta", "bilinear_vjp": "t, y, theta, u, w"}

_UNNAMED = "the field"


def _name(function: Any) -> str:
    """What messages call a field: its function's name, unless that says nothing."""
    name = getattr(function, "__qualname__", type(function).__qualname__).rpartition("<locals>.")[2]
    return _UNNAMED if name in ("value", "<lambda>") else name


def _check_signature(which: str, function: Callable[..., Any]) -> None:
    """InputError unless `function` can be called as f(t, y, theta, ...): SciPy's functions, for one, are f(t, y)."""
    arguments = _ARGUMENTS[which]
    if not callable(function):
        raise InputError(f"PythonField: {which} must be a function {which}({arguments}); got {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some compiled functions have none to look at
        return
    try:
        signature.bind(*arguments.split(", "))
    except TypeError:
        name = "the function given" if (name := _name(function)) == _UNNAMED else name
        hint = "; a field without parameters takes theta too, and ignores it" if which == "value" else ""
        raise InputError(f"PythonField calls {which}({arguments}), but {name} takes {signature}{hint}") from None


def _check_counts(n: int, n_params: int) -> None:
    if not (isinstance(n, (int, np.integer)) and n > 0 and isinstance(n_params, (int, np.integer)) and n_params >= 0):
        raise InputError(f"a field needs n >= 1 components and n_params >= 0 parameters; got n={n!r}, n_params={n_params!r}")
