"""The problems: initial values, parameters, right-hand sides in the forms that libraries want, and where the solution ends.

A right-hand side is written down twice, and three times for Pleiades: `formula` gives a list of scalars and works on whatever has arithmetic (floats,
tracers, symbols), `fill` writes into dy as compiled code wants it, `vector` is array code for whoever pays by the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Problem:
    """y' = f(t, y, p) from y(0) = y0 to t1, whose solution at t_check is `reference`, good to 1e-15 relative to its largest component.

    References come from a Taylor method in 80-bit arithmetic at tolerances 1e-19 and 1e-21, which agree to that; tests/test_bench.py has DOP853 agree too.
    """

    key: str
    title: str
    formula: Callable[..., list[Any]]
    fill: Callable[..., None]
    y0: tuple[float, ...]
    p: tuple[float, ...]
    t1: float
    reference: tuple[float, ...]
    t_check: float = 0.0
    vector: Callable[..., Any] | None = None
    note: str = ""

    @property
    def check(self) -> float:
        return self.t_check or self.t1

    @property
    def python(self) -> Callable[..., Any]:
        """f(t, y, p) as one would write it for SciPy."""
        return self.vector or self.formula

    def stacked(self, xp: Any) -> Callable[..., Any]:
        """f(t, y, p) -> array of the library xp (jax.numpy, torch)."""
        if self.vector is not None:
            return lambda t, y, p: self.vector(t, y, p, xp)
        return lambda t, y, p: xp.stack(self.formula(t, y, p))

    def error(self, y: Sequence[float]) -> float:
        """Largest error of a component at t_check, relative to the largest component there."""
        reference = np.array(self.reference)
        return float(np.max(np.abs(np.asarray(y, float) - reference)) / np.max(np.abs(reference)))


def lorenz(t, y, p):
    sigma, rho, beta = p
    return [sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]]


def lorenz_fill(t, y, p, dy):
    dy[0] = p[0] * (y[1] - y[0])
    dy[1] = y[0] * (p[1] - y[2]) - y[1]
    dy[2] = y[0] * y[1] - p[2] * y[2]


def lotka_volterra(t, y, p):
    a, b, c, d = p
    return [a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]]


def lotka_volterra_fill(t, y, p, dy):
    dy[0] = p[0] * y[0] - p[1] * y[0] * y[1]
    dy[1] = p[3] * y[0] * y[1] - p[2] * y[1]


def van_der_pol(t, y, p):
    return [y[1], p[0] * (1.0 - y[0] * y[0]) * y[1] - y[0]]


def van_der_pol_fill(t, y, p, dy):
    dy[0] = y[1]
    dy[1] = p[0] * (1.0 - y[0] * y[0]) * y[1] - y[0]


def arenstorf(t, y, p):
    """A satellite about the earth and the moon, in their rotating frame: a closed orbit."""
    mu = p[0]
    nu = 1.0 - mu
    x, z, u, v = y
    earth = ((x + mu) * (x + mu) + z * z) ** 1.5
    moon = ((x - nu) * (x - nu) + z * z) ** 1.5
    return [
        u,
        v,
        x + 2.0 * v - nu * (x + mu) / earth - mu * (x - nu) / moon,
        z - 2.0 * u - nu * z / earth - mu * z / moon,
    ]


def arenstorf_fill(t, y, p, dy):
    mu = p[0]
    nu = 1.0 - mu
    x, z, u, v = y[0], y[1], y[2], y[3]
    earth = (x + mu) * (x + mu) + z * z
    moon = (x - nu) * (x - nu) + z * z
    earth *= earth**0.5
    moon *= moon**0.5
    dy[0] = u
    dy[1] = v
    dy[2] = x + 2.0 * v - nu * (x + mu) / earth - mu * (x - nu) / moon
    dy[3] = z - 2.0 * u - nu * z / earth - mu * z / moon


def pleiades(t, y, p):
    """Seven stars of masses p in a plane: y is x (7), z (7), and their velocities."""
    ax, az = [0.0] * 7, [0.0] * 7
    for i in range(7):
        for j in range(i):
            dx, dz = y[j] - y[i], y[7 + j] - y[7 + i]
            pull = (dx * dx + dz * dz) ** -1.5
            gx, gz = dx * pull, dz * pull
            ax[i], az[i] = ax[i] + p[j] * gx, az[i] + p[j] * gz
            ax[j], az[j] = ax[j] - p[i] * gx, az[j] - p[i] * gz
    return [*y[14:], *ax, *az]


def pleiades_fill(t, y, p, dy):
    for i in range(14):
        dy[i] = y[14 + i]
        dy[14 + i] = 0.0
    for i in range(7):
        for j in range(i):
            dx, dz = y[j] - y[i], y[7 + j] - y[7 + i]
            cube = dx * dx + dz * dz
            cube *= cube**0.5
            gx, gz = dx / cube, dz / cube
            dy[14 + i] += p[j] * gx
            dy[21 + i] += p[j] * gz
            dy[14 + j] -= p[i] * gx
            dy[21 + j] -= p[i] * gz


_EYE = np.eye(7)


def pleiades_vector(t, y, p, xp=np):
    x, z = y[:7], y[7:14]
    dx, dz = x[None, :] - x[:, None], z[None, :] - z[:, None]
    cube = (dx * dx + dz * dz + (_EYE if xp is np else xp.eye(7))) ** 1.5  # a star does not pull itself: dx = dz = 0 there
    return xp.concatenate([y[14:], (p * dx / cube).sum(1), (p * dz / cube).sum(1)])


_LORENZ = {"formula": lorenz, "fill": lorenz_fill, "y0": (1.0, 1.0, 1.0), "p": (10.0, 28.0, 8 / 3)}
_LORENZ_AT_10 = (-4.9026875411346484, -3.743872921802919, 24.690858102790564)
_CHAOS = "its solution at 100 is beyond double precision: the error is that of a solve from 0 to 10 at the same tolerance"

PROBLEMS: dict[str, Problem] = {
    problem.key: problem
    for problem in (
        Problem("lorenz-10", "Lorenz, 0–10", **_LORENZ, t1=10.0, reference=_LORENZ_AT_10),
        Problem("lorenz-100", "Lorenz, 0–100", **_LORENZ, t1=100.0, reference=_LORENZ_AT_10, t_check=10.0, note=_CHAOS),
        Problem(
            "lotka-volterra", "Lotka–Volterra, 0–10", lotka_volterra, lotka_volterra_fill, (1.0, 1.0), (1.5, 1.0, 3.0, 1.0), 10.0,
            (1.0263447675750894, 0.90969107813604166),
        ),  # fmt: skip
        Problem(
            "arenstorf", "Arenstorf orbit, one period", arenstorf, arenstorf_fill, (0.994, 0.0, 0.0, -2.0015851063790825), (0.012277471,),
            17.065216560157964, (0.99399999999997413, -8.8244473668373503e-14, -1.4338793546335004e-11, -2.0015851063831147),
        ),  # fmt: skip
        Problem(
            "pleiades", "Pleiades, 0–3", pleiades, pleiades_fill,
            (3.0, 3.0, -1.0, -3.0, 2.0, -2.0, 2.0, 3.0, -3.0, 2.0, 0.0, 0.0, -4.0, 4.0)
            + (0.0, 0.0, 0.0, 0.0, 0.0, 1.75, -1.5, 0.0, 0.0, 0.0, -1.25, 1.0, 0.0, 0.0),
            (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), 3.0,
            (
                0.37061391439705199, 3.2372840920572332, -3.2225590324183235, 0.65970914557753091, 0.34255817071565803, 1.5621721014006309,
                -0.70030929222124971, -3.9434375855173909, -3.2713809739725499, 5.225081843456544, -2.5906124349774693, 1.1982136933922745,
                -0.24296823449358235, 1.0914492404289797, 3.4170038063143169, 1.3545845016255011, -2.5900655978107752, 2.0250537347142408,
                -1.1558151001604484, -0.80729881702230222, 0.59523963542087133, -3.7412449612340071, 0.37734596857506292, 0.93868588695510768,
                0.36679222272005696, -0.34740463538084937, 2.3449154481809371, -1.947020434263292,
            ),
            vector=pleiades_vector,
        ),  # fmt: skip
        Problem(
            "van-der-pol", "van der Pol, μ = 5, 0–20", van_der_pol, van_der_pol_fill, (2.0, 0.0), (5.0,), 20.0,
            (-1.6012968795428539, 0.19832667633866208),
        ),  # fmt: skip
    )
}  # fmt: skip
