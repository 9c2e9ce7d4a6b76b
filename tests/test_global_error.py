"""Global regularization: the sum, mean or maximum of every step's estimate, exact through all of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of, frozen
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import Network, activations, adaptive_methods, parameters, seeds

import adaptode as ao
from adaptode.adjoint import discrete
from adaptode.checks import taylor_test
from adaptode.errors import InputError
from adaptode.fields import MLP
from adaptode.regularize import GlobalError
from adaptode.tableau import METHODS
from adaptode.training.objective import Objective

SIZES = (2, 5, 2)
TANH = Network(SIZES, "tanh", "every", "identity", "identity", parameters(8, SIZES, "every", 1.5), np.array([[0.8, -0.4], [0.2, 1.1]]), 0.0)
SPANS = st.sampled_from([(0.0, 1.0), (0.3, -0.9), (-1.0, 0.7)])
ESTIMATES = ("error", "error_squared", "stiffness")
REDUCTIONS = ("sum", "mean", "max")


def solved(network, span=(0.0, 2.0), method="Tsit5", tolerance=1e-3, **options):
    return ao.solve(field_of(network), network.theta, network.y, span, method=method, rtol=tolerance, atol=tolerance, max_steps=400, **options)


def terms(grid, estimate):
    """r of every step, by the referee."""
    return {"error": grid.q * np.abs(grid.h), "error_squared": grid.q * grid.q, "stiffness": grid.stiffness}[estimate]


def reduced(r, reduce):
    return {"sum": np.sum, "mean": np.mean, "max": lambda r: r[np.argmax(r.real)]}[reduce](r)


@given(SPANS, adaptive_methods, st.sampled_from(["pi", "torchdiffeq"]), st.sampled_from(ESTIMATES), st.sampled_from(REDUCTIONS), activations, seeds)
def test_value_and_gradient_are_the_referees_on_the_frozen_grid(span, method, controller, estimate, reduce, activation, seed):
    assume(not (estimate == "stiffness" and method == "BS32"))
    network = TANH._replace(activation=activation, theta=parameters(seed, SIZES, "every", 1.5))
    run = solved(network, span, method, controller=controller)
    assume(run.success)
    grid = frozen(run, network.naive, network.y)
    r = terms(grid, estimate)
    if estimate == "stiffness":
        i, j = run.method.stiffness_pair
        assume(min(np.abs(x[j] - x[i]).max() for s in grid.steps for x in (s.Y, s.K)) > (1e-5 if method == "DOP853" else 1e-6))
    else:
        assume(grid.q.min() > 1e-8)
    assume(reduce != "max" or r.size == 1 or np.diff(np.sort(r))[-1] > 1e-3 * r.max())
    term = GlobalError(1.0, estimate, reduce=reduce).evaluate(run, 0.5)
    assert term.evaluations == 0 and isinstance(term.value, float)
    assert term.value == pytest.approx(reduced(r, reduce), rel=1e-5)
    pulled = term.pull(1.7)
    assert not pulled.theta.any() and pulled.jumps == [] and (pulled.error is None) == (estimate == "stiffness") == (pulled.stiffness is not None)
    gradient = discrete(run, error_bar=pulled.error, stiffness_bar=pulled.stiffness)
    theta_dot, y_dot = draw_like(seed, network.theta, network.y)
    moved = frozen(run, lambda t, y: network.naive(t, y, network.theta + 1e-30j * theta_dot), network.y + 1e-30j * y_dot)
    expected = 1.7 * np.imag(reduced(terms(moved, estimate), reduce)) / 1e-30
    scale = np.linalg.norm(gradient.theta) + np.linalg.norm(gradient.y0)
    assert_directional(gradient.theta @ theta_dot + np.sum(gradient.y0 * y_dot), expected, scale, 1e-6)


def test_every_definition_is_another():
    run = solved(TANH)
    values = [GlobalError(1.0, e, reduce=r).evaluate(run, 0.0).value for e in ESTIMATES for r in REDUCTIONS]
    assert len(set(values)) == 9 and run.n_accepted > 3
    assert GlobalError(1.0).evaluate(run, 0.0).value == values[0] == np.sum(run.accepted("error") * np.abs(np.diff(run.grid)))


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_by_taylor_on_the_whole_objective(estimate):
    """Without the referee: the library's own value, on a grid that a longest step freezes."""
    field = field_of(TANH)

    def run(theta):
        run = ao.solve(field, theta, TANH.y, (0.0, 1.0), first_step=0.25, max_step=0.25, rtol=1e-2, atol=1e-2)
        assert run.grid.size == 5 and run.n_rejected == 0
        return run

    penalty, at = GlobalError(1.0, estimate), run(TANH.theta)
    pulled = penalty.evaluate(at, 0.0).pull(1.0)
    gradient = discrete(at, error_bar=pulled.error, stiffness_bar=pulled.stiffness).theta
    (direction,) = draw_like(1, TANH.theta)
    result = taylor_test(lambda p: penalty.evaluate(run(p), 0.0).value, gradient @ direction, TANH.theta, direction, (1e-3, 5e-4, 2.5e-4))
    assert 1.85 < result.slope < np.inf


def test_in_an_objective_two_of_them_add_up():
    def evaluate(*penalties):
        objective = Objective(field_of(TANH), "mean_squared_error", penalties=penalties)
        return objective.value_and_grad(TANH.theta, TANH.y, np.zeros((2, 2)), rng=np.random.default_rng(0))

    kinds = [GlobalError(300.0), GlobalError(0.2, "stiffness", reduce="max"), GlobalError(200.0, "error_squared", reduce="mean")]
    whole, none = evaluate(*kinds), evaluate()
    assert list(whole.parts) == ["task", "global_error", "global_stiffness", "global_error_squared"]
    alone = [evaluate(kind) for kind in kinds]
    np.testing.assert_allclose(whole.grad - none.grad, sum(a.grad - none.grad for a in alone), rtol=1e-9, atol=1e-12)
    assert all(np.linalg.norm(a.grad - none.grad) > 1e-3 * np.linalg.norm(none.grad) for a in alone)
    assert whole.nfe_forward == none.nfe_forward


def test_no_error_no_gradient():
    field, y = MLP((2, 3, 2)), np.ones((1, 2))
    for theta, span in ((field.init(0, "zeros"), (0.0, 1.0)), (field.init(0), (0.5, 0.5))):
        run = ao.solve(field, theta, y, span)
        for estimate in ESTIMATES:
            for reduce in REDUCTIONS:
                term = GlobalError(1.0, estimate, reduce=reduce).evaluate(run, 0.3)
                pulled = term.pull(1.0)
                assert term.value == 0
                if run.n_accepted:
                    assert not discrete(run, error_bar=pulled.error, stiffness_bar=pulled.stiffness).theta.any()
                else:
                    assert pulled.error is None and pulled.stiffness is None


def test_arguments_and_config():
    field = field_of(TANH)
    for name, estimate, message in (("RK4", "error", "error estimate, which RK4 has not"), ("BS32", "stiffness", "stiffness estimate, which BS32 has not")):
        with pytest.raises(InputError, match=message):
            GlobalError(1.0, estimate).check(field, METHODS[name])
    for bad, message in (
        ({"estimate": "q"}, "estimate must be one of 'error', 'error_squared', 'stiffness'; got 'q'"),
        ({"reduce": "median"}, "reduce must be one of 'sum', 'mean', 'max'"),
        ({"weight": -1.0}, "GlobalError: its weight must be a number of at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            GlobalError(**{"weight": 1.0, **bad})
    config = GlobalError(ao.Linear(1.0, 0.5, 3), "stiffness", reduce="max").config()
    assert json.loads(json.dumps(config)) == config and (config["estimate"], config["reduce"]) == ("stiffness", "max")


def test_another_adjoint_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(ao.adjoint.ADJOINTS, "other", discrete)
    with pytest.raises(InputError, match="GlobalError needs the adjoint 'discrete', which opens every step; got adjoint='other'"):
        Objective(field_of(TANH), "mean_squared_error", penalties=[GlobalError(1.0)], adjoint="other")
