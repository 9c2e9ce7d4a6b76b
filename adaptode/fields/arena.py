"""Scratch memory that is used again: large arrays made and dropped at every call cost more in page faults than the arithmetic on them."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LINE = 64  # bytes: arrays begin at multiples of it
_KEPT = 2**26  # bytes kept of a size; what is dropped beyond goes back to the system
_free: dict[int, list[NDArray[np.uint8]]] = {}  # buffers by size, a power of two; pop and append are atomic


class Arena:
    """Room for `arrays` arrays of one dtype with `count` numbers in all, in one buffer, which is used again once the last of the arrays is gone."""

    def __init__(self, count: int, arrays: int, dtype: Any) -> None:
        self._dtype, self._used = np.dtype(dtype), 0
        size = 1 << (max(1, count * self._dtype.itemsize + arrays * _LINE) - 1).bit_length()
        pool = _free.setdefault(size, [])
        try:
            buffer = pool.pop()
        except IndexError:
            buffer = np.empty(size, np.uint8)
        lease = (ctypes.c_char * size).from_buffer(buffer)  # what every array has as its base
        weakref.finalize(lease, _give, pool, buffer).atexit = False
        self._bytes = np.frombuffer(lease, np.uint8)

    def array(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The next array, its numbers what they happen to be."""
        begin = self._used
        end = begin + int(np.prod(shape)) * self._dtype.itemsize
        self._used = -(-end // _LINE) * _LINE
        return self._bytes[begin:end].view(self._dtype).reshape(shape)

    def zeros(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The next array, of zeros."""
        out = self.array(shape)
        out.fill(0)
        return out


def _give(pool: list[NDArray[np.uint8]], buffer: NDArray[np.uint8]) -> None:
    if (len(pool) + 1) * buffer.size <= _KEPT:
        pool.append(buffer)
