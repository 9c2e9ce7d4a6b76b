"""TayNODE: R_K against closed forms and quadrature of referees, its gradient on the accepted grid, its place in training, its errors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of, frozen, states_at
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import along
from scipy.integrate import quad_vec
from scipy.linalg import expm
from strategies import HIDDEN, networks, seeds

import adaptode as ao
from adaptode.adjoint import ADJOINTS, discrete
from adaptode.checks import complex_step, taylor_test
from adaptode.errors import InputError, MissingDerivativeError
from adaptode.fields import MLP, LinearField, PythonField, TimeRescaled
from adaptode.fields.series import expand

SPAN = (0.2, 1.1)
every_order = pytest.mark.parametrize("K", [2, 3, 4, 5])
quiet_networks = networks(outer=st.sampled_from(HIDDEN), preactivation=st.sampled_from(HIDDEN))


def solved(field, theta, y, penalty, variate=0.37, tspan=SPAN, **options):
    """A run with what the penalty asks for."""
    times = {*penalty.times(tspan, variate), tspan[1]}
    options = {"rtol": 1e-4, "atol": 1e-4} | options
    return ao.solve(field, theta, y, tspan, saveat=sorted(times, reverse=tspan[1] < tspan[0]), **options)


def gradient(run, penalty, variate=0.37, bar=1.0):
    """(value, ȳ₀, θ̄) of a penalty, through the solve."""
    term = penalty.evaluate(run, variate)
    pulled = term.pull(bar)
    grad = discrete(run, jumps=pulled.jumps)
    return term.value, grad.y0, grad.theta + pulled.theta


@every_order
def test_a_linear_field_in_closed_form(K):
    field, rng = LinearField(3, bias=False), np.random.default_rng(1)
    theta, y = rng.normal(size=9), rng.normal(size=(4, 3))
    A = theta.reshape(3, 3)
    exact, _ = quad_vec(lambda t: np.mean((y @ expm((t - SPAN[0]) * A) @ np.linalg.matrix_power(A, K)) ** 2), *SPAN)
    penalty = ao.Taylor(K, 1.0)
    run = solved(field, theta, y, penalty, rtol=1e-10, atol=1e-10)
    assert gradient(run, penalty)[0] == pytest.approx(exact, rel=1e-8)
    backwards = solved(field, theta, run.y1, penalty, tspan=SPAN[::-1], rtol=1e-10, atol=1e-10)
    assert gradient(backwards, penalty)[0] == pytest.approx(exact, rel=1e-8)


@settings(max_examples=20)
@given(quiet_networks, st.integers(2, 5), st.sampled_from(("start", "random")))
def test_a_point_is_the_mean_square_of_the_derivative(network, K, at):
    penalty, field = ao.Taylor(K, 1.0, at=at), field_of(network)
    run = solved(field, network.theta, network.y, penalty)
    (t,) = penalty.times(SPAN, 0.37)
    y = network.y if at == "start" else run.sol(t)
    path, _ = field.taylor(t, y, network.theta, K)
    coefficients, error = along(network.naive, t, path)  # of the field along the path: y^(K) = (K − 1)! f_{K−1}
    derivative = math.factorial(K - 1) * coefficients[K - 1]
    length = 1.0 if at == "start" else SPAN[1] - SPAN[0]
    term = penalty.evaluate(run, 0.37)
    allowed = 100 * math.factorial(K - 1) * error[K - 1] * np.abs(derivative).max()
    assert term.value == pytest.approx(length * np.mean(derivative**2), rel=1e-8, abs=allowed) and term.evaluations == K


@settings(max_examples=40)
@given(
    quiet_networks,
    st.integers(2, 5),
    st.sampled_from(("start", "random", "path")),
    st.sampled_from(("mean", "max")),
    st.booleans(),
    st.sampled_from(("Tsit5", "Dopri5", "BS32", "DOP853")),
    seeds,
)
def test_the_gradient_is_that_of_the_computed_value(network, K, at, reduce, held, method, seed):
    penalty = ao.Taylor(K, 1.0, at=at, nodes=3, reduce=reduce, detach=("state",) if held else ())
    run = solved(field_of(network), network.theta, network.y, penalty, method=method)
    times = penalty.times(SPAN, 0.37)
    weights = np.ones(1) if at != "path" else np.polynomial.legendre.leggauss(3)[1] / 2
    length = 1.0 if at == "start" else SPAN[1] - SPAN[0]
    size, factorial = network.y.size, math.factorial(K)

    def value(x):
        y0, theta = x[:size].reshape(network.y.shape), x[size:]
        if held:
            states = states_at(run, frozen(run, network.naive, network.y), times)
        else:
            states = states_at(run, frozen(run, lambda t, y: network.naive(t, y, theta), y0), times)
        total = 0.0
        for t, w, y in zip(times, weights, states, strict=True):
            y = y.astype(x.dtype)
            path = expand(lambda p, t=t: field_of(network).series(t, p, theta.astype(x.dtype)), y, K).path
            each = np.mean((factorial * path[K]) ** 2, axis=1)
            total = total + w * length * (each.mean() if reduce == "mean" else each[np.argmax(each.real)])
        return total

    x = np.append(network.y, network.theta)
    got, y_bar, theta_bar = gradient(run, penalty, bar=1.7)
    assert got == pytest.approx(value(x), rel=1e-9, abs=1e-12)
    (direction,) = draw_like(seed, x)
    flat = np.append(y_bar, theta_bar)
    assert_directional(flat @ direction, 1.7 * complex_step(value, x, direction), np.abs(flat * direction).sum() + 1e-9, 1e-8)


@every_order
def test_taylor_slope_two_on_a_fixed_grid(K):
    field, rng = MLP((2, 8, 2), time="first"), np.random.default_rng(0)
    y, penalty = rng.normal(size=(5, 2)), ao.Taylor(K, 1.0, nodes=4)
    theta, direction = field.init(1), rng.normal(size=field.n_params)
    fixed = {"method": "RK4", "first_step": 0.09}
    theta_bar = gradient(solved(field, theta, y, penalty, **fixed), penalty)[2]
    result = taylor_test(
        lambda p: penalty.evaluate(solved(field, p, y, penalty, **fixed), 0.37).value, theta_bar @ direction, theta, direction, (1e-3, 5e-4, 2.5e-4, 1.25e-4)
    )
    assert result.slope > 1.9


@every_order
@pytest.mark.parametrize("scale", [2.5, -0.5])
def test_on_another_clock_it_scales(K, scale):
    """d/ds = r d/dt and ds = dt/r: R_K is multiplied by |r|^(2K − 1)."""
    field, y = MLP((2, 6, 2), time="every"), np.array([[0.3, -0.8], [1.1, 0.4]])
    theta, penalty, other = field.init(3), ao.Taylor(K, 1.0), TimeRescaled(field, scale, 0.3)
    options = {"rtol": 1e-9, "atol": 1e-9}
    value, y_bar, theta_bar = gradient(solved(field, theta, y, penalty, **options), penalty)
    moved = gradient(solved(other, theta, y, penalty, tspan=other.span(SPAN), **options), penalty)
    factor = abs(scale) ** (2 * K - 1)
    assert moved[0] == pytest.approx(factor * value, rel=1e-6)
    for a, b in zip(moved[1:], (y_bar, theta_bar), strict=True):
        np.testing.assert_allclose(a, factor * b, rtol=1e-5, atol=1e-6 * factor * np.abs(b).max())


def test_random_times_are_unbiased_and_nodes_converge():
    field, y = MLP((2, 8, 2), activation="gelu"), np.array([[0.5, -1.0]])
    theta = field.init(0, scale=2.0)
    path = ao.Taylor(2, 1.0, nodes=16)
    whole = path.evaluate(solved(field, theta, y, path, rtol=1e-9, atol=1e-9), 0.5).value
    errors = []
    for nodes in (1, 2, 4, 8):
        penalty = ao.Taylor(2, 1.0, nodes=nodes)
        errors.append(abs(penalty.evaluate(solved(field, theta, y, penalty, rtol=1e-9, atol=1e-9), 0.5).value / whole - 1))
    assert errors[0] > 5 * errors[1] > 50 * errors[2] and 5e-4 > errors[3]
    single = ao.Taylor(2, 1.0, at="random")
    middle = [(i + 0.5) / 200 for i in range(200)]  # the mean over all variates, by the midpoint rule
    values = [single.evaluate(solved(field, theta, y, single, v, rtol=1e-9, atol=1e-9), v).value for v in middle]
    assert np.mean(values) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_every_adjoint_carries_it(adjoint):
    field, rng = MLP((2, 5, 2), activation="softplus", time="every"), np.random.default_rng(4)
    X, target = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
    theta = field.init(2)
    made = [
        ao.Objective(field, "mean_squared_error", penalties=[ao.Taylor(3, 0.1, nodes=3)], rtol=1e-9, atol=1e-9, adjoint=name).value_and_grad(
            theta, X, target, rng=np.random.default_rng(0)
        )
        for name in ("discrete", adjoint)
    ]
    np.testing.assert_allclose(made[1].grad, made[0].grad, rtol=1e-5, atol=1e-6 * np.abs(made[0].grad).max())


def test_it_composes_and_training_lowers_it():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(16, 2))
    target = X @ np.array([[0.0, -1.0], [1.0, 0.0]])
    field = MLP((2, 8, 2))
    others = [ao.LocalError(0.1), ao.JacobianNorm("frobenius", 1e-3), ao.Taylor(2, 1e-3, at="random")]
    bare, last = ao.Objective(field, "mean_squared_error", penalties=[ao.Taylor(3, 1.0)]), {}
    for weight in (0.0, 0.05):
        objective = ao.Objective(field, "mean_squared_error", penalties=[ao.Taylor(3, ao.Linear(weight, weight / 2, 30), nodes=4), *others])
        result = ao.fit(objective, X, target, epochs=40, rng=1, optimizer=ao.Adam(0.05))
        history = result.history
        assert np.isfinite(history.column("loss")).all() and {"parts.taylor_3", "parts.taylor_2"} <= set(history.names)
        assert history.column("parts.task")[-1] < 0.7 * history.column("parts.task")[0]
        last[weight] = bare.value_and_grad(result.params, X, target, rng=rng).parts["taylor_3"]
    assert last[0.05] < 0.5 * last[0.0]


def test_float32():
    field = MLP((3, 8, 3), time="first")
    y, theta = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), field.init(0, dtype=np.float32)
    penalty = ao.Taylor(4, 1.0)
    value, y_bar, theta_bar = gradient(solved(field, theta, y, penalty), penalty)
    wide = gradient(solved(field, theta.astype(float), y.astype(float), penalty), penalty)
    assert y_bar.dtype == theta_bar.dtype == np.float32
    assert value == pytest.approx(wide[0], rel=1e-3)
    np.testing.assert_allclose(theta_bar, wide[2], rtol=1e-2, atol=1e-3 * np.abs(wide[2]).max())


def test_config_is_json_and_tells_all():
    penalty = ao.Taylor(3, 6e-5, nodes=5)
    config = json.loads(json.dumps(penalty.config()))
    assert config == {"penalty": "Taylor", "weight": penalty.weight.to_dict(), "at": "path", "nodes": 5, "reduce": "mean", "detach": [], "K": 3}
    assert penalty.name == "taylor_3"


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(1, 0.1), (6, 0.1), (2.0, 0.1), (True, 0.1), ("3", 0.1), (3,), (0.01,)])
def test_an_order_out_of_range_is_refused(arguments):
    with pytest.raises(InputError, match=r"2, 3, 4 or 5, then its weight.*got Taylor\("):
        ao.Taylor(*arguments)


def test_other_nonsense_is_refused():
    with pytest.raises(InputError, match="at least 0"):
        ao.Taylor(2, -1.0)
    with pytest.raises(InputError, match="'start', 'random', 'path'"):
        ao.Taylor(2, 1.0, at="end")


@pytest.mark.parametrize(
    ("field", "message"),
    [(MLP((2, 3, 2), activation="relu"), "Taylor of .*relu"), (PythonField(lambda t, y, p: -y, 2, vjp=lambda t, y, p, w: (-w, p)), "no `taylor`")],
)
def test_a_field_without_coefficients_is_refused_before_any_work(field, message):
    with pytest.raises(MissingDerivativeError, match=message):
        ao.Objective(field, "mean_squared_error", penalties=[ao.Taylor(2, 1.0)])
