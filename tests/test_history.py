"""History and result: columns, growth, round trip."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.errors import InputError
from adaptode.training import Evaluation, FitResult, History

numbers = st.floats(allow_nan=False, allow_infinity=False)


def filled(length, parts=("task", "local_error")):
    history = History()
    for i in range(length):
        evaluation = Evaluation(float(i), None, {name: i + 0.25 for name in parts}, 3 * i, 2 * i, 0.125)
        history.append(i, i // 4, evaluation, grad_norm=i / 2, learning_rate=1e-3, seconds=0.5)
    return history


@pytest.mark.parametrize("length", [1, 255, 256, 257, 2000])
def test_rows_become_columns(length):
    history = filled(length)
    rows = np.arange(length)
    assert len(history) == length
    for name, expected in {
        "step": rows,
        "epoch": rows // 4,
        "loss": rows,
        "parts.task": rows + 0.25,
        "parts.local_error": rows + 0.25,
        "nfe_forward": 3 * rows,
        "nfe_backward": 2 * rows,
        "error": np.full(length, 0.125),
        "grad_norm": rows / 2,
        "learning_rate": np.full(length, 1e-3),
        "seconds": np.full(length, 0.5),
    }.items():
        column = history.column(name)
        np.testing.assert_array_equal(column, expected)
        assert column.dtype == (np.int64 if name in ("step", "epoch", "nfe_forward", "nfe_backward") else np.float64)


@given(st.lists(st.tuples(numbers, numbers, st.integers(0, 2**40)), min_size=1, max_size=20))
def test_arrays_round_trip(rows):
    history = History()
    for i, (loss, part, nfe) in enumerate(rows):
        history.append(i, 0, Evaluation(loss, None, {"a b/c": part}, nfe, 0, 0.0), 1.0, 0.1, 0.0)
    arrays = history.to_arrays()
    again = History.from_arrays(arrays)
    again.append(len(rows), 1, Evaluation(1.0, None, {"a b/c": 2.0}), 1.0, 0.1, 0.0)
    assert len(again) == len(rows) + 1 and len(history) == len(rows)
    for name, column in arrays.items():
        np.testing.assert_array_equal(again.column(name)[:-1], column)


def test_empty_round_trip():
    history = History.from_arrays(History().to_arrays())
    assert len(history) == 0 and repr(history) == "History(empty)"
    history.append(0, 0, Evaluation(1.0, None, {"task": 1.0}), 1.0, 0.1, 0.0)
    assert history.column("parts.task").tolist() == [1.0]


def test_truncate():
    history = filled(10)
    history.truncate(12)
    assert len(history) == 10
    history.truncate(4)
    assert history.column("step").tolist() == [0, 1, 2, 3]


def test_columns_are_copies():
    history = filled(3)
    history.column("loss")[:] = 99
    assert history.column("loss").tolist() == [0, 1, 2]


def test_parts_are_found_by_name():
    history = filled(1)
    history.append(1, 0, Evaluation(1.0, None, {"local_error": 5.0, "task": 4.0}), 1.0, 0.1, 0.0)
    assert history.column("parts.task")[1] == 4.0


@pytest.mark.parametrize("parts", [{}, {"task": 1.0}, {"task": 1.0, "other": 2.0}])
def test_parts_must_stay(parts):
    history = filled(2)
    with pytest.raises(InputError, match="step 2"):
        history.append(2, 0, Evaluation(1.0, None, parts), 1.0, 0.1, 0.0)
    assert len(history) == 2


def test_bad_names():
    with pytest.raises(InputError, match="no column 'lost'; the history has step"):
        filled(1).column("lost")
    with pytest.raises(InputError, match="columns"):
        History.from_arrays({"step": np.zeros(1)})


def test_short_reprs():
    history = filled(3)
    assert repr(history) == "History(3 steps, loss 0 -> 2)"
    result = FitResult(np.zeros(2), history, {}, 3, 0, "finished", "", 1.5)
    assert repr(result) == "FitResult(finished after 3 steps, History(3 steps, loss 0 -> 2), 1.5 s)"
