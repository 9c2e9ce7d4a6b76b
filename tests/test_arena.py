"""Scratch memory: arrays that do not overlap, live as long as anyone holds them, and come back afterwards."""

import numpy as np
import pytest

from adaptode.fields import arena
from adaptode.fields.arena import Arena


@pytest.mark.parametrize("dtype", [np.float32, np.float64, complex])
def test_arrays_do_not_overlap(dtype):
    shapes = [(3, 5), (1,), (2, 2, 7), (0,)]
    room = Arena(sum(int(np.prod(s)) for s in shapes), len(shapes), dtype)
    arrays = [room.zeros(shape) for shape in shapes]
    for i, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable and not array.any()
        array += i
    assert [set(a.ravel().real) for a in arrays] == [{0}, {1}, {2}, set()]


def test_memory_comes_back_only_when_the_last_array_is_gone():
    room = Arena(1000, 2, float)
    where = room.array((500,)).__array_interface__["data"][0]
    view = room.zeros((500,))[3:].reshape(7, 71)
    del room
    other = Arena(1000, 2, float).zeros((1000,))
    assert not np.shares_memory(other, view)
    del view
    assert Arena(1000, 2, float).array((1,)).__array_interface__["data"][0] == where


def test_not_all_is_kept(monkeypatch):
    monkeypatch.setattr(arena, "_KEPT", 3 * 2**13)
    monkeypatch.setattr(arena, "_free", {})
    held = [Arena(1000, 1, float) for _ in range(5)]
    del held
    assert [len(pool) for pool in arena._free.values()] == [3]
