"""The referee is refereed: against SciPy, recorded runs of torchdiffeq, and itself by independent routes."""

from __future__ import annotations

import json
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import PROBLEMS
from scipy.integrate import DOP853 as SCIPY_DOP853
from scipy.integrate import RK23, RK45, solve_ivp
from scipy.special import expit, ndtr
from strategies import adaptive_methods, grids, methods, networks, seeds, spans, tolerances

from adaptode.checks import complex_step, finite_difference
from adaptode.tableau import BS32, DOP853, DOPRI5, DOPRI5_SHAMPINE, METHODS, RK4, TSIT5

REFERENCE = json.loads(Path(__file__).with_name("reference_torchdiffeq.json").read_text(encoding="utf-8"))
TORCH = {"dopri5": DOPRI5_SHAMPINE, "bosh3": BS32}


def test_the_network_by_hand():
    theta = np.array([0.5, -1.0, 2.0, 0.25, 0.1, 0.2, 0.3, -0.4, 1.0, 2.0, -3.0, 0.7, 0.6, -0.2])
    y, t = np.array([[0.3, -0.2]]), 0.5
    a, b = 0.3 * 0.5 - 0.2 * 2.0 + t * 0.1 + 0.3, 0.3 * -1.0 - 0.2 * 0.25 + t * 0.2 - 0.4
    a, b = np.tanh(a), np.tanh(b)
    expected = [a * 1.0 + b * -3.0 + 0.6, a * 2.0 + b * 0.7 - 0.2]
    np.testing.assert_allclose(naive.mlp(t, y, theta, (2, 2, 2), time="first"), [expected], rtol=1e-15)
    np.testing.assert_allclose(
        naive.mlp(t, y, theta, (2, 2, 2), time="first", outer="tanh"), [np.tanh(expected)], rtol=1e-15
    )
    cubed = naive.mlp(t, y, theta, (2, 2, 2), time="first", preactivation="cube")
    np.testing.assert_array_equal(cubed, naive.mlp(t, y**3, theta, (2, 2, 2), time="first"))
    assert [naive.n_params((2, 3, 2), time) for time in ("none", "first", "every")] == [17, 20, 22]


@pytest.mark.parametrize("name", naive.ACTIVATIONS)
@given(st.floats(-30, 30))
def test_activations_are_right_and_survive_a_complex_step(name, z):
    known = {
        "identity": z,
        "tanh": np.tanh(z),
        "softplus": np.logaddexp(0, z),
        "sigmoid": expit(z),
        "sine": np.sin(z),
        "gelu": z * ndtr(z),
        "cube": z**3,
    }[name]
    function, z = naive.ACTIVATIONS[name], np.asarray(z)
    np.testing.assert_allclose(function(z), known, rtol=1e-13, atol=1e-14)
    by_complex_step = np.imag(function(z + 1e-30j)) / 1e-30
    h = 1e-5
    np.testing.assert_allclose(by_complex_step, (function(z + h) - function(z - h)) / (2 * h), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(np.real(function(z + 1e-30j)), function(z), rtol=1e-14, atol=1e-15)


@given(networks(), grids(), methods, seeds)
def test_derivatives_of_everything_on_a_grid_by_complex_step_and_difference(network, grid, method, seed):
    t, h = grid
    rng = np.random.default_rng(seed)
    weight, d_theta, d_y = (rng.normal(size=x.shape) for x in (network.y, network.theta, network.y))

    def outputs(x):  # along one direction in theta and y
        y = network.y + x * d_y
        run = naive.fixed_grid(
            lambda t, y: network.naive(t, y, network.theta + x * d_theta), t, h, y, METHODS[method], rtol=0.1, atol=0.1
        )
        middle = naive.dense_on_grid(run, METHODS[method], [t[0] + 0.3 * h[0]])[0]
        return np.array([np.sum(weight * run.y[-1]), np.sum(weight * middle), np.sum(run.q), np.sum(run.stiffness)])

    # q and S are made of differences that cancel, and have no derivative at zero: compare them where they are clear of
    # that
    clear = np.array(
        [True, True, *[bool(np.all(naive.fixed_grid(network.naive, t, h, network.y, METHODS[method]).q > 1e-2))] * 2]
    )
    exact = complex_step(outputs, 0.0, 1.0)[clear]
    difference, error = finite_difference(lambda x: outputs(x)[clear], 0.0, 1.0, step=0.01)
    np.testing.assert_allclose(exact, difference, rtol=1e-6, atol=10 * error + 1e-8)


@given(networks())
def test_gradients_entry_by_entry(network):
    weight = np.random.default_rng(0).normal(size=network.y.shape)

    def value(theta):
        return np.sum(weight * network.naive(network.t, network.y, theta))

    gradient = naive.complex_gradient(value, network.theta)
    np.testing.assert_allclose(gradient, naive.difference_gradient(value, network.theta), rtol=1e-5, atol=1e-7)


@given(networks())
def test_the_jacobian_by_differences(network):
    J = naive.jacobian(network.naive, network.t, network.y)
    for b, row in enumerate(network.y):
        for i in range(network.sizes[0]):
            gradient = naive.difference_gradient(lambda y, b=b, i=i: network.naive(network.t, y[np.newaxis])[0, i], row)
            np.testing.assert_allclose(J[b, i], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(DOPRI5, RK45), (BS32, RK23), (DOP853, SCIPY_DOP853)], ids=["RK45", "RK23", "DOP853"]
)
@given(name=st.sampled_from(sorted(PROBLEMS)), span=spans(), tolerance=tolerances(tightest=-7))
def test_scipys_loop_is_scipys(ours, theirs, name, span, tolerance):
    problem, (rtol, atol) = PROBLEMS[name], tolerance
    shape = problem.y0.shape

    def flat(t, y):
        return problem.f(t, y.reshape(shape)).ravel()

    solution = solve_ivp(flat, span, problem.y0.ravel(), method=theirs, rtol=rtol, atol=atol, dense_output=True)
    times = np.linspace(*span, 5)
    run = naive.solve_scipy(problem.f, times, problem.y0, ours, rtol, atol)
    # the referee evaluates extra stages anew at each time, SciPy in each step
    assert run.nfe - 4 * ours.extra_stages == solution.nfev - (solution.t.size - 1) * ours.extra_stages
    # an error estimate of 1e-9 knows 1e-7 of its size, and so do the steps made from it
    np.testing.assert_allclose(run.t[run.accepted] + run.h[run.accepted], solution.t[1:], atol=1e-5)
    np.testing.assert_allclose(run.y.reshape(5, -1).T, solution.sol(times), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "case",
    REFERENCE["cases"],
    ids=lambda c: f"{c['problem']}-{c['method']}-{c['rtol']:g}-{c['t'][0]:g}to{c['t'][-1]:g}",
)
def test_torchdiffeqs_loop_is_torchdiffeqs(case):
    problem, tableau = PROBLEMS[case["problem"]], TORCH[case["method"]]
    run = naive.solve_torchdiffeq(problem.f, case["t"], problem.y0, tableau, case["rtol"], case["atol"])
    assert run.nfe == case["nfe"]
    assert run.nfe == 2 + (tableau.stages - 1) * len(run.t)
    np.testing.assert_allclose(np.abs(run.h[run.accepted]), case["accepted"], rtol=1e-4)
    np.testing.assert_allclose(np.abs(run.h[~run.accepted]), case["rejected"], rtol=1e-4)
    # bosh3 interpolates by another formula than BS32's Hermite cubic
    tolerance = 1e-10 if case["method"] == "dopri5" else 10 * case["atol"]
    np.testing.assert_allclose(run.y, case["y"], rtol=100 * tolerance, atol=tolerance)


def test_the_reference_says_where_it_is_from():
    assert {"torch", "torchdiffeq", "numpy"} <= set(REFERENCE["versions"])
    assert any(case["rejected"] for case in REFERENCE["cases"]) and any(
        case["t"][0] > case["t"][-1] for case in REFERENCE["cases"]
    )


@given(name=st.sampled_from(sorted(PROBLEMS)), span=spans(), tolerance=tolerances(tightest=-8, loosest=-4))
def test_ordinarydiffeqs_rule_solves_and_counts_three_plus_six_a_step(name, span, tolerance):
    problem, (rtol, atol) = PROBLEMS[name], tolerance
    run = naive.solve_ordinarydiffeq(problem.f, span, problem.y0, TSIT5, rtol, atol)
    assert run.nfe == 3 + 6 * len(run.t)
    ends = run.t[run.accepted] + run.h[run.accepted]
    assert (
        ends[-1] == pytest.approx(span[1], abs=1e-15)
        and np.all(run.q[run.accepted] <= 1)
        and np.all(run.q[~run.accepted] > 1)
    )
    change = np.abs(run.h[1:] / run.h[:-1])[:-1]  # the last one may be cut by the end
    assert np.all(change <= 10 * (1 + 1e-12)) and np.all(change >= 0.2 * (1 - 1e-12))
    solution = solve_ivp(
        lambda t, y: problem.f(t, y.reshape(problem.y0.shape)).ravel(),
        span,
        problem.y0.ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    )
    error = np.abs(run.y[-1].ravel() - solution.y[:, -1]) / (atol + rtol * np.abs(solution.y[:, -1]))
    assert np.max(error) < 1e4


@given(networks(), spans(longest=0.5), adaptive_methods)
def test_the_dense_output_meets_the_steps_and_a_restarted_grid_is_the_same(network, span, method):
    tableau = METHODS[method]
    h = np.full(3, (span[1] - span[0]) / 3)
    t = span[0] + h * np.arange(3)
    grid = naive.fixed_grid(network.naive, t, h, network.y, tableau)
    np.testing.assert_allclose(naive.dense_on_grid(grid, tableau, t), grid.y[:-1], rtol=1e-12, atol=1e-12)
    last = naive.fixed_grid(network.naive, t[2:], h[2:], grid.y[2], tableau)
    np.testing.assert_array_equal(last.y[-1], grid.y[-1])
    np.testing.assert_array_equal(last.q[0], grid.q[-1])


@pytest.mark.parametrize("name", METHODS)
def test_observed_order_of_the_solution_the_error_and_the_dense_output(name):
    """Global order p; the error vectors and the dense error of one step each of its order + 1."""
    tableau, f, y0 = METHODS[name], PROBLEMS["forced"].f, PROBLEMS["forced"].y0
    exact = solve_ivp(
        lambda t, y: f(t, y.reshape(3, 2)).ravel(),
        (0, 1),
        y0.ravel(),
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
        dense_output=True,
    ).sol
    counts = np.array([16, 32, 64]) if tableau.order < 8 else np.array([3, 6, 12])  # 13 digits reach no further
    grids = [naive.fixed_grid(f, np.arange(n) / n, np.full(n, 1 / n), y0, tableau) for n in counts]

    def order(errors):
        return np.min(np.log2(np.array(errors[:-1]) / np.array(errors[1:])))

    assert order([np.abs(g.y[-1].ravel() - exact(1.0)).max() for g in grids]) > tableau.order - 0.4
    if tableau.adaptive:
        for row, expected in enumerate((5, 3) if tableau.e_low.size else (tableau.error_order,)):
            sizes = [np.abs(g.err[:, row] if tableau.e_low.size else g.err).max() for g in grids]
            assert order(sizes) > expected + 1 - 0.4
    dense = [
        np.abs(naive.dense_on_grid(g, tableau, [0.37 / n])[0].ravel() - exact(0.37 / n)).max()
        for g, n in zip(grids, counts, strict=True)
    ]
    assert order(dense) > tableau.dense_order + 1 - 0.5


@given(seeds, methods)
def test_stiffness_estimates_the_rate_of_a_scalar_linear_problem(seed, method):
    rate, h = np.random.default_rng(seed).uniform(-3, -0.5), 0.2
    tableau = METHODS[method]
    S = naive.step(lambda t, y: rate * y, 0.0, h, np.array([1.0]), tableau, 1e-3, 1e-3).stiffness
    if tableau.stiffness_pair is None:
        assert S == 0.0
    else:
        digits = 1e-6 if tableau.order == 8 else 1e-9  # its last two stages differ in the ninth digit
        np.testing.assert_allclose(S, abs(rate) / tableau.stiffness_constant, rtol=digits)


def test_nothing_moves_where_f_is_zero():
    s = naive.step(lambda t, y: 0 * y, 0.0, 0.1, np.ones((2, 2)), RK4, 1e-3, 1e-3)
    assert s.q == 0.0 and s.stiffness == 0.0
    np.testing.assert_array_equal(s.y1, 1.0)
