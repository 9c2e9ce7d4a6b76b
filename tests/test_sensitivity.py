"""End-to-end sensitivity: the derivative of the final slope by the initial state, and the gradient of what is made of it."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of, frobenius, frozen, jacobian_measure, naive_jacobian, naive_jvp, states_at
from strategies import ADAPTIVE, Network, parameters

import adaptode as ao
from adaptode.errors import InputError, MissingDerivativeError
from adaptode.fields import MLP, PythonField
from adaptode.regularize import ConditionNumber, JacobianNorm
from adaptode.regularize.sensitivity import EndToEnd
from adaptode.tableau import TSIT5
from adaptode.training.objective import Objective

PENALTIES = {
    "frobenius": lambda **o: JacobianNorm("frobenius", 1.0, at="end_to_end", **o),
    "spectral": lambda **o: JacobianNorm("spectral", 1.0, at="end_to_end", **o),
    "condition": lambda **o: ConditionNumber(1.0, floor=0.01, at="end_to_end", **o),
    "log": lambda **o: ConditionNumber(1.0, floor=0.01, log=True, at="end_to_end", **o),
}


def network(n, seed=3, activation="tanh"):
    sizes, rng = (n, 5, n), np.random.default_rng(seed)
    return Network(sizes, activation, "every", "identity", "identity", parameters(seed, sizes, "every", 1.2), rng.normal(size=(3, n)), 0.0)


def solved(net, span=(0.0, 1.0), **options):
    return ao.solve(field_of(net), net.theta, net.y, span, rtol=1e-3, atol=1e-3, **options)


def naive_M(run, net, theta, y0):
    """J Φ at the end of the span, by the referee's steps of (y, Φ) on the run's grid, for complex theta and y0."""
    batch, n = y0.shape

    def f(t, z):
        y, columns = z[:, 0], z[:, 1:]
        return np.stack([net.naive(t, y, theta), *(naive_jvp(net, t, y, theta, columns[:, j]) for j in range(n))], axis=1)

    z0 = np.concatenate([y0[:, None], np.broadcast_to(np.eye(n), (batch, n, n))], axis=1)
    z = states_at(run, frozen(run, f, z0), [run.tspan[1]])[0]
    return naive_jacobian(net, run.tspan[1], z[:, 0], theta) @ z[:, 1:].transpose(0, 2, 1)


def measure(kind, M):
    if kind in ("condition", "log"):
        kappa = jacobian_measure(M, "condition", 0.01)
        return np.log(kappa) if kind == "log" else kappa
    return jacobian_measure(M, kind)


@pytest.mark.parametrize("method", [*ADAPTIVE])
@pytest.mark.parametrize("controller", ["pi", "torchdiffeq"])
@pytest.mark.parametrize("span", [(0.0, 1.0), (0.5, -1.0)])
def test_M_is_the_derivative_of_the_final_slope(method, controller, span):
    """By complex steps of the initial state through the referee's solve: the steps' exact derivative, and no augmented system."""
    net = network(2)
    run = solved(net, span, method=method, controller=controller)
    expected = np.empty((3, 2, 2))
    for j in range(2):
        y0 = net.y + 1e-30j * np.eye(2)[j]
        y1 = states_at(run, frozen(run, net.naive, y0), [span[1]])[0]
        expected[:, :, j] = net.naive(span[1], y1).imag / 1e-30
    M = EndToEnd(run, "").M
    np.testing.assert_allclose(M, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(naive_M(run, net, net.theta, net.y), expected, rtol=1e-9, atol=1e-12)
    assert not np.allclose(M, run.field.jacobian(span[1], run.y1, run.theta), rtol=1e-2)


@pytest.mark.parametrize("kind", PENALTIES)
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("method, controller", [("Tsit5", "pi"), ("BS32", "torchdiffeq"), ("DOP853", "torchdiffeq"), ("Dopri5", "scipy")])
@pytest.mark.parametrize("activation", ["tanh", "sine"])
def test_gradient_is_a_complex_step_through_the_frozen_grid(kind, reduce, method, controller, activation):
    net = network(2, activation=activation)
    run = solved(net, (0.2, 1.0), method=method, controller=controller)
    term = PENALTIES[kind](reduce=reduce).evaluate(run, 0.5)
    of_batch = np.mean if reduce == "mean" else lambda v: v[np.argmax(v.real)]
    assert term.value == pytest.approx(of_batch(measure(kind, naive_M(run, net, net.theta, net.y))), rel=1e-9)
    pulled = term.pull(1.3)
    ((t, y0_bar),) = pulled.jumps
    assert t == 0.2
    for seed in (1, 2):
        theta_dot, y_dot = draw_like(seed, net.theta, net.y)
        expected = 1.3 * np.imag(of_batch(measure(kind, naive_M(run, net, net.theta + 1e-30j * theta_dot, net.y + 1e-30j * y_dot)))) / 1e-30
        scale = np.linalg.norm(pulled.theta) + np.linalg.norm(y0_bar)
        assert_directional(pulled.theta @ theta_dot + np.sum(y0_bar * y_dot), expected, scale, 1e-9)


@pytest.mark.parametrize("n", [1, 3])
def test_other_dimensions(n):
    net = network(n)
    run = solved(net)
    pulled = PENALTIES["frobenius"]().evaluate(run, 0.5).pull(1.0)
    by_theta = naive.complex_gradient(lambda p: np.mean(frobenius(naive_M(run, net, p, net.y))), net.theta)
    by_y = naive.complex_gradient(lambda y: np.mean(frobenius(naive_M(run, net, net.theta, y))), net.y)
    np.testing.assert_allclose(pulled.theta, by_theta, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(pulled.jumps[0][1], by_y, rtol=1e-8, atol=1e-10)


def test_a_linear_field_has_the_matrix_exponential():
    from scipy.linalg import expm

    A = np.array([[0.3, -1.0], [0.8, -0.5]])
    run = ao.solve(MLP((2, 2)), np.concatenate([A.T.ravel(), [0.0, 0.0]]), [[1.0, 2.0]], (0.0, 1.5), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(EndToEnd(run, "").M[0], A @ expm(1.5 * A), rtol=1e-8)


def test_in_an_objective_without_kept_states_too():
    net = network(2)
    objective = Objective(field_of(net), "mean_squared_error", penalties=[PENALTIES["log"](), PENALTIES["frobenius"]()])
    got = objective.value_and_grad(net.theta, net.y, net.y, rng=np.random.default_rng(0))
    bare = Objective(field_of(net), "mean_squared_error").value_and_grad(net.theta, net.y, net.y, rng=np.random.default_rng(0))
    run = objective.solve(net.theta, net.y)
    pulled = [p.evaluate(run, 0.5).pull(1.0).theta for p in objective.penalties]
    np.testing.assert_allclose(got.grad - bare.grad, sum(pulled), rtol=1e-9, atol=1e-12)
    assert list(got.parts) == ["task", "log_condition_number", "frobenius"]
    none = ao.solve(field_of(net), net.theta, net.y, (0.0, 1.0), keep="none", saveat=[0.0, 1.0])
    full = ao.solve(field_of(net), net.theta, net.y, (0.0, 1.0))
    assert PENALTIES["log"]().evaluate(none, 0.5).value == PENALTIES["log"]().evaluate(full, 0.5).value


def test_a_users_field_float32_and_a_span_of_length_zero():
    net, mlp = network(2), field_of(network(2))
    user = PythonField(mlp.value, 2, mlp.n_params, vjp=mlp.vjp, jacobian=mlp.jacobian, bilinear_vjp=mlp.bilinear_vjp)
    run = ao.solve(user, net.theta, net.y, (0.0, 1.0), rtol=1e-3, atol=1e-3)
    a, b = (PENALTIES["spectral"]().evaluate(r, 0.5).pull(1.0).theta for r in (run, solved(net)))
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    single = ao.solve(mlp, net.theta.astype("float32"), net.y.astype("float32"), (0.0, 1.0), rtol=1e-3, atol=1e-3)
    c = PENALTIES["spectral"]().evaluate(single, 0.5).pull(1.0)
    assert c.theta.dtype == c.jumps[0][1].dtype == np.float32
    np.testing.assert_allclose(c.theta, b, rtol=0, atol=1e-2 * np.abs(b).max())
    still = ao.solve(mlp, net.theta, net.y, (0.4, 0.4))
    assert PENALTIES["frobenius"]().evaluate(still, 0.5).value == pytest.approx(JacobianNorm("frobenius", 1.0).evaluate(still, 0.5).value)


def test_what_it_cannot():
    with pytest.raises(InputError, match="its state cannot be detached"):
        PENALTIES["frobenius"](detach=("state",))
    with pytest.raises(MissingDerivativeError, match="relu"):
        PENALTIES["log"]().check(MLP((2, 3, 2), activation="relu"), TSIT5)
    with pytest.raises(InputError, match=r'JacobianNorm\(at="end_to_end"\) needs the states'):
        PENALTIES["frobenius"]().evaluate(solved(network(2), keep="none"), 0.5)
