"""The linear field: every derivative in closed form, its solution the matrix exponential, its errors."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from frozen import assert_directional, draw_like, frozen
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from strategies import seeds

import adaptode as ao
from adaptode.adjoint import discrete
from adaptode.checks import complex_step, dot_test
from adaptode.errors import InputError
from adaptode.fields import LinearField

both = pytest.mark.parametrize("bias", [True, False])
shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))


def linear(theta, n, y):
    """y A + b by the formula; no b where theta ends with A."""
    b = theta[n * n :]
    return y @ theta[: n * n].reshape(n, n) + (b if b.size else 0)


def problem(seed, batch, n, bias):
    field, rng = LinearField(n, bias=bias), np.random.default_rng(seed)
    return field, rng.normal(size=field.n_params), rng.normal(size=(batch, n)), rng


@both
@given(seed=seeds, shape=shapes)
def test_every_derivative(bias, seed, shape):
    field, theta, y, rng = problem(seed, *shape, bias)
    n = field.n
    y_dot, theta_dot, w = rng.normal(size=y.shape), rng.normal(size=theta.shape), rng.normal(size=y.shape)
    np.testing.assert_allclose(field.value(0.3, y, theta), linear(theta, n, y), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(field.jvp(0.3, y, theta, y_dot), complex_step(lambda z: linear(theta, n, z), y, y_dot), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(field.jacobian(0.3, y, theta), naive.jacobian(lambda t, z: linear(theta, n, z), 0.3, y), rtol=1e-13, atol=1e-13)
    y_bar, theta_bar = field.vjp(0.3, y, theta, w)
    by_hand = complex_step(lambda x: np.sum(w * linear(x[y.size :], n, x[: y.size].reshape(y.shape))), np.append(y, theta), np.append(y_dot, theta_dot))
    assert np.vdot(y_bar, y_dot) + theta_bar @ theta_dot == pytest.approx(by_hand, rel=1e-11, abs=1e-11)
    assert dot_test(lambda v: field.jvp(0, y, theta, v), lambda w: field.vjp(0, y, theta, w)[0], y.shape, y.shape, seed) < 1e-14
    u, w = rng.normal(size=(2, len(y), 3, n))
    y_bar, theta_bar = field.bilinear_vjp(0.3, y, theta, u, w)
    by_theta = naive.complex_gradient(lambda p: np.sum(w * linear(p[: n * n], n, u.reshape(-1, n)).reshape(u.shape)), theta)
    assert not y_bar.any() and field.time_vjp(0.3, y, theta, y) == 0.0
    np.testing.assert_allclose(theta_bar, by_theta, rtol=1e-12, atol=1e-12)


@both
def test_the_solution_is_the_matrix_exponential_and_its_gradient_is_exact(bias):
    field, theta, y, rng = problem(3, 4, 3, bias)
    run = ao.solve(field, theta, y, (0.2, 1.1), rtol=1e-10, atol=1e-10)
    generator = np.zeros((4, 4))  # of (y, 1)
    generator[:3, :3] = theta[:9].reshape(3, 3)
    generator[3, :3] = theta[9:] if bias else 0
    exact = (np.hstack([y, np.ones((4, 1))]) @ expm(0.9 * generator))[:, :3]
    np.testing.assert_allclose(run.y1, exact, rtol=1e-8, atol=1e-8)
    w, y_dot, theta_dot = draw_like(5, y, y, theta)
    grad = discrete(run, w)
    expected = complex_step(
        lambda x: np.sum(w * frozen(run, lambda t, z: linear(x[12:], 3, z), x[:12].reshape(4, 3)).y[-1]), np.append(y, theta), np.append(y_dot, theta_dot)
    )
    assert_directional(np.vdot(grad.y0, y_dot) + grad.theta @ theta_dot, expected, np.abs(grad.theta).sum(), 1e-12)


def test_float32_stays_float32():
    field, theta, y, _ = problem(1, 4, 3, False)
    theta, y = theta.astype(np.float32), y.astype(np.float32)
    got = [field.value(0, y, theta), field.jvp(0, y, theta, y), field.jacobian(0, y, theta), *field.vjp(0, y, theta, y), *field.bilinear_vjp(0, y, theta, y, y)]
    assert {a.dtype for a in [*got, ao.solve(field, theta, y, (0, 1)).y1, field.init(0, dtype=np.float32)]} == {np.dtype(np.float32)}


def test_parameters_by_name():
    field = LinearField(3)
    theta = field.init(0)
    parts = field.views(theta)
    assert parts["A"].shape == (3, 3) and parts["A"].any() and parts["b"].shape == (3,) and not parts["b"].any()
    parts["b"][:] = 7
    assert (theta[9:] == 7).all()
    without = LinearField(3, bias=False)
    assert without.views(without.init(0)).keys() == {"A"} and without.n_params == 9
    assert without.config() == {"field": "LinearField", "n": 3, "bias": False} and repr(without) == "LinearField(3, bias=False)"
    with pytest.raises(InputError, match=r"shape \(9,\)"):
        without.views(theta)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3", None])
def test_nonsense_is_refused(n):
    with pytest.raises(InputError, match="positive whole number"):
        LinearField(n)
