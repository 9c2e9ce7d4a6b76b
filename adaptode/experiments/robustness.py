"""A classifier away from its data: accuracy under noise, distance to the decision boundary [JB22]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

Predict = Callable[[NDArray], NDArray]
"""Labels (N,) of points (N, d)."""


def accuracy(predict: Predict, X: NDArray, y: NDArray) -> float:
    """The fraction of the points X (N, d) whose predicted label is y (N,)."""
    return float(np.mean(predict(X) == y))


def accuracy_under_noise(predict: Predict, X: NDArray, y: NDArray, stds: ArrayLike, *, rng: np.random.Generator | int | None = None) -> NDArray[np.float64]:
    """Accuracy on X + std · ε, ε ~ N(0, I), for each std (k,) in units of X; std 0 is the clean accuracy.

    One ε is drawn and scaled, so that the curve along `stds` shows the classifier and not the draw.
    """
    stds = np.asarray(stds, float)
    if stds.ndim != 1 or not np.all(np.isfinite(stds)) or np.any(stds < 0):
        raise InputError(f"noise levels must be a vector of finite numbers >= 0, got {stds}")
    noise = np.random.default_rng(rng).standard_normal(X.shape)
    return np.array([accuracy(predict, X + std * noise, y) for std in stds])


def boundary_distance(
    predict: Predict,
    X: NDArray,
    radii: ArrayLike,
    *,
    labels: NDArray | None = None,
    n_points: int = 32,
    rng: np.random.Generator | int | None = None,
) -> NDArray[np.float64]:
    """Distance of each point to the decision boundary, by spheres of growing radius [JB22].

    dist(x) = the largest radius such that on its sphere and on every smaller one all sampled points keep the label of x

    X        : (N, d) points; pass the correctly classified ones
    radii    : (k,) increasing and positive, units of X: the linear search
    labels   : (N,) labels to keep; default predict(X)
    n_points : points drawn uniformly on each sphere
    returns  : (N,) values of `radii`; 0 where the first sphere already meets another label, radii[-1] where none does

    The spacing of `radii` is the resolution; too few points overestimate, as the cap beyond the boundary can be missed.
    """
    radii = np.asarray(radii, float)
    if radii.ndim != 1 or radii.size == 0 or not np.all(np.isfinite(radii)) or radii[0] <= 0 or np.any(np.diff(radii) <= 0):
        raise InputError(f"radii must be finite, positive and increasing, got {radii}")
    if n_points < 1:
        raise InputError(f"n_points must be at least 1, got {n_points}")
    rng = np.random.default_rng(rng)
    X = np.asarray(X, float)
    labels = predict(X) if labels is None else np.asarray(labels)
    distance = np.zeros(len(X))
    inside = np.arange(len(X))  # the points whose label no sphere has left so far
    for radius in radii:
        if inside.size == 0:
            break
        direction = rng.standard_normal((inside.size, n_points, X.shape[1]))
        direction /= np.linalg.norm(direction, axis=2, keepdims=True)
        around = (X[inside, None, :] + radius * direction).reshape(-1, X.shape[1])
        kept = np.all(predict(around).reshape(inside.size, n_points) == labels[inside, None], axis=1)
        inside = inside[kept]
        distance[inside] = radius
    return distance
