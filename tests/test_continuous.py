"""The continuous adjoints: against closed forms of linear flows, and against the discrete adjoint as the tolerance shrinks."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numba
import numpy as np
import pytest
from frozen import draw_like, field_of
from hypothesis import assume, given, settings
from scipy.linalg import expm, expm_frechet
from strategies import ADAPTIVE, Network, networks, parameters, seeds

import adaptode as ao
from adaptode.adjoint import backsolve, discrete, interpolating, quadrature
from adaptode.adjoint.continuous import _Homeward
from adaptode.adjoint.path import Path
from adaptode.checks import finite_difference
from adaptode.errors import InputError, MissingDerivativeError, SolveError
from adaptode.norms import scaled_rms

ADJOINTS = [backsolve, interpolating, quadrature]
READERS = [interpolating, quadrature]
each_adjoint = pytest.mark.parametrize("adjoint", ADJOINTS, ids=lambda a: a.__name__)
each_reader = pytest.mark.parametrize("adjoint", READERS, ids=lambda a: a.__name__)
SPANS = [(0.3, 1.5), (1.0, -0.4)]
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
TANH = Network(
    (2, 6, 2),
    "tanh",
    "every",
    "identity",
    "identity",
    parameters(8, (2, 6, 2), "every", 1.5),
    np.array([[0.8, -0.4], [0.2, 1.1], [-0.9, 0.3]]),
    0.0,
)
A = np.array([[-0.3, 1.4, 0.2], [-1.1, -0.5, 0.4], [0.6, 0.1, 0.3]])
Y0 = np.array([[1.0, -0.5, 0.3], [0.2, 0.9, -1.2]])


def linear_field(n=3):
    """y' = A y, the entries of A the parameters."""
    return ao.PythonField(
        lambda t, y, theta: y @ theta.reshape(n, n).T,
        n,
        n * n,
        vjp=lambda t, y, theta, w: (w @ theta.reshape(n, n), (w.T @ y).ravel()),
    )


def linear_gradient(span, outputs):
    """(y0_bar, theta_bar, t0_bar, t1_bar) of sum <bar, y(t)> over outputs [(t, bar)] of y' = A y from Y0, in closed form."""
    t0, t1 = span
    y0_bar, theta_bar, t0_bar, t1_bar = np.zeros_like(Y0), np.zeros_like(A), 0.0, 0.0
    for t, bar in outputs:
        back = bar @ expm((t - t0) * A)
        y0_bar += back
        theta_bar += (t - t0) * expm_frechet((t - t0) * A.T, bar.T @ Y0, compute_expm=False)
        if t != t0:
            t0_bar -= np.sum(back * (Y0 @ A.T))
        if t == t1:
            t1_bar += np.sum(bar * (Y0 @ expm((t - t0) * A).T @ A.T))
    return y0_bar, theta_bar.ravel(), t0_bar, t1_bar


def solved(network=TANH, span=(0.0, 1.5), **options):
    return ao.solve(field_of(network), network.theta, network.y, span, **{"rtol": 1e-6, "atol": 1e-6, **options})


def distance(a, b):
    """Of two gradients, relative to the second."""
    pairs = [(a.theta, b.theta), (a.y0, b.y0)]
    return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in pairs) / sum(np.sum(y**2) for _, y in pairs))


def same(a, b):
    """Bit for bit."""
    return a.y0.tobytes() == b.y0.tobytes() and a.theta.tobytes() == b.theta.tobytes() and a[2:4] == b[2:4]


# --- right ------------------------------------------------------------------------------------------------------------


@each_adjoint
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("fractions", [(1.0,), (0.0, 0.35, 0.35, 0.8, 1.0), (0.6,), (0.0,)])
def test_linear_flow_in_closed_form(adjoint, span, fractions):
    t0, t1 = span
    times = [t1 if x == 1 else t0 + x * (t1 - t0) for x in fractions]
    bars = np.random.default_rng(3).normal(size=(len(times), *Y0.shape))
    run = ao.solve(linear_field(), A.ravel(), Y0, span, **TIGHT, saveat=times)
    expected = linear_gradient(span, list(zip(times, bars, strict=True)))
    by_outputs, by_jumps = adjoint(run, bars), adjoint(run, jumps=list(zip(times, bars, strict=True))[::-1])
    for gradient in (by_outputs, by_jumps):
        for got, right in zip(gradient, expected, strict=False):
            np.testing.assert_allclose(got, right, rtol=1e-8, atol=1e-8)
    if times == [t1]:
        assert same(adjoint(run, bars[0]), by_outputs)


@each_adjoint
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_discrete_and_continuous_meet_as_the_tolerance_shrinks(adjoint, span, method):
    tolerances = 10.0 ** -np.arange(3, 9 if method == "BS32" else 10, 2)
    (bar,) = draw_like(1, np.empty((3, *TANH.y.shape)))
    errors = []
    for tol in tolerances:
        run = solved(span=span, method=method, rtol=tol, atol=tol, saveat=np.linspace(*span, 4)[1:])
        gradient, exact = adjoint(run, bar), discrete(run, bar)
        errors.append(distance(gradient, exact))
        np.testing.assert_allclose(gradient[2:4], exact[2:4], rtol=0, atol=300 * tol * np.linalg.norm(exact.y0))
    assert (np.array(errors) < 300 * tolerances).all()
    assert np.polyfit(np.log(tolerances), np.log(errors), 1)[0] > 0.75


@pytest.mark.filterwarnings("ignore::adaptode.adjoint.DriftWarning")  # Euler's steps are coarse
@each_adjoint
@pytest.mark.parametrize("method, order", [("RK4", 4), ("Euler", 1)])
def test_order_with_fixed_steps(adjoint, method, order):
    (bar,) = draw_like(2, TANH.y)
    exact = discrete(solved(**TIGHT, method="DOP853"), bar)
    errors = [distance(adjoint(solved(method=method, first_step=h), bar), exact) for h in (1.5 / 32, 1.5 / 64)]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.3


@settings(max_examples=25)
@given(networks(), seeds)
def test_any_network(network, seed):
    rng = np.random.default_rng(seed)
    t0, t1 = rng.uniform(-1, 1, 2)
    assume(abs(t1 - t0) > 1e-3)
    run = ao.solve(field_of(network), network.theta, network.y, (t0, t1), rtol=1e-8, atol=1e-8, saveat=[t0, 0.7 * t0 + 0.3 * t1])
    assume(run.success)
    bar, jump = draw_like(seed, run.y, network.y)
    exact = discrete(run, bar, jumps=[(t1, jump)])
    assume(np.abs(exact.y0).max() < 100 * np.abs(bar).max())
    for adjoint in ADJOINTS:
        gradient = adjoint(run, bar, jumps=[(t1, jump)])
        scale = np.linalg.norm(exact.theta) + np.linalg.norm(exact.y0)
        np.testing.assert_allclose(gradient.theta, exact.theta, rtol=0, atol=2e-5 * scale, err_msg=adjoint.__name__)
        np.testing.assert_allclose(gradient.y0, exact.y0, rtol=0, atol=2e-5 * scale, err_msg=adjoint.__name__)


@each_adjoint
@pytest.mark.parametrize("span", SPANS)
def test_ends_of_the_span_by_finite_differences(adjoint, span):
    """An output at t1 moves with it; the one inside stays, and the one at t0 is y0 itself."""
    bars = np.random.default_rng(5).normal(size=(3, *TANH.y.shape))
    inside = 0.4 * span[0] + 0.6 * span[1]

    def loss(ends):
        run = solved(span=tuple(ends), method="DOP853", rtol=1e-13, atol=1e-13, saveat=[ends[0], inside, ends[1]])
        return np.sum(bars * run.y)

    gradient = adjoint(solved(span=span, **TIGHT, saveat=[span[0], inside, span[1]]), bars)
    for got, direction in ((gradient.t0, [1.0, 0.0]), (gradient.t1, [0.0, 1.0])):
        expected, _ = finite_difference(loss, np.array(span), direction)
        assert abs(got - expected) < 1e-7 * (1 + abs(expected))


@each_adjoint
def test_float32(adjoint):
    network = TANH._replace(y=TANH.y.astype(np.float32), theta=TANH.theta.astype(np.float32))
    run = solved(network, rtol=1e-4, atol=1e-4, saveat=[0.5, 1.5])
    gradient = adjoint(run, np.ones_like(run.y))
    assert gradient.theta.dtype == gradient.y0.dtype == np.float32
    assert isinstance(gradient.t0, float) and isinstance(gradient.t1, float)
    assert distance(gradient, discrete(solved(**TIGHT, saveat=[0.5, 1.5]), np.ones(run.y.shape))) < 1e-3


@pytest.mark.slow
def test_compiled_fields():
    @numba.njit
    def value(t, y, theta, out):
        for i in range(y.size):
            out[i] = np.sin(theta[0] * y[i] + t) - theta[1] * y[i]

    @numba.njit
    def vjp(t, y, theta, w, y_bar, theta_bar):
        for i in range(y.size):
            c = np.cos(theta[0] * y[i] + t)
            y_bar[i] += w[i] * (c * theta[0] - theta[1])
            theta_bar[0] += w[i] * c * y[i]
            theta_bar[1] -= w[i] * y[i]

    (bar,) = draw_like(6, TANH.y)
    for dtype, tol in ((np.float64, 1e-9), (np.float32, 1e-4)):
        run = ao.solve(ao.CompiledField(value, 2, 2, vjp=vjp), [1.3, 0.7], TANH.y.astype(dtype), (0.0, 2.0), rtol=tol, atol=tol)
        exact = discrete(run, bar)
        for adjoint in ADJOINTS:
            gradient = adjoint(run, bar)
            assert gradient.theta.dtype == dtype and distance(gradient, exact) < 50 * tol


@each_adjoint
def test_steps_past_the_end_and_tolerances_of_each_component(adjoint):
    run = solved(controller="torchdiffeq", rtol=[1e-9, 1e-8], atol=[1e-8, 1e-9], saveat=[0.2, 1.5])
    assert run.grid[-1] > 1.5
    (bar,) = draw_like(4, run.y)
    assert distance(adjoint(run, bar), discrete(run, bar)) < 1e-6


@each_adjoint
def test_linear_in_the_cotangents(adjoint):
    run = solved(saveat=[0.4, 1.5])
    (bar,) = draw_like(7, run.y)
    one, small = adjoint(run, bar), adjoint(run, 2.0**-30 * bar)
    assert one.theta.tobytes() == (2.0**30 * small.theta).tobytes() and one.y0.tobytes() == (2.0**30 * small.y0).tobytes()
    assert one.evaluations == small.evaluations
    nothing = adjoint(run, 0 * bar)
    assert not nothing.theta.any() and not nothing.y0.any() and nothing.t0 == nothing.t1 == 0.0


@each_adjoint
def test_own_method_and_tolerances(adjoint):
    run, (bar,) = solved(**TIGHT), draw_like(8, TANH.y)
    exact = discrete(run, bar)
    loose, tight = adjoint(run, bar, rtol=1e-3, atol=1e-3, method="BS32"), adjoint(run, bar, method="DOP853", first_step=1e-3)
    assert 1e-6 < distance(loose, exact) < 1e-2 and distance(tight, exact) < 1e-8
    assert loose.evaluations < tight.evaluations


# --- the quadrature and the seminorm ------------------------------------------------------------------------------------


def forced(frequency=40.0):
    """y' = theta_0 cos(w t) + theta_1: a is constant, so the steps of a alone see nothing of the integrand."""
    return ao.PythonField(
        lambda t, y, theta: theta[0] * np.cos(frequency * t) + theta[1] + 0 * y,
        1,
        2,
        vjp=lambda t, y, theta, w: (0 * w, [np.sum(w) * np.cos(frequency * t), np.sum(w)]),
    )


def test_quadrature_sees_what_only_theta_does():
    run = ao.solve(forced(), [0.7, -0.2], [[1.0]], (0.0, 2.0), rtol=1e-8, atol=1e-8)
    exact = np.array([np.sin(80.0) / 40, 2.0])
    np.testing.assert_allclose(quadrature(run, [[1.0]]).theta, exact, rtol=0, atol=1e-8)
    np.testing.assert_allclose(interpolating(run, [[1.0]]).theta, exact, rtol=0, atol=1e-6)
    np.testing.assert_allclose(backsolve(run, [[1.0]], adjoint_norm="seminorm").theta, exact, rtol=0, atol=1e-6)
    blind = interpolating(run, [[1.0]], adjoint_norm="seminorm")  # what its docstring warns of
    assert abs(blind.theta[0] - exact[0]) > 1e-3 and blind.evaluations < 200


def test_nodes():
    """Each node is a pullback; with too few the error is the quadrature's and falls at the order of Gauss and Legendre."""
    run, (bar,) = solved(rtol=1e-5, atol=1e-5), draw_like(9, TANH.y)
    gradients = [quadrature(run, bar, nodes=g, rtol=1e-11, atol=1e-11) for g in (1, 2, 3, 12)]
    cost = np.diff([g.evaluations for g in gradients])
    assert cost[0] == cost[1] > 0 and cost[2] == 9 * cost[0]
    errors = [distance(g, gradients[-1]) for g in gradients[:3]]
    assert errors[0] > 20 * errors[1] > 400 * errors[2]
    assert quadrature(run, bar).evaluations == quadrature(run, bar, nodes=3).evaluations


def test_seminorm_leaves_theta_out_exactly():
    """The states' cotangent and the steps are those of the same field without parameters."""
    network, (bar,) = TANH, draw_like(10, TANH.y)
    full = field_of(network)
    bare = ao.PythonField(
        lambda t, y, _: full.value(t, y, network.theta), 2, 0, vjp=lambda t, y, _, w: (full.vjp(t, y, network.theta, w)[0], np.empty(0))
    )
    for tol in (1e-3, 1e-7):
        run, run_bare = solved(rtol=tol, atol=tol), ao.solve(bare, [], network.y, (0.0, 1.5), rtol=tol, atol=tol)
        for adjoint, more in ((backsolve, 2), (interpolating, 2)):
            counts = []
            for r, options in ((run, {"adjoint_norm": "seminorm"}), (run_bare, {})):
                seen = Counting(r.field)
                gradient = adjoint(seen.ran(r), bar, **options)
                counts.append((seen.pulls, gradient.y0))
            assert counts[0][0] == counts[1][0], more
            np.testing.assert_allclose(counts[0][1], counts[1][1], rtol=1e-11, atol=1e-13)


def test_seminorm_is_the_norm_over_the_rest():
    run = solved(rtol=[1e-3, 1e-5], atol=[1e-6, 1e-4])
    home = _Homeward("backsolve", run, TANH.y, None, None, None, None, None, 100)
    P, rng = home.n_params, np.random.default_rng(0)
    err, y0, y1 = rng.normal(size=(3, 2 * home.size + P))
    full, semi = home.tolerances("yat", False), home.tolerances("yat", True)
    rest = slice(None, -P)
    expected = scaled_rms(err[rest], y0[rest], y1[rest], full[0][rest], full[1][rest])
    assert scaled_rms(err, y0, y1, *semi) == pytest.approx(expected, rel=1e-14)
    assert scaled_rms(err, y0, y1, *full) != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("adjoint", [backsolve, interpolating])
def test_seminorm_takes_fewer_evaluations_where_theta_is_what_moves(adjoint):
    """At theta_1 = 0 states and cotangents decay, and only the integrand of theta_1 swings."""
    field = ao.PythonField(
        lambda t, y, theta: -theta[0] * y + theta[1] * np.cos(8 * t) * y,
        2,
        2,
        vjp=lambda t, y, theta, w: ((theta[1] * np.cos(8 * t) - theta[0]) * w, np.array([-1, np.cos(8 * t)]) * np.sum(w * y)),
    )
    run, (bar,) = ao.solve(field, [0.8, 0.0], TANH.y, (0.0, 3.0), rtol=1e-6, atol=1e-6), draw_like(11, TANH.y)
    full, semi = adjoint(run, bar), adjoint(run, bar, adjoint_norm="seminorm")
    assert semi.evaluations < 0.8 * full.evaluations
    exact = np.exp(-2.4) * np.sum(bar * TANH.y) * np.array([-3, np.sin(24) / 8])
    assert np.abs(full.theta - exact).max() < 1e-5 and np.abs(semi.theta - exact).max() < 1e-4
    assert np.abs(semi.y0 - np.exp(-2.4) * bar).max() < 1e-5


# --- backwards through the states ---------------------------------------------------------------------------------------


def decay(rate):
    return ao.PythonField(lambda t, y, theta: -theta[0] * y, 1, 1, vjp=lambda t, y, theta, w: (-theta[0] * w, [-np.sum(w * y)])), [rate]


def test_drift_grows_where_the_flow_contracts():
    drifts, errors = [], []
    for rate in (-2.0, 0.5, 5.0, 10.0, 15.0):
        run = ao.solve(*decay(rate), [[1.0]], (0.0, 1.0))
        lost = pytest.warns(ao.DriftWarning, match=r"miss the run's by \d+(\.\d+)? % .*interpolating") if rate == 15.0 else nullcontext()
        with lost:
            gradient = backsolve(run, [[1.0]])
        stable = interpolating(run, [[1.0]])
        drifts.append(gradient.drift)
        errors.append(abs(gradient.theta[0] * np.exp(rate) + 1))
        assert stable.drift is None and abs(stable.theta[0] + np.exp(-rate)) < 1e-5 * max(1, np.exp(-rate))
    assert (np.diff(drifts[1:]) > 0).all() and max(drifts[:2]) < 1 and drifts[-1] > 1e4
    assert errors[0] < 1e-5 and errors[-1] > 0.01


def test_saved_outputs_hold_the_drift_down():
    field, theta = decay(10.0)
    run = ao.solve(field, theta, [[1.0]], (0.0, 1.0), saveat=np.linspace(0, 1, 11), keep="none")
    last = np.zeros((11, 1, 1))
    last[-1] = 1.0
    held, free = backsolve(run, last), backsolve(run, [[1.0]])
    assert held.drift < 1e-2 * free.drift
    assert abs(held.theta[0] * np.exp(10) + 1) < 0.1 * abs(free.theta[0] * np.exp(10) + 1)


@each_reader
def test_outputs_without_a_cotangent_cost_nothing(adjoint):
    run = solved(saveat=np.linspace(0, 1.5, 8))
    bar = np.zeros_like(run.y)
    bar[-1] = 1.0
    assert same(adjoint(run, bar), adjoint(run, bar[-1]))


def test_backsolve_that_blows_up_says_what_to_do():
    field = ao.PythonField(lambda t, y, _: -40 * (y + y**3), 1, vjp=lambda t, y, _, w: (-40 * w * (1 + 3 * y * y), np.empty(0)))
    run = ao.solve(field, [], [[1.0]], (0.0, 1.0))
    with np.errstate(over="ignore", invalid="ignore"):
        with pytest.raises(SolveError, match=r"backsolve adjoint, from t = 1 to 0, failed: .* t = 0\.\d+.*interpolating.*discrete") as caught:
            backsolve(run, [[1.0]])
    assert caught.value.run is run
    assert np.isfinite(interpolating(run, [[1.0]]).y0).all()


@each_adjoint
def test_too_few_steps(adjoint):
    with pytest.raises(SolveError, match=rf"the {adjoint.__name__} adjoint, from t = 1.5 to 0, failed: max_steps = 2 attempts"):
        adjoint(solved(), TANH.y, max_steps=2)


# --- the states between the steps -----------------------------------------------------------------------------------------


class Counting:
    """A field that counts its values and pullbacks."""

    def __init__(self, field):
        self.values = self.pulls = 0
        self.inner = field
        self.field = ao.PythonField(self._value, field.n, field.n_params, vjp=self._vjp)

    def _value(self, t, y, theta):
        self.values += 1
        return self.inner.value(t, y, theta)

    def _vjp(self, t, y, theta, w):
        self.pulls += 1
        return self.inner.vjp(t, y, theta, w)

    def ran(self, run, **options):
        """The same solve with this field, nothing counted yet."""
        options = {"rtol": run.rtol, "atol": run.atol, "method": run.method, **options}
        again = ao.solve(self.field, run.theta, run.y0, run.tspan, saveat=run.t, **options)
        self.values = self.pulls = 0
        return again


@each_adjoint
@pytest.mark.parametrize("keep", ["states", "stages", 3, "none"])
@pytest.mark.parametrize("method", ["Tsit5", "DOP853", "RK4"])
def test_every_evaluation_is_counted(adjoint, keep, method):
    options = {"first_step": 0.1} if method == "RK4" else {}
    plain = solved(method=method, saveat=[0.3, 1.5], **options)
    more = {"checkpoints": 3} if keep == "none" and adjoint is not backsolve else {}
    counting = Counting(plain.field)
    run = counting.ran(plain, keep=keep, **options)
    gradient = adjoint(run, np.ones_like(run.y), **more)
    assert gradient.evaluations == counting.values + counting.pulls
    assert distance(gradient, adjoint(plain, np.ones_like(run.y))) < 1e-11


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("method", ["Tsit5", "DOP853"])
def test_path_is_the_dense_output_and_evaluates_each_step_once(span, method):
    run = solved(span=span, method=method, **TIGHT)
    bound = run.field.bind(run.theta, *TANH.y.shape[:1], np.float64)
    path = Path(run, bound)
    times = np.concatenate([np.linspace(span[1], span[0], 60), run.grid[::-1]])
    times = times[np.argsort(-times * np.sign(span[1] - span[0]), kind="stable")]
    for t, y in zip(times, run.sol(times), strict=True):
        out = np.empty(TANH.y.size)
        path(float(t), out)
        assert out.tobytes() == y.tobytes()
    assert path.evaluations == (run.grid.size - 1) * run.method.coefficients().c.size
    start, end = times[3], times[-4]
    inside = [t for t in run.grid[::-1] if min(start, end) < t < max(start, end)]
    assert list(path.breaks(start, end)) == inside and list(path.breaks(*span[::-1])) == run.grid[-2:0:-1].tolist()


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("method", ["Tsit5", "DOP853", "BS32"])
@pytest.mark.parametrize("keep, checkpoints", [(3, None), (1000, None), ("none", 1), ("none", 4), ("none", 1000)])
def test_path_from_checkpoints_is_the_same_to_the_bit(span, method, keep, checkpoints):
    options = {"span": span, "method": method, "rtol": 1e-6, "atol": 1e-6}
    run, states = solved(**options, keep=keep), solved(**options)
    path = Path(run, run.field.bind(run.theta, 3, np.float64), checkpoints)
    held = min(checkpoints or 1000, run.grid.size - 1) if keep == "none" else len(run.checkpoints.index) - 1
    assert len(path.index) == len(path.kept) == held + 1
    times, out = np.linspace(*span[::-1], 40), np.empty(TANH.y.size)
    for t, y in zip(times, states.sol(times), strict=True):
        path(float(t), out)
        assert out.tobytes() == y.tobytes()
    stages = (run.grid.size - 1) * run.method.coefficients().c.size
    assert stages <= path.evaluations < 3.5 * stages
    assert len(path._states_held) <= 2


@each_reader
@pytest.mark.parametrize("keep, checkpoints", [(1, None), (3, None), ("none", 1), ("none", 4)])
def test_without_all_states(adjoint, keep, checkpoints):
    kept, run = solved(saveat=[0.3, 1.0]), solved(saveat=[0.3, 1.0], keep=keep)
    (bar,) = draw_like(12, run.y)
    assert same(adjoint(run, bar, checkpoints=checkpoints), adjoint(kept, bar))
    bare = solved(keep="none")
    with pytest.raises(InputError, match=f'{adjoint.__name__} needs states .* keep="states".* checkpoints=k.* backsolve'):
        adjoint(bare, TANH.y)


# --- edges --------------------------------------------------------------------------------------------------------------


@each_adjoint
def test_a_span_of_length_zero(adjoint):
    run = solved(span=(0.5, 0.5), saveat=[0.5, 0.5])
    gradient = adjoint(run, np.stack([TANH.y, 2 * TANH.y]))
    np.testing.assert_allclose(gradient.y0, 3 * TANH.y)
    assert not gradient.theta.any() and gradient.t1 == -gradient.t0 != 0.0


@each_adjoint
def test_nothing_is_solved_where_nothing_depends(adjoint):
    counting = Counting(field_of(TANH))
    run = counting.ran(solved(saveat=[0.0, 1.5]))
    gradient = adjoint(run, jumps=[(0.0, TANH.y)])
    assert gradient.evaluations == 0 and gradient.y0.tobytes() == TANH.y.tobytes() and gradient.t0 == 0.0
    adjoint(run, jumps=[])
    assert counting.values + counting.pulls == 0


@each_adjoint
def test_inputs_left_alone_and_repeatable(adjoint):
    run, bar = solved(saveat=[0.5, 1.5]), np.ones((2, 3, 2))
    before = [x.copy() for x in (run.y, run.y0, run.states, run.theta, run.y1)]
    one = adjoint(run, bar.tolist(), jumps=iter([(0.2, np.ones((3, 2), int))]))
    two = adjoint(run, bar, jumps=[(0.2, np.ones((3, 2)))])
    assert same(one, two) and one.evaluations == two.evaluations
    for x, y in zip((run.y, run.y0, run.states, run.theta, run.y1), before, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (bar == 1).all()
    gradient = adjoint(run, bar)
    gradient.y0[:] = gradient.theta[:] = 0
    assert (run.y0 == before[1]).all() and (run.states == before[2]).all()


@each_adjoint
def test_exceptions_of_the_field_pass_through(adjoint):
    class Own(Exception):
        pass

    def vjp(t, y, theta, w):
        if t < 0.5:
            raise Own(f"at {t}")
        return -w, np.empty(0)

    run = ao.solve(ao.PythonField(lambda t, y, _: -y, 2, vjp=vjp), [], TANH.y, (0.0, 1.0))
    with pytest.raises(Own, match="at 0.4"):
        adjoint(run, TANH.y, rtol=1e-8, atol=1e-8)


@each_adjoint
def test_nothing_is_read_before_it_is_written(adjoint, monkeypatch):
    run = ao.solve(linear_field(2), [0.1, 1.0, -1.0, 0.2], TANH.y, (0.0, 1.0), saveat=[0.5, 1.0])
    expected = adjoint(run, np.ones_like(run.y))
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda *args, **options: np.full_like(empty(*args, **options), np.nan))
    got = adjoint(run, np.ones_like(run.y))
    assert same(got, expected) and np.isfinite(got.theta).all()


@each_adjoint
def test_bad_input(adjoint):
    name = adjoint.__name__
    run, bar = solved(), TANH.y
    refused = partial(pytest.raises, InputError)
    with refused(match=f"{name} needs a cotangent"):
        adjoint(run)
    with refused(match=rf"{name}\(run, y_bar\) starts with the run"):
        adjoint(bar)
    with refused(match="y_bar must have the shape"):
        adjoint(run, bar[:2])
    with refused(match=r"y_bar\[1, 0\] is nan"):
        adjoint(run, np.where(bar == 0.2, np.nan, bar))
    for t in (-0.1, 1.6, np.nan):
        with refused(match="outside the solved span"):
            adjoint(run, jumps=[(t, bar)])
    with refused(match="atol > 0"):
        adjoint(run, bar, atol=0.0)
    with refused(match="rtol must be finite and not negative"):
        adjoint(run, bar, rtol=-1e-3)
    with refused(match="unknown method"):
        adjoint(run, bar, method="Tsit6")
    with refused(match="RK4 has no error estimate"):
        adjoint(run, bar, method="RK4")
    with refused(match="max_steps must be a positive integer"):
        adjoint(run, bar, max_steps=0)
    with refused(match="first_step must be a positive number"):
        adjoint(run, bar, first_step=-1.0)
    if adjoint is not quadrature:
        with refused(match='adjoint_norm must be "full" or "seminorm"'):
            adjoint(run, bar, adjoint_norm="semi")
    if adjoint is quadrature:
        for nodes in (0, 2.5, True):
            with refused(match="nodes must be a positive integer"):
                adjoint(run, bar, nodes=nodes)
    if adjoint is not backsolve:
        for checkpoints in (0, -1, True, 1.5, "few"):
            with refused(match="checkpoints must be"):
                adjoint(run, bar, checkpoints=checkpoints)
    with pytest.raises(SolveError, match="max_steps"):
        adjoint(solved(max_steps=1), bar)
    with pytest.raises(MissingDerivativeError, match="vjp"):
        adjoint(ao.solve(ao.PythonField(lambda t, y, _: -y, 2), [], bar, (0.0, 1.0)), bar)
