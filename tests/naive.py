"""The referee: a neural ODE in plain NumPy, stupid and readable, written from the formulas and not from the library.

Everything on a fixed grid works on complex theta or y as well, so that a complex step gives exact derivatives: absolute
values and maxima in the error scale then follow the real part, and squares are squares, not moduli. A state y is (B, n)
or (n,); norms run over all its entries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import erf


def tanh(z):
    return np.tanh(z)


def softplus(z):
    positive = z.real > 0
    small = np.exp(np.where(positive, -z, z))
    return np.where(positive, z, 0) + np.log1p(small)


ACTIVATIONS = {
    "identity": lambda z: z,
    "tanh": tanh,
    "softplus": softplus,
    "sigmoid": lambda z: (1 + tanh(z / 2)) / 2,
    "sine": np.sin,
    "gelu": lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
    "cube": lambda z: z * z * z,
}


# --- the field --------------------------------------------------------------------------------------------------------


def layers(theta, sizes, time="none"):
    """[(W, w_t, b), ...] from the flat vector: a layer is W (in, out) row-major, w_t (out) if it sees t, b (out)."""
    parts, at = [], 0
    for k in range(len(sizes) - 1):
        rows, columns = sizes[k], sizes[k + 1]
        W = theta[at : at + rows * columns].reshape(rows, columns)
        at += rows * columns
        if time == "every" or (time == "first" and k == 0):
            w_t = theta[at : at + columns]
            at += columns
        else:
            w_t = np.zeros(columns)
        b = theta[at : at + columns]
        at += columns
        parts.append((W, w_t, b))
    assert at == len(theta), f"theta has {len(theta)} entries, the layers take {at}"
    return parts


def n_params(sizes, time="none"):
    total = 0
    for k in range(len(sizes) - 1):
        sees_time = time == "every" or (time == "first" and k == 0)
        total += sizes[k] * sizes[k + 1] + sizes[k + 1] * (2 if sees_time else 1)
    return total


def mlp(t, y, theta, sizes, activation="tanh", time="none", outer="identity", preactivation="identity"):
    """f(t, y; theta), y (B, n): preactivation, hidden layers act(x W + t w_t + b), last layer, outer activation."""
    x = ACTIVATIONS[preactivation](np.asarray(y))
    parts = layers(np.asarray(theta), sizes, time)
    for k, (W, w_t, b) in enumerate(parts):
        z = x @ W + t * w_t + b
        x = ACTIVATIONS[activation](z) if k < len(parts) - 1 else ACTIVATIONS[outer](z)
    return x


# --- one step ---------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One step from y0: the new state, the error vector, scaled error q, stiffness estimate S, lists of stages Y, K.

    With a second error row, err is (2, ...). more() evaluates the stages that only the continuous extension needs.
    """

    y1: np.ndarray
    err: np.ndarray
    q: float
    stiffness: float
    Y: list
    K: list
    more: object


def absolute(y):
    return np.where(y.real < 0, -y, y)


def larger(a, b):
    return np.where(a.real >= b.real, a, b)


def rms(x):
    return np.sqrt(np.mean(x * x))


def scaled_error(err, y0, y1, atol, rtol):
    return rms(err / (atol + rtol * larger(absolute(y0), absolute(y1))))


def step(f, t, h, y0, tableau, rtol, atol, k1=None):
    """One step of a tableau; k1 is f(t, y0) where it is known already."""
    A, b, c, e = tableau.A, tableau.b, tableau.c, tableau.e
    y0 = np.asarray(y0)
    Y, K = [], []
    for i in range(len(b)):
        Yi = y0
        for j in range(i):
            Yi = Yi + h * A[i, j] * K[j]
        Y.append(Yi)
        K.append(k1 if i == 0 and k1 is not None else f(t + c[i] * h, Yi))
    y1, err = y0, 0 * y0
    for i in range(len(b)):
        y1 = y1 + h * b[i] * K[i]
        err = err + h * e[i] * K[i]
    if tableau.fsal:
        y1 = Y[-1]
    S = 0.0
    if tableau.stiffness_pair is not None:
        i, j = tableau.stiffness_pair
        bottom = rms(Y[j] - Y[i])
        S = rms(K[j] - K[i]) / bottom / tableau.stiffness_constant if bottom != 0 else 0.0
    q = scaled_error(err, y0, y1, atol, rtol)
    if tableau.e_low.size:
        low = sum(h * tableau.e_low[i] * K[i] for i in range(len(b)))
        q, err = two_rows(err, low, y0, y1, atol, rtol), np.stack([err, low])

    def more():
        extra = []
        for i in range(len(tableau.extra_c)):
            Yi = y0
            for a, k in zip(tableau.extra_A[i], K + extra, strict=False):
                Yi = Yi + h * a * k
            extra.append(f(t + tableau.extra_c[i] * h, Yi))
        return extra

    return Step(y1, err, q, S, Y, K, more)


def two_rows(err, low, y0, y1, atol, rtol):
    """The estimate of dop853.f, with e and e_3 for the scaled vectors: sum e^2 / sqrt(n (sum e^2 + 0.01 sum e_3^2))."""
    scale = atol + rtol * larger(absolute(y0), absolute(y1))
    square, square_low = np.sum((err / scale) ** 2), np.sum((low / scale) ** 2)
    if square == 0 and square_low == 0:
        return 0.0
    return square / np.sqrt(err.size * (square + 0.01 * square_low))


def dense(y0, h, step, tableau, theta):
    """The state at t0 + theta h of a step, by the published formula of the continuous extension, as dop853.f nests it.

    y0 + theta (dy + (1 - theta) (h K_1 - dy + theta (2 dy - h K_1 - h K_s + (1 - theta) (D_0 + theta (D_1 + ...)))))
    """
    K, h = [*step.K, *step.more()], np.asarray(h)
    bump = np.zeros_like(step.y1)
    for i in reversed(range(len(tableau.dense))):
        bump = bump * (1 - theta if i % 2 else theta) + h * sum(d * k for d, k in zip(tableau.dense[i], K, strict=True))
    dy, first, last = sum(h * b * k for b, k in zip(tableau.b, step.K, strict=True)), h * step.K[0], h * step.K[-1]
    bump = first - dy + theta * (2 * dy - first - last + (1 - theta) * bump)
    return np.asarray(y0) + theta * (dy + (1 - theta) * bump)


# --- a frozen grid ----------------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """Steps over given (t_n, h_n): states y (N + 1, ...), err (N, ...), q (N,), stiffness (N,), and the `Step`s."""

    t: np.ndarray
    h: np.ndarray
    y: np.ndarray
    err: np.ndarray
    q: np.ndarray
    stiffness: np.ndarray
    steps: list


def fixed_grid(f, t, h, y0, tableau, rtol=1e-3, atol=1e-6):
    """Steps that start at t[n] with size h[n], each from the last one's end; no stage is reused between steps."""
    steps, y = [], [np.asarray(y0)]
    for tn, hn in zip(t, h, strict=True):
        steps.append(step(f, tn, hn, y[-1], tableau, rtol, atol))
        y.append(steps[-1].y1)
    err, q, S = (np.array([getattr(s, key) for s in steps]) for key in ("err", "q", "stiffness"))
    return Grid(np.asarray(t), np.asarray(h), np.array(y), err, q, S, steps)


def dense_on_grid(grid, tableau, times):
    """States at times within the grid, (k, ...)."""
    direction = np.sign(grid.h[0])
    out = []
    for time in times:
        n = max(0, np.searchsorted(direction * grid.t, direction * time, side="right") - 1)
        out.append(dense(grid.y[n], grid.h[n], grid.steps[n], tableau, (time - grid.t[n]) / grid.h[n]))
    return np.array(out)


# --- adaptive loops, one a library ------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Attempts (t, h, q, accepted), one a row; y at the times asked for; nfe as the library counts."""

    t: np.ndarray
    h: np.ndarray
    q: np.ndarray
    accepted: np.ndarray
    y: np.ndarray
    nfe: int


class _Counter:
    def __init__(self, f):
        self.f, self.count = f, 0

    def __call__(self, t, y):
        self.count += 1
        return self.f(t, y)


class _Log:
    """Collects attempts, and outputs at times as steps pass them."""

    def __init__(self, times, y0, direction):
        self.rows, self.times, self.direction = [], list(times), direction
        self.y = [y0]

    def attempt(self, t, h, q, accepted):
        self.rows.append((t, h, q, accepted))

    def passed(self, t, h, y, s, tableau, reached):
        while len(self.y) < len(self.times) and self.direction * (reached - self.times[len(self.y)]) >= 0:
            self.y.append(dense(y, h, s, tableau, (self.times[len(self.y)] - t) / h))

    def run(self, nfe):
        t, h, q, accepted = (np.array(column) for column in zip(*self.rows, strict=True))
        return Run(t, h, q, accepted, np.array(self.y), nfe)


def first_step(f, t0, y0, f0, rtol, atol, exponent, direction, limit):
    """Hairer, Norsett & Wanner II.4, with RMS norms."""
    scale = atol + rtol * np.abs(y0)
    d0, d1 = rms(y0 / scale), rms(f0 / scale)
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    h0 = min(h0, limit)
    f1 = f(t0 + direction * h0, y0 + direction * h0 * f0)
    d2 = rms((f1 - f0) / scale) / h0
    h1 = max(1e-6, h0 * 1e-3) if max(d1, d2) <= 1e-15 else (0.01 / max(d1, d2)) ** exponent
    return min(100 * h0, h1, limit)


def solve_scipy(f, times, y0, tableau, rtol, atol):
    """SciPy's RK45 / RK23: lands on the end; q < 1 accepts; h changes by 1/5 to 10, and not up after a rejection."""
    f, t, end = _Counter(f), times[0], times[-1]
    direction, exponent = np.sign(end - t), 1 / (tableau.error_order + 1)
    y, k1 = np.asarray(y0), f(t, y0)
    h = first_step(f, t, y, k1, rtol, atol, exponent, direction, abs(end - t))
    log = _Log(times, y, direction)
    while direction * (end - t) > 0:
        rejected = False
        while True:
            reached = t + direction * h
            if direction * (reached - end) > 0:
                reached = end
            h = abs(reached - t)
            s = step(f, t, reached - t, y, tableau, rtol, atol, k1)
            log.attempt(t, reached - t, s.q, s.q < 1)
            factor = 10 if s.q == 0 else 0.9 * s.q**-exponent
            if s.q < 1:
                h *= min(factor, 10, 1) if rejected else min(factor, 10)
                break
            h *= max(factor, 0.2)
            rejected = True
        log.passed(t, reached - t, y, s, tableau, reached)
        t, y, k1 = reached, s.y1, s.K[-1]
    return log.run(f.count)


def solve_torchdiffeq(f, times, y0, tableau, rtol, atol):
    """torchdiffeq (and JAX): steps past the end and interpolates there; q <= 1 accepts; h grows by at most 10, shrinks
    by at most 5 and only when q >= 1. Backwards in time it solves dy/ds = -f(-s, y) forwards."""
    f, t, end = _Counter(f), times[0], times[-1]
    direction, exponent = np.sign(end - t), 1 / (tableau.error_order + 1)
    y, k1 = np.asarray(y0), f(t, y0)
    h = first_step(f, t, y, k1, rtol, atol, exponent, direction, np.inf)
    log = _Log(times, y, direction)
    while direction * (end - t) > 0:
        s = step(f, t, direction * h, y, tableau, rtol, atol, k1)
        log.attempt(t, direction * h, s.q, s.q <= 1)
        factor = 10 if s.q == 0 else min(10, max(0.9 / s.q**exponent, 1 if s.q < 1 else 0.2))
        if s.q <= 1:
            reached = t + direction * h
            log.passed(t, direction * h, y, s, tableau, reached)
            t, y, k1 = reached, s.y1, s.K[-1]
        h *= factor
    return log.run(f.count)


def solve_ordinarydiffeq(f, times, y0, tableau, rtol, atol, beta1=7 / 50, beta2=2 / 25):
    """OrdinaryDiffEq's PI rule (Tsit5's constants): lands on the end; q <= 1 accepts; f(t0, y0) is counted twice."""
    f, t, end = _Counter(f), times[0], times[-1]
    direction = np.sign(end - t)
    y, k1 = np.asarray(y0), f(t, y0)
    h = first_step(f, t, y, f(t, y0), rtol, atol, 1 / tableau.order, direction, abs(end - t))
    log, before = _Log(times, y, direction), 1e-4
    while direction * (end - t) > 0:
        last = h >= abs(end - t)
        h = min(h, abs(end - t))
        s = step(f, t, direction * h, y, tableau, rtol, atol, k1)
        log.attempt(t, direction * h, s.q, s.q <= 1)
        if s.q <= 1:
            ratio = 0.1 if s.q == 0 else min(5, max(0.1, s.q**beta1 / before**beta2 / 0.9))
            reached = end if last else t + direction * h
            log.passed(t, direction * h, y, s, tableau, reached)
            t, y, k1, before = reached, s.y1, s.K[-1], max(s.q, 1e-4)
        else:
            ratio = min(5, s.q**beta1 / 0.9)
        h /= ratio
    return log.run(f.count)


# --- derivatives ------------------------------------------------------------------------------------------------------


def complex_gradient(value, x, h=1e-30):
    """Gradient of a real-valued function of a real array, exact to rounding: one complex evaluation an entry."""
    x = np.asarray(x, dtype=float)
    gradient = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        shifted = x.astype(complex)
        shifted[index] += 1j * h
        gradient[index] = np.imag(value(shifted)) / h
    return gradient


def difference_gradient(value, x, h=1e-5):
    """Central differences, one entry at a time."""
    x = np.asarray(x, dtype=float)
    gradient = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        gradient[index] = (value(up) - value(down)) / (2 * h)
    return gradient


def jacobian(f, t, y, h=1e-30):
    """(B, n, n): J[b, i, j] = d f_i / d y_j of each sample, by complex steps."""
    y = np.asarray(y, dtype=float)
    J = np.zeros((*y.shape, y.shape[1]))
    for j in range(y.shape[1]):
        shifted = y.astype(complex)
        shifted[:, j] += 1j * h
        J[:, :, j] = np.imag(f(t, shifted)) / h
    return J
