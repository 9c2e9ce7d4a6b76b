"""The Jacobian penalties: batch means of norms and condition numbers at the start, and their gradients."""

from __future__ import annotations

import json

import naive
import numba
import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of, frobenius, frozen, jacobian_measure, naive_jacobian, states_at
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import HIDDEN, Network, networks, parameters, seeds

import adaptode as ao
from adaptode import linalg
from adaptode.adjoint import discrete
from adaptode.checks import finite_difference
from adaptode.errors import InputError, MissingDerivativeError, SingularJacobianError
from adaptode.fields import MLP, CompiledField, PythonField
from adaptode.regularize import ConditionNumber, JacobianNorm
from adaptode.tableau import TSIT5

FLOOR = 1e-4
PENALTIES = {
    "frobenius": JacobianNorm("frobenius", 1.0),
    "spectral": JacobianNorm("spectral", 1.0),
    "condition": ConditionNumber(1.0, floor=0.0),
    "bounded": ConditionNumber(1.0, floor=0.1),
}
VALUES = {
    "frobenius": lambda J: np.linalg.norm(J, "fro"),
    "spectral": lambda J: np.linalg.norm(J, 2),
    "condition": lambda J: np.linalg.cond(J, 2),
    "bounded": lambda J: (np.linalg.cond(J, 2) ** -2 + 0.01) ** -0.5,
    "log": lambda J: -0.5 * np.log(np.linalg.cond(J, 2) ** -2 + 0.01),
}
kinds = pytest.mark.parametrize("kind", PENALTIES)


@numba.njit
def njit_value(t, y, theta, out):
    out[:] = -y


def square(n, seed, time="every", batch=3, hidden=5):
    """A network whose Jacobian is regular in general: hidden layers wider than the state."""
    rng, sizes = np.random.default_rng(seed), (n, hidden, n)
    theta = parameters(seed, sizes, time)
    return Network(sizes, "tanh", time, "identity", "identity", theta, rng.normal(size=(batch, n)), 0.4)


def solved(network, t0=0.4):
    return ao.solve(field_of(network), network.theta, network.y, (t0, t0 + 0.01), rtol=1e-2, atol=1e-2)


def gaps(J):
    """How far the singular values that matter are from each other and from 0, relative to the largest."""
    s = np.linalg.svd(J, compute_uv=False)
    apart = -np.diff(s, axis=1) / s[:, :1] if J.shape[1] > 1 else np.ones((1, 1))
    return min(apart.min(), (s[:, -1] / s[:, 0]).min())


@kinds
@given(
    networks(
        max_batch=4, preactivation=st.sampled_from(("identity", "sine")), outer=st.sampled_from(("identity", "tanh"))
    )
)
def test_value_is_the_batch_mean_of_numpys(kind, network):
    J = naive.jacobian(network.naive, network.t, network.y)
    s = np.linalg.svd(J, compute_uv=False)
    assume(s[:, 0].min() > 1e-6)
    if kind == "condition":
        assume((s[:, -1] / s[:, 0]).min() > 1e-6)
    term = PENALTIES[kind].evaluate(solved(network, network.t), 0.5)
    assert isinstance(term.value, float) and term.evaluations == 0
    assert term.value == pytest.approx(np.mean([VALUES[kind](one) for one in J]), rel=1e-8)


@kinds
@given(st.sampled_from(HIDDEN), seeds)
def test_gradient_in_the_plane_is_a_complex_step(kind, activation, seed):
    network = square(2, seed)._replace(activation=activation)
    J = naive.jacobian(network.naive, 0.4, network.y)
    assume(gaps(J) > 1e-3)
    pulled = PENALTIES[kind].evaluate(solved(network), 0.5).pull(1.3)
    ((t, y_bar),) = pulled.jumps
    assert t == 0.4 and pulled.evaluations == 0
    theta_dot, y_dot = draw_like(seed, network.theta, network.y)
    J = naive_jacobian(network, 0.4, network.y + 1e-30j * y_dot, network.theta + 1e-30j * theta_dot)
    floor = {"condition": 0.0, "bounded": 0.1}.get(kind)
    value = 1.3 * np.mean(jacobian_measure(J, kind if floor is None else "condition", floor))
    got = pulled.theta @ theta_dot + np.sum(y_bar * y_dot)
    assert_directional(got, np.imag(value) / 1e-30, np.linalg.norm(pulled.theta) + np.linalg.norm(y_bar), 1e-8)


@settings(max_examples=15)
@kinds
@given(st.sampled_from([1, 3, 4]), seeds)
def test_gradient_in_any_dimension_is_the_difference_quotient(kind, n, seed):
    network = square(n, seed, batch=2)
    assume(gaps(naive.jacobian(network.naive, 0.4, network.y)) > 0.02)
    pulled = PENALTIES[kind].evaluate(solved(network), 0.5).pull(1.0)
    theta_dot, y_dot = draw_like(seed, network.theta, network.y)

    def value(x):
        moved = network._replace(theta=network.theta + x * theta_dot)
        return np.mean([VALUES[kind](J) for J in naive.jacobian(moved.naive, 0.4, network.y + x * y_dot)])

    expected, error = finite_difference(value, 0.0, 1.0, step=2e-3)
    got = pulled.theta @ theta_dot + np.sum(pulled.jumps[0][1] * y_dot)
    assert abs(got - expected) <= 10 * error + 1e-7 * (np.linalg.norm(pulled.theta) + abs(expected))


@given(networks(min_dimension=2), seeds)
def test_every_entry_of_frobenius(network, seed):
    J = naive.jacobian(network.naive, network.t, network.y)
    assume(frobenius(J).min() > 1e-3)
    pulled = PENALTIES["frobenius"].evaluate(solved(network, network.t), 0.5).pull(1.0)
    by_theta = naive.complex_gradient(
        lambda p: np.mean(frobenius(naive_jacobian(network, network.t, network.y, p))), network.theta
    )
    by_y = naive.complex_gradient(
        lambda y: np.mean(frobenius(naive_jacobian(network, network.t, y, network.theta))), network.y
    )
    for got, expected in ((pulled.theta, by_theta), (pulled.jumps[0][1], by_y)):
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-9 * np.abs(by_theta).max())


@kinds
def test_the_closed_form_and_the_svd_agree_through_the_penalty(kind, monkeypatch):
    run = solved(square(2, 5))
    terms = []
    for path in (linalg._extremes_2x2, linalg._extremes_svd):
        monkeypatch.setattr(linalg, "_extremes_2x2", path)
        terms.append(PENALTIES[kind].evaluate(run, 0.5))
    assert terms[0].value == pytest.approx(terms[1].value, rel=1e-12)
    a, b = (t.pull(1.0) for t in terms)
    np.testing.assert_allclose(a.theta, b.theta, rtol=0, atol=1e-11 * np.abs(b.theta).max())


@kinds
def test_a_batch_is_the_mean_of_its_samples(kind):
    network = square(3, 2)
    whole = PENALTIES[kind].evaluate(solved(network), 0.5)
    parts = [PENALTIES[kind].evaluate(solved(network._replace(y=network.y[b : b + 1])), 0.5) for b in range(3)]
    assert whole.value == pytest.approx(np.mean([p.value for p in parts]), rel=1e-13)
    pulled, pieces = whole.pull(1.0), [p.pull(1.0) for p in parts]
    np.testing.assert_allclose(pulled.theta, np.mean([p.theta for p in pieces], axis=0), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(
        pulled.jumps[0][1], np.concatenate([p.jumps[0][1] for p in pieces]) / 3, rtol=1e-10, atol=1e-13
    )


@kinds
def test_the_jump_is_at_the_start_whichever_way_time_runs(kind):
    network = square(2, 1)
    terms = [
        PENALTIES[kind].evaluate(ao.solve(field_of(network), network.theta, network.y, span), v)
        for span, v in (((0.4, 2.0), 0.1), ((0.4, -1.0), 0.9))
    ]
    assert terms[0].value == terms[1].value
    run = ao.solve(field_of(network), network.theta, network.y, (0.4, -1.0))
    pulled = terms[1].pull(1.0)
    through = discrete(run, jumps=pulled.jumps)
    np.testing.assert_array_equal(through.y0, pulled.jumps[0][1])
    assert not through.theta.any() and pulled.jumps[0][1].any()


@kinds
def test_float32(kind):
    network = square(2, 3)
    single = network._replace(theta=network.theta.astype(np.float32), y=network.y.astype(np.float32))
    a, b = (PENALTIES[kind].evaluate(solved(net), 0.5) for net in (single, network))
    assert a.value == pytest.approx(b.value, rel=1e-4)
    pa, pb = a.pull(1.0), b.pull(1.0)
    assert pa.theta.dtype == pa.jumps[0][1].dtype == np.float32
    np.testing.assert_allclose(pa.theta, pb.theta, rtol=0, atol=1e-3 * np.abs(pb.theta).max())


# --- singular, zero, rough --------------------------------------------------------------------------------------------


def test_a_narrow_hidden_layer_is_refused_before_any_work():
    narrow, wide = MLP((3, 2, 3)), MLP((3, 3, 3))
    for floor in (0.0, 0.1):
        with pytest.raises(SingularJacobianError, match=r"rank at most 2 < 3 .* widen its hidden layers to 3"):
            ConditionNumber(1.0, floor=floor).check(narrow, TSIT5)
        ConditionNumber(1.0, floor=floor).check(wide, TSIT5)
    JacobianNorm("spectral", 1.0).check(narrow, TSIT5)


def test_a_singular_jacobian_is_an_error_or_the_bounded_surrogate():
    field = MLP((2, 2))
    theta = np.array([1.0, 2.0, 0.5, 1.0, 0.0, 0.0])  # W of rank 1
    run = ao.solve(field, theta, np.ones((2, 2)), (0.0, 0.1))
    with pytest.raises(SingularJacobianError, match="sample 0.*floor > 0"):
        ConditionNumber(1.0, floor=0.0).evaluate(run, 0.5)
    for floor in (1e-4, 0.1):
        term = ConditionNumber(1.0, floor=floor).evaluate(run, 0.5)
        assert term.value == pytest.approx(1 / floor, rel=1e-6)
        assert np.isfinite(term.pull(1.0).theta).all()
    # near singular, the surrogate follows kappa below 1 / floor and stays below it above
    for epsilon in (0.5, 1e-2, 1e-5):
        J = np.array([[1.0, 2.0], [0.5, 1.0 + epsilon]])
        near = ao.solve(field, np.concatenate([J.T.ravel(), [0, 0]]), np.ones((1, 2)), (0.0, 0.1))
        kappa = np.linalg.cond(J)
        got = ConditionNumber(1.0, floor=1e-3).evaluate(near, 0.5).value
        assert got == pytest.approx(kappa / np.sqrt(1 + (1e-3 * kappa) ** 2), rel=1e-9)


def test_a_zero_jacobian():
    field = MLP((2, 3, 2))
    run = ao.solve(field, field.init(0, "zeros"), np.ones((2, 2)), (0.0, 1.0))
    for kind in ("frobenius", "spectral"):
        term = PENALTIES[kind].evaluate(run, 0.5)
        pulled = term.pull(1.0)
        assert term.value == 0 and not pulled.theta.any() and not pulled.jumps[0][1].any()
    with pytest.raises(SingularJacobianError, match="zero Jacobian"):
        PENALTIES["bounded"].evaluate(run, 0.5)


def test_kappa_one_is_a_minimum_with_no_gradient():
    field = MLP((2, 2))
    run = ao.solve(field, np.array([0.6, -0.8, 0.8, 0.6, 0.0, 0.0]), np.ones((1, 2)), (0.0, 1.0))
    term = PENALTIES["condition"].evaluate(run, 0.5)
    assert term.value == pytest.approx(1.0, rel=1e-15) and not term.pull(1.0).theta.any()


@kinds
@pytest.mark.parametrize("place", ["activation", "outer", "preactivation"])
def test_relu_is_refused_by_name(kind, place):
    with pytest.raises(MissingDerivativeError, match=f"{type(PENALTIES[kind]).__name__}.*relu"):
        PENALTIES[kind].check(MLP((2, 3, 2), **{place: "relu"}), TSIT5)


@kinds
def test_a_field_without_second_derivatives_is_refused_and_one_with_them_served(kind):
    mlp, network = MLP((2, 5, 2), time="every"), square(2, 4)
    with pytest.raises(MissingDerivativeError, match="has no `jacobian`"):
        PENALTIES[kind].check(PythonField(mlp.value, 2, mlp.n_params, vjp=mlp.vjp), TSIT5)
    with pytest.raises(MissingDerivativeError, match="has no `bilinear_vjp`"):
        PENALTIES[kind].check(PythonField(mlp.value, 2, mlp.n_params, jacobian=mlp.jacobian), TSIT5)
    with pytest.raises(MissingDerivativeError, match="has no `jacobian`"):
        PENALTIES[kind].check(CompiledField(njit_value, 2), TSIT5)
    full = PythonField(mlp.value, 2, mlp.n_params, jacobian=mlp.jacobian, bilinear_vjp=mlp.bilinear_vjp)
    PENALTIES[kind].check(full, TSIT5)
    a, b = (PENALTIES[kind].evaluate(ao.solve(f, network.theta, network.y, (0.4, 1.0)), 0.5) for f in (full, mlp))
    assert a.value == b.value
    np.testing.assert_array_equal(a.pull(1.0).theta, b.pull(1.0).theta)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("at", ["start", "random", "path"])
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("kind", ["frobenius", "spectral", "bounded", "log"])
def test_elsewhere_and_by_the_maximum_through_the_solve(kind, reduce, at, n):
    """Against difference quotients of the definition on the frozen grid, with NumPy's singular values."""
    network, variate = square(n, 6), 0.3
    make = {"frobenius": (JacobianNorm, "frobenius"), "spectral": (JacobianNorm, "spectral"), "bounded": (ConditionNumber,), "log": (ConditionNumber,)}[kind]
    options = {"floor": 0.1} if kind == "bounded" else {"floor": 0.1, "log": True} if kind == "log" else {}
    penalty = make[0](*make[1:], 1.0, at=at, nodes=3, reduce=reduce, **options)
    run = ao.solve(field_of(network), network.theta, network.y, (0.4, 1.2), rtol=1e-3, atol=1e-3)
    times = penalty.times(run.tspan, variate)
    weights = np.polynomial.legendre.leggauss(3)[1] / 2 if at == "path" else [1.0]

    def value(x, theta_dot, y_dot):
        moved = network._replace(theta=network.theta + x * theta_dot)
        states = states_at(run, frozen(run, moved.naive, network.y + x * y_dot), times)
        phi = [[VALUES[kind](J) for J in naive_jacobian(network, t, y, moved.theta)] for t, y in zip(times, states, strict=True)]
        return sum(w * (np.mean(p) if reduce == "mean" else np.max(p)) for w, p in zip(weights, phi, strict=True))

    term = penalty.evaluate(run, variate)
    pulled = term.pull(1.0)
    through = discrete(run, jumps=pulled.jumps)
    theta_bar, directions = pulled.theta + through.theta, draw_like(5, network.theta, network.y)
    assert term.value == pytest.approx(value(0.0, *directions), rel=1e-9)
    expected, error = finite_difference(lambda x: value(x, *directions), 0.0, 1.0, step=1e-3)
    got = theta_bar @ directions[0] + np.sum(through.y0 * directions[1])
    assert abs(got - expected) <= 10 * error + 1e-7 * (np.linalg.norm(theta_bar) + abs(expected))


def test_log_kappa_at_a_singular_jacobian_and_at_its_minimum():
    field = MLP((2, 2))
    singular = ao.solve(field, np.array([1.0, 2.0, 0.5, 1.0, 0.0, 0.0]), np.ones((2, 2)), (0.0, 0.1))
    term = ConditionNumber(1.0, floor=1e-3, log=True).evaluate(singular, 0.5)
    assert term.value == pytest.approx(np.log(1e3), rel=1e-6) and np.isfinite(term.pull(1.0).theta).all()
    with pytest.raises(SingularJacobianError):
        ConditionNumber(1.0, floor=0.0, log=True).evaluate(singular, 0.5)
    rotation = ao.solve(field, np.array([0.6, -0.8, 0.8, 0.6, 0.0, 0.0]), np.ones((1, 2)), (0.0, 1.0))
    term = ConditionNumber(1.0, log=True).evaluate(rotation, 0.5)
    assert term.value == pytest.approx(0.0, abs=1e-7) and not term.pull(1.0).theta.any()
    assert ConditionNumber(1.0, log=True).name == "log_condition_number" and ConditionNumber(1.0, log=True).config()["log"] is True


def test_arguments_names_and_config():
    with pytest.raises(InputError, match="kind must be one of 'frobenius', 'spectral'; got 'nuclear'"):
        JacobianNorm("nuclear", 1.0)
    for wrong, shown in (((0.1,), "0.1"), ((0.1, "frobenius"), "0.1, 'frobenius'"), (("spectral",), "'spectral'")):
        with pytest.raises(InputError, match=rf'as in JacobianNorm\("frobenius", 0.1\); got JacobianNorm\({shown}\)$'):
            JacobianNorm(*wrong)
    for floor in (-0.1, 1.0, np.nan):
        with pytest.raises(InputError, match="floor"):
            ConditionNumber(1.0, floor=floor)
    made = {p.name: json.loads(json.dumps(p.config())) for p in PENALTIES.values()}
    assert set(made) == {"frobenius", "spectral", "condition_number"}
    assert made["spectral"] == {
        "penalty": "JacobianNorm",
        "weight": {"kind": "Constant", "value": 1.0},
        "kind": "spectral",
        "at": "start",
        "reduce": "mean",
        "detach": [],
    }
    assert ConditionNumber(ao.Exponential(2.0, 1.0, 3)).config()["floor"] == FLOOR
    assert JacobianNorm("spectral", ao.Linear(0.0, 1.0, 2)).weight(1) == 0.5
