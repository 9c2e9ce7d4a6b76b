"""Predicted bytes of every adjoint against what tracemalloc sees."""

from __future__ import annotations

import numpy as np
import pytest

import adaptode as ao
from adaptode.adjoint import ADJOINTS
from adaptode.errors import InputError
from adaptode.fields import PythonField

MODES = ["discrete, states", "discrete, stages", "discrete, checkpoints", "discrete, budget", "backsolve", "interpolating", "forward"]


def solved(sizes, batch, time, dtype, **options):
    field = ao.MLP(sizes, time=time)
    y = np.random.default_rng(0).normal(size=(batch, sizes[0])).astype(dtype)
    return ao.solve(field, field.init(0, dtype=dtype, scale=3), y, (0.0, 2.0), **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the states that backsolve recovered")  # its memory is asked for, not its accuracy
@pytest.mark.parametrize(
    ("sizes", "batch", "time", "dtype", "method"),
    [
        ((4, 16, 4), 2000, "every", np.float64, "Tsit5"),
        ((32, 256, 32), 64, "none", np.float32, "Tsit5"),
        ((3, 40, 40, 3), 700, "first", np.float64, "BS32"),
        ((100, 20, 100), 200, "every", np.float64, "Tsit5"),  # in hidden coordinates
    ],
)
def test_predictions_are_within_a_fifth_of_what_is_measured(sizes, batch, time, dtype, method, monkeypatch):
    from adaptode.adjoint import memory

    measured = memory._measured
    monkeypatch.setattr(memory, "_measured", lambda run, mode: None if mode.name == "forward" else measured(run, mode))  # it takes minutes here
    report = ao.memory_report(solved(sizes, batch, time, dtype, method=method, rtol=1e-4, atol=1e-4), measure=True)
    assert [row.mode for row in report.rows] == MODES
    for row in report.rows[:-1]:
        assert 0.8 < row.predicted / row.measured < 1.25, row


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the states that backsolve recovered")
def test_forwards_tangents():
    run = solved((2, 12, 2), 60, "every", np.float64, rtol=1e-3, atol=1e-3)
    report = ao.memory_report(run, measure=True)
    assert 0.8 < report["forward"].predicted / report["forward"].measured < 1.25


def test_what_is_traded():
    run = solved((2, 8, 2), 50, "every", np.float64, rtol=1e-8)
    report, m = ao.memory_report(run), run.grid.size - 1
    assert report["discrete, stages"].run - report["discrete, states"].run == 7 * m * run.end.nbytes
    few, many = (ao.memory_report(run, budget=k * run.end.nbytes)["discrete, budget"] for k in (1, 5))
    assert many.predicted - few.predicted == 4 * run.end.nbytes and few.run == many.run
    every = ao.memory_report(run, every=m)["discrete, checkpoints"]
    assert every.run == report["discrete, budget"].run < report["discrete, checkpoints"].run < report["discrete, states"].run
    assert str(report).splitlines()[0] == f"Tsit5, {m} steps, batch 50, n = 2, 52 parameters, float64"
    assert len(str(report).splitlines()) == 2 + len(MODES) and "KiB" in str(report)
    with pytest.raises(KeyError, match="there are 'discrete, states'"):
        report["states"]


def test_a_users_field_and_named_errors():
    field = PythonField(lambda t, y, theta: -theta * y, 1, 1, vjp=lambda t, y, theta, w: (-theta * w, [-np.sum(w * y)]))
    report = ao.memory_report(ao.solve(field, [1.0], np.ones((9, 1)), (0.0, 1.0)), measure=True)
    assert all(row.measured > 0 for row in report.rows)
    with pytest.raises(InputError, match="made steps"):
        ao.memory_report(ao.solve(field, [1.0], [[1.0]], (0.0, 0.0)))
    with pytest.raises(InputError, match="memory_report.run, y_bar. starts with the run"):
        ao.memory_report(field)
    assert set(ADJOINTS) - {"quadrature"} == {mode.split(",")[0] for mode in MODES}
