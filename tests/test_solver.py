"""The loop: orders, parity with SciPy, torchdiffeq and OrdinaryDiffEq, symmetries, outputs. What goes wrong is in test_solver_faults.py."""

import json
from pathlib import Path

import naive
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import PROBLEMS, SIZES, formula_weights
from scipy.integrate import solve_ivp
from strategies import METHODS as NAMES
from strategies import adaptive_methods, methods, networks, seeds, spans

from adaptode.control import CONTROLLERS, next_factor
from adaptode.dense import locate
from adaptode.errors import InputError
from adaptode.fields import MLP, CompiledField, PythonField
from adaptode.solution import Status
from adaptode.solver import solve
from adaptode.tableau import DOPRI5, METHODS, TSIT5

REFERENCE = json.loads(Path(__file__).with_name("reference_torchdiffeq.json").read_text(encoding="utf-8"))
NO_THETA = np.empty(0)
controllers = st.sampled_from(sorted(CONTROLLERS))
# not so tight that the errors of the first steps, and so the sizes of the next, are rounding
plain_tolerances = st.tuples(st.sampled_from([1e-3, 1e-4, 1e-5, 1e-6]), st.sampled_from([1e-3, 1e-4, 1e-5, 1e-6]))


def python_field(f, n):
    return PythonField(lambda t, y, theta: f(t, y), n)


def solve_problem(name, tspan, **options):
    problem = PROBLEMS[name]
    return solve(python_field(problem.f, problem.y0.shape[1]), NO_THETA, problem.y0, tspan, **options)


def solve_network(network, tspan, **options):
    return solve(MLP(network.sizes, **network.options), network.theta, network.y, tspan, **options)


def fixed(method, h):
    """Options that keep the step at h."""
    return {"method": method, "first_step": h, "max_step": h, "rtol": 1e3, "atol": 1e3}


# --- order ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
def test_observed_orders_on_fixed_steps(method, span):
    tab, y0 = METHODS[method], PROBLEMS["forced"].y0
    exact = solve_ivp(
        lambda t, y: PROBLEMS["forced"].f(t, y.reshape(y0.shape)).ravel(), span, y0.ravel(), method="DOP853", rtol=1e-13, atol=1e-13, dense_output=True
    ).sol
    ends, middles = [], []
    for n in (16, 32, 64) if tab.order < 8 else (3, 6, 12):  # 13 digits reach no further
        run = solve_problem("forced", span, **fixed(method, 1 / n))
        assert n <= len(run.steps) <= n + 1 and run.steps.accepted.all()
        ends.append(np.abs(run.y1.ravel() - exact(span[1])).max())
        times = span[0] + (np.arange(n) + 0.37) / n * (span[1] - span[0])
        middles.append(np.abs(run.sol(times).reshape(n, -1).T - exact(times)).max())
    for errors, order in ((ends, tab.order), (middles, min(tab.order, tab.dense_order + 1))):
        observed = np.log2(np.array(errors[:-1]) / errors[1:])
        assert order - 0.5 < observed.min() and observed.max() < order + 1.5


def test_steps_grow_with_the_fifth_root_of_the_tolerance():
    counts = [solve_problem("lotka_volterra", (0, 10), rtol=tol, atol=tol).n_accepted for tol in (1e-5, 1e-10)]
    assert counts[1] / counts[0] == pytest.approx(10, rel=0.25)


# --- parity -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [("Dopri5", "RK45"), ("BS32", "RK23")])
@given(network=networks(), span=spans(), tolerance=plain_tolerances, outputs=st.integers(1, 6))
def test_scipys_grid_values_and_count(ours, theirs, network, span, tolerance, outputs):
    """Step by step; positions to 1e-5 only, because a cancelling error estimate knows 1e-7 of itself and the steps are made from it."""
    rtol, atol = tolerance
    times = np.linspace(*span, outputs + 1)

    def flat(t, y):
        return network.naive(t, y.reshape(network.y.shape)).ravel()

    options = {"method": theirs, "rtol": rtol, "atol": atol}
    reference = solve_ivp(flat, span, network.y.ravel(), **options)
    run = solve_network(network, span, method=ours, controller="scipy", rtol=rtol, atol=atol, saveat=times)
    assert run.nfev == reference.nfev and run.grid.size == reference.t.size
    np.testing.assert_allclose(run.grid, reference.t, rtol=1e-5, atol=1e-5)
    small = 1e-12 + 1e-3 * (atol + rtol)  # what moving a step by 1e-5 does to an error of one tolerance
    np.testing.assert_allclose(run.y1.ravel(), reference.y[:, -1], rtol=1e-9, atol=small)
    at_times = solve_ivp(flat, span, network.y.ravel(), t_eval=times, **options).y.T
    np.testing.assert_allclose(run.y.reshape(at_times.shape), at_times, rtol=1e-9, atol=small)


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"{c['problem']}-{c['method']}-{c['rtol']:g}-{c['t'][0]:g}to{c['t'][-1]:g}")
def test_torchdiffeqs_evaluations_accepts_and_rejects(case):
    method = {"dopri5": "Dopri5_Shampine", "bosh3": "BS32"}[case["method"]]
    times = case["t"]
    run = solve_problem(case["problem"], (times[0], times[-1]), method=method, controller="torchdiffeq", saveat=times, rtol=case["rtol"], atol=case["atol"])
    assert run.nfev == case["nfe"] == 2 + (run.method.stages - 1) * len(run.steps)
    np.testing.assert_allclose(np.abs(run.steps.h[run.steps.accepted]), case["accepted"], rtol=1e-4)
    np.testing.assert_allclose(np.abs(run.steps.h[~run.steps.accepted]), case["rejected"], rtol=1e-4)
    # bosh3 interpolates by another formula than BS32's Hermite cubic
    tolerance = 1e-10 if case["method"] == "dopri5" else 10 * case["atol"]
    np.testing.assert_allclose(run.y, case["y"], rtol=100 * tolerance, atol=tolerance)


@pytest.mark.parametrize(("controller", "tableau", "betas"), [("ordinarydiffeq", TSIT5, (7 / 50, 2 / 25)), ("ordinarydiffeq-dp5", DOPRI5, (0.17, 0.04))])
@given(name=st.sampled_from(sorted(PROBLEMS)), span=spans(), tolerance=plain_tolerances)
def test_ordinarydiffeqs_attempts(controller, tableau, betas, name, span, tolerance):
    """The same attempts; we count 2 + 6 an attempt, OrdinaryDiffEq 3 + 6: it evaluates f(t₀, y₀) twice."""
    rtol, atol = tolerance
    reference = naive.solve_ordinarydiffeq(PROBLEMS[name].f, span, PROBLEMS[name].y0, tableau, rtol, atol, *betas)
    run = solve_problem(name, span, method=tableau, controller=controller, rtol=rtol, atol=atol)
    assert run.nfev == 2 + 6 * len(run.steps) == reference.nfe - 1
    np.testing.assert_array_equal(run.steps.accepted, reference.accepted)
    np.testing.assert_allclose(run.steps.h, reference.h, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run.steps.error, reference.q, rtol=1e-2, atol=1e-2)  # the last step takes the drift of all before
    np.testing.assert_allclose(run.y1, reference.y[-1], rtol=1e-8, atol=1e-8)


@given(networks(), spans(), methods, controllers)
def test_every_row_of_the_log_is_the_referees_on_the_same_grid(network, span, method, controller):
    tab = METHODS[method]
    run = solve_network(network, span, method=method, controller=controller, rtol=1e-2, atol=1e-4, first_step=None if tab.adaptive else 0.1)
    log, grid = run.steps, run.grid
    truth = naive.fixed_grid(network.naive, grid[:-1], np.diff(grid), network.y, tab, 1e-2, 1e-4)
    np.testing.assert_allclose(run.states, truth.y, rtol=1e-11, atol=1e-12)
    if tab.adaptive:
        np.testing.assert_allclose(run.accepted("error"), truth.q, rtol=1e-6, atol=1e-8)
    else:
        assert not log.error.any()
    if tab.stiffness_pair is None:
        assert np.isnan(log.stiffness).all()
    else:
        i, j = tab.stiffness_pair
        smallest = 1e-6 if method == "DOP853" else 1e-8
        clear = np.array([min(naive.rms(x[j] - x[i]) for x in (s.Y, s.K)) > smallest for s in truth.steps])
        np.testing.assert_allclose(run.accepted("stiffness")[clear], truth.stiffness[clear], rtol=1e-4)
    # each attempt starts where the last accepted one ended
    ends = np.where(log.accepted, log.t + log.h, log.t)
    np.testing.assert_allclose(log.t[1:], ends[:-1], rtol=1e-15, atol=1e-15)
    limit = np.nextafter(1.0, 0) if controller == "scipy" else 1.0
    assert np.all(log.error[log.accepted] <= limit) and not np.any(log.error[~log.accepted] <= limit)
    if controller != "torchdiffeq":
        assert grid[-1] == span[1]
    per_step = tab.stages - 1 if tab.fsal else 0
    starts = 2 if tab.adaptive else 1
    if tab.fsal:
        inside = tab.extra_stages if grid[-1] != span[1] else 0  # the end, interpolated in a step that passed it
        assert run.nfev == starts + per_step * len(log) + inside
    else:
        assert run.nfev == tab.stages * run.n_accepted
    assert (run.n_accepted, run.n_rejected) == (log.accepted.sum(), (~log.accepted).sum()) and run.status is Status.SUCCESS


@pytest.mark.parametrize("controller", sorted(CONTROLLERS))
@given(network=networks(), span=spans(), method=adaptive_methods)
def test_each_step_follows_from_the_log(controller, network, span, method):
    """The controller's rule replayed on the logged errors gives the logged steps; the history is that of accepted steps, q of `floor` at least."""
    run = solve_network(network, span, method=method, controller=controller, rtol=1e-7, atol=1e-7)
    log, rule = run.steps, CONTROLLERS[controller].rule(METHODS[method].error_order)
    q1 = q2 = rule.start
    rejected = False
    for k in range(len(log) - 1):
        q, accepted = log.error[k], bool(log.accepted[k])
        wanted = abs(log.h[k]) * getattr(next_factor, "py_func", next_factor)(rule, q, q1, q2, accepted, rejected)
        rejected = not accepted
        if accepted:
            q1, q2 = max(q, rule.floor), q1
        if abs(log.t[k + 1] + log.h[k + 1] - span[1]) > 1e-12:  # what reaches the end may be cut by it
            assert abs(log.h[k + 1]) == pytest.approx(wanted, rel=1e-12)


def test_only_some_rules_keep_the_first_step_within_the_span():
    for name in CONTROLLERS:
        run = solve(python_field(lambda t, y: 1e-3 * y, 1), NO_THETA, np.ones((1, 1)), (0, 0.1), controller=name)
        assert (run.steps.h[0] > 0.1) == (name == "torchdiffeq") and len(run.steps) == 1
        np.testing.assert_allclose(run.y1, np.exp(1e-4), rtol=1e-12)


# --- the same loop, compiled and not ------------------------------------------------------------------------------------------


@numba.njit
def swing(t, y, theta, out):
    for i in range(0, y.size, 2):
        out[i] = y[i + 1] + theta[1] * np.cos(3.0 * t)
        out[i + 1] = -theta[0] * np.sin(y[i])


def swing_numpy(t, y, theta):
    return np.stack([y[:, 1] + theta[1] * np.cos(3 * t), -theta[0] * np.sin(y[:, 0])], axis=1)


SWING = CompiledField(swing, 2, 2)  # compiled once for all examples


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(span=spans(), method=adaptive_methods, controller=controllers, seed=seeds)
def test_compiled_and_interpreted_fields_take_the_same_grid(dtype, span, method, controller, seed):
    rng = np.random.default_rng(seed)
    y0, theta = rng.normal(size=(3, 2)).astype(dtype), np.array([2.0, 0.5], dtype)
    options = {"method": method, "controller": controller, "rtol": 1e-4, "atol": 1e-4, "saveat": np.linspace(*span, 4)}
    a = solve(SWING, theta, y0, span, **options)
    b = solve(PythonField(swing_numpy, 2, 2), theta, y0, span, **options)
    assert a.y.dtype == b.y.dtype == dtype
    if dtype == np.float64:
        assert a.nfev == b.nfev
        np.testing.assert_allclose(a.grid, b.grid, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(a.y, b.y, rtol=0, atol=1e-8 if dtype == np.float64 else 1e-3)  # float32's error estimates know two digits


@pytest.mark.parametrize("time", ["none", "first", "every"])
def test_the_mlp_takes_the_grid_of_the_same_network_in_numpy(time):
    name = {"none": "mlp", "first": "mlp_time_first", "every": "mlp_time_every"}[time]
    field, problem = MLP(SIZES, time=time), PROBLEMS[name]
    a = solve(field, formula_weights(SIZES, time), problem.y0, (0, 3))
    b = solve_problem(name, (0, 3))
    assert a.nfev == b.nfev
    np.testing.assert_allclose(a.grid, b.grid, rtol=1e-6)
    np.testing.assert_allclose(a.y1, b.y1, rtol=1e-9, atol=1e-10)


@given(networks(), spans(), adaptive_methods)
def test_float32_is_respected_and_close(network, span, method):
    options = {"method": method, "rtol": 1e-3, "atol": 1e-3, "saveat": np.linspace(*span, 3), "keep": "stages"}
    field, wide = MLP(network.sizes, **network.options), solve_network(network, span, **options)
    run = solve(field, network.theta.astype(np.float32), network.y.astype(np.float32), span, **options)
    assert run.y.dtype == run.y1.dtype == run.states.dtype == run.stages.dtype == np.float32 and run.grid.dtype == np.float64
    np.testing.assert_allclose(run.y, wide.y, rtol=1e-2, atol=1e-2)
    assert abs(run.n_accepted - wide.n_accepted) <= 2


# --- symmetries -------------------------------------------------------------------------------------------------------------


@given(networks(max_batch=6), spans(), adaptive_methods, controllers, seeds)
def test_the_order_of_a_batch_does_not_matter(network, span, method, controller, seed):
    order = np.random.default_rng(seed).permutation(network.y.shape[0])
    options = {"method": method, "controller": controller, "rtol": 1e-4, "atol": 1e-4}
    a = solve_network(network, span, **options)
    b = solve_network(network._replace(y=network.y[order]), span, **options)
    assert a.nfev == b.nfev
    np.testing.assert_allclose(b.grid, a.grid, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(b.y1, a.y1[order], rtol=1e-8, atol=1e-8)


@given(networks(), spans(), adaptive_methods, controllers)
def test_a_batch_of_copies_is_one(network, span, method, controller):
    """The RMS norm of doubled entries is the norm."""
    options = {"method": method, "controller": controller, "rtol": 1e-4, "atol": 1e-4}
    a, b = solve_network(network, span, **options), solve_network(network._replace(y=np.repeat(network.y, 3, 0)), span, **options)
    assert a.nfev == b.nfev
    np.testing.assert_allclose(b.y1, np.repeat(a.y1, 3, 0), rtol=1e-8, atol=1e-8)


@given(networks(), spans(), methods, controllers)
def test_mirrored_time_is_the_mirrored_solution_bit_for_bit(network, span, method, controller):
    options = {"method": method, "controller": controller, "rtol": 1e-3, "atol": 1e-5, "first_step": 0.07}
    n, saveat = network.sizes[0], np.linspace(*span, 4)
    a = solve(python_field(network.naive, n), NO_THETA, network.y, span, saveat=saveat, **options)
    b = solve(python_field(lambda t, y: -network.naive(-t, y), n), NO_THETA, network.y, (-span[0], -span[1]), saveat=-saveat, **options)
    np.testing.assert_array_equal(b.grid, -a.grid)
    np.testing.assert_array_equal(b.y, a.y)
    np.testing.assert_array_equal(b.steps.error, a.steps.error)


@given(networks(), spans(), adaptive_methods, controllers, st.integers(-30, 30))
def test_units_of_powers_of_two_change_no_bit(network, span, method, controller, power):
    """y and atol in other units; t in other units with the first step given (its rule has a unit of time)."""
    k, n = 2.0**power, network.sizes[0]
    options = {"method": method, "controller": controller, "rtol": 1e-4}

    def f(t, y):
        return np.cos(3 * t) * y - 0.5 * y[:, ::-1]

    a = solve(python_field(f, n), NO_THETA, network.y, span, atol=1e-5, **options)
    b = solve(python_field(f, n), NO_THETA, k * network.y, span, atol=k * 1e-5, **options)
    np.testing.assert_array_equal(b.grid, a.grid)
    np.testing.assert_array_equal(b.y1, k * a.y1)
    a = solve(python_field(f, n), NO_THETA, network.y, span, atol=1e-5, first_step=0.1, **options)
    slow = python_field(lambda t, y: f(t / k, y) / k, n)
    b = solve(slow, NO_THETA, network.y, (k * span[0], k * span[1]), atol=1e-5, first_step=0.1 * k, **options)
    np.testing.assert_array_equal(b.grid, k * a.grid)
    np.testing.assert_array_equal(b.y1, a.y1)


@given(networks(), spans(), adaptive_methods, st.integers(-192, 192).map(lambda k: k / 64))  # by which ends move exactly
def test_shifted_time_is_the_shifted_solution(network, span, method, shift):
    options = {"method": method, "rtol": 1e-4, "atol": 1e-4}
    n = network.sizes[0]
    a = solve(python_field(network.naive, n), NO_THETA, network.y, span, **options)
    b = solve(python_field(lambda t, y: network.naive(t - shift, y), n), NO_THETA, network.y, (span[0] + shift, span[1] + shift), **options)
    assert a.nfev == b.nfev
    np.testing.assert_allclose(b.grid - shift, a.grid, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(b.y1, a.y1, rtol=1e-7, atol=1e-7)


# --- outputs ----------------------------------------------------------------------------------------------------------------


@given(networks(), spans(), methods, controllers, st.lists(st.floats(0, 1), max_size=6))
def test_outputs_are_the_dense_solution_and_do_not_change_the_grid(network, span, method, controller, fractions):
    times = np.sort(span[0] + np.array([0.0, 0.0, *fractions, 1.0, 1.0]) * (span[1] - span[0]))
    times = np.clip(times, min(span), max(span))[:: int(np.sign(span[1] - span[0]))]
    options = {"method": method, "controller": controller, "rtol": 1e-3, "atol": 1e-5, "first_step": None if METHODS[method].adaptive else 0.1}
    run, bare = solve_network(network, span, saveat=times, **options), solve_network(network, span, **options)
    np.testing.assert_array_equal(run.t, times)
    np.testing.assert_array_equal(run.grid, bare.grid)
    np.testing.assert_array_equal(run.y[:2], [network.y, network.y])
    np.testing.assert_array_equal(run.y[-2:], [run.y1, run.y1])
    np.testing.assert_array_equal(run.y1, bare.y1)
    np.testing.assert_allclose(run.y, run.sol(times), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(run.sol(run.grid), run.states, rtol=0, atol=0)
    np.testing.assert_array_equal(run.sol(times[2]), run.sol(times[2:3])[0])
    naive_grid = naive.fixed_grid(network.naive, run.grid[:-1], np.diff(run.grid), network.y, METHODS[method])
    np.testing.assert_allclose(run.y, naive.dense_on_grid(naive_grid, METHODS[method], times), rtol=1e-10, atol=1e-11)
    if controller != "torchdiffeq":
        np.testing.assert_array_equal(run.y1, run.states[-1])


def test_outputs_that_leave_out_the_end_or_everything():
    run = solve_problem("oscillator", (0, 1), saveat=[0.25, 0.5], rtol=1e-9, atol=1e-9)
    assert run.t.tolist() == [0.25, 0.5]
    np.testing.assert_allclose(run.y[:, 0, 0], np.cos([0.25, 0.5]), atol=1e-8)
    np.testing.assert_allclose(run.y1[0], [np.cos(1), -np.sin(1)], atol=1e-8)
    run = solve_problem("oscillator", (0, 1), saveat=[])
    assert run.t.size == 0 and run.y.shape == (0, 1, 2) and run.success
    run = solve_problem("oscillator", (0, 1), saveat=[0.0])
    np.testing.assert_array_equal(run.y, run.states[:1])


def test_dense_output_ends_where_the_steps_end():
    run = solve_problem("oscillator", (1, 0))
    for t in (1.1, -0.1, np.nan):
        with pytest.raises(InputError, match="outside the solved span"):
            run.sol(t)
    for bad in ("a", [0.5, "b"], None, [[0.1], [0.2, 0.3]]):
        with pytest.raises(InputError, match="times must be numbers|outside the solved span"):
            run.sol(bad)
    assert run.sol([]).shape == (0, 1, 2)
    m = run.grid.size - 1
    assert m > 2 and locate(run, run.grid).tolist() == [0, *range(m)]  # a step owns its end, the first also its start
    assert locate(run, (run.grid[1:] + run.grid[:-1]) / 2).tolist() == list(range(m))


def test_a_run_is_a_record_of_its_own():
    field, y0 = MLP((2, 3, 2)), np.ones((1, 2))
    theta = field.init(0)
    run = solve(field, theta, y0, (0, 1))
    assert not np.shares_memory(run.theta, theta) and not np.shares_memory(run.states, y0)
    other = solve(field, theta, y0, (0, 1), copy=False)
    assert other.theta is theta and other.y0 is y0 and np.array_equal(other.y1, run.y1)


@given(networks(), spans(), methods)
def test_what_is_kept(network, span, method):
    options = {"method": method, "rtol": 1e-3, "atol": 1e-5, "first_step": None if METHODS[method].adaptive else 0.1}
    none, states, stages = (solve_network(network, span, keep=keep, **options) for keep in ("none", "states", "stages"))
    for run in (none, stages):
        np.testing.assert_array_equal(run.grid, states.grid)
        np.testing.assert_array_equal(run.y1, states.y1)
    assert none.states is None and none.stages is None and states.stages is None
    np.testing.assert_array_equal(stages.states, states.states)
    m, s = states.grid.size - 1, METHODS[method].stages
    assert states.states.shape == (m + 1, *network.y.shape) and stages.stages.shape == (m, s, network.y.size)
    truth = naive.fixed_grid(network.naive, run.grid[:-1], np.diff(run.grid), network.y, METHODS[method])
    np.testing.assert_allclose(stages.stages, [np.reshape(step.K, (s, -1)) for step in truth.steps], rtol=1e-9, atol=1e-10)
    with pytest.raises(InputError, match='dense output needs the states.*keep="states"'):
        none.sol(span[0])


def test_a_long_solve_goes_through_many_chunks():
    run = solve_problem("oscillator", (0, 200), rtol=1e-8, atol=1e-8, saveat=np.linspace(0, 200, 5), keep="stages")
    assert len(run.steps) > 64 + 128 + 256
    np.testing.assert_allclose(run.y[:, 0, 0], np.cos(run.t), atol=1e-4)
    np.testing.assert_allclose(run.grid[1:] - run.grid[:-1], run.accepted("h"), rtol=1e-12)
    assert run.states.shape[0] == run.stages.shape[0] + 1 == run.grid.size
    np.testing.assert_allclose(run.stages[:, 0], np.stack([run.states[:-1, 0, 1], -run.states[:-1, 0, 0]], 1), rtol=1e-12)
