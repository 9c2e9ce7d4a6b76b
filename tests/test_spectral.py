"""Extreme singular triplets without an SVD, against matrices made with known singular values and NumPy's SVD."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import seeds

import adaptode as ao
from adaptode import bidiagonal, linalg, simd, spectral
from adaptode.checks import finite_difference
from adaptode.errors import SingularJacobianError

EPS = np.finfo(float).eps
SIZES = st.sampled_from([3, 4, 7, 8, 13])

SPECTRA = {
    "apart": lambda n: np.linspace(3.0, 1.0, n),
    "geometric": lambda n: np.geomspace(1.0, 1e-6, n),
    "ill": lambda n: np.geomspace(1.0, 1e-10, n),
    "clustered top": lambda n: np.concatenate([[2.0, 2.0 - 1e-3], np.linspace(1.0, 0.5, n - 2)]),
    "clustered bottom": lambda n: np.concatenate([np.linspace(2.0, 1.0, n - 2), [0.1 + 1e-4, 0.1]]),
    "one small": lambda n: np.concatenate([np.linspace(2.0, 1.0, n - 1), [1e-8]]),
    "one large": lambda n: np.concatenate([[1e6], np.linspace(2.0, 1.0, n - 1)]),
}
UNDECIDED = {
    "repeated top": lambda n: np.concatenate([[2.0, 2.0], np.linspace(1.0, 0.5, n - 2)]),
    "repeated bottom": lambda n: np.concatenate([np.linspace(2.0, 1.0, n - 2), [0.1, 0.1]]),
    "all equal": lambda n: np.full(n, 3.0),
    "singular": lambda n: np.concatenate([np.linspace(2.0, 1.0, n - 1), [0.0]]),
    "rank one": lambda n: np.concatenate([[1.0], np.zeros(n - 1)]),
    "zero": np.zeros,
}


def with_spectrum(s, seed, batch=1):
    """(batch, n, n) with singular values s, and their vectors as rows."""
    rng, n = np.random.default_rng(seed), len(s)
    U, V = (np.linalg.qr(rng.normal(size=(batch, n, n)))[0] for _ in range(2))
    return (U * s) @ V.transpose(0, 2, 1), U.transpose(0, 2, 1), V.transpose(0, 2, 1)


def triplets(J, bottom=True):
    scale = np.exp2(np.ceil(np.log2(np.abs(J).max(axis=(1, 2), initial=1e-300))))
    return spectral.extremes(J, scale, bottom), scale


@pytest.fixture(scope="module", params=["reduction", "krylov"])
def route(request):
    """Small matrices by the way that is meant for them, and by that for large ones."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "krylov":
            patch.setattr(spectral, "LARGEST", 2)
            patch.setattr(spectral, "most_steps", lambda n: n)
        yield request.param


def outer(u, v):
    return u[:, :, None] * v[:, None, :]


@pytest.mark.parametrize("kind", SPECTRA)
@given(seed=seeds, n=SIZES)
@settings(max_examples=15)
def test_triplets_of_known_spectra(route, kind, seed, n):
    s = SPECTRA[kind](n)
    J, U, V = with_spectrum(s, seed, batch=3)
    (top, bottom), scale = triplets(J)
    for found, k, gap in ((top, 0, s[0] - s[1]), (bottom, n - 1, s[n - 2] - s[n - 1])):
        sure = found.certified
        if route == "reduction":
            assert sure.all()
        inherent = 50 * n * EPS * s[0]
        np.testing.assert_allclose((found.sigma * scale)[sure], s[k], atol=inherent, rtol=0)
        exact = outer(U[:, k], V[:, k])[sure]
        np.testing.assert_allclose(outer(found.u, found.v)[sure], exact, atol=2 * bidiagonal.ANGLE + 4 * inherent / gap)


@pytest.mark.parametrize("kind", UNDECIDED)
@given(seed=seeds, n=SIZES)
@settings(max_examples=10)
def test_what_is_not_decided_goes_to_the_svd(route, kind, seed, n):
    """Not certified, or a pair that satisfies its equations; through `linalg` the values are right either way."""
    s = UNDECIDED[kind](n)
    J, _, _ = with_spectrum(s, seed, batch=2)
    if kind == "zero":
        assert not triplets(J)[0][0].certified.any()
        return
    values, cache = linalg.spectral(J)
    np.testing.assert_allclose(values, s[0], rtol=1e-13)
    slope = linalg.spectral_vjp(cache, np.ones(2))
    np.testing.assert_allclose(np.einsum("bij,bij->b", slope, J), s[0], rtol=1e-12)
    np.testing.assert_allclose(np.linalg.svd(slope, compute_uv=False).sum(axis=1), 1.0, rtol=1e-12)
    kappa, cache = linalg.condition(J, floor=1e-3)
    np.testing.assert_allclose(kappa, s[0] / np.hypot(s[-1], 1e-3 * s[0]), rtol=1e-11)
    assert np.isfinite(linalg.condition_vjp(cache, np.ones(2))).all()
    if kind in ("singular", "rank one"):
        assert cache.by_svd == 2
        with pytest.raises(SingularJacobianError, match="sample 0 .and 1 more"):
            linalg.condition(J)
    if kind == "all equal":
        assert cache.by_svd == 2
        np.testing.assert_array_equal(linalg.condition_vjp(linalg.condition(np.broadcast_to(2 * np.eye(n), J.shape))[1], np.ones(2)), 0.0)


@given(st.floats(0, 12), seeds)
def test_kappa_from_1_to_1e12(power, seed):
    n, kappa = 9, 10.0**power
    J, _, _ = with_spectrum(np.geomspace(1.0, 1 / kappa, n), seed)
    value, cache = linalg.condition(J)
    np.testing.assert_allclose(value, kappa, rtol=50 * n * EPS * kappa + 1e-12)
    slope = linalg.condition_vjp(cache, [1.0])
    assert np.abs(np.sum(slope * J)) <= 1e-13 * kappa**2  # κ does not see the scale of J


@given(seed=seeds, n=SIZES)
def test_equal_to_the_svd_route_in_value_and_gradient(route, seed, n):
    J = np.random.default_rng(seed).normal(size=(11, n, n))
    s = np.linalg.svd(J, compute_uv=False)
    assume((s[:, -1] / s[:, 0]).min() > 1e-4 and min((1 - s[:, 1] / s[:, 0]).min(), (1 - s[:, -1] / s[:, -2]).min()) > 1e-3)
    for function, vjp in ((linalg.spectral, linalg.spectral_vjp), (linalg.condition, linalg.condition_vjp)):
        value, cache = function(J)
        expected, reference = by_svd(function, J)
        assert route == "krylov" or cache.by_svd == 0
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        ours, theirs = vjp(cache, np.ones(11)), vjp(reference, np.ones(11))
        assert np.linalg.norm(ours - theirs) <= 1e-8 * np.linalg.norm(theirs)
    U, s, Vt = np.linalg.svd(J)
    top, low, s_1, s_n = outer(U[:, :, 0], Vt[:, 0]), outer(U[:, :, -1], Vt[:, -1]), s[:, :1, None], s[:, -1:, None]
    assert np.linalg.norm(ours - (top / s_n - s_1 / s_n**2 * low)) <= 1e-8 * np.linalg.norm(ours)


def by_svd(function, J):
    """`function` with every sample's triplets from the SVD."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linalg, "_extremes_certified", lambda J, scale, smallest: linalg._extremes_svd(J / linalg._column(scale)))
        return function(J)


@given(seeds)
@settings(max_examples=10)
def test_large_matrices(seed):
    J = np.random.default_rng(seed).normal(size=(2, 150, 150)) / 12
    for function, vjp in ((linalg.spectral, linalg.spectral_vjp), (linalg.condition, linalg.condition_vjp)):
        value, cache = function(J)
        expected, reference = by_svd(function, J)
        np.testing.assert_allclose(value, expected, rtol=1e-9)
        ours, theirs = vjp(cache, np.ones(2)), vjp(reference, np.ones(2))
        assert np.linalg.norm(ours - theirs) <= 1e-7 * np.linalg.norm(theirs)


def test_directions_are_the_gradient(route):
    J = np.random.default_rng(0).normal(size=(5, 6, 6))
    bar = np.arange(5.0)
    for function, vjp, count in (
        (linalg.frobenius, linalg.frobenius_vjp, 6),
        (linalg.spectral, linalg.spectral_vjp, 1),
        (linalg.condition, linalg.condition_vjp, 2),
    ):
        cache = function(J)[1]
        u, w = linalg.directions(cache, bar)
        assert u.shape == w.shape == (5, count, 6)
        np.testing.assert_allclose(np.einsum("bmi,bmj->bij", w, u), vjp(cache, bar), rtol=1e-13, atol=1e-15)


def test_a_sample_does_not_see_its_neighbours(route):
    J = np.random.default_rng(1).normal(size=(21, 5, 5))
    whole, _ = triplets(J)
    order = np.random.default_rng(2).permutation(21)[:13]
    part, _ = triplets(np.ascontiguousarray(J[order]))
    for a, b in zip(whole, part, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x[order], y)
    spoilt = J.copy()
    spoilt[3, 1, 1] = np.nan
    value, cache = linalg.condition(spoilt)
    good, _ = linalg.condition(J)
    assert np.isnan(value[3]) and np.isnan(linalg.condition_vjp(cache, np.ones(21))[3]).all()
    np.testing.assert_array_equal(np.delete(value, 3), np.delete(good, 3))


@pytest.mark.parametrize("size", [1e-300, 1e-20, 1e300])
def test_scale(route, size):
    J = np.random.default_rng(4).normal(size=(3, 6, 6))
    np.testing.assert_allclose(linalg.condition(size * J)[0], linalg.condition(J)[0], rtol=1e-11)
    np.testing.assert_allclose(linalg.spectral(size * J)[0], size * linalg.spectral(J)[0], rtol=1e-13)


def test_float32():
    J = np.random.default_rng(5).normal(size=(9, 6, 6))
    value, cache = linalg.condition(J.astype(np.float32))
    assert value.dtype == np.float32 and all(x.dtype == np.float32 for x in linalg.directions(cache, np.ones(9)))
    np.testing.assert_allclose(value, linalg.condition(J)[0], rtol=1e-3)


def test_diagonal_bidiagonal_and_triangular(route):
    """Where the reduction has nothing to do, and where the bidiagonal splits."""
    d = np.array([0.5, 3.0, 1.0, 2.0, 0.25])
    cases = np.stack([np.diag(d), np.diag(-d), np.diag(d) + np.diag([0.5, 0.0, 0.5, 0.5], 1), np.triu(np.ones((5, 5))), np.diag(d)[::-1]])
    kappa, _ = linalg.condition(cases)
    np.testing.assert_allclose(kappa, np.linalg.cond(cases), rtol=1e-12)


def test_an_empty_batch():
    value, cache = linalg.condition(np.empty((0, 4, 4)))
    assert value.shape == (0,) and linalg.condition_vjp(cache, np.empty(0)).shape == (0, 4, 4)


@pytest.mark.parametrize("n", [3, 5])
@given(seed=seeds)
@settings(max_examples=15)
def test_gradient_through_a_field_is_the_difference_quotient(n, seed):
    rng = np.random.default_rng(seed)
    field = ao.MLP((n, 2 * n, n))
    theta, y = field.init(rng, scale=1.5), rng.normal(size=(2, n))
    s = np.linalg.svd(field.jacobian(0.0, y, theta), compute_uv=False)
    assume((s[:, -1] / s[:, 0]).min() > 0.01 and min((s[:, 0] - s[:, 1]).min(), (s[:, -2] - s[:, -1]).min()) > 0.01)
    theta_dot, y_dot = rng.normal(size=theta.shape), rng.normal(size=y.shape)
    for function in (linalg.spectral, linalg.condition):
        _, cache = function(field.jacobian(0.0, y, theta))
        y_bar, theta_bar = field.bilinear_vjp(0.0, y, theta, *linalg.directions(cache, np.full(2, 0.5)))
        expected, error = finite_difference(
            lambda h, f=function: f(field.jacobian(0.0, y + h * y_dot, theta + h * theta_dot))[0].mean(), 0.0, 1.0, step=1e-3
        )
        got = theta_bar @ theta_dot + np.sum(y_bar * y_dot)
        assert abs(got - expected) <= 10 * error + 1e-7 * (abs(expected) + np.linalg.norm(theta_bar))


# --- kernels as plain Python ------------------------------------------------------------------------------------------------


def test_lanes_in_python_are_those_of_the_kernels():
    x, y, z = np.random.default_rng(0).normal(size=(3, simd.WIDTH))
    y[2], z[3] = 0.0, np.nan
    a, b, c = (tuple(v.tolist()) for v in (x, y, z))
    with np.errstate(divide="ignore"):
        quotient = x / y
    for got, expected in (
        (simd.load(x, 0), x),
        (simd.full(2.0), np.full(8, 2.0)),
        (simd.add(a, b), x + y),
        (simd.sub(a, b), x - y),
        (simd.mul(a, b), x * y),
        (simd.div(a, b), quotient),
        (simd.madd(a, b, a), x * y + x),
        (simd.msub(a, b, a), x - x * y),
        (simd.where(c, a, b), np.where(z > 0, x, y)),
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_the_bidiagonal_kernel_as_python(end, monkeypatch):
    rng = np.random.default_rng(3)
    n = 4
    d, f = rng.normal(size=(2, n, simd.WIDTH))
    f[-1] = 0.0
    answers = []
    compiled = bidiagonal.bidiagonal_extreme
    for run in (compiled, compiled.py_func):
        x, v, work, sigma, certified = np.empty(n * 8), np.empty(n * 8), np.empty(6 * n * 8), np.empty(8), np.empty(8, bool)
        run(d.ravel(), f.ravel(), n, end, x, v, work, sigma, certified)
        answers.append((x, v, sigma))
        assert certified.all()
        for name in ("_pivots", "_solve", "_dot", "_scale", "_power"):
            monkeypatch.setattr(bidiagonal, name, getattr(getattr(bidiagonal, name), "py_func", None))
    for compiled, plain in zip(*answers, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-12)
    B = np.stack([np.diag(d[:, l]) + np.diag(f[:-1, l], 1) for l in range(8)])
    np.testing.assert_allclose(answers[0][2], np.linalg.svd(B, compute_uv=False)[:, 0 if end < 0 else -1], rtol=1e-12)
