"""Compiled solves and gradients: those of `solve` and `discrete`, and the same complaints."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adaptode as ao
from adaptode.adjoint import flow as flows
from adaptode.errors import InputError, NonFiniteGradientError, SolveError

METHODS = ("Tsit5", "Dopri5", "BS32", "DOP853")


@given(
    method=st.sampled_from(METHODS),
    batch=st.integers(1, 5),
    time=st.sampled_from(["none", "first", "every"]),
    times=st.sampled_from([None, [1.0], [0.0, 0.3, 0.3, 0.7], np.linspace(0.1, 1.0, 9)]),
    forwards=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_same_as_solve_and_discrete(method, batch, time, times, forwards, seed):
    rng = np.random.default_rng(seed)
    field = ao.MLP((3, 5, 3), time=time, preactivation="sine")
    theta, y0 = field.init(rng, scale=2.0), rng.normal(size=(batch, 3))
    span = (0.0, 1.0) if forwards else (1.0, 0.0)
    times = times if times is None or forwards else 1.0 - np.asarray(times)
    run = ao.solve(field, theta, y0, span, method=method, saveat=times)
    flow = ao.Flow(field, span, method=method, times=times)
    y, tape = flow(theta, y0)
    assert tape.nfev == run.nfev and tape.error == pytest.approx(run.accepted("error").max(), rel=1e-6)
    # the first step's size is found by two codes, which may round apart; then estimates, which are what cancellation leaves, move the steps after it
    np.testing.assert_allclose(tape.grid[1], run.grid[1], rtol=1e-12)
    np.testing.assert_allclose(tape.grid, run.grid, rtol=1e-12 if tape.grid[1] == run.grid[1] else 1e-8, atol=1e-14)
    np.testing.assert_allclose(y, run.y, rtol=0, atol=1e-12)
    bars = rng.normal(size=y.shape)
    expected = ao.adjoint.discrete(run, bars, ends=False)
    again, kept = flow(theta, y0, keep=True)
    np.testing.assert_allclose(again, y, rtol=0, atol=1e-14)
    assert kept.nfev == tape.nfev and len(kept.memory) == flow.method.fsal
    for each, most in ((tape, expected.evaluations), (kept, expected.evaluations - flow.method.fsal), (kept, expected.evaluations)):
        y0_bar, theta_bar, calls = flow.vjp(each, bars)  # what was kept serves once
        assert calls <= most and (calls == most or each is kept)
        np.testing.assert_allclose(y0_bar, expected.y0, rtol=0, atol=1e-10 * np.abs(expected.y0).max())
        np.testing.assert_allclose(theta_bar, expected.theta, rtol=0, atol=1e-10 * np.abs(expected.theta).max())
    assert not kept.memory


def test_many_attempts_are_all_kept():
    field = ao.MLP((2, 8, 2))
    theta, y0 = field.init(0, scale=4.0), np.ones((2, 2))
    run = ao.solve(field, theta, y0, (0.0, 30.0), rtol=1e-10, atol=1e-10)
    y, tape = ao.Flow(field, (0.0, 30.0), rtol=1e-10, atol=1e-10)(theta, y0, keep=True)
    assert run.grid.size > 70 and tape.grid.size == run.grid.size and tape.memory
    np.testing.assert_allclose(tape.states.reshape(-1, 2, 2), run.states, rtol=0, atol=1e-8)


def test_stages_are_kept_of_as_many_steps_as_are_worth_it(monkeypatch):
    field, bars = ao.MLP((2, 8, 2)), np.ones((1, 3, 2))
    theta, y0 = field.init(0, scale=4.0), np.ones((3, 2))
    gradients = []
    for most, kept in ((10**6, True), (20_000, False), (100, False)):
        monkeypatch.setattr(flows, "_MOST", most)
        flow = ao.Flow(field, (0.0, 5.0), rtol=1e-6, atol=1e-6)
        for _ in range(2):
            y, tape = flow(theta, y0, keep=True)
            assert tape.grid.size > 10 and len(tape.memory) == kept
            gradients.append(flow.vjp(tape, bars)[1])
        assert len(flow._spare) == (most > 1000)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, gradients[0], rtol=0, atol=1e-12 * np.abs(gradients[0]).max())


@pytest.mark.parametrize("times", [None, [0.25, 0.5, 1.0]])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_compiled_objective_is_the_objective(times, dtype):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(6, 2)).astype(dtype)
    y = rng.integers(0, 2, 6 if times is None else (6, 3))
    plain = ao.Objective(ao.MLP((2, 8, 2)), "binary_cross_entropy", head=ao.LinearHead(2, 1), times=times, dtype=dtype, coordinates="state")
    compiled = plain.compiled()
    params = plain.init(0)
    np.testing.assert_allclose(compiled.predict(params, X), plain.predict(params, X), rtol=1e-5 if dtype == "float32" else 1e-12)
    a, b = (objective.value_and_grad(params, X, y, rng=rng, start=True) for objective in (plain, compiled))
    assert (a.nfe_forward, list(a.parts)) == (b.nfe_forward, list(b.parts)) and b.grad.dtype == a.grad.dtype
    assert b.nfe_backward < a.nfe_backward  # stages are not computed again
    for name in ("loss", "grad", "error", "start"):
        np.testing.assert_allclose(getattr(b, name), getattr(a, name), rtol=1e-3 if dtype == "float32" else 1e-9, atol=1e-6 if dtype == "float32" else 1e-12)
    assert compiled.compiled() is compiled
    if times is None:
        assert ao.fit(compiled, X, y, epochs=3, rng=0).params == pytest.approx(ao.fit(plain, X, y, epochs=3, rng=0).params, rel=1e-3)


def test_a_flow_is_pickled():
    flow, y0 = ao.Flow(ao.MLP((2, 4, 2)), (0.0, 1.0)), np.ones((1, 2))
    theta = flow.field.init(0)
    y, tape = flow(theta, y0)
    gradient = flow.vjp(tape, y)
    again = pickle.loads(pickle.dumps(flow))
    for _ in range(2):  # compiled code is looked up, then known
        found, tape = again(theta, y0)
        np.testing.assert_array_equal(found, y)
        np.testing.assert_array_equal(again.vjp(tape, y)[1], gradient[1])


def test_what_fails_says_so_as_solve_does():
    field = ao.MLP((2, 8, 2))
    flow, theta = ao.Flow(field, (0.0, 1.0)), field.init(0)
    with pytest.raises(InputError, match=r"y0\[0, 1\] is nan"):
        flow(theta, np.array([[0.0, np.nan]]))
    with pytest.raises(InputError, match="theta"):
        flow(theta[:-1], np.ones((1, 2)))
    with pytest.raises(InputError, match=r"\(batch, 2\).*got \(1, 3\)"):
        flow(theta, np.ones((1, 3)))
    with pytest.raises(SolveError, match="max_steps"):
        ao.Flow(field, (0.0, 1.0), max_steps=1)(theta, np.ones((1, 2)))
    y, tape = flow(theta, np.ones((1, 2)))
    with pytest.raises(InputError, match="y_bar must have the shape"):
        flow.vjp(tape, np.ones((1, 2)))
    with pytest.raises((InputError, NonFiniteGradientError)):
        flow.vjp(tape, np.full_like(y, np.inf))


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((ao.LinearField(2), (0.0, 1.0)), {}, "MLP"),
        ((ao.MLP((2, 4, 2)), (0.0, 0.0)), {}, "span"),
        ((ao.MLP((2, 4, 2)), (0.0, 1.0)), {"method": "RK4"}, "no error estimate"),
        ((ao.MLP((2, 4, 2)), (0.0, 1.0)), {"atol": [1e-3, 1e-4]}, "one rtol and one atol"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(InputError, match=message):
        ao.Flow(*arguments, **options)


def test_an_objective_with_more_to_it_is_not_compiled():
    field = ao.MLP((2, 4, 2))
    with pytest.raises(InputError, match="penalties"):
        ao.Objective(field, "mean_squared_error", penalties=[ao.LocalError(1.0)]).compiled()
    with pytest.raises(InputError, match="discrete"):
        ao.Objective(field, "mean_squared_error", adjoint="backsolve").compiled()
