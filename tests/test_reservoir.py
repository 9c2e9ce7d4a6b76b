"""Reservoirs: one accepted state of a solve, all equally likely, without storing the others."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from scipy.stats import chisquare

import adaptode as ao
from adaptode.errors import InputError
from adaptode.fields import MLP, PythonField
from adaptode.reservoir import held, replacements

FIELD = MLP((2, 8, 2), time="first")
THETA = FIELD.init(3, scale=3.0)
Y = np.array([[0.8, -0.4], [0.2, 1.1]])
SEEDS = tuple(range(12))


def test_every_accepted_time_between_the_ends_is_equally_likely():
    for steps in (2, 3, 7, 20):
        counts = np.bincount([held(seed, steps) for seed in range(4000)], minlength=steps)
        assert counts[0] == 0 and counts.size == steps
        assert steps == 2 or chisquare(counts[1:]).pvalue > 1e-3
    assert held(5, 1) == held(5, 0) == 0


def test_replacements_grow_as_the_logarithm():
    for seed in range(50):
        first = list(islice(replacements(seed), 12))
        assert first[0] == 1 and all(np.diff(first) > 0)
    steps = 1000
    made = [next(k for k, j in enumerate(replacements(seed)) if j > steps) for seed in range(2000)]
    assert np.mean(made) == pytest.approx(np.sum(1 / np.arange(1, steps + 1)), rel=0.03)


@pytest.mark.parametrize("method", ["Tsit5", "BS32", "DOP853"])
@pytest.mark.parametrize("span", [(0.0, 3.0), (1.0, -2.0)])
@pytest.mark.parametrize("controller", ["pi", "torchdiffeq"])
def test_what_is_held_is_the_accepted_state(method, span, controller):
    options = {"method": method, "rtol": 1e-5, "atol": 1e-5, "controller": controller}
    full = ao.solve(FIELD, THETA, Y, span, **options)
    bare = ao.solve(FIELD, THETA, Y, span, **options, keep="none", reservoirs=SEEDS)
    assert bare.states is None and full.held == {} and full.grid.size > 4
    np.testing.assert_array_equal(bare.grid, full.grid)  # the chunks change nothing
    np.testing.assert_array_equal(bare.y1, full.y1)
    assert bare.nfev == full.nfev and len(bare.steps) == len(full.steps)
    assert set(bare.held) == set(SEEDS)
    for seed, y in bare.held.items():
        np.testing.assert_array_equal(y, full.states[held(seed, full.grid.size - 1)])
    assert len({held(seed, full.grid.size - 1) for seed in SEEDS}) > 1


def test_a_python_field_and_saved_outputs():
    field = PythonField(FIELD.value, 2, FIELD.n_params)
    runs = [ao.solve(f, THETA, Y, (0.0, 3.0), saveat=[0.4, 1.0, 3.0], reservoirs=(7, 7, 9)) for f in (field, FIELD)]
    assert list(runs[0].held) == [7, 9]
    for seed in (7, 9):
        np.testing.assert_allclose(runs[0].held[seed], runs[1].held[seed], rtol=1e-9)
    np.testing.assert_allclose(runs[0].y, runs[1].y, rtol=1e-9)


def test_one_step_or_none_holds_the_start():
    one = ao.solve(FIELD, THETA, Y, (0.0, 0.1), first_step=0.1, rtol=1.0, atol=1.0, reservoirs=(1,))
    assert one.grid.size == 2
    for run in (one, ao.solve(FIELD, THETA, Y, (0.5, 0.5), reservoirs=(1,))):
        np.testing.assert_array_equal(run.held[1], Y)


def test_seeds_that_are_none():
    for bad in ((-1,), (0.5,), "ab", 3):
        with pytest.raises(InputError, match="reservoirs must be seeds, whole numbers of at least 0"):
            ao.solve(FIELD, THETA, Y, (0.0, 1.0), reservoirs=bad)


def test_rows_stepped_one_by_one_hold_their_own():
    batch = ao.solve(FIELD, THETA, Y, (0.0, 3.0), batch="independent", reservoirs=(4,))
    for row, y in zip(batch.runs, Y, strict=True):
        alone = ao.solve(FIELD, THETA, y[None], (0.0, 3.0), reservoirs=(4,))
        np.testing.assert_array_equal(row.held[4], alone.held[4])
