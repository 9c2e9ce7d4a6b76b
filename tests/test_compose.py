"""Fields made of fields: every derivative against the same composition of referees, and through solves, adjoints and penalties."""

from __future__ import annotations

import json
from typing import NamedTuple

import naive
import numba
import numpy as np
import pytest
from frozen import assert_directional, draw_like, frozen, naive_jvp
from paths import assert_solves
from strategies import Network, parameters

import adaptode as ao
from adaptode._jit import JIT_DISABLED
from adaptode.adjoint import discrete
from adaptode.checks import complex_step, dot_test, taylor_test
from adaptode.errors import InputError, MissingDerivativeError
from adaptode.fields import MLP, CompiledField, LinearField, PythonField, Scaled, Sum, TimeRescaled, augment
from adaptode.fields.series import expand

N, B = 2, 3
Y, T = np.random.default_rng(0).normal(size=(B, N)), 0.37


class Referee(NamedTuple):
    """f(t, y, theta) and its jvp by the formulas, on real and complex numbers, and the parameters of the library's field."""

    f: object
    jvp: object
    theta: np.ndarray


def network(seed, *hidden, **options):
    """An MLP and its referee."""
    net = Network((N, *hidden, N), **{"activation": "tanh", "time": "every", "outer": "identity", "preactivation": "identity"} | options, theta=None, y=Y, t=T)
    theta = parameters(seed, net.sizes, net.time)
    return MLP(net.sizes, **net.options), Referee(lambda t, y, p: net.naive(t, y, p), lambda t, y, p, v: naive_jvp(net, t, y, p, v), theta)


def linear():
    def jvp(t, y, p, v):
        return v @ p.reshape(N, N)

    return LinearField(N, bias=False), Referee(lambda t, y, p: jvp(t, y, p, y), jvp, np.array([0.3, -1.1, 0.8, -0.2]))


def forced():
    """A plain NumPy field: sin(t) y² + p."""

    def f(t, y, p):
        return np.sin(t) * y * y + p

    def jvp(t, y, p, v):
        return 2 * np.sin(t) * y * v

    given = {
        "vjp": lambda t, y, p, w: (2 * np.sin(t) * y * w, w.sum(0)),
        "jvp": jvp,
        "jacobian": lambda t, y, p: 2 * np.sin(t) * y[:, :, None] * np.eye(N),
        "bilinear_vjp": lambda t, y, p, u, w: (2 * np.sin(t) * (u * w).reshape(len(y), -1, N).sum(1), np.zeros(N)),
        "time_vjp": lambda t, y, p, w: np.sum(w * np.cos(t) * y * y),
    }
    return PythonField(f, N, N, **given), Referee(f, jvp, np.array([0.4, -0.6]))


def summed(*pairs):
    fields, parts = zip(*pairs, strict=True)
    ends = np.cumsum([0, *(part.theta.size for part in parts)])

    def split(p):
        return [p[a:b] for a, b in zip(ends, ends[1:], strict=False)]

    return Sum(*fields), Referee(
        lambda t, y, p: sum(part.f(t, y, q) for part, q in zip(parts, split(p), strict=True)),
        lambda t, y, p, v: sum(part.jvp(t, y, q, v) for part, q in zip(parts, split(p), strict=True)),
        np.concatenate([part.theta for part in parts]),
    )


def times(pair, c):
    field, part = pair
    return Scaled(field, c), Referee(lambda *a: c * part.f(*a), lambda *a: c * part.jvp(*a), part.theta)


def clocked(pair, scale, shift):
    field, part = pair
    return TimeRescaled(field, scale, shift), Referee(
        lambda t, *a: scale * part.f(shift + scale * t, *a), lambda t, *a: scale * part.jvp(shift + scale * t, *a), part.theta
    )


MADE = {
    "one": lambda: summed(network(1, 3)),
    "sum": lambda: summed(network(1, 3), linear(), network(2, 2, activation="gelu", time="first")),
    "scaled": lambda: times(network(3, 4, preactivation="sine", outer="tanh"), -1.7),
    "clock": lambda: clocked(network(4, 3, activation="sigmoid", time="first"), -0.6, 0.4),
    "nested": lambda: clocked(summed(times(summed(network(5, 3), linear()), 0.7), clocked(network(6, 2, activation="sine"), 1.3, -0.2)), 0.8, 0.1),
}
WITH_NUMPY = MADE | {
    "numpy": lambda: clocked(summed(times(forced(), -0.5), network(7, 3)), 1.4, 0.3),
}
each = pytest.mark.parametrize("kind", WITH_NUMPY)


def close(got, expected, rtol=1e-11):
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * max(1e-3, np.max(np.abs(expected))))


@each
def test_value_and_first_derivatives_are_the_referees(kind):
    field, referee = WITH_NUMPY[kind]()
    theta = referee.theta
    assert field.n_params == theta.size and field.n == N
    y_dot, w = draw_like(1, Y, Y)
    close(field.value(T, Y, theta), referee.f(T, Y, theta))
    close(field.jvp(T, Y, theta, y_dot), complex_step(lambda y: referee.f(T, y, theta), Y, y_dot))
    close(field.jacobian(T, Y, theta), naive.jacobian(lambda t, y: referee.f(t, y, theta), T, Y))
    y_bar, theta_bar = field.vjp(T, Y, theta, w)
    close(y_bar, naive.complex_gradient(lambda y: np.sum(w * referee.f(T, y, theta)), Y))
    close(theta_bar, naive.complex_gradient(lambda p: np.sum(w * referee.f(T, Y, p)), theta))
    assert field.time_vjp(T, Y, theta, w) == pytest.approx(np.sum(w * complex_step(lambda t: referee.f(t, Y, theta), T, 1.0)), rel=1e-11)
    assert dot_test(lambda v: field.jvp(T, Y, theta, v), lambda w: field.vjp(T, Y, theta, w)[0], Y.shape, Y.shape, 0) < 1e-14


@each
@pytest.mark.parametrize("count", [0, 2])
def test_the_second_derivative_is_the_referees(kind, count):
    field, referee = WITH_NUMPY[kind]()
    theta, shape = referee.theta, (B, count, N) if count else (B, N)
    u, w = np.random.default_rng(2).normal(size=(2, *shape))
    columns = [(u.reshape(B, -1, N)[:, m], w.reshape(B, -1, N)[:, m]) for m in range(max(count, 1))]

    def form(y, p):
        return sum(np.sum(b * referee.jvp(T, y, p, a)) for a, b in columns)

    y_bar, theta_bar = field.bilinear_vjp(T, Y, theta, u, w)
    close(y_bar, naive.complex_gradient(lambda y: form(y, theta), Y), 1e-10)
    close(theta_bar, naive.complex_gradient(lambda p: form(Y, p), theta), 1e-10)


@each
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_solve_and_adjoint_on_the_accepted_grid(kind, dtype):
    field, referee = WITH_NUMPY[kind]()
    theta = referee.theta.astype(dtype)
    single = dtype == np.float32
    run = ao.solve(field, theta, Y.astype(dtype), (0.1, 0.9), rtol=1e-4, atol=1e-4, saveat=[0.3, 0.9])
    y_bar, y_dot, theta_dot = draw_like(4, run.y, Y, theta)
    grad = discrete(run, y_bar.astype(dtype))
    assert run.y.dtype == grad.theta.dtype == dtype

    def loss(x):
        grid = frozen(run, lambda t, y: referee.f(t, y, x[Y.size :]), x[: Y.size].reshape(Y.shape))
        return np.sum(y_bar * naive.dense_on_grid(grid, run.method, run.t))

    expected = complex_step(loss, np.append(Y, theta), np.append(y_dot, theta_dot))
    got = np.vdot(grad.y0, y_dot) + grad.theta @ theta_dot
    assert_directional(got, expected, np.sum(np.abs(grad.theta)) + np.sum(np.abs(grad.y0)), 1e-4 if single else 1e-11)


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("kind", MADE)
def test_taylor_coefficients_and_their_transpose(kind, order):
    field, referee = MADE[kind]()
    path, cache = field.taylor(T, Y, referee.theta, order)
    assert_solves(lambda t, y: referee.f(t, y, referee.theta), T, path)
    bar, y_dot, theta_dot = draw_like(6, path, Y, referee.theta)
    y_bar, theta_bar = field.taylor_vjp(cache, bar)
    x, direction = np.append(Y, referee.theta), np.append(y_dot, theta_dot)
    expected = complex_step(
        lambda x: np.sum(bar * expand(lambda p: field.series(T, p, x[Y.size :]), x[: Y.size].reshape(Y.shape), order).path), x, direction
    )
    assert_directional(np.append(y_bar, theta_bar) @ direction, expected, np.abs(y_bar).sum() + np.abs(theta_bar).sum(), 1e-12)


def test_vjp_has_taylor_slope_two():
    field, referee = MADE["nested"]()
    theta = referee.theta
    w, y_dot, theta_dot = draw_like(5, Y, Y, theta)
    y_bar, theta_bar = field.vjp(T, Y, theta, w)
    result = taylor_test(
        lambda x: np.sum(w * field.value(T, x[: Y.size].reshape(Y.shape), x[Y.size :])),
        np.vdot(y_bar, y_dot) + theta_bar @ theta_dot,
        np.append(Y, theta),
        np.append(y_dot, theta_dot),
    )
    assert result.slope > 1.9


def wide(first, second):
    """The MLP whose hidden layer is that of both, and its parameters from theirs."""
    field = MLP((N, first.sizes[1] + second.sizes[1], N), time="every")

    def join(p, q):
        a, b, theta = first.views(p), second.views(q), np.zeros(field.n_params)
        both = field.views(theta)
        both["W2"][:] = np.vstack([a["W2"], b["W2"]])
        both["b2"][:], both["v2"][:] = a["b2"] + b["b2"], a["v2"] + b["v2"]
        for name in ("W1", "v1", "b1"):
            both[name][:] = np.concatenate([a[name], b[name]], axis=-1)
        return theta

    return field, join


def test_penalties_and_training_see_a_sum_as_the_wide_network_it_is():
    (first, a), (second, b) = network(8, 3), network(9, 2)
    field, join = wide(first, second)
    penalties = [ao.LocalError(1.0, detach=()), ao.LocalError(0.3, estimate="stiffness"), ao.JacobianNorm("frobenius", 0.1), ao.ConditionNumber(0.01)]
    theta = np.concatenate([a.theta, b.theta])
    made = []
    for f, p in ((Sum(first, second), theta), (field, join(a.theta, b.theta))):
        objective = ao.Objective(f, "mean_squared_error", penalties=penalties)
        made.append(objective.value_and_grad(p, Y, np.zeros((B, N)), rng=np.random.default_rng(3)))
    summed, whole = made
    assert summed.parts.keys() == whole.parts.keys() and summed.nfe_forward == whole.nfe_forward
    for name, value in whole.parts.items():
        assert summed.parts[name] == pytest.approx(value, rel=1e-8)
    expected = field.views(whole.grad)
    got = Sum(first, second).views(summed.grad)
    for name in ("W1", "v1", "b1"):
        close(np.concatenate([got[f"0.{name}"], got[f"1.{name}"]], axis=-1), expected[name], 1e-7)
    close(np.vstack([got["0.W2"], got["1.W2"]]), expected["W2"], 1e-7)
    close(got["0.b2"], expected["b2"], 1e-7)
    close(got["1.v2"], expected["v2"], 1e-7)


@pytest.mark.parametrize("scale", [2.5, -0.4])
def test_another_clock_gives_the_same_states(scale):
    field, referee = network(3, 5)
    other = TimeRescaled(field, scale, 0.7)
    tspan, times = (0.2, 1.5), np.array([0.5, 1.1])
    t0, t1 = other.span(tspan)
    assert (other.clock(t0), other.clock(t1)) == pytest.approx(tspan)
    options = {"rtol": 1e-7, "atol": 1e-7, "method": "Dopri5"}
    run = ao.solve(field, referee.theta, Y, tspan, saveat=times, first_step=0.1, **options)
    moved = ao.solve(other, referee.theta, Y, (t0, t1), saveat=(times - 0.7) / scale, first_step=0.1 / abs(scale), **options)
    close(other.clock(moved.grid), run.grid, 1e-9)
    close(moved.y, run.y, 1e-10)
    mine, its = discrete(moved, moved.y, jumps=[(t1, moved.y1)]), discrete(run, run.y, jumps=[(tspan[1], run.y1)])
    close(mine.theta, its.theta, 1e-8)
    assert (mine.t0, mine.t1) == pytest.approx((scale * its.t0, scale * its.t1), rel=1e-8)  # both fields know ∂f/∂t


def test_a_field_run_backwards_returns():
    field, referee = network(3, 5, time="none")
    there = ao.solve(field, referee.theta, Y, (0, 1), rtol=1e-10, atol=1e-10).y1
    close(ao.solve(Scaled(field, -1), referee.theta, there, (0, 1), rtol=1e-10, atol=1e-10).y1, Y, 1e-8)


@pytest.mark.slow
@pytest.mark.skipif(JIT_DISABLED, reason="compiled code")
def test_a_compiled_part():
    @numba.njit
    def value(t, y, theta, out):
        for i in range(y.size):
            out[i] = theta[0] * y[i] * y[i]

    @numba.njit
    def vjp(t, y, theta, w, y_bar, theta_bar):
        for i in range(y.size):
            y_bar[i] += 2 * theta[0] * y[i] * w[i]
            theta_bar[0] += y[i] * y[i] * w[i]

    square = CompiledField(value, N, 1, vjp=vjp)
    net, referee = network(2, 3)
    field, theta = Scaled(Sum(square, net), 0.5), np.append(-0.8, referee.theta)
    run = ao.solve(field, theta, Y, (0, 1))
    grad = discrete(run, np.ones((B, N)))

    def loss(p):
        return np.sum(frozen(run, lambda t, y: 0.5 * (p[0] * y * y + referee.f(t, y, p[1:])), Y).y[-1])

    close(grad.theta, naive.complex_gradient(loss, theta), 1e-10)
    with pytest.raises(MissingDerivativeError, match="has no `jacobian`"):
        field.require("jacobian")


def test_a_derivative_is_there_where_every_part_has_it():
    net, rough, plain = MLP((N, 3, N)), MLP((N, 3, N), activation="relu"), PythonField(lambda t, y, p: -y, N)
    assert Sum(net, LinearField(N))._has("bilinear_vjp") and not Sum(net, plain)._has("jacobian")
    Sum(net, LinearField(N)).require("jacobian", "bilinear_vjp")
    with pytest.raises(MissingDerivativeError, match="relu"):
        Scaled(Sum(net, rough), 2.0).require("jacobian", "bilinear_vjp")
    assert not Sum(net, plain).has("taylor") and not Scaled(rough, 2.0).has("taylor") and TimeRescaled(net, 2.0).has("taylor")
    for field in (Sum(net, plain), Scaled(rough, 2.0)):
        with pytest.raises(MissingDerivativeError, match="taylor"):
            field.taylor(0, Y, np.zeros(field.n_params), 2)
    with pytest.raises(MissingDerivativeError, match="JacobianNorm of MLP.*relu"):
        ao.Objective(Sum(net, Scaled(rough, 2.0)), "mean_squared_error", penalties=[ao.JacobianNorm("frobenius", 0.1)])
    with pytest.raises(MissingDerivativeError, match="PythonField.*`vjp`"):
        ao.Objective(Sum(net, plain), "mean_squared_error", penalties=[ao.JacobianNorm("frobenius", 0.1)])


def test_parameters_by_name_init_and_config():
    field = Sum(MLP((N, 3, N)), Scaled(LinearField(N), 2.0), PythonField(lambda t, y, p: -y, N), PythonField(lambda t, y, p: p, N, N))
    theta = np.zeros(field.n_params)
    parts = field.views(theta)
    assert list(parts) == ["0.W1", "0.b1", "0.W2", "0.b2", "1.A", "1.b", "3.theta"]
    for count, part in enumerate(parts.values(), start=1):
        part += count
    assert theta.min() == 1 and theta.max() == 7 and sum(part.size for part in parts.values()) == theta.size
    with pytest.raises(InputError, match=r"theta must have shape \(25,\)"):
        field.views(theta[1:])
    with pytest.raises(InputError, match="PythonField.*cannot initialise"):
        field.init(0)
    usable = TimeRescaled(Sum(MLP((N, 3, N)), LinearField(N)), 2.0, -1)
    theta = usable.init(5, scale=0.1, dtype=np.float32)
    assert theta.dtype == np.float32 and theta.shape == (usable.n_params,) and 0 < np.abs(theta).max() < 0.3
    np.testing.assert_array_equal(theta, usable.init(np.random.default_rng(5), scale=0.1, dtype=np.float32))
    config = json.loads(json.dumps(usable.config()))
    assert config["field"] == "TimeRescaled" and (config["scale"], config["shift"]) == (2.0, -1.0)
    assert [part.get("sizes", part.get("n")) for part in config["parts"][0]["parts"]] == [[N, 3, N], N]
    assert field.config()["parts"][3] == {"name": "the field", "n": N, "n_params": N}
    assert repr(usable).startswith("TimeRescaled(Sum(MLP((2, 3, 2)") and repr(usable).endswith("2.0, -1.0)")


def test_training_a_composition_through_checkpoints(tmp_path):
    objective = ao.Objective(Sum(MLP((N, 3, N)), LinearField(N)), "mean_squared_error")
    X, target = Y, -Y
    result = ao.fit(objective, X, target, epochs=3, rng=0, checkpoint=tmp_path, optimizer=ao.Adam(0.05))
    assert result.history.column("loss")[-1] < result.history.column("loss")[0]
    other = ao.Objective(Sum(MLP((N, 4, N)), LinearField(N)), "mean_squared_error")
    with pytest.raises(ao.CheckpointError, match="sizes was|parts was"):
        ao.fit(other, X, target, epochs=4, rng=0, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sum(), "no field"),
        (lambda: Sum(MLP((2, 2)), MLP((3, 3))), "one number of components; got 2, 3"),
        (lambda: Sum(MLP((2, 2)), np.sin), "made of fields; got .*PythonField"),
        (lambda: Scaled(MLP((2, 2)), float("nan")), "finite numbers; got nan"),
        (lambda: Scaled(MLP((2, 2)), "2"), "finite numbers; got '2'"),
        (lambda: Scaled(2.0, MLP((2, 2))), "made of fields; got 2.0"),
        (lambda: TimeRescaled(MLP((2, 2)), 0.0), "scale must not be 0"),
        (lambda: TimeRescaled(MLP((2, 2)), 1.0, np.inf), "finite numbers; got inf"),
    ],
)
def test_nonsense_is_refused_at_construction(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_augment_pads_with_zeros():
    padded = augment(Y, 3)
    np.testing.assert_array_equal(padded[:, :N], Y)
    assert padded.shape == (B, N + 3) and not padded[:, N:].any()
    assert augment(Y.astype(np.float32), 1).dtype == np.float32 and augment(Y, 0).shape == Y.shape
    for bad in (-1, 1.5, True, "2"):
        with pytest.raises(InputError, match="at least 0"):
            augment(Y, bad)
    with pytest.raises(InputError, match=r"\(B, n\)"):
        augment(Y[0], 1)
