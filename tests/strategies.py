"""Hypothesis strategies: small networks and their parameters, states, spans, tolerances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from naive import mlp, n_params

SMOOTH = ("identity", "tanh", "softplus", "sigmoid", "sine", "gelu", "cube")
HIDDEN = tuple(name for name in SMOOTH if name != "cube")  # a cube in hidden layers blows up for parameters of size 1
TIMES = ("none", "first", "every")
ADAPTIVE = ("Tsit5", "Dopri5", "Dopri5_Shampine", "BS32", "DOP853")
METHODS = (*ADAPTIVE, "RK4", "Euler")

seeds = st.integers(0, 2**32 - 1)
activations = st.sampled_from(HIDDEN)
time_modes = st.sampled_from(TIMES)
methods = st.sampled_from(METHODS)
adaptive_methods = st.sampled_from(ADAPTIVE)


class Network(NamedTuple):
    """An MLP field, its parameters, and states of a batch: all that a test of a derivative needs."""

    sizes: tuple[int, ...]
    activation: str
    time: str
    outer: str
    preactivation: str
    theta: np.ndarray
    y: np.ndarray
    t: float

    @property
    def options(self):
        """The keyword arguments that `adaptode.fields.MLP` and `naive.mlp` share, besides the sizes."""
        return {
            "activation": self.activation,
            "time": self.time,
            "outer": self.outer,
            "preactivation": self.preactivation,
        }

    def naive(self, t, y, theta=None):
        """The field by the referee."""
        return mlp(t, y, self.theta if theta is None else theta, self.sizes, **self.options)


@st.composite
def sizes(draw, max_width=5, max_hidden=3):
    """(n, hidden widths ..., n): up to `max_hidden` hidden layers, none included."""
    n = draw(st.integers(1, 4))
    hidden = draw(st.lists(st.integers(1, max_width), max_size=max_hidden))
    return (n, *hidden, n)


def parameters(seed, shape, time="none", scale=1.0):
    """Weights of standard deviation scale / sqrt(fan-in), shifts and time weights of 0.5 scale."""
    rng = np.random.default_rng(seed)
    parts = []
    for k, (rows, columns) in enumerate(zip(shape[:-1], shape[1:], strict=True)):
        parts.append(scale * rng.normal(size=rows * columns) / np.sqrt(rows))
        sees_time = time == "every" or (time == "first" and k == 0)
        parts.append(0.5 * scale * rng.normal(size=columns * (2 if sees_time else 1)))
    theta = np.concatenate(parts)
    assert theta.size == n_params(shape, time)
    return theta


@st.composite
def networks(draw, max_batch=4, activation=activations, outer=None, preactivation=None, min_dimension=1):
    """A `Network` whose flow stays finite; activation, outer and preactivation are strategies."""
    shape = draw(sizes().filter(lambda s: s[0] >= min_dimension))
    time, seed = draw(time_modes), draw(seeds)
    rng = np.random.default_rng(seed)
    usual = st.sampled_from(("identity", "identity", "cube", "sine"))
    before = draw(usual if preactivation is None else preactivation)
    after = draw(st.sampled_from(("identity", "identity", "tanh", "sigmoid")) if outer is None else outer)
    if before == "cube" and outer is None:
        after = "tanh"  # y' = y^3 is infinite in finite time
    within = draw(activation)
    if after == "sine" and "cube" in (before, within):
        after = "identity"  # cubes of cubes reach 1e10, of whose sine rounding leaves nothing
    return Network(
        sizes=shape,
        activation=within,
        time=time,
        outer=after,
        preactivation=before,
        theta=parameters(seed, shape, time),
        y=rng.uniform(-1.5, 1.5, size=(draw(st.integers(1, max_batch)), shape[0])),
        t=float(rng.uniform(-1, 1)),
    )


@st.composite
def spans(draw, longest=2.0):
    """(t0, t1), forwards or backwards, of length 0.1 to `longest`."""
    t0 = draw(st.floats(-2, 2).map(lambda x: round(x, 3)))
    length = draw(st.floats(0.1, longest).map(lambda x: round(x, 3)))
    return (t0, t0 + draw(st.sampled_from([1, -1])) * length)


@st.composite
def tolerances(draw, tightest=-9, loosest=-3):
    """(rtol, atol), powers of ten apart by up to 1000."""
    power = draw(st.integers(tightest, loosest))
    return 10.0**power, 10.0 ** min(loosest, power + draw(st.integers(-3, 3)))


@st.composite
def grids(draw, max_steps=4, largest=0.4):
    """A frozen grid: starts t (N,) and sizes h (N,) of unequal steps, one after the other, forwards or backwards."""
    sign = draw(st.sampled_from([1, -1]))
    h = sign * np.array(
        draw(st.lists(st.floats(0.05, largest).map(lambda x: round(x, 3)), min_size=1, max_size=max_steps))
    )
    t0 = draw(st.floats(-1, 1).map(lambda x: round(x, 3)))
    return np.concatenate([[t0], t0 + np.cumsum(h)[:-1]]), h
