"""Taylor coefficients of solutions: against Cauchy's integral, mpmath, closed forms and tight solves; their transpose against complex steps."""

from __future__ import annotations

import math

import mpmath
import naive
import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import assert_solves
from scipy.linalg import expm
from strategies import HIDDEN, SMOOTH, TIMES, Network, networks, parameters, seeds

import adaptode as ao
from adaptode.activations import activation_code
from adaptode.checks import complex_step, dot_test, taylor_test
from adaptode.errors import InputError, MissingDerivativeError
from adaptode.fields import MLP, LinearField, PythonField, series
from adaptode.fields.arena import Arena

ANY = st.sampled_from(SMOOTH)
all_networks = networks(activation=ANY, outer=ANY, preactivation=ANY)
tame_networks = networks(outer=st.sampled_from(HIDDEN))  # derivatives of order 6 of a tower of cubes overflow what can be compared
orders = st.integers(1, 6)


def coefficients(network, order, y=None, theta=None, t=None):
    """The library's recursion on whatever numbers it is given."""
    y, theta = network.y if y is None else y, network.theta if theta is None else theta
    return series.expand(lambda path: field_of(network).series(network.t if t is None else t, path, theta), y, order).path


def at(network, order, x):
    """`coefficients` as a function of y and theta in one vector."""
    size = network.y.size
    return coefficients(network, order, x[:size].reshape(network.y.shape), x[size:])


def fixed(activation, time="every", outer="identity", preactivation="identity", sizes=(2, 4, 3, 2), batch=3):
    """A network of one's choice."""
    y = np.random.default_rng(1).uniform(-1, 1, (batch, sizes[0]))
    return Network(sizes, activation, time, outer, preactivation, parameters(2, sizes, time, 0.8), y, 0.3)


@given(tame_networks, orders)
def test_every_coefficient_is_that_of_the_field_along_the_path(network, order):
    path, _ = field_of(network).taylor(network.t, network.y, network.theta, order)
    assert path.shape == (order + 1, *network.y.shape)
    np.testing.assert_array_equal(path[0], network.y)
    assert_solves(network.naive, network.t, path)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("place", ["activation", "outer", "preactivation"])
@pytest.mark.parametrize("name", SMOOTH)
def test_every_activation_in_every_place(name, place, time):
    network = fixed(**{"activation": "tanh", "time": time, place: name})
    assert_solves(network.naive, network.t, field_of(network).taylor(network.t, network.y, network.theta, 6)[0])


MP = {
    "identity": lambda z: z,
    "tanh": mpmath.tanh,
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "softplus": lambda z: mpmath.log(1 + mpmath.exp(z)),
    "sine": mpmath.sin,
    "gelu": lambda z: z * (1 + mpmath.erf(z / mpmath.sqrt(2))) / 2,
    "cube": lambda z: z**3,
}


@pytest.mark.parametrize("z0", [-2.3, 0.0, 0.7, 4.1])
@pytest.mark.parametrize("name", SMOOTH)
def test_an_activation_to_the_last_digits(name, z0):
    """One hidden unit along a known path, by mpmath's derivatives in 40 digits."""
    coarse = [z0, 0.8, -0.5, 0.3, 0.2, -0.1]
    code = activation_code(name)
    activated = series.Activated(code, np.array(coarse)[:, None], Arena(6 * series.Activated.arrays(code), 4, float))
    for k in range(6):
        activated.push(k)
    with mpmath.workdps(40):
        exact = mpmath.taylor(lambda s: MP[name](sum(mpmath.mpf(c) * s**k for k, c in enumerate(coarse))), 0, 5)
    exact = np.array(exact, dtype=float)
    np.testing.assert_allclose(activated.y[:, 0], exact, rtol=1e-13, atol=1e-14 * np.abs(exact).max())


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_field_gives_the_series_of_the_matrix_exponential(bias):
    field, rng = LinearField(3, bias=bias), np.random.default_rng(0)
    theta, y = rng.normal(size=field.n_params), rng.normal(size=(2, 3))
    path, cache = field.taylor(0.4, y, theta, 6)
    A, shift = field.views(theta)["A"], field.views(theta).get("b", np.zeros(3))
    for k in range(1, 7):
        power = np.linalg.matrix_power(A, k - 1)
        np.testing.assert_allclose(path[k], (y @ A + shift) @ power / math.factorial(k), rtol=1e-13, atol=1e-15)
    if not bias:
        tau = 0.05
        np.testing.assert_allclose(sum(c * tau**k for k, c in enumerate(path)), y @ expm(tau * A), rtol=0, atol=1e-10)
    bar = rng.normal(size=path.shape)

    def value(x):
        return series.expand(lambda p: field.series(0.4, p, x[6:]), x[:6].reshape(2, 3), 6).path

    x, direction = np.append(y, theta), rng.normal(size=6 + theta.size)
    y_bar, theta_bar = field.taylor_vjp(cache, bar)
    expected = complex_step(lambda x: np.sum(bar * value(x)), x, direction)
    assert np.append(y_bar, theta_bar) @ direction == pytest.approx(expected, rel=1e-12)


def test_the_polynomial_follows_a_tight_solve():
    network = fixed("gelu", outer="softplus")
    field = field_of(network)
    path, _ = field.taylor(network.t, network.y, network.theta, 6)
    errors = []
    for tau in (0.2, 0.1):
        exact = ao.solve(field, network.theta, network.y, (network.t, network.t + tau), method="DOP853", rtol=1e-13, atol=1e-13).y1
        errors.append(np.abs(sum(c * tau**k for k, c in enumerate(path)) - exact).max())
    assert errors[0] < 1e-4 and np.log2(errors[0] / errors[1]) == pytest.approx(7, abs=0.4)


@given(tame_networks)
def test_the_second_derivative_is_jacobian_times_field_and_time(network):
    field, t, y, theta = field_of(network), network.t, network.y, network.theta
    path, _ = field.taylor(t, y, theta, 2)
    f = field.value(t, y, theta)
    np.testing.assert_allclose(path[1], f, rtol=1e-13, atol=1e-13)
    expected = field.jvp(t, y, theta, f) + complex_step(lambda s: network.naive(s, y), t, 1.0)
    np.testing.assert_allclose(2 * path[2], expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())


# --- the transpose ----------------------------------------------------------------------------------------------------


def assert_transposed(network, order, seed):
    """The VJP along one direction of y and theta, by a complex step through the recursion."""
    path, cache = field_of(network).taylor(network.t, network.y, network.theta, order)
    rng = np.random.default_rng(seed)
    bar = rng.normal(size=path.shape) / np.maximum(1, np.abs(path).max(axis=(1, 2)))[:, None, None]  # every order counts
    y_bar, theta_bar = field_of(network).taylor_vjp(cache, bar)
    x, gradient = np.append(network.y, network.theta), np.append(y_bar, theta_bar)
    direction = rng.normal(size=x.size)
    dot = complex_step(lambda x: bar * at(network, order, x), x, direction)
    rtol = 1e-11 * max(1.0, np.abs(gradient).max() / 1e3)  # a sine of something large has lost digits of its argument
    assert_directional(gradient @ direction, np.sum(dot), np.abs(dot).sum() + np.abs(gradient * direction).sum() + 1e-6, rtol)


@given(all_networks, orders, seeds)
def test_the_vjp_is_the_complex_step(network, order, seed):
    assert_transposed(network, order, seed)


@pytest.mark.parametrize("order", range(1, 7))
@pytest.mark.parametrize("place", ["activation", "outer", "preactivation"])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_vjp_of_every_activation_in_every_place_and_order(name, place, order):
    assert_transposed(fixed(**{"activation": "tanh", place: name}), order, 5)


@pytest.mark.parametrize("time", TIMES)
def test_every_entry_of_the_gradient(time):
    network = fixed("softplus", time=time, outer="tanh", preactivation="sine", sizes=(2, 3, 2), batch=2)
    path, cache = field_of(network).taylor(network.t, network.y, network.theta, 4)
    (bar,) = draw_like(3, path)
    kept = bar.copy()
    y_bar, theta_bar = field_of(network).taylor_vjp(cache, bar)
    expected = naive.complex_gradient(lambda x: np.sum(bar * at(network, 4, x)), np.append(network.y, network.theta))
    np.testing.assert_allclose(np.append(y_bar, theta_bar), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(bar, kept)
    for again, first in zip(field_of(network).taylor_vjp(cache, bar), (y_bar, theta_bar), strict=True):
        np.testing.assert_array_equal(again, first)  # a cache serves twice


@settings(max_examples=20)
@given(tame_networks, orders, seeds)
def test_dot_and_taylor_tests(network, order, seed):
    field = field_of(network)
    path, cache = field.taylor(network.t, network.y, network.theta, order)
    x = np.append(network.y, network.theta)

    def vjp(bar):
        return np.concatenate([g.ravel() for g in field.taylor_vjp(cache, bar)])

    assert dot_test(lambda v: complex_step(lambda x: at(network, order, x), x, v), vjp, x.shape, path.shape, seed) < 1e-12
    (direction,) = draw_like(seed, x)
    bar = 1 / np.maximum(1, np.abs(path).max(axis=(1, 2)))[:, None, None] * np.ones_like(path)
    result = taylor_test(
        lambda x: np.sum(bar * at(network, order, x)), vjp(bar) @ direction, x, direction, steps=(4e-5, 2e-5, 1e-5)
    )
    assert result.slope > 1.5


@settings(max_examples=25)
@given(tame_networks, st.integers(1, 4), seeds)
def test_float32_is_the_same_to_its_precision(network, order, seed):
    field = field_of(network)
    y, theta = network.y.astype(np.float32), network.theta.astype(np.float32)
    path, cache = field.taylor(network.t, y, theta, order)
    wide, wide_cache = field.taylor(network.t, y.astype(float), theta.astype(float), order)
    (bar,) = (b.astype(np.float32) for b in draw_like(seed, path))
    got, expected = (path, *field.taylor_vjp(cache, bar)), (wide, *field.taylor_vjp(wide_cache, bar.astype(float)))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("name, count", {"product": 3, "chain": 3, "product_vjp": 5, "square_vjp": 3, "chain_vjp": 5}.items())
@pytest.mark.parametrize("k", range(1, 5))
def test_kernels_are_equal_as_plain_python(name, count, k):
    def by(kernel):
        arrays = list(np.random.default_rng(k).normal(size=(count, 5, 7)))
        kernel(k, -1.0, *arrays)
        return arrays

    kernel = getattr(series, name)
    for a, b in zip(by(kernel), by(getattr(kernel, "py_func", kernel)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "gelu"])
def test_far_out_nothing_overflows(name):
    field = MLP((1, 1, 1), activation=name)
    theta = np.array([1.0, 0.0, 1.0, 0.0])
    with np.errstate(all="raise", under="ignore"):
        path, cache = field.taylor(0.0, np.array([[-800.0], [800.0]]), theta, 4)
        gradients = field.taylor_vjp(cache, np.ones_like(path))
    assert np.isfinite(path).all() and all(np.isfinite(g).all() for g in gradients)
    assert path[2:, 0].max() < 1e-300


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["activation", "outer", "preactivation"])
def test_relu_has_no_taylor_coefficients_and_says_so(place):
    field = MLP((2, 3, 2), **{place: "relu"})
    assert not field.has("taylor") and field.has("jacobian") and MLP((2, 3, 2)).has("taylor")
    for call in (lambda: field.require("taylor"), lambda: field.taylor(0, np.ones((1, 2)), np.ones(17), 2)):
        with pytest.raises(MissingDerivativeError, match=r"taylor.*relu.*tanh"):
            call()


def test_a_plain_function_has_none():
    field = PythonField(lambda t, y, theta: -y, 2)
    assert not field.has("taylor")
    for call in (lambda: field.require("taylor"), lambda: field.taylor(0, np.ones((1, 2)), np.ones(0), 2)):
        with pytest.raises(MissingDerivativeError, match=r"PythonField.*`taylor`; use a field.*MLP"):
            call()


def test_wrong_arguments_are_named():
    field = MLP((2, 3, 2))
    y, theta = np.ones((4, 2)), np.ones(17)
    for order in (0, -1, 1.5, True, "2", None):
        with pytest.raises(InputError, match="order of a Taylor expansion"):
            field.taylor(0, y, theta, order)
    with pytest.raises(InputError, match=r"y must have shape \(batch, 2\)"):
        field.taylor(0, y[0], theta, 2)
    _, cache = field.taylor(0, y, theta, 2)
    with pytest.raises(InputError, match=r"bar must have the shape of the coefficients, \(3, 4, 2\)"):
        field.taylor_vjp(cache, y)
