"""Schedules: end points, formulas, JSON, bad input."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.errors import InputError
from adaptode.schedules import Constant, Cosine, Exponential, InverseDecay, Linear, PerEpoch, Schedule, as_schedule, from_dict

values = st.floats(0, 1e6, allow_subnormal=False)
positive = st.floats(1e-6, 1e6)
lengths = st.integers(1, 10_000)
with_ends = st.one_of(
    st.builds(Linear, values, values, lengths),
    st.builds(Exponential, positive, positive, lengths),
    st.builds(Cosine, values, values, lengths),
)
by_step = st.one_of(with_ends, st.builds(Constant, values), st.builds(InverseDecay, values, values))
every = st.one_of(by_step, st.builds(PerEpoch, by_step, st.one_of(st.none(), lengths)))


@given(with_ends, st.integers(0, 10_000))
def test_starts_and_ends_exactly_and_stays(schedule, extra):
    assert schedule(0) == schedule.start
    assert schedule(schedule.steps) == schedule(schedule.steps + extra) == schedule.end


@given(with_ends)
def test_moves_one_way_between_its_ends(schedule):
    path = [schedule(step) for step in np.linspace(0, schedule.steps, 20).astype(int)]
    low, high = sorted((schedule.start, schedule.end))
    slack = 1e-12 * high
    assert all(low - slack <= value <= high + slack for value in path)
    moves = np.diff(path) * (1 if schedule.end >= schedule.start else -1)
    assert (moves >= -slack).all()


@given(positive, positive, st.integers(1, 5000), st.floats(0, 1))
def test_formulas_half_way(start, end, half, rate):
    steps = 2 * half
    assert Linear(start, end, steps)(half) == pytest.approx((start + end) / 2)
    assert Exponential(start, end, steps)(half) == pytest.approx(math.sqrt(start * end))
    assert Cosine(start, end, steps)(half) == pytest.approx((start + end) / 2)
    assert InverseDecay(start, rate)(half) == pytest.approx(start / (1 + rate * half))


def test_published_annealing():
    """2.5 to 1.0 over 7500 steps, l0 exp(-k s), k = ln(l0 / l1) / T."""
    schedule = Exponential(2.5, 1.0, 7500)
    for step in (1, 1234, 7499):
        assert schedule(step) == pytest.approx(2.5 * math.exp(-math.log(2.5 / 1.0) / 7500 * step), rel=1e-13)


def test_cosine_is_not_a_line():
    assert Cosine(1.0, 0.0, 4)(1) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), st.integers(2, 100))
def test_exponential_between_extremes_is_finite(start, end, steps):
    assert all(math.isfinite(Exponential(start, end, steps)(step)) for step in range(steps))


@given(every)
def test_json_round_trip(schedule):
    assert from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_a_number_is_a_constant_schedule():
    assert as_schedule(0.5) == as_schedule(np.float32(0.5)) == Constant(0.5)
    assert as_schedule(2)(1000) == 2.0
    schedule = Linear(1, 0, 3)
    assert as_schedule(schedule) is schedule
    json.dumps(Linear(np.float64(1), np.float32(0), np.int64(3)).to_dict())


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "0.1", None, [0.1], True, 1j, lambda step: 0.1])
def test_bad_values(bad):
    with pytest.raises(InputError):
        as_schedule(bad)
    for kind in (Constant, lambda x: Linear(x, 1, 5), lambda x: InverseDecay(1, x), lambda x: Cosine(1, x, 5)):
        with pytest.raises(InputError):
            kind(bad)


@pytest.mark.parametrize("steps", [0, -3, 1.5, True, "7", None])
@pytest.mark.parametrize("kind", [Linear, Exponential, Cosine])
def test_bad_lengths(kind, steps):
    with pytest.raises(InputError, match="steps"):
        kind(1.0, 0.5, steps)


@pytest.mark.parametrize("ends", [(0, 1), (1, 0)])
def test_exponential_cannot_reach_zero(ends):
    with pytest.raises(InputError, match="positive"):
        Exponential(*ends, 10)


@pytest.mark.parametrize(
    "data",
    [{}, {"kind": "Step"}, {"kind": "Constant"}, {"kind": "Constant", "value": 1, "x": 2}, {"kind": "PerEpoch", "schedule": 1, "steps_per_epoch": 2}],
)
def test_bad_dicts(data):
    with pytest.raises(InputError):
        from_dict(data)


@given(by_step, st.integers(1, 50), st.integers(0, 500))
def test_per_epoch_is_the_schedule_of_complete_epochs(schedule, n, step):
    for told in (PerEpoch(schedule, n), PerEpoch(schedule).by_epochs(n), PerEpoch(schedule, n).by_epochs(n + 1)):
        assert told(step) == schedule(step // n)
    assert schedule.by_epochs(n) is schedule


def test_per_epoch_needs_to_be_told():
    with pytest.raises(InputError, match="has not been told how many steps an epoch has; adaptode.fit does, or give steps_per_epoch="):
        PerEpoch(Constant(1.0))(0)
    for bad in (1.0, PerEpoch(Constant(1.0)), None):
        with pytest.raises(InputError, match="schedule of the epoch"):
            PerEpoch(bad)
    for n in (0, 1.5, True, "3"):
        with pytest.raises(InputError, match="steps_per_epoch must be a whole number"):
            PerEpoch(Constant(1.0), n)


def test_the_base_is_abstract():
    with pytest.raises(NotImplementedError):
        Schedule()(0)
