"""The linear head: dot test, dtype, bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.errors import InputError
from adaptode.training.heads import LinearHead

sizes = st.integers(1, 7)


@given(n_in=sizes, n_out=sizes, batch=sizes, seed=st.integers(0, 2**32 - 1))
def test_dot(n_in, n_out, batch, seed):
    """<out_bar, out_dot> = <x_bar, x_dot> + <phi_bar, phi_dot>, with out_dot from the definition of the layer."""
    rng = np.random.default_rng(seed)
    head = LinearHead(n_in, n_out)
    phi, phi_dot = rng.normal(size=(2, head.n_params))
    x, x_dot = rng.normal(size=(2, batch, n_in))
    out_bar = rng.normal(size=(batch, n_out))
    W, W_dot = phi[: n_in * n_out].reshape(n_in, n_out), phi_dot[: n_in * n_out].reshape(n_in, n_out)
    out_dot = x_dot @ W + x @ W_dot + phi_dot[n_in * n_out :]
    x_bar, phi_bar = head.vjp(phi, x, out_bar)
    assert x_bar.shape == x.shape and phi_bar.shape == phi.shape
    factors, again = head.pull(phi, x, out_bar)
    assert np.array_equal(np.asarray(factors), x_bar) and np.array_equal(again, phi_bar) and factors.shape == x.shape
    assert np.vdot(out_bar, out_dot) == pytest.approx(np.vdot(x_bar, x_dot) + np.vdot(phi_bar, phi_dot), abs=1e-10)
    by_hand = [
        [sum(x[i, j] * W[j, m] for j in range(n_in)) + phi[n_in * n_out + m] for m in range(n_out)]
        for i in range(batch)
    ]
    np.testing.assert_allclose(head.value(phi, x), by_hand, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_start_and_dtype(dtype):
    head = LinearHead(50, 10)
    phi = head.init(0, dtype)
    assert phi.shape == (head.n_params,) == (510,) and phi.dtype == dtype
    assert (phi == head.init(np.random.default_rng(0), dtype)).all()
    assert (phi[500:] == 0).all()
    limit = np.sqrt(6 / 60)
    assert 0.9 * limit < np.abs(phi[:500]).max() <= limit
    assert phi[:500].std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
    x = np.ones((4, 50), dtype)
    out = head.value(phi, x)
    assert out.dtype == dtype and {array.dtype for array in head.vjp(phi, x, out)} == {np.dtype(dtype)}


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (-1, 2), (2.5, 2), ("3", 2), (True, 2)])
def test_bad_sizes(shape):
    with pytest.raises(InputError, match="whole number"):
        LinearHead(*shape)


def test_bad_seed():
    with pytest.raises(InputError, match="rng must be a seed .*got 'a'"):
        LinearHead(3, 2).init("a")


def test_bad_shapes():
    head = LinearHead(3, 2)
    phi, x = np.zeros(8), np.zeros((5, 3))
    for bad_phi, bad_x in ((np.zeros(7), x), (phi, np.zeros((5, 2))), (phi, np.zeros(3))):
        with pytest.raises(InputError, match="LinearHead"):
            head.value(bad_phi, bad_x)
    for bad in (np.zeros((5, 3)), np.zeros((4, 2)), np.zeros(5)):
        with pytest.raises(InputError, match="out_bar"):
            head.vjp(phi, x, bad)
