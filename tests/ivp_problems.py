"""Random initial value problems f(t, y) of one state (n,), real or complex, and guards for tests of solve_ivp."""

from __future__ import annotations

import contextlib
import signal
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from strategies import seeds, spans


class System(NamedTuple):
    f: object
    y0: np.ndarray
    span: tuple[float, float]


def linear(rng, n, number):
    A, b, w = number(n, n) / np.sqrt(n), number(n), rng.uniform(1, 3)
    return lambda t, y: A @ y + b * np.cos(w * t)


def network(rng, n, number):
    W1, W2, v = number(5, n), number(n, 5) / np.sqrt(5), number(5)
    return lambda t, y: W2 @ np.tanh(W1 @ y + v * t) - 0.3 * y


def rotation(rng, n, number):
    """Energy is kept: the matrix is skew, and depends on y."""
    S = number(n, n)
    S = S - S.conj().T
    return lambda t, y: (S @ y) * (1 + abs(y[0]) ** 2 + np.sin(2 * t)) / n


def pendulums(rng, n, number):
    w, c = rng.uniform(1, 3, n), 0.3 * number(n)
    return lambda t, y: np.roll(y, 1) * w * np.cos(abs(y)) - c * y


REAL = (linear, network, rotation, pendulums)
COMPLEX = (linear, rotation, pendulums)  # tanh has poles


@st.composite
def systems(draw, complex=False, kinds=None, longest=3.0, largest=5):
    kind, n, seed, span = draw(st.sampled_from(kinds or (COMPLEX if complex else REAL))), draw(st.integers(1, largest)), draw(seeds), draw(spans(longest))
    rng = np.random.default_rng(seed)

    def number(*shape):
        x = rng.normal(size=shape)
        return x + 1j * rng.normal(size=shape) if complex else x

    f = kind(rng, n, number)
    return System(f, number(n), span)


# not so tight that the errors of the first steps, and so the sizes of the next, are rounding
tolerances = st.tuples(st.sampled_from([1e-3, 1e-4, 1e-5, 1e-6]), st.sampled_from([1e-3, 1e-4, 1e-5, 1e-6]))


@contextlib.contextmanager
def promptly(seconds=20.0):
    """Fails what takes longer, a hang in Python code included."""

    def stop(number, frame):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
