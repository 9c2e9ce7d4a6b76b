"""Each check passes on a right derivative and fails on a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.checks import complex_step, dot_test, finite_difference, taylor_test
from adaptode.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed):
    """value (4,) -> float, its gradient, a point and a direction."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(3, 4))

    def value(x):
        return np.sum(np.tanh(W @ x) ** 2) + np.exp(0.3 * x[0])

    x = rng.normal(size=4)
    y = np.tanh(W @ x)
    gradient = W.T @ (2 * y * (1 - y**2))
    gradient[0] += 0.3 * np.exp(0.3 * x[0])
    return value, gradient, x, rng.normal(size=4)


@given(SEEDS, st.integers(1, 6), st.integers(1, 6))
def test_dot_test(seed, n, m):
    rng = np.random.default_rng(seed)
    J = rng.normal(size=(m, n))
    assert dot_test(lambda v: J @ v, lambda w: J.T @ w, n, m, rng) < 1e-14
    assert dot_test(lambda v: J @ v, lambda w: -J.T @ w, n, m, rng) > 1e-5  # a sign
    assert dot_test(lambda v: J @ v, lambda w: 1.001 * J.T @ w, n, m, rng) > 1e-8  # a factor


def test_dot_test_sees_a_missing_transposition_an_axis_and_accumulation():
    J = np.random.default_rng(0).normal(size=(5, 5))
    assert dot_test(lambda v: J @ v, lambda w: J @ w, 5, 5, 0) > 1e-2
    assert dot_test(lambda v: v @ J, lambda w: w @ J.T, (3, 5), (3, 5), 0) < 1e-14
    assert dot_test(lambda v: v @ J, lambda w: (w @ J.T)[::-1], (3, 5), (3, 5), 0) > 1e-2
    total = np.ones(5)
    assert dot_test(lambda v: J @ v, lambda w: total + J.T @ w, 5, 5, 0) > 1e-3


def test_dot_test_edges():
    def zero(v):
        return np.zeros_like(v)

    assert dot_test(zero, zero, 3, 3, 0) == 0.0
    assert dot_test(lambda v: v, zero, 3, 3, 0) > 0.1
    assert np.isnan(dot_test(lambda v: v * np.nan, lambda w: w, 3, 3, 0))
    with pytest.raises(InputError, match="shape"):
        dot_test(lambda v: v[:2], lambda w: w, 3, 3, 0)


def test_dot_test_is_not_misled_by_functions_that_write_to_their_arguments():
    def doubles(v):
        result = 2 * v
        v[:] = 0.0
        return result

    assert dot_test(doubles, doubles, 3, 3, 0) < 1e-15
    assert dot_test(doubles, lambda w: 3 * w, 3, 3, 0) > 1e-2


def test_dot_test_takes_a_seed_or_a_generator():
    J = np.array([[1.0, 2.0], [0.0, 1.0]])
    assert dot_test(lambda v: J @ v, lambda w: w, 2, 2, 7) == dot_test(
        lambda v: J @ v, lambda w: w, 2, 2, np.random.default_rng(7)
    )


@given(SEEDS)
def test_taylor_test(seed):
    value, gradient, x, direction = problem(seed)
    right = np.vdot(gradient, direction)
    steps = 1e-4 / 2.0 ** np.arange(4)
    result = taylor_test(value, right, x, direction, steps)
    assert (
        result.slope > 1.7 or np.max(result.remainders) < 1e-10
    )  # an inflection along the direction leaves nothing to see
    assert taylor_test(value, right + 0.05, x, direction, steps).slope < 1.2
    np.testing.assert_array_equal(result.steps, steps)


def test_taylor_test_on_known_functions():
    def square(x):
        return x**2

    assert taylor_test(square, 6.0, 3.0, 1.0).slope == pytest.approx(2.0, abs=1e-6)
    assert taylor_test(square, 6.01, 3.0, 1.0).slope < 1.5
    assert taylor_test(np.sin, np.cos(1.0), 1.0, 1.0).slope > 1.98
    assert taylor_test(np.sin, 0.0, 1.0, 1.0).slope < 1.1  # a forgotten derivative
    assert taylor_test(lambda x: 3 * x, 3.0, 1.0, 1.0).slope == np.inf  # linear
    assert taylor_test(lambda x: 3 * x, 3.1, 1.0, 1.0).slope == pytest.approx(1.0, abs=1e-6)
    assert np.isnan(taylor_test(lambda x: x * np.nan, 3.0, 1.0, 1.0).slope)
    for guess in (-1.0, 0.0):  # at a kink no derivative passes in every direction
        assert taylor_test(np.abs, guess, 0.0, 1.0).slope < 1.1
    to_rounding = taylor_test(np.sin, np.cos(1.0), 1.0, 1.0, [1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
    assert 1.98 < to_rounding.slope < 2.02 and to_rounding.remainders[-1] < 1e-15
    vanishing = taylor_test(square, 2.0, 1.0, 1.0, [2.0**-6, 2.0**-8, 2.0**-30])
    assert vanishing.remainders[-1] == 0.0 and vanishing.slope == pytest.approx(2.0, abs=1e-9)
    vector = taylor_test(np.sin, np.cos(np.arange(3.0)) * 2, np.arange(3.0), np.full(3, 2.0))
    assert vector.slope > 1.95


def test_taylor_test_refuses():
    with pytest.raises(InputError, match="np.vdot"):
        taylor_test(lambda x: np.sum(x**2), np.ones(3), np.ones(3), np.ones(3))
    for steps in ([1e-2], [1e-3, 1e-2], [1e-2, 0.0], [[1e-2, 1e-3]]):
        with pytest.raises(InputError, match="steps"):
            taylor_test(np.sin, 1.0, 0.0, 1.0, steps)


@given(SEEDS)
def test_complex_step(seed):
    value, gradient, x, direction = problem(seed)
    right = np.vdot(gradient, direction)
    assert complex_step(value, x, direction) == pytest.approx(right, rel=1e-12, abs=1e-13)
    assert complex_step(value, x, direction) != pytest.approx(right + 1e-9, rel=1e-12, abs=1e-11)


def test_complex_step_keeps_shapes_and_refuses_a_lost_imaginary_part():
    x = np.arange(3.0)
    np.testing.assert_allclose(complex_step(np.sin, x, np.ones(3)), np.cos(x), rtol=1e-15)
    assert isinstance(complex_step(np.sum, x, np.ones(3)), float)
    with pytest.raises(InputError, match="imaginary"):
        complex_step(lambda x: np.abs(x), x, np.ones(3))


@given(SEEDS)
def test_finite_difference(seed):
    value, gradient, x, direction = problem(seed)
    right = np.vdot(gradient, direction)
    found, error = finite_difference(value, x, direction, step=0.05)
    assert abs(found - right) <= 10 * error + 1e-12
    assert error < 1e-6
    assert abs(found - (right + 1e-4)) > 10 * error + 1e-12  # a wrong one is told apart


def test_finite_difference_keeps_shapes_and_its_error_sees_a_kink():
    x = np.arange(3.0)
    found, error = finite_difference(np.sin, x, np.ones(3))
    np.testing.assert_allclose(found, np.cos(x), atol=1e-12)
    assert error < 1e-11
    found, error = finite_difference(lambda x: np.abs(x - 0.001) + x, 0.0, 1.0)
    assert error > 1e-3
    found, error = finite_difference(lambda x: x * np.nan, 0.0, 1.0)
    assert np.isnan(found) and error == np.inf
