"""Norms and condition numbers of small matrices against mpmath, NumPy and finite differences."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adaptode import linalg
from adaptode.checks import finite_difference, taylor_test
from adaptode.errors import InputError, SingularJacobianError
from adaptode.linalg import (
    condition,
    condition_vjp,
    frobenius,
    frobenius_vjp,
    singular_values_2x2,
    spectral,
    spectral_vjp,
)

EPS = np.finfo(float).eps
SIZES = st.sampled_from([1, 2, 3, 5])
SEEDS = st.integers(0, 2**32 - 1)
FLOORS = st.sampled_from([0.0, 1e-6, 1e-3, 0.1])
entries = st.floats(-1, 1, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-100)
FUNCTIONS = {
    "frobenius": (frobenius, frobenius_vjp),
    "spectral": (spectral, spectral_vjp),
    "condition": (condition, condition_vjp),
    "floored": (lambda J: condition(J, floor=0.05), condition_vjp),
}
EACH = pytest.mark.parametrize("name", FUNCTIONS)


def matrix(seed, n, gap=0.2):
    """(n, n) with well-separated singular values, so that every value here is smooth around it."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    return (U * (0.3 + gap * np.arange(n)[::-1] + 0.1 * rng.random())) @ V


def exact_2x2(J):
    """Singular values of a 2 x 2 matrix of floats in 400 digits."""
    with mpmath.workdps(400):
        a, b, c, d = (mpmath.mpf(float(x)) for x in np.ravel(J))
        square, det = a * a + b * b + c * c + d * d, abs(a * d - b * c)
        s_1 = mpmath.sqrt((square + mpmath.sqrt((square - 2 * det) * (square + 2 * det))) / 2)
        return s_1, (det / s_1 if s_1 else mpmath.mpf(0))


@given(arrays(float, (2, 2), elements=entries))
@example(np.array([[1.0, 1.0], [1.0, 1.0 + EPS]]))
@example(np.array([[1.0 + EPS, 1.0 - EPS], [1.0, 1.0 - 2 * EPS]]))
@example(np.array([[1e8 + 1, 1e8], [1e8, 1e8 - 1]]) / 1e8)
@example(np.array([[0.6, 0.8], [-0.8, 0.6]]))
@example(np.zeros((2, 2)))
def test_both_singular_values_to_a_few_ulps_however_close_to_singular(J):
    s_1, s_2 = singular_values_2x2(J[np.newaxis])
    for ours, exact in zip((s_1[0], s_2[0]), exact_2x2(J), strict=True):
        assert abs(mpmath.mpf(float(ours)) - exact) <= 6 * EPS * exact + mpmath.mpf("1e-290")


@given(st.floats(0, 6.3), st.floats(0.1, 10), st.sampled_from([1, -1]))
def test_the_order_of_singular_values_survives_rounding_at_a_tie(angle, size, sign):
    J = size * np.array([[[np.cos(angle), -sign * np.sin(angle)], [np.sin(angle), sign * np.cos(angle)]]])
    s_1, s_2 = singular_values_2x2(J)
    assert s_1[0] >= s_2[0]
    assert condition(J)[0][0] >= 1.0


def test_the_closed_form_is_more_accurate_than_an_svd_near_singularity():
    J = np.array([[[3.0, 1.0], [6.0, 2.0 + 1e-13]]])
    exact = float(exact_2x2(J)[1])
    assert abs(singular_values_2x2(J)[1][0] / exact - 1) < 4 * EPS
    assert abs(np.linalg.svd(J)[1][0, 1] / exact - 1) > 1e-5


@given(
    arrays(float, (2, 2), elements=st.floats(-1, 1, allow_subnormal=False)),
    st.sampled_from([1e150, 1e-150, 1e300, 1e-290]),
)
def test_huge_and_tiny_entries(J, size):
    assume(np.abs(J).max() > 1e-3)
    for ours, exact in zip(singular_values_2x2(size * J[np.newaxis]), exact_2x2(size * J), strict=True):
        assert abs(mpmath.mpf(float(ours[0])) - exact) <= 8 * EPS * exact + mpmath.mpf("1e-300") * max(size, 1e-10)
    for n in (2, 3):
        whole = size * matrix(1, n)[np.newaxis]
        ones = matrix(1, n)[np.newaxis]
        for norm, vjp in (FUNCTIONS["frobenius"], FUNCTIONS["spectral"]):
            np.testing.assert_allclose(norm(whole)[0], size * norm(ones)[0], rtol=1e-14)
            np.testing.assert_allclose(vjp(norm(whole)[1], [1.0]), vjp(norm(ones)[1], [1.0]), atol=1e-14)
        np.testing.assert_allclose(condition(whole)[0], condition(ones)[0], rtol=1e-13)
        slope = condition_vjp(condition(whole)[1], [1.0]) * size
        np.testing.assert_allclose(slope, condition_vjp(condition(ones)[1], [1.0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1.7e308, 5e-324, 1e-310])
def test_the_ends_of_the_float_range_do_not_warn(size):
    J = size * np.array([[[1.0, 0.0], [0.0, 1.0]]])
    with np.errstate(all="raise"):
        assert condition(J)[0][0] == 1.0
        assert singular_values_2x2(J)[0][0] == pytest.approx(size)
        assert frobenius(J)[0][0] >= size and spectral(J)[0][0] == pytest.approx(size)


@given(SEEDS, SIZES, st.integers(0, 4))
def test_values_are_numpys(seed, n, batch):
    J = np.random.default_rng(seed).normal(size=(batch, n, n))
    np.testing.assert_allclose(frobenius(J)[0], np.linalg.norm(J, axis=(1, 2)), rtol=1e-14)
    np.testing.assert_allclose(spectral(J)[0], np.linalg.norm(J, 2, axis=(1, 2)), rtol=1e-13)
    s = np.linalg.svd(J, compute_uv=False)
    assume(batch == 0 or np.all(s[:, -1] > 1e-6))
    np.testing.assert_allclose(condition(J)[0], s[:, 0] / s[:, -1], rtol=1e-8)
    np.testing.assert_allclose(condition(J, floor=0.1)[0], s[:, 0] / np.hypot(s[:, -1], 0.1 * s[:, 0]), rtol=1e-12)


@given(SEEDS)
def test_the_closed_form_and_the_svd_path_agree(seed):
    J = matrix(seed, 2)[np.newaxis] * np.exp(np.random.default_rng(seed).normal())
    closed, svd = linalg._extremes_2x2(J), linalg._extremes_svd(J)
    for ours, theirs in zip(closed[:2], svd[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    for ours, theirs in zip(closed[2:4], svd[2:4], strict=True):
        np.testing.assert_allclose(ours.w.transpose(0, 2, 1), theirs.w.transpose(0, 2, 1) @ theirs.u, rtol=1e-12, atol=1e-12)


@EACH
@given(seed=SEEDS, n=SIZES)
def test_gradients_by_taylor_slope_and_finite_differences(name, seed, n):
    function, vjp = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    J = np.stack([matrix(seed, n), matrix(seed + 1, n)])
    bar, direction = rng.normal(size=2), rng.normal(size=J.shape) * 0.1

    def value(J):
        return bar @ function(J)[0]

    J_bar = vjp(function(J)[1], bar)
    assert J_bar.shape == J.shape and J_bar.dtype == J.dtype
    slope = np.vdot(J_bar, direction)
    difference, error = finite_difference(value, J, direction, step=0.1)
    assert abs(slope - difference) <= 10 * error + 1e-9 * (1 + abs(slope))
    result = taylor_test(value, slope, J, direction, 1e-3 / 2.0 ** np.arange(4))
    assert result.slope > 1.8 or np.max(result.remainders) < 1e-9
    wrong = taylor_test(value, slope + 0.1, J, direction, 1e-3 / 2.0 ** np.arange(4))
    assert wrong.slope < 1.2


@given(SEEDS, SIZES, FLOORS, st.floats(-8, 8))
def test_kappa_does_not_see_scale_and_its_gradient_is_orthogonal_to_J(seed, n, floor, power):
    J = np.random.default_rng(seed).normal(size=(3, n, n))
    assume(np.all(np.linalg.cond(J) < 1e6))
    kappa, cache = condition(J, floor)
    np.testing.assert_allclose(condition(10.0**power * J, floor)[0], kappa, rtol=1e-8)
    slope = condition_vjp(cache, np.ones(3))
    size = np.linalg.norm(slope, axis=(1, 2)) * np.linalg.norm(J, axis=(1, 2))
    np.testing.assert_array_less(np.abs(np.einsum("bij,bij->b", slope, J)), 1e-9 * (1 + size))


@EACH
@given(seed=SEEDS, n=st.sampled_from([2, 3, 4]))
def test_orthogonal_invariance(name, seed, n):
    """f(Q J R) = f(J) and the gradient turns with J."""
    function, vjp = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    Q, R = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    J = matrix(seed, n)[np.newaxis]
    value, cache = function(J)
    turned, turned_cache = function(Q @ J @ R)
    np.testing.assert_allclose(turned, value, rtol=1e-11)
    np.testing.assert_allclose(vjp(turned_cache, [1.0]), Q @ vjp(cache, [1.0]) @ R, atol=1e-10)


@given(SEEDS, st.sampled_from([2, 3, 4]), st.sampled_from([1e-1, 1e-3, 1e-6]))
def test_the_surrogate_is_bounded_smooth_at_singularity_and_close_elsewhere(seed, n, floor):
    rng = np.random.default_rng(seed)
    J = rng.normal(size=(1, n, n))
    J[0, :, -1] = J[0, :, :-1].sum(axis=1)  # singular
    kappa, cache = condition(J, floor)
    assert kappa[0] <= 1 / floor
    slope = condition_vjp(cache, [1.0])
    assert np.all(np.isfinite(slope))
    # smooth there: its gradient is 0 up to the rounding of s_n, against the 1 / (2 floor^2) it reaches nearby
    assert np.linalg.norm(slope) <= 1e-12 / floor**3 * (1 + 1 / np.linalg.norm(J))
    well = matrix(seed, n)[np.newaxis]
    true = condition(well)[0]
    assume(true[0] * floor < 0.5)
    np.testing.assert_allclose(condition(well, floor)[0], true / np.sqrt(1 + (floor * true) ** 2), rtol=1e-12)


def test_singular_jacobians_are_refused_by_name():
    J = np.stack([np.eye(2), [[1.0, 2.0], [2.0, 4.0]], np.eye(2)])
    with pytest.raises(
        SingularJacobianError, match=r"sample 1 is singular: largest singular value 5, smallest 0; .*floor"
    ):
        condition(J)
    assert condition(J, floor=0.01)[0][1] == 100.0
    rank_2 = np.random.default_rng(0).normal(size=(2, 5, 2)) @ np.random.default_rng(1).normal(size=(2, 2, 5))
    with pytest.raises(SingularJacobianError, match=r"sample 0 \(and 1 more in the batch\)"):
        condition(rank_2)
    assert np.all(np.isfinite(condition(rank_2, floor=1e-3)[0]))
    for n in (1, 2, 3):
        for floor in (0.0, 0.1):
            with pytest.raises(SingularJacobianError, match="zero Jacobian"):
                condition(np.zeros((1, n, n)), floor)


def test_singular_is_judged_by_the_rounding_of_the_dtype():
    J = np.diag([1.0, 1e-8])[np.newaxis]
    assert condition(J)[0][0] == pytest.approx(1e8)
    with pytest.raises(SingularJacobianError):
        condition(J.astype(np.float32))
    with pytest.raises(SingularJacobianError):
        condition(np.diag([1.0, 1e-17])[np.newaxis])


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_ties_have_finite_subgradients(n):
    Q = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0]
    for sign in (1, -1):
        J = 2.0 * np.stack([np.eye(n), Q])
        J[:, 0] *= sign  # both signs of the determinant
        kappa, cache = condition(J)
        np.testing.assert_allclose(kappa, 1.0, rtol=1e-14)
        np.testing.assert_array_equal(condition_vjp(cache, [1.0, 1.0]), 0.0)
        value, cache = spectral(J)
        G = spectral_vjp(cache, [1.0, 1.0])
        np.testing.assert_allclose(value, 2.0, rtol=1e-14)
        # a subgradient of the spectral norm at J: <G, J> = |J| and nuclear norm of G = 1
        np.testing.assert_allclose(np.einsum("bij,bij->b", G, J), 2.0, rtol=1e-13)
        np.testing.assert_allclose(np.linalg.svd(G, compute_uv=False).sum(axis=1), 1.0, rtol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_norms_have_gradient_zero_or_a_subgradient_at_zero(n):
    J = np.zeros((1, n, n))
    value, cache = frobenius(J)
    assert value[0] == 0.0 and not np.any(frobenius_vjp(cache, [1.0]))
    value, cache = spectral(J)
    G = spectral_vjp(cache, [1.0])
    assert value[0] == 0.0 and np.all(np.isfinite(G)) and np.linalg.svd(G[0], compute_uv=False).sum() <= 1 + 1e-14


@EACH
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_stays_alone(name, n, bad):
    function, vjp = FUNCTIONS[name]
    J = np.stack([matrix(k, n) for k in range(3)])
    value, cache = function(J)
    good = vjp(cache, np.ones(3))
    J[1, 0, 0] = bad
    spoilt, cache = function(J)
    assert np.isnan(spoilt[1]) and np.all(np.isnan(vjp(cache, np.ones(3))[1]))
    np.testing.assert_array_equal(spoilt[[0, 2]], value[[0, 2]])
    np.testing.assert_array_equal(vjp(cache, np.ones(3))[[0, 2]], good[[0, 2]])


@EACH
@pytest.mark.parametrize("n", [1, 2, 3])
def test_float32_in_float32_out(name, n):
    function, vjp = FUNCTIONS[name]
    J = matrix(3, n)[np.newaxis]
    value, cache = function(J.astype(np.float32))
    assert value.dtype == np.float32 and vjp(cache, np.ones(1, np.float32)).dtype == np.float32
    np.testing.assert_allclose(value, function(J)[0], rtol=1e-5)
    np.testing.assert_allclose(vjp(cache, [1.0]), vjp(function(J)[1], [1.0]), atol=1e-4)


def test_input_is_left_alone_and_checked():
    J = np.random.default_rng(0).normal(size=(2, 2, 2))
    J[0, 0, 0] = np.nan
    kept = J.copy()
    for function, _ in FUNCTIONS.values():
        function(J)
    np.testing.assert_array_equal(J, kept)
    for wrong in (np.eye(2), np.ones((2, 2, 3)), np.ones((2, 0, 0)), np.ones((1, 2, 2), complex)):
        with pytest.raises(InputError, match="shape"):
            frobenius(wrong)
    with pytest.raises(InputError, match=r"\(B, 2, 2\)"):
        singular_values_2x2(np.ones((1, 3, 3)))
    for floor in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="floor"):
            condition(np.eye(2)[np.newaxis], floor)
    with pytest.raises(InputError, match="cotangent"):
        frobenius_vjp(frobenius(kept[1:])[1], [1.0, 2.0])
