"""solve_ivp never hangs and never lies: each trap ends promptly, with the right status and a message, or with an error that says what to mend."""

import math
import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ivp_problems import promptly, systems

import adaptode as ao

METHODS = ("RK45", "RK23", "DOP853", "Tsit5")
methods = pytest.mark.parametrize("method", METHODS)
KINDS = ("python", "compiled", "njit")
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def no_hang():
    with promptly(60.0):
        yield


def solve(*arguments, **options):
    return ao.solve_ivp(*arguments, **options)


def decay(t, y):
    return -y


def forced(t, y):
    return np.array([y[1] - t, -np.sin(y[0]) + np.cos(2 * t)])


@ao.rhs
def forced_rhs(t, y, p, dy):
    dy[0] = y[1] - t
    dy[1] = -np.sin(y[0]) + np.cos(2 * t)


def assert_failed(sol, *words):
    assert sol.status == -1 and sol.success is False
    for word in words:
        assert word in sol.message, sol.message
    assert np.isfinite(sol.y).all() and sol.t.size == sol.y.shape[1]


# --- NaN, inf, blow-up, in Python and compiled ----------------------------------------------------------------------------------


@ao.rhs
def bad_after_rhs(t, y, p, dy):  # from time p[0] on, y[1]′ is p[1]
    dy[0] = -y[0]
    dy[1] = p[1] if t >= p[0] else 1.0


@ao.rhs
def square_rhs(t, y, p, dy):
    dy[0] = 1.0
    dy[1] = y[1] * y[1]


def bad_after(kind, when, bad):
    """(fun, options) of a right-hand side whose component 1 is `bad` from time `when` on."""
    if kind == "python":
        return (lambda t, y: np.array([-y[0], bad if t >= when else 1.0])), {}
    if kind == "compiled":
        return bad_after_rhs, {"p": [when, bad]}
    import numba

    return numba.njit(lambda t, y, a, b: np.array([-y[0], b if t >= a else 1.0])), {"args": (when, bad)}


@kinds
@methods
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first_step", [None, 0.1])
def test_not_finite_at_the_start(method, kind, bad, first_step):
    """SciPy's own solvers do not come back from this."""
    f, options = bad_after(kind, 2.0, bad)
    sol = solve(f, (2, 3), [1.0, 2.0], method=method, first_step=first_step, **options)
    assert_failed(sol, "t = 2", "component 1")
    assert sol.nfev == 1
    np.testing.assert_array_equal(sol.t, [2.0])
    np.testing.assert_array_equal(sol.y, [[1.0], [2.0]])


@kinds
@methods
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_later(method, kind, bad):
    f, options = bad_after(kind, 0.5, bad)
    sol = solve(f, (0, 1), [1.0, 2.0], method=method, rtol=1e-6, atol=1e-9, **options)
    assert_failed(sol, f"t = {sol.t[-1]:.9g}", "component 1")
    assert sol.t[-1] == pytest.approx(0.5, abs=1e-9) and sol.nfev < 5000
    np.testing.assert_allclose(sol.y, [np.exp(-sol.t), 2 + sol.t], rtol=1e-4)
    assert not sol.steps.accepted[-1]


@methods
@pytest.mark.parametrize("options", [{"t_eval": np.linspace(0, 1, 11)}, {"dense_output": True}, {"events": lambda t, y: y[0] - 0.9}], ids=str)
def test_a_failure_keeps_what_was_computed(method, options):
    f, _ = bad_after("python", 0.5, math.nan)
    sol = solve(f, (0, 1), [1.0, 2.0], method=method, rtol=1e-6, **options)
    assert_failed(sol)
    if "t_eval" in options:
        np.testing.assert_allclose(sol.t, [0, 0.1, 0.2, 0.3, 0.4])
    if "dense_output" in options:
        np.testing.assert_allclose(sol.sol([0.1, 0.4])[0], np.exp([-0.1, -0.4]), rtol=1e-3)
    if "events" in options:
        np.testing.assert_allclose(sol.t_events[0], [-math.log(0.9)], rtol=1e-3)


@methods
@pytest.mark.parametrize("stage", [3, 5, 8])
def test_one_bad_call_is_one_rejection(method, stage):
    calls = []

    def f(t, y):
        calls.append(t)
        return -y * (math.nan if len(calls) == 20 + stage else 1.0)

    sol = solve(f, (0, 1), [1.0], method=method, rtol=1e-9, atol=1e-11)
    assert sol.success and np.isnan(sol.steps.error).sum() == 1
    assert sol.y[0, -1] == pytest.approx(math.exp(-1), rel=1e-7)


@methods
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("end", [2.0, 50.0])
def test_blow_up_in_finite_time(method, compiled, end):
    f = square_rhs if compiled else (lambda t, y: np.array([1.0, y[1] ** 2]))
    sol = solve(f, (0, end), [0.0, 1.0], method=method, rtol=1e-6, atol=1e-9)
    assert_failed(sol, f"t = {sol.t[-1]:.9g}")
    assert sol.t[-1] == pytest.approx(1.0, abs=1e-4) and sol.nfev < 20000


@methods
@pytest.mark.parametrize(
    ("f", "end"),
    [
        (lambda t, y: np.log(1 - t) * y, 1.0),
        (lambda t, y: -1 / np.sqrt(y), 0.4 * math.sqrt(0.6)),
        (lambda t, y: np.sqrt(0.5 - t) + 0 * y, 0.5),
        (lambda t, y: np.arccos(1 - y), None),
    ],
    ids=["log", "1/sqrt", "sqrt", "arccos"],
)
def test_out_of_its_domain(method, f, end):
    with np.errstate(all="ignore"):
        sol = solve(f, (0, 4), [0.6], method=method, rtol=1e-6, atol=1e-9)
    assert_failed(sol, f"t = {sol.t[-1]:.9g}", "component 0")
    assert sol.nfev < 50000
    if end is not None:
        assert sol.t[-1] == pytest.approx(end, abs=1e-3)


@methods
def test_a_discontinuity_is_passed(method):
    sol = solve(lambda t, y: np.array([1.0 if t < 0.3 else -2.0]), (0, 1), [0.0], method=method, rtol=1e-8, atol=1e-8)
    assert sol.success and sol.y[0, -1] == pytest.approx(0.3 - 1.4, abs=1e-5)


@methods
def test_chattering_ends(method):
    """y′ = −sign y: no step across 0 is ever accepted twice; `max_steps` ends it if nothing else does."""
    sol = solve(lambda t, y: -np.sign(y) + 0 * y, (0, 10), [1.0], method=method, rtol=1e-6, atol=1e-9, max_steps=2000)
    assert len(sol.steps) <= 2000 and np.isfinite(sol.y).all()
    assert sol.success or f"t = {sol.t[-1]:.9g}" in sol.message


# --- max_steps ------------------------------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 40])
def test_max_steps(method, compiled, limit):
    sol = solve(forced_rhs if compiled else forced, (0, 100), [1.0, 0.5], method=method, rtol=1e-8, atol=1e-10, max_steps=limit)
    assert_failed(sol, "max_steps", str(limit), f"t = {sol.t[-1]:.9g}")
    assert len(sol.steps) == limit and sol.t.size == sol.steps.accepted.sum() + 1
    whole = solve(forced_rhs if compiled else forced, (0, 100), [1.0, 0.5], method=method, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(sol.y, whole.y[:, : sol.t.size])


def test_as_many_steps_as_it_takes():
    whole = solve(forced, (0, 10), [1.0, 0.5])
    assert solve(forced, (0, 10), [1.0, 0.5], max_steps=len(whole.steps)).success
    assert not solve(forced, (0, 10), [1.0, 0.5], max_steps=len(whole.steps) - 1).success
    for bad in (0, -1, 1.5, None, "many", math.nan):
        with pytest.raises(ValueError, match="max_steps"):
            solve(forced, (0, 10), [1.0, 0.5], max_steps=bad)


def test_a_stiff_problem_ends_by_the_default():
    """A compiled loop reaches a million attempts in a second or two."""

    @ao.rhs
    def stiff(t, y, p, dy):
        dy[0] = -1e9 * (y[0] - math.cos(t))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may say that the problem is stiff
        sol = solve(stiff, (0, 100), [0.0])
    assert_failed(sol, "max_steps", f"t = {sol.t[-1]:.9g}")
    assert len(sol.steps) == 10**6


# --- exceptions and interrupts ----------------------------------------------------------------------------------------------------


class Unusual(BaseException):
    pass


EXCEPTIONS = (ValueError, ZeroDivisionError, MemoryError, StopIteration, SystemExit, GeneratorExit, RecursionError, Unusual)


@methods
@pytest.mark.parametrize("call", [1, 2, 6, 18])
@pytest.mark.parametrize("error", EXCEPTIONS)
def test_an_exception_comes_out_as_itself(method, call, error):
    raised, calls = error("mine"), []

    def f(t, y):
        calls.append(t)
        if len(calls) == call:
            raise raised
        return forced(t, y)

    with pytest.raises(error) as caught:
        solve(f, (0, 5), [1.0, 0.5], method=method, rtol=1e-7, atol=1e-9)
    assert caught.value is raised and len(calls) == call
    assert caught.traceback[-1].name == "f" and raised.__cause__ is None
    reference = solve(forced, (0, 5), [1.0, 0.5], method=method)
    again = solve(forced, (0, 5), [1.0, 0.5], method=method)
    np.testing.assert_array_equal(again.y, reference.y)


@pytest.mark.parametrize("where", ["event", "callback"])
def test_exceptions_of_events_and_callbacks_too(where):
    raised = Unusual("mine")

    def bad(*arguments):
        if where == "callback" or arguments[0] > 1:
            raise raised
        return 1.0

    options = {"events": bad} if where == "event" else {"callback": bad}
    with pytest.raises(Unusual) as caught:
        solve(forced, (0, 5), [1.0, 0.5], **options)
    assert caught.value is raised


@kinds
def test_a_compiled_exception_comes_out(kind):
    if kind == "python":
        pytest.skip("above")
    import numba

    if kind == "compiled":

        @ao.rhs
        def f(t, y, p, dy):
            if t > 0.5:
                raise ZeroDivisionError("compiled and sick")
            dy[0] = -y[0]
    else:

        @numba.njit
        def f(t, y):
            if t > 0.5:
                raise ZeroDivisionError("compiled and sick")
            return -y

    with pytest.raises(ZeroDivisionError, match="compiled and sick"):
        solve(f, (0, 1), [1.0])
    assert solve(f, (0, 0.4), [1.0]).success


@methods
@pytest.mark.parametrize("call", [6, 18, 100])
def test_an_interrupt_returns_the_partial_solution(method, call):
    calls = []

    def f(t, y):
        calls.append(t)
        if len(calls) == call:
            raise KeyboardInterrupt
        return forced(t, y)

    with pytest.warns(RuntimeWarning, match="interrupted"):
        sol = solve(f, (0, 100), [1.0, 0.5], method=method, rtol=1e-7, atol=1e-9, dense_output=True)
    assert_failed(sol, "nterrupt", f"t = {sol.t[-1]:.9g}")
    assert len(calls) == call
    whole = solve(forced, (0, 100), [1.0, 0.5], method=method, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(sol.t, whole.t[: sol.t.size])
    np.testing.assert_array_equal(sol.y, whole.y[:, : sol.t.size])
    assert sol.sol(sol.t[-1]).shape == (2,)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ctypes says so where it strikes before fun's first line
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("options", [{}, {"t_eval": [0.0, 1e-3, 1e9]}, {"dense_output": True}], ids=str)
def test_ctrl_c(compiled, options):
    """A real SIGINT in the middle of a solve that would take hours: back within two seconds with what there is, and the next solve is fine."""
    fun = forced_rhs if compiled else forced
    solve(fun, (0, 1), [1.0, 0.5])  # compiled before
    wait = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    wait.start()
    began = time.monotonic()
    try:
        with pytest.warns(RuntimeWarning, match="interrupted"):
            sol = solve(fun, (0, 1e9), [1.0, 0.5], max_step=1e-2, max_steps=10**12, **options)
    finally:
        wait.cancel()
    assert 0.4 < time.monotonic() - began < 8.0  # two seconds on a machine with nothing else to do
    assert_failed(sol, "nterrupt", "t = ")
    assert sol.y.shape == (2, sol.t.size) and sol.steps.accepted.sum() > 100
    assert solve(fun, (0, 1), [1.0, 0.5]).success


# --- what fun does with its arrays, and returns -----------------------------------------------------------------------------------


@methods
def test_fun_may_do_what_it_wants_with_its_arrays(method):
    buffer, kept, y0 = np.empty(2), [], np.array([1.0, 0.5])

    def same_buffer(t, y):
        buffer[:] = forced(t, y)
        return buffer

    def spoils(t, y):
        out = forced(t, y)
        y[:] = np.nan
        return out

    def returns_y(t, y):
        y[:] = forced(t, y)
        return y

    def keeps(t, y):
        kept.append((y, y.copy()))
        return forced(t, y)

    def read_only(t, y):
        out = forced(t, y)
        out.flags.writeable = False
        return out

    def strided(t, y):
        return np.repeat(forced(t, y), 3)[::3]

    options = {"method": method, "rtol": 1e-6, "dense_output": True, "events": lambda t, y: y[0] - 0.5}
    reference = solve(forced, (0, 3), y0, **options)
    for f in (same_buffer, spoils, returns_y, keeps, read_only, strided):
        sol = solve(f, (0, 3), y0, **options)
        np.testing.assert_array_equal(sol.t, reference.t)
        np.testing.assert_array_equal(sol.y, reference.y)
        np.testing.assert_array_equal(sol.sol([0.3, 2.9]), reference.sol([0.3, 2.9]))
        np.testing.assert_array_equal(sol.t_events[0], reference.t_events[0])
        assert sol.nfev == reference.nfev
    for seen, copy in kept:
        np.testing.assert_array_equal(seen, copy)
    np.testing.assert_array_equal(y0, [1.0, 0.5])


@methods
@pytest.mark.parametrize("spoil", ["event", "callback"])
def test_events_and_callbacks_cannot_spoil_the_state(method, spoil):
    def event(t, y):
        value = y[0] - 0.5
        if spoil == "event":
            y[:] = np.nan
        return value

    def callback(info):
        if spoil == "callback":
            for name in ("y", "t"):
                array = getattr(info, name, None)
                if isinstance(array, np.ndarray) and array.ndim and array.flags.writeable:
                    array[:] = np.nan

    sol = solve(forced, (0, 3), [1.0, 0.5], method=method, events=event, callback=callback)
    reference = solve(forced, (0, 3), [1.0, 0.5], method=method, events=lambda t, y: y[0] - 0.5)
    np.testing.assert_array_equal(sol.y, reference.y)
    np.testing.assert_array_equal(sol.t_events[0], reference.t_events[0])


@methods
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    "answer", [None, [1.0], [1.0, 2.0], np.ones(4), np.ones((3, 1)), np.ones((1, 3)), 1.0, "abc", [None] * 3, {"a": 1}, [1.0, [2.0], 3.0]], ids=str
)
def test_an_answer_that_is_none(method, later, answer):
    calls = []

    def wrong(t, y):
        calls.append(t)
        return answer if len(calls) > 9 * later else -y

    with pytest.raises((ValueError, TypeError), match="wrong"):
        solve(wrong, (0, 5), [1.0, 2.0, 3.0], method=method)
    assert len(calls) == 1 + 9 * later


@methods
@pytest.mark.parametrize("later", [False, True])
def test_complex_answers_to_a_real_state_are_not_cut(method, later):
    calls = []

    def f(t, y):
        calls.append(t)
        return 1j * y if len(calls) > 9 * later else -y

    with pytest.raises((ValueError, TypeError), match="complex"):
        solve(f, (0, 5), [1.0, 2.0], method=method)
    assert solve(lambda t, y: 1j * y, (0, 5), [1.0 + 0j, 2.0], method=method).success


@methods
def test_compiled_answers_of_another_length(method):
    import numba

    @numba.njit
    def short(t, y):
        return np.zeros(y.size - 1)

    with pytest.raises((ValueError, TypeError)):
        solve(short, (0, 1), [1.0, 2.0], method=method)


@methods
def test_what_a_compiled_function_forgets_to_fill_is_no_answer(method):
    @ao.rhs
    def forgets(t, y, p, dy):
        dy[0] = -y[0]

    sol = solve(forgets, (0, 1), [1.0, 2.0], method=method)
    assert_failed(sol, "component 1")


@pytest.mark.parametrize("fun", [None, 3, "f", [1.0], np.zeros(2)], ids=str)
def test_fun_that_is_none(fun):
    with pytest.raises((TypeError, ValueError)):
        solve(fun, (0, 1), [1.0, 2.0])


def test_arguments_that_do_not_fit_a_compiled_function():
    import numba

    @numba.njit
    def f(t, y, k):
        return -k * y

    assert solve(f, (0, 1), [1.0], args=(2.0,)).success
    for options in ({}, {"args": (1.0, 2.0)}, {"args": ("a",)}):
        with pytest.raises((ValueError, TypeError)):
            solve(f, (0, 1), [1.0], **options)
    with pytest.raises((ValueError, TypeError)):
        solve(forced, (0, 1), [1.0, 0.5], p=[1.0])
    with pytest.raises(ValueError, match="parameters"):
        solve(forced_rhs, (0, 1), [1.0, 0.5], p=["a"])


# --- y0 and the span ----------------------------------------------------------------------------------------------------------------


def wide():
    x = np.zeros(6)
    x[::3] = 1.0, 0.5
    return x[::3]


def locked():
    x = np.array([1.0, 0.5])
    x.flags.writeable = False
    return x


KINDS_OF_Y0 = {
    "list": [1.0, 0.5],
    "tuple": (1.0, 0.5),
    "non-contiguous": wide(),
    "reversed": np.array([0.5, 1.0])[::-1],
    "read-only": locked(),
    "big-endian": np.array([1.0, 0.5], ">f8"),
    "float32": np.array([1.0, 0.5], np.float32),
    "float16": np.array([1.0, 0.5], np.float16),
    "longdouble": np.array([1.0, 0.5], np.longdouble),
    "object": np.array([1.0, 0.5], object),
    "column of a matrix": np.array([[1.0, 9.0], [0.5, 9.0]])[:, 0],
}


@methods
@pytest.mark.parametrize("kind", KINDS_OF_Y0)
@pytest.mark.parametrize("compiled", [False, True])
def test_y0_of_any_kind(method, kind, compiled):
    fun = forced_rhs if compiled else forced
    y0 = KINDS_OF_Y0[kind]
    before = np.array(y0, float)
    sol = solve(fun, (0, 3), y0, method=method, dense_output=True)
    reference = solve(fun, (0, 3), [1.0, 0.5], method=method)
    assert sol.y.dtype == np.float64
    np.testing.assert_array_equal(sol.y, reference.y)
    np.testing.assert_array_equal(np.array(y0, float), before)


@pytest.mark.parametrize("kind", ["complex64", ">c16"])
def test_complex_y0_of_any_kind(kind):
    sol = solve(lambda t, y: 1j * y, (0, 1), np.array([1.0, 0.5j], kind))
    assert sol.y.dtype == np.complex128
    np.testing.assert_allclose(sol.y[:, -1], np.exp(1j) * np.array([1.0, 0.5j]), rtol=1e-2)


@pytest.mark.parametrize("y0", [np.array([1, 2]), np.array([True, False]), np.array([1, 2], np.uint8), [1, 2], [True, 2.0]], ids=str)
def test_integers_and_booleans(y0):
    sol = solve(decay, (0, 1), y0)
    assert sol.y.dtype == np.float64 and sol.success
    np.testing.assert_allclose(sol.y[:, -1], np.exp(-1) * np.array(y0, float), rtol=1e-2)


@pytest.mark.parametrize(
    "y0", [None, "ab", ["a", "b"], [[1.0, 2.0]], 1.0, np.float64(1.0), [1.0, None], [1.0, [2.0]], [1.0, math.nan], [math.inf, 1.0], {}], ids=str
)
def test_y0_that_is_none(y0):
    with pytest.raises((ValueError, TypeError)):
        solve(decay, (0, 1), y0)


@methods
@pytest.mark.parametrize("compiled", [False, True])
def test_no_components(method, compiled):
    def plain(t, y):
        return y

    fun = ao.rhs(lambda t, y, p, dy: None) if compiled else plain

    sol = solve(fun, (0, 5), [], method=method, dense_output=True)
    assert sol.success and sol.t[0] == 0 and sol.t[-1] == 5 and sol.y.shape == (0, sol.t.size)
    assert sol.sol([1.0, 2.0]).shape == (0, 2)
    assert solve(fun, (0, 5), [], method=method, t_eval=[1.0, 2.0]).y.shape == (0, 2)


@methods
@pytest.mark.parametrize("compiled", [False, True])
def test_a_span_of_no_length_and_of_one_bit(method, compiled):
    fun = forced_rhs if compiled else forced
    sol = solve(fun, (3, 3), [1.0, 0.5], method=method, dense_output=True, events=lambda t, y: y[0])
    assert sol.success and sol.t[0] == sol.t[-1] == 3 and sol.status == 0
    np.testing.assert_array_equal(sol.y, np.repeat([[1.0], [0.5]], sol.t.size, axis=1))
    assert solve(fun, (3, 3), [1.0, 0.5], method=method, t_eval=[3.0]).y.shape == (2, 1)
    for t0 in (0.0, 1.0, -1e10):
        for t1 in (np.nextafter(t0, math.inf), np.nextafter(t0, -math.inf)):
            sol = solve(fun, (t0, t1), [1.0, 0.5], method=method)
            assert sol.success and sol.t[-1] == t1


@pytest.mark.parametrize("span", [(math.nan, 1), (0, math.nan), (math.inf, 0), (-math.inf, 0), (0,), (0, 1, 2), 5, None, ("a", "b"), (0, 1j)], ids=str)
def test_spans_that_make_no_sense(span):
    with pytest.raises((ValueError, TypeError)):
        solve(decay, span, [1.0])


@pytest.mark.parametrize("times", [[0.5, math.nan], [math.inf], ["a"], [0.2, 0.1], [[0.1, 0.2]], 0.5, [1 + 1e-9], [-1e-300]], ids=str)
def test_output_times_that_make_no_sense(times):
    with pytest.raises((ValueError, TypeError)):
        solve(decay, (0, 1), [1.0], t_eval=times)


# --- tolerances -----------------------------------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("rtol", [0, 0.0, 1e-20, 1e-15, -1.0, [1e-3, 0.0]])
def test_rtol_below_the_precision(method, rtol):
    with pytest.warns(UserWarning, match="rtol"):
        sol = solve(forced, (0, 0.1), [1.0, 0.5], method=method, rtol=rtol, atol=1e-9)
    assert sol.success
    assert sol.y[:, -1] == pytest.approx(solve(forced, (0, 0.1), [1.0, 0.5], rtol=1e-9, atol=1e-12).y[:, -1], abs=1e-6)


@methods
@pytest.mark.parametrize(
    ("name", "value"),
    [("rtol", np.nan), ("atol", np.nan), ("atol", -1e-9), ("atol", [1e-6] * 3), ("rtol", [1e-3] * 3), ("atol", "x"), ("atol", [[1e-6, 1e-6]]), ("atol", 1j)],
    ids=str,
)
def test_tolerances_that_make_no_sense(method, name, value):
    with pytest.raises((ValueError, TypeError)):
        solve(forced, (0, 1), [1.0, 0.5], method=method, **{name: value})


@methods
@pytest.mark.parametrize(
    "options", [{"rtol": 1e3}, {"rtol": 1e3, "atol": 1e3}, {"atol": 1e300}, {"atol": 0.0}, {"atol": [0.0, 1e-6]}, {"atol": 5e-324}], ids=str
)
def test_tolerances_at_the_limits(method, options):
    """An answer, or a failure with a message; no hang."""
    sol = solve(forced, (0, 1), [1.0, 0.5], method=method, **options)
    assert sol.success or f"t = {sol.t[-1]:.9g}" in sol.message
    assert np.isfinite(sol.y).all()


@methods
@pytest.mark.parametrize("atol", [0.0, [1e-6, 0.0]])
def test_no_absolute_tolerance_where_the_state_is_zero(method, atol):
    with pytest.raises(ValueError, match="atol"):
        solve(forced, (0, 1), [1.0, 0.0], method=method, atol=atol)


@methods
def test_tolerances_below_what_the_arithmetic_can_give(method):
    """Here rounding of t and y is larger than the tolerance: a failure that says so, or steps to the end; promptly."""
    noisy = np.random.default_rng(3)
    sol = solve(lambda t, y: -y + 1e-6 * noisy.normal(size=1), (0, 10), [1.0], method=method, rtol=1e-12, atol=1e-14, max_steps=20_000)
    assert sol.success or f"t = {sol.t[-1]:.9g}" in sol.message
    assert len(sol.steps) <= 20_000


# --- magnitudes -----------------------------------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("unit", [1e-300, 1e-150, 1e150, 1e300])
def test_states_of_any_size(method, unit):
    sol = solve(decay, (0, 1), [unit, 2 * unit], method=method, rtol=1e-6, atol=1e-9 * unit)
    assert sol.success
    np.testing.assert_allclose(sol.y[:, -1] / unit, np.exp(-1) * np.array([1, 2]), rtol=1e-4)
    assert solve(decay, (0, 1), [5e-324, 1e-310], method=method).success


@methods
@pytest.mark.parametrize("unit", [1e-250, 1e-100, 1e100, 1e250])
def test_times_of_any_size(method, unit):
    with np.errstate(all="raise"):
        sol = solve(lambda t, y: -1.3 * y / unit, (0, unit), [1.0], method=method, rtol=1e-6, atol=1e-9, first_step=1e-3 * unit)
    assert sol.success and sol.y[0, -1] == pytest.approx(math.exp(-1.3), rel=1e-4)


@methods
@pytest.mark.parametrize("t0", [1e15, -1e15, 1e300])
def test_far_from_zero(method, t0):
    """Where ten spacings of t are a long step: the end, or a failure that says so."""
    sol = solve(decay, (t0, t0 + max(8.0, abs(t0) * 1e-14)), [1.0], method=method, max_steps=1000)
    assert sol.success or "t = " in sol.message
    assert np.isfinite(sol.y).all()


def test_the_longest_span_there_is():
    with pytest.raises(ValueError, match="length"):
        solve(lambda t, y: 0 * y, (-1e308, 1e308), [1.0])
    sol = solve(lambda t, y: 0 * y, (0, 1.7e308), [1.0])
    assert sol.success and sol.t[-1] == 1.7e308


def test_many_components():
    n = 200_000
    sol = solve(decay, (0, 1), np.linspace(1, 2, n), rtol=1e-4)
    assert sol.y.shape == (n, sol.t.size)
    np.testing.assert_allclose(sol.y[:, -1], np.exp(-1) * np.linspace(1, 2, n), rtol=1e-3)


@methods
@pytest.mark.parametrize("compiled", [False, True])
def test_numpys_error_state_does_not_matter(method, compiled):
    fun = forced_rhs if compiled else forced
    reference = solve(fun, (0, 3), [1.0, 0.5], method=method, dense_output=True, t_eval=[0.0, 1.0, 3.0])
    with np.errstate(all="raise"):
        sol = solve(fun, (0, 3), [1.0, 0.5], method=method, dense_output=True, t_eval=[0.0, 1.0, 3.0])
    np.testing.assert_array_equal(sol.y, reference.y)


# --- company --------------------------------------------------------------------------------------------------------------------------


def test_a_solve_within_a_solve():
    def f(t, y):
        inner = solve(decay, (0, t + 1e-3), [1.0], rtol=1e-8, atol=1e-10)
        return -y * inner.y[0, -1]

    sol = solve(f, (0, 0.5), [1.0], rtol=1e-5)
    assert sol.y[0, -1] == pytest.approx(math.exp(math.exp(-0.501) - math.exp(-1e-3)), rel=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_eight_threads(compiled):
    fun = forced_rhs if compiled else forced
    reference, found = solve(fun, (0, 9), [1.0, 0.5], rtol=1e-7), {}

    def work(i):
        found[i] = [solve(fun, (0, 9), [1.0, 0.5], rtol=1e-7) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for sols in found.values():
        for sol in sols:
            np.testing.assert_array_equal(sol.y, reference.y)


@given(systems(longest=1.5), st.sampled_from(METHODS))
def test_the_log_tells_the_truth(system, method):
    f, y0, span = system
    calls = []

    def counted(t, y):
        calls.append(t)
        return f(t, y)

    sol = solve(counted, span, y0, method=method, rtol=1e-6, atol=1e-8)
    assert sol.nfev == len(calls) and sol.success
    steps = sol.steps
    np.testing.assert_array_equal(steps.t[steps.accepted], sol.t[:-1])
    np.testing.assert_allclose(steps.h[steps.accepted], np.diff(sol.t), rtol=1e-12)
    assert (steps.error[steps.accepted] < 1).all() and not (steps.error[~steps.accepted] < 1).any()
    low, high = sorted(span)
    assert low <= min(calls) and max(calls) <= high
