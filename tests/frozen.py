"""What the tests of derivatives share: the library's field of a `Network`, and the referee on a run's grid.

All of it works on complex theta and y, so that one complex step along a direction referees a whole gradient.
"""

from __future__ import annotations

import naive
import numpy as np
from scipy.special import erf

from adaptode.fields import MLP

SLOPES = {
    "identity": lambda z: 1 + 0 * z,
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "softplus": lambda z: (1 + np.tanh(z / 2)) / 2,
    "sigmoid": lambda z: (1 - np.tanh(z / 2) ** 2) / 4,
    "sine": np.cos,
    "gelu": lambda z: (1 + erf(z / np.sqrt(2))) / 2 + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi),
    "cube": lambda z: 3 * z * z,
}


def field_of(network):
    """The library's field of a `strategies.Network`."""
    return MLP(network.sizes, **network.options)


def draw_like(seed, *arrays):
    """Standard normal arrays of the shapes of `arrays`."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=np.shape(a)) for a in arrays]


def naive_jvp(network, t, y, theta, y_dot):
    """(df/dy) y_dot by the forward formula, layer by layer; y and y_dot (B, n)."""
    x, x_dot = naive.ACTIVATIONS[network.preactivation](y), SLOPES[network.preactivation](y) * y_dot
    parts = naive.layers(theta, network.sizes, network.time)
    for k, (W, w_t, b) in enumerate(parts):
        name = network.activation if k < len(parts) - 1 else network.outer
        z = x @ W + t * w_t + b
        x, x_dot = naive.ACTIVATIONS[name](z), SLOPES[name](z) * (x_dot @ W)
    return x_dot


def naive_jacobian(network, t, y, theta):
    """(B, n, n), J[b, i, j] = df_i/dy_j, column by column."""
    columns = [naive_jvp(network, t, y, theta, np.broadcast_to(e, y.shape)) for e in np.eye(y.shape[1])]
    return np.stack(columns, axis=2)


def frozen(run, f, y0):
    """The referee's steps over the grid that `run` accepted, from y0, with the field f(t, y)."""
    t, h = run.grid[:-1], np.diff(run.grid)
    return naive.fixed_grid(f, t, h, y0, run.method, per_entry(run.rtol, y0), per_entry(run.atol, y0))


def per_entry(tolerance, y):
    """A run's tolerance in the shape of a state."""
    return tolerance[0] if tolerance.size == 1 else tolerance.reshape(np.shape(y))


def states_at(run, grid, times):
    """The referee's states at times within the grid; what a span of length zero has is its start."""
    return naive.dense_on_grid(grid, run.method, times) if len(grid.h) else np.array([grid.y[0]] * len(times))


def assert_directional(got, expected, scale, rtol=1e-9):
    """One directional derivative against the referee's, relative to the size `scale` of what was summed."""
    assert abs(got - expected) <= rtol * (scale + abs(expected)), (
        f"{got!r}, but the referee has {expected!r} ({scale=:.3g})"
    )


# --- penalties --------------------------------------------------------------------------------------------------------


def step_size(run, network, t, u, rule):
    """The h of `LocalError`: the accepted step that starts at or contains t, cut at the end; or the first-step rule."""
    direction = np.sign(run.tspan[1] - run.tspan[0])
    left = abs(run.tspan[1] - t)
    if rule == "solver":
        n = max(k for k in range(run.grid.size - 1) if direction * run.grid[k] <= direction * t)
        return direction * min(abs(run.grid[n + 1] - run.grid[n]), left)
    rtol, atol = per_entry(run.rtol, u), per_entry(run.atol, u)
    exponent = 1 / (run.method.error_order + 1)
    return direction * naive.first_step(network.naive, t, u, network.naive(t, u), rtol, atol, exponent, direction, left)


def local_penalty(run, network, t, h, theta, y0, estimate="error", detach=()):
    """`LocalError`'s value at (t, h) as a function of theta and y0; what is detached keeps the values of the run."""
    u = states_at(run, frozen(run, network.naive, network.y), [t])[0]
    k1 = network.naive(t, u) if "k1" in detach else None
    if "state" not in detach:
        u = states_at(run, frozen(run, lambda s, y: network.naive(s, y, theta), y0), [t])[0]
    rtol, atol = per_entry(run.rtol, u), per_entry(run.atol, u)
    s = naive.step(lambda s, y: network.naive(s, y, theta), t, h, u, run.method, rtol, atol, k1)
    return s.q * abs(h) if estimate == "error" else s.stiffness


def frobenius(J):
    return np.sqrt(np.sum(J * J, axis=(1, 2)))


def singular_values_2x2(J):
    """(s_1, s_2) of (B, 2, 2) matrices, analytic in their entries."""
    a, b, c, d = J[:, 0, 0], J[:, 0, 1], J[:, 1, 0], J[:, 1, 1]
    p, m = np.sqrt((a + d) ** 2 + (b - c) ** 2), np.sqrt((a - d) ** 2 + (b + c) ** 2)
    return (p + m) / 2, naive.absolute(p - m) / 2


def jacobian_measure(J, kind, floor=1e-4):
    """||J||_F, the largest singular value or the (bounded) condition number of 2 x 2 Jacobians, one a sample."""
    if kind == "frobenius":
        return frobenius(J)
    largest, smallest = singular_values_2x2(J)
    return largest if kind == "spectral" else largest / np.sqrt(smallest**2 + (floor * largest) ** 2)
