"""Products in blocks: against NumPy, at every edge of a block."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.products import BLOCK_ROWS, add_outer, cuts, product

sizes = st.integers(0, 90)


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
