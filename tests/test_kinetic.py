"""Kinetic energy, Jacobian-Frobenius and directional penalties: their definitions, by complex steps on the frozen grid."""

from __future__ import annotations

import json

import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of, frozen, naive_jacobian, naive_jvp, states_at
from hypothesis import given
from hypothesis import strategies as st
from strategies import networks, seeds
from test_pointwise import NET

import adaptode as ao
from adaptode.adjoint import discrete
from adaptode.checks import taylor_test
from adaptode.errors import InputError, MissingDerivativeError
from adaptode.fields import MLP, PythonField
from adaptode.regularize import Directional, JacobianFrobenius, Kinetic
from adaptode.tableau import TSIT5
from adaptode.training.objective import Objective

PENALTIES = {
    "kinetic": lambda **o: Kinetic(1.0, **o),
    "gaussian": lambda **o: JacobianFrobenius(1.0, **o),
    "rademacher": lambda **o: JacobianFrobenius(1.0, "rademacher", product="jvp", **o),
    "gaussian_jvp": lambda **o: JacobianFrobenius(1.0, product="jvp", **o),
    "exact": lambda **o: JacobianFrobenius(1.0, "exact", **o),
    "directional": lambda **o: Directional(1.0, **o),
}
kinds = pytest.mark.parametrize("kind", PENALTIES)


def projection(kind, variate, shape):
    rng = np.random.default_rng(int(variate * 2**53))
    return rng.normal(size=shape) if "gaussian" in kind else 2.0 * rng.integers(0, 2, shape) - 1


def measure(kind, network, t, y, theta, variate):
    """φ (B,) from its definition, on complex y and theta."""
    n, f = y.shape[1], network.naive(t, y, theta)
    if kind == "kinetic":
        return np.sum(f * f, axis=1) / (2 * n)
    if kind == "directional":
        a = naive_jvp(network, t, y, theta, f)
        return np.sum(a * a, axis=1) / (2 * n)
    J = naive_jacobian(network, t, y, theta)
    if kind == "exact":
        return np.sum(J * J, axis=(1, 2)) / n
    epsilon = projection(kind, variate, y.shape)
    v = np.einsum("bij,bi->bj" if kind == "gaussian" else "bij,bj->bi", J, epsilon)
    return np.sum(v * v, axis=1) / n


@kinds
@given(networks(max_batch=3), st.sampled_from([(0.0, 0.4), (0.3, -0.2)]), st.sampled_from(["start", "random", "path"]), seeds)
def test_value_and_gradient_by_a_complex_step(kind, network, span, at, seed):
    variate, nodes = 0.37, 3
    run = ao.solve(field_of(network), network.theta, network.y, span, rtol=1e-3, atol=1e-3)
    penalty = PENALTIES[kind](at=at, nodes=nodes)
    term = penalty.evaluate(run, variate)
    times = penalty.times(span, variate)
    weights = {"start": [1.0], "random": [abs(span[1] - span[0])]}.get(at, abs(span[1] - span[0]) * np.polynomial.legendre.leggauss(nodes)[1] / 2)

    def value(theta, y0):
        states = states_at(run, frozen(run, lambda t, y: network.naive(t, y, theta), y0), times)
        return sum(w * np.mean(measure(kind, network, t, y, theta, variate)) for w, t, y in zip(weights, times, states, strict=True))

    assert term.value == pytest.approx(value(network.theta, network.y), rel=1e-9, abs=1e-14) and isinstance(term.value, float)
    pulled = term.pull(1.3)
    through = discrete(run, jumps=pulled.jumps)
    theta_bar = pulled.theta + through.theta
    theta_dot, y_dot = draw_like(seed, network.theta, network.y)
    expected = 1.3 * np.imag(value(network.theta + 1e-30j * theta_dot, network.y + 1e-30j * y_dot)) / 1e-30
    assert_directional(theta_bar @ theta_dot + np.sum(through.y0 * y_dot), expected, np.linalg.norm(theta_bar) + np.linalg.norm(through.y0), 1e-9)


@pytest.mark.parametrize("estimator", ["gaussian", "rademacher"])
@pytest.mark.parametrize("product", ["vjp", "jvp"])
def test_projections_have_the_exact_norm_as_their_mean(estimator, product):
    run = ao.solve(field_of(NET), NET.theta, NET.y, (0.0, 1.0))
    exact = JacobianFrobenius(1.0, "exact", nodes=3).evaluate(run, 0.0).value
    penalty = JacobianFrobenius(1.0, estimator, product=product, nodes=3)
    drawn = np.array([penalty.evaluate(run, v).value for v in np.random.default_rng(0).random(600)])
    assert abs(drawn.mean() - exact) < 4 * drawn.std() / np.sqrt(600) < 0.3 * exact
    if estimator == "rademacher":
        other = JacobianFrobenius(1.0, product=product, nodes=3)
        assert drawn.std() < np.std([other.evaluate(run, v).value for v in np.random.default_rng(0).random(600)])


def test_one_projection_a_solve_and_another_in_the_next():
    class Watched(MLP):
        seen: list = []

        def jvp(self, t, y, theta, y_dot):
            self.seen.append(y_dot)
            return super().jvp(t, y, theta, y_dot)

    field = Watched((2, 5, 2), time="every")
    run = ao.solve(field, NET.theta, NET.y, (0.0, 1.0))
    for estimator in ("gaussian", "rademacher"):
        for variate in (0.2, 0.7):
            JacobianFrobenius(1.0, estimator, product="jvp", nodes=4).evaluate(run, variate)
        first, second = field.seen[:4], field.seen[4:]
        assert all((e == first[0]).all() for e in first) and all((e == second[0]).all() for e in second) and (first[0] != second[0]).any()
        assert estimator == "gaussian" or set(np.unique(first[0])) == {-1.0, 1.0}
        field.seen.clear()


@kinds
def test_by_taylor_through_an_objective(kind):
    """The library's own value, on a grid that a longest step freezes."""
    field, penalty = field_of(NET), PENALTIES[kind](nodes=4)

    def solved(theta):
        return ao.solve(field, theta, NET.y, (0.0, 1.0), first_step=0.25, max_step=0.25, rtol=1e-2, atol=1e-2)

    pulled = penalty.evaluate(solved(NET.theta), 0.3).pull(1.0)
    gradient = pulled.theta + discrete(solved(NET.theta), jumps=pulled.jumps).theta
    (direction,) = draw_like(1, NET.theta)
    result = taylor_test(lambda p: penalty.evaluate(solved(p), 0.3).value, gradient @ direction, NET.theta, direction, (1e-3, 5e-4, 2.5e-4))
    assert 1.85 < result.slope < np.inf


@kinds
def test_float32_and_evaluations(kind):
    counts = {"value": 0, "vjp": 0}
    mlp = field_of(NET)

    def counted(name):
        def call(*arguments):
            counts[name] += 1
            return getattr(mlp, name)(*arguments)

        return call

    more = {"jvp": mlp.jvp, "jacobian": mlp.jacobian, "bilinear_vjp": mlp.bilinear_vjp}
    field = PythonField(counted("value"), 2, mlp.n_params, vjp=counted("vjp"), **more)
    terms = []
    for f, dtype in ((field, "float64"), (mlp, "float64"), (mlp, "float32")):
        run = ao.solve(f, NET.theta.astype(dtype), NET.y.astype(dtype), (0.0, 1.0), saveat=[*PENALTIES[kind](nodes=2).times((0.0, 1.0), 0.3), 1.0])
        counts.update(value=0, vjp=0)
        term = PENALTIES[kind](nodes=2).evaluate(run, 0.3)
        pulled = term.pull(1.0)
        if f is field:
            assert term.evaluations + pulled.evaluations == counts["value"] + counts["vjp"]
        assert pulled.theta.dtype == pulled.jumps[0][1].dtype == dtype
        terms.append((term.value, pulled.theta))
    assert terms[0][0] == pytest.approx(terms[1][0], rel=1e-12) and terms[2][0] == pytest.approx(terms[1][0], rel=1e-4)
    np.testing.assert_allclose(terms[0][1], terms[1][1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(terms[2][1], terms[1][1], rtol=0, atol=1e-3 * np.abs(terms[1][1]).max())


def test_they_compose_in_an_objective():
    penalties = [PENALTIES[k]() for k in ("kinetic", "gaussian", "directional")]
    objective = Objective(field_of(NET), "mean_squared_error", penalties=penalties)
    got = objective.value_and_grad(NET.theta, NET.y, np.zeros((3, 2)), rng=np.random.default_rng(0))
    assert list(got.parts) == ["task", "kinetic", "jacobian_frobenius", "directional"] and all(v > 0 for v in got.parts.values())


@kinds
def test_a_field_at_rest(kind):
    field = MLP((2, 3, 2))
    run = ao.solve(field, field.init(0, "zeros"), np.ones((2, 2)), (0.0, 1.0))
    term = PENALTIES[kind]().evaluate(run, 0.4)
    assert term.value == 0.0 and not term.pull(1.0).theta.any()


def test_arguments_and_config():
    for bad, message in (
        ({"estimator": "uniform"}, "estimator must be one of 'gaussian', 'rademacher', 'exact'; got 'uniform'"),
        ({"product": "full"}, "product must be one of 'vjp', 'jvp'"),
        ({"reduce": "max"}, 'needs estimator="exact"'),
        ({"weight": -1.0}, "JacobianFrobenius: its weight"),
    ):
        with pytest.raises(InputError, match=message):
            JacobianFrobenius(**{"weight": 1.0, **bad})
    JacobianFrobenius(1.0, "exact", reduce="max")
    for kind, make in PENALTIES.items():
        config = make().config()
        assert json.loads(json.dumps(config)) == config and config["at"] == "path" and config["nodes"] == 8, kind
    configs = [json.dumps(make().config()) for make in PENALTIES.values()]
    assert len(set(configs)) == len(configs)


def test_fields_that_cannot():
    rough, mlp = MLP((2, 3, 2), activation="relu"), MLP((2, 3, 2))
    Kinetic(1.0).check(rough, TSIT5)
    for penalty in (JacobianFrobenius(1.0), JacobianFrobenius(1.0, "exact"), Directional(1.0)):
        with pytest.raises(MissingDerivativeError, match=f"{type(penalty).__name__}.*relu"):
            penalty.check(rough, TSIT5)
        penalty.check(mlp, TSIT5)
    bare = PythonField(mlp.value, 2, mlp.n_params, vjp=mlp.vjp, bilinear_vjp=mlp.bilinear_vjp)
    Kinetic(1.0).check(bare, TSIT5)
    JacobianFrobenius(1.0).check(bare, TSIT5)
    for penalty, missing in ((JacobianFrobenius(1.0, product="jvp"), "jvp"), (JacobianFrobenius(1.0, "exact"), "jacobian"), (Directional(1.0), "jvp")):
        with pytest.raises(MissingDerivativeError, match=f"has no `{missing}`"):
            penalty.check(bare, TSIT5)
