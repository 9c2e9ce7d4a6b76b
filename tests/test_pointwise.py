"""Penalties of (t, y(t)): where they look, what they add up, and their gradients through the solve."""

from __future__ import annotations

import json

import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of, frozen, states_at
from scipy.integrate import simpson
from strategies import Network, parameters

import adaptode as ao
from adaptode.adjoint import discrete
from adaptode.errors import InputError
from adaptode.regularize import PointwisePenalty
from adaptode.training.objective import Objective

SIZES = (2, 5, 2)
NET = Network(SIZES, "tanh", "every", "identity", "identity", parameters(8, SIZES, "every", 1.5), np.array([[0.8, -0.4], [0.2, 1.1], [-0.3, 0.5]]), 0.0)


class Cubes(PointwisePenalty):
    """φ = θ₁² t + Σ y³: polynomials whose every derivative can be read off."""

    name = "cubes"
    pullbacks = 3

    def pointwise(self, field, t, y, theta, variate):
        def pull(bar):
            theta_bar = np.zeros_like(theta)
            theta_bar[1] = 2 * theta[1] * t * bar.sum()
            return 3 * y**2 * bar[:, None], theta_bar

        return theta[1] ** 2 * t + (y**3).sum(axis=1), pull, 2


class Integral(Cubes):
    integral = True


def measure(t, y, theta):
    return theta[1] ** 2 * t + (y**3).sum(axis=1)


def solved(span, **options):
    return ao.solve(field_of(NET), NET.theta, NET.y, span, rtol=1e-4, atol=1e-4, **options)


def expected(penalty, run, variate, theta, y0):
    """R on the run's own grid, from its definition, as a function of complex theta and y0."""
    t0, t1 = run.tspan
    x, w = np.polynomial.legendre.leggauss(penalty.nodes)
    times, weights = {"start": ([t0], [1.0]), "random": ([t0 + variate * (t1 - t0)], [1.0]), "path": ((t0 + t1) / 2 + (t1 - t0) / 2 * x, w / 2)}[penalty.at]
    scale = abs(t1 - t0) if penalty.integral and penalty.at != "start" else 1.0
    held = "state" in penalty.detach
    states = states_at(run, frozen(run, lambda s, y: NET.naive(s, y, NET.theta if held else theta), NET.y if held else y0), times)
    of_batch = np.mean if penalty.reduce == "mean" else lambda v: v[np.argmax(v.real)]
    return scale * sum(wk * of_batch(measure(t, y, theta)) for t, wk, y in zip(times, weights, states, strict=True))


@pytest.mark.parametrize("kind", [Cubes, Integral])
@pytest.mark.parametrize("at", ["start", "random", "path"])
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("span", [(0.0, 1.0), (0.5, -1.0)])
@pytest.mark.parametrize("detach", [(), ("state",)])
def test_value_and_gradient_are_the_definitions(kind, at, reduce, span, detach):
    penalty, variate = kind(1.0, at=at, reduce=reduce, nodes=5, detach=detach), 0.37
    times = penalty.times(span, variate)
    saved = solved(span, saveat=sorted({*times, span[1]}, reverse=span[1] < span[0]))
    for run in (saved, solved(span)):  # saved outputs or dense ones, the same numbers
        term = penalty.evaluate(run, variate)
        assert isinstance(term.value, float) and term.evaluations == 2 * len(times)
        assert term.value == pytest.approx(expected(penalty, run, variate, NET.theta, NET.y), rel=1e-12)
        pulled = term.pull(1.7)
        assert [t for t, _ in pulled.jumps] == ([] if detach else list(times)) and pulled.evaluations == 3 * len(times)
        through = discrete(run, jumps=pulled.jumps)
        theta_bar = pulled.theta + through.theta
        theta_dot, y_dot = draw_like(3, NET.theta, NET.y)
        value = expected(penalty, run, variate, NET.theta + 1e-30j * theta_dot, NET.y + 1e-30j * y_dot)
        got = theta_bar @ theta_dot + np.sum(through.y0 * y_dot)
        assert_directional(got, 1.7 * np.imag(value) / 1e-30, np.linalg.norm(theta_bar), 1e-11)


def test_the_path_is_the_integral_and_a_random_time_its_unbiased_estimate():
    run = ao.solve(field_of(NET), NET.theta, NET.y, (0.0, 2.0), rtol=1e-10, atol=1e-10)
    t = np.linspace(0.0, 2.0, 2001)
    fine = simpson([measure(s, y, NET.theta).mean() for s, y in zip(t, run.sol(t), strict=True)], x=t)
    assert Integral(1.0, at="path", nodes=16).evaluate(run, 0.0).value == pytest.approx(fine, rel=1e-6)
    assert Cubes(1.0, at="path", nodes=16).evaluate(run, 0.0).value == pytest.approx(fine / 2, rel=1e-6)
    drawn = np.mean([Integral(1.0, at="random").evaluate(run, (k + 0.5) / 200).value for k in range(200)])
    assert drawn == pytest.approx(fine, rel=2e-3)


def test_a_run_that_kept_nothing_serves_where_its_outputs_were_asked_for():
    for at in ("start", "random", "path"):
        penalty, span = Cubes(1.0, at=at), (0.0, 1.0)
        bare = solved(span, keep="none", saveat=sorted({*penalty.times(span, 0.3), 1.0}))
        assert penalty.evaluate(bare, 0.3).value == pytest.approx(penalty.evaluate(solved(span), 0.3).value, rel=1e-14)
        with pytest.raises(InputError, match=rf'Cubes\(at="{at}"\) needs the states'):
            penalty.evaluate(solved(span, keep="none"), 0.3)


def test_a_span_of_length_zero():
    run = solved((0.5, 0.5))
    for at in ("random", "path"):
        assert Integral(1.0, at=at).evaluate(run, 0.3).value == 0.0
        assert Cubes(1.0, at=at).evaluate(run, 0.3).value == pytest.approx(Cubes(1.0).evaluate(run, 0.3).value, rel=1e-14)


def test_a_shared_maximum_takes_the_first_sample():
    run = ao.solve(field_of(NET), NET.theta, np.repeat(NET.y[:1], 2, axis=0), (0.0, 1.0))
    ((_, bar),) = Cubes(1.0, reduce="max").evaluate(run, 0.0).pull(1.0).jumps
    assert bar[0].any() and not bar[1].any()


def test_arguments_and_config():
    for bad, message in (
        ({"at": "end"}, "at must be one of 'start', 'random', 'path'; got 'end'"),
        ({"nodes": 0}, "nodes must be a whole number of at least 1; got 0"),
        ({"nodes": 2.5}, "nodes must be"),
        ({"reduce": "sum"}, "reduce must be one of 'mean', 'max'"),
        ({"detach": "step"}, "each of detach must be one of 'state'; got 'step'"),
        ({"weight": -0.1}, "Cubes: its weight must be a number of at least 0 or a schedule"),
        ({"weight": "strong"}, "Cubes: its weight"),
        ({"weight": np.nan}, "Cubes: its weight"),
    ):
        with pytest.raises(InputError, match=message):
            Cubes(**{"weight": 1.0, **bad})
    config = Cubes(1.0, at="path", nodes=3, detach="state").config()
    assert json.loads(json.dumps(config)) == config
    assert (config["at"], config["nodes"], config["reduce"], config["detach"]) == ("path", 3, "mean", ["state"])


def test_in_an_objective():
    objective = Objective(field_of(NET), "mean_squared_error", penalties=[Integral(0.5, at="path"), Cubes(0.5, at="random")], rtol=1e-4, atol=1e-4)
    y = np.zeros((3, 2))
    got = objective.value_and_grad(NET.theta, NET.y, y, rng=np.random.default_rng(0))
    variates = np.random.default_rng(0).random(2)
    run = objective.solve(NET.theta, NET.y)
    (direction,) = draw_like(5, NET.theta)

    def value(theta):
        y1 = states_at(run, frozen(run, lambda s, y: NET.naive(s, y, theta), NET.y), [1.0])[0]
        return np.mean(y1**2) + sum(0.5 * expected(p, run, v, theta, NET.y) for p, v in zip(objective.penalties, variates, strict=True))

    assert list(got.parts) == ["task", "cubes_1", "cubes_2"]
    assert got.loss == pytest.approx(value(NET.theta), rel=1e-11)
    assert_directional(got.grad @ direction, np.imag(value(NET.theta + 1e-30j * direction)) / 1e-30, np.linalg.norm(got.grad), 1e-10)
