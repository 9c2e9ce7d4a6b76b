"""Noise and spheres around a linear classifier, where the truth is a formula."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.errors import InputError
from adaptode.experiments.robustness import accuracy, accuracy_under_noise, boundary_distance


def half_space(normal, offset):
    normal = np.asarray(normal, float) / np.linalg.norm(normal)

    def signed_distance(X):
        return X @ normal - offset

    return signed_distance, lambda X: (signed_distance(X) > 0).astype(int)


@given(st.integers(2, 5), st.integers(0, 2**32 - 1), st.floats(-1, 1))
def test_distance_to_a_plane_is_found_on_the_radius_grid(d, seed, offset):
    rng = np.random.default_rng(seed)
    signed_distance, predict = half_space(rng.standard_normal(d), offset)
    X = rng.standard_normal((40, d))
    radii = np.linspace(0.05, 3.0, 60)
    found = boundary_distance(predict, X, radii, n_points=500, rng=rng)
    true = np.minimum(np.abs(signed_distance(X)), radii[-1])
    step = radii[1] - radii[0]
    # A sphere that does not reach the plane keeps its label, always: never below the last radius before the plane.
    assert np.all(found >= true - step - 1e-12)
    if d == 2:  # 500 points on a circle leave no arc wider than a few degrees unseen
        assert np.all(found <= true * 1.02 + step)


def test_more_dimensions_need_more_points():
    signed_distance, predict = half_space(np.ones(8), 0.0)
    X = np.random.default_rng(0).standard_normal((100, 8))
    radii = np.linspace(0.02, 6.0, 300)
    few, many = (boundary_distance(predict, X, radii, n_points=n, rng=1) for n in (4, 2000))
    true = np.abs(signed_distance(X))
    assert np.mean(few - true) > np.mean(many - true) > 0


def test_edges_of_the_search():
    _, predict = half_space([1.0, 0.0], 0.0)
    X = np.array([[0.001, 0.0], [100.0, 0.0], [-0.35, 0.0]])
    assert boundary_distance(predict, X, [0.1, 0.2, 0.3, 0.4], n_points=400, rng=0).tolist() == [0.0, 0.4, 0.3]
    # The label to keep may be the true one: a point that is wrong from the start has distance 0.
    wrong = boundary_distance(predict, X, [0.1, 0.2], labels=np.array([0, 0, 1]), n_points=400, rng=0)
    assert wrong.tolist() == [0.0, 0.0, 0.0]
    assert boundary_distance(predict, X[:0], [0.1]).shape == (0,)


def test_search_stops_at_the_first_sphere_that_fails():
    """A thin shell of another label counts, although larger spheres agree again."""
    X = np.zeros((1, 2))
    found = boundary_distance(lambda P: ((P**2).sum(1) > 0.9) & ((P**2).sum(1) < 1.1), X, [0.5, 1.0, 1.5], rng=0)
    assert found.tolist() == [0.5]


def test_same_seed_same_distances():
    _, predict = half_space([1.0, 2.0], 0.1)
    X = np.random.default_rng(0).standard_normal((50, 2))
    radii = np.linspace(0.01, 2, 100)
    first, again, other = (boundary_distance(predict, X, radii, n_points=3, rng=seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_accuracy_under_noise_follows_the_normal_law():
    """A point at distance a from the plane keeps its side with probability Φ(a / std)."""
    _, predict = half_space([1.0, 0.0], 0.0)
    n, a = 20_000, 0.5
    X = np.tile([a, 0.0], (n, 1))
    stds = np.array([0.0, 0.25, 0.5, 2.0])
    found = accuracy_under_noise(predict, X, np.ones(n), stds, rng=0)
    expected = [1.0] + [0.5 * (1 + math.erf(a / std / math.sqrt(2))) for std in stds[1:]]
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / math.sqrt(n))
    assert found[0] == accuracy(predict, X, np.ones(n)) == 1.0
    assert np.array_equal(found, accuracy_under_noise(predict, X, np.ones(n), stds, rng=0))


@pytest.mark.parametrize("radii", [[], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, np.nan], [-1.0], 1.0])
def test_bad_radii(radii):
    with pytest.raises(InputError, match="radii"):
        boundary_distance(lambda X: X[:, 0] > 0, np.zeros((2, 2)), radii)


def test_bad_counts_and_levels():
    with pytest.raises(InputError, match="n_points"):
        boundary_distance(lambda X: X[:, 0] > 0, np.zeros((2, 2)), [1.0], n_points=0)
    for stds in ([-1.0], [np.inf], 0.5):
        with pytest.raises(InputError, match="noise levels"):
            accuracy_under_noise(lambda X: X[:, 0] > 0, np.zeros((2, 2)), np.zeros(2), stds)
