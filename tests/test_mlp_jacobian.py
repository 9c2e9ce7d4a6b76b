"""The transpose of the MLP's Jacobian, and ‖J‖_F with and without J, against the referee and against each other."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from frozen import draw_like, field_of, frobenius, naive_jacobian
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import SMOOTH, Network, networks, seeds

from adaptode.checks import taylor_test
from adaptode.errors import InputError, MissingDerivativeError
from adaptode.fields import MLP, Field, PythonField
from adaptode.fields.mlp_frobenius import frobenius_without_jacobian
from adaptode.regularize import JacobianFrobenius, JacobianNorm

ANY = st.sampled_from(SMOOTH)
all_networks = networks(activation=ANY, outer=ANY, preactivation=ANY)
inner_networks = networks(activation=ANY, outer=st.just("identity"), preactivation=st.just("identity"))


def without_J(field, t, y, theta):
    """The route that makes no Jacobian, all of whose samples must be vouched for; or None."""
    return frobenius_without_jacobian(field, t, y, theta, lambda some: pytest.fail("a Jacobian was made"))


def close(got, expected, rtol):
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * np.max(np.abs(expected), initial=1e-3))


@given(st.one_of(all_networks, inner_networks), seeds)
def test_transpose_of_the_jacobian_is_the_complex_step_of_the_form(network, seed):
    field, t, y, theta = field_of(network), network.t, network.y, network.theta
    J, transpose = field.jacobian_vjp(t, y, theta)
    (J_bar,) = draw_like(seed, J)
    assert np.array_equal(J, field.jacobian(t, y, theta))
    y_bar, theta_bar = transpose(J_bar)
    close(y_bar, naive.complex_gradient(lambda z: np.sum(J_bar * naive_jacobian(network, t, z, theta)), y), 1e-10)
    close(theta_bar, naive.complex_gradient(lambda p: np.sum(J_bar * naive_jacobian(network, t, y, p)), theta), 1e-10)


@pytest.mark.parametrize("dtype, bound", [(np.float64, 1e-12), (np.float32, 2e-4)])
@pytest.mark.parametrize(
    "sizes, batch", [((5, 5), 70), ((2, 40, 2), 300), ((3, 20, 33, 3), 100), ((5, 17, 8, 24, 5), 60), ((40, 9, 40), 20), ((300, 6, 7, 300), 2)]
)
@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_it_is_the_bilinear_form_in_every_direction(sizes, batch, activation, dtype, bound):
    """More samples than go through the layers at a time, layers that fill vectors and that do not."""
    field, rng = MLP(sizes, activation=activation, time="every"), np.random.default_rng(1)
    theta, y = field.init(rng, dtype=dtype), rng.normal(size=(batch, sizes[0])).astype(dtype)
    J, transpose = field.jacobian_vjp(0.4, y, theta)
    J_bar = rng.normal(size=J.shape).astype(dtype)
    kept = J_bar.copy()
    got = transpose(J_bar)
    u = np.broadcast_to(np.eye(sizes[0], dtype=dtype), J.shape)
    expected = field.bilinear_vjp(0.4, y, theta, u, J_bar.transpose(0, 2, 1))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        close(a, b, bound)
    assert np.array_equal(J_bar, kept)
    for a, b in zip(transpose(J_bar), got, strict=True):  # as often as it is asked
        assert np.array_equal(a, b)
    for a, b in zip(transpose(J_bar.transpose(0, 2, 1).copy().transpose(0, 2, 1)), got, strict=True):  # however J̄ lies in memory
        assert np.array_equal(a, b)


@given(inner_networks, seeds)
def test_its_taylor_remainder_vanishes_at_second_order(network, seed):
    field, t, y, theta = field_of(network), network.t, network.y, network.theta
    J, transpose = field.jacobian_vjp(t, y, theta)
    J_bar, y_dot, theta_dot = draw_like(seed, J, y, theta)
    y_bar, theta_bar = transpose(J_bar)
    result = taylor_test(
        lambda x: np.sum(J_bar * field.jacobian(t, x[: y.size].reshape(y.shape), x[y.size :])),
        np.sum(y_bar * y_dot) + theta_bar @ theta_dot,
        np.concatenate([y.ravel(), theta]),
        np.concatenate([y_dot.ravel(), theta_dot]),
        steps=(1e-4, 5e-5, 2.5e-5),
    )
    assert result.slope > 1.5


def test_a_jacobian_of_another_shape_is_refused():
    field = MLP((3, 4, 3))
    _, transpose = field.jacobian_vjp(0.0, np.ones((2, 3)), field.init(0))
    with pytest.raises(InputError, match=r"J_bar must have the shape of J, \(2, 3, 3\); got \(2, 3\)"):
        transpose(np.ones((2, 3)))


def test_a_field_without_second_derivatives_says_so():
    rough = MLP((3, 4, 3), activation="relu")
    for method in (rough.jacobian_vjp, rough.frobenius):
        with pytest.raises(MissingDerivativeError, match="relu"):
            method(0.0, np.ones((2, 3)), rough.init(0))
    assert MLP((3, 4, 3)).has("frobenius") and not rough.has("frobenius") and not rough.has("jacobian_vjp") and rough.has("jacobian")
    assert not PythonField(lambda t, y, theta: y, 3).has("jacobian_vjp")
    with pytest.raises(MissingDerivativeError, match="no `jacobian`"):
        PythonField(lambda t, y, theta: y, 3).jacobian_vjp(0.0, np.ones((2, 3)), [])


# --- ‖J‖_F without J ---------------------------------------------------------------------------------------------------------


@given(
    st.integers(3, 5), st.integers(1, 3), st.integers(2, 6), ANY, st.sampled_from(("none", "first", "every")), seeds
)
def test_norm_without_the_jacobian_is_the_referees(n, h, batch, activation, time, seed):
    rng, field = np.random.default_rng(seed), MLP((n, h, n), activation=activation, time=time)
    theta, y, bar = rng.normal(size=field.n_params), rng.normal(size=(batch, n)), rng.normal(size=batch)

    def norms(z, p):
        return frobenius(naive.jacobian(lambda t, x: naive.mlp(t, x, p, field.sizes, activation, time), 0.4, z))

    found = frobenius_without_jacobian(field, 0.4, y, theta, lambda some: Field.frobenius(field, 0.4, some, theta))
    with_J, transpose_of_J = Field.frobenius(field, 0.4, y, theta)
    close(with_J, norms(y, theta), 1e-11)
    assume(found is not None and with_J.min() > 1e-3)
    close(found[0], with_J, 1e-10)
    for a, b in zip(found[1](bar), transpose_of_J(bar), strict=True):
        close(a, b, 1e-9)


@given(st.integers(3, 5), st.integers(1, 3), st.integers(2, 6), ANY, st.sampled_from(("none", "first", "every")), seeds)
def test_its_gradient_is_the_complex_step_and_its_taylor_remainder_vanishes_at_second_order(n, h, batch, activation, time, seed):
    rng, sizes = np.random.default_rng(seed), (n, h, n)
    field = MLP(sizes, activation=activation, time=time)
    theta, y = rng.normal(size=field.n_params), rng.normal(size=(batch, n))
    network = Network(sizes, activation, time, "identity", "identity", theta, y, 0.4)
    bar, y_dot, theta_dot = draw_like(seed, np.zeros(batch), y, theta)

    def route(z, p):
        return frobenius_without_jacobian(field, 0.4, z, p, lambda some: Field.frobenius(field, 0.4, some, p))

    found = route(y, theta)
    assume(found is not None and found[0].min() > 1e-3)
    y_bar, theta_bar = found[1](bar)
    close(y_bar, naive.complex_gradient(lambda z: np.sum(bar * frobenius(naive_jacobian(network, 0.4, z, theta))), y), 1e-8)
    close(theta_bar, naive.complex_gradient(lambda p: np.sum(bar * frobenius(naive_jacobian(network, 0.4, y, p))), theta), 1e-8)
    along = naive_jacobian(network, 0.4, y + 1e-30j * y_dot, theta + 1e-30j * theta_dot)  # and the dot test: <bar, dφ> = <its transpose, direction>
    forward, back = np.sum(bar * np.imag(frobenius(along)) / 1e-30), np.sum(y_bar * y_dot) + theta_bar @ theta_dot
    size = np.sum(np.abs(y_bar * y_dot)) + np.sum(np.abs(theta_bar * theta_dot)) + 1e-3
    assert abs(forward - back) < 1e-8 * size
    result = taylor_test(
        lambda x: np.sum(bar * route(x[: y.size].reshape(y.shape), x[y.size :])[0]),
        back,
        np.concatenate([y.ravel(), theta]),
        np.concatenate([y_dot.ravel(), theta_dot]),
        steps=(1e-5, 5e-6, 2.5e-6),
    )
    assert result.slope > 1.5


def test_it_is_used_where_it_is_less_work():
    rng = np.random.default_rng(0)
    for sizes, batch in [((32, 64, 32), 256), ((784, 100, 784), 16), ((2, 64, 2), 256), ((8, 16, 16, 8), 64), ((6, 6), 9)]:
        field = MLP(sizes)
        found = without_J(field, 0.0, rng.normal(size=(batch, sizes[0])), field.init(rng))
        assert (found is not None) == (len(sizes) == 3 and sizes[0] > 2), sizes
    for options in ({"outer": "tanh"}, {"preactivation": "cube"}):
        field = MLP((32, 64, 32), **options)
        assert without_J(field, 0.0, rng.normal(size=(256, 32)), field.init(rng)) is None
    field = MLP((20, 300, 20))  # fewer multiplications, more memory
    assert without_J(field, 0.0, rng.normal(size=(200, 20)), field.init(rng)) is None


def cancelling(part):
    """A network whose hidden units come in pairs that take each other away but for `part` of one."""
    field, rng = MLP((12, 8, 12)), np.random.default_rng(0)
    theta = np.zeros(field.n_params)
    views = field.views(theta)
    views["W1"][:, :4], views["b1"][:4] = rng.normal(size=(12, 4)), rng.normal(size=4)
    views["W1"][:, 4:], views["b1"][4:] = views["W1"][:, :4], views["b1"][:4]
    views["W2"][:4] = rng.normal(size=(4, 12))
    views["W2"][4:] = -views["W2"][:4] * (1.0 - part)
    return field, theta, rng.normal(size=(9, 12))


@pytest.mark.parametrize("part", [1e-1, 1e-3, 1e-7])
def test_where_its_sum_cancels_the_jacobian_is_made(part):
    field, theta, y = cancelling(part)
    by_J = Field.frobenius(field, 0.0, y, theta)
    assert (frobenius_without_jacobian(field, 0.0, y, theta, lambda some: by_J) is None) == (part < 1e-2)
    norms, transpose = field.frobenius(0.0, y, theta)
    expected = np.sqrt((field.jacobian(0.0, y, theta).astype(np.longdouble) ** 2).sum(axis=(1, 2)))
    np.testing.assert_allclose(norms, expected.astype(float), rtol=1e-12)
    assert all(np.isfinite(bar).all() for bar in transpose(np.ones(9)))


def test_where_the_jacobian_is_zero_the_gradient_is_zero():
    field, theta, y = cancelling(0.5)
    field.views(theta)["W2"][:] = 0.0
    norms, transpose = field.frobenius(0.0, y, theta)
    assert not norms.any() and not any(bar.any() for bar in transpose(np.ones(9)))


@pytest.mark.parametrize("scale", [1e-160, 1e120])
def test_weights_whose_squares_leave_the_range_of_floats(scale):
    field, theta, y = MLP((12, 8, 12), activation="identity"), *cancelling(0.1)[1:]
    field.views(theta)["W1"][:] *= scale
    norms, _ = field.frobenius(0.0, y, theta)
    unit, _ = MLP((12, 8, 12), activation="identity").frobenius(0.0, y, cancelling(0.1)[1])
    np.testing.assert_allclose(norms / scale, unit, rtol=1e-12)


def test_a_sample_that_is_not_a_number_spoils_its_own_value_alone():
    field, theta, y = cancelling(0.5)
    y[3, 2] = np.nan
    norms, _ = field.frobenius(0.0, y, theta)
    assert np.isnan(norms[3]) and np.isfinite(np.delete(norms, 3)).all()
    with pytest.raises(InputError, match=r"the cotangent must have shape \(9,\), not \(1,\)"):
        field.frobenius(0.0, y, theta)[1]([1.0])


def test_only_samples_whose_sum_cancels_take_the_jacobian():
    """Two units take each other away but for a millionth; a third, beside which that does not matter, is saturated for some samples."""
    field, rng = MLP((12, 3, 12)), np.random.default_rng(0)
    theta, y = np.zeros(field.n_params), rng.normal(size=(9, 12))
    views = field.views(theta)
    views["W1"][0, 0] = views["W1"][1, 1] = views["W1"][1, 2] = 1.0
    views["W2"][:2] = rng.normal(size=(2, 12))
    views["W2"][2] = -views["W2"][1] * (1.0 - 1e-6)
    y[[1, 4, 7], 0] = 60.0
    made = []

    def by_J(some):
        made.append(len(some))
        return Field.frobenius(field, 0.0, some, theta)

    norms, transpose = frobenius_without_jacobian(field, 0.0, y, theta, by_J)
    bar = np.linspace(-1.0, 1.0, 9)
    expected, transpose_of_J = Field.frobenius(field, 0.0, y, theta)
    assert made == [3]
    np.testing.assert_allclose(norms, expected, rtol=1e-11, atol=1e-300)
    for a, b in zip(transpose(bar), transpose_of_J(bar), strict=True):
        close(a, b, 1e-9)


def test_single_precision():
    field, theta, y = cancelling(0.5)
    wide, transpose = field.frobenius(0.0, y, theta)
    narrow, transpose32 = field.frobenius(0.0, y.astype(np.float32), theta.astype(np.float32))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, wide, rtol=1e-5)
    for a, b in zip(transpose32(np.ones(9, np.float32)), transpose(np.ones(9)), strict=True):
        assert a.dtype == np.float32
        close(a, b, 1e-4)


@pytest.mark.parametrize("penalty", [JacobianNorm("frobenius", 1.0), JacobianFrobenius(1.0, "exact")])
def test_penalties_of_a_wide_field_do_not_make_its_jacobian(penalty, monkeypatch):
    field, rng = MLP((784, 20, 784)), np.random.default_rng(0)
    monkeypatch.setattr(MLP, "jacobian_vjp", None)
    values, transpose, evaluations = penalty.pointwise(field, 0.0, rng.normal(size=(64, 784)), field.init(rng), 0.5)
    y_bar, theta_bar = transpose(np.ones(64))
    assert values.shape == (64,) and y_bar.shape == (64, 784) and theta_bar.shape == (field.n_params,) and evaluations == 0
