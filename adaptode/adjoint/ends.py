"""The gradient with respect to the ends of the span, exact for the computed numbers.

The inner accepted times are held: t₀ moves the start of the first step, and t₁ the end of the last. A step (t, h) that has been transposed, so that K̄_i holds
everything that depends on K_i, gives

(1)  τ̄_i = ⟨K̄_i, ∂f/∂t(t + c_i h, Y_i)⟩
(2)  ḡ = (Σ_i ⟨K̄_i, K_i⟩ − ⟨K̄_s', K_s⟩ − S̄ S)/h
     h enters y₁, err, the Y_i and the dense output as h K_j alone, so that its explicit cotangent is that of the K_j contracted with them, over h; what reached
     K̄ without an h is taken off: K̄_s', carried from the next step's first stage, and the stiffness estimate, homogeneous of degree 1 in K
(3)  an output inside, at the fixed time t + θ h:   p̄ = ⟨ȳ, Σ_i w_i′(θ) K_i⟩,   its θ moves by −(1 − θ)/h dt₀ or −θ/h dt₁
(4)  first step:  t̄₀ = Σ_i (1 − c_i) τ̄_i − ḡ − Σ (1 − θ) p̄                     dt = 1, dh = −1
(5)  last step:   t̄₁ = Σ_i c_i τ̄_i + ḡ − Σ θ p̄                                 dt = 0, dh = 1;  outputs at t₁ move with it: no p̄
(6)  a last step that passes t₁, which only reads its polynomial there:   t̄₁ = Σ p̄ over the outputs at t₁
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..fields.protocol import Array, Bound
from ..solution import Run

if TYPE_CHECKING:
    from .sweep import Cotangents, Scratch


def _dot(a: Array, b: Array) -> float:
    return float(np.dot(a.astype(np.float64), b.astype(np.float64)))


class Ends:
    """t0 and t1 of a run, from its first and its last step."""

    def __init__(self, run: Run, bound: Bound) -> None:
        self.run, self.bound, self.t0, self.t1 = run, bound, 0.0, 0.0
        self.steps = run.grid.size - 1
        self.stiffness = run.accepted("stiffness")

    def add(self, n: int, bars: Cotangents, scratch: Scratch, carried: Any) -> None:
        """Step n, just transposed: its cotangents, what its transpose left in the scratch, and K̄_s' (N,) or None."""
        run, method = self.run, self.run.method
        t, h = run.grid[n], run.grid[n + 1] - run.grid[n]
        Y, K, K_bar = scratch.Y, scratch.K, scratch.K_bar
        nodes = method.coefficients(K.dtype).c
        moved = np.flatnonzero(K_bar.any(axis=1))

        by_time = {int(i): self._in_time(t + nodes[i] * h, Y[i], scratch.kept[i], K_bar[i]) for i in moved}  # (1)
        by_length = sum(_dot(K_bar[i], K[i]) for i in moved)  # (2)
        if carried is not None:
            by_length -= _dot(carried, K[method.stages - 1])
        if bars.stiffness[0] != 0.0:
            by_length -= bars.stiffness[0] * self.stiffness[n]
        by_length /= h
        inside = [(x, _dot(bar, method.slopes(x) @ K)) for x, bar in zip(bars.fraction, bars.output, strict=True) if 0.0 < x and bar.any()]  # (3)
        if n == 0:
            self.t0 += sum((1.0 - nodes[i]) * x for i, x in by_time.items()) - by_length - sum((1.0 - x) * p for x, p in inside)  # (4)
        if n == self.steps - 1:
            if run.grid[-1] == run.tspan[1]:
                self.t1 += sum(nodes[i] * x for i, x in by_time.items()) + by_length - sum(x * p for x, p in inside if x < 1.0)  # (5)
            else:
                end = (run.tspan[1] - t) / h
                self.t1 += sum(p for x, p in inside if x == end)  # (6)

    def _in_time(self, t: float, y: Array, kept: Array, w: Array) -> float:
        """⟨w, ∂f/∂t⟩ at a stage."""
        run, bound = self.run, self.bound
        if bound.time_pullback is not None:
            return float(bound.time_pullback(bound.pack, kept, w))
        return run.field.time_vjp(t, y.reshape(run.end.shape), run.theta, w.reshape(run.end.shape))
