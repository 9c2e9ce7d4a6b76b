"""solve_ivp behaves as SciPy's: every pattern of its documentation, field by field; the same steps; and what must hold for any right solver."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from ivp_problems import linear, promptly, rotation, systems, tolerances

import adaptode as ao

METHODS = ("RK45", "RK23", "DOP853", ao.Tsit5)
NAMES = {"RK45": "RK45", "RK23": "RK23", "DOP853": "DOP853", ao.Tsit5: "Tsit5"}
FIELDS = ("t", "y", "sol", "t_events", "y_events", "nfev", "njev", "nlu", "status", "message", "success")
methods = pytest.mark.parametrize("method", METHODS, ids=NAMES.values())
any_method = st.sampled_from(METHODS)


@pytest.fixture(autouse=True)
def no_hang():
    with promptly(120.0):
        yield


def solve(*arguments, **options):
    return ao.solve_ivp(*arguments, **options)


def decay(t, y):
    return -0.5 * y


def cannon(t, y):
    return [y[1], -0.5]


def hit_ground(t, y):
    return y[0]


hit_ground.terminal, hit_ground.direction = True, -1


def apex(t, y):
    return y[1]


def lotka_volterra(t, z, a, b, c, d):
    x, y = z
    return [a * x - b * x * y, -c * y + d * x * y]


def spiral(t, y):
    return np.array([y[1], -y[0]])


def exact_spiral(t):
    return np.array([np.cos(t), -np.sin(t)])


def assert_as_scipys(*arguments, same_events=True, loose=1e-9, **options):
    """Every field of both results; returns them. DOP853's stages for the dense output may be evaluated for other steps than SciPy does."""
    ours, theirs = solve(*arguments, **options), scipy.integrate.solve_ivp(*arguments, **options)
    extra = options.get("method") == "DOP853" and any(options.get(name) is not None for name in ("t_eval", "dense_output", "events"))
    no_steps = arguments[1][0] == arguments[1][1]
    assert ours.nfev <= 1.3 * theirs.nfev if extra or no_steps else ours.nfev == theirs.nfev
    for name in ("njev", "nlu", "status", "message", "success"):
        assert ours[name] == theirs[name], name
    for name in ("t", "y"):
        assert ours[name].shape == theirs[name].shape and ours[name].dtype == theirs[name].dtype, name
        np.testing.assert_allclose(ours[name], theirs[name], rtol=loose, atol=loose, err_msg=name)
    for name in ("t_events", "y_events"):
        if theirs[name] is None:
            assert ours[name] is None
            continue
        assert isinstance(ours[name], list) and len(ours[name]) == len(theirs[name])
        if same_events:
            for a, b in zip(ours[name], theirs[name], strict=True):
                assert isinstance(a, np.ndarray) and a.shape == b.shape, name
                np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)
    assert (ours.sol is None) == (theirs.sol is None)
    return ours, theirs


# --- the documentation's patterns ---------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("y0", [[2, 4, 8], (2.0, 4.0, 8.0), np.array([2, 4, 8], dtype=np.float32)])
def test_a_decay(method, y0):
    name = NAMES[method]
    assert_as_scipys(decay, [0, 10], y0, method=method)
    sol = solve(decay, (0, 10), y0, method=name.lower())
    assert sol.y.shape == (3, sol.t.size) and sol.t[0] == 0 and sol.t[-1] == 10 and sol.status == 0 and sol.success
    assert sol.sol is None and sol.t_events is None and sol.y_events is None and sol.y.dtype == np.float64
    np.testing.assert_array_equal(sol.y, solve(decay, (0, 10), y0, method=method).y)


def test_the_default_is_rk45():
    assert_as_scipys(decay, [0, 10], [2, 4, 8])
    ours = solve(decay, [0, 10], [2.0])
    for alias in ("RK45", "rk45", "Dopri5", "DOPRI5", ao.Dopri5, ao.DOPRI5):
        same = solve(decay, [0, 10], [2.0], method=alias)
        np.testing.assert_array_equal(same.y, ours.y)


@methods
def test_chosen_times(method):
    ours, _ = assert_as_scipys(decay, [0, 10], [2, 4, 8], method=method, t_eval=[0.0, 1, 2, 4, 10], loose=1e-7)
    np.testing.assert_array_equal(ours.t, [0, 1, 2, 4, 10])
    np.testing.assert_array_equal(ours.y[:, 0], [2, 4, 8])
    full = solve(decay, [0, 10], [2, 4, 8], method=method)
    np.testing.assert_array_equal(ours.y[:, -1], full.y[:, -1])


@methods
def test_a_cannonball_lands(method):
    ours, _ = assert_as_scipys(cannon, [0, 100], [0, 10], events=hit_ground, method=method, loose=1e-7)
    assert ours.status == 1 and ours.message == "A termination event occurred."
    np.testing.assert_allclose(ours.t_events[0], [40.0], rtol=1e-6)
    assert ours.t[-1] == ours.t_events[0][0]


@methods
def test_a_cannonballs_apex(method):
    ours, _ = assert_as_scipys(cannon, [0, 100], [0, 10], events=(hit_ground, apex), dense_output=True, method=method, loose=1e-7)
    np.testing.assert_allclose(ours.t_events[1], [20.0], rtol=1e-6)
    np.testing.assert_allclose(ours.sol(ours.t_events[1][0]), [100.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(ours.y_events[0], [[0.0, -10.0]], atol=1e-4)
    np.testing.assert_allclose(ours.y_events[1], [[100.0, 0.0]], atol=1e-4)


@methods
def test_parameters(method):
    ours, _ = assert_as_scipys(lotka_volterra, [0, 15], [10, 5], args=(1.5, 1, 3, 1), dense_output=True, method=method, loose=1e-6)
    times = np.linspace(0, 15, 300)
    assert ours.sol(times).shape == (2, 300) and ours.sol(3.0).shape == (2,)
    inlined = solve(lambda t, z: lotka_volterra(t, z, 1.5, 1, 3, 1), [0, 15], [10, 5], method=method)
    np.testing.assert_array_equal(inlined.y, ours.y)
    listed = solve(lotka_volterra, [0, 15], [10, 5], args=[1.5, 1, 3, 1], method=method)
    np.testing.assert_array_equal(listed.y, ours.y)


@methods
def test_parameters_reach_the_events(method):
    def f(t, y, k, goal):
        return -k * y

    def reached(t, y, k, goal):
        return y[0] - goal

    reached.terminal = True
    ours, _ = assert_as_scipys(f, (0, 9), [1.0], args=(0.5, 0.25), events=reached, method=method, rtol=1e-8, atol=1e-10, loose=1e-7)
    assert ours.t[-1] == pytest.approx(math.log(4) / 0.5, rel=1e-6)


def test_one_parameter_is_not_a_tuple():
    with pytest.raises(TypeError, match=r"args.*tuple|iterable"):
        solve(lambda t, y, a: a * y, (0, 1), [1.0], args=-1.0)
    with pytest.raises(TypeError):
        solve(lambda t, y: -y, (0, 1), [1.0], args=(1.0,))


@methods
def test_a_complex_matrix_equation(method):
    A = np.array([[-0.25 + 0.14j, 0, 0.33 + 0.44j], [0.25 + 0.58j, -0.2 + 0.14j, 0], [0, 0.2 + 0.4j, -0.1 + 0.97j]])

    def f(t, y):
        return (A @ y.reshape(3, 3)).ravel()

    y0 = np.array([[2 + 0j, 3, 4], [1, 5, 7], [3, 8, 9]])
    ours, _ = assert_as_scipys(f, (0, 5), y0.ravel(), method=method, t_eval=np.linspace(0, 5, 11), rtol=1e-6, atol=1e-8, loose=1e-6)
    assert ours.y.dtype == complex
    np.testing.assert_allclose(ours.y[:, -1].reshape(3, 3), scipy.linalg.expm(5 * A) @ y0, rtol=1e-4)


@methods
@pytest.mark.parametrize("complex_y0", [False, True])
def test_vectorized(method, complex_y0):
    def f(t, y):
        assert y.ndim == 2
        return np.stack([y[1], -y[0] * (1 + t)])

    y0 = np.array([1.0, 0.5]) * (1j if complex_y0 else 1)
    ours, _ = assert_as_scipys(f, (0, 4), y0, method=method, vectorized=True, rtol=1e-6, loose=1e-6)
    plain = solve(lambda t, y: f(t, y[:, None])[:, 0], (0, 4), y0, method=method, rtol=1e-6)
    np.testing.assert_array_equal(plain.y, ours.y)
    assert plain.nfev == ours.nfev


@methods
def test_what_a_function_may_return(method):
    reference = solve(spiral, (0, 2), [1.0, 0.0], method=method)
    for f in (lambda t, y: [y[1], -y[0]], lambda t, y: (y[1], -y[0]), lambda t, y: np.array([y[1], -y[0]], object), lambda t, y: spiral(t, y).astype(">f8")):
        np.testing.assert_array_equal(solve(f, (0, 2), [1.0, 0.0], method=method).y, reference.y)
    one = solve(lambda t, y: -y, (0, 2), [1.0], method=method)
    for f in (lambda t, y: -y[0], lambda t, y: [-y[0]]):
        np.testing.assert_array_equal(solve(f, (0, 2), [1.0], method=method).y, one.y)


# --- t_eval and the ends ------------------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("span", [(0.0, 5.0), (5.0, 0.0)])
@given(inner=st.lists(st.floats(0.0, 5.0), max_size=8), ends=st.booleans())
def test_output_times_are_exactly_those_asked_for(method, span, inner, ends):
    times = np.array(sorted({*inner, *(span if ends else ())}, reverse=span[0] > span[1]))
    ours = solve(spiral, span, exact_spiral(span[0]), method=method, t_eval=times, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(ours.t, times)
    assert ours.t.shape == (times.size,) and ours.success
    if times.size:
        assert ours.y.shape == (2, times.size)
        np.testing.assert_allclose(ours.y, exact_spiral(times), atol=1e-4)
    if ends:
        full = solve(spiral, span, exact_spiral(span[0]), method=method, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(ours.y[:, [0, -1]], full.y[:, [0, -1]])
        assert full.nfev <= ours.nfev <= 2 * full.nfev


@methods
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 2, 1], "Values in `t_eval` are not properly sorted."),
        ([0, 1, 1, 2], "Values in `t_eval` are not properly sorted."),
        ([3, 2, 1], "Values in `t_eval` are not properly sorted."),
        ([-1, 2], "Values in `t_eval` are not within `t_span`."),
        ([1, 5.5], "Values in `t_eval` are not within `t_span`."),
        ([[1, 2], [3, 4]], "`t_eval` must be 1-dimensional."),
    ],
)
def test_output_times_that_make_no_sense(method, times, message):
    with pytest.raises(ValueError, match=message):
        solve(decay, (0, 5), [1.0], t_eval=times, method=method)


@methods
def test_output_times_and_an_event(method):
    """Nothing after the end, which is at the event; with t_eval the event is not an output time."""
    ours, _ = assert_as_scipys(cannon, [0, 100], [0, 10], events=hit_ground, t_eval=np.arange(0.0, 100, 7), method=method, loose=1e-7)
    np.testing.assert_array_equal(ours.t, np.arange(0, 40, 7))


@methods
@pytest.mark.parametrize("dense", [False, True])
def test_a_span_of_no_length(method, dense):
    ours, _ = assert_as_scipys(decay, [4, 4], [2, 3], dense_output=dense, method=method)
    assert ours.success
    np.testing.assert_array_equal(ours.y[:, -1], [2, 3])
    if dense:
        np.testing.assert_array_equal(ours.sol(4), [2, 3])


@methods
def test_nothing_to_solve(method):
    for span in ((0, 10), (10, 0)):
        ours = solve(lambda t, y: np.zeros(0), span, np.zeros(0), dense_output=True, method=method)
        assert ours.success and ours.y.shape[0] == 0 and ours.t[0] == span[0] and ours.t[-1] == span[1]
        assert ours.sol(3.0).shape == (0,) and ours.sol([1.0, 2.0]).shape == (0, 2)


# --- dense output -------------------------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("span", [(0.0, 9.0), (9.0, 0.0)])
def test_dense_output(method, span):
    ours, theirs = assert_as_scipys(spiral, span, exact_spiral(span[0]), dense_output=True, method=method, rtol=1e-7, atol=1e-9, loose=1e-6)
    times = np.linspace(*span, 57)
    np.testing.assert_allclose(ours.sol(times), exact_spiral(times), atol=1e-5)
    np.testing.assert_allclose(ours.sol(times), theirs.sol(times), rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(ours.sol(ours.t), ours.y)
    shuffled = np.random.default_rng(1).permutation(times)
    np.testing.assert_array_equal(ours.sol(shuffled), np.stack([ours.sol(t) for t in shuffled], axis=1))
    assert ours.sol(list(times)).shape == (2, 57) and ours.sol(4).shape == (2,) and ours.sol([]).shape == (2, 0)
    with pytest.raises(ValueError):
        ours.sol(np.zeros((2, 2)))
    np.testing.assert_array_equal(ours.sol.ts, ours.t)
    assert (ours.sol.t_min, ours.sol.t_max) == (0.0, 9.0)


@methods
def test_dense_output_of_complex_states(method):
    ours = solve(lambda t, y: 1j * y, (0, 3), [1.0 + 0j], dense_output=True, method=method, rtol=1e-8, atol=1e-10)
    times = np.linspace(0, 3, 20)
    assert ours.sol(times).dtype == complex
    np.testing.assert_allclose(ours.sol(times)[0], np.exp(1j * times), atol=1e-6)


@methods
def test_t_eval_is_the_dense_output(method):
    times = np.linspace(0, 9, 31)
    at_times = solve(spiral, (0, 9), [1.0, 0.0], t_eval=times, method=method)
    dense = solve(spiral, (0, 9), [1.0, 0.0], dense_output=True, method=method)
    np.testing.assert_allclose(at_times.y, dense.sol(times), rtol=1e-13, atol=1e-13)


# --- events -------------------------------------------------------------------------------------------------------------------


def event(component, level=0.0, terminal=False, direction=0.0):
    def g(t, y):
        return y[component] - level

    g.terminal, g.direction = terminal, direction
    return g


TIGHT = {"rtol": 1e-8, "atol": 1e-10}


@methods
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("direction", [-1, 0, 1, 2.5])
def test_directions(method, direction, backwards):
    span = (20.0, 1.0) if backwards else (1.0, 20.0)
    ours, _ = assert_as_scipys(spiral, span, exact_spiral(span[0]), events=event(0, direction=direction), method=method, loose=1e-6, **TIGHT)
    zeros = (np.arange(0, 6) + 0.5) * np.pi  # of the cosine, falling first
    rising = np.arange(6) % 2 == 1
    wanted = {-1: rising if backwards else ~rising, 0: rising | True}.get(direction, ~rising if backwards else rising)
    np.testing.assert_allclose(np.sort(ours.t_events[0]), zeros[wanted], atol=1e-6)
    assert (np.diff(ours.t_events[0]) * (span[1] - span[0]) > 0).all() and ours.status == 0


@methods
@pytest.mark.parametrize("terminal", [1, 2, 3, True, np.int64(2)])
def test_counts(method, terminal):
    ours, _ = assert_as_scipys(spiral, (0, 20), [1.0, 0.0], events=[event(0, terminal=terminal), event(1, 0.5)], method=method, loose=1e-6, **TIGHT)
    assert ours.status == 1 and len(ours.t_events[0]) == int(terminal)
    assert ours.t[-1] == ours.t_events[0][-1] == pytest.approx((int(terminal) - 0.5) * np.pi, abs=1e-6)
    np.testing.assert_allclose(ours.y[:, -1], ours.y_events[0][-1], atol=1e-12)


@methods
def test_counts_that_are_not_reached_or_no_counts(method):
    ours, _ = assert_as_scipys(spiral, (0, 5), [1.0, 0.0], events=event(0, terminal=9), method=method, loose=1e-6, **TIGHT)
    assert ours.status == 0 and len(ours.t_events[0]) == 2
    for terminal in (-1, 1.5):
        with pytest.raises(ValueError, match="`terminal`"):
            solve(spiral, (0, 5), [1.0, 0.0], events=event(0, terminal=terminal), method=method)


@methods
def test_events_that_never_happen(method):
    ours, _ = assert_as_scipys(spiral, (0, 5), [1.0, 0.0], events=[event(0, 7.0, terminal=True), event(1, -9.0)], method=method)
    assert ours.status == 0 and [e.shape for e in ours.t_events] == [(0,), (0,)] and [np.size(e) for e in ours.y_events] == [0, 0]


def test_no_events_and_an_empty_list():
    assert solve(decay, (0, 1), [1.0], events=None).t_events is None
    for events in ([], ()):
        sol = solve(decay, (0, 1), [1.0], events=events)
        assert sol.t_events == [] or sol.t_events is None


@methods
@given(system=systems(longest=4.0), levels=st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=3), data=st.data())
def test_scipys_events_are_among_ours(method, system, levels, data):
    f, y0, span = system
    events = [event(data.draw(st.integers(0, y0.size - 1)), level) for level in levels]
    ours, theirs = (s(f, span, y0, events=events, method=method, rtol=1e-6, atol=1e-8, dense_output=True) for s in (solve, scipy.integrate.solve_ivp))
    for g, a, ya, b in zip(events, ours.t_events, ours.y_events, theirs.t_events, strict=True):
        for t in b:
            assert np.min(np.abs(a - t)) < 1e-4 * (1 + abs(t))
        assert (np.diff(a) * (span[1] - span[0]) >= 0).all() and len(np.atleast_2d(ya)) >= len(a)
        for t, y in zip(a, ya, strict=True):
            assert abs(g(t, y)) < 1e-8 * (1 + np.abs(y0).max())
            np.testing.assert_allclose(y, ours.sol(t), rtol=1e-9, atol=1e-9)


# --- options, arguments, result -----------------------------------------------------------------------------------------------


@methods
def test_options_without_effect(method):
    with pytest.warns(UserWarning) as caught:
        sol = solve(decay, (0, 1), [1.0], method=method, jac=lambda t, y: -0.5, lband=3)
    assert [str(w.message) for w in caught] == ["The following arguments have no effect for a chosen solver: `jac`, `lband`."]
    assert sol.success and caught[0].filename == __file__ or solve is scipy.integrate.solve_ivp


@methods
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_step": 0}, "`max_step` must be positive"),
        ({"max_step": -1}, "`max_step` must be positive"),
        ({"first_step": 0}, "`first_step` must be positive"),
        ({"first_step": -0.1}, "`first_step` must be positive"),
        ({"first_step": 5.0}, "`first_step` exceeds bounds"),
        ({"atol": -1e-6}, "`atol` must be positive"),
        ({"atol": [1e-6, 1e-6, 1e-6]}, "`atol` has wrong shape"),
        ({"y0": [[1.0, 2.0]]}, "`y0` must be 1-dimensional"),
        ({"y0": 1.0}, "`y0` must be 1-dimensional"),
        ({"y0": [1.0, math.nan]}, "All components of the initial state `y0` must be finite"),
        ({"y0": [1.0, math.inf]}, "All components of the initial state `y0` must be finite"),
        ({"t_span": (0, 1, 2)}, "span|unpack"),
        ({"t_span": (0,)}, "span|unpack"),
        ({"t_span": (0, "end")}, "span|float"),
    ],
)
def test_scipys_errors(method, options, message):
    arguments = {"t_span": (0, 2), "y0": [1.0, 2.0], "method": method} | options
    with pytest.raises(ValueError, match=message):
        solve(decay, **arguments)


@pytest.mark.parametrize("method", ["RK4.5", "", 3, None, dict])
def test_no_such_method(method):
    with pytest.raises(ValueError):
        solve(decay, (0, 1), [1.0], method=method)


@methods
def test_a_scalar_or_a_vector_of_tolerances(method):
    for options in ({"rtol": [1e-5, 1e-7], "atol": 1e-9}, {"rtol": 1e-5, "atol": [1e-3, 1e-9]}, {"rtol": np.array([1e-5, 1e-7]), "atol": (1e-7, 1e-9)}):
        assert_as_scipys(spiral, (0, 9), [1.0, 0.5], method=method, loose=1e-6, **options)


@methods
@pytest.mark.parametrize("options", [{"first_step": 0.01}, {"max_step": 0.05}, {"first_step": 2.0, "max_step": 0.5}, {"first_step": 3.0}], ids=str)
def test_step_limits(method, options):
    ours, theirs = assert_as_scipys(spiral, (0, 3), [1.0, 0.5], method=method, loose=1e-6, **options)
    assert np.diff(ours.t).max() <= options.get("max_step", math.inf) * (1 + 1e-12)


def test_the_result_is_a_dictionary_with_attributes():
    sol = solve(spiral, (0, 3), [1.0, 0.5], dense_output=True, events=event(0))
    assert isinstance(sol, dict) and set(FIELDS) <= set(sol) and set(FIELDS) <= set(dir(sol))
    for name in FIELDS:
        assert sol[name] is getattr(sol, name) is sol.get(name)
    with pytest.raises(AttributeError):
        sol.nothing_of_the_kind  # noqa: B018
    with pytest.raises(KeyError):
        sol["nothing_of_the_kind"]
    sol.note = "mine"
    assert sol["note"] == "mine"
    del sol["note"]
    assert not hasattr(sol, "note")
    for twin in (copy.copy(sol), copy.deepcopy(sol)):
        np.testing.assert_array_equal(twin.y, sol.y)
    assert type(sol.nfev) is int and type(sol.status) is int and type(sol.success) is bool and type(sol.message) is str
    assert "message" in repr(sol) or "t" in str(sol)


def test_the_result_travels():
    sol = solve(spiral, (0, 3), [1.0, 0.5], dense_output=True)
    twin = pickle.loads(pickle.dumps(sol))
    np.testing.assert_array_equal(twin.y, sol.y)
    np.testing.assert_array_equal(twin.sol(1.3), sol.sol(1.3))


@methods
def test_the_result_is_mine_to_change(method):
    """Nothing in it is shared with the arguments or with itself."""
    y0, times = np.array([1.0, 0.5]), np.linspace(0, 3, 7)
    sol = solve(spiral, (0, 3), y0, t_eval=times, dense_output=True, method=method)
    before = sol.sol(1.3).copy()
    sol.y[:] = sol.t[:] = 7.0
    np.testing.assert_array_equal(sol.sol(1.3), before)
    np.testing.assert_array_equal(y0, [1.0, 0.5])
    np.testing.assert_array_equal(times, np.linspace(0, 3, 7))


@methods
def test_without_an_end(method):
    """An infinite span that an event ends."""
    for end in (math.inf, -math.inf):
        sol = solve(spiral, (0, end), [1.0, 0.0], events=event(0, terminal=2), method=method, **TIGHT)
        assert sol.status == 1 and sol.t[-1] == pytest.approx(math.copysign(1.5 * np.pi, end), abs=1e-6)


# --- the same steps as RK45 and RK23 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "theirs"), [("Dopri5", "RK45"), ("BS32", "RK23"), ("DOP853", "DOP853")])
@pytest.mark.parametrize("complex", [False, True])
@given(data=st.data(), tolerance=tolerances)
def test_scipys_steps(method, theirs, complex, data, tolerance):
    """Positions to 1e-5 only: a cancelling error estimate knows 1e-7 of itself and the steps are made from it."""
    rtol, atol = tolerance
    f, y0, span = data.draw(systems(complex))
    ours = solve(f, span, y0, method=method, rtol=rtol, atol=atol)
    reference = scipy.integrate.solve_ivp(f, span, y0, method=theirs, rtol=rtol, atol=atol)
    assert ours.nfev == reference.nfev and ours.t.size == reference.t.size and ours.y.dtype == reference.y.dtype
    np.testing.assert_allclose(ours.t, reference.t, rtol=1e-5, atol=1e-5)
    size = np.abs(reference.y).max() + 1
    np.testing.assert_allclose(ours.y[:, -1], reference.y[:, -1], rtol=1e-9, atol=size * (1e-12 + 1e-3 * (atol + rtol)))


# --- what must hold for any right solver --------------------------------------------------------------------------------------


def precise(f, span, y0, method, **options):
    return solve(f, span, y0, method=method, **({"rtol": 1e-7, "atol": 1e-9} | options))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), complex=st.booleans(), length=st.floats(0.1, 3.0), sign=st.sampled_from([1, -1]), method=any_method)
def test_linear_systems_by_the_matrix_exponential(seed, n, complex, length, sign, method):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n)) / np.sqrt(n)
    y0 = rng.normal(size=n)
    if complex:
        A, y0 = A + 1j * rng.normal(size=(n, n)) / np.sqrt(n), y0 + 1j * rng.normal(size=n)
    t0 = rng.uniform(-2, 2)
    sol = precise(lambda t, y: A @ y, (t0, t0 + sign * length), y0, method, rtol=1e-9, atol=1e-11, dense_output=True)
    growth = np.exp(np.linalg.norm(A, 2) * length) * np.linalg.norm(y0)
    for theta in (0.0, 0.37, 1.0):
        truth = scipy.linalg.expm(sign * theta * length * A) @ y0
        assert np.linalg.norm(sol.sol(t0 + sign * theta * length) - truth) < 1e-6 * growth


@given(systems(kinds=(linear, rotation), longest=1.5), any_method)
def test_there_and_back(system, method):
    f, y0, (t0, t1) = system
    there = precise(f, (t0, t1), y0, method, rtol=1e-9, atol=1e-11)
    back = precise(f, (t1, t0), there.y[:, -1], method, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(back.y[:, -1], y0, atol=2e-5 * (1 + np.abs(y0).max()))


@given(systems(), any_method)
def test_mirrored_time_is_the_same_solve(system, method):
    """Bit for bit."""
    f, y0, (t0, t1) = system
    one, other = precise(f, (t0, t1), y0, method), precise(lambda t, y: -f(-t, y), (-t0, -t1), y0, method)
    np.testing.assert_array_equal(one.t, -other.t)
    np.testing.assert_array_equal(one.y, other.y)


@given(systems(), any_method, st.integers(-60, 60))
def test_powers_of_two_in_the_state_scale_exactly(system, method, power):
    """Bit for bit; of time too, with a first step given (the rule for it knows an absolute 1e-6)."""
    f, y0, (t0, t1) = system
    c = 2.0**power
    one, other = precise(f, (t0, t1), y0, method), precise(lambda t, y: c * f(t, y / c), (t0, t1), c * y0, method, atol=c * 1e-9)
    np.testing.assert_array_equal(one.t, other.t)
    np.testing.assert_array_equal(c * one.y, other.y)
    h = abs(t1 - t0) / 64
    one = precise(f, (t0, t1), y0, method, first_step=h)
    other = precise(lambda t, y: f(t / c, y) / c, (c * t0, c * t1), y0, method, first_step=c * h)
    np.testing.assert_array_equal(c * one.t, other.t)
    np.testing.assert_array_equal(one.y, other.y)


def assert_same_steps(one, other, transform=lambda y: y, shift=0.0):
    """To rounding, which a cancelling error estimate amplifies into the step sizes."""
    assert one.nfev == other.nfev and one.t.size == other.t.size
    np.testing.assert_allclose(one.t + shift, other.t, rtol=1e-5, atol=1e-5)
    y = transform(one.y[:, -1])
    np.testing.assert_allclose(other.y[:, -1], y, rtol=1e-7, atol=1e-8 * (1 + np.abs(y).max()))


@given(systems(), st.sampled_from(["RK45", "RK23", ao.Tsit5]), st.sampled_from([1.0, -3.0, 0.1, 10.0]))
def test_shifted_time_is_the_same_solve(system, method, shift):
    f, y0, (t0, t1) = system
    options = {"rtol": 1e-5, "atol": 1e-6}
    one = solve(f, (t0, t1), y0, method=method, **options)
    other = solve(lambda t, y: f(t - shift, y), (t0 + shift, t1 + shift), y0, method=method, **options)
    assert_same_steps(one, other, shift=shift)


@given(systems(), st.sampled_from(["RK45", "RK23", ao.Tsit5]), st.data())
def test_permuted_and_doubled_systems(system, method, data):
    f, y0, span = system
    options = {"rtol": 1e-5, "atol": 1e-6}
    n = y0.size
    one = solve(f, span, y0, method=method, **options)
    order = np.array(data.draw(st.permutations(range(n))))
    inverse = np.argsort(order)
    assert_same_steps(one, solve(lambda t, y: f(t, y[inverse])[order], span, y0[order], method=method, **options), lambda y: y[order])
    double = solve(lambda t, y: np.concatenate([f(t, y[:n]), f(t, y[n:])]), span, np.concatenate([y0, y0]), method=method, **options)
    np.testing.assert_array_equal(double.y[:n], double.y[n:])
    assert_same_steps(one, double, lambda y: np.concatenate([y, y]))


@given(systems(), st.sampled_from(["RK45", "RK23", ao.Tsit5]), st.integers(0, 1000))
def test_turned_and_moved_states(system, method, seed):
    """With an absolute tolerance alone the RMS norm sees neither."""
    f, y0, span = system
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(y0.size, y0.size)))
    c = rng.normal(size=y0.size)
    options = {"rtol": 3e-14, "atol": 1e-5, "first_step": abs(span[1] - span[0]) / 50, "method": method}
    one = solve(f, span, y0, **options)
    other = solve(lambda t, z: Q @ f(t, Q.T @ (z - c)), span, Q @ y0 + c, **options)
    assert_same_steps(one, other, lambda y: Q @ y + c)


@given(systems(complex=True), st.sampled_from(["RK45", "RK23", ao.Tsit5]))
def test_complex_states_are_pairs_of_real_ones(system, method):
    """The RMS over moduli is √2 that over the pairs."""
    f, y0, span = system

    def pairs(t, z):
        return f(t, z.view(complex)).view(float)

    one = solve(f, span, y0, method=method, rtol=3e-14, atol=1e-5 * math.sqrt(2))
    other = solve(pairs, span, y0.view(float), method=method, rtol=3e-14, atol=1e-5)
    assert_same_steps(one, other, lambda y: y.view(float))


@given(systems(), any_method)
def test_twice_is_the_same_bits(system, method):
    f, y0, span = system
    one, other = (precise(f, span, y0, method) for _ in range(2))
    np.testing.assert_array_equal(one.t, other.t)
    np.testing.assert_array_equal(one.y, other.y)
    assert one.nfev == other.nfev


@pytest.mark.parametrize("method", METHODS, ids=NAMES.values())
def test_the_error_follows_the_tolerance(method):
    errors = []
    for tol in (1e-4, 1e-6, 1e-8):
        sol = solve(spiral, (0, 10), [1.0, 0.0], method=method, rtol=tol, atol=tol)
        errors.append(np.abs(sol.y[:, -1] - exact_spiral(10.0)).max() / tol)
    assert max(errors) < 100 and max(errors) / min(errors) < 300


@methods
def test_linear_invariants_are_kept(method):
    """Σy to rounding: it is a linear function of the stages."""

    def exchange(t, y):
        flow = np.sin([y[0] * y[1], y[1] * y[2] + t, 3 * y[2] * y[0]])
        return flow - np.roll(flow, 1)

    sol = solve(exchange, (0, 3), [0.2, 0.3, 0.5], method=method)
    np.testing.assert_allclose(sol.y.sum(axis=0), 1.0, rtol=1e-13)
