"""Losses: derivatives by finite differences, known values, stability, bad input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax

from adaptode.errors import InputError
from adaptode.training.losses import LOSSES, binary_cross_entropy, cross_entropy, mean_squared_error

sizes = st.integers(1, 8)
seeds = st.integers(0, 2**32 - 1)
NAMES = sorted(LOSSES)


def sample(name, rng, batch, k, scale=3.0):
    """Prediction and target of a loss."""
    if name == "binary_cross_entropy":
        return rng.normal(scale=scale, size=batch), rng.integers(0, 2, batch)
    if name == "cross_entropy":
        return rng.normal(scale=scale, size=(batch, k)), rng.integers(0, k, batch)
    return rng.normal(scale=scale, size=(batch, k)), rng.normal(size=(batch, k))


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds, batch=sizes, k=sizes)
def test_gradient_is_the_slope(name, seed, batch, k):
    rng = np.random.default_rng(seed)
    z, y = sample(name, rng, batch, k)
    value, z_bar = LOSSES[name](z, y)
    assert isinstance(value, float) and z_bar.shape == z.shape
    direction = rng.normal(size=z.shape)
    h = 1e-5
    slope = (LOSSES[name](z + h * direction, y)[0] - LOSSES[name](z - h * direction, y)[0]) / (2 * h)
    assert slope == pytest.approx(np.vdot(z_bar, direction), abs=1e-8 * (1 + np.linalg.norm(direction)))


@given(seed=seeds, batch=sizes, probability=st.floats(0, 1))
def test_binary_gradient_for_probabilities(seed, batch, probability):
    z = np.random.default_rng(seed).normal(scale=3, size=(batch, 1))
    y = np.full(batch, probability)
    h = 1e-5
    slope = (binary_cross_entropy(z + h, y)[0] - binary_cross_entropy(z - h, y)[0]) / (2 * h)
    assert slope == pytest.approx(binary_cross_entropy(z, y)[1].sum(), abs=1e-8)


@given(seed=seeds, batch=sizes)
def test_binary_is_categorical_of_two(seed, batch):
    rng = np.random.default_rng(seed)
    z, y = sample("binary_cross_entropy", rng, batch, 2)
    value, z_bar = binary_cross_entropy(z, y)
    value2, z_bar2 = cross_entropy(np.column_stack((np.zeros(batch), z)), y)
    assert value == pytest.approx(value2, rel=1e-12, abs=1e-14)
    np.testing.assert_allclose(z_bar, z_bar2[:, 1], atol=1e-15)
    np.testing.assert_allclose(z_bar2.sum(axis=1), 0, atol=1e-15)


@given(seed=seeds, batch=sizes, k=sizes)
def test_cross_entropy_against_scipy(seed, batch, k):
    z, y = sample("cross_entropy", np.random.default_rng(seed), batch, k, scale=50.0)
    assert cross_entropy(z, y)[0] == pytest.approx(-log_softmax(z, axis=1)[np.arange(batch), y].mean(), abs=1e-12)


@given(
    z=hnp.arrays(np.float64, st.integers(1, 6), elements=st.sampled_from([-1e4, -750.0, -1.0, 0.0, 40.0, 1e4])),
    data=st.data(),
)
def test_binary_is_accurate_for_any_logit(z, data):
    """Against softplus by a formula without cancellation, one sample at a time."""
    y = data.draw(hnp.arrays(np.int64, z.shape, elements=st.integers(0, 1)))
    signed = np.where(y == 1, -z, z)  # loss softplus(signed), slope sigma(signed)
    losses = [s + math.log1p(math.exp(-s)) if s > 0 else math.log1p(math.exp(s)) for s in signed]
    slopes = [1 / (1 + math.exp(-s)) if s > 0 else math.exp(s) / (1 + math.exp(s)) for s in signed]
    value, z_bar = binary_cross_entropy(z, y)
    assert value == pytest.approx(np.mean(losses), rel=1e-15)
    np.testing.assert_allclose(z_bar, np.where(y == 1, -1, 1) * slopes / len(z), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(seed=seeds, batch=sizes, k=sizes)
def test_huge_logits_stay_finite(dtype, seed, batch, k):
    rng = np.random.default_rng(seed)
    z = rng.choice([-1e4, 1e4], size=(batch, k)).astype(dtype)
    y = rng.integers(0, k, batch)
    for value, z_bar in (cross_entropy(z, y), binary_cross_entropy(z[:, 0], y > 0)):
        assert math.isfinite(value) and 0 <= value <= 2e4 + math.log(k) + 1e-2
        assert np.isfinite(z_bar).all() and np.abs(z_bar).max() <= 1 / batch + 1e-6
    top = z.max(axis=1)
    expected = (top - z[np.arange(batch), y] + np.log((z == top[:, None]).sum(axis=1))).mean(dtype=np.float64)
    assert cross_entropy(z, y)[0] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_dtype_is_kept_and_nothing_is_changed(name):
    z, y = sample(name, np.random.default_rng(0), 5, 3)
    z32, y_before = z.astype(np.float32), y.copy()
    value, z_bar = LOSSES[name](z32, y)
    assert z_bar.dtype == np.float32
    assert value == pytest.approx(LOSSES[name](z, y)[0], rel=1e-5)
    assert (z32 == z.astype(np.float32)).all() and (y == y_before).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_predictions_show(name, bad):
    """NaN or inf where it is wrong; no warning on the way."""
    z, y = sample(name, np.random.default_rng(0), 4, 3)
    z.flat[0] = bad
    y.flat[0] = 1 if bad == -np.inf and name == "binary_cross_entropy" else 0
    assert not math.isfinite(LOSSES[name](z, y)[0])


@pytest.mark.parametrize(
    ("loss", "z", "y", "match"),
    [
        (binary_cross_entropy, np.zeros((3, 2)), [0, 1, 1], "try cross_entropy"),
        (binary_cross_entropy, np.zeros(3), [0, 1], "one shape"),
        (binary_cross_entropy, np.zeros(3), [0, 1, 2], "between 0 and 1"),
        (binary_cross_entropy, np.zeros(3), [0, 1, np.nan], "between 0 and 1"),
        (binary_cross_entropy, np.zeros(2), ["a", "b"], "between 0 and 1"),
        (binary_cross_entropy, np.zeros(()), 1, "one logit"),
        (binary_cross_entropy, np.zeros(0), [], "not empty"),
        (cross_entropy, np.zeros((3, 2)), [0, 1, 2], "do not fit 2"),
        (cross_entropy, np.zeros((2, 2)), [0, -1], "do not fit 2"),
        (cross_entropy, np.zeros((2, 2)), [0.0, 1.0], "whole-number"),
        (cross_entropy, np.zeros(2), [0, 1], "logits"),
        (cross_entropy, np.zeros((3, 2)), [0, 1], "labels"),
        (cross_entropy, np.zeros((0, 2)), np.zeros(0, int), "not empty"),
        (mean_squared_error, np.zeros((3, 2)), np.zeros(3), "one shape"),
        (mean_squared_error, np.zeros((0, 2)), np.zeros((0, 2)), "not empty"),
    ],
)
def test_bad_input(loss, z, y, match):
    with pytest.raises(InputError, match=match):
        loss(z, y)
