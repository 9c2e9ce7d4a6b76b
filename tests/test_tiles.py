"""Products by tiles, and those in blocks by BLAS: whichever this processor is given, both are right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode import products, tiles
from adaptode._jit import JIT_DISABLED
from adaptode.fields import tangents
from adaptode.simd import copies, without

DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32])
blocks = pytest.param("blocks", marks=pytest.mark.skipif(JIT_DISABLED, reason="BLAS is called by compiled code alone"))
WAYS = pytest.mark.parametrize("way", ["tiles", blocks])


def product_by(way, a, b, row, c, narrow=False):
    if way == "tiles":
        (tiles.narrow_product if narrow else tiles.tiled_product)(a, b, row, c)
    else:
        products._product_in_blocks(a, b, c)
        c += row if row.size else 0


def outer_by(way, a, b, c, narrow=False):
    by_tiles = tiles.narrow_outer if narrow else tiles.tiled_outer
    (by_tiles if way == "tiles" else products._outer_in_blocks)(a, b, c)


def framed(shape, dtype):
    """An array with a row before and one after it that nobody may write."""
    room = np.full((shape[0] + 2, shape[1]), 7.0, dtype)
    return room, room[1:-1]


def assert_right(way, dtype, rows, inner, columns, shifted, seed, narrow=False):
    """A product and an outer product are NumPy's, and nothing beside them is written."""
    rng = np.random.default_rng(seed)
    a, b, z, row = (rng.normal(size=shape).astype(dtype) for shape in ((rows, inner), (inner, columns), (rows, columns), columns if shifted else 0))
    bound = 20 * np.finfo(dtype).eps * max(rows, inner, 1)
    room, c = framed((rows, columns), dtype)
    c[:] = np.nan
    product_by(way, a, b, row, c, narrow)
    np.testing.assert_allclose(c, a @ b + (row if shifted else 0), rtol=0, atol=bound)
    assert (room[[0, -1]] == 7.0).all()
    room, c = framed((inner, columns), dtype)
    outer_by(way, a, z, c, narrow)
    np.testing.assert_allclose(c, 7.0 + a.T @ z, rtol=0, atol=bound)
    assert (room[[0, -1]] == 7.0).all()


@DTYPES
@WAYS
@given(rows=st.integers(1, 130), inner=st.integers(0, 70), more=st.integers(0, 70), shifted=st.booleans(), seed=st.integers(0, 99))
def test_a_product_and_an_outer_product(way, dtype, rows, inner, more, shifted, seed):
    assert_right(way, dtype, rows, inner, 64 // np.dtype(dtype).itemsize + more, shifted, seed)


@DTYPES
@WAYS
@given(rows=st.integers(1, 70), more=st.integers(0, 40), columns=st.integers(1, 7), shifted=st.booleans(), seed=st.integers(0, 99))
def test_a_product_and_an_outer_product_of_few_columns(way, dtype, rows, more, columns, shifted, seed):
    assert_right(way, dtype, rows, 64 // np.dtype(dtype).itemsize + more, columns, shifted, seed, narrow=True)


@DTYPES
@pytest.mark.parametrize("rows, inner, columns", [(5, 1200, 7), (9, 40_000, 3), (3, 585, 7)])
def test_a_narrow_product_too_long_for_a_kernels_frame(dtype, rows, inner, columns):
    rng = np.random.default_rng(2)
    a, b, row = (rng.normal(size=shape).astype(dtype) for shape in ((rows, inner), (inner, columns), columns))
    c = np.full((rows, columns), np.nan, dtype)
    tiles.narrow_product(a, b, row, c)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b + row, rtol=0, atol=4 * np.finfo(dtype).eps * inner)


@DTYPES
@WAYS
@pytest.mark.parametrize("rows, inner, columns", [(200, 129, 130), (300, 260, 17), (129, 300, 256), (47, 513, 40)])
def test_rows_long_enough_to_be_copied(way, dtype, rows, inner, columns):
    rng = np.random.default_rng(1)
    a, b, z = (rng.normal(size=shape).astype(dtype) for shape in ((rows, inner), (inner, columns), (rows, columns)))
    c, outer = np.full((rows, columns), np.nan, dtype), np.ones((inner, columns), dtype)
    product_by(way, a, b, a[0][:0], c)
    outer_by(way, a, z, outer)
    bound = 40 * np.finfo(dtype).eps * max(rows, inner)
    np.testing.assert_allclose(c, a @ b, rtol=0, atol=bound)
    np.testing.assert_allclose(outer, 1.0 + a.T @ z, rtol=0, atol=bound)


@DTYPES
@given(lo=st.integers(0, 149), count=st.integers(1, 150), seed=st.integers(0, 9))
def test_a_row_has_the_same_bits_whatever_is_beside_it(dtype, lo, count, seed):
    rng = np.random.default_rng(seed)
    a, b, row = (rng.normal(size=shape).astype(dtype) for shape in ((150, 33), (33, 21), 21))
    whole, some = np.empty((150, 21), dtype), np.empty((len(a[lo : lo + count]), 21), dtype)
    tiles.tiled_product(a, b, row, whole)
    tiles.tiled_product(a[lo : lo + count], b, row, some)
    assert np.array_equal(some, whole[lo : lo + count])
    narrow, some = np.empty((150, 3), dtype), np.empty((len(some), 3), dtype)
    tiles.narrow_product(a, b[:, :3].copy(), row[:3], narrow)
    tiles.narrow_product(a[lo : lo + count], b[:, :3].copy(), row[:3], some)
    assert np.array_equal(some, narrow[lo : lo + count])


@DTYPES
@given(rows=st.integers(1, 100), inner=st.integers(0, 40), more=st.integers(0, 40), seed=st.integers(0, 9))
def test_a_matrix_that_is_prepared_gives_the_same_bits(dtype, rows, inner, more, seed):
    rng, columns = np.random.default_rng(seed), 64 // np.dtype(dtype).itemsize + more
    a, b = (rng.normal(size=shape).astype(dtype) for shape in ((rows, inner), (inner, columns)))
    c, again = np.full((rows, columns), np.nan, dtype), np.full((rows, columns), np.nan, dtype)
    tiles.tiled_product(a, b, b.ravel()[:0], c)
    tiles.panel_product(a, b, tiles.panels_of(b), again)
    assert np.array_equal(c, again)
    products.prepared_product(a, b, products.prepared(b), again)
    np.testing.assert_allclose(again, a @ b, rtol=0, atol=20 * np.finfo(dtype).eps * max(inner, 1))


@DTYPES
@pytest.mark.parametrize("shared", [True, False])
@given(batch=st.integers(1, 5), directions=st.integers(1, 5), columns=st.integers(1, 40), seed=st.integers(0, 9))
def test_tangents_through_slopes(shared, dtype, batch, directions, columns, seed):
    rng = np.random.default_rng(seed)
    z, bar = (rng.normal(size=(n * directions, columns)).astype(dtype) for n in (1 if shared else batch, batch))
    slope, curve, x_bar = (rng.normal(size=(batch, columns)).astype(dtype) for _ in range(3))
    bound = 40 * np.finfo(dtype).eps
    every = np.broadcast_to(z.reshape(-1, directions, columns), (batch, directions, columns))
    bars, D = bar.reshape(batch, directions, columns).copy(), slope[:, np.newaxis]
    out, total = np.full_like(bar, np.nan), rng.normal(size=(directions, columns)).astype(dtype)
    tangents.scale_tangents(z, slope, out)
    np.testing.assert_allclose(out, (D * every).reshape(bar.shape), rtol=0, atol=bound)
    expected = total + bars.sum(axis=0)
    tangents.add_tangents(bar, total)
    np.testing.assert_allclose(total, expected, rtol=0, atol=bound)
    expected = slope * x_bar + curve * (every * bars).sum(axis=1)
    tangents.curve_pullback(z, slope, curve, x_bar, bar)
    np.testing.assert_allclose(x_bar, expected, rtol=0, atol=bound)
    np.testing.assert_allclose(bar, (D * bars).reshape(bar.shape), rtol=0, atol=bound)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_stays_in_its_row_and_column(bad):
    rng = np.random.default_rng(0)
    for rows in (13, 100):
        a, b, z = rng.normal(size=(rows, 20)), rng.normal(size=(20, 21)), rng.normal(size=(rows, 21))
        a[7, 3], z[5, 14] = bad, bad  # column 14 is computed twice, in an overlap of 3
        c, outer = np.empty((rows, 21)), np.zeros((20, 21))
        tiles.tiled_product(a, b, a[0][:0], c)
        assert not np.isfinite(c[7]).any() and np.isfinite(np.delete(c, 7, axis=0)).all()
        tiles.tiled_outer(a, z, outer)
        assert not np.isfinite(outer[:, 14]).any() and not np.isfinite(outer[3]).any()
        assert np.isfinite(np.delete(np.delete(outer, 14, axis=1), 3, axis=0)).all()


def test_lanes_uncompiled():
    row = np.arange(5.0)
    assert copies(row, 3) == (3.0,) * 8 and without((1.0,) * 8, 3) == (0.0,) * 3 + (1.0,) * 5
