"""The one door to Numba.

`kernel` compiles on first call, keeps the result on disk and never compiles at import. A `dual` function calls a field, whose functions `specialize`
binds: compiled for a compiled field, interpreted (with all its arithmetic still in kernels) for a Python one.
Functions of the user reach the loop through `fields.sockets`.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import parse_bitcode
from numba.core import cgutils
from numba.core import types as numba_types
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.codegen import JITCodeLibrary
from numba.extending import intrinsic, overload

# Contraction keeps NaN, inf and the order of sums; nnan, ninf and reassoc would not, and the accept test depends on them.
_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
_DUALS: dict[Any, bool] = {}
_UNCACHED: list[str] = []
_ANNOUNCED: list[Any] = []

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


class _Library(JITCodeLibrary):
    """Compiled code from disk. Its bitcode, which only code that is compiled later and calls it needs, is parsed then: it takes longer than all the rest."""

    _bitcode: bytes | None = None

    @classmethod
    def _unserialize(cls, codegen: Any, state: Any) -> Any:
        name, _, (code, bitcode, symbols) = state
        library = codegen.create_library(name)
        library._bitcode = bitcode
        library.enable_object_caching()
        library._set_compiled_object(code)
        library._finalize_final_module()
        codegen._engine._defined_symbols |= symbols
        return library

    def _get_module_for_linking(self) -> Any:
        if self._bitcode is not None:
            self._shared_module, self._bitcode = parse_bitcode(self._bitcode), None
        return super()._get_module_for_linking()


class _OnDisk(CompileResultCacheImpl):
    """What is kept of a kernel: what Numba keeps, and the names that its code defines."""

    def reduce(self, result: Any) -> Any:
        (name, kind, (code, bitcode)), *others = super().reduce(result)
        module = result.library._get_module_for_linking()
        symbols = {value.name for values in (module.functions, module.global_variables) for value in values if not value.is_declaration}
        return ((name, kind, (code, bitcode, symbols)), *others)

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        codegen = target_context.codegen()
        usual, codegen._library_class = codegen._library_class, _Library  # Numba's compiler lock is held here
        try:
            return super().rebuild(target_context, payload)
        finally:
            codegen._library_class = usual


class _Cache(FunctionCache):
    """Numba's cache on disk, in which a kernel also grows stale when a module whose kernels it calls has changed."""

    _impl_class = _OnDisk if numba.version_info.short <= (0, 68) else CompileResultCacheImpl  # what it takes from Numba is not said to stay
    _stamp = _source_stamp()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None and not _ANNOUNCED:
            _ANNOUNCED.append(sys.stderr)
            print(f"adaptode: compiling, some seconds on the first run only (kept in {self.cache_path})", file=sys.stderr, flush=True)
        return found

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), self._stamp)


def kernel(function: Callable[..., Any] | None = None, *, forceinline: bool = False) -> Any:
    """Compile `function` on its first call and keep it on disk; under NUMBA_DISABLE_JIT=1 it stays plain Python.

    forceinline: where a kernel calls it for a few numbers at a time, and the call would cost more than the work.
    """
    if function is None:
        return partial(kernel, forceinline=forceinline)
    compiled = numba.njit(function, forceinline=forceinline, **_OPTIONS)
    if not JIT_DISABLED:
        try:
            compiled._cache = _Cache(function)
        except (RuntimeError, OSError) as error:  # no writable folder beside the source, in the user's home, or in NUMBA_CACHE_DIR
            _warn_uncached(str(error).splitlines()[0])
    return compiled


def inline(function: Callable[..., Any]) -> Any:
    """A helper that becomes part of the kernels that use it, whatever its size, with the constants and shapes they give it; not kept by itself."""
    return numba.njit(function, forceinline=True, **_OPTIONS)


def spliced(function: Callable[..., Any]) -> Any:
    """As `inline`, merged before types are known: what is compiled is the caller alone, which saves time where functions call each other in a long chain."""
    return numba.njit(function, inline="always", **_OPTIONS)


def by_precision(double: Callable[[Any], Any], single: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of one number, for kernels: `single` where that is float32, else `double`."""

    def chosen(z):
        return single(z) if isinstance(z, np.float32) else double(z)

    @overload(chosen, jit_options={"forceinline": True, **_OPTIONS})
    def _choose(z):
        return (lambda z: single(z)) if z == numba_types.float32 else (lambda z: double(z))

    return chosen


def dual(function: Callable[..., Any] | None = None, *, apart: bool = False) -> Any:
    """Mark a template: a function that calls a field through global names, to be bound to one by `specialize`.

    apart: rarely called, it stays a function of its own where it is compiled, which is quicker to compile.
    """
    if function is None:
        return partial(dual, apart=apart)
    _DUALS[function] = apart
    return function


def specialize(function: Callable[..., Any], *, compiled: bool, finish: Callable[..., Any] = kernel, **field: Any) -> Any:
    """A copy of a `dual` function, and of every `dual` function it calls, with the names in `field` bound to a kind of field.

    compiled=True makes the whole one kernel, kept on disk; compiled=False leaves the copies in Python, calling kernels as they are.
    Binding by name and not by argument is what lets Numba keep the result on disk; what is bound to a user's function must not be (finish=inline or
    spliced), for the file's name would not tell one from another.
    """
    return _specialize(function, compiled, field, finish)


def _specialize(function: Callable[..., Any], compiled: bool, field: dict[str, Any], finish: Callable[..., Any]) -> Any:
    scope = dict(function.__globals__) | field
    for name in function.__code__.co_names:
        value = scope.get(name)
        if isinstance(value, types.FunctionType) and value in _DUALS:
            scope[name] = _specialize(value, compiled, field, partial(numba.njit, **_OPTIONS) if _DUALS[value] else inline)
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    return finish(copy) if compiled and not JIT_DISABLED else copy


def is_compiled(function: Any) -> bool:
    """True for a function made by numba.njit."""
    return isinstance(function, numba.core.dispatcher.Dispatcher)


def _without_owner(context, builder, kind, value):
    """The same value, its arrays' owners forgotten, in tuples too."""
    if isinstance(kind, numba_types.Array):
        view = context.make_array(kind)(context, builder, value)
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        return view._getvalue()
    if isinstance(kind, numba_types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, value)
        return context.make_tuple(builder, kind, [_without_owner(context, builder, *pair) for pair in zip(kind.types, parts, strict=True)])
    return value


@intrinsic
def _unowned(context, value):
    def generate(context, builder, signature, values):
        return _without_owner(context, builder, value, values[0])

    return value(value), generate


def borrow(value: Any) -> Any:
    """The same array, or tuple of arrays and tuples, references to it no longer counted by compiled code.

    Counting costs more than the sums do in a loop over a small state.

    Only for arguments of a kernel, which outlive it: what a kernel makes itself is gone after its last use under its own name.
    """
    return value


@overload(borrow, jit_options={"forceinline": True, **_OPTIONS})
def _borrow(value):
    return lambda value: _unowned(value)


def direct(function: Any, *arguments: Any) -> Any:
    """The compiled code of a kernel for arguments like these, which takes all others to be of the same types.

    To ask is most of the cost of a call with tuples of arrays.
    """
    return function if JIT_DISABLED else function.get_overload(tuple(map(numba.typeof, arguments)))


@intrinsic
def _viewed(context, array, start, shape):
    result = numba_types.Array(array.dtype, len(shape), "C")

    def generate(context, builder, signature, values):
        source = context.make_array(array)(context, builder, values[0])
        view = context.make_array(result)(context, builder)
        sizes = cgutils.unpack_tuple(builder, context.cast(builder, values[2], shape, numba_types.UniTuple(numba_types.intp, len(shape))))
        item = context.get_constant(numba_types.intp, context.get_abi_sizeof(context.get_data_type(array.dtype)))
        steps = [item]
        for size in reversed(sizes[1:]):
            steps.insert(0, builder.mul(steps[0], size))
        first = builder.gep(source.data, [context.cast(builder, values[1], signature.args[1], numba_types.intp)])
        nothing = cgutils.get_null_value(view.meminfo.type)
        context.populate_array(view, data=first, shape=sizes, strides=steps, itemsize=item, meminfo=nothing)
        return view._getvalue()

    return result(array, start, shape), generate


def part(array: Any, start: int, shape: tuple[int, ...]) -> Any:
    """What begins at element number `start` of an array that lies in one piece, as an array of that shape; not checked, and as by `borrow` not counted.

    A reshape, which calls a function, costs as much as a small product.
    """
    size = int(np.prod(shape))
    return array.reshape(-1)[start : start + size].reshape(shape)


@overload(part, jit_options={"forceinline": True, **_OPTIONS})
def _part(array, start, shape):
    return lambda array, start, shape: _viewed(array, start, shape)


FRAME_BYTES = 2**15


@intrinsic
def _in_frame(context, like):
    result = numba_types.Array(like.dtype, 1, "C")

    def generate(context, builder, signature, values):
        number = context.get_data_type(like.dtype)
        item = context.get_abi_sizeof(number)
        count = FRAME_BYTES // item
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(number, count))  # cgutils.alloca_once would fill it with zeros
        memory.align = 64
        view = context.make_array(result)(context, builder)
        shape, strides = (cgutils.pack_array(builder, [context.get_constant(numba_types.intp, x)]) for x in (count, item))
        first = builder.bitcast(memory, number.as_pointer())
        context.populate_array(
            view, data=first, shape=shape, strides=strides, itemsize=context.get_constant(numba_types.intp, item), meminfo=None
        )
        return view._getvalue()

    return result(like), generate


def in_frame(like: Any) -> Any:
    """FRAME_BYTES of the calling kernel's own memory as an array of like's dtype, gone when it returns: for what it calls, not for whoever keeps it."""
    return np.empty(FRAME_BYTES // like.itemsize, like.dtype)


@overload(in_frame, inline="always")  # before LLVM sees it: the frame must be the kernel's
def _frame(like):
    return lambda like: _in_frame(like)


@intrinsic
def _arrive(context, counter):
    def generate(context, builder, signature, values):
        place = context.make_array(counter)(context, builder, values[0]).data
        return builder.atomic_rmw("add", place, context.get_constant(counter.dtype, 1), "seq_cst")

    return counter.dtype(counter), generate


@intrinsic
def _arrived(context, counter):
    def generate(context, builder, signature, values):
        place = context.make_array(counter)(context, builder, values[0]).data
        return builder.load_atomic(place, "acquire", 8)

    return counter.dtype(counter), generate


def meet(counter: Any, parties: int, times: int) -> bool:
    """In compiled code: waits until all parties have come here for that many times, by a counter (1,) int64 that all see; False if one gave up, counter < 0.

    What each wrote before is then seen by all. It waits by looking, and lets others have the core where that takes long.
    """
    raise NotImplementedError("only compiled code waits")


_LOOKS = 20_000  # some hundredths of a millisecond
_let_others = numba_types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", numba_types.intc())


@overload(meet)
def _meet(counter, parties, times):
    def wait(counter, parties, times):
        _arrive(counter)
        looks = 0
        while True:
            seen = _arrived(counter)
            if seen < 0 or seen >= parties * times:
                return seen >= 0
            looks += 1
            if looks > _LOOKS:
                _let_others()

    return wait
