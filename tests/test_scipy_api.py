"""The methods behind SciPy's OdeSolver: SciPy's own front door with our methods, and the classes by hand."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st
from ivp_problems import promptly, systems, tolerances
from scipy.integrate import OdeSolver, solve_ivp

import adaptode as ao
from adaptode.control import CONTROLLERS
from adaptode.errors import InputError
from adaptode.fields import PythonField
from adaptode.solution import StepLog
from adaptode.tableau import get_tableau

CLASSES = (ao.Tsit5, ao.Dopri5, ao.BS32, ao.DOP853)
TWINS = ((ao.Dopri5, "RK45"), (ao.BS32, "RK23"), (ao.DOP853, "DOP853"))
classes = pytest.mark.parametrize("method", CLASSES, ids=lambda c: c.__name__)


@pytest.fixture(autouse=True)
def no_hang():
    with promptly(60.0):
        yield


def decay(t, y):
    return -y


def spiral(t, y):
    return np.array([y[1], -y[0]])


def forced(t, y):
    return np.array([y[1] - t, -np.sin(y[0]) + np.cos(2 * t)])


def exact_spiral(t):
    return np.array([np.cos(t), -np.sin(t)])


# --- parity ------------------------------------------------------------------------------------------------------------------


def assert_twins(ours, theirs, rtol, atol):
    """Steps to 1e-5 only: a cancelling error estimate knows 1e-7 of itself and the steps are made from it."""
    assert (ours.nfev, ours.njev, ours.nlu, ours.status, ours.success, ours.message) == (
        theirs.nfev, theirs.njev, theirs.nlu, theirs.status, theirs.success, theirs.message,
    )  # fmt: skip
    assert ours.t.shape == theirs.t.shape and ours.y.shape == theirs.y.shape and ours.y.dtype == theirs.y.dtype
    np.testing.assert_allclose(ours.t, theirs.t, rtol=1e-5, atol=1e-5)
    size = np.abs(theirs.y).max() + 1
    np.testing.assert_allclose(ours.y[:, -1], theirs.y[:, -1], rtol=1e-9, atol=size * (1e-12 + 1e-3 * (atol + rtol)))


@pytest.mark.parametrize(("method", "theirs"), TWINS)
@pytest.mark.parametrize("complex", [False, True])
@given(data=st.data(), tolerance=tolerances)
def test_scipys_steps_and_count(method, theirs, complex, data, tolerance):
    rtol, atol = tolerance
    f, y0, span = data.draw(systems(complex))
    assert_twins(*(solve_ivp(f, span, y0, method=m, rtol=rtol, atol=atol) for m in (method, theirs)), rtol, atol)


@pytest.mark.parametrize(("method", "theirs"), TWINS)
@given(
    system=systems(),
    tolerance=tolerances,
    options=st.fixed_dictionaries(
        {},
        optional={
            "first_step": st.sampled_from([1e-3, 0.02, 0.09]),
            "max_step": st.sampled_from([1e-4, 0.05, 0.3, 5.0]),
            "t_eval": st.integers(1, 9),
            "dense_output": st.just(True),
            "vectorized": st.just(True),
        },
    ),
)
def test_scipys_options_mean_the_same(method, theirs, system, tolerance, options):
    rtol, atol = tolerance
    f, y0, span = system
    options = dict(options)
    if options.get("max_step") == 1e-4:
        span = (span[0], span[0] + np.sign(span[1] - span[0]) * 0.1)
    if "t_eval" in options:
        options["t_eval"] = np.linspace(*span, options["t_eval"])
    if options.get("vectorized"):

        def g(t, y, f=f):
            assert y.ndim == 2
            return np.stack([f(t, column) for column in y.T], axis=1)

        f = g
    ours, reference = (solve_ivp(f, span, y0, method=m, rtol=rtol, atol=atol, **options) for m in (method, theirs))
    assert_twins(ours, reference, rtol, atol)
    if "dense_output" in options:
        times = np.linspace(*span, 7)
        np.testing.assert_allclose(ours.sol(times), reference.sol(times), rtol=1e-7, atol=(np.abs(y0).max() + 1) * 1e-2 * (atol + rtol))


@given(system=systems(), tolerance=tolerances, controller=st.sampled_from(["scipy", "pi", "pid"]), method=st.sampled_from(CLASSES))
def test_the_steps_of_adaptode_solve(system, tolerance, controller, method):
    """The same loop, there interpreted and here compiled: the same to rounding, which a cancelling error estimate amplifies into the step sizes."""
    rtol, atol = tolerance
    f, y0, span = system
    recorder = ao.StepRecorder()
    sol = solve_ivp(f, span, y0, method=method, rtol=rtol, atol=atol, controller=controller, recorder=recorder)
    field = PythonField(lambda t, y, theta: f(t, y[0])[None], y0.size)
    run = ao.solve(field, [], y0[None], span, method=method, rtol=rtol, atol=atol, controller=controller)
    np.testing.assert_array_equal(recorder.log.accepted, run.steps.accepted)
    for ours, theirs in ((sol.t, run.grid), (recorder.log.t, run.steps.t), (recorder.log.h, run.steps.h)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sol.y[:, -1], run.y1[0], rtol=1e-9, atol=(np.abs(sol.y).max() + 1) * (1e-12 + 1e-3 * (atol + rtol)))
    assert sol.nfev == run.nfev


def test_dopri5_takes_rk45s_steps_on_a_long_orbit():
    def lotka_volterra(t, y, a, b):
        return [a * y[0] - y[0] * y[1], b * y[0] * y[1] - 3 * y[1]]

    sols = [solve_ivp(lotka_volterra, (0, 15), [10, 5], method=m, args=(1.5, 1.0), rtol=1e-6, atol=1e-9) for m in (ao.Dopri5, "RK45")]
    assert sols[0].nfev == sols[1].nfev
    np.testing.assert_allclose(sols[0].t, sols[1].t, rtol=1e-8)
    np.testing.assert_allclose(sols[0].y, sols[1].y, rtol=1e-8)


# --- step by step ------------------------------------------------------------------------------------------------------------


@classes
@pytest.mark.parametrize("end", [2.0, -2.0])
def test_by_hand(method, end):
    solver = method(forced, 0.0, [1.0, 0.5], end, rtol=1e-7, atol=1e-9)
    assert isinstance(solver, OdeSolver) and solver.n == 2 and solver.direction == np.sign(end)
    assert solver.status == "running" and solver.t_old is None and solver.step_size is None
    with pytest.raises(RuntimeError):
        solver.dense_output()
    times, states = [solver.t], [solver.y]
    while solver.status == "running":
        before = solver.t
        assert solver.step() is None
        assert solver.t_old == before and solver.step_size == pytest.approx(abs(solver.t - before))
        times.append(solver.t)
        states.append(solver.y)
    assert solver.status == "finished" and solver.t == end and len(times) > 5
    with pytest.raises(RuntimeError, match="finished"):
        solver.step()
    sol = solve_ivp(forced, (0, end), [1.0, 0.5], method=method, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(sol.t, times)
    np.testing.assert_array_equal(sol.y.T, states)  # nor does a later step write into an earlier state
    assert solver.nfev == sol.nfev and solver.njev == solver.nlu == 0


@classes
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_dense_output_outlives_later_steps(method, kind):
    y0 = np.array([1.0, 0.5]) * (1 if kind == "real" else np.exp(0.3j))
    solver = method(spiral, 0.0, y0, 6.0, rtol=1e-6, atol=1e-8)
    kept = []
    while solver.status == "running":
        y_old = solver.y
        solver.step()
        dense = solver.dense_output()
        times = np.linspace(solver.t_old, solver.t, 5)
        kept.append((dense, times, dense(times)))
        np.testing.assert_array_equal(dense(times[0]), y_old)
        np.testing.assert_array_equal(dense(times[-1]), solver.y)
        assert (dense.t_old, dense.t, dense.t_min, dense.t_max) == (solver.t_old, solver.t, solver.t_old, solver.t)
    truth = np.array([[np.cos, np.sin], [lambda t: -np.sin(t), np.cos]])
    for dense, times, values in kept:
        np.testing.assert_array_equal(dense(times), values)
        assert values.shape == (2, 5) and dense(times[2]).shape == (2,) and dense([]).shape == (2, 0)
        assert values.dtype == y0.dtype
        exact = np.array([[truth[i, 0](times) * y0[0] + truth[i, 1](times) * y0[1]] for i in range(2)])[:, 0]
        np.testing.assert_allclose(values, exact, atol=2e-4 if method is ao.BS32 else 1e-5)
    with pytest.raises(ValueError):
        kept[0][0](np.zeros((2, 2)))


@classes
def test_order_of_the_dense_output(method):
    errors, order = [], method.tableau.dense_order
    for h in np.array([0.2, 0.1, 0.05]) * (4 if order > 5 else 1):
        sol = solve_ivp(spiral, (0, 3.2), [1.0, 0.0], method=method, rtol=1.0, atol=1e6, first_step=h, max_step=h, dense_output=True)
        assert sol.t.size == pytest.approx(3.2 / h + 1, abs=1)
        times = np.linspace(0, 3.2, 313)
        errors.append(np.abs(sol.sol(times) - exact_spiral(times)).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert order - 0.3 < slopes.min() and slopes.max() < order + 1.6


@classes
def test_an_interpolant_backwards(method):
    sol = solve_ivp(spiral, (3, -1), exact_spiral(3.0), method=method, rtol=1e-8, atol=1e-10, dense_output=True, t_eval=[3, 2.5, 0, -1])
    np.testing.assert_array_equal(sol.t, [3, 2.5, 0, -1])
    np.testing.assert_allclose(sol.y, exact_spiral(sol.t), atol=1e-6)
    np.testing.assert_allclose(sol.sol([2.9, 1.0, -0.3]), exact_spiral(np.array([2.9, 1.0, -0.3])), atol=1e-6)


@classes
def test_events(method):
    def up(t, y):
        return y[0]

    def stop(t, y):
        return y[1] - 0.5

    up.direction, stop.terminal = 1, 2
    sol = solve_ivp(spiral, (0, 20), [1.0, 0.0], method=method, rtol=1e-8, atol=1e-10, events=[up, stop], dense_output=True)
    assert sol.status == 1 and sol.success and len(sol.t_events[0]) == 1 and len(sol.t_events[1]) == 2
    np.testing.assert_allclose(sol.t_events[0], 1.5 * np.pi, atol=1e-6)
    np.testing.assert_allclose(sol.t_events[1], [7 * np.pi / 6, 11 * np.pi / 6], atol=1e-6)
    np.testing.assert_allclose(sol.y_events[1][:, 1], 0.5, atol=1e-12)
    assert sol.t[-1] == sol.t_events[1][-1]


@classes
def test_an_endless_span_ends_at_an_event(method):
    def half(t, y):
        return y[0] - 0.5

    half.terminal = True
    for way in (1.0, -1.0):
        sol = solve_ivp(lambda t, y, way=way: -way * y, (0, way * math.inf), [1.0], method=method, rtol=1e-8, atol=1e-10, events=half)
        assert sol.status == 1 and sol.t[-1] == pytest.approx(way * math.log(2), rel=1e-6)


@classes
def test_complex_states(method):
    sol = solve_ivp(lambda t, y: 1j * y, (0, 3), [1 + 1j, 2], method=method, rtol=1e-8, atol=1e-10)
    assert sol.y.dtype == complex
    np.testing.assert_allclose(sol.y, np.exp(1j * sol.t) * np.array([[1 + 1j], [2]]), rtol=1e-5)


@classes
@given(n=st.integers(1, 4), rtol=st.lists(st.sampled_from([1e-2, 1e-4, 1e-6]), min_size=4, max_size=4))
def test_tolerances_of_each_component(method, n, rtol):
    """A component whose tolerance is never in question does not take part; a scalar is a vector of equals."""
    y0 = np.arange(1.0, n + 1)
    one = solve_ivp(forced_n, (0, 2), y0, method=method, rtol=rtol[0], atol=1e-6)
    for equal in ({"rtol": np.full(n, rtol[0]), "atol": 1e-6}, {"rtol": rtol[0], "atol": np.full(n, 1e-6)}, {"rtol": rtol[0], "atol": [1e-6] * n}):
        same = solve_ivp(forced_n, (0, 2), y0, method=method, **equal)
        np.testing.assert_array_equal(same.t, one.t)
        np.testing.assert_array_equal(same.y, one.y)

    def shaken(t, y):
        return np.append(forced_n(t, y[:-1]), np.sin(50 * t))

    idle, busy = (solve_ivp(shaken, (0, 2), np.append(y0, 1.0), method=method, rtol=1e-4, atol=[1e-6] * n + [last]) for last in (np.inf, 1e-6))
    assert idle.nfev < busy.nfev


def forced_n(t, y):
    return np.cos(t) * np.roll(y, 1) - y


# --- the record --------------------------------------------------------------------------------------------------------------


@classes
def test_every_attempt_is_recorded(method):
    recorder, rows = ao.StepRecorder(), []
    for keep in (recorder, rows):
        sol = solve_ivp(forced, (0, 5), [1.0, 0.5], method=method, rtol=1e-6, atol=1e-8, first_step=2.0, recorder=keep)
    log = recorder.log
    assert isinstance(log, StepLog) and len(log) == len(recorder) == len(rows) and not log.accepted[0]
    np.testing.assert_array_equal(list(recorder), rows)
    assert rows[0].h == 2.0 and rows[0].t == 0.0 and rows[0].error > 1
    np.testing.assert_array_equal(log.t[log.accepted], sol.t[:-1])
    np.testing.assert_allclose(log.h[log.accepted], np.diff(sol.t), rtol=1e-12)
    assert (log.error[log.accepted] < 1).all() and not (log.error[~log.accepted] < 1).any()
    assert np.isnan(log.stiffness).all() if method is ao.BS32 else np.isfinite(log.stiffness).all()
    assert sol.nfev == 1 + (method.tableau.stages - 1) * len(log)
    assert "rejected" in str(log)
    recorder.clear()
    assert len(recorder) == 0 and len(recorder.log) == 0 and recorder.log.accepted.dtype == bool


@pytest.mark.parametrize("controller", sorted(CONTROLLERS))
@classes
def test_any_controller_lands_on_the_end(method, controller):
    recorder = ao.StepRecorder()
    sol = solve_ivp(forced, (0, 5), [1.0, 0.5], method=method, rtol=1e-5, atol=1e-8, controller=controller, recorder=recorder)
    assert sol.success and sol.t[-1] == 5.0 and (sol.t <= 5).all()
    reference = solve_ivp(forced, (0, 5), [1.0, 0.5], method="DOP853", rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(sol.y[:, -1], reference.y[:, -1], atol=5e-4)


def test_controllers_differ():
    counts = {c: solve_ivp(forced, (0, 9), [1.0, 0.5], method=ao.Tsit5, rtol=1e-7, atol=1e-9, controller=c).nfev for c in ("scipy", "pi", "pid")}
    assert len(set(counts.values())) > 1
    with pytest.raises(InputError, match="unknown controller"):
        ao.Tsit5(decay, 0, [1.0], 1, controller="nope")


# --- options and arguments -----------------------------------------------------------------------------------------------------


@classes
def test_options_without_effect_are_warned_of(method):
    with pytest.warns(UserWarning) as caught:
        sol = solve_ivp(decay, (0, 1), [1.0], method=method, jac=None, min_step=1e-3)
    assert [str(w.message) for w in caught] == ["The following arguments have no effect for a chosen solver: `jac`, `min_step`."]
    assert sol.success
    with pytest.warns(UserWarning, match="`x`") as caught:
        method(decay, 0, [1.0], 1, x=1)
    assert caught[0].filename == __file__


@classes
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_step": 0}, "`max_step` must be positive."),
        ({"max_step": -1.0}, "`max_step` must be positive."),
        ({"max_step": math.nan}, "`max_step` must be positive."),
        ({"first_step": 0}, "`first_step` must be positive."),
        ({"first_step": -1}, "`first_step` must be positive."),
        ({"first_step": 5.0}, "`first_step` exceeds bounds."),
        ({"atol": -1e-3}, "`atol` must be positive."),
        ({"atol": math.nan}, "`atol` must be positive."),
        ({"atol": [1e-3] * 3}, "`atol` has wrong shape."),
        ({"rtol": [1e-3] * 3}, "`rtol` has wrong shape."),
        ({"rtol": math.nan}, "`rtol` must be finite"),
        ({"rtol": "small"}, "`rtol` must be a number"),
        ({"atol": 0.0}, r"atol must be positive where y0 is 0, as y0\[1\] is"),
        ({"atol": [1e-6, 0.0]}, r"y0\[1\]"),
        ({"recorder": 3}, "recorder must be a list"),
        ({"y0": [1.0, math.nan]}, "finite"),
        ({"y0": [[1.0, 0.0]]}, "1-dimensional"),
        ({"t0": math.nan}, "t0 must be finite"),
        ({"t_bound": math.nan}, "t_bound a number"),
    ],
)
def test_arguments_that_make_no_sense(method, options, message):
    arguments = {"t0": 0.0, "y0": [1.0, 0.0], "t_bound": 2.0} | options
    with pytest.raises(ValueError, match=message):
        method(decay, **arguments)


@classes
@pytest.mark.parametrize("rtol", [0, 1e-20, -1.0, [1e-3, 1e-16]])
def test_rtol_below_the_precision_is_raised_with_a_warning(method, rtol):
    with pytest.warns(UserWarning, match=r"At least one element of `rtol` is too small. Setting `rtol = np.maximum\(rtol, 2.22"):
        sol = solve_ivp(decay, (0, 0.01), [1.0, 2.0], method=method, rtol=rtol, atol=1e-3)
    assert sol.success


@classes
def test_nothing_to_do(method):
    for y0, dtype in (([1.0, 2.0], float), ([1j, 2.0], complex)):
        sol = solve_ivp(decay, (3, 3), y0, method=method, dense_output=True)
        assert sol.success and sol.nfev == 1 and sol.y.dtype == dtype
        np.testing.assert_array_equal(sol.y, np.array([y0, y0]).T)
    for span in ((0, 1), (1, 0), (1, 1)):
        sol = solve_ivp(decay, span, [], method=method, dense_output=True)
        assert sol.success and sol.y.shape == (0, 2) and sol.sol(0.5).shape == (0,)


def test_the_classes_are_methods_of_adaptode_too():
    for method, name in zip(CLASSES, ("Tsit5", "Dopri5", "BS32", "DOP853"), strict=True):
        assert get_tableau(method) is method.tableau is get_tableau(name)
    with pytest.raises(InputError, match="unknown method"):
        get_tableau(scipy.integrate.RK45)


def test_loaded_only_when_asked_for():
    code = "import sys, adaptode as ao; assert 'scipy' not in sys.modules; ao.Tsit5; assert 'scipy.integrate' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- what can go wrong ---------------------------------------------------------------------------------------------------------


@classes
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("given", [None, 0.1])
def test_not_finite_at_the_start(method, bad, given):
    """SciPy's own solvers do not come back from a NaN."""
    sol = solve_ivp(lambda t, y: np.array([-y[0], bad]), (2, 3), [1.0, 2.0], method=method, first_step=given)
    assert sol.status == -1 and not sol.success and sol.nfev == 1
    assert "at t = 2, the start (component 1)" in sol.message
    np.testing.assert_array_equal(sol.t, [2.0])


@classes
def test_not_finite_later(method):
    sol = solve_ivp(lambda t, y: np.array([-y[0], math.nan if t > 0.5 else 1.0]), (0, 1), [1.0, 2.0], method=method, rtol=1e-6)
    assert sol.status == -1 and sol.t[-1] == pytest.approx(0.5, abs=1e-9) and sol.nfev < 3000
    assert f"NaN or inf just after t = {sol.t[-1]:.9g} (component 1)" in sol.message and "the last 5 attempts had errors" in sol.message
    np.testing.assert_allclose(sol.y[0], np.exp(-sol.t), rtol=1e-3)


@classes
def test_blow_up(method):
    sol = solve_ivp(lambda t, y: y**2, (0, 2), [1.0], method=method, rtol=1e-6, atol=1e-9)
    assert sol.status == -1 and sol.t[-1] == pytest.approx(1.0, abs=1e-4)
    assert sol.message.startswith("Required step size is less than spacing between numbers") and f"t = {sol.t[-1]:.9g}" in sol.message


@classes
def test_one_bad_call_is_one_rejection(method):
    calls, recorder = [], ao.StepRecorder()

    def f(t, y):
        calls.append(t)
        return -y * (math.nan if len(calls) == 6 else 1.0)

    sol = solve_ivp(f, (0, 1), [1.0], method=method, rtol=1e-8, atol=1e-8, recorder=recorder)
    assert sol.success and np.isnan(recorder.log.error).sum() == 1
    assert sol.y[0, -1] == pytest.approx(math.exp(-1), rel=1e-5)


@classes
@pytest.mark.parametrize("call", [1, 2, 3, 11])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError, FloatingPointError, StopIteration, SystemExit])
def test_an_exception_passes_through_and_the_solver_can_go_on(method, call, error):
    calls, raised = [], error("mine")

    def f(t, y):
        calls.append(t)
        if len(calls) == call:
            raise raised
        return forced(t, y)

    def make():
        return method(f, 0.0, [1.0, 0.5], 3.0, rtol=1e-6, atol=1e-9)

    with pytest.raises(error) as caught:
        solver = make()
        while solver.status == "running":
            solver.step()
    assert caught.value is raised
    if call <= 2:
        solver = make()
    while solver.status == "running":
        solver.step()
    np.testing.assert_array_equal(solver.y, solve_ivp(forced, (0, 3), [1.0, 0.5], method=method, rtol=1e-6, atol=1e-9).y[:, -1])


@classes
def test_fun_may_do_what_it_wants_with_its_arrays(method):
    buffer, kept = np.empty(2), []

    def scribbles(t, y):
        buffer[:] = forced(t, y)
        kept.append((y, y.copy()))
        return buffer

    def spoils(t, y):
        out = forced(t, y)
        y[:] = np.nan
        return out

    def reuses_y(t, y):
        y[:] = forced(t, y)
        return y

    y0 = np.array([1.0, 0.5])
    reference = solve_ivp(forced, (0, 3), y0, method=method, rtol=1e-6)
    for f in (scribbles, spoils, reuses_y):
        sol = solve_ivp(f, (0, 3), y0, method=method, rtol=1e-6)
        np.testing.assert_array_equal(sol.t, reference.t)
        np.testing.assert_array_equal(sol.y, reference.y)
    for seen, copy in kept:
        np.testing.assert_array_equal(seen, copy)
    np.testing.assert_array_equal(y0, [1.0, 0.5])


@classes
@pytest.mark.parametrize("answer", [None, [1.0], [1.0, 2.0], np.ones((3, 1)), np.ones((1, 3)), 1.0, np.ones(4)], ids=str)
@pytest.mark.parametrize("call", [1, 9])
def test_an_answer_of_another_shape(method, answer, call):
    calls = []

    def f(t, y):
        calls.append(t)
        return answer if len(calls) >= call else -y

    with pytest.raises(InputError, match=r"fun must return an array of shape \(3,\), as y0; at t = .* it returned"):
        solve_ivp(f, (0, 5), [1.0, 2.0, 3.0], method=method)
    assert len(calls) == call


@classes
def test_answers_scipy_takes_too(method):
    reference = solve_ivp(decay, (0, 1), [2.0], method=method)
    for f in (lambda t, y: -y[0], lambda t, y: [-y[0]], lambda t, y: (-y).astype(np.float64).tolist(), lambda t, y: (-y).astype(object)):
        np.testing.assert_array_equal(solve_ivp(f, (0, 1), [2.0], method=method).y, reference.y)


@classes
def test_y0_of_any_kind(method):
    reference = solve_ivp(spiral, (0, 2), [1.0, 2.0], method=method).y
    wide = np.zeros(4)
    wide[::2] = 1.0, 2.0
    fixed = np.array([1.0, 2.0])
    fixed.flags.writeable = False
    kinds = [(1, 2), np.array([1, 2]), np.float32([1, 2]), np.array([1.0, 2.0], ">f8"), wide[::2], np.array([2.0, 1.0])[::-1], fixed, np.array([1, 2], object)]
    for y0 in kinds:
        np.testing.assert_array_equal(solve_ivp(spiral, (0, 2), y0, method=method).y, reference)


@classes
def test_extreme_scales(method):
    for unit in (1e-300, 1e300):
        sol = solve_ivp(decay, (0, 1), [unit], method=method, rtol=1e-6, atol=1e-6 * unit)
        assert sol.success and sol.y[0, -1] / unit == pytest.approx(math.exp(-1), rel=1e-4)
    for unit in (1e-100, 1e150):
        sol = solve_ivp(lambda t, y, unit=unit: -y / unit, (0, unit), [1.0], method=method, rtol=1e-6, atol=1e-6, first_step=1e-3 * unit)
        assert sol.success and sol.y[0, -1] == pytest.approx(math.exp(-1), rel=1e-4)
    assert solve_ivp(decay, (1.0, np.nextafter(1.0, 2.0)), [1.0], method=method).success


@classes
def test_in_the_middle_of_another_solve(method):
    """No buffers are shared between solvers, and NumPy's error state does not matter."""

    def f(t, y):
        inner = solve_ivp(decay, (0, t + 1e-3), [1.0], method=method)
        return -y * inner.y[0, -1]

    with np.errstate(all="raise"), warnings.catch_warnings():
        sol = solve_ivp(f, (0, 0.5), [1.0], method=method)
    assert sol.success and sol.y[0, -1] == pytest.approx(math.exp(-(1 - math.exp(-0.5))), rel=2e-2)
