"""Forward sensitivities: the discrete adjoint's oracle, and matrices refereed by one complex step."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from frozen import draw_like, field_of, frozen
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import METHODS, Network, methods, networks, parameters, seeds

import adaptode as ao
from adaptode.adjoint import ADJOINTS, discrete, forward, sensitivities
from adaptode.errors import FieldError, InputError, SolveError
from adaptode.fields import MLP, PythonField
from adaptode.tableau import get_tableau

SPANS = st.sampled_from([(0.0, 1.0), (0.3, -0.9), (2.0, 0.5)])
SIZES = (2, 4, 2)
NETWORK = Network(SIZES, "tanh", "every", "identity", "identity", parameters(8, SIZES, "every"), np.array([[0.8, -0.4], [0.2, 1.1], [-1.0, 0.3]]), 0.0)


def solved(network, span, method="Tsit5", field=None, **options):
    options = {"rtol": 1e-4, "atol": 1e-4, **options} | ({} if get_tableau(method).adaptive else {"first_step": 0.17})
    return ao.solve(field or field_of(network), network.theta, network.y, span, method=method, **options)


def assert_close(a, b, rtol=1e-10):
    """Every part, to the size of the whole."""
    scale = max(np.abs(b.theta).max(initial=0.0), np.abs(b.y0).max())
    for name in ("y0", "theta"):
        assert getattr(a, name).shape == getattr(b, name).shape and getattr(a, name).dtype == getattr(b, name).dtype
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=rtol * scale)
    for name in ("t0", "t1"):
        if getattr(b, name) is None:
            assert getattr(a, name) is None
        else:
            assert abs(getattr(a, name) - getattr(b, name)) <= rtol * (scale + abs(getattr(b, name)))


@settings(max_examples=40)
@given(networks(max_batch=3), SPANS, methods, st.sampled_from(["pi", "torchdiffeq"]), seeds, st.lists(st.floats(0, 1), max_size=2), st.integers(0, 3))
def test_forward_is_the_discrete_adjoint(network, span, method, controller, seed, jumps, outputs):
    if not get_tableau(method).adaptive:
        controller = "scipy"
    times = np.linspace(*span, outputs + 1)[-outputs:] if outputs else None
    run = solved(network, span, method, controller=controller, saveat=times, max_steps=200)
    assume(run.success and run.grid.size < 30)
    rng = np.random.default_rng(seed)
    jumps = [(span[0] + x * (span[1] - span[0]), rng.normal(size=network.y.shape)) for x in jumps]
    (bar,) = draw_like(seed, run.y)
    assert_close(forward(run, bar, jumps=jumps), discrete(run, bar, jumps=jumps))


@pytest.mark.parametrize("method", METHODS)
def test_matrices_are_the_referees_complex_steps(method):
    run = solved(NETWORK, (0.0, 1.3), method)
    got = sensitivities(run)
    batch, n = NETWORK.y.shape
    assert got.y0.shape == (batch, n, n) and got.theta.shape == (batch, n, NETWORK.theta.size)

    def end(y, theta):
        return frozen(run, lambda t, y: NETWORK.naive(t, y, theta), y).y[-1]

    for j in range(n):
        move = 1e-30j * np.eye(n)[j]
        np.testing.assert_allclose(got.y0[:, :, j], end(NETWORK.y + move, NETWORK.theta).imag / 1e-30, rtol=1e-10, atol=1e-12)
    for p in range(NETWORK.theta.size):
        move = 1e-30j * np.eye(NETWORK.theta.size)[p]
        np.testing.assert_allclose(got.theta[:, :, p], end(NETWORK.y, NETWORK.theta + move).imag / 1e-30, rtol=1e-10, atol=1e-12)


def test_matrices_at_times():
    run = solved(NETWORK, (0.0, 1.3), saveat=[0.4, 1.3])
    at_end, several = sensitivities(run), sensitivities(run, [1.3, 0.0, 0.4, 0.4])
    one = sensitivities(run, 0.4)
    for end, more, single in zip(at_end, several, one, strict=True):
        assert more.shape == (4, *end.shape) and single.shape == end.shape
        np.testing.assert_array_equal(more[0], end)
        np.testing.assert_array_equal(more[2], more[3])
        np.testing.assert_array_equal(more[2], single)
    np.testing.assert_array_equal(several.y0[1], np.broadcast_to(np.eye(2), (3, 2, 2)))
    assert not several.theta[1].any() and not several.t0[1].any() and not several.t1[1].any()
    (bar,) = draw_like(0, run.y)
    expected = discrete(run, bar)
    theta = np.einsum("kbi,kbip->p", bar, several.theta[[2, 0]])
    np.testing.assert_allclose(theta, expected.theta, rtol=1e-10, atol=1e-12)


def fields():
    """The same linear field with fewer and fewer derivatives; A = [[θ0, θ1 t], [θ2, −1]]."""

    def matrix(t, theta):
        return np.array([[theta[0], theta[1] * t], [theta[2], -1.0]])

    def value(t, y, theta):
        return y @ matrix(t, theta).T

    def vjp(t, y, theta, w):
        return w @ matrix(t, theta), [np.sum(w[:, 0] * y[:, 0]), t * np.sum(w[:, 0] * y[:, 1]), np.sum(w[:, 1] * y[:, 0])]

    def jvp(t, y, theta, y_dot):
        return y_dot @ matrix(t, theta).T

    def jacobian(t, y, theta):
        return np.broadcast_to(matrix(t, theta), (len(y), 2, 2))

    def time_vjp(t, y, theta, w):
        return theta[1] * np.sum(w[:, 0] * y[:, 1])

    more = {"time_vjp": time_vjp, "jvp": jvp, "jacobian": jacobian}
    return [PythonField(value, 2, 3, vjp=vjp, **dict(list(more.items())[:k])) for k in range(4)]


@pytest.mark.parametrize("which", range(4))
def test_fields_with_few_derivatives(which):
    field, theta = fields()[which], np.array([-0.5, 2.0, -1.5])
    run = ao.solve(field, theta, NETWORK.y, (0.0, 2.0), saveat=[0.7, 2.0], rtol=1e-5)
    (bar,) = draw_like(1, run.y)
    got = forward(run, bar)
    assert_close(got, discrete(run, bar))
    assert (got.t0 is None) == (which == 0)


@pytest.mark.parametrize("keep", ["none", 4, "stages"])
def test_whatever_the_run_kept(keep):
    (bar,) = draw_like(1, NETWORK.y)
    expected = forward(solved(NETWORK, (0.0, 1.0)), bar)
    got = forward(solved(NETWORK, (0.0, 1.0), keep=keep), bar)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_float32():
    single = NETWORK._replace(theta=NETWORK.theta.astype(np.float32), y=NETWORK.y.astype(np.float32))
    run = solved(single, (0.0, 1.0))
    (bar,) = draw_like(1, NETWORK.y)
    got = forward(run, bar)
    assert got.theta.dtype == got.y0.dtype == np.float32
    assert_close(got, discrete(run, bar), 1e-4)


def test_no_parameters_and_no_length():
    field = PythonField(lambda t, y, theta: -y * y, 1, vjp=lambda t, y, theta, w: (-2 * y * w, []))
    y = np.array([[1.0], [2.0]])
    run = ao.solve(field, [], y, (0.0, 1.0), rtol=1e-9, atol=1e-9)
    got = sensitivities(run)
    np.testing.assert_allclose(got.y0[:, 0, 0], 1 / (1 + y[:, 0]) ** 2, rtol=1e-7)  # y = y0 / (1 + y0 t)
    assert got.theta.shape == (2, 1, 0) and got.t0 is None
    run = ao.solve(field, [], y, (0.5, 0.5))
    np.testing.assert_array_equal(forward(run, y).y0, y)


def test_every_adjoint_has_a_name():
    assert list(ADJOINTS) == ["discrete", "backsolve", "interpolating", "quadrature", "forward"]
    run = solved(NETWORK, (0.0, 1.0), rtol=1e-9, atol=1e-9)
    (bar,) = draw_like(1, NETWORK.y)
    expected = discrete(run, bar)
    for adjoint in ADJOINTS.values():
        assert_close(adjoint(run, bar), expected, 1e-5)


def test_named_errors():
    run = solved(NETWORK, (0.0, 1.0))
    with pytest.raises(InputError, match="forward needs a cotangent"):
        forward(run)
    with pytest.raises(InputError, match="y_bar must have the shape"):
        forward(run, np.ones(3))
    with pytest.raises(InputError, match="outside the solved span"):
        sensitivities(run, 2.0)
    with pytest.raises(InputError, match="starts with the run"):
        sensitivities(NETWORK)
    failed = ao.solve(MLP((1, 1), preactivation="cube"), [1.0, 0.0], [[2.0]], (0.0, 1.0))
    with pytest.raises(SolveError):
        forward(failed, [[1.0]])
    mean = PythonField(lambda t, y, theta: y - y.mean(axis=0), 2, vjp=lambda t, y, theta, w: (w - w.mean(axis=0), []))
    with pytest.raises(FieldError, match="one sample see another"):
        forward(ao.solve(mean, [], NETWORK.y, (0.0, 1.0)), NETWORK.y)


def test_the_referee_is_another_route():
    """Against a Taylor series of the flow: y' = A y, dy/dA along E by the block exponential."""
    from scipy.linalg import expm

    field, (A, E) = MLP((2, 2)), np.random.default_rng(0).normal(size=(2, 2, 2))
    theta = np.concatenate([A.ravel(), np.zeros(2)])
    run = ao.solve(field, theta, NETWORK.y, (0.0, 1.0), rtol=1e-11, atol=1e-11)
    block = expm(np.block([[A, E], [np.zeros((2, 2)), A]]))[:2, 2:]
    got = sensitivities(run).theta[:, :, :4] @ E.ravel()
    np.testing.assert_allclose(got, NETWORK.y @ block, rtol=1e-7, atol=1e-8)
    assert naive.n_params((2, 2)) == theta.size
