"""States computed again: the schedule's proven number of steps, and the full storage's gradient to the last bit."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
from frozen import draw_like, field_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import METHODS, methods, networks, parameters, seeds

import adaptode as ao
from adaptode.adjoint import discrete
from adaptode.adjoint.checkpoints import repeated_steps, schedule
from adaptode.errors import InputError, SolveError
from adaptode.fields import MLP, CompiledField, PythonField
from adaptode.tableau import get_tableau

SIZES = (2, 4, 2)
THETA, Y = parameters(8, SIZES, "every", 2.0), np.array([[0.8, -0.4], [0.2, 1.1]])
FIELD = MLP(SIZES, time="every")
STATE = Y.nbytes
same = np.testing.assert_array_equal


@lru_cache(None)
def fewest(steps, snapshots):
    """Equation (2) of the module, by trying every place for the next checkpoint."""
    if steps <= 1 or snapshots == 1:
        return steps * (steps - 1) // 2
    return min(k + fewest(steps - k, snapshots - 1) + fewest(k, snapshots) for k in range(1, steps))


def repeated(steps, snapshots):
    """Steps computed by the schedule; that of the last state in a whole segment is left to what comes after."""
    return sum(s.last - s.first - s.whole for s in schedule(steps, snapshots))


@pytest.mark.parametrize("snapshots", range(1, 9))
def test_the_schedule_repeats_the_fewest_steps(snapshots):
    for steps in range(1, 70):
        assert repeated(steps, snapshots) == repeated_steps(steps, snapshots) == fewest(steps, snapshots)


@given(st.integers(1, 5000), st.integers(1, 40))
def test_the_schedule_goes_home_once_within_its_snapshots(steps, snapshots):
    if repeated_steps(steps, snapshots) > 10**5:
        snapshots += 40
    held, home = {0}, steps
    for a, b, whole in schedule(steps, snapshots):
        assert a in held and a < b
        if whole:
            assert b == home and len(held) + (b - a - 1) <= snapshots + 1
            home = a
            held = {x for x in held if x < a} | {0}
        else:
            held.add(b)
            assert len(held) <= snapshots + 1 and b < home
    assert home == 0


def test_repeats_grow_as_the_binomial_number():
    for c in (1, 3, 10):
        for r in (1, 2, 5):
            steps = math.comb(c + r, c)  # each step is computed r times again at most, and one more step must be a time more
            assert (repeated_steps(steps + 1, c) - repeated_steps(steps, c)) == r + 1
    assert repeated_steps(0, 3) == 0 and repeated_steps(7, 100) == 6


def options_of(method):
    return {"method": method, "rtol": 1e-5, "atol": 1e-5} | ({} if get_tableau(method).adaptive else {"first_step": 0.07})


def assert_same(a, b):
    for name in ("y0", "theta", "t0", "t1"):
        same(getattr(a, name), getattr(b, name), strict=True)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("controller", ["pi", "torchdiffeq"])
@pytest.mark.parametrize("method", METHODS)
def test_every_bit_of_the_gradient(method, controller, dtype):
    options = options_of(method) | {"controller": controller, "saveat": [0.5, 3.0]}
    full = ao.solve(FIELD, THETA.astype(dtype), Y.astype(dtype), (0.0, 3.0), **options)
    m, size = full.grid.size - 1, full.end.nbytes
    bars = {"jumps": [(1.234, Y)]} | ({"error_bar": np.cos(np.arange(m))} if full.method.adaptive else {})
    expected = discrete(full, full.y, **bars)
    assert m > 5 and expected.t0 is not None
    for keep in (2, 3, m - 1, m, 10 * m, "none"):
        run = ao.solve(FIELD, THETA.astype(dtype), Y.astype(dtype), (0.0, 3.0), keep=keep, **options)
        assert run.states is None and run.end.nbytes == size
        same(run.checkpoints.states, full.states[run.checkpoints.index])
        for budget in (None, size, 2.5 * size, 5 * size, 10**6):
            if budget is None and keep == "none":
                continue
            assert_same(discrete(run, full.y, **bars, budget=budget), expected)


@settings(max_examples=25)
@given(networks(), st.sampled_from([(0.0, 1.0), (0.3, -0.9)]), methods, seeds, st.integers(2, 20), st.integers(1, 8))
def test_any_network_any_method(network, span, method, seed, keep, states):
    options = options_of(method) | {"max_steps": 400}
    full = ao.solve(field_of(network), network.theta, network.y, span, **options)
    assume(full.success)
    (bar,) = draw_like(seed, network.y)
    expected = discrete(full, bar)
    for k, budget in ((keep, None), (keep, states * bar.nbytes), ("none", states * bar.nbytes)):
        assert_same(discrete(ao.solve(field_of(network), network.theta, network.y, span, keep=k, **options), bar, budget=budget), expected)


def test_a_python_field_and_one_that_was_given_a_seat():
    def value(t, y, theta):
        return np.sin(theta[0] * t + y[:, ::-1])

    def vjp(t, y, theta, w):
        slope = np.cos(theta[0] * t + y[:, ::-1]) * w
        return slope[:, ::-1], [t * slope.sum()]

    field = PythonField(value, 2, 1, vjp=vjp)
    full = ao.solve(field, [2.0], Y, (0.0, 4.0))
    expected = discrete(full, Y)
    assert expected.t0 is None and expected.t1 is None
    for keep, budget in ((4, None), ("none", 3 * STATE)):
        assert_same(discrete(ao.solve(field, [2.0], Y, (0.0, 4.0), keep=keep), Y, budget=budget), expected)


@pytest.mark.slow
def test_a_compiled_field():
    import numba

    @numba.njit
    def value(t, y, theta, out):
        for i in range(y.size):
            out[i] = np.sin(theta[0] * t + y[i])

    @numba.njit
    def vjp(t, y, theta, w, y_bar, theta_bar):
        for i in range(y.size):
            slope = np.cos(theta[0] * t + y[i]) * w[i]
            y_bar[i] += slope
            theta_bar[0] += t * slope

    @numba.njit
    def time_vjp(t, y, theta, w):
        return (theta[0] * np.cos(theta[0] * t + y) * w).sum()

    field = CompiledField(value, 2, 1, vjp=vjp, time_vjp=time_vjp)
    full = ao.solve(field, [2.0], Y, (0.0, 4.0))
    expected = discrete(full, Y)
    assert expected.t0 is not None
    for keep, budget in ((4, None), ("none", 3 * STATE)):
        assert_same(discrete(ao.solve(field, [2.0], Y, (0.0, 4.0), keep=keep), Y, budget=budget), expected)


def test_evaluations_are_those_of_the_schedule():
    full = ao.solve(FIELD, THETA, Y, (0.0, 3.0), rtol=1e-7)
    run = ao.solve(FIELD, THETA, Y, (0.0, 3.0), rtol=1e-7, keep="none")
    m, stored = full.grid.size - 1, discrete(full, Y).evaluations
    assert m > 15
    for snapshots in (2, 3, 7):
        parts = [s for s in schedule(m, snapshots) if s.last - s.first > s.whole]
        again = discrete(run, Y, budget=(snapshots - 1) * STATE).evaluations - stored
        assert again == 6 * repeated_steps(m, snapshots) + len(parts)  # with FSAL, the first stage of what is computed in one go once more
    every = discrete(ao.solve(FIELD, THETA, Y, (0.0, 3.0), rtol=1e-7, keep=5), Y).evaluations - stored
    segments = [min(5, m - a) for a in range(0, m, 5)]
    assert every == sum(6 * (k - 1) + 1 for k in segments if k > 1)


def test_runs_without_all_states_say_what_they_lack():
    run = ao.solve(FIELD, THETA, Y, (0.0, 1.0), keep="none")
    with pytest.raises(InputError, match='discrete adjoint without a budget.*keep="states"'):
        discrete(run, Y)
    for budget in (STATE - 1, -5, np.nan, "much", True):
        with pytest.raises(InputError, match=rf"budget must be a number of bytes, at least those of one state, {STATE}; got"):
            discrete(run, Y, budget=budget)
    run = ao.solve(FIELD, THETA, Y, (0.0, 1.0), keep=3)
    with pytest.raises(InputError, match='dense output needs the states.*keep="states"'):
        run.sol(0.5)
    for keep in (0, -1, 2.0, True, "some"):
        with pytest.raises(InputError, match="keep must be"):
            ao.solve(FIELD, THETA, Y, (0.0, 1.0), keep=keep)


@pytest.mark.parametrize("keep", [3, "none"])
def test_a_span_of_length_zero(keep):
    run = ao.solve(FIELD, THETA, Y, (0.5, 0.5), keep=keep)
    gradient = discrete(run, Y, budget=STATE)
    same(gradient.y0, Y)
    assert gradient.t0 is None and not gradient.theta.any() and run.y0 is not Y


def test_a_field_that_is_random_is_found_out():
    rng = np.random.default_rng(0)
    field = PythonField(lambda t, y, theta: -y + 1e-3 * rng.normal(size=y.shape), 2, vjp=lambda t, y, theta, w: (-w, []))
    run = ao.solve(field, [], Y, (0.0, 1.0), rtol=1e-3, atol=1e-3, keep=50, max_steps=2000)
    with pytest.raises(SolveError, match="comes out otherwise when it is computed again: is the field random"):
        discrete(run, Y)


def test_a_run_is_a_record_of_its_start():
    y = Y.copy()
    run = ao.solve(FIELD, THETA, y, (0.0, 1.0), keep="none")
    before = discrete(run, Y, budget=STATE)
    y[:] = 0.0
    assert_same(discrete(run, Y, budget=STATE), before)
