"""Between the steps, and the high-order pair whose dense output needs stages of its own: step by step against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import DOP853 as SCIPY_DOP853
from scipy.integrate import solve_ivp
from strategies import networks, seeds, spans

from adaptode.dense import dense_state, dense_weights, locate
from adaptode.fields import MLP, PythonField
from adaptode.solver import solve
from adaptode.step import bound_stages, finish
from adaptode.tableau import DOP853, METHODS

MU = 0.012277471  # mass of the moon, of earth and moon together


def lorenz(t, y):
    return np.array([10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def three_body(t, y):
    """Arenstorf's orbits. [HNW93, II.0]"""
    x, z, u, v = y
    earth, moon = np.hypot(x + MU, z) ** 3, np.hypot(x - 1 + MU, z) ** 3
    a = x + 2 * v - (1 - MU) * (x + MU) / earth - MU * (x - 1 + MU) / moon
    return np.array([u, v, a, z - 2 * u - (1 - MU) * z / earth - MU * z / moon])


def van_der_pol(t, y):
    return np.array([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]])


def forced(t, y):
    return np.cos(3 * t) * y - t * np.sin(y[::-1])


PROBLEMS = {
    "lorenz": (lorenz, (0.0, 5.0), [1.0, 1.0, 1.0]),
    "three_body": (three_body, (0.0, 17.0652165601579625), [0.994, 0.0, 0.0, -2.00158510637908252]),
    "van_der_pol": (van_der_pol, (0.0, 20.0), [2.0, 0.0]),
    "backward": (forced, (1.5, -2.0), [0.3, 1.2]),
}
CASES = pytest.mark.parametrize("name", PROBLEMS)


def field_of(f, n):
    return PythonField(lambda t, y, theta: f(t, y[0])[None], n)


def both(name, tol, times=None):
    """Our run under SciPy's controller, and SciPy's solution."""
    f, span, y0 = PROBLEMS[name]
    reference = solve_ivp(f, span, y0, method="DOP853", rtol=tol, atol=tol, t_eval=times)
    options = {"method": "DOP853", "controller": "scipy", "rtol": tol, "atol": tol, "saveat": times}
    return solve(field_of(f, len(y0)), [], [y0], span, **options), reference


# --- the pair -----------------------------------------------------------------------------------------------------------------


@CASES
@pytest.mark.parametrize("tol", [1e-4, 1e-7, 1e-10])
def test_scipys_grid_and_count(name, tol):
    """Positions to 1e-5 only: an error estimate whose sums cancel knows few of its digits, and the steps are made from it."""
    run, reference = both(name, tol)
    assert run.nfev == reference.nfev and run.grid.size == reference.t.size
    np.testing.assert_allclose(run.grid, reference.t, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run.states[:, 0].T, reference.y, rtol=1e-4, atol=1e-4)


@CASES
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
def test_each_of_scipys_steps_to_rounding(name, tol):
    """New state, scaled error, and solution between the ends, from SciPy's own start of each step; van der Pol's stages amplify rounding most."""
    f, span, y0 = PROBLEMS[name]
    theirs = SCIPY_DOP853(f, span[0], y0, span[1], rtol=tol, atol=tol)
    n, tab, tolerance = len(y0), DOP853.coefficients(), np.array([tol])
    bound = field_of(f, n).bind(np.empty(0), 1, np.float64)
    Y, K, y1, err, out = (np.empty(shape) for shape in ((2, n), (16, n), n, 2 * n, n))
    while theirs.status == "running":
        theirs.step()
        sol = theirs.dense_output()
        t, h, y = theirs.t_old, theirs.t - theirs.t_old, theirs.y_old
        bound_stages(bound, tab, t, h, y, 0, 13, Y, K)
        q, _ = finish(tab, h, y, K, Y, tolerance, tolerance, y1, err)
        bound_stages(bound, tab, t, h, y, 13, 16, Y, K)
        size = np.abs(y).max() + abs(h) * np.abs(K).max()
        np.testing.assert_allclose(y1, theirs.y, rtol=0, atol=2e-13 * size)
        np.testing.assert_allclose(K, theirs.K_extended, rtol=0, atol=1e-9 * np.abs(K).max())
        scale = tol + tol * np.maximum(np.abs(y), np.abs(theirs.y))
        wanted = theirs._estimate_error_norm(theirs.K, h, scale)
        assert q == pytest.approx(wanted, rel=1e-6, abs=1e-13 * size / tol)
        for x in np.linspace(0.0, 1.0, 9):
            dense_state(tab, x, h, y, y1, K, out)
            np.testing.assert_allclose(out, sol(t + x * h), rtol=0, atol=1e-11 * size)


@CASES
@pytest.mark.parametrize("count", [2, 7, 200])
def test_outputs_are_scipys_and_cost_three_evaluations_a_step_that_has_some_inside(name, count):
    """SciPy spends them also on a step whose only outputs are its ends, where the state is known."""
    tol, span = 1e-6, PROBLEMS[name][1]
    times = np.linspace(*span, count)
    (bare, plain), (run, reference) = both(name, tol), both(name, tol, times)
    np.testing.assert_array_equal(run.grid, bare.grid)
    np.testing.assert_allclose(run.y[:, 0].T, reference.y, rtol=1e-6, atol=1e-7)
    inner = np.unique(locate(run, times[1:-1])).size
    assert run.nfev == bare.nfev + 3 * inner
    at_any = np.unique(locate(run, times)).size
    assert reference.nfev == plain.nfev + 3 * at_any
    np.testing.assert_array_equal(run.y[[0, -1]], run.states[[0, -1]])


def test_outputs_at_accepted_times_cost_nothing():
    f, span, y0 = PROBLEMS["lorenz"]
    options = {"method": "DOP853", "rtol": 1e-6, "atol": 1e-6}
    bare = solve(field_of(f, 3), [], [y0], span, **options)
    run = solve(field_of(f, 3), [], [y0], span, saveat=bare.grid, **options)
    assert run.nfev == bare.nfev
    np.testing.assert_array_equal(run.y, bare.states)


@pytest.mark.parametrize(("name", "start"), [("lorenz", 6), ("three_body", 5), ("van_der_pol", 12), ("backward", 6)])
def test_order_eight_at_the_end_and_between(name, start):
    f, span, y0 = PROBLEMS[name]
    if name == "three_body":  # away from the moon
        y0 = solve_ivp(f, (0.0, 0.3), y0, method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
    span = (span[0], {"backward": 0.0, "lorenz": 0.5}.get(name, 1.0))
    exact = solve_ivp(f, span, y0, method="DOP853", rtol=1e-13, atol=1e-15, dense_output=True).sol
    ends, inner = [], []
    for n in (start, 2 * start, 4 * start):
        h = abs(span[1] - span[0]) / n
        fixed = {"method": "DOP853", "first_step": h, "max_step": h, "rtol": 1e6, "atol": 1e6}
        run = solve(field_of(f, len(y0)), [], [y0], span, **fixed)
        times = (run.grid[:-1, None] + np.diff(run.grid)[:, None] * [0.15, 0.4, 0.7, 0.93]).ravel()
        ends.append(np.abs(run.y1[0] - exact(span[1])).max())
        inner.append(np.abs(run.sol(times)[:, 0].T - exact(times)).max())
    for errors in (ends, inner):
        assert np.log2(errors[0] / errors[2]) / 2 > 7.4, errors


def test_at_tight_tolerances_it_takes_far_fewer_evaluations_than_order_five():
    f, span, y0 = PROBLEMS["lorenz"]
    counts = {m: solve(field_of(f, 3), [], [y0], span, method=m, rtol=1e-11, atol=1e-11).nfev for m in ("Tsit5", "DOP853")}
    assert 2.5 * counts["DOP853"] < counts["Tsit5"]


# --- the continuous extension of every method -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@given(network=networks(), span=spans(), seed=seeds)
def test_both_ends_are_exact(method, network, span, seed):
    tab, n = METHODS[method].coefficients(), network.y.size
    rng = np.random.default_rng(seed)
    y0, y1, K, out = rng.normal(size=n), rng.normal(size=n), rng.normal(size=(tab.c.size, n)), np.empty(n)
    h = span[1] - span[0]
    dense_state(tab, 0.0, h, y0, y1, K, out)
    np.testing.assert_array_equal(out, y0)
    dense_state(tab, 1.0, h, y0, y1, K, out)
    np.testing.assert_array_equal(out, y1)


@pytest.mark.parametrize("method", METHODS)
@given(theta=st.floats(0, 1))
def test_the_kernels_weights_are_the_tableaus(method, theta):
    expected = METHODS[method].weights(theta)
    for function in (dense_weights, getattr(dense_weights, "py_func", dense_weights)):
        np.testing.assert_allclose(function(METHODS[method].coefficients(), theta), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(networks(), spans())
def test_stages_kept_are_those_of_the_method_alone(dtype, network, span):
    times = np.linspace(*span, 6)
    field = MLP(network.sizes, **network.options)
    theta, y0 = network.theta.astype(dtype), network.y.astype(dtype)
    run = solve(field, theta, y0, span, method="DOP853", rtol=1e-3, atol=1e-3, saveat=times, keep="stages")
    assert run.stages.shape == (run.grid.size - 1, 13, network.y.size) and run.stages.dtype == run.y.dtype == dtype
    fine = solve(field, network.theta, network.y, span, method="DOP853", rtol=1e-9, atol=1e-9, saveat=times)
    np.testing.assert_allclose(run.y, fine.y, rtol=0.05, atol=0.05)
    np.testing.assert_allclose(run.sol(times), run.y, rtol=0, atol=1e-12 if dtype == np.float64 else 1e-4)
