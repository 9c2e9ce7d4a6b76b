"""The one door to Numba.

`kernel` compiles on first call, keeps the result on disk and never compiles at import. A `dual` function calls a field, whose functions `specialize`
binds: compiled for a compiled field, interpreted (with all its arithmetic still in kernels) for a Python one.
`socket` turns a user's jitted function into a typed function pointer, so that the loop that calls it is compiled once and for all.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.core.errors import NumbaError, NumbaExperimentalFeatureWarning
from numba.core.sigutils import normalize_signature

from .errors import FieldError

# Contraction keeps NaN, inf and the order of sums; nnan, ninf and reassoc would not, and the accept test depends on them.
_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
_DUALS: set[Any] = set()
_UNCACHED: list[str] = []

JIT_DISABLED: bool = bool(numba.config.DISABLE_JIT)


def _warn_uncached(reason: str) -> None:
    """One warning a process, though every kernel has the same reason."""
    _UNCACHED.append(reason)
    if len(_UNCACHED) > 1:
        return
    warnings.warn(
        f"adaptode cannot keep compiled code on disk ({reason}), so every new process compiles again. "
        "Set NUMBA_CACHE_DIR to a writable folder to keep it.",
        RuntimeWarning,
        stacklevel=5,
    )


def _source_stamp() -> str:
    """Size and time of every module that kernels are made of: Numba looks only at the module of the kernel itself."""
    root = Path(__file__).parent
    files = sorted(path for floor in ("", "fields", "adjoint") for path in (root / floor).glob("*.py"))
    return " ".join(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}" for path in files if (stat := path.stat()))


class _Cache(FunctionCache):
    """Numba's cache on disk, in which a kernel also grows stale when a module whose kernels it calls has changed."""

    _stamp = _source_stamp()

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), self._stamp)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on its first call and keep it on disk; under NUMBA_DISABLE_JIT=1 it stays plain Python."""
    compiled = numba.njit(function, **_OPTIONS)
    if not JIT_DISABLED:
        try:
            compiled._cache = _Cache(function)
        except (RuntimeError, OSError) as error:  # no writable folder beside the source, in the user's home, or in NUMBA_CACHE_DIR
            _warn_uncached(str(error).splitlines()[0])
    return compiled


def inline(function: Callable[..., Any]) -> Any:
    """A scalar helper, compiled into the kernels that use it and not kept by itself."""
    return numba.njit(function, **_OPTIONS)


def fused(function: Callable[..., Any]) -> Any:
    """As `inline`, and merged into its caller whatever its size, so that there the shapes and constants it is given are known to LLVM."""
    return numba.njit(function, forceinline=True, **_OPTIONS)


def spliced(function: Callable[..., Any]) -> Any:
    """As `fused`, merged before types are known: what is compiled is the caller alone, which saves time where functions call each other in a long chain."""
    return numba.njit(function, inline="always", **_OPTIONS)


def dual(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a template: a function that calls a field through global names, to be bound to one by `specialize`."""
    _DUALS.add(function)
    return function


def specialize(function: Callable[..., Any], *, compiled: bool, finish: Callable[..., Any] = kernel, **field: Any) -> Any:
    """A copy of a `dual` function, and of every `dual` function it calls, with the names in `field` bound to a kind of field.

    compiled=True makes the whole one kernel, kept on disk; compiled=False leaves the copies in Python, calling kernels as they are.
    Binding by name and not by argument is what lets Numba keep the result on disk. finish=inline, fused or spliced: kept in memory only.
    """
    return _specialize(function, compiled, field, finish)


def _specialize(function: Callable[..., Any], compiled: bool, field: dict[str, Any], finish: Callable[..., Any]) -> Any:
    scope = dict(function.__globals__) | field
    for name in function.__code__.co_names:
        value = scope.get(name)
        if isinstance(value, types.FunctionType) and value in _DUALS:
            scope[name] = _specialize(value, compiled, field, inline)
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    return finish(copy) if compiled and not JIT_DISABLED else copy


def is_compiled(function: Any) -> bool:
    """True for a function made by numba.njit."""
    return isinstance(function, numba.core.dispatcher.Dispatcher)


def socket(function: Any, arguments: str, role: str) -> Any:
    """`function` compiled for the given argument types, to be passed where a function pointer of that type is expected.

    arguments : Numba argument types, such as "f8, f8[::1], f8[::1], f8[::1]"
    raises FieldError when it does not compile for them, with Numba's own reason at the end
    """
    signature = normalize_signature(f"void({arguments})")[0]
    if signature not in function.overloads:
        try:
            function.compile(signature)
        except (NumbaError, TypeError) as error:  # TypeError: another number of arguments
            reason = next((line.strip() for line in str(error).splitlines() if line.strip() and "pipeline" not in line), "")
            raise FieldError(
                f"the compiled {role} `{function.py_func.__name__}` cannot be called as {role}({arguments}): {reason}\n"
                "Its arrays are flat; it fills or adds to its last ones in place and returns nothing. A plain Python function needs no jit at all."
            ) from error
    if not isinstance(function.overloads[signature].signature.return_type, numba.types.NoneType):
        raise FieldError(f"the compiled {role} `{function.py_func.__name__}` must fill its last array in place and return nothing")
    return function


def call_socket(entry: Any, functions: tuple[Any, ...], signatures: tuple[str, ...], *arguments: Any) -> Any:
    """Call a kernel whose first arguments are function pointers with the given signatures, made from functions that went through `socket`.

    Compiling for the pointer's type, and never for the function itself, is what keeps one compiled loop for all fields on disk.
    """
    sample = next(a for a in arguments if isinstance(a, np.ndarray))
    compiled_for = entry.__dict__.setdefault("adaptode_dtypes", set())
    if sample.dtype not in compiled_for:
        types_of = [normalize_signature(f"void({s})") for s in signatures]
        pointers = (numba.types.FunctionType(result(*types_in)) for types_in, result in types_of)
        entry.disable_compile(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaExperimentalFeatureWarning)  # function pointers: measured and tested here
            entry.compile((*pointers, *(numba.typeof(a) for a in arguments)))
        entry.disable_compile()
        compiled_for.add(sample.dtype)
    return entry(*functions, *arguments)
