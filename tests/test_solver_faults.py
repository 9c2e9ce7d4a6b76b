"""A solve that cannot go on, or should not start: a status and a message, or a named error, promptly, and nothing lost."""

import math

import naive
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import PROBLEMS
from strategies import METHODS as NAMES
from strategies import adaptive_methods, networks, spans

from adaptode.control import CONTROLLERS
from adaptode.errors import FieldError, InputError, SolveError
from adaptode.fields import MLP, CompiledField, PythonField
from adaptode.solution import Status
from adaptode.solver import solve
from adaptode.tableau import METHODS

NO_THETA = np.empty(0)
Y0 = np.array([[1.0, -0.5], [0.3, 2.0]])
CONTROL = sorted(CONTROLLERS)


def run_python(f, y0=Y0, tspan=(0.0, 1.0), name=None, **options):
    y0 = np.asarray(y0)
    return solve(PythonField(lambda t, y, theta: f(t, y), y0.shape[1], name=name), NO_THETA, y0, tspan, **options)


def decay(t, y):
    return -y


def options_of(method):
    return {"method": method, "first_step": None if METHODS[method].adaptive else 0.1}


# --- what is not a number, and what is too much --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", NAMES)
def test_not_finite_at_the_start(method, bad):
    def f(t, y):
        out = -y
        out[1, 0] = bad
        return out

    run = run_python(f, name="sick", **options_of(method))
    assert run.status is Status.NONFINITE and not run.success and run.nfev == 1 and len(run.steps) == 0
    assert "sick is not finite at t = 0, the start (sample 1, component 0); check the initial values" in run.message
    np.testing.assert_array_equal(run.states, Y0[None])
    assert run.grid.tolist() == [0.0] and run.y.size == 0
    assert str(run.steps).count("\n") == 0


@pytest.mark.parametrize("controller", CONTROL)
@pytest.mark.parametrize("method", NAMES)
def test_not_finite_later_keeps_what_was_computed(method, controller):
    run = run_python(lambda t, y: -y if t <= 0.5 else np.full_like(y, np.nan), saveat=[0.0, 0.2, 0.9], controller=controller, name="sick", **options_of(method))
    assert run.status is Status.NONFINITE and run.nfev < 3000
    assert run.t.tolist() == [0.0, 0.2] and np.isfinite(run.y).all() and np.isfinite(run.states).all()
    tab = METHODS[method]
    assert run.grid[-1] == pytest.approx(0.5, abs=1e-9 if tab.adaptive else 0.11)
    if tab.adaptive:
        np.testing.assert_allclose(run.end, Y0 * np.exp(-run.grid[-1]), rtol=1e-4)
    if tab.adaptive:
        assert f"sick gives NaN or inf just after t = {run.grid[-1]:.9g}, however small the step; the last" in run.message and "nan" in run.message
    else:  # tried once
        assert f"sick gives NaN or inf in the step of {run.steps.h[-1]:.6g} from t = {run.grid[-1]:.9g}. " in run.message
        assert "try a smaller one" in run.message and "however small" not in run.message
    np.testing.assert_array_equal(run.end, run.states[-1])
    assert not run.steps.accepted[-1] and np.isnan(run.steps.error[-1])


def test_one_bad_call_is_one_rejection():
    """A NaN in one stage only: the step is tried again, smaller, and the answer is right."""
    calls = []

    def f(t, y):
        calls.append(t)
        return np.where([[len(calls) == 11, False], [False, False]], np.nan, -y)

    run = run_python(f, rtol=1e-8, atol=1e-8)
    assert np.isnan(run.steps.error).sum() == 1 and run.success
    np.testing.assert_allclose(run.y1, Y0 * np.exp(-1), rtol=1e-6)
    after = int(np.argmax(np.isnan(run.steps.error)))
    assert run.steps.h[after + 1] == pytest.approx(0.2 * run.steps.h[after])


@pytest.mark.parametrize("controller", CONTROL)
@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "BS32"])
def test_a_blow_up_ends_promptly_where_it_is(method, controller):
    run = run_python(lambda t, y: y**2, [[1.0, 0.5]], (0.0, 2.0), method=method, controller=controller)
    assert run.status in (Status.STEP_TOO_SMALL, Status.NONFINITE) and len(run.steps) < 2500
    assert run.grid[-1] == pytest.approx(1.0, abs=1e-4) and f"{run.grid[-1]:.9g}" in run.message
    assert run.end[0, 0] > 1e3 and "last 5 attempts had errors" in run.message


@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "BS32"])
def test_a_discontinuity_is_stepped_over(method):
    run = run_python(lambda t, y: np.full_like(y, 1.0 if t < 0.3 else -50.0), method=method)
    assert run.success and run.n_rejected > 0 and len(run.steps) < 200
    np.testing.assert_allclose(run.y1, Y0 + 0.3 - 35.0, atol=1e-3)


def test_max_steps_says_where_and_what_to_try():
    run = run_python(decay, max_steps=7, rtol=1e-10, atol=1e-12)
    assert run.status is Status.MAX_STEPS and len(run.steps) == 7 and run.nfev == 2 + 6 * 7
    assert f"max_steps = 7 attempts ended at t = {run.grid[-1]:.9g}" in run.message and "Raise max_steps" in run.message
    assert run_python(decay, max_steps=len(run_python(decay).steps)).success  # exactly enough


def test_a_failed_run_gives_no_end_by_mistake():
    run = run_python(decay, max_steps=1)
    for ask in (lambda: run.y1, run.require_success):
        with pytest.raises(SolveError, match="max_steps = 1 attempts") as caught:
            ask()
        assert caught.value.run is run
    assert "max_steps" in str(run) and f"{run.nfev} evaluations, 1 steps accepted, 0 rejected" in str(run)
    np.testing.assert_allclose(run.sol(run.grid), run.states)


def test_a_step_below_the_spacing_of_numbers():
    run = run_python(lambda t, y: 1e3 * np.cos(1e3 * y), tspan=(1e15, 1e15 + 8))
    assert run.status is Status.STEP_TOO_SMALL and len(run.steps) < 50
    assert "smaller than the spacing of floating-point numbers at t = 1e+15" in run.message


@pytest.mark.parametrize("size", [1e150, 1e200, 1e300, 1e308])
@pytest.mark.parametrize("controller", CONTROL)
def test_a_huge_slope_ends_with_an_answer_or_a_status(size, controller):
    """The norm of f₀ overflows, and with it the rule for the first step."""
    with np.errstate(all="ignore"):
        run = run_python(lambda t, y: np.full_like(y, size), controller=controller, max_steps=2000)
    assert np.isfinite(run.states).all() and np.isfinite(run.steps.t).all() and np.isfinite(run.steps.h).all()
    if run.success:
        np.testing.assert_allclose(run.y1, size, rtol=1e-3)


@pytest.mark.parametrize(
    ("scale", "length", "size"),
    [(1e100, 1e-100, 1.0), (1e100, 1e-100, 1e-300), (1e-250, 1e250, 1.0), (1.0, 1.0, 1e300), (1.0, 1.0, 1e-300), (1.0, 1.0, 1e-310)],
)
def test_any_unit_of_y_and_of_time(scale, length, size):
    with np.errstate(all="ignore"):  # the squares in the stiffness estimate
        run = run_python(lambda t, y: -scale * y, size * Y0, (0.0, length), atol=0.0, rtol=1e-6)
    assert run.success
    np.testing.assert_allclose(run.y1 / size, Y0 * np.exp(-1), rtol=1e-4)


# --- the shortest spans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
def test_a_span_of_length_zero(method):
    run = run_python(lambda t, y: pytest.fail("called"), tspan=(0.7, 0.7), saveat=[0.7, 0.7], **options_of(method))
    assert run.success and run.nfev == 0 and run.grid.tolist() == [0.7] and len(run.steps) == 0
    for y in (run.y[0], run.y[1], run.y1, run.sol(0.7), run.states[0]):
        np.testing.assert_array_equal(y, Y0)
    assert "0 evaluations" in str(run)


@pytest.mark.parametrize("t1", [np.nextafter(1, 2), np.nextafter(1, 0), 1 + 5e-16])
def test_a_span_of_a_few_ulp(t1):
    run = run_python(decay, tspan=(1.0, t1))
    assert run.success and run.grid.tolist() == [1.0, t1] and run.nfev == 8


def test_first_step_and_max_step():
    run = run_python(decay, first_step=0.05, max_step=0.125)
    assert run.steps.h[0] == 0.05 and run.nfev == 1 + 6 * len(run.steps)
    assert np.max(run.steps.h) <= 0.125 * (1 + 1e-15) and run.grid[-1] == 1.0
    run = run_python(decay, first_step=10.0, tspan=(1.0, 0.0))
    assert run.steps.h[0] == -1.0
    run = run_python(decay, max_step=1e-3, tspan=(0.0, 0.01))
    assert np.all(run.steps.h <= 1e-3 * (1 + 1e-12)) and 10 <= len(run.steps) <= 12


# --- exceptions -------------------------------------------------------------------------------------------------------------------


class Stop(BaseException):
    pass


@pytest.mark.parametrize("kind", [ValueError, ZeroDivisionError, FloatingPointError, MemoryError, KeyboardInterrupt, StopIteration, Stop])
@pytest.mark.parametrize("call", [1, 2, 6, 18])
def test_an_exception_of_the_field_comes_out_as_it_is(kind, call):
    thrown, calls = kind("mine"), []

    def f(t, y):
        calls.append(t)
        if len(calls) == call:
            raise thrown
        return -y

    with pytest.raises(kind) as caught:
        run_python(f)
    assert caught.value is thrown and len(calls) == call
    frames = [entry.name for entry in caught.traceback]
    assert frames[-1] == "f"
    assert run_python(f).success  # and the next solve is fine


@numba.njit
def refuses(t, y, theta, out):
    if t > 0.5:
        raise ValueError("no further")
    out[:] = -y


def test_an_exception_of_a_compiled_field_comes_out_too():
    with pytest.raises(ValueError, match="no further"):
        solve(CompiledField(refuses, 2), NO_THETA, Y0, (0, 1))
    assert solve(CompiledField(refuses, 2), NO_THETA, Y0, (0, 0.4)).success


@pytest.mark.parametrize(
    ("answer", "got"),
    [(lambda y: None, "NoneType|()"), (lambda y: y[:1], r"\(1, 2\)"), (lambda y: y.ravel(), r"\(4,\)"), (lambda y: "no", "str"), (lambda y: 1.0, r"\(\)")],
)
@pytest.mark.parametrize("late", [False, True])
def test_an_answer_of_another_shape_is_refused_at_once(answer, got, late):
    with pytest.raises(FieldError, match=rf"`value` of wrong must return shape \(2, 2\); got .*{got}"):
        run_python(lambda t, y: answer(y) if not late or t > 0 else -y, name="wrong")


# --- aliases ----------------------------------------------------------------------------------------------------------------------


def test_the_fields_arguments_cannot_be_written_and_its_answer_may_be_reused():
    expected, buffer, seen = run_python(decay).y1, np.empty_like(Y0), []

    def reuses(t, y):
        seen.append(y)
        assert not y.flags.writeable
        np.negative(y, out=buffer)
        return buffer

    run = run_python(reuses)
    np.testing.assert_array_equal(run.y1, expected)

    def writes(t, y):
        y *= -1
        return y

    with pytest.raises(FieldError, match="read-only"):
        run_python(writes)


@pytest.mark.parametrize(
    "y0",
    [np.asfortranarray(Y0), np.repeat(Y0, 2, 1)[:, ::2], Y0[::-1][::-1], Y0.astype(">f8"), np.broadcast_to(Y0, (2, 2)), Y0.tolist(), Y0.astype(np.longdouble)],
)
def test_any_layout_of_the_initial_states(y0):
    before = np.array(y0)
    run = run_python(decay, y0)
    np.testing.assert_array_equal(run.y1, run_python(decay).y1)
    assert run.y1.dtype == np.float64 and not np.shares_memory(run.states, y0)
    run.states[:] = 7
    np.testing.assert_array_equal(np.array(y0), before)


def test_integers_and_booleans_are_numbers():
    for dtype in (int, bool, np.uint8, np.float16):
        np.testing.assert_array_equal(run_python(decay, np.ones((1, 2), dtype)).y1, run_python(decay, np.ones((1, 2))).y1)


# --- tolerances -------------------------------------------------------------------------------------------------------------------


@given(networks(min_dimension=2), spans(), adaptive_methods)
def test_a_vector_of_equal_tolerances_is_the_scalar(network, span, method):
    field, n = MLP(network.sizes, **network.options), network.sizes[0]
    a = solve(field, network.theta, network.y, span, method=method, rtol=1e-5, atol=1e-6)
    for rtol, atol in (([1e-5] * n, 1e-6), (1e-5, np.full(n, 1e-6)), ([1e-5] * n, [1e-6] * n)):
        b = solve(field, network.theta, network.y, span, method=method, rtol=rtol, atol=atol)
        np.testing.assert_array_equal(b.grid, a.grid)
        np.testing.assert_array_equal(b.y1, a.y1)


def test_each_tolerance_belongs_to_its_component():
    """Component 1 oscillates fast: loose there, the solve is cheap; loose at component 0, it is not."""

    def f(t, y):
        return np.stack([-y[:, 0], 20 * np.cos(20 * t) + 0 * y[:, 1]], 1)

    tight, loose = 1e-9, 1e3
    counts = [run_python(f, rtol=0.0, atol=atol).nfev for atol in ([tight, tight], [tight, loose], [loose, tight])]
    assert counts[1] < 0.3 * counts[0] and counts[2] > 0.8 * counts[0]
    run = run_python(f, rtol=[0.0, 1e-3], atol=[1e-7, 1e-3])
    truth = naive.fixed_grid(f, run.grid[:-1], np.diff(run.grid), Y0, run.method, np.array([0.0, 1e-3]), np.array([1e-7, 1e-3]))
    np.testing.assert_allclose(run.accepted("error"), truth.q, rtol=1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------------------

THETA = MLP((2, 3, 2)).init(0)
BAD = [
    ({"y0": np.ones(2)}, r"y must have shape \(batch, 2\)"),
    ({"y0": np.ones((2, 3))}, r"y must have shape \(batch, 2\).*got \(2, 3\)"),
    ({"y0": np.ones((0, 2))}, "y must have shape.*batch >= 1"),
    ({"y0": np.array([["a", "b"]])}, "y must be real numbers"),
    ({"y0": 1j * Y0}, "y must be real numbers; got dtype complex128"),
    ({"y0": np.array([[None, 1.0]])}, "y must be real numbers; got dtype object"),
    ({"y0": np.array([[0.0, 1.0], [np.nan, 0.0]])}, r"y0\[1, 0\] is nan; y0 must be finite"),
    ({"y0": np.array([[0.0, -np.inf]])}, r"y0\[0, 1\] is -inf"),
    ({"theta": THETA[:-1]}, rf"theta must have shape \({THETA.size},\)"),
    ({"theta": THETA * np.nan}, r"theta\[0\] is nan; theta must be finite"),
    ({"tspan": (0, np.inf)}, "tspan must be finite"),
    ({"tspan": (np.nan, 1)}, "tspan must be finite"),
    ({"tspan": (-1e308, 1e308)}, "tspan is longer than"),
    ({"tspan": 1.0}, "tspan must be two numbers"),
    ({"tspan": (0, 1, 2)}, "tspan must be two numbers"),
    ({"tspan": ("a", "b")}, "tspan must be two numbers"),
    ({"saveat": [0.5, 0.4]}, r"saveat must run from t0 = 0 towards t1 = 1; saveat\[1\] = 0.4 comes after 0.5"),
    ({"saveat": [0.4, 0.5], "tspan": (1, 0)}, r"saveat\[1\] = 0.5 comes after 0.4"),
    ({"saveat": [0.5, 1.1]}, r"saveat must lie in tspan \(0, 1\); got 1.1"),
    ({"saveat": [-0.1]}, "saveat must lie in tspan"),
    ({"saveat": [np.nan]}, "saveat must be a one-dimensional array of finite times"),
    ({"saveat": [[0.1]]}, "saveat must be a one-dimensional"),
    ({"saveat": "now"}, "saveat must be an array of times"),
    ({"rtol": -1e-3}, "rtol must be finite and not negative"),
    ({"rtol": np.nan}, "rtol must be finite"),
    ({"rtol": [1e-3] * 3}, r"rtol must be a number or have shape \(2,\); got shape \(3,\)"),
    ({"rtol": "tight"}, "rtol must be a number"),
    ({"atol": -1.0}, "atol must be finite and not negative"),
    ({"atol": np.inf}, "atol must be finite"),
    ({"atol": [[1e-3, 1e-3]]}, r"atol must be a number or have shape \(2,\)"),
    ({"atol": 0.0, "rtol": 0.0}, "where atol is 0, rtol must be at least 2.2e-15"),
    ({"atol": [0.0, 1.0], "rtol": 1e-16}, "where atol is 0, rtol must be at least"),
    ({"atol": 0.0, "rtol": 1e-7, "y0": Y0.astype(np.float32)}, "rtol must be at least 1.2e-06.*float32"),
    ({"atol": [0.0, 1e-3], "y0": np.array([[1.0, 0.0], [0.0, 1.0]])}, r"atol must be positive where y0 is 0, as y0\[1, 0\] is"),
    ({"atol": 0.0, "y0": np.array([[1.0, 0.0]])}, r"atol must be positive where y0 is 0, as y0\[0, 1\] is"),
    ({"method": "RK5"}, "unknown method 'RK5'; choose one of Tsit5"),
    ({"method": None}, "unknown method None"),
    ({"method": "RK4"}, "RK4 has no error estimate.*first_step="),
    ({"controller": "best"}, "unknown controller 'best'"),
    ({"keep": "all"}, 'keep must be "states", "stages", "none", or k >= 1 to keep every k-th state; got \'all\''),
    *[({"max_steps": bad}, "max_steps must be a positive integer") for bad in (0, -1, 1.5, None, True)],
    *[({"first_step": bad}, "first_step must be a positive number") for bad in (0, -0.1, np.nan, np.inf, "a", True)],
    *[({"max_step": bad}, "max_step must be a positive number") for bad in (0, -1.0, np.nan, None, "a")],
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[f"{i}-{'-'.join(c)}" for i, (c, _) in enumerate(BAD)])
def test_bad_input_is_refused_by_name(change, message):
    arguments = {"theta": THETA, "y0": Y0, "tspan": (0, 1), **change}
    with pytest.raises(InputError, match=message):
        solve(MLP((2, 3, 2)), **arguments)


@given(st.sampled_from([1e-300, 1e-20, 1e-16]), st.sampled_from([1e-16, 1e-18]))
def test_tolerances_below_precision_end(rtol, atol):
    run = run_python(decay, rtol=rtol, atol=atol, max_steps=300)
    assert len(run.steps) <= 300 and (run.success or "max_steps" in run.message or "precision" in run.message)


# --- what is printed ----------------------------------------------------------------------------------------------------------------


def test_a_run_and_its_log_read_well():
    run = solve(PythonField(lambda t, y, theta: PROBLEMS["van_der_pol"].f(t, y), 2), NO_THETA, np.array([[2.0, 0.0]]), (0, 10))
    first, second = str(run).splitlines()
    assert first == "Tsit5 from 0 to 10: the end of the span was reached"
    assert second.startswith(f"  {run.nfev} evaluations, {run.n_accepted} steps accepted, {run.n_rejected} rejected, largest accepted error ")
    assert float(second.split()[-1]) == pytest.approx(run.accepted("error").max(), rel=1e-2)
    lines = str(run.steps).splitlines()
    assert len(lines) == 1 + 6 + 1 + 5 and lines[7].strip() == "..." and lines[0].split() == ["attempt", "t", "h", "error", "stiffness"]
    assert [int(line.split()[0]) for line in lines[1:7]] == list(range(6)) and int(lines[-1].split()[0]) == len(run.steps) - 1
    for line in (*lines[1:7], *lines[8:]):
        k = int(line.split()[0])
        assert ("rejected" in line) == (not run.steps.accepted[k]) and float(line.split()[1]) == pytest.approx(run.steps.t[k], rel=1e-4)
    assert str(run.steps).count("rejected") > 0 or run.steps.accepted[[*range(6), *range(-5, 0)]].all()
    assert not math.isnan(run.accepted("stiffness").max()) and len(str(run_python(decay).steps).splitlines()) <= 13
