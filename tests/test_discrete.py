"""The discrete adjoint: the gradient of the computed numbers, refereed by one complex step over the run's own grid."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of, frozen, per_entry
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from strategies import METHODS, Network, methods, networks, parameters, seeds

import adaptode as ao
from adaptode.adjoint import discrete
from adaptode.checks import finite_difference
from adaptode.dense import locate
from adaptode.errors import InputError, NonFiniteGradientError, NonFiniteLossError, SolveError
from adaptode.fields import MLP, PythonField
from adaptode.tableau import get_tableau

SPANS = st.sampled_from([(0.0, 1.0), (0.3, -0.9), (-1.0, 0.7), (2.0, 0.5)])
CONTROLLERS = st.sampled_from(["pi", "scipy", "torchdiffeq"])
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
TANH = Network(
    (2, 4, 2),
    "tanh",
    "every",
    "identity",
    "identity",
    parameters(8, (2, 4, 2), "every"),
    np.array([[0.8, -0.4], [0.2, 1.1]]),
    0.0,
)


def solved(network, span, method="Tsit5", **options):
    options = {**TOLERANCE, **options}
    if not get_tableau(method).adaptive:
        options.setdefault("first_step", 0.17)
    return ao.solve(field_of(network), network.theta, network.y, span, method=method, **options)


def clear_of_zero(run, network):
    """Masks of the steps whose q, and whose stage pair's distance, are far enough from 0 to have a derivative."""
    grid = frozen(run, network.naive, network.y)
    error = np.real(grid.q) > 1e-2 if run.method.adaptive else np.zeros(len(grid.q), bool)
    if run.method.stiffness_pair is None:
        return error, None
    i, j = run.method.stiffness_pair
    distances = np.array([[np.abs(x[j] - x[i]).max() for x in (s.Y, s.K)] for s in grid.steps])
    return error, (distances > (1e-3 if run.method.order == 8 else 1e-5)).all(axis=1)  # DOP853's sums cancel further


def moved(run, f, y0, ends, times):
    """The referee's steps with the ends of the span moved, and its states at times: those at t1 move with it."""
    t, passes = run.grid + 0j * ends[0], run.grid[-1] != run.tspan[1]
    t[0] += ends[0]
    t[-1] += 0 if passes else ends[1]
    rtol, atol = per_entry(run.rtol, y0), per_entry(run.atol, y0)
    grid = naive.fixed_grid(f, t[:-1], np.diff(t), y0, run.method, rtol, atol)

    def state(time):
        if time == run.tspan[0]:
            return grid.y[0]
        n = locate(run, time)
        x, end = ((z - run.grid[n]) / (run.grid[n + 1] - run.grid[n]) for z in (time, run.tspan[1]))
        if x == 1.0:  # to a rounding
            return grid.y[n + 1]
        place = time + ends[1] * (x == end)
        return naive.dense(grid.y[n], grid.h[n], grid.steps[n], run.method, (place - grid.t[n]) / grid.h[n])

    return grid, [state(time) for time in times]


def functional(run, network, theta, y0, outputs, q_bar, S_bar, ends=(0, 0)):
    """What the cotangents are cotangents of: sums over outputs [(t, bar)], scaled errors and stiffness estimates."""
    grid, states = moved(run, lambda t, y: network.naive(t, y, theta), y0, ends, [t for t, _ in outputs])
    total = sum(np.sum(bar * y) for (_, bar), y in zip(outputs, states, strict=True))
    total += sum(bar * q for bar, q in zip(q_bar, grid.q, strict=True) if bar != 0)
    return total + (
        sum(b * S for b, S in zip(S_bar, grid.stiffness, strict=True) if b != 0) if S_bar is not None else 0
    )


def check(run, network, seed, jump_times, with_estimates, rtol=1e-8):
    """Every kind of cotangent at once against one complex step along a random direction of (theta, y0)."""
    rng = np.random.default_rng(seed)
    y_bar, theta_dot, y_dot = draw_like(seed, run.y, network.theta, network.y)
    jumps = [(float(t), rng.normal(size=network.y.shape)) for t in jump_times]
    q_bar, S_bar = np.zeros(run.grid.size - 1), None
    if with_estimates:
        by_error, by_pair = clear_of_zero(run, network)
        q_bar = rng.normal(size=by_error.size) * by_error
        S_bar = None if by_pair is None else rng.normal(size=by_pair.size) * by_pair
    gradient = discrete(run, y_bar, jumps=jumps, error_bar=q_bar, stiffness_bar=S_bar)
    outputs = [*zip(run.t, y_bar, strict=True), *jumps]
    scale = np.linalg.norm(gradient.theta) + np.linalg.norm(gradient.y0)
    theta, y0 = network.theta + 1e-30j * theta_dot, network.y + 1e-30j * y_dot
    value = functional(run, network, theta, y0, outputs, q_bar, S_bar)
    got = gradient.theta @ theta_dot + np.sum(gradient.y0 * y_dot)
    assert_directional(got, np.imag(value) / 1e-30, scale, rtol)
    for got, ends in ((gradient.t0, (1e-30j, 0)), (gradient.t1, (0, 1e-30j))):
        value = functional(run, network, network.theta, network.y, outputs, q_bar, S_bar, ends)
        assert_directional(got, np.imag(value) / 1e-30, scale, rtol)
    return gradient, (y_bar, jumps, q_bar, S_bar)


fractions = st.lists(st.sampled_from([0.0, 0.1, 0.37, 0.5, 0.93, 1.0]), max_size=4)


@settings(max_examples=100)
@given(networks(), SPANS, methods, CONTROLLERS, seeds, fractions, fractions, st.booleans())
@example(TANH, (0.0, 1.0), "Tsit5", "torchdiffeq", 0, [0.0, 0.5, 0.5, 1.0], [0.37, 0.37], True)
@example(TANH, (1.0, 0.0), "BS32", "scipy", 1, [1.0, 1.0], [0.0, 1.0], True)
@example(TANH, (0.0, 1.0), "RK4", "scipy", 1, [0.0, 0.37, 1.0], [0.1], True)
def test_gradient_is_the_complex_step_on_the_runs_own_grid(
    network, span, method, controller, seed, save, jump, estimates
):
    if not get_tableau(method).adaptive:
        controller = "scipy"
    t0, t1 = span
    at = np.array([t0, t1]) if not save else np.array([t0 + x * (t1 - t0) if x < 1 else t1 for x in sorted(save)])
    run = solved(network, span, method, controller=controller, saveat=at, max_steps=400)
    assume(run.success)
    check(run, network, seed, [t0 + x * (t1 - t0) for x in jump], estimates, 1e-7 if estimates else 1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, -1.0)])
def test_every_entry_of_the_gradient(method, span):
    run = solved(TANH, span, method, saveat=[span[0], span[1]])
    y_bar = np.cos(np.arange(8)).reshape(run.y.shape)
    gradient = discrete(run, y_bar)
    outputs, none = list(zip(run.t, y_bar, strict=True)), np.zeros(run.grid.size - 1)
    by_theta = naive.complex_gradient(lambda p: functional(run, TANH, p, TANH.y, outputs, none, None), TANH.theta)
    by_y0 = naive.complex_gradient(lambda y: functional(run, TANH, TANH.theta, y, outputs, none, None), TANH.y)
    np.testing.assert_allclose(gradient.theta, by_theta, rtol=1e-10, atol=1e-10 * np.abs(by_theta).max())
    np.testing.assert_allclose(gradient.y0, by_y0, rtol=1e-10, atol=1e-10 * np.abs(by_y0).max())


@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "Dopri5_Shampine", "BS32", "DOP853"])
def test_one_steps_estimate_at_a_time(method):
    high = method == "DOP853"  # few steps, some with an error far below the tolerance
    run = solved(TANH, (0.0, 2.0), method, rtol=1e-6 if high else 1e-5, atol=1e-7 if high else 1e-6)
    by_error, by_pair = clear_of_zero(run, TANH)
    m = by_error.size
    assert (high or by_error[1:-1].all()) and by_error.sum() > 2
    theta_dot, y_dot = draw_like(2, TANH.theta, TANH.y)
    p, y = TANH.theta + 1e-30j * theta_dot, TANH.y + 1e-30j * y_dot
    for n in {0, 1, 2, m - 2, m - 1}:
        one = np.eye(m)[n]
        for name, on in (("error_bar", by_error[n]), ("stiffness_bar", by_pair is not None and by_pair[n])):
            if not on:
                continue
            gradient = discrete(run, **{name: one})
            q_bar, S_bar = (one, None) if name == "error_bar" else (0 * one, one)
            expected = np.imag(functional(run, TANH, p, y, [], q_bar, S_bar)) / 1e-30
            scale = np.linalg.norm(gradient.theta) + np.linalg.norm(gradient.y0)
            assert scale > 0
            assert_directional(gradient.theta @ theta_dot + np.sum(gradient.y0 * y_dot), expected, scale, 1e-7)


@pytest.mark.parametrize("method", ["Tsit5", "BS32", "DOP853"])
def test_vector_tolerances(method):
    run = solved(TANH, (0.0, 1.5), method, rtol=[1e-3, 1e-5], atol=[1e-6, 1e-4])
    check(run, TANH, 3, [0.4], True, 1e-7)


@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "BS32", "DOP853"])
def test_steps_past_the_end(method):
    run = solved(TANH, (0.0, 1.0), method, controller="torchdiffeq", saveat=[0.2, 1.0])
    assert run.grid[-1] > 1.0
    check(run, TANH, 4, [0.99, 1.0], True, 1e-7)
    check(run, TANH, 4, [0.5 * (1.0 + run.grid[-1]), run.grid[-1]], False)  # the last step's polynomial goes on


def test_jumps_at_accepted_times_belong_to_either_side():
    run = solved(TANH, (0.0, 2.0))
    check(run, TANH, 5, [*run.grid, *run.grid[1:-1]], False)
    (bar,) = draw_like(0, TANH.y)
    at_end = [discrete(run, bar), discrete(run, bar[None]), discrete(run, jumps=[(2.0, bar)])]
    for g in at_end[1:]:
        np.testing.assert_array_equal(g.theta, at_end[0].theta)
    start = discrete(run, jumps=[(0.0, bar)])
    np.testing.assert_array_equal(start.y0, bar)
    assert not start.theta.any()


@settings(max_examples=25)
@given(networks(), SPANS, methods, seeds)
def test_kept_stages_give_the_same_gradient(network, span, method, seed):
    times = np.linspace(*span, 5)
    gradients = []
    for keep in ("states", "stages"):
        run = solved(network, span, method, saveat=times, keep=keep, max_steps=400)
        assume(run.success)
        (bar,) = draw_like(seed, run.y)
        by_error = clear_of_zero(run, network)[0].astype(float)
        gradients.append(discrete(run, bar, jumps=[(times[2] + 1e-3, bar[0])], error_bar=by_error))
    a, b = gradients
    # to rounding: a recomputed first stage sees t_{n+1} where the run saw t_n + h
    scale = np.abs(a.theta).max() + np.abs(a.y0).max()
    np.testing.assert_allclose(a.theta, b.theta, rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(a.y0, b.y0, rtol=0, atol=1e-9 * scale)


@settings(max_examples=25)
@given(networks(), SPANS, st.sampled_from(["Tsit5", "BS32", "DOP853"]), seeds)
def test_float32(network, span, method, seed):
    single = network._replace(theta=network.theta.astype(np.float32), y=network.y.astype(np.float32))
    runs = [
        solved(net, span, method, rtol=1e-3, atol=1e-3, first_step=0.05, max_step=0.05) for net in (single, network)
    ]
    assume(all(run.success for run in runs))
    (bar,) = draw_like(seed, network.y)
    a, b = (discrete(run, bar, jumps=[(0.5 * sum(span), bar)]) for run in runs)
    assert a.theta.dtype == a.y0.dtype == np.float32 and b.theta.dtype == np.float64
    for got, expected in ((a.theta, b.theta), (a.y0, b.y0)):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3 * (1 + np.abs(expected).max()))


@settings(max_examples=25)
@given(networks(), SPANS, methods, seeds)
def test_linear_in_its_cotangents_and_exactly_zero_of_zeros(network, span, method, seed):
    run = solved(network, span, method, saveat=np.linspace(*span, 4), max_steps=400)
    assume(run.success)
    rng, m = np.random.default_rng(seed), run.grid.size - 1
    by_pair = clear_of_zero(run, network)[1]

    def cotangents():
        bars = {"y_bar": rng.normal(size=run.y.shape), "error_bar": rng.normal(size=m)}
        if by_pair is not None:
            bars["stiffness_bar"] = rng.normal(size=m) * by_pair
        return bars

    a, b = cotangents(), cotangents()
    ga, gb, both = (discrete(run, **bars) for bars in (a, b, {k: 2 * a[k] - 3 * b[k] for k in a}))
    for one, two, sum_ in zip(ga[:2], gb[:2], both[:2], strict=True):
        np.testing.assert_allclose(
            sum_, 2 * one - 3 * two, rtol=0, atol=1e-10 * (np.abs(one).max() + np.abs(two).max())
        )
    nothing = discrete(run, **{k: 0 * a[k] for k in a})
    assert not nothing.theta.any() and not nothing.y0.any()


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_unit_gets_exact_zeros(method):
    field = MLP((2, 4, 2))
    theta, y = field.init(1), np.array([[0.5, -0.2], [1.0, 0.3]])
    field.views(theta)["W2"][2] = 0  # nothing listens to hidden unit 2
    options = {} if get_tableau(method).adaptive else {"first_step": 0.25}
    run = ao.solve(field, theta, y, (0.0, 1.0), method=method, **options)
    more = {"error_bar": np.ones(run.grid.size - 1)}
    views = field.views(discrete(run, y, **more).theta)
    assert not views["W1"][:, 2].any() and views["b1"][2] == 0
    assert views["W1"].any(axis=0).sum() == 3 and views["W2"].all()


# --- edges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("span", [(0.0, 0.1), (0.1, 0.0)])
def test_a_single_step(method, span):
    run = solved(TANH, span, method, first_step=0.1, rtol=1e-2, atol=1e-2)
    assert run.grid.size == 2
    check(run, TANH, 6, [span[0], 0.03, span[1]], False)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_span_of_length_zero(dtype):
    field, y = MLP((2, 3, 2)), np.ones((2, 2), dtype)
    run = ao.solve(field, field.init(0, dtype=dtype), y, (0.5, 0.5), saveat=[0.5, 0.5])
    bar = draw_like(0, run.y)[0].astype(dtype)
    gradient = discrete(run, bar, jumps=[(0.5, y)], error_bar=[], stiffness_bar=np.zeros(0))
    np.testing.assert_allclose(gradient.y0, bar.sum(0) + y, rtol=1e-6)
    assert gradient.y0.dtype == dtype and gradient.evaluations == 0
    assert not gradient.theta.any() and gradient.theta.shape == (field.n_params,)
    with pytest.raises(InputError, match="t = 5 is outside"):
        discrete(run, jumps=[(5.0, y)])


@pytest.mark.parametrize("keep", ["states", "stages"])
@pytest.mark.parametrize(
    ("method", "stages", "fsal"),
    [("Tsit5", 7, True), ("BS32", 4, True), ("DOP853", 13, True), ("RK4", 4, False), ("Euler", 1, False)],
)
def test_evaluations_are_counted_exactly(method, stages, fsal, keep):
    run = solved(TANH, (0.0, 1.0), method, keep=keep)
    m, adaptive = run.grid.size - 1, get_tableau(method).adaptive
    a_step = stages - 1 if fsal else stages  # with b_s = 0, the very last stage of all has no part in y1
    assert discrete(run, TANH.y).evaluations == 2 * m * a_step
    (bar,) = draw_like(0, TANH.y)
    inside = discrete(run, jumps=[(run.grid[-1] - 1e-9, bar)])
    # a dense output sees the last stage too; the first of Euler's polynomial has all its weight in K_1
    extra = 2 * get_tableau(method).extra_stages  # in that step alone
    assert inside.evaluations == 2 * m * a_step + (2 if fsal else 0) + extra
    if adaptive:
        opened = discrete(run, TANH.y, error_bar=np.ones(m))
        assert opened.evaluations == 2 * m * a_step + 1 + (get_tableau(method).e[-1] != 0)
        none = discrete(run, 0 * TANH.y).evaluations
        assert none == m * a_step  # pullbacks of zeros are skipped


def test_a_failed_run_is_refused():
    field = MLP((1, 1), preactivation="cube")  # y' = y^3 blows up
    run = ao.solve(field, [1.0, 0.0], [[2.0]], (0.0, 1.0))
    assert not run.success
    with pytest.raises(SolveError) as caught:
        discrete(run, [[1.0]])
    assert caught.value.run is run


def test_a_run_without_states_is_refused():
    run = solved(TANH, (0.0, 1.0), keep="none")
    with pytest.raises(InputError, match="discrete adjoint"):
        discrete(run, TANH.y)


def test_wrong_cotangents_are_named():
    run = solved(TANH, (0.0, 1.0), saveat=[0.5, 1.0])
    m, y = run.grid.size - 1, TANH.y
    for bad in (np.ones(2), np.ones((3, 2)), np.ones((3, 2, 2)), 1.0):
        with pytest.raises(
            InputError, match=r"y_bar must have the shape of run.y1, \(2, 2\), or of run.y, \(2, 2, 2\)"
        ):
            discrete(run, bad)
    with pytest.raises(InputError, match=r"cotangent at t = 0.3 must have shape \(2, 2\); got \(2,\)"):
        discrete(run, jumps=[(0.3, np.ones(2))])
    for name in ("error_bar", "stiffness_bar"):
        with pytest.raises(InputError, match=rf"{name} must have one entry an accepted step, shape \({m},\)"):
            discrete(run, y, **{name: np.ones(m + 1)})
    for t in (-0.1, 1.1, np.nan):
        with pytest.raises(InputError, match="outside the solved span"):
            discrete(run, jumps=[(t, y)])
    for method in ("BS32", "Euler"):
        other = solved(TANH, (0.0, 1.0), method)
        with pytest.raises(InputError, match=f"{method} has no stiffness estimate to differentiate"):
            discrete(other, y, stiffness_bar=np.ones(other.grid.size - 1))


def test_no_cotangent_or_one_that_is_not_finite_is_named():
    run = solved(TANH, (0.0, 1.0), saveat=[0.5, 1.0])
    with pytest.raises(InputError, match="discrete needs a cotangent: y_bar, the gradient of a loss"):
        discrete(run)
    assert not discrete(run, jumps=iter([])).theta.any()  # a list that happens to be empty is an answer
    for bad in (np.nan, np.inf):
        y_bar, per_step = np.ones(TANH.y.shape), np.ones(run.grid.size - 1)
        y_bar[1, 0] = per_step[0] = bad
        with pytest.raises(InputError, match=rf"y_bar\[1, 0\] is {bad}; cotangents must be finite"):
            discrete(run, y_bar)
        with pytest.raises(InputError, match=rf"the cotangent at t = 0.3\[1, 0\] is {bad}"):
            discrete(run, jumps=[(0.3, y_bar)])
        for name in ("error_bar", "stiffness_bar"):
            with pytest.raises(InputError, match=rf"{name}\[0\] is {bad}"):
                discrete(run, **{name: per_step})
    for bad, says in ((1j * TANH.y, "y_bar must be real numbers"), ("one", "y_bar must be real"), ([[1.0], [1.0, 2.0]], "y_bar must be an array of numbers")):
        with pytest.raises(InputError, match=says):
            discrete(run, bad)


def test_lists_integers_and_inputs_left_alone():
    run = solved(TANH, (0.0, 1.0))
    bar = np.array([[1, 0], [2, -1]])
    before = run.states.copy()
    one, two = discrete(run, bar.tolist()), discrete(run, bar.astype(float), jumps=iter([]))
    np.testing.assert_array_equal(one.theta, two.theta)
    np.testing.assert_array_equal(run.states, before)
    assert discrete(run, bar).theta.tobytes() == one.theta.tobytes()  # and again: nothing is left over from a call


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_read_before_it_is_written(method, monkeypatch):
    """In memory full of NaN the field sees finite states and the gradient is finite, also for a cotangent of 0 inside the last step."""
    seen = []

    def value(t, y, theta):
        seen.append(y.copy())
        return -theta[0] * y * y

    def vjp(t, y, theta, w):
        return -2 * theta[0] * y * w, [-np.sum(w * y * y)]

    field = ao.PythonField(value, 2, 1, vjp=vjp)
    fixed = {} if get_tableau(method).adaptive else {"first_step": 0.2}
    run = ao.solve(field, [0.7], TANH.y, (0.0, 1.0), method=method, **fixed)
    inside, bar = 0.5 * (run.grid[:-1] + run.grid[1:]), np.ones((2, 2))
    cases = [{"y_bar": bar}, {"jumps": [(inside[-1], 0 * bar)]}, {"jumps": [(t, bar) for t in inside]}]
    for case in cases:  # compiles
        discrete(run, **case)
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda *args, **options: np.full_like(empty(*args, **options), np.nan))
    for case in cases:
        seen.clear()
        gradient = discrete(run, **case)
        assert np.isfinite(seen).all() and np.isfinite(gradient.theta).all() and np.isfinite(gradient.y0).all()


# --- what is not finite -----------------------------------------------------------------------------------------------


def spoiled(where, what="theta"):
    """y' = -a y whose vjp is infinite after a time."""

    def vjp(t, y, theta, w):
        y_bar, theta_bar = -theta[0] * w, np.array([-np.sum(y * w), 0.0])
        if t > where:
            {"theta": theta_bar, "y": y_bar[1]}[what][1] = np.inf
        return y_bar, theta_bar

    return PythonField(lambda t, y, theta: -theta[0] * y, 2, 2, vjp=vjp)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what goes on with an infinity
@pytest.mark.parametrize("keep", ["states", "stages", 3, "none"])
@pytest.mark.parametrize("what", ["theta", "y"])
def test_a_gradient_that_is_not_finite_names_where_it_arose(what, keep):
    run = ao.solve(spoiled(0.7, what), [1.0, 0.0], TANH.y, (0.0, 1.0), first_step=0.125, max_step=0.125, rtol=1e-2, atol=1e-2, keep=keep)
    budget = None if keep != "none" else 10**3
    with pytest.raises(NonFiniteGradientError, match=r"NaN or infinite.*step 7 of 0 … 7, from t = 0.875 to 1, in stage 6 at t = 1,") as caught:
        discrete(run, TANH.y, budget=budget)
    error = caught.value
    assert (error.solver_step, error.stage) == (7, 5) and error.block == ("theta[1]" if what == "theta" else "y")
    assert what == "theta" or "sample 1, component 1" in str(error)
    with pytest.raises(NonFiniteGradientError) as caught:
        discrete(run, jumps=[(0.71, TANH.y)], budget=budget)
    assert (caught.value.solver_step, caught.value.stage, caught.value.step) == (5, 6, None)


def test_cotangents_that_grow_beyond_the_largest_number():
    field, theta = MLP((1, 1)), np.array([80.0, 0.0], np.float32)  # y' = 80 y, from 0
    run = ao.solve(field, theta, np.zeros((1, 1), np.float32), (0.0, 1.5), method="RK4", first_step=0.01)
    with pytest.raises(NonFiniteGradientError, match="largest cotangent") as caught:
        discrete(run, [[1.0]])
    assert 0 < caught.value.solver_step < 80 and caught.value.block in ("y", "K")
    double = ao.solve(field, theta.astype(float), [[0.0]], (0.0, 1.5), method="RK4", first_step=0.01)
    assert np.isfinite(discrete(double, [[1.0]]).y0)


def test_the_block_is_named_as_the_field_names_it():
    class Broken(PythonField):
        def views(self, theta):
            return {"W1": theta[:1], "b1": theta[1:]}

    field = spoiled(0.5)
    field.__class__ = Broken
    with pytest.raises(NonFiniteGradientError, match=r"in that of b1\[0\]"):
        discrete(ao.solve(field, [1.0, 0.0], TANH.y, (0.0, 1.0)), TANH.y)


def test_training_says_at_which_step():
    objective = ao.Objective(spoiled(0.5), "mean_squared_error")
    with pytest.raises(NonFiniteLossError, match=r"training step 0: the gradient is NaN or infinite.*stage") as caught:
        ao.fit(objective, TANH.y, TANH.y, params=np.array([1.0, 0.0]), steps=3)
    assert caught.value.step == 0 and caught.value.result.status == "failed"


# --- the ends of the span ---------------------------------------------------------------------------------------------


def test_ends_of_the_span_by_finite_differences():
    """Through the controller: at a tight tolerance the flow's own derivatives."""
    tight = {"rtol": 1e-12, "atol": 1e-12, "method": "DOP853"}
    (bar, inside) = draw_like(3, TANH.y, TANH.y)

    def loss(t0, t1):
        run = solved(TANH, (t0, t1), saveat=[0.5, t1], **tight)
        return np.sum(bar * run.y1) + np.sum(inside * run.y[0])

    run = solved(TANH, (0.1, 1.2), saveat=[0.5, 1.2], **tight)
    gradient = discrete(run, np.stack([inside, bar]))
    for got, f in ((gradient.t0, lambda x: loss(0.1 + x, 1.2)), (gradient.t1, lambda x: loss(0.1, 1.2 + x))):
        expected, error = finite_difference(f, 0.0, 1.0, 0.05)
        assert abs(got - expected) < 1e-8 + 10 * error
    assert discrete(run, bar, ends=False).t0 is None


def test_a_field_without_a_derivative_in_time_leaves_the_ends_out():
    field = PythonField(lambda t, y, theta: -t * y, 2, vjp=lambda t, y, theta, w: (-t * w, []))
    gradient = discrete(ao.solve(field, [], TANH.y, (0.0, 1.0)), TANH.y)
    assert gradient.t0 is None and gradient.t1 is None
    timed = PythonField(lambda t, y, theta: -t * y, 2, vjp=lambda t, y, theta, w: (-t * w, []), time_vjp=lambda t, y, theta, w: -np.sum(w * y))
    run = ao.solve(timed, [], TANH.y, (0.5, 1.0), rtol=1e-10, atol=1e-10)
    gradient = discrete(run, TANH.y)
    both = np.sum(TANH.y**2) * np.exp((0.25 - 1.0) / 2)  # L = |y0|^2 exp((t0^2 - t1^2)/2)
    np.testing.assert_allclose((gradient.t0, gradient.t1), (0.5 * both, -both), rtol=1e-8)


def test_samples_in_tiles_give_the_gradient_of_all_at_once():
    rng = np.random.default_rng(0)
    for field, coordinates in ((ao.MLP((2, 64, 64, 2), time="first"), "state"), (ao.MLP((40, 12, 40), time="every"), "hidden")):
        theta, y0 = field.init(0), rng.normal(size=(700, field.n))  # more tiles than groups of them
        run = ao.solve(field, theta, y0, (0.0, 1.0), coordinates=coordinates, rtol=1e-5, atol=1e-5, saveat=[0.3, 1.0])
        bars = rng.normal(size=run.y.shape)
        tiled = ao.adjoint.discrete(run, bars, ends=False)  # with `ends`, all at once
        whole = ao.adjoint.discrete(run, bars)
        assert tiled.evaluations == whole.evaluations
        np.testing.assert_allclose(tiled.theta, whole.theta, rtol=0, atol=1e-13 * np.abs(whole.theta).max())
        np.testing.assert_allclose(tiled.y0, whole.y0, rtol=0, atol=1e-13 * np.abs(whole.y0).max())
        # where q has a cotangent alone, samples are told apart by its value, which rounding in the error vector moves
        error_bar = 1e3 * rng.normal(size=run.grid.size - 1)
        tiled_q, whole_q = (ao.adjoint.discrete(run, bars, error_bar=error_bar, ends=ends) for ends in (False, True))
        assert np.abs(tiled_q.theta - tiled.theta).max() > 1e-3 * np.abs(tiled.theta).max()
        np.testing.assert_allclose(tiled_q.theta, whole_q.theta, rtol=0, atol=1e-9 * np.abs(whole_q.theta).max())
        np.testing.assert_allclose(tiled_q.y0, whole_q.y0, rtol=0, atol=1e-9 * np.abs(whole_q.y0).max())
        # the same bits when the states are computed again, part by part
        again = ao.solve(field, theta, y0, (0.0, 1.0), coordinates=coordinates, rtol=1e-5, atol=1e-5, saveat=[0.3, 1.0], keep=2)
        np.testing.assert_array_equal(ao.adjoint.discrete(again, bars, ends=False).theta, tiled.theta)
