"""Used memory: nobody sees another's numbers, whoever keeps a view of them, in whatever thread."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode import room

LARGE = room._LEAST // 8 + 1000  # float64 numbers


@pytest.fixture(autouse=True)
def _nothing_kept():
    room.forget()
    yield
    room.forget()


def place(array):
    return array.__array_interface__["data"][0]


@given(st.lists(st.tuples(st.sampled_from(["take", "drop", "view"]), st.integers(0, 9), st.integers(0, 3)), max_size=40))
def test_what_is_referred_to_is_nobody_elses(moves):
    held, made = [], 0  # (array or view, the number that it is full of)
    for move, which, size in moves:
        if move == "take":
            array = room.empty((2, LARGE + 3000 * size), np.float64)
            made += 1
            array.fill(made)
            held.append((array, made))
        elif held and move == "drop":
            held.pop(which % len(held))
        elif held:
            array, number = held[which % len(held)]
            held[which % len(held)] = array.ravel()[which :: 1 + size].view(), number
        assert all((array == number).all() for array, number in held)


def test_memory_comes_back_when_the_last_view_is_gone():
    a = room.empty((3, LARGE), np.float64)
    first, view = place(a), a[1:].ravel()[::7]
    del a
    assert not room._spare and place(room.empty((3, LARGE), np.float64)) != first
    room.forget()
    del view
    again = room.empty(3 * LARGE, np.float64)
    assert place(again) == first and not room._spare


def test_the_smallest_that_fits_and_none_that_is_much_larger():
    sizes = LARGE, int(1.1 * LARGE), 3 * LARGE
    arrays = [room.empty(size, np.float64) for size in sizes]
    places = [place(array) for array in arrays]
    del arrays
    assert place(room.empty(LARGE, np.float64)) == places[0]
    fits = room.empty(int(1.05 * LARGE), np.float64)
    assert place(fits) == places[1]
    new = room.empty(2 * LARGE, np.float64)
    assert place(new) not in places
    assert place(room.empty(int(1.9 * LARGE), np.float64, scratch=True)) == places[2]


def test_no_more_is_kept_than_it_says(monkeypatch):
    monkeypatch.setattr(room, "_MOST", 40 * LARGE)
    arrays = [room.empty(LARGE + k, np.float64) for k in range(9)]
    last = place(arrays[-1])
    for _ in range(len(arrays)):
        arrays.pop(0)
    assert sum(memory.size for memory in room._spare.values()) <= 40 * LARGE
    assert len(room._spare) == 4 and place(room.empty(LARGE + 8, np.float64)) == last


def test_what_is_larger_than_all_that_is_kept_does_not_drive_out_the_rest(monkeypatch):
    monkeypatch.setattr(room, "_MOST", 20 * LARGE)
    small, large = room.empty(LARGE, np.float64), room.empty(3 * LARGE, np.float64)
    first = place(small)
    del small
    del large
    assert len(room._spare) == 1 and place(room.empty(LARGE, np.float64)) == first


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "int8"])
@pytest.mark.parametrize("shape", [0, 7, (0, 3), (2, 3), 10 * LARGE, (3, LARGE, 5)])
def test_like_numpys(shape, dtype):
    for make in (room.empty, room.zeros):
        array = make(shape, dtype)
        assert array.dtype == dtype and array.shape == np.empty(shape).shape
        assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
        assert array.nbytes < room._LEAST or place(array) % 64 == 0
    assert not array.any()
    strided = np.arange(2 * LARGE, dtype=dtype).reshape(-1, 2).T
    assert np.array_equal(room.copy(strided), strided) and room.copy(strided).flags.c_contiguous


def test_tracemalloc_sees_everything():
    del_me = room.empty(LARGE, np.float64)
    del del_me
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        array = room.empty(LARGE, np.float64)
        assert tracemalloc.get_traced_memory()[0] - before >= array.nbytes
    finally:
        tracemalloc.stop()


def test_threads():
    bad = []

    def work(number):
        for k in range(200):
            arrays = [room.empty(LARGE + 100 * (k % 3), np.int64) for _ in range(3)]
            for j, array in enumerate(arrays):
                array.fill(1000 * number + j)
            bad.extend(j for j, array in enumerate(arrays) if (array != 1000 * number + j).any())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not bad


def test_a_room_hands_out_what_it_has_once():
    hall = room.Room(10, np.float32)
    a, b = hall.take(2, 3), hall.take(4)
    a.fill(1)
    b.fill(2)
    assert a.shape == (2, 3) and (a == 1).all() and a.dtype == np.float32
    with pytest.raises(AssertionError):
        hall.take(1)


@pytest.mark.parametrize("numbers, error", [(2**57, MemoryError), (2**61, ValueError)])
def test_too_much_is_what_it_is_in_numpy(numbers, error):
    for empty in (np.empty, room.empty):
        with pytest.raises(error):
            empty(numbers, np.float64)


def test_where_there_are_no_pages_to_ask_for(monkeypatch):
    monkeypatch.delattr(room.mmap, "MAP_ANONYMOUS", raising=False)
    array = room.zeros(LARGE, np.float64)
    assert array.size == LARGE and not array.any()
