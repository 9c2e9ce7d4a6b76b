"""The MLP field: its value and every derivative against the referee, its parameters, its errors."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from frozen import draw_like, field_of, naive_jacobian, naive_jvp
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import HIDDEN, SMOOTH, TIMES, Network, activations, networks, parameters, seeds

from adaptode.activations import CODES
from adaptode.checks import complex_step, dot_test, taylor_test
from adaptode.errors import InputError, MissingDerivativeError
from adaptode.fields import MLP, mlp_kernels
from adaptode.fields.mlp_bilinear import mlp_bilinear

ANY = st.sampled_from(SMOOTH)
all_networks = networks(activation=ANY, outer=ANY, preactivation=ANY)


def close(got, expected, rtol=1e-12):
    """Equal to a relative error of the largest entry."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * np.max(np.abs(expected), initial=1e-3))


def directions(network, seed, count):
    """u and w of shape (B, n), or (B, count, n) where count > 0."""
    rng, (batch, n) = np.random.default_rng(seed), network.y.shape
    shape = (batch, count, n) if count else (batch, n)
    return rng.normal(size=shape), rng.normal(size=shape)


def bilinear_form(network, y, theta, u, w):
    """Sum of <w, J u> by the referee."""
    u, w = (x.reshape(len(x), -1, x.shape[-1]) for x in (u, w))
    return sum(np.sum(w[:, m] * naive_jvp(network, network.t, y, theta, u[:, m])) for m in range(u.shape[1]))


@given(all_networks)
def test_value_is_the_referees(network):
    got = field_of(network).value(network.t, network.y, network.theta)
    assert got.shape == network.y.shape and got.dtype == np.float64
    close(got, network.naive(network.t, network.y))


@given(all_networks, seeds)
def test_jvp_and_vjp_are_the_referees_complex_steps(network, seed):
    field, t, y, theta = field_of(network), network.t, network.y, network.theta
    y_dot, w, theta_dot = draw_like(seed, y, y, theta)
    along_y = complex_step(lambda z: network.naive(t, z), y, y_dot)
    close(naive_jvp(network, t, y, theta, y_dot), along_y, 1e-11)  # the referee's own two routes
    close(field.jvp(t, y, theta, y_dot), along_y, 1e-11)

    y_bar, theta_bar = field.vjp(t, y, theta, w)
    close(y_bar, naive.complex_gradient(lambda z: np.sum(w * network.naive(t, z)), y), 1e-11)
    along_theta = complex_step(lambda p: network.naive(t, y, p), theta, theta_dot)
    scale = np.sum(np.abs(theta_bar * theta_dot)) + np.sum(np.abs(w * along_theta)) + 1e-3
    assert abs(theta_bar @ theta_dot - np.sum(w * along_theta)) < 1e-11 * scale


@given(networks(), st.sampled_from(TIMES))
def test_every_entry_of_the_parameter_gradient(network, time):
    theta = parameters(1, network.sizes, time)
    network = network._replace(time=time, theta=theta)
    w = np.cos(np.arange(network.y.size)).reshape(network.y.shape)
    expected = naive.complex_gradient(lambda p: np.sum(w * network.naive(network.t, network.y, p)), theta)
    close(field_of(network).vjp(network.t, network.y, theta, w)[1], expected, 1e-11)


@given(all_networks, seeds)
def test_vjp_is_the_transpose_of_jvp(network, seed):
    field, t, y, theta = field_of(network), network.t, network.y, network.theta
    error = dot_test(
        lambda v: field.jvp(t, y, theta, v), lambda w: field.vjp(t, y, theta, w)[0], y.shape, y.shape, seed
    )
    assert error < 1e-13


@given(all_networks, seeds)
def test_time_vjp_is_the_complex_step_in_time(network, seed):
    field, t, y, theta = field_of(network), network.t, network.y, network.theta
    (w,) = draw_like(seed, y)
    along_t = complex_step(lambda s: network.naive(s, y), t, 1.0) if network.time != "none" else 0 * y
    got, scale = field.time_vjp(t, y, theta, w), np.sum(np.abs(w)) * np.max(np.abs(along_t))
    assert isinstance(got, float) and abs(got - np.sum(w * along_t)) <= 1e-11 * scale
    assert network.time != "none" or got == 0
    single = field.time_vjp(t, *(x.astype(np.float32) for x in (y, theta, w)))
    assert abs(single - got) <= 1e-4 * (scale + abs(got))


@given(all_networks)
def test_jacobian_is_the_referees(network):
    f = network.naive
    got = field_of(network).jacobian(network.t, network.y, network.theta)
    assert got.shape == (*network.y.shape, network.sizes[0]) and got.flags.c_contiguous
    close(got, naive.jacobian(f, network.t, network.y), 1e-11)
    close(got, naive_jacobian(network, network.t, network.y, network.theta), 1e-11)


@given(all_networks, seeds, st.integers(0, 3))
def test_bilinear_vjp_is_the_complex_step_of_the_form(network, seed, count):
    field, t, y, theta = field_of(network), network.t, network.y, network.theta
    u, w = directions(network, seed, count)
    y_bar, theta_bar = field.bilinear_vjp(t, y, theta, u, w)
    assert y_bar.shape == y.shape and theta_bar.shape == theta.shape
    by_y = naive.complex_gradient(lambda z: bilinear_form(network, z, theta, u, w), y)
    close(y_bar, by_y, 1e-10)
    by_theta = naive.complex_gradient(lambda p: bilinear_form(network, y, p, u, w), theta)
    close(theta_bar, by_theta, 1e-10)


@given(networks(), seeds)
def test_bilinear_of_many_directions_is_the_sum_of_its_parts(network, seed):
    field, arguments = field_of(network), (network.t, network.y, network.theta)
    u, w = directions(network, seed, 3)
    parts = [field.bilinear_vjp(*arguments, u[:, m], w[:, m]) for m in range(3)]
    whole = field.bilinear_vjp(*arguments, u, w)
    for k in range(2):
        close(whole[k], sum(part[k] for part in parts), 1e-11)


@given(networks(), seeds)
def test_taylor_remainders_vanish_at_second_order(network, seed):
    field, t, y, theta = field_of(network), network.t, network.y, network.theta
    w, y_dot, theta_dot = draw_like(seed, y, y, theta)
    y_bar, theta_bar = field.vjp(t, y, theta, w)
    x, direction = np.concatenate([y.ravel(), theta]), np.concatenate([y_dot.ravel(), theta_dot])
    result = taylor_test(
        lambda x: np.sum(w * field.value(t, x[: y.size].reshape(y.shape), x[y.size :])),
        np.sum(y_bar * y_dot) + theta_bar @ theta_dot,
        x,
        direction,
        steps=(1e-4, 5e-5, 2.5e-5),
    )
    # a third order remainder (a direction without curvature) is right too
    assert result.slope > 1.5


@given(networks(), seeds)
def test_float32_is_the_same_to_its_precision(network, seed):
    field, t = field_of(network), network.t
    y, theta = network.y.astype(np.float32), network.theta.astype(np.float32)
    wide = y.astype(float), theta.astype(float)
    u, w = (x.astype(np.float32) for x in directions(network, seed, 0))
    got = [field.value(t, y, theta), field.jvp(t, y, theta, u), field.jacobian(t, y, theta)]
    got += [*field.vjp(t, y, theta, w), *field.bilinear_vjp(t, y, theta, u, w)]
    assert {a.dtype for a in got} == {np.dtype(np.float32)}
    expected = [field.value(t, *wide), field.jvp(t, *wide, u), field.jacobian(t, *wide)]
    expected += [*field.vjp(t, *wide, w), *field.bilinear_vjp(t, *wide, u, w)]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1, np.max(np.abs(b))))


@given(networks(), st.booleans())
def test_linearize_with_an_empty_out_keeps_the_same(network, single):
    dtype = np.float32 if single else np.float64
    y, theta = network.y.astype(dtype), network.theta.astype(dtype)
    bound = field_of(network).bind(theta, len(y), dtype)
    out, kept, again = np.empty(y.size, dtype), np.full(bound.kept, 7, dtype), np.full(bound.kept, 7, dtype)
    bound.linearize(network.t, y.ravel(), bound.pack, out, kept)
    bound.linearize(network.t, y.ravel(), bound.pack, out[:0], again)
    np.testing.assert_array_equal(kept, again)
    value = np.empty_like(out)
    bound.value(network.t, y.ravel(), bound.pack, value)
    np.testing.assert_array_equal(out, value)


@given(networks(), seeds)
def test_pullback_adds(network, seed):
    y = network.y
    bound = field_of(network).bind(network.theta, len(y), float)
    w, y_bar, theta_bar = draw_like(seed, y.ravel(), y.ravel(), network.theta)
    kept, before = np.empty(bound.kept), (y_bar.copy(), theta_bar.copy())
    bound.linearize(network.t, y.ravel(), bound.pack, np.empty(y.size), kept)
    bound.pullback(network.t, y.ravel(), bound.pack, kept, w, y_bar, theta_bar)
    expected = field_of(network).vjp(network.t, y, network.theta, w.reshape(y.shape))
    for got, start, change in zip((y_bar, theta_bar), before, expected, strict=True):
        close(got - start, change.ravel(), 1e-11)


@settings(max_examples=15)
@given(all_networks, seeds)
def test_kernels_are_equal_as_plain_python(network, seed):
    t, y, theta = network.t, network.y.ravel(), network.theta
    field = field_of(network)
    u, w = (x.ravel() for x in directions(network, seed, 2))

    def by(run):
        bound = field.bind(theta, len(network.y), float)
        pack, kept, results = bound.pack, np.empty(bound.kept), [np.zeros(y.size) for _ in range(4)]
        value, out, y_bar, curved_y = results
        theta_bar, curved_theta, pushed = np.zeros(theta.size), np.zeros(theta.size), np.zeros(2 * y.size)
        run(mlp_kernels.mlp_value)(t, y, pack, value)
        run(mlp_kernels.mlp_linearize)(t, y, pack, out, kept)
        run(mlp_kernels.mlp_pullback)(t, y, pack, kept, w[: y.size].copy(), y_bar, theta_bar)
        run(mlp_kernels.mlp_pushforward)(pack, len(network.y), kept, 2, u, pushed)
        run(mlp_bilinear)(t, y, pack, 2, u, w, curved_y, curved_theta)
        return [*results, theta_bar, curved_theta, pushed, kept]

    compiled, plain = by(lambda k: k), by(lambda k: getattr(k, "py_func", k))
    for a, b in zip(compiled, plain, strict=True):
        close(a, b, 1e-12)


def test_a_bound_field_does_not_mix_calls():
    """Buffers are shared between the calls of one bound field; what is kept of one must survive the next."""
    network = Network(
        (2, 5, 2), "tanh", "every", "tanh", "sine", parameters(3, (2, 5, 2), "every"), np.ones((3, 2)), 0.3
    )
    field, other = field_of(network), -2 * network.y
    bound = field.bind(network.theta, 3, float)
    kept = [np.empty(bound.kept) for _ in range(2)]
    for y, k in zip((network.y, other), kept, strict=True):
        bound.linearize(0.3, y.ravel(), bound.pack, np.empty(6), k)
    for y, k in zip((network.y, other), kept, strict=True):
        y_bar, theta_bar = np.zeros(6), np.zeros(field.n_params)
        bound.pullback(0.3, y.ravel(), bound.pack, k, np.ones(6), y_bar, theta_bar)
        expected = field.vjp(0.3, y, network.theta, np.ones((3, 2)))
        np.testing.assert_array_equal(y_bar, expected[0].ravel())
        np.testing.assert_array_equal(theta_bar, expected[1])


# --- parameters -------------------------------------------------------------------------------------------------------


@given(networks())
def test_views_cover_theta_exactly_and_write_through(network):
    field, theta = field_of(network), np.zeros(network.theta.size)
    views = field.views(theta)
    for count, part in enumerate(views.values(), start=1):
        assert np.shares_memory(part, theta)
        part[...] += count
    assert theta.min() == 1 and theta.max() == len(views)  # each entry once
    assert [len(np.flatnonzero(theta == k + 1)) for k in range(len(views))] == [p.size for p in views.values()]
    names = field.views(network.theta)
    for k, (W, w_t, b) in enumerate(naive.layers(network.theta, network.sizes, network.time), start=1):
        np.testing.assert_array_equal(names[f"W{k}"], W)
        np.testing.assert_array_equal(names[f"b{k}"], b)
        if f"v{k}" in names:
            np.testing.assert_array_equal(names[f"v{k}"], w_t)
    assert field.n_params == naive.n_params(network.sizes, network.time)


VARIANCES = {
    "glorot_uniform": lambda m, k: 2 / (m + k),
    "glorot_normal": lambda m, k: 2 / (m + k),
    "he_normal": lambda m, k: 2 / m,
    "lecun_normal": lambda m, k: 1 / m,
}


@pytest.mark.parametrize("time", ["none", "first", "every"])
@pytest.mark.parametrize("scheme", VARIANCES)
def test_init_schemes_have_their_moments(scheme, time):
    field = MLP((60, 200, 60), time=time)
    views = field.views(field.init(0, scheme, scale=1.5))
    for k, (m, out) in enumerate([(60, 200), (200, 60)], start=1):
        inputs = m + (f"v{k}" in views)
        W, variance = views[f"W{k}"], 1.5**2 * VARIANCES[scheme](inputs, out)
        assert W.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / W.size))  # five standard deviations and more
        assert abs(W.mean()) < 5 * np.sqrt(variance / W.size)
        largest = np.abs(W).max() / np.sqrt(variance)
        assert largest <= np.sqrt(3) if scheme == "glorot_uniform" else largest > 3
        assert not views[f"b{k}"].any() and not (f"v{k}" in views and views[f"v{k}"].any())


def test_init_counts_the_time_as_an_input():
    without, seen = (MLP((1, 1), time=time).init(3, "lecun_normal") for time in ("none", "every"))
    assert seen[0] == pytest.approx(without[0] / np.sqrt(2), rel=1e-15)


def test_init_is_deterministic():
    field = MLP((3, 8, 3), time="first")
    same = [field.init(5), field.init(np.random.default_rng(5)), field.init(5, dtype=np.float64)]
    assert all(theta.tobytes() == same[0].tobytes() for theta in same)
    assert not np.array_equal(field.init(6), same[0])
    np.testing.assert_array_equal(field.init(5, scale=2.0), 2 * same[0])
    assert field.init(5, dtype=np.float32).dtype == np.float32
    assert not field.init(5, "zeros").any()
    for bad in ("a", -1, 0.5):
        with pytest.raises(InputError, match=f"rng must be a seed .*got {bad!r}"):
            field.init(bad)
    with pytest.raises(InputError, match="glorot_uniform"):
        field.init(0, "glorot")


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["activation", "outer", "preactivation"])
def test_relu_has_first_derivatives_and_refuses_second_ones_by_name(place):
    field = MLP((2, 3, 2), **{place: "relu"})
    y, theta = np.array([[0.4, -0.7], [0.6, 0.5], [-0.3, 0.9]]), parameters(1, (2, 3, 2))
    error = dot_test(lambda v: field.jvp(0, y, theta, v), lambda w: field.vjp(0, y, theta, w)[0], y.shape, y.shape, 0)
    assert error < 1e-14 and np.any(field.jacobian(0, y, theta))
    with pytest.raises(MissingDerivativeError, match=r"bilinear_vjp.*relu.*tanh") as caught:
        field.bilinear_vjp(0, y, theta, y, y)
    assert "relu" not in str(caught.value).split("use one of")[1]


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((3,), {}, "sizes"),
        ((3, 4), {}, "its ends equal"),
        ((3, 0, 3), {}, "positive"),
        ((3, 2.5, 3), {}, "positive integers"),
        ((2, 3, 2), {"time": "last"}, "'none', 'first', 'every'"),
        ((2, 3, 2), {"activation": "swish"}, "unknown activation 'swish'"),
        ((2, 3, 2), {"outer": None}, "unknown activation None"),
    ],
)
def test_nonsense_is_refused_at_construction(sizes, options, message):
    with pytest.raises(InputError, match=message):
        MLP(sizes, **options)


def test_wrong_shapes_are_named():
    field = MLP((2, 3, 2))
    y, theta, n = np.ones((4, 2)), np.ones(17), 17
    for bad in (np.ones(2), np.ones((4, 3)), np.ones((0, 2)), np.ones((1, 4, 2))):
        with pytest.raises(InputError, match=r"y must have shape \(batch, 2\)"):
            field.value(0, bad, theta)
    for bad in (np.ones(16), np.ones((1, 17)), np.ones(())):
        with pytest.raises(InputError, match=rf"theta must have shape \({n},\)"):
            field.value(0, y, bad)
        with pytest.raises(InputError, match=rf"theta must have shape \({n},\)"):
            field.views(bad)
    with pytest.raises(InputError, match="w must have the shape of y"):
        field.vjp(0, y, theta, np.ones((4, 1)))
    with pytest.raises(InputError, match="y_dot must have the shape of y"):
        field.jvp(0, y, theta, np.ones(2))
    for u, w in (
        (np.ones(2), np.ones(2)),
        (np.ones((4, 2)), np.ones((4, 1, 2))),
        (np.ones((3, 1, 2)), np.ones((3, 1, 2))),
        (1.0, 1.0),
    ):
        with pytest.raises(InputError, match=r"u and w must both have shape \(4, 2\) or \(4, M, 2\)"):
            field.bilinear_vjp(0, y, theta, u, w)
    for bad, name in ((y + 1j, "complex128"), (np.full((4, 2), "a"), "<U1")):
        with pytest.raises(InputError, match=f"y must be real numbers; got dtype {name}"):
            field.value(0, bad, theta)


@given(activations)
def test_repr_and_config_make_the_same_field(activation):
    field = MLP((2, 3, 2), activation=activation, time="first", outer="tanh", preactivation="cube")
    for other in (eval(repr(field)), MLP(**field.config())):
        assert other.config() == field.config() and other.meta.tobytes() == field.meta.tobytes()


def test_the_strategies_know_every_activation():
    assert set(SMOOTH) == set(CODES) - {"relu"} and set(HIDDEN) < set(SMOOTH)
