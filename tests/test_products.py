"""Products in blocks: against NumPy, at every edge of a block."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.products import BLOCK_ROWS, Factors, add_matrix_product, add_outer, affine, cuts, matrix_product, product

sizes = st.integers(0, 90)
NOT_AT_HAND = np.empty((0, 0))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(batch=sizes, inner=sizes, columns=sizes, seed=st.integers(0, 99))
def test_products_are_those_of_numpy(dtype, batch, inner, columns, seed):
    rng = np.random.default_rng(seed)
    a, b, z = (rng.normal(size=shape).astype(dtype) for shape in ((batch, inner), (inner, columns), (batch, columns)))
    c, outer = np.full((batch, columns), np.nan, dtype), rng.normal(size=(inner, columns)).astype(dtype)
    expected = outer + a.T @ z
    product(a, b, c)
    add_outer(a, z, outer)
    bound = 4 * np.finfo(dtype).eps * max(batch, inner, 1)
    np.testing.assert_allclose(c, a @ b, rtol=0, atol=bound * 10)
    np.testing.assert_allclose(outer, expected, rtol=0, atol=bound * 10)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(
    batch=st.sampled_from([0, 1, 2, 5, 63, 64, 65, 130]),
    inner=st.one_of(st.integers(0, 6), st.integers(7, 40)),
    columns=st.integers(0, 40),
    shifted=st.booleans(),
    turned=st.booleans(),
    seed=st.integers(0, 99),
)
def test_affine_is_a_product_with_or_without_its_row(dtype, batch, inner, columns, shifted, turned, seed):
    rng = np.random.default_rng(seed)
    a, b, row = (rng.normal(size=shape).astype(dtype) for shape in ((batch, inner), (inner, columns), columns if shifted else 0))
    room = np.full((batch + 2, columns), np.nan, dtype)
    room[0] = room[-1] = 7.0
    added = affine(a, b, np.ascontiguousarray(b.T) if turned else NOT_AT_HAND.astype(dtype), row, room[1:-1])
    expected = a @ b + (row if shifted and added else dtype(0.0))
    np.testing.assert_allclose(room[1:-1], expected, rtol=0, atol=max(40, 3 * inner) * np.finfo(dtype).eps)
    assert added or shifted
    assert (room[[0, -1]] == 7.0).all()  # and nothing beside it


def test_affine_of_few_columns_leaves_each_row_to_itself():
    rng = np.random.default_rng(0)
    a, b, row = rng.normal(size=(70, 3)), rng.normal(size=(3, 21)), rng.normal(size=21)
    whole, part = np.empty((70, 21)), np.empty((5, 21))
    affine(a, b, NOT_AT_HAND, row, whole)
    affine(a[40:45], b, NOT_AT_HAND, row, part)
    assert np.array_equal(part, whole[40:45])
    a[1, 2] = np.nan
    affine(a, b, NOT_AT_HAND, row, whole)
    assert np.isnan(whole[1]).all() and np.isfinite(np.delete(whole, 1, axis=0)).all()


LARGE = [(64, 125, 125), (65, 125, 126), (130, 784, 100), (512, 102, 784), (33, 2000, 40), (1, 1, 1), (200, 40000, 3)]


@pytest.mark.parametrize("batch, inner, columns", LARGE)
def test_products_larger_than_a_block(batch, inner, columns):
    rng = np.random.default_rng(0)
    a, b, z = rng.normal(size=(batch, inner)), rng.normal(size=(inner, columns)), rng.normal(size=(batch, columns))
    c, outer = np.full((batch, columns), np.nan), np.ones((inner, columns))
    product(a, b, c)
    add_outer(a, z, outer)
    np.testing.assert_allclose(c, a @ b, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(outer, 1.0 + a.T @ z, rtol=1e-12, atol=1e-11)


def test_nan_in_the_place_of_the_result_is_overwritten_and_nan_in_a_factor_stays_in_its_row():
    a, b, c = np.ones((3, 4)), np.ones((4, 5)), np.full((3, 5), np.nan)
    a[1, 2] = np.nan
    product(a, b, c)
    assert np.isnan(c[1]).all() and np.isfinite(c[[0, 2]]).all()


def test_an_empty_sum_is_zero():
    c = np.full((3, 5), np.nan)
    product(np.ones((3, 0)), np.ones((0, 5)), c)
    assert not c.any()


@given(rows=st.integers(0, 700), parts=st.integers(1, 9))
def test_cuts(rows, parts):
    parts = max(1, min(parts, rows // BLOCK_ROWS))
    found = cuts(rows, parts)
    assert found[0] == 0 and found[-1] == rows and len(found) == parts + 1 and all(cut % BLOCK_ROWS == 0 for cut in found[:-1])
    assert parts == 1 or min(np.diff(found)) >= BLOCK_ROWS


@pytest.mark.parametrize("inner, columns", [(7, 5), (784, 100), (2000, 40)])
def test_a_product_in_parts_has_the_same_bits(inner, columns):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(231, inner)), rng.normal(size=(inner, columns))
    c, parts = np.empty((231, columns)), np.empty((231, columns))
    product(a, b, c)
    edges = cuts(231, 3)
    for lo, hi in pairwise(edges):
        product(a[lo:hi], b, parts[lo:hi])
    assert np.array_equal(c, parts)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_factors_are_their_product(dtype):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(5, 2)).astype(dtype), rng.normal(size=(2, 9)).astype(dtype)
    factors = Factors(left, right)
    assert factors.shape == (5, 9) and np.asarray(factors).dtype == dtype and factors.is_finite()
    np.testing.assert_allclose(np.asarray(factors), left @ right, rtol=0, atol=10 * np.finfo(dtype).eps)
    other = factors.astype(np.float32)
    assert np.asarray(other).dtype == np.float32 == np.asarray(factors, np.float32).dtype
    with pytest.raises(ValueError, match="multiplied"):
        np.array(factors, copy=False)


def test_factors_that_are_not_finite():
    tiny, huge = np.full((2, 3), 1e-200), np.full((3, 2), 1e250)
    assert Factors(tiny, huge).is_finite() and Factors(np.zeros((2, 3)), huge).is_finite()
    assert not Factors(1e300 * tiny / 1e-200, huge).is_finite()
    assert Factors(np.array([[1e200, 0.0]]), np.array([[1e100], [1e200]])).is_finite()  # the bound of both overflows, the product does not
    for bad in (np.nan, np.inf):
        assert not Factors(np.array([[1.0, bad]]), np.ones((2, 2))).is_finite() and not Factors(np.ones((2, 2)), np.array([[1.0], [bad]])).is_finite()


def test_mixed_precisions_are_double():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(700, 33)), rng.normal(size=(33, 90)).astype(np.float32)
    for x, y in ((a, b), (b.T, a.T), (np.arange(70)[:, None], b[:1]), (a.astype(np.float32), b), (a[:2], b[:, :3])):
        found = matrix_product(x, y)
        assert found.dtype == (np.float32 if x.dtype == y.dtype == np.float32 else np.float64)
        np.testing.assert_allclose(found, x @ y, rtol=0, atol=1e-4 if found.dtype == np.float32 else 1e-12)
        out = np.ones((x.shape[0], y.shape[1]))
        add_matrix_product(np.ascontiguousarray(x.T), y, out)
        np.testing.assert_allclose(out, 1.0 + x @ y, rtol=0, atol=1e-4 if found.dtype == np.float32 else 1e-12)
