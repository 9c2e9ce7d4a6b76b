"""The triangular factor: norms are those of the matrix, for any shape, scale and rank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.householder import triangle

sizes = st.integers(1, 40)


def checked(matrix, d):
    """The factor of a matrix, ‖d L‖ against ‖d matrix‖ as close as a backward stable method's."""
    found = triangle(matrix)
    m, n = matrix.shape
    assert found.shape == (m, min(m, n)) and found.dtype == matrix.dtype and (found == np.tril(found)).all()
    eps = 40 * np.finfo(matrix.dtype).eps
    d, exact, ours = (x.astype(np.longdouble) for x in (d, matrix, found))
    scale = np.abs(exact).max() or 1
    bound = eps * np.linalg.norm((d).astype(float), axis=1) * np.linalg.norm((exact / scale).astype(float))
    norms = [np.linalg.norm((d @ (x / scale)).astype(float), axis=1) for x in (exact, ours)]
    assert (abs(norms[0] - norms[1]) <= bound).all()
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@given(m=sizes, n=sizes, rank=sizes, power=st.integers(-30, 30), seed=st.integers(0, 99))
def test_norms(dtype, m, n, rank, power, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(m, n))
    if rank < min(m, n):
        matrix = rng.normal(size=(m, rank)) @ matrix[:rank]
    matrix *= rng.choice([0.0, 1.0, 1e-6], size=(m, 1), p=[0.2, 0.6, 0.2])  # shifts begin as zeros
    checked((matrix * 10.0**power).astype(dtype), rng.normal(size=(5, m)).astype(dtype))


def test_against_lapack():
    matrix = np.random.default_rng(0).normal(size=(102, 784))
    expected = np.linalg.qr(matrix.T, mode="r").T
    found = checked(matrix, np.eye(102))
    np.testing.assert_allclose(found * np.sign(np.diag(found)), expected * np.sign(np.diag(expected)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-308, 1e-160, 1e160, 1e307])
def test_squares_neither_overflow_nor_vanish(size):
    matrix = size * np.random.default_rng(0).uniform(-1, 1, size=(5, 9))
    checked(matrix, np.eye(5))


def test_zeros_and_what_is_not_finite():
    assert not triangle(np.zeros((3, 5))).any() and triangle(np.array([[-2.0]])) ** 2 == 4.0
    for bad in (np.nan, np.inf):
        matrix = np.ones((3, 5))
        matrix[1, 2] = bad
        assert not np.isfinite(triangle(matrix)).all()
