"""Initial value problems whose right-hand sides and parameters are formulas: the same numbers on every machine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from naive import mlp, n_params


class Problem(NamedTuple):
    f: object
    y0: np.ndarray


def lotka_volterra(t, y):
    a, b = y[..., 0], y[..., 1]
    return np.stack([1.5 * a - a * b, a * b - 3.0 * b], axis=-1)


def oscillator(t, y):
    return np.stack([y[..., 1], -y[..., 0]], axis=-1)


def van_der_pol(t, y):
    return np.stack([y[..., 1], 5.0 * (1.0 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], axis=-1)


def forced(t, y):
    return np.cos(3.0 * t) * y - t * np.sin(y[..., ::-1])


SIZES = (2, 16, 16, 2)


def formula_weights(sizes, time, scale=1.0):
    """Parameters in (-scale, scale), from a sine."""
    k = np.arange(1, n_params(sizes, time) + 1)
    return scale * np.sin(1.7 * k + 0.3 * k**2)


def network(time):
    theta = formula_weights(SIZES, time)
    return lambda t, y: mlp(t, y, theta, SIZES, activation="tanh", time=time)


def formula_batch(batch, n):
    k = np.arange(batch * n).reshape(batch, n)
    return np.cos(2.1 * k + 0.5)


PROBLEMS = {
    "lotka_volterra": Problem(lotka_volterra, np.array([[1.0, 1.0]])),
    "oscillator": Problem(oscillator, np.array([[1.0, 0.0]])),
    "van_der_pol": Problem(van_der_pol, np.array([[2.0, 0.0]])),
    "forced": Problem(forced, formula_batch(3, 2)),
    "mlp": Problem(network("none"), formula_batch(8, 2)),
    "mlp_time_first": Problem(network("first"), formula_batch(8, 2)),
    "mlp_time_every": Problem(network("every"), formula_batch(4, 2)),
}
