"""Referees of Taylor coefficients that know nothing of recursions."""

from __future__ import annotations

import numpy as np


def along(f, t, path):
    """Coefficients f_0 … f_{K−1} of f(t + τ, Σ_k path[k] τᵏ) by Cauchy's integral, and the error that rounding may leave in each.

    f(t, y) takes complex numbers and is analytic; the circle is small against the path's own scale, so that 32 points see no singularity.
    """
    orders, points = len(path) - 1, 32
    scale = max(np.abs(path[k]).max() ** (1 / k) for k in range(1, orders + 1))
    radius = 0.1 / max(scale, 1.0)
    tau = radius * np.exp(2j * np.pi * np.arange(points) / points)
    values = np.array([f(t + s, sum(c * s**k for k, c in enumerate(path))) for s in tau])
    waves = np.exp(-2j * np.pi * np.outer(np.arange(orders), np.arange(points)) / points) / points
    coefficients = np.tensordot(waves, values, 1).real / radius ** np.arange(orders)[:, None, None]
    return coefficients, 1e-13 * np.abs(values).max() / radius ** np.arange(orders)


def assert_solves(f, t, path):
    """Every coefficient of a path is the one that y' = f(t, y) asks for: (k + 1) path[k + 1] = f_k."""
    expected, error = along(f, t, path)
    for k, (want, allowed) in enumerate(zip(expected, error, strict=True)):
        np.testing.assert_allclose((k + 1) * path[k + 1], want, rtol=1e-9, atol=10 * allowed, err_msg=f"order {k + 1}")
