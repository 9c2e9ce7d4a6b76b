"""The local error penalty: which step it takes, its value, and its gradient with and without what it holds fixed."""

from __future__ import annotations

import json

import naive
import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of, frozen, local_penalty, states_at, step_size
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import ADAPTIVE, Network, adaptive_methods, networks, parameters, seeds

import adaptode as ao
from adaptode.adjoint import discrete
from adaptode.checks import taylor_test
from adaptode.errors import InputError
from adaptode.fields import MLP, PythonField
from adaptode.regularize import LocalError
from adaptode.tableau import METHODS

SIZES = (2, 5, 2)
TANH = Network(
    SIZES,
    "tanh",
    "every",
    "identity",
    "identity",
    parameters(8, SIZES, "every", 1.5),
    np.array([[0.8, -0.4], [0.2, 1.1]]),
    0.0,
)
SPANS = st.sampled_from([(0.0, 1.0), (0.3, -0.9), (-1.0, 0.7)])
CONTROLLERS = st.sampled_from(["pi", "torchdiffeq"])
DETACH = [("state",), (), ("k1",), ("state", "k1")]
variates = st.one_of(
    st.sampled_from([0.0, 0.5, 1 - 2**-53]), st.floats(0, 1, exclude_max=True).map(lambda v: round(v, 4) % 1)
)


def solved(network, span=(0.0, 2.0), method="Tsit5", tolerance=1e-4, **options):
    return ao.solve(
        field_of(network),
        network.theta,
        network.y,
        span,
        method=method,
        rtol=tolerance,
        atol=tolerance,
        max_steps=400,
        **options,
    )


def drawn(run, variate, sampling):
    """t_r, written from the definition."""
    if sampling == "unbiased":
        return run.tspan[0] + variate * (run.tspan[1] - run.tspan[0])
    inner = run.grid[1:-1]
    return inner[int(variate * inner.size)] if inner.size else run.grid[0]


configurations = st.tuples(
    st.sampled_from(["unbiased", "biased"]),
    st.sampled_from(["error", "stiffness"]),
    st.sampled_from(["solver", "initial"]),
)


def opened(network, span, method, controller, configuration, variate):
    """A run, and the time, state and size of the step that LocalError opens in it."""
    sampling, estimate, step = configuration
    assume(not (estimate == "stiffness" and method == "BS32"))
    run = solved(network, span, method, controller=controller)
    assume(run.success)
    t = drawn(run, variate, sampling)
    u = states_at(run, frozen(run, network.naive, network.y), [t])[0]
    return run, t, u, step_size(run, network, t, u, step)


@given(networks(), SPANS, adaptive_methods, CONTROLLERS, configurations, variates)
def test_value_is_one_step_of_the_referees(network, span, method, controller, configuration, variate):
    sampling, estimate, step = configuration
    run, t, u, h = opened(network, span, method, controller, configuration, variate)
    term = LocalError(1.0, sampling, estimate=estimate, step=step).evaluate(run, variate)
    expected = local_penalty(run, network, t, h, network.theta, network.y, estimate) if h != 0 else 0.0
    # q's rounding is that of K / tolerance; S is 0/0 for tiny steps
    if estimate == "error":
        assert term.value == pytest.approx(expected, rel=1e-7, abs=1e-10 * abs(h))
    elif abs(h) > 1e-2 and expected > 1e-6:
        s = naive.step(network.naive, t, h, u, run.method, 1e-4, 1e-4)
        i, j = run.method.stiffness_pair
        assume(min(np.abs(x[j] - x[i]).max() for x in (s.Y, s.K)) > 1e-8)
        assert term.value == pytest.approx(expected, rel=1e-5)
    assert term.evaluations == run.method.stages + (2 if step == "initial" else 0)


@settings(max_examples=100)
@given(networks(), SPANS, adaptive_methods, CONTROLLERS, configurations, variates, st.sampled_from(DETACH), seeds)
def test_gradient_is_the_complex_step_with_what_is_detached_held(
    network, span, method, controller, configuration, variate, detach, seed
):
    sampling, estimate, step = configuration
    run, t, u, h = opened(network, span, method, controller, configuration, variate)
    assume(abs(h) > 1e-2)
    s = naive.step(network.naive, t, h, u, run.method, 1e-4, 1e-4)
    if estimate == "error":
        assume(s.q > 1e-3)
    else:
        i, j = run.method.stiffness_pair
        clear = 1e-3 if method == "DOP853" else 1e-5  # larger weights, whose sums cancel further
        assume(min(np.abs(x[j] - x[i]).max() for x in (s.Y, s.K)) > clear)

    pulled = LocalError(1.0, sampling, estimate=estimate, step=step, detach=detach).evaluate(run, variate).pull(1.7)
    assert [time for time, _ in pulled.jumps] == ([] if "state" in detach else [t])
    through = discrete(run, jumps=pulled.jumps)
    theta_bar, y0_bar = pulled.theta + through.theta, through.y0
    theta_dot, y_dot = draw_like(seed, network.theta, network.y)
    value = local_penalty(
        run, network, t, h, network.theta + 1e-30j * theta_dot, network.y + 1e-30j * y_dot, estimate, detach
    )
    scale = np.linalg.norm(theta_bar) + np.linalg.norm(y0_bar)
    assert_directional(theta_bar @ theta_dot + np.sum(y0_bar * y_dot), 1.7 * np.imag(value) / 1e-30, scale, 1e-7)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("detach", DETACH)
def test_the_four_gradients_differ(method, detach):
    """Or else a test of one of them would pass for another."""
    run = solved(TANH, method=method)
    through = []
    for d in DETACH:
        pulled = LocalError(1.0, detach=d).evaluate(run, 0.4).pull(1.0)
        through.append(pulled.theta + discrete(run, jumps=pulled.jumps).theta)
    mine = DETACH.index(detach)
    others = [np.linalg.norm(g - through[mine]) / np.linalg.norm(g) for k, g in enumerate(through) if k != mine]
    assert min(others) > 1e-3


@pytest.mark.parametrize("estimate", ["error", "stiffness"])
def test_attached_gradient_by_taylor_on_the_whole_solve(estimate):
    """Without the referee: the library's own value, on a grid that is frozen by a first step as long as every step."""
    field, t = field_of(TANH), 0.31

    def value(theta):
        options = {"first_step": 0.25, "max_step": 0.25, "rtol": 1e-2, "atol": 1e-2}
        run = ao.solve(field, theta, TANH.y, (0.0, 1.0), **options)
        assert run.grid.size == 5 and run.n_rejected == 0
        return run, LocalError(1.0, estimate=estimate, detach=()).evaluate(run, t)

    run, term = value(TANH.theta)
    pulled = term.pull(1.0)
    gradient = pulled.theta + discrete(run, jumps=pulled.jumps).theta
    (direction,) = draw_like(1, TANH.theta)
    result = taylor_test(lambda p: value(p)[1].value, gradient @ direction, TANH.theta, direction, (1e-3, 5e-4, 2.5e-4))
    assert 1.85 < result.slope < np.inf


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("span", [(0.0, 2.0), (1.0, -1.0)])
def test_biased_redoes_the_solvers_own_step(method, span):
    run = solved(TANH, span, method)
    logged, h = run.accepted("error"), np.abs(np.diff(run.grid))
    inner = run.grid.size - 2
    assert inner > 2
    for i in range(inner):
        term = LocalError(1.0, "biased").evaluate(run, (i + 0.5) / inner)
        assert term.value == pytest.approx(logged[i + 1] * h[i + 1], rel=1e-6)
    one = ao.solve(field_of(TANH), TANH.theta, TANH.y, (0.0, 0.1), first_step=0.1, rtol=1e-2, atol=1e-2)
    assert one.grid.size == 2  # no time between the ends: the single step itself
    assert LocalError(1.0, "biased").evaluate(one, 0.7).value == pytest.approx(one.steps.error[0] * 0.1, rel=1e-9)


@pytest.mark.parametrize("controller", ["pi", "torchdiffeq"])
def test_biased_draws_every_inner_time_equally_often(controller):
    run = solved(TANH, controller=controller)
    inner = run.grid[1:-1]
    penalty = LocalError(1.0, "biased", detach=())
    n = 40 * inner.size
    times = [penalty.evaluate(run, (k + 0.5) / n).pull(1.0).jumps[0][0] for k in range(n)]
    np.testing.assert_array_equal(times, np.repeat(inner, 40))
    ends = [penalty.evaluate(run, v).pull(1.0).jumps[0][0] for v in (0.0, 1 - 2**-53)]
    assert ends == [inner[0], inner[-1]]
    assert penalty.times((0.0, 2.0), 0.3) == ()


@given(SPANS, st.floats(0, 1, exclude_max=True))
def test_unbiased_is_uniform_on_the_span(span, variate):
    (t,) = LocalError(1.0).times(span, variate)
    assert t == pytest.approx(span[0] + variate * (span[1] - span[0]), abs=1e-15)
    assert min(span) <= t <= max(span)


def test_unbiased_takes_the_saved_state_or_the_dense_one():
    (t,) = LocalError(1.0).times((0.0, 2.0), 0.37)
    saved, dense = solved(TANH, saveat=[t, 2.0]), solved(TANH)
    values = [
        LocalError(1.0).evaluate(run, 0.37).value
        for run in (saved, dense, solved(TANH, saveat=[t, 2.0], keep="stages"))
    ]
    assert values[0] == values[1] == values[2] > 0


def test_the_step_is_the_containing_one_cut_at_the_end():
    run = solved(TANH, controller="torchdiffeq")
    assert run.grid[-1] > 2.0 > run.grid[-2]
    near = (2.0 - 1e-3) / 2.0
    for sampling, variate, t in (("biased", 1 - 2**-53, run.grid[-2]), ("unbiased", near, 2.0 - 1e-3)):
        term = LocalError(1.0, sampling).evaluate(run, variate)
        expected = local_penalty(run, TANH, t, 2.0 - t, TANH.theta, TANH.y)
        assert term.value == pytest.approx(expected, rel=1e-6, abs=1e-14)


# --- zeros, float32, other fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("step", ["solver", "initial"])
def test_no_error_no_gradient(sampling, step):
    field, y = MLP((2, 3, 2)), np.ones((1, 2))
    for theta, span in ((field.init(0, "zeros"), (0.0, 1.0)), (field.init(0), (0.5, 0.5))):
        run = ao.solve(field, theta, y, span)
        term = LocalError(1.0, sampling, step=step, detach=()).evaluate(run, 0.3)
        pulled = term.pull(1.0)
        assert term.value == 0 and not pulled.theta.any() and pulled.theta.shape == theta.shape
        assert all(not bar.any() for _, bar in pulled.jumps)


def test_float32():
    single = TANH._replace(theta=TANH.theta.astype(np.float32), y=TANH.y.astype(np.float32))
    options = {"method": "BS32", "tolerance": 1e-2, "first_step": 0.25, "max_step": 0.25}
    a, b = (LocalError(1.0, detach=()).evaluate(solved(network, **options), 0.4) for network in (single, TANH))
    assert a.value == pytest.approx(b.value, rel=1e-3) and b.value > 1e-4
    pa, pb = a.pull(1.0), b.pull(1.0)
    assert pa.theta.dtype == pa.jumps[0][1].dtype == np.float32
    np.testing.assert_allclose(pa.theta, pb.theta, rtol=0, atol=2e-2 * np.abs(pb.theta).max())


def test_a_users_field_gets_the_same_and_calls_are_counted():
    mlp, counts = field_of(TANH), {"value": 0, "vjp": 0}

    def counted(name):
        def call(*arguments):
            counts[name] += 1
            return getattr(mlp, name)(*arguments)

        return call

    field = PythonField(counted("value"), mlp.n, mlp.n_params, vjp=counted("vjp"))
    for detach, step in ((("state", "k1"), "solver"), ((), "initial")):
        terms = []
        for f in (field, mlp):
            run = ao.solve(f, TANH.theta, TANH.y, (0.0, 2.0), rtol=1e-4, atol=1e-4, saveat=[0.8, 2.0])
            counts.update(value=0, vjp=0)
            terms.append(LocalError(1.0, detach=detach, step=step).evaluate(run, 0.4))
            evaluations = counts["value"]
            pulled = terms[-1].pull(1.0)
            if f is field:
                assert (evaluations, counts["vjp"]) == (terms[-1].evaluations, pulled.evaluations)
                assert pulled.evaluations == (6 if "k1" in detach else 7)
        a, b = (t.pull(1.0) for t in terms)
        assert terms[0].value == pytest.approx(terms[1].value, rel=1e-9)
        np.testing.assert_allclose(a.theta, b.theta, rtol=0, atol=1e-8 * np.abs(b.theta).max())


def test_pull_is_linear_and_repeatable():
    term = LocalError(1.0, detach=()).evaluate(solved(TANH), 0.4)
    one, three, zero, again = (term.pull(bar) for bar in (1.0, 3.0, 0.0, 1.0))
    for a, b in ((three.theta, one.theta), (three.jumps[0][1], one.jumps[0][1])):
        np.testing.assert_allclose(a, 3 * b, rtol=0, atol=1e-10 * np.abs(b).max())
    np.testing.assert_array_equal(again.theta, one.theta)
    assert not zero.theta.any() and not zero.jumps[0][1].any()


# --- arguments --------------------------------------------------------------------------------------------------------


def test_methods_without_the_estimate_are_refused():
    field = field_of(TANH)
    for name in ("RK4", "Euler"):
        with pytest.raises(InputError, match=f"error estimate, which {name} has not; use Tsit5"):
            LocalError(1.0).check(field, METHODS[name])
    for name in ("BS32", "Euler"):
        with pytest.raises(InputError, match=f"stiffness estimate, which {name} has not"):
            LocalError(1.0, estimate="stiffness").check(field, METHODS[name])
    for name in ADAPTIVE:
        LocalError(1.0).check(field, METHODS[name])


def test_wrong_choices_list_the_right_ones():
    for bad, message in (
        ({"sampling": "uniform"}, "sampling must be one of 'unbiased', 'biased'; got 'uniform'"),
        ({"estimate": "q"}, "estimate must be one of 'error', 'stiffness'"),
        ({"step": "own"}, "step must be one of 'solver', 'initial'"),
        ({"detach": ["k2"]}, "each of detach must be one of 'state', 'k1'; got 'k2'"),
        ({"weight": -1.0}, "at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            LocalError(**{"weight": 1.0, **bad})
    assert LocalError(1.0, detach="k1").detach == ("k1",)


def test_weight_is_a_schedule_and_config_is_json():
    penalty = LocalError(ao.Linear(1.0, 3.0, 4), "biased", estimate="stiffness", step="initial", detach=())
    assert [penalty.weight(k) for k in (0, 2, 9)] == [1.0, 2.0, 3.0]
    config = json.loads(json.dumps(penalty.config()))
    assert config["weight"] == {"kind": "Linear", "start": 1.0, "end": 3.0, "steps": 4}
    assert (config["penalty"], config["sampling"], config["estimate"], config["step"], config["detach"]) == (
        "LocalError", "biased", "stiffness", "initial", []
    )  # fmt: skip
    assert LocalError(1.0).config()["detach"] == ["state"] and "stiffness" in repr(penalty)
    assert (LocalError(1.0).name, penalty.name) == ("local_error", "local_stiffness")


def test_biased_sampling_needs_the_states():
    with pytest.raises(InputError, match="biased sampling"):
        LocalError(1.0, "biased").evaluate(solved(TANH, keep="none"), 0.5)
