"""Memory that is used again: new memory costs as much as the sums that are made in it, a page fault for every four kilobytes.

A large array that nothing refers to any more, not even a view, leaves its memory to the next of about its size.
"""

from __future__ import annotations

import math
import mmap
import tracemalloc
import weakref
from contextlib import suppress
from operator import itemgetter
from typing import Any

import numpy as np

_LEAST = 2**17  # bytes; what is less comes from the heap, whose pages are there already
_MOST = 2**26  # bytes kept for later
_WASTE, _SCRATCH_WASTE = 1.25, 4.0  # how much larger than what is asked for memory may be; that of scratch, which is soon given back
_HUGE = 2**22  # bytes from which large pages are asked for, as NumPy does
_LINE = 64  # bytes of a cache line, at which arrays begin

_spare: dict[int, np.ndarray] = {}  # the oldest first; without a lock, for arrays are given back wherever they are collected


def empty(shape: int | tuple[int, ...], dtype: Any, scratch: bool = False) -> np.ndarray:
    """As `numpy.empty`, of used memory if there is some. While tracemalloc counts, all is new. scratch: nobody else gets to see it."""
    dtype = np.dtype(dtype)
    wanted = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
    if wanted < _LEAST or tracemalloc.is_tracing():
        return np.empty(shape, dtype)
    memory = _take(wanted + _LINE, _SCRATCH_WASTE if scratch else _WASTE)
    lent = np.frombuffer(memory.data, dtype, wanted // dtype.itemsize, -memory.ctypes.data % _LINE)  # views refer to it, not to the memory
    weakref.finalize(lent, _give_back, memory).atexit = False
    return lent.reshape(shape)


def zeros(shape: int | tuple[int, ...], dtype: Any, scratch: bool = False) -> np.ndarray:
    """As `numpy.zeros`; see `empty`."""
    out = empty(shape, dtype, scratch)
    out.fill(0)
    return out


def copy(array: np.ndarray) -> np.ndarray:
    """As `numpy.array(array, order="C")`."""
    out = empty(array.shape, array.dtype)
    out[...] = array
    return out


def forget() -> None:
    """Returns what is kept for later to the system."""
    _spare.clear()


def _take(wanted: int, waste: float) -> np.ndarray:
    fitting = [(memory.size, key) for key, memory in reversed(_spare.copy().items()) if wanted <= memory.size <= waste * wanted]
    for _, key in sorted(fitting, key=itemgetter(0)):  # of one size the newest, which may be in a cache
        memory = _spare.pop(key, None)
        if memory is not None:
            return memory
    return _new(wanted)


def _new(wanted: int) -> np.ndarray:
    """Bytes from the system: pages of their own, that go back whole, where those of a heap would be cut up by what else lies there."""
    if hasattr(mmap, "MAP_ANONYMOUS"):
        with suppress(OSError, OverflowError):  # too much: NumPy says so in a MemoryError
            pages = mmap.mmap(-1, wanted, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if wanted >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
                with suppress(OSError):  # a kernel without them
                    pages.madvise(mmap.MADV_HUGEPAGE)
            return np.frombuffer(pages, np.uint8)
    return np.empty(wanted, np.uint8)


def _give_back(memory: np.ndarray) -> None:
    if memory.size > _MOST:
        return
    _spare[id(memory)] = memory
    kept = sum(old.size for old in _spare.copy().values())
    for key, old in _spare.copy().items():
        if kept <= _MOST:
            break
        if _spare.pop(key, None) is not None:
            kept -= old.size


class Room:
    """So many numbers of one dtype, not initialized, of which `take` gives an array at a time.

    In one piece, since the system gives large pieces in large pages.
    """

    def __init__(self, numbers: int, dtype: Any) -> None:
        self._block, self._used = empty(numbers, dtype), 0

    def take(self, *shape: int) -> np.ndarray:
        first = self._used
        self._used += math.prod(shape)
        assert self._used <= self._block.size
        return self._block[first : self._used].reshape(shape)
