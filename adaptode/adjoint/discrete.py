"""The discrete adjoint: the exact gradient of the numbers that were computed, on the grid that was accepted.

The solve is a chain of steps y_{n+1} = Φ(t_n, h_n, y_n; θ) with (t_n, h_n) data: no gradient flows through the controller or the first-step
rule. With λ_m = 0, for n = m − 1 … 0 and the step's transpose Φᵀ of `adaptode.step`:

    λ_{n+1} += cotangents of outputs at t_{n+1};   outputs inside the step: K̄_i += h w_i(θ) ȳ, λ_n += ȳ
    λ_n, K̄₁, θ̄ += Φᵀ(λ_{n+1}, K̄, q̄_n, S̄_n)

With FSAL, K₁ of a step is K_s of the one before: its cotangent is carried there, and its stage is evaluated once. Stages are recomputed from the
states, a forward evaluation each, unless the run kept them; states from the nearest one kept (`checkpoints`). Extra stages of the continuous extension are
stages like others, after the s, whose K̄ comes from outputs inside the step alone: they are evaluated, and transposed before the others, in the steps that
have such outputs. Gradients with respect to the ends of the span: `ends`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._jit import dual, specialize
from ..dense import dense_weights, locate
from ..errors import InputError
from ..fields.mlp_kernels import mlp_linearize, mlp_pullback
from ..fields.protocol import Array, Bound
from ..fields.sockets import socket_linearize, socket_pullback, through_socket
from ..solution import Run
from ..step import add, bound_linearize, bound_pullback, combine_vjp, estimate, finish_vjp, is_zero, linearized_stages, pullback, stages_vjp
from .checkpoints import check_parts
from .ends import Ends
from .gradient import Gradient, check_run, finite, outputs


class Grid(NamedTuple):
    """The accepted steps: times (m + 1,), states (m + 1, N), stages (m, s, N), or none of these (0, s, N)."""

    t: Array
    states: Array
    stages: Array


class Cotangents(NamedTuple):
    """What comes in, in the order of time: outputs by step index and fraction θ of the step, (k, N); q̄ and S̄ of every step, (m,)."""

    step: Array
    fraction: Array
    output: Array
    error: Array
    stiffness: Array


class Scratch(NamedTuple):
    """Buffers of one step, S = s + extra stages: Y, K, K_bar (S, N), kept (S, R), Y_pair_bar (2, N), err, err_bar (N,) or (2 N,), y0_bar, Y_bar (N,)."""

    Y: Array
    K: Array
    K_bar: Array
    kept: Array
    Y_pair_bar: Array
    err: Array
    err_bar: Array
    y0_bar: Array
    Y_bar: Array


@dual
def sweep(theta, tab, grid, atol, rtol, cotangents, scratch, y_bar, theta_bar, first, last):
    """Walks some steps home: y_bar (N,) becomes λ at their start, theta_bar (P,) is added to; returns evaluations and pullbacks made.

    first, last: whether they begin with the run's first step, and end with its last. If not, the scratch of the steps after them is found as it was left.
    """
    Y, K, K_bar, kept, Y_pair_bar, err, err_bar, y0_bar, Y_bar = scratch
    s, total = tab.b.size, tab.c.size
    steps = grid.t.size - 1
    last_output = cotangents.step.size - 1
    calls = 0
    for n in range(steps - 1, -1, -1):
        t, h = grid.t[n], grid.t[n + 1] - grid.t[n]
        y0, y1 = grid.states[n], grid.states[n + 1]
        y0_bar[:] = 0.0
        err_bar[:] = 0.0
        Y_pair_bar[:] = 0.0
        final = last and n == steps - 1
        if tab.fsal and not final:  # the next step's first stage is this step's last
            K_bar[s - 1] = K_bar[0]
            K[s - 1] = K[0]
            kept[s - 1] = kept[0]
        else:
            K_bar[s - 1] = 0.0
        K_bar[: s - 1] = 0.0
        K_bar[s:] = 0.0
        stages = s
        while last_output >= 0 and cotangents.step[last_output] == n:
            bar = cotangents.output[last_output]
            if cotangents.fraction[last_output] == 1.0:
                add(bar, y_bar)
            elif cotangents.fraction[last_output] == 0.0:
                add(bar, y0_bar)
            else:
                combine_vjp(h, dense_weights(tab, cotangents.fraction[last_output]), total, bar, K_bar)
                add(bar, y0_bar)
                stages = total
            last_output -= 1
        q_bar, stiffness_bar = cotangents.error[n], cotangents.stiffness[n]
        opened = q_bar != 0.0 or stiffness_bar != 0.0

        # with FSAL, the very last stage of all is needed only if something depends on it
        stop = s
        if tab.fsal:
            Y[s - 1] = y1
            if not final or not (opened or stages > s or not is_zero(K_bar[s - 1])):
                stop = s - 1
        if grid.stages.shape[0] > 0:
            K[:s] = grid.stages[n]
        calls += linearized_stages(theta, tab, t, h, y0, 0, stop, Y, K, kept, grid.stages.shape[0] > 0)
        calls += linearized_stages(theta, tab, t, h, y0, s, stages, Y, K, kept, False)

        q = 0.0
        if opened:
            q = estimate(tab, h, y0, y1, K, atol, rtol, err)
        finish_vjp(tab, h, y0, y1, K, Y, err, atol, rtol, q, y_bar, q_bar, stiffness_bar, err_bar, y0_bar, K_bar, Y_pair_bar)
        calls += stages_vjp(theta, tab, t, h, Y, kept, 1, Y_pair_bar, Y_bar, y0_bar, K_bar[:stages], theta_bar)
        if not (tab.fsal and (n > 0 or not first)) and not is_zero(K_bar[0]):
            pullback(t, y0, theta, kept[0], K_bar[0], y0_bar, theta_bar)
            calls += 1
        y_bar[:] = y0_bar
    return calls


_sweep_mlp = specialize(sweep, compiled=True, linearize=mlp_linearize, pullback=mlp_pullback)
_sweep_socket = specialize(sweep, compiled=True, linearize=socket_linearize, pullback=socket_pullback)
_sweep_python = specialize(sweep, compiled=False, linearize=bound_linearize, pullback=bound_pullback)


def _enter(bound: Bound, *arguments: Any) -> int:
    """`sweep` by the copy that serves the field."""
    if bound.kind == "mlp":
        return _sweep_mlp(bound.pack, *arguments)
    if bound.kind == "python":
        return _sweep_python(bound, *arguments)
    return through_socket(_sweep_socket, _sweep_python, bound, *arguments)


class Walk:
    """The way home of one run, part by part: what a part hands to the part before it lies in `scratch`, `y0` and `theta`."""

    def __init__(self, run: Run, cotangents: Cotangents, ends: Ends | None) -> None:
        batch, n = run.end.shape
        dtype, size = run.end.dtype, batch * n
        self.run, self.cotangents, self.ends, self.calls = run, cotangents, ends, 0
        self.tab, self.bound = run.method.coefficients(dtype), run.field.bind(run.theta, batch, dtype)
        self.y0, self.theta = np.zeros(size, dtype), np.zeros(run.field.n_params, dtype)
        total = self.tab.c.size
        self.scratch = Scratch(
            *(np.zeros((total, size), dtype) for _ in range(3)),
            np.empty((total, self.bound.kept), dtype),
            np.empty((2, size), dtype),
            *(np.empty(run.method.estimates * size, dtype) for _ in range(2)),
            *(np.empty(size, dtype) for _ in range(2)),
        )

    def back(self, first: int, states: Array, stages: Array) -> None:
        """Over the steps from number `first` on, between `states` (k + 1, N), with their stages (k, s, N) or none; they come in the order of the way home."""
        last, final = first + len(states) - 1, self.run.grid.size - 1
        cuts = {first, last}
        if self.ends is not None:  # the first and the last step of all are looked into
            cuts |= {cut for cut in (1, final - 1) if first < cut < last}
        for b, a in pairwise(sorted(cuts, reverse=True)):
            self._part(a, b, states[a - first : b - first + 1], stages[a - first : b - first] if len(stages) else stages)

    def _part(self, a: int, b: int, states: Array, stages: Array) -> None:
        run, final, scratch, bars = self.run, self.run.grid.size - 1, self.scratch, self.cotangents
        lo, hi = np.searchsorted(bars.step, (a, b))
        part = Cotangents(bars.step[lo:hi] - a, bars.fraction[lo:hi], bars.output[lo:hi], bars.error[a:b], bars.stiffness[a:b])
        look = self.ends is not None and b - a == 1 and (a == 0 or b == final)
        carried = scratch.K_bar[0].copy() if look and self.tab.fsal and b < final else None
        grid = Grid(run.grid[a : b + 1], states, stages)
        arguments = (self.tab, grid, run.atol, run.rtol, part, scratch, self.y0, self.theta, a == 0, b == final)
        self.calls += int(_enter(self.bound, *arguments))
        if look:
            self.ends.add(a, part, scratch, carried)  # type: ignore[union-attr]


def discrete(
    run: Run,
    y_bar: ArrayLike | None = None,
    *,
    jumps: Iterable[tuple[float, ArrayLike]] | None = None,
    error_bar: ArrayLike | None = None,
    stiffness_bar: ArrayLike | None = None,
    budget: int | None = None,
    ends: bool = True,
) -> Gradient:
    """Exact gradient of what a run computed, its grid held fixed, by its hand-derived transpose.

    run            of `solve`, successful
    y_bar          cotangents of run.y1 (B, n), or of run.y (k, B, n)
    jumps          (t, (B, n)) pairs: cotangents of the dense output at any times in the span
    error_bar      (m,) cotangents of the scaled errors of the m accepted steps, run.accepted("error")
    stiffness_bar  (m,) cotangents of their stiffness estimates
    budget         bytes for states that are computed again, of a run that did not keep all of its own; see `checkpoints`
    ends           False: t0 and t1 are left out, None

    The same bits whichever states were kept. t0 moves the start of the first step and t1 the end of the last, all accepted times between held; where the last
    step passes t1, t1 moves the place at which its polynomial is read. They are None for a field without `time_vjp`, and on a span of length zero.

    Cost: with s stages, about s − 1 evaluations and s − 1 pullbacks a step with FSAL; memory one state a step and the stages of one; t0 and t1: a `time_vjp` a
    stage of two steps, not counted in `evaluations`.
    Undefined points: where a scaled error is 0, or the stage pair coincides, that step's estimate has gradient 0; see `norms.scaled_rms`.
    SolveError for a run that failed; InputError for no cotangent at all, one of a wrong shape, or one that is not finite, and for a budget below one state.
    """
    check_run(run, "discrete")
    if y_bar is None and jumps is None and error_bar is None and stiffness_bar is None:
        raise InputError("discrete needs a cotangent: y_bar, the gradient of a loss with respect to run.y1 or run.y, or jumps, error_bar, stiffness_bar")
    steps, shape, dtype = run.grid.size - 1, run.end.shape, run.end.dtype
    parts = check_parts(run, budget)
    pairs = outputs(run, y_bar, jumps)
    if stiffness_bar is not None and run.method.stiffness_pair is None:
        raise InputError(f"{run.method.name} has no stiffness estimate to differentiate")
    per_step = [_per_step(name, bar, steps) for name, bar in (("error_bar", error_bar), ("stiffness_bar", stiffness_bar))]
    times = np.array([t for t, _ in pairs])
    step = locate(run, times)
    if steps == 0:  # a span of length zero: every output is y0
        bar = sum((output for _, output in pairs), np.zeros(run.end.size, dtype))
        return Gradient(bar.astype(dtype).reshape(shape), np.zeros(run.field.n_params, dtype), None, None, 0)
    order = np.argsort(step, kind="stable")
    cotangents = Cotangents(
        step[order],
        ((times - run.grid[step]) / np.diff(run.grid)[step])[order],
        np.array([pairs[i][1] for i in order], dtype=dtype).reshape(-1, run.end.size),
        *per_step,
    )
    found = Ends(run) if ends and run.field.has("time_vjp") else None
    walk = Walk(run, cotangents, found)
    for part in parts(walk.bound):
        walk.back(part.first, part.states, part.stages)
        walk.calls += part.evaluations
        del part  # its memory is part of the budget
    t0, t1 = (found.t0, found.t1) if found else (None, None)
    return Gradient(walk.y0.reshape(shape), walk.theta, t0, t1, walk.calls)


def _per_step(name: str, bar: ArrayLike | None, steps: int) -> Array:
    if bar is None:
        return np.zeros(steps)
    bar = finite(name, bar).astype(np.float64)
    if bar.shape != (steps,):
        raise InputError(f"{name} must have one entry an accepted step, shape ({steps},); got {bar.shape}")
    return bar
