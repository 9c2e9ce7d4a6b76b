"""End-to-end sensitivity of the slope, ∂f(t₁, y(t₁))/∂y(t₀) = J Φ, and its gradient: the second-order adjoint of the solve.          [JB22, (1)]

    (1)  M = J(t₁, y(t₁)) Φ(t₁),     Φ = ∂y/∂y₀,     Φ′ = J(t, y) Φ,   Φ(t₀) = 1

A Runge–Kutta step commutes with differentiation: the method's steps of the augmented system z = (y, Φ), on the accepted grid, give the exact derivative Φ
of the steps of y. So the steps' own transpose (equations (5), (7), (8) of `adaptode.step`) gives the exact gradient of any function of M:

    (2)  f_z = (f, J Φ):   ȳ += Jᵀ w + ∇_y ⟨W, J Φ⟩,   Φ̄ += Jᵀ W,   θ̄ += f_θᵀ w + ∇_θ ⟨W, J Φ⟩     for cotangents (w, W), where
         ⟨W, J Φ⟩ = Σ_j ⟨W e_j, J Φ e_j⟩ is the bilinear form
    (3)  at the end, with M̄ = Σ_m w_m u_mᵀ:   J̄ = M̄ Φᵀ = Σ_m w_m (Φ u_m)ᵀ,   Φ̄ = Jᵀ M̄ = Σ_m (Jᵀ w_m) u_mᵀ
"""

from __future__ import annotations

import numpy as np

from ..combine import combine, combine_vjp
from ..dense import dense_weights
from ..errors import InputError
from ..fields.protocol import Array, Bound, Field
from ..solution import Run
from ..step import bound_linearized_stages, bound_stages_vjp
from .base import state_at


class EndToEnd:
    """M (B, n, n) of a run, the evaluations of (f, J Φ) it took, and its transpose.

    Needs the initial states and the accepted times of the run alone. Cost: the solve and the discrete adjoint once more, of n + n² components a sample.
    """

    def __init__(self, run: Run, what: str) -> None:
        y0 = state_at(run, run.tspan[0], what)
        self.run, self.shape = run, y0.shape
        batch, n = y0.shape
        self.tab = run.method.coefficients(y0.dtype)
        self.bound = _augmented(run.field, run.theta, batch, y0.dtype)
        self.z = [np.concatenate([y0.ravel(), np.broadcast_to(np.eye(n, dtype=y0.dtype), (batch, n, n)).ravel()])]
        total, size = self.tab.c.size, self.z[0].size
        self._Y, self._K, self._K_bar = (np.empty((total, size), y0.dtype) for _ in range(3))
        self._kept = np.empty((total, self.bound.kept), y0.dtype)
        self.evaluations = 0
        for step in range(run.grid.size - 1):
            t, h, weights = self._step(step)
            self.evaluations += self._linearize(step, t, h, weights.size)
            z = np.empty(size, y0.dtype)
            combine(self.z[step], h, weights, 0, self._K, weights.size, z, 0)
            self.z.append(z)
        y, self.Phi = _split(self.z[-1], self.shape)
        self.y = y.reshape(self.shape)
        self.J = run.field.jacobian(run.tspan[1], self.y, run.theta)
        self.M = self.J @ self.Phi

    def vjp(self, u: Array, w: Array) -> tuple[Array, Array, int]:
        """(ȳ₀ (B, n), θ̄ (P,), evaluations and pullbacks made) of a cotangent Σ_m w_m u_mᵀ of M, u and w (B, m, n)."""
        run, n = self.run, self.shape[1]
        y_bar, theta_bar = run.field.bilinear_vjp(run.tspan[1], self.y, run.theta, u @ self.Phi.transpose(0, 2, 1), w)
        z_bar = np.concatenate([y_bar.ravel(), ((w @ self.J).transpose(0, 2, 1) @ u).ravel()])
        pair_bar, scratch, calls = np.zeros((2, z_bar.size), z_bar.dtype), np.empty_like(z_bar), 0
        for step in range(run.grid.size - 2, -1, -1):
            t, h, weights = self._step(step)
            calls += self._linearize(step, t, h, weights.size)
            K_bar = self._K_bar[: weights.size]
            K_bar[:] = 0.0
            combine_vjp(h, weights, weights.size, z_bar, K_bar)
            calls += bound_stages_vjp(self.bound, self.tab, t, h, self._Y, self._kept, 1, pair_bar, scratch, z_bar, K_bar, theta_bar)
            self.bound.pullback(t, self.z[step], self.bound.pack, self._kept[0], K_bar[0], z_bar, theta_bar)
            calls += 1
        return z_bar[: self.shape[0] * n].reshape(self.shape), theta_bar, calls

    def _step(self, step: int) -> tuple[float, float, Array]:
        """t, h and the weights of an accepted step's stages at its end; of one that passes the end of the span, at that."""
        grid, end = self.run.grid, self.run.tspan[1]
        t, h = float(grid[step]), float(grid[step + 1] - grid[step])
        if step == grid.size - 2 and grid[-1] != end:
            return t, h, dense_weights(self.tab, (end - t) / h)
        return t, h, self.tab.b

    def _linearize(self, step: int, t: float, h: float, stages: int) -> int:
        return bound_linearized_stages(self.bound, self.tab, t, h, self.z[step], 0, stages, self._Y, self._K, self._kept, False)


def _split(z: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    """y (B n,) and Φ (B, n, n), Φ[b, i, j] = ∂y_i/∂y0_j, as views."""
    batch, n = shape
    return z[: batch * n], z[batch * n :].reshape(batch, n, n)


def _augmented(field: Field, theta: Array, batch: int, dtype: np.dtype) -> Bound:
    """Equation (2): the field of z = (y, Φ), flat."""
    shape = (batch, field.n)
    own = field.bind(theta, batch, dtype)

    def linearize(t: float, z: Array, pack: None, out: Array, kept: Array) -> None:
        (y, Phi), (f, Phi_dot) = _split(z, shape), _split(out, shape)
        own.linearize(t, y, own.pack, f, kept[: own.kept])
        J = field.jacobian(t, y.reshape(shape), theta)
        kept[own.kept :] = J.ravel()
        np.matmul(J, Phi, out=Phi_dot)

    def pullback(t: float, z: Array, pack: None, kept: Array, w: Array, z_bar: Array, theta_bar: Array) -> None:
        (y, Phi), (w, W), (y_bar, Phi_bar) = _split(z, shape), _split(w, shape), _split(z_bar, shape)
        own.pullback(t, y, own.pack, kept[: own.kept], w, y_bar, theta_bar)
        Phi_bar += kept[own.kept :].reshape(W.shape).transpose(0, 2, 1) @ W
        y_part, theta_part = field.bilinear_vjp(t, y.reshape(shape), theta, Phi.transpose(0, 2, 1), W.transpose(0, 2, 1))
        y_bar += y_part.ravel()
        theta_bar += theta_part

    def value(t: float, z: Array, pack: None, out: Array) -> None:
        raise InputError("the augmented field is linearized where it is evaluated")

    return Bound("python", value, linearize, pullback, None, own.kept + batch * field.n**2)
