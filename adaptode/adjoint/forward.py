"""Forward sensitivities: the tangents of the same steps on the run's own grid; the oracle of `discrete`, and the matrices ∂y/∂θ where θ is short.

For a direction in which y₀, θ and the ends of the span move, with J = ∂f/∂y and (ṫ, ḣ) the step's own share (`ends`):

(1)  Ẏ_i = ẏ₀ + h Σ a_ij K̇_j + ḣ Σ a_ij K_j,    K̇_i = J(Y_i) Ẏ_i + ∂f/∂θ θ̇ + ∂f/∂t (ṫ + c_i ḣ)
(2)  ẏ₁ = ẏ₀ + h Σ b_j K̇_j + ḣ Σ b_j K_j
(3)  at the fraction x of a step:   ẏ = ẏ₀ + h Σ w_j K̇_j + ḣ Σ w_j K_j + ẋ h Σ w_j′ K_j,    ẋ = (ṡ − ṫ − x ḣ)/h,   ṡ = 1 for t₁ at outputs at t₁

for n + P + 2 directions at once: those of y₀, of θ, t₀ and t₁. Samples of a batch do not see each other, so that one direction serves a component of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..dense import dense_weights, locate
from ..errors import FieldError, InputError
from ..fields.protocol import Array
from ..solution import Run
from ..step import bound_stages, combine, finish
from .gradient import Gradient, check_run, outputs


class Sensitivities(NamedTuple):
    """Derivatives of states (B, n), or of k of them with k in front.

    y0 (B, n, n)   ∂y_i/∂y0_j of each sample          theta (B, n, P)
    t0, t1 (B, n)  in the ends of the span, as in `Gradient`; None for a field without `time_vjp`
    """

    y0: Array
    theta: Array
    t0: Array | None
    t1: Array | None


def forward(run: Run, y_bar: ArrayLike | None = None, *, jumps: Iterable[tuple[float, ArrayLike]] | None = None) -> Gradient:
    """The gradient of what a run computed, by forward sensitivities: that of `discrete`, to rounding, without its transposes.

    run    of `solve`, successful, whatever it kept             y_bar, jumps   as in `discrete`

    Cost, a stage: ∂f/∂y from the field's `jacobian`, `jvp` or `vjp`, whichever it has first, and ∂f/∂θ by B n pullbacks of unit cotangents.
    Memory: the tangents of one step, (s + 2) B n (n + P + 2) numbers. For few parameters, and for checks.
    FieldError for a field in which one sample sees another.
    """
    check_run(run, "forward")
    if y_bar is None and jumps is None:
        raise InputError("forward needs a cotangent: y_bar, the gradient of a loss with respect to run.y1 or run.y, or jumps")
    pairs = outputs(run, y_bar, jumps)
    tangents = _Tangents(run)
    y0_bar, rest = np.zeros(run.end.shape), np.zeros(run.field.n_params + 2)
    for i, y_dot in tangents.at(np.array([t for t, _ in pairs])):
        bar = pairs[i][1].reshape(run.end.shape).astype(np.float64)
        y0_bar += np.einsum("bi,bij->bj", bar, y_dot[:, :, : run.field.n])
        rest += np.einsum("bi,bip->p", bar, y_dot[:, :, run.field.n :])
    t0, t1 = (float(x) for x in rest[-2:]) if tangents.timed else (None, None)
    return Gradient(y0_bar.astype(run.end.dtype), rest[:-2].astype(run.end.dtype), t0, t1, tangents.evaluations)


def sensitivities(run: Run, t: ArrayLike | None = None) -> Sensitivities:
    """∂y/∂y₀, ∂y/∂θ, ∂y/∂t₀ and ∂y/∂t₁ of run.y1, or of the dense output at times t, a number or (k,).

    Cost and errors as those of `forward`.
    """
    check_run(run, "sensitivities")
    n, tangents = run.field.n, _Tangents(run)
    times = np.atleast_1d(np.asarray(run.tspan[1] if t is None else t, dtype=np.float64))
    out = np.empty((times.size, *run.end.shape, tangents.directions), run.end.dtype)
    for i, y_dot in tangents.at(times):
        out[i] = y_dot
    if np.ndim(0.0 if t is None else t) == 0:
        out = out[0]
    ends = (out[..., -2], out[..., -1]) if tangents.timed else (None, None)
    return Sensitivities(out[..., :n], out[..., n:-2], *ends)


class _Tangents:
    """The run's steps with their tangents; columns of a tangent (B, n, n + P + 2): y₀, θ, t₀, t₁."""

    def __init__(self, run: Run) -> None:
        self.run, self.field = run, run.field
        self.batch, self.n = run.end.shape
        self.directions = self.n + self.field.n_params + 2
        self.timed = self.field.has("time_vjp") and run.grid.size > 1
        self.evaluations = 0
        self.dtype = run.end.dtype

    def at(self, times: Array) -> Iterator[tuple[int, Array]]:
        """(i, ẏ at times[i]) for every time, in the order of the steps."""
        run, tab, size = self.run, self.run.method.coefficients(self.dtype), self.run.end.size
        steps, where = run.grid.size - 1, locate(run, times)
        tangent = np.zeros((*run.end.shape, self.directions), self.dtype)
        tangent[:, :, : self.n] = np.eye(self.n, dtype=self.dtype)
        if steps == 0:
            yield from ((i, tangent) for i in range(times.size))
            return
        y, y1, err = run.y0.ravel().copy(), np.empty(size, self.dtype), np.empty(run.method.estimates * size, self.dtype)
        s, total = tab.b.size, tab.c.size
        Y, K = (np.empty((total, size), self.dtype) for _ in range(2))
        K_dot = np.empty((total, tangent.size), self.dtype)
        bound = self.field.bind(run.theta, self.batch, self.dtype)
        passes = run.grid[-1] != run.tspan[1]
        for n in range(steps):
            t, h = run.grid[n], run.grid[n + 1] - run.grid[n]
            moves = np.zeros((2, self.directions))  # ṫ and ḣ
            if n == 0:
                moves[:, -2] = 1.0, -1.0
            if n == steps - 1 and not passes:
                moves[1, -1] = 1.0
            here = [(int(i), (times[i] - t) / h) for i in np.flatnonzero(where == n)]
            last = total if any(0.0 < x < 1.0 or x > 1.0 for _, x in here) else s
            bound_stages(bound, tab, t, h, y, 0, last, Y, K)
            self.evaluations += last
            for i in range(last):
                Y_dot = self._moved(tangent, h, tab.A[i], K, K_dot, i, moves[1])  # (1)
                K_dot[i] = self._slope(t + tab.c[i] * h, Y[i].reshape(run.end.shape), Y_dot, moves[0] + tab.c[i] * moves[1]).ravel()
            end = self._moved(tangent, h, tab.b, K, K_dot, s, moves[1])  # (2)
            for i, x in here:
                if x in (0.0, 1.0):
                    yield i, end if x == 1.0 else tangent
                    continue
                x_dot = -(moves[0] + x * moves[1]) / h  # (3)
                if times[i] == run.tspan[1]:
                    x_dot[-1] += 1.0 / h
                along = (h * (run.method.slopes(x) @ K)).reshape(run.end.shape)
                yield i, self._moved(tangent, h, dense_weights(tab, x), K, K_dot, total, moves[1]) + (along[:, :, None] * x_dot).astype(self.dtype)
            finish(tab, h, y, K, Y, run.atol, run.rtol, y1, err)
            y[:], tangent = y1, end

    def _moved(self, tangent: Array, h: float, weights: Array, K: Array, K_dot: Array, m: int, h_dot: Array) -> Array:
        """ẏ + h Σ_{j<m} weights_j K̇_j + ḣ Σ_{j<m} weights_j K_j."""
        out = np.empty(tangent.size, self.dtype)
        combine(tangent.ravel(), h, weights, 0, K_dot, m, out, 0)
        out = out.reshape(tangent.shape)
        if h_dot.any() and m > 0:
            out += ((weights[:m] @ K[:m]).reshape(self.run.end.shape)[:, :, None] * h_dot).astype(self.dtype)
        return out

    def _slope(self, t: float, y: Array, y_dot: Array, t_dot: Array) -> Array:
        """K̇ of equation (1)."""
        field, theta, n = self.field, self.run.theta, self.n
        jacobian, by_theta = np.empty((*y.shape, n), self.dtype), np.empty((*y.shape, field.n_params), self.dtype)
        if field.has("jacobian"):
            jacobian[:] = field.jacobian(t, y, theta)
        elif field.has("jvp"):
            for j in range(n):
                jacobian[:, :, j] = field.jvp(t, y, theta, np.broadcast_to(np.eye(n)[j], y.shape))
        transposed = not (field.has("jacobian") or field.has("jvp"))
        by_time = np.zeros(y.shape)
        self.evaluations += 0 if transposed else n
        for b, i in np.ndindex(*y.shape):
            w = np.zeros_like(y)
            w[b, i] = 1.0
            if transposed or field.n_params:
                y_bar, by_theta[b, i] = field.vjp(t, y, theta, w)
                self.evaluations += 2
                if transposed:
                    jacobian[b, i] = y_bar[b]
                y_bar[b] = 0.0
                if y_bar.any():
                    raise FieldError(f"{field!r} lets one sample see another, so its sensitivities are not those of single samples; use adjoint.discrete")
            if self.timed and t_dot.any():
                by_time[b, i] = field.time_vjp(t, y, theta, w)
        out = np.matmul(jacobian, y_dot)
        out[:, :, n:-2] += by_theta
        out += (by_time[:, :, None] * t_dot).astype(self.dtype)
        return out
