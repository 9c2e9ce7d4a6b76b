"""One step against the referee's, and its transpose against complex steps through the referee."""

import naive
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import METHODS as NAMES
from strategies import methods, networks, seeds

from adaptode import step as module
from adaptode.fields import MLP, PythonField
from adaptode.norms import rms_rows
from adaptode.step import (
    add,
    bound_linearized_stages,
    bound_stages,
    bound_stages_vjp,
    combine,
    combine_vjp,
    estimate,
    finish,
    finish_vjp,
    is_zero,
    linearize,
    pullback,
    value,
)
from adaptode.tableau import METHODS

RTOL, ATOL = np.array([1e-2]), np.array([1e-3])


def plain(kernel):
    return getattr(kernel, "py_func", kernel)


def forward(network, tab, h, rows, dtype=np.float64, field=None, theta=None, plain_python=False):
    """(y1, err, q, S, Y, K) of one step by the library; Y keeps `rows` rows."""
    field = field or MLP(network.sizes, **network.options)
    y0 = network.y.astype(dtype).ravel()
    bound = field.bind(network.theta if theta is None else theta, network.y.shape[0], dtype)
    s, n = tab.b.size, y0.size
    Y, K = np.full((min(rows, s), n), 9.0, dtype), np.full((s, n), 9.0, dtype)
    y1, err = np.full(n, 9.0, dtype), np.full(tab.estimates * n, 9.0, dtype)
    coefficients = tab.coefficients(dtype)
    bound_stages(bound, coefficients, network.t, h, y0, 0, s, Y, K)
    end = plain(finish) if plain_python else finish
    q, S = end(coefficients, h, y0, K, Y, ATOL, RTOL, y1, err)
    return y1, err, q, S, Y, K


def amplified(tab):
    """How much more rounding twelve stages with weights up to 44 make than seven with weights up to 13."""
    return 100 if tab.order == 8 else 1


def rounding(truth, tab):
    """Relative noise of the step's estimates: sums that cancel to nearly nothing know fewer digits."""
    smallest = [1.0]
    if tab.adaptive:
        smallest += [naive.rms(row) for row in (truth.err if tab.e_low.size else [truth.err])]
    if tab.stiffness_pair is not None:
        i, j = tab.stiffness_pair
        smallest += [naive.rms(truth.Y[j] - truth.Y[i]), naive.rms(truth.K[j] - truth.K[i])]
    size = 1 + np.abs(truth.K).max() + np.abs(truth.Y).max()
    return 1e-14 * amplified(tab) * size / max(min(smallest), 1e-100)


steps = st.floats(0.2, 0.6).flatmap(lambda h: st.sampled_from([h, -h]))


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("kind", ["mlp", "python"])
@given(network=networks(), h=steps, all_rows=st.booleans())
def test_one_step_is_the_referees(method, kind, network, h, all_rows):
    tab = METHODS[method]
    rows = tab.stages if all_rows else tab.stages - tab.stiffness_pair[0] if tab.stiffness_pair else 2
    field = PythonField(lambda t, y, theta: network.naive(t, y), network.sizes[0]) if kind == "python" else None
    y1, err, q, S, Y, K = forward(network, tab, h, rows, field=field, theta=np.empty(0) if kind == "python" else None)
    truth = naive.step(network.naive, network.t, h, network.y, tab, RTOL[0], ATOL[0])
    close = {"rtol": 1e-12 * amplified(tab), "atol": 1e-13 * amplified(tab) * (1 + np.abs(truth.K).max())}
    np.testing.assert_allclose(K, np.reshape(truth.K, K.shape), **close)
    for i in range(tab.stages - Y.shape[0], tab.stages):
        np.testing.assert_allclose(Y[i % Y.shape[0]], truth.Y[i].ravel(), **close)
    np.testing.assert_allclose(y1, truth.y1.ravel(), **close)
    np.testing.assert_allclose(err, truth.err.ravel(), **close)
    assert q == pytest.approx(truth.q, rel=1e-9 * amplified(tab), abs=1e-10 * amplified(tab))
    if tab.stiffness_pair is None:
        assert np.isnan(S)
    elif (noise := rounding(truth, tab)) < 1e-2:
        assert S == pytest.approx(truth.stiffness, rel=noise)


@given(networks(), steps, methods)
def test_stages_resume_where_they_stopped(network, h, method):
    """From a given K₁, as with FSAL, or in two parts."""
    tab = METHODS[method]
    *_, K = forward(network, tab, h, tab.stages)
    bound = MLP(network.sizes, **network.options).bind(network.theta, network.y.shape[0], np.float64)
    again, Y = np.zeros_like(K), np.empty_like(K)
    again[0] = K[0]
    middle = max(1, tab.stages // 2)
    for first, last in ((1, middle), (middle, tab.stages)):
        bound_stages(bound, tab.coefficients(), network.t, h, network.y.ravel(), first, last, Y, again)
    np.testing.assert_array_equal(again, K)


@given(networks(), steps, methods)
def test_float32_is_float64_to_its_precision(network, h, method):
    tab = METHODS[method]
    wide, narrow = forward(network, tab, h, tab.stages), forward(network, tab, h, tab.stages, np.float32)
    scale = 1 + np.abs(wide[-1]).max()
    for a, b in zip((wide[0], wide[1], wide[5]), (narrow[0], narrow[1], narrow[5]), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5 * scale)


@given(networks(), steps, methods)
def test_the_end_of_a_step_as_plain_python(network, h, method):
    tab = METHODS[method]
    for a, b in zip(forward(network, tab, h, tab.stages), forward(network, tab, h, tab.stages, plain_python=True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13 * amplified(tab), atol=1e-15 * amplified(tab))


# --- the transpose ----------------------------------------------------------------------------------------------------------


def backward(network, tab, h, bars, dtype=np.float64, have_K=False, plain_python=False):
    """(y0_bar, theta_bar, pullbacks made) for cotangents (y1, err, q, S, K) of one step."""
    field, batch = MLP(network.sizes, **network.options), network.y.shape[0]
    bound = field.bind(network.theta, batch, dtype)
    y1_bar, err_bar, q_bar, S_bar, K_bar = (np.array(b, dtype) if np.ndim(b) else b for b in bars)
    y0, c = network.y.astype(dtype).ravel(), tab.coefficients(dtype)
    y1, err, _, _, Y, K = forward(network, tab, h, tab.stages, dtype)
    s, n = K.shape
    kept = np.empty((s, bound.kept), dtype)
    known = K.copy()
    calls = bound_linearized_stages(bound, c, network.t, h, y0, 0, s, Y, K if have_K else np.zeros_like(K), kept, have_K)
    assert calls == (0 if have_K and bound.kept == 0 else s)  # nothing to compute, nothing to count
    np.testing.assert_array_equal(K, known)
    y0_bar, theta_bar, pair, scratch = np.zeros(n, dtype), np.zeros(network.theta.size, dtype), np.zeros((2, n), dtype), np.empty(n, dtype)
    end = plain(finish_vjp) if plain_python else finish_vjp
    end(c, h, y0, y1, K, Y, err, ATOL, RTOL, y1_bar, q_bar, S_bar, err_bar, y0_bar, K_bar, pair)
    calls = bound_stages_vjp(bound, c, network.t, h, Y, kept, 1, pair, scratch, y0_bar, K_bar, theta_bar)
    bound.pullback(network.t, y0, bound.pack, kept[0], K_bar[0], y0_bar, theta_bar)
    return y0_bar.reshape(network.y.shape), theta_bar, calls


def cotangents(rng, network, tab):
    n = network.y.size
    S_bar = rng.normal() if tab.stiffness_pair else 0.0
    return rng.normal(size=n), rng.normal(size=tab.estimates * n), rng.normal(), S_bar, rng.normal(size=(tab.stages, n))


def well_posed(truth, tab, network):
    """Away from the kinks: errors and pairs that are not all rounding, and no tie of |y0| and |y1|."""
    return rounding(truth, tab) < 1e-4 and np.min(np.abs(np.abs(network.y) - np.abs(truth.y1))) > 1e-9


def derivative(network, tab, h, bars, d_y, d_theta):
    """Of the sum that `bars` are the cotangents of, along (d_y, d_theta), by a complex step through the referee."""
    y1_bar, err_bar, q_bar, S_bar, K_bar = bars
    eps = 1e-30j

    def f(t, y):
        return network.naive(t, y, network.theta + eps * d_theta)

    s = naive.step(f, network.t, h, network.y + eps * d_y, tab, RTOL[0], ATOL[0])
    total = np.sum(y1_bar * s.y1.ravel()) + S_bar * s.stiffness + np.sum(K_bar * np.reshape(s.K, K_bar.shape))
    if tab.adaptive:
        total = total + np.sum(err_bar * s.err.ravel()) + q_bar * s.q
    return np.imag(total) / 1e-30


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("only", ["y1", "err", "q", "S", "K", "all"])
@given(network=networks(), h=steps, seed=seeds)
def test_the_transpose_is_the_derivative(method, only, network, h, seed):
    tab, rng = METHODS[method], np.random.default_rng(seed)
    truth = naive.step(network.naive, network.t, h, network.y, tab, RTOL[0], ATOL[0])
    assume(well_posed(truth, tab, network))
    bars = cotangents(rng, network, tab)
    bars = [b if only in (name, "all") else 0 * b for name, b in zip(("y1", "err", "q", "S", "K"), bars, strict=True)]
    if only == "S" and not tab.stiffness_pair:
        return
    d_y, d_theta = rng.normal(size=network.y.shape), rng.normal(size=network.theta.size)
    exact = derivative(network, tab, h, bars, d_y, d_theta)
    y0_bar, theta_bar, _ = backward(network, tab, h, bars)
    found = np.sum(y0_bar * d_y) + theta_bar @ d_theta
    size = np.sum(np.abs(y0_bar * d_y)) + np.abs(theta_bar) @ np.abs(d_theta)
    noise = 1e-13 * amplified(tab) if only in ("y1", "err", "K") else 10 * rounding(truth, tab)
    assert abs(found - exact) <= noise * (size + 1.0)


@given(networks(), steps, methods, seeds)
def test_stages_known_or_recomputed_give_the_same_gradient(network, h, method, seed):
    tab = METHODS[method]
    bars = cotangents(np.random.default_rng(seed), network, tab)
    for a, b in zip(backward(network, tab, h, bars), backward(network, tab, h, bars, have_K=True), strict=True):
        np.testing.assert_array_equal(a, b)


@given(networks(), steps, methods, seeds)
def test_the_transpose_as_plain_python(network, h, method, seed):
    tab = METHODS[method]
    bars = cotangents(np.random.default_rng(seed), network, tab)
    noise = max(1e-9, rounding(naive.step(network.naive, network.t, h, network.y, tab, RTOL[0], ATOL[0]), tab))
    assume(noise < 1e-4)
    for a, b in zip(backward(network, tab, h, bars), backward(network, tab, h, bars, plain_python=True), strict=True):
        np.testing.assert_allclose(a, b, rtol=noise, atol=noise * np.max(np.abs(a)))


@given(networks(), steps, methods, seeds)
def test_float32_transposes_too(network, h, method, seed):
    tab = METHODS[method]
    bars = [b if k in (0, 4) else 0 * b for k, b in enumerate(cotangents(np.random.default_rng(seed), network, tab))]
    for a, b in zip(backward(network, tab, h, bars)[:2], backward(network, tab, h, bars, np.float32)[:2], strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * np.max(np.abs(a), initial=1))


@given(networks(), steps, methods)
def test_nothing_in_nothing_out_and_no_work(network, h, method):
    tab = METHODS[method]
    bars = [0 * b for b in cotangents(np.random.default_rng(0), network, tab)]
    y0_bar, theta_bar, calls = backward(network, tab, h, bars)
    assert calls == 0 and not y0_bar.any() and not theta_bar.any()


def test_stages_that_nothing_reaches_are_skipped():
    """Dopri5 has b₂ = b₇ = 0: a cotangent on y₁ alone needs no pullback of the seventh stage."""
    network_y, field = np.ones((2, 3)), MLP((3, 4, 3))
    theta = field.init(0)
    from strategies import Network

    network = Network((3, 4, 3), "tanh", "none", "identity", "identity", theta, network_y, 0.0)
    for name, expected in (("Dopri5", 5), ("Tsit5", 5), ("BS32", 2), ("RK4", 3), ("Euler", 0), ("DOP853", 11)):
        tab = METHODS[name]
        bars = [np.ones(6), np.zeros(tab.estimates * 6), 0.0, 0.0, np.zeros((tab.stages, 6))]
        assert backward(network, tab, 0.3, bars)[2] == expected


def test_points_without_a_derivative_have_gradient_zero():
    """f = 0: err = 0, and the stage pair coincides; q̄ and S̄ then move nothing, and nothing is NaN."""
    from strategies import Network

    network = Network((2, 2), "tanh", "none", "identity", "identity", np.zeros(6), np.ones((3, 2)), 0.0)
    for name in NAMES:
        tab = METHODS[name]
        y1, err, q, S, Y, K = forward(network, tab, 0.3, tab.stages)
        assert q == 0.0 and not err.any() and (S == 0.0 or tab.stiffness_pair is None)
        y0_bar, theta_bar, _ = backward(network, tab, 0.3, [np.zeros(6), np.zeros(tab.estimates * 6), 1.0, 1.0, np.zeros((tab.stages, 6))])
        assert not y0_bar.any() and not theta_bar.any()


def test_two_estimates_at_their_edges():
    """Both 0: 0. The lower one 0: the other. An infinite one must not divide the other away, nor a NaN pass."""
    tab = METHODS["DOP853"].coefficients()
    y0, y1, err = np.ones(1), np.ones(1), np.empty(2)
    for call in (estimate, plain(estimate)):
        for slope, finite in ((0.0, True), (1.0, True), (np.inf, False), (np.nan, False), (1e308, False)):
            q = call(tab, 0.1, y0, y1, np.full((13, 1), slope), ATOL, RTOL, err)
            assert q <= 1e-10 if finite else not q <= 1.0
        only_low = tab._replace(e=np.zeros(13), e_low=np.array([1e300, -1e300, *np.zeros(11)]))
        K = np.zeros((13, 1))
        K[0] = 1e300
        assert call(only_low, 0.1, y0, y1, K, ATOL, RTOL, err) == np.inf
        only_high = tab._replace(e_low=np.zeros(13))
        q = call(only_high, 0.1, y0, y1, np.arange(13.0)[:, None], ATOL, RTOL, err)
        assert q == pytest.approx(abs(0.1 * tab.e @ np.arange(13.0)) / 0.011, rel=1e-12)


def test_the_stiffness_of_a_linear_problem_is_its_rate():
    rate = -2.5
    for name in NAMES:
        tab = METHODS[name]
        field = PythonField(lambda t, y, theta: rate * y, 1)
        Y, K, y1, err = (np.empty(shape) for shape in ((tab.stages, 3), (tab.stages, 3), 3, tab.estimates * 3))
        y0 = np.array([1.0, -2.0, 0.5])
        bound_stages(field.bind(np.empty(0), 3, np.float64), tab.coefficients(), 0.0, 0.2, y0, 0, tab.stages, Y, K)
        S = finish(tab.coefficients(), 0.2, y0, K, Y, ATOL, RTOL, y1, err)[1]
        if tab.stiffness_pair is not None:
            assert S == pytest.approx(abs(rate) / tab.stiffness_constant, rel=1e-9)


# --- sums -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 16, 17, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_combining_and_its_transpose_over_block_borders(n, dtype):
    rng = np.random.default_rng(n)
    y, K, weights = rng.normal(size=n).astype(dtype), rng.normal(size=(5, n)).astype(dtype), np.array([0.3, 0.0, -0.7, 1.1, 9.0])
    for call, transpose in ((combine, combine_vjp), (plain(combine), plain(combine_vjp))):
        out = np.full(n, np.nan, dtype)
        call(y, 0.5, weights, 0, K, 4, out, 0)
        rows = np.full((3, n), np.nan, dtype)
        call(y, 0.5, np.stack([weights[::-1], weights]), 1, K, 4, rows, 2)  # by rows, and without y
        assert np.array_equal(rows[2], out) and np.isnan(rows[:2]).all()
        call(y, 0.5, weights, 0, K, 4, rows[0], 0, False)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(rows[0], 0.5 * (weights[:4] @ K[:4].astype(float)), rtol=20 * eps, atol=20 * eps)
        np.testing.assert_allclose(out, y + 0.5 * (weights[:4] @ K[:4].astype(float)), rtol=20 * eps, atol=20 * eps)
        w, bar = rng.normal(size=n).astype(dtype), np.zeros((5, n), dtype)
        transpose(0.5, weights, 4, w, bar)
        assert float(np.vdot(w.astype(float), out.astype(float) - y)) == pytest.approx(
            float(np.vdot(bar.astype(float), K)), rel=1e4 * float(eps), abs=1e3 * float(eps)
        )
        assert not bar[[1, 4]].any()
        transpose(0.5, weights, 4, w, bar)  # it adds
        np.testing.assert_allclose(bar[0], 0.3 * w, rtol=10 * eps)


def test_a_weight_of_zero_hides_even_nan():
    """Dopri5's b₂ = 0: a stage that does not count is not looked at."""
    K = np.array([[1.0, 1.0], [np.nan, np.inf]])
    out = np.empty(2)
    combine(np.zeros(2), 1.0, np.array([1.0, 0.0]), 0, K, 2, out, 0)
    assert out.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
@given(n=st.integers(17, 200), m=st.integers(0, 7), based=st.booleans(), seed=st.integers(0, 99))
def test_an_elements_sum_does_not_depend_on_how_many_there_are(dtype, n, m, based, seed):
    """By vectors of 8 or 16, four at a time, one, or what is left over: the bits of one element alone."""
    rng = np.random.default_rng(seed)
    y0, K, weights = rng.normal(size=n).astype(dtype), rng.normal(size=(7, n)).astype(dtype), rng.normal(size=7) * (rng.random(7) > 0.3)
    if dtype == np.complex128:
        K *= 1j
    out, alone = np.full((3, n), 7.0, dtype), np.empty(1, dtype)
    combine(y0, 0.3, weights, 0, K, m, out, 1, based)
    assert (out[[0, 2]] == 7.0).all()
    for e in {0, n // 2, n - n % 8 - 1, n - 1}:
        combine(y0[e : e + 1], 0.3, weights, 0, K[:, e : e + 1].copy(), m, alone, 0, based)
        assert out[1, e] == alone[0]


def test_adding_and_zeros():
    x, out = np.array([1.0, -2.0]), np.array([0.5, 0.5])
    for call, empty in ((add, is_zero), (plain(add), plain(is_zero))):
        out[:] = 0.5
        call(x, out)
        assert out.tolist() == [1.5, -1.5]
        assert empty(np.array([0.0, -0.0])) and empty(np.empty(0))
        assert not empty(np.array([0.0, 5e-324])) and not empty(np.array([np.nan]))
    assert rms_rows(np.stack([x, x]), 0, 1) == 0.0


def test_unbound_fields_say_so():
    for function, count in ((value, 6), (linearize, 5), (pullback, 7)):
        with pytest.raises(NotImplementedError):
            function(*[None] * count)
    assert "bound by `specialize`" in module.value.__doc__


@given(seeds, st.integers(1, 9), methods)
def test_a_complex_step_is_the_step_of_its_real_pairs(seed, n, name):
    """The estimates are those of the moduli."""
    rng, tab = np.random.default_rng(seed), METHODS[name].coefficients(np.complex128)
    s = tab.b.size
    y0, K, Y = (rng.normal(size=(*rows, 2 * n)) for rows in ((), (s,), (s,)))
    many = METHODS[name].estimates
    y1_real, err_real = np.empty(2 * n), np.empty(many * 2 * n)
    S_real = finish(tab, 0.3, y0, K, Y, ATOL, RTOL, y1_real, err_real)[1]
    for end in (finish, plain(finish)):
        y1, err = np.empty(n, complex), np.empty(many * n, complex)
        q, S = end(tab, 0.3, *(x.view(complex) for x in (y0, K, Y)), ATOL, RTOL, y1, err)
        np.testing.assert_allclose(y1.view(float), y1_real, rtol=1e-14, atol=1e-14 * np.abs(K).max())
        np.testing.assert_allclose(err.view(float), err_real, rtol=1e-14, atol=1e-14 * np.abs(K).max())
        scale = ATOL + RTOL * np.maximum(np.abs(y0.view(complex)), np.abs(y1))
        norms = [np.sqrt(np.mean(np.abs(part / scale) ** 2)) for part in err.reshape(many, n)]
        assert q == pytest.approx(norms[0] if many == 1 else norms[0] ** 2 / np.hypot(norms[0], 0.1 * norms[1]), rel=1e-12)
        assert S == pytest.approx(S_real, rel=1e-12, nan_ok=True)
