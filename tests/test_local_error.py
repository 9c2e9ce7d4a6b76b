"""The local error penalty: which step it takes, its value, and its gradient with and without what it holds fixed."""

from __future__ import annotations

import copy
import json
from itertools import takewhile

import naive
import numpy as np
import pytest
from frozen import assert_directional, draw_like, field_of, frozen, local_penalty, states_at, step_size
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import chisquare
from strategies import ADAPTIVE, Network, adaptive_methods, networks, parameters, seeds

import adaptode as ao
from adaptode.adjoint import discrete
from adaptode.checks import taylor_test
from adaptode.errors import InputError
from adaptode.fields import MLP, PythonField
from adaptode.regularize import LocalError
from adaptode.reservoir import replacements
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
    return run.grid[drawn_index(run, variate)]


def drawn_index(run, variate):
    """Which accepted time the reservoir of a variate holds: the last replacement before the end."""
    return max((j for j in takewhile(lambda j: j < run.grid.size - 1, replacements(int(variate * 2**53)))), default=0)


def variate_of(run, index):
    """One that holds the accepted time of this index."""
    return next(v for v in (np.arange(1000) + 0.5) / 1000 if drawn_index(run, v) == index)


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


@settings(max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])  # where estimates are all rounding, or tie, there is no derivative
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
        term = LocalError(1.0, "biased").evaluate(run, variate_of(run, i + 1))
        assert term.value == pytest.approx(logged[i + 1] * h[i + 1], rel=1e-6)
    one = ao.solve(field_of(TANH), TANH.theta, TANH.y, (0.0, 0.1), first_step=0.1, rtol=1e-2, atol=1e-2)
    assert one.grid.size == 2  # no time between the ends: the single step itself
    assert LocalError(1.0, "biased").evaluate(one, 0.7).value == pytest.approx(one.steps.error[0] * 0.1, rel=1e-9)


@pytest.mark.parametrize("controller", ["pi", "torchdiffeq"])
def test_biased_draws_every_inner_time_equally_often(controller):
    run = solved(TANH, controller=controller)
    inner = run.grid[1:-1]
    penalty = LocalError(1.0, "biased", detach=())
    times = [penalty._points(run, v)[0][0] for v in np.random.default_rng(0).random(100 * inner.size)]
    counts = [np.count_nonzero(times == t) for t in inner]
    assert sum(counts) == len(times) and chisquare(counts).pvalue > 1e-3
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
    for sampling, variate, t in (("biased", variate_of(run, run.grid.size - 2), run.grid[-2]), ("unbiased", near, 2.0 - 1e-3)):
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
        np.testing.assert_allclose(a.theta, b.theta, rtol=0, atol=1e-6 * np.abs(b.theta).max())  # of an error that is 1e-7 of its terms


@pytest.mark.parametrize("coordinates", ["state", "hidden"])
def test_pull_is_linear_and_repeatable(coordinates):
    field, rng = MLP((3, 4, 3)), np.random.default_rng(0)
    run = ao.solve(field, field.init(0, scale=3.0), rng.normal(size=(5, 3)), (0.0, 1.0), coordinates=coordinates)
    term = LocalError(1.0, detach=()).evaluate(run, 0.4)
    one, three, zero, again = (term.pull(bar) for bar in (1.0, 3.0, 0.0, 1.0))
    for a, b in ((three.theta, one.theta), (three.jumps[0][1], one.jumps[0][1])):
        np.testing.assert_allclose(a, 3 * b, rtol=0, atol=1e-9 * np.abs(b).max())  # of an error that is 1e-7 of its terms
    np.testing.assert_array_equal(term.pull(4.0).theta, 4 * one.theta)  # which rounds nowhere
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
        ({"sampling": "uniform"}, "sampling must be one of 'unbiased', 'biased', 'saveat'; got 'uniform'"),
        ({"estimate": "q"}, "estimate must be one of 'error', 'stiffness'"),
        ({"step": "own"}, "step must be one of 'solver', 'initial'"),
        ({"detach": ["k2"]}, "each of detach must be one of 'state', 'k1', 'step'; got 'k2'"),
        ({"samples": 0}, "samples must be a whole number of at least 1; got 0"),
        ({"samples": True}, "samples must be"),
        ({"weight": -1.0}, "at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            LocalError(**{"weight": 1.0, **bad})
    assert LocalError(1.0, detach="k1").detach == ("k1",)
    assert LocalError(1.0, detach=("state", "step")).config() == LocalError(1.0).config()  # h is data, said or not


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


def test_biased_sampling_needs_the_states_or_a_reservoir():
    with pytest.raises(InputError, match="biased sampling"):
        LocalError(1.0, "biased").evaluate(solved(TANH, keep="none"), 0.5)
    for samples in (1, 3):
        penalty = LocalError(1.0, "biased", detach=(), samples=samples)
        bare = solved(TANH, keep="none", reservoirs=penalty.reservoirs(0.5))
        terms = [penalty.evaluate(run, 0.5) for run in (bare, solved(TANH))]
        assert terms[0].value == terms[1].value > 0
        pulled = [term.pull(1.0) for term in terms]
        np.testing.assert_array_equal(pulled[0].theta, pulled[1].theta)
        assert [t for t, _ in pulled[0].jumps] == [t for t, _ in pulled[1].jumps] and len(pulled[0].jumps) == samples


@pytest.mark.parametrize("coordinates", ["state", "hidden"])
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize(("estimate", "samples"), [("error", 1), ("error", 3), ("stiffness", 2)])
def test_biased_and_exact_is_the_solvers_own_step(method, estimate, samples, coordinates):
    """Without an evaluation of its own under the discrete adjoint, and the same as that step made again."""
    if estimate == "stiffness" and METHODS[method].stiffness_pair is None:
        return
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    options = {"method": method, "rtol": 1e-4, "atol": 1e-4, "tspan": (0.0, 2.0), "coordinates": coordinates}
    penalty = LocalError(0.7, "biased", estimate=estimate, samples=samples, detach=())
    objective = ao.Objective(MLP((3, 2, 3), time="every"), "mean_squared_error", penalties=[penalty], **options)
    params = objective.init(0) * 3.0
    for seed in range(3):
        own = objective.value_and_grad(params, X, y, rng=np.random.default_rng(seed), start=True)
        again = copy.copy(objective)
        again.penalties = (penalty,)
        other = again.value_and_grad(params, X, y, rng=np.random.default_rng(seed), start=True)
        assert own.nfe_forward < other.nfe_forward and own.nfe_backward < other.nfe_backward
        assert own.parts == pytest.approx(other.parts, rel=1e-9) and own.parts[penalty.name] > 0
        np.testing.assert_allclose(own.grad, other.grad, rtol=0, atol=1e-8 * np.abs(other.grad).max())
        np.testing.assert_allclose(own.start, other.start, rtol=0, atol=1e-8 * np.abs(other.start).max())


def test_the_last_step_is_made_again_where_it_passes_the_end():
    objective = ao.Objective(
        MLP((2, 5, 2)), "mean_squared_error", controller="torchdiffeq", penalties=[LocalError(1.0, "biased", detach=())], tspan=(0.0, 0.5), method="Tsit5"
    )
    X = np.ones((3, 2))
    run = objective.solve(objective.init(0), X)
    assert run.grid[-1] > 0.5
    drawn = objective.penalties[0].evaluate(run, variate_of(run, run.grid.size - 2))
    assert drawn.evaluations > 0 and drawn.value < run.accepted("error")[-1] * (run.grid[-1] - run.grid[-2])


# --- where t_r lies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["solver", "initial"])
@pytest.mark.parametrize("span", [(0.0, 2.0), (1.0, -1.0)])
def test_unbiased_sampling_is_unbiased(span, step):
    """The mean over many variates is the mean over time of E|h|, by fine quadrature between the accepted times."""
    run = solved(TANH, span)
    length = span[1] - span[0]

    def r(t, **options):
        return LocalError(1.0, step=step, **options).evaluate(run, (t - span[0]) / length).value

    exact = sum(quad(r, a, b, epsabs=1e-9, epsrel=1e-6, limit=200)[0] for a, b in zip(run.grid[:-1], run.grid[1:], strict=True)) / length
    for samples in (1, 4):
        drawn = np.array([LocalError(1.0, step=step, samples=samples).evaluate(run, v).value for v in np.random.default_rng(1).random(800 // samples)])
        error = drawn.std(ddof=1) / np.sqrt(drawn.size)
        assert abs(drawn.mean() - exact) < 4 * error and error < 0.1 * exact
        if samples == 1:
            spread = drawn.std()
    assert drawn.std() < spread / np.sqrt(samples)  # strata: less than the variance of independent points


def test_biased_sampling_has_the_mean_over_steps():
    run = solved(TANH)
    steps = (run.accepted("error") * np.abs(np.diff(run.grid)))[1:]  # of the steps that begin between the ends
    drawn = np.array([LocalError(1.0, "biased", samples=2).evaluate(run, v).value for v in np.random.default_rng(2).random(400)])
    assert abs(drawn.mean() - steps.mean()) < 4 * drawn.std() / 20


def test_samples_are_one_in_each_part_and_their_mean():
    run, k = solved(TANH), 5
    penalty = LocalError(1.0, samples=k, detach=())
    times = penalty.times(run.tspan, 0.3)
    assert [int(t / 2.0 * k) for t in times] == list(range(k)) and len({t % (2.0 / k) for t in times}) == k
    term, single = penalty.evaluate(run, 0.3), [LocalError(1.0, detach=()).evaluate(run, t / 2.0) for t in times]
    assert term.value == pytest.approx(np.mean([s.value for s in single]), rel=1e-9)
    assert term.evaluations == sum(s.evaluations for s in single)
    pulled, parts = term.pull(2.0), [s.pull(2.0 / k) for s in single]
    np.testing.assert_allclose(pulled.theta, sum(p.theta for p in parts), rtol=1e-8)
    assert [t for t, _ in pulled.jumps] == list(times) and pulled.evaluations == 7 * k


def test_saveat_draws_from_the_output_times_before_the_end():
    run = solved(TANH, saveat=[0.0, 0.3, 1.1, 2.0])
    drawn = [LocalError(1.0, "saveat", detach=()).evaluate(run, (i + 0.5) / 3) for i in range(3)]
    assert [term.pull(1.0).jumps[0][0] for term in drawn] == [0.0, 0.3, 1.1]
    for term, t in zip(drawn, (0.0, 0.3, 1.1), strict=True):
        assert term.value == pytest.approx(LocalError(1.0).evaluate(run, t / 2.0).value, rel=1e-9)
    assert LocalError(1.0, "saveat", samples=3).evaluate(run, 0.5).value == pytest.approx(np.mean([t.value for t in drawn]), rel=1e-12)
    for times in (None, [2.0]):
        with pytest.raises(InputError, match="before the end of the span, of which there is none"):
            LocalError(1.0, "saveat").evaluate(solved(TANH, saveat=times), 0.5)
    field = field_of(TANH)
    with pytest.raises(InputError, match="before the end of the span"):
        ao.Objective(field, "mean_squared_error", penalties=[LocalError(1.0, "saveat")])
    ao.Objective(field, "mean_squared_error", penalties=[LocalError(1.0, "saveat")], times=[0.5, 1.0])


def test_where_both_ends_of_the_step_are_as_large_the_scale_is_that_of_the_first():
    """y' = θ₁ g(t) + θ₂ with Σ b_i g = 0 over the one step and θ₂ = 0: |u₁| = |u₀| to the last bit, and the slopes on the two sides of θ₂ = 0 differ."""
    tab, h = METHODS["Tsit5"], 0.5
    powers = (tab.c * h) ** 5
    level = tab.b @ powers / tab.b.sum()
    g = dict(zip((tab.c * h).tolist(), (powers - level).tolist(), strict=True))

    def value(t, y, theta):
        return np.full_like(y, theta[0] * g[t] + theta[1])

    def vjp(t, y, theta, w):
        return np.zeros_like(y), w.sum() * np.array([g[t], 1.0])

    field, theta = PythonField(value, 1, 2, vjp=vjp), np.array([3.0, 0.0])

    def run(theta, y0):
        return ao.solve(field, theta, [[y0]], (0.0, h), rtol=1e-2, atol=1e-2, first_step=h)

    y0, penalty = next(y for y in np.linspace(1.0, 2.0, 50) if run(theta, y).y1 == y), LocalError(1.0, detach=())
    at = run(theta, y0)
    assert at.grid.size == 2
    term = penalty.evaluate(at, 0.0)
    pulled = term.pull(1.0)
    assert term.value > 1e-4 and pulled.theta[0] == pytest.approx(term.value / 3, rel=1e-9)  # E is linear in θ₁
    assert abs(pulled.theta[1]) < 1e-9 * pulled.theta[0]  # the constant cancels, since Σ e_i = 0, and the scale is held by u₀
    slopes = [(penalty.evaluate(run(theta + [0.0, d], y0), 0.0).value - term.value) / d for d in (-1e-4, 1e-4)]
    assert abs(slopes[0]) < 1e-6 * term.value and slopes[1] < -0.1 * term.value
