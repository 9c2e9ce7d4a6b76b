"""Hidden coordinates: the same solve, whichever coordinates it is stepped in."""

import numpy as np
import pytest
from frozen import field_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import ADAPTIVE, METHODS, networks, seeds

import adaptode as ao
from adaptode.errors import InputError
from adaptode.fields.hidden import HiddenCoordinates, has_hidden, hidden_pays, hidden_size
from adaptode.products import Factors

LINEAR_ENDS = networks(outer=st.just("identity"), preactivation=st.just("identity")).filter(lambda network: len(network.sizes) > 2)
SPANS = st.sampled_from([(0.0, 1.0), (1.0, -0.5), (-0.3, 0.4)])
JUMPS = st.lists(st.sampled_from([0.0, 0.1, 0.37, 1.0]), max_size=3)
STRAIGHT = ("state", "hidden")


def both(network, span, method, dtype=np.float64, **options):
    """The same solve in both coordinates."""
    theta, y = network.theta.astype(dtype), network.y.astype(dtype)
    return [ao.solve(field_of(network), theta, y, span, method=method, coordinates=c, **options) for c in STRAIGHT]


def agree(found, expected, rtol):
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * (1 + np.abs(expected).max(initial=0.0)))


@settings(max_examples=60)
@given(LINEAR_ENDS, SPANS, st.sampled_from(METHODS))
def test_the_same_numbers_to_rounding_on_the_same_grid(network, span, method):
    h = 0.05 if method == "Euler" else 0.1
    a, b = both(network, span, method, first_step=h, max_step=h, rtol=1e3, atol=1e3, saveat=np.linspace(*span, 4), keep="stages")
    assume(a.success)
    np.testing.assert_array_equal(a.grid, b.grid)
    assert a.nfev == b.nfev and b.coordinates.shape == (len(network.y), hidden_size(b.field))
    for found, expected in ((b.y, a.y), (b.y1, a.y1), (b.states, a.states), (b.stages, a.stages), (b.sol(a.grid), a.sol(a.grid)), (b.sol(span[0]), a.y[0])):
        agree(found, expected, 1e-13)


@settings(max_examples=40)
@given(LINEAR_ENDS, SPANS, st.sampled_from(ADAPTIVE), st.sampled_from(["pi", "scipy", "torchdiffeq"]))
def test_the_same_attempts(network, span, method, controller):
    a, b = both(network, span, method, controller=controller, rtol=1e-5, atol=1e-6, saveat=np.linspace(*span, 3))
    assume(a.success)
    assert a.nfev == b.nfev and np.array_equal(a.steps.accepted, b.steps.accepted)
    np.testing.assert_allclose(b.grid, a.grid, rtol=0, atol=1e-5)  # an error of rounding size moves the first steps
    agree(b.y, a.y, 1e-9)
    large = a.steps.error > 1e-3  # above rounding
    np.testing.assert_allclose(b.steps.error[large], a.steps.error[large], rtol=1e-3)


@pytest.mark.parametrize("widths", [(3, 4), (9,)])
def test_errors_and_stiffness_are_those_of_the_state(widths):
    """Layers narrower and wider than the state, and a tolerance a component, so that a norm of the hidden state would be another."""
    field = ao.MLP((6, *widths, 6), time="every")
    theta, y = field.init(0, scale=2.0), np.random.default_rng(1).normal(size=(5, 6))
    theta += 0.3 * np.random.default_rng(2).normal(size=theta.size)
    for method in ("Tsit5", "Dopri5", "DOP853"):
        options = {"method": method, "rtol": np.logspace(-6, -3, 6), "atol": np.logspace(-3, -6, 6), "first_step": 0.1, "max_step": 0.1}
        a, b = (ao.solve(field, theta, y, (0.0, 1.0), coordinates=c, **options) for c in STRAIGHT)
        np.testing.assert_allclose(b.steps.error, a.steps.error, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(b.steps.stiffness[:-1], a.steps.stiffness[:-1], rtol=1e-6)  # the last step is as small as rounding


@settings(max_examples=25)
@given(LINEAR_ENDS, SPANS, st.sampled_from(["Tsit5", "BS32", "DOP853"]))
def test_float32(network, span, method):
    a, b = both(network, span, method, np.float32, rtol=1e-3, atol=1e-3, first_step=0.1, max_step=0.1)
    assume(a.success)
    assert b.y.dtype == b.y1.dtype == b.states.dtype == np.float32
    agree(b.y1, a.y1, 1e-4)


@given(LINEAR_ENDS, seeds)
def test_the_small_system_is_the_field(network, seed):
    """ŷ → x̂ Ŵ is f at the lifted state; its transpose, pulled through (3) and (4), is the field's."""
    field, rng = field_of(network), np.random.default_rng(seed)
    hidden = HiddenCoordinates(field, network.theta, network.y)
    bound = hidden.bind()
    a, size = rng.normal(size=np.prod(hidden.shape)), int(np.prod(hidden.shape))
    out, kept, again = np.empty(size), np.empty(bound.kept), np.empty(size)
    bound.value(network.t, a, bound.pack, out)
    bound.linearize(network.t, a, bound.pack, again, kept)
    np.testing.assert_array_equal(out, again)
    y = hidden.state(a)
    agree(hidden.direction(out), field.value(network.t, y, network.theta), 1e-13)

    w = rng.normal(size=y.shape)
    a_bar, inner_bar = np.zeros(size), np.zeros(hidden.n_params)
    bound.pullback(network.t, a, bound.pack, kept, hidden.pull_output(w), a_bar, inner_bar)
    y_bar, theta_bar = field.vjp(network.t, y, network.theta, w)
    agree(a_bar, hidden.pull_output(y_bar), 1e-12)
    y0_bar, got = hidden.pull(inner_bar, a[None], y_bar[None], bound)
    agree(y0_bar, 2 * y_bar, 1e-12)  # by way of z₀, and as an output's cotangent
    last = field.n_params - hidden_size(field) * field.n
    theta_bar[last:] = 2 * (a.reshape(hidden.shape).T @ y_bar).ravel()  # Ŵ: by way of M, and of the output
    agree(got, theta_bar, 1e-11)


def test_it_is_chosen_where_it_pays():
    assert hidden_pays(ao.MLP((784, 100, 784), time="every"), 7)
    assert not hidden_pays(ao.MLP((2, 64, 64, 2)), 7)
    y = np.ones((2, 50))
    wide = ao.MLP((50, 4, 50))
    assert ao.solve(wide, wide.init(0), y, (0.0, 1.0)).coordinates is not None
    assert ao.solve(wide, wide.init(0), y, (0.0, 1.0), coordinates="state").coordinates is None
    for field in (ao.MLP((50, 50)), ao.MLP((50, 4, 50), outer="tanh"), ao.MLP((50, 4, 50), preactivation="cube")):
        assert not has_hidden(field) and not hidden_pays(field, 7)
        assert ao.solve(field, field.init(0), y, (0.0, 0.1)).coordinates is None
        with pytest.raises(InputError, match='coordinates="hidden" needs an MLP with a hidden layer and a linear last one'):
            ao.solve(field, field.init(0), y, (0.0, 0.1), coordinates="hidden")
    with pytest.raises(InputError, match="coordinates must be .*; got 'best'"):
        ao.solve(wide, wide.init(0), y, (0.0, 1.0), coordinates="best")


def test_a_blow_up_ends_the_same():
    field = ao.MLP((30, 2, 30), activation="identity")
    theta, y = np.full(field.n_params, 10.0), np.ones((2, 30))
    a, b = (ao.solve(field, theta, y, (0.0, 10.0), coordinates=c) for c in STRAIGHT)
    assert a.status == b.status < 0 and b.message.partition(" t = ")[0] == a.message.partition(" t = ")[0]


def test_a_span_of_length_zero_and_no_states():
    field = ao.MLP((30, 2, 30))
    y = np.random.default_rng(0).normal(size=(2, 30))
    run = ao.solve(field, field.init(0), y, (1.0, 1.0), saveat=[1.0, 1.0])
    np.testing.assert_array_equal(run.y, [y, y])
    np.testing.assert_array_equal(run.sol(1.0), y)
    run = ao.solve(field, field.init(0), y, (0.0, 1.0), keep="none")
    assert run.coordinates is not None and run.states is None
    with pytest.raises(InputError, match="keep="):
        run.sol(0.5)


# --- gradients --------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(LINEAR_ENDS, SPANS, st.sampled_from(ADAPTIVE), seeds, JUMPS, st.sampled_from(["states", "stages", 2]))
def test_the_same_gradient(network, span, method, seed, jump, keep):
    h, rng = 0.1, np.random.default_rng(seed)
    options = {"first_step": h, "max_step": h, "rtol": 1e-4, "atol": 1e-4, "saveat": np.linspace(*span, 3), "controller": "torchdiffeq"}
    a, b = both(network, span, method, keep=keep, **options)
    assume(a.success and np.array_equal(a.grid, b.grid))
    m = a.grid.size - 1
    error = np.where(a.accepted("error") > 1e-3, rng.normal(size=m), 0.0)  # elsewhere it is rounding, which has no derivative
    jumps = [(span[0] + x * (span[1] - span[0]), rng.normal(size=network.y.shape)) for x in jump]
    bars = {"y_bar": rng.normal(size=a.y.shape), "jumps": jumps, "error_bar": error}
    one, other = (ao.adjoint.discrete(run, **bars) for run in (a, b))
    scale = 1 + max(np.abs(one.theta).max(), np.abs(one.y0).max())
    np.testing.assert_allclose(other.theta, one.theta, rtol=0, atol=1e-7 * scale)
    np.testing.assert_allclose(other.y0, one.y0, rtol=0, atol=1e-7 * scale)
    np.testing.assert_allclose([other.t0, other.t1], [one.t0, one.t1], rtol=0, atol=1e-7 * (scale + abs(one.t0) + abs(one.t1)))
    assert keep == "stages" or other.evaluations == one.evaluations

    plain = {key: bars[key] for key in ("y_bar", "jumps")}
    one, other = (ao.adjoint.discrete(run, **plain) for run in (a, b))
    agree(other.theta, one.theta, 1e-12)
    agree(other.y0, one.y0, 1e-12)
    agree(np.array([other.t0, other.t1]), np.array([one.t0, one.t1]), 1e-12)


@pytest.mark.parametrize("coordinates", STRAIGHT)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_cotangents_by_their_factors(coordinates, dtype):
    """Of outputs at, between and after each other; with ȳ₀ and without."""
    rng, field = np.random.default_rng(0), ao.MLP((30, 4, 30), time="every")
    theta, y = field.init(0, dtype=dtype), rng.normal(size=(70, 30)).astype(dtype)
    run = ao.solve(field, theta, y, (0.0, 1.0), rtol=1e-4, atol=1e-4, coordinates=coordinates)
    factors = [(t, Factors(rng.normal(size=(70, 3)), rng.normal(size=(3, 30)))) for t in (1.0, 0.4, 0.4)]
    whole = [(t, np.asarray(bar)) for t, bar in factors]
    expected, found = (ao.adjoint.discrete(run, jumps=jumps) for jumps in (whole, [factors[0], whole[1], factors[2]]))
    agree(found.theta, expected.theta, 1e-4 if dtype == np.float32 else 1e-13)
    agree(found.y0, expected.y0, 1e-4 if dtype == np.float32 else 1e-13)
    assert found.theta.dtype == found.y0.dtype == dtype
    less = ao.adjoint.discrete(run, jumps=[factors[0], whole[1], factors[2]], start=False)
    assert less.y0 is None and np.array_equal(less.theta, found.theta)
    with pytest.raises(InputError, match=r"t = 0.5\[0, 2\] is inf"):
        ao.adjoint.discrete(run, jumps=[(0.5, Factors(np.ones((70, 1)), np.where(np.arange(30) == 2, np.inf, 1.0)[None]))])
    with pytest.raises(InputError, match=r"must have shape \(70, 30\); got \(70, 29\)"):
        ao.adjoint.discrete(run, jumps=[(0.5, Factors(np.ones((70, 1)), np.ones((1, 29))))])


@pytest.mark.parametrize("coordinates", STRAIGHT)
def test_a_run_is_a_record(coordinates):
    """What happens to the caller's arrays after a solve does not change it."""
    field, y = ao.MLP((30, 4, 30)), np.random.default_rng(0).normal(size=(6, 30))
    theta = field.init(0)
    run = ao.solve(field, theta, y, (0.0, 1.0), coordinates=coordinates)
    before = run.states.copy(), ao.adjoint.discrete(run, run.y1)
    y += 1.0
    theta *= 2.0
    after = run.states, ao.adjoint.discrete(run, run.y1)
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1].theta, after[1].theta) and np.array_equal(before[1].y0, after[1].y0)


def test_the_end_is_the_state_of_the_last_norm():
    """Handed on, not lifted again; and kept from the next solve."""
    field, y = ao.MLP((300, 4, 300)), np.random.default_rng(0).normal(size=(200, 300))
    runs = [ao.solve(field, field.init(seed), y, (0.0, 1.0), coordinates="hidden") for seed in range(3)]
    ends = [run.y1.copy() for run in runs]
    for run, end in zip(runs, ends, strict=True):
        agree(end, run.states[-1], 1e-14)
        assert np.array_equal(run.y1, end) and not np.array_equal(end, y)


@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "DOP853"])
def test_the_same_gradient_of_error_and_stiffness_estimates(method):
    """Cotangents of each estimate alone, far from rounding."""
    field = ao.MLP((6, 3, 4, 6), time="every")
    theta, y = field.init(0, scale=3.0), np.random.default_rng(1).normal(size=(5, 6))
    theta += 0.3 * np.random.default_rng(2).normal(size=theta.size)
    options = {"method": method, "rtol": np.logspace(-3, 0, 6), "atol": np.logspace(0, -3, 6), "first_step": 0.25, "max_step": 0.25}
    a, b = (ao.solve(field, theta, y, (0.0, 1.0), coordinates=c, **options) for c in STRAIGHT)
    m = a.grid.size - 1
    assert np.array_equal(a.grid, b.grid) and m >= 4
    for which in ("error_bar", "stiffness_bar"):
        for n in range(3):
            one, other = (ao.adjoint.discrete(run, **{which: np.eye(m)[n]}) for run in (a, b))
            for name in ("theta", "y0"):
                expected = getattr(one, name)
                np.testing.assert_allclose(getattr(other, name), expected, rtol=0, atol=1e-7 * np.abs(expected).max(), err_msg=f"{which} {n} {name}")


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("estimate", ["error", "stiffness"])
@pytest.mark.parametrize("method", ["Tsit5", "DOP853"])
def test_the_same_objective_with_a_local_penalty(sampling, estimate, method):
    field = ao.MLP((6, 3, 4, 6), time="every")
    X, y = np.random.default_rng(1).normal(size=(5, 6)), np.arange(5) % 2
    results = []
    for coordinates in STRAIGHT:
        penalty = ao.LocalError(1e3, sampling, estimate=estimate, detach=())
        objective = ao.Objective(field, "binary_cross_entropy", head=ao.LinearHead(6, 1), penalties=[penalty], method=method, coordinates=coordinates)
        params = objective.init(0) * 3.0
        results.append(objective.value_and_grad(params, X, y, rng=np.random.default_rng(4)))
    a, b = results
    assert a.nfe_forward == b.nfe_forward and a.nfe_backward == b.nfe_backward
    np.testing.assert_allclose(b.loss, a.loss, rtol=1e-6)
    np.testing.assert_allclose(b.grad, a.grad, rtol=0, atol=1e-6 * np.abs(a.grad).max())


@pytest.mark.parametrize("keep", ["states", 3])
def test_a_gradient_that_is_not_finite_is_blamed_in_the_fields_own_names(keep):
    field = ao.MLP((20, 2, 20))
    theta, y = field.init(0), np.random.default_rng(0).normal(size=(3, 20))
    run = ao.solve(field, theta, y, (0.0, 1.0), keep=keep, first_step=0.05, max_step=0.05)
    assert run.coordinates is not None
    huge = np.full(y.shape, 1e308)
    with pytest.raises(ao.AdaptodeError, match="the gradient is NaN or infinite.* in step"):
        ao.adjoint.discrete(run, huge)
