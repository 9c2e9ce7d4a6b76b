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

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from ..combine import all_finite
from ..dense import inside, locate
from ..errors import InputError
from ..fields.hidden import norm_bars
from ..fields.protocol import Array
from ..products import Factors
from ..room import empty, zeros
from ..solution import Run
from .checkpoints import check_parts
from .ends import Ends
from .gradient import Gradient, check_run, finite, outputs
from .sweep import Cotangents, Grid, Scratch, Tile, enter, enter_all_tiles, join, new_scratch, nothing_kept, tile_rows


class Walk:
    """The way home of one run, part by part: what a part hands to the part before it lies in `scratch`, `y0` and `theta`."""

    def __init__(self, run: Run, cotangents: Cotangents, ends: bool, start: bool = True, tiled: bool = True) -> None:
        dtype, size, hidden = run.end.dtype, run.start.size, run.coordinates
        self.run, self.cotangents, self.start, self.calls = run, cotangents, start, 0
        self.enter, self.single, self.at = enter, False, run.grid.size - 1  # single: a step at a time; at: the step now at hand, the first of those
        opened = cotangents.error.any() or cotangents.stiffness.any()
        self.tab, self.bound = run.method.coefficients(dtype), run.bind() if hidden is None else hidden.bind(run.kept_states is None, opened, start)
        self.ends = Ends(run, self.bound) if ends and run.field.has("time_vjp") else None
        self.y0, self.theta = zeros(size, dtype), zeros(run.field.n_params if hidden is None else hidden.n_params, dtype)
        self.alpha = None if hidden is None else empty(cotangents.output.shape, dtype)
        self.batch, self.scratch = run.end.shape[0], cast(Scratch, None)  # or tiles have theirs
        self.tiles: list[Tile] = []
        apart = tiled and self.ends is None and (not opened or (run.kept_states is not None and not np.isnan(cotangents.scaled).any()))
        self.rows = tile_rows(run.method, self.bound.kind, self.bound.kept, self.batch, size, dtype) if apart else self.batch
        self.whole = self.rows < self.batch and run.kept_states is not None  # all steps come at once
        if self.rows == self.batch:
            self.scratch = new_scratch(run.method, size, self.bound.kept, dtype)
        elif not self.whole:
            cuts = [*range(0, self.batch, self.rows), self.batch]
            self.tiles = [Tile(run.method, self.bound, self.batch, size, lo, hi, dtype) for lo, hi in pairwise(cuts)]

    def back(self, first: int, states: Array, stages: Array) -> None:
        """Over the steps from number `first` on, between `states` (k + 1, N), with their stages (k, s, N) or none; they come in the order of the way home."""
        last, final = first + len(states) - 1, self.run.grid.size - 1
        cuts = set(range(first, last + 1)) if self.single else {first, last}
        if self.ends is not None:  # the first and the last step of all are looked into
            cuts |= {cut for cut in (1, final - 1) if first < cut < last}
        for b, a in pairwise(sorted(cuts, reverse=True)):
            self._part(a, b, states[a - first : b - first + 1], stages[a - first : b - first] if len(stages) else stages)

    def _part(self, a: int, b: int, states: Array, stages: Array) -> None:
        run, final, scratch, bars = self.run, self.run.grid.size - 1, self.scratch, self.cotangents
        lo, hi = np.searchsorted(bars.step, (a, b))
        part = Cotangents(bars.step[lo:hi] - a, bars.fraction[lo:hi], bars.output[lo:hi], bars.error[a:b], bars.stiffness[a:b], bars.scaled[a:b])
        grid, tolerances, first, last = Grid(run.grid[a : b + 1], states, stages, nothing_kept(states.dtype)), (run.atol, run.rtol), a == 0, b == final
        self.at = a
        if self.whole:
            self.calls += enter_all_tiles(self.bound, self.tab, grid, *tolerances, part, self.batch, self.rows, self.y0, self.theta)
        elif self.tiles:
            self.calls += max(tile.back(self.tab, grid, tolerances, part, self.y0, first, last) for tile in self.tiles)
            if first:
                join(self.tiles, self.theta)
        else:
            look = self.ends is not None and b - a == 1 and (first or last)
            carried = scratch.K_bar[0].copy() if look and self.tab.fsal and not last else None
            self.calls += int(self.enter(self.bound, self.tab, grid, *tolerances, part, scratch, self.y0, self.theta, first, last))
            if look:
                with np.errstate(over="ignore", invalid="ignore"):  # looked at in the end
                    self.ends.add(a, part, scratch, carried)  # type: ignore[union-attr]
        if self.alpha is not None:
            for n in np.unique(part.step):
                which = np.flatnonzero(part.step == n)
                self.alpha[lo + which] = self._outputs(a + n, states[n], states[n + 1], part.fraction[which])

    def _outputs(self, n: int, y0: Array, y1: Array, fractions: Array) -> Array:
        """The numbers that were stepped, at fractions of step n, which outputs were made of."""
        if np.isin(fractions, (0.0, 1.0)).all():
            return np.where(fractions[:, None] == 1.0, y1, y0)
        t, h = self.run.grid[n], self.run.grid[n + 1] - self.run.grid[n]
        return inside(self.bound, self.tab, t, h, y0, y1, fractions)

    def gradient(self, y_bar: Sequence[Array | Factors]) -> tuple[Array | None, Array]:
        """ȳ₀ (B, n), None unless it is asked for, and θ̄ (P,), once at the start; y_bar are the cotangents (B, n) of the outputs."""
        if self.run.coordinates is None:
            return self.y0.reshape(self.run.end.shape) if self.start else None, self.theta
        return self.run.coordinates.pull(self.theta, self.alpha, y_bar, self.bound, self.start)


def discrete(
    run: Run,
    y_bar: ArrayLike | None = None,
    *,
    jumps: Iterable[tuple[float, ArrayLike]] | None = None,
    error_bar: ArrayLike | None = None,
    stiffness_bar: ArrayLike | None = None,
    budget: int | None = None,
    ends: bool = True,
    start: bool = True,
) -> Gradient:
    """Exact gradient of what a run computed, its grid held fixed, by its hand-derived transpose.

    run            of `solve`, successful
    y_bar          cotangents of run.y1 (B, n), or of run.y (k, B, n)
    jumps          (t, (B, n)) pairs: cotangents of the dense output at any times in the span, arrays or `products.Factors`
    error_bar      (m,) cotangents of the scaled errors of the m accepted steps, run.accepted("error")
    stiffness_bar  (m,) cotangents of their stiffness estimates
    budget         bytes for states that are computed again, of a run that did not keep all of its own; see `checkpoints`
    ends           False: t0 and t1 are left out, None
    start          False: y0 is left out, None; in hidden coordinates that saves a product as wide as the state

    The same bits whichever states were kept; where error_bar is given, the same to rounding. t0 moves the start of the first step and t1 the end of the last,
    all accepted times between held; where the last step passes t1, t1 moves the place at which its polynomial is read. They are None for a field without
    `time_vjp`, and on a span of length zero.

    Cost: with s stages, about s − 1 evaluations and s − 1 pullbacks a step with FSAL; memory one state a step and the stages of one; t0 and t1: a `time_vjp` a
    stage of two steps, not counted in `evaluations`.
    Undefined points: where a scaled error is 0, or the stage pair coincides, that step's estimate has gradient 0; see `norms.scaled_rms`.
    SolveError for a run that failed; InputError for no cotangent at all, one of a wrong shape, or one that is not finite, and for a budget below one state;
    NonFiniteGradientError, which names the step, the stage and the block of parameters, where the gradient would be NaN or infinite.
    """
    check_run(run, "discrete")
    if y_bar is None and jumps is None and error_bar is None and stiffness_bar is None:
        raise InputError("discrete needs a cotangent: y_bar, the gradient of a loss with respect to run.y1 or run.y, or jumps, error_bar, stiffness_bar")
    steps, shape, dtype = run.grid.size - 1, run.end.shape, run.end.dtype
    parts = check_parts(run, budget)
    hidden = run.coordinates
    pairs = outputs(run, y_bar, jumps, factors=hidden is not None)
    if stiffness_bar is not None and run.method.stiffness_pair is None:
        raise InputError(f"{run.method.name} has no stiffness estimate to differentiate")
    per_step = [_per_step(name, bar, steps) for name, bar in (("error_bar", error_bar), ("stiffness_bar", stiffness_bar))]
    times = np.array([t for t, _ in pairs])
    step = locate(run, times)
    if steps == 0:  # a span of length zero: every output is y0
        bar = sum((np.asarray(output).ravel() for _, output in pairs), np.zeros(run.end.size, dtype))
        return Gradient(bar.astype(dtype).reshape(shape) if start else None, np.zeros(run.field.n_params, dtype), None, None, 0)
    order = np.argsort(step, kind="stable")
    bars = [pairs[i][1] for i in order]
    if hidden is not None:
        bars = [bar.astype(dtype) if isinstance(bar, Factors) else bar.astype(dtype, copy=False).reshape(shape) for bar in bars]
    seen = np.array(bars if hidden is None else [hidden.pull_output(bar) for bar in bars], dtype=dtype)
    fractions = ((times - run.grid[step]) / np.diff(run.grid)[step])[order]
    # where q has a cotangent alone, its value makes samples independent of each other
    apart = run.method.estimates == 1 and not per_step[1].any()
    scaled = run.accepted("error") if apart else np.full(steps, np.nan)
    cotangents = Cotangents(step[order], fractions, seen.reshape(-1, run.start.size), *per_step, scaled)
    walk = Walk(run, cotangents, ends, start)
    for part in parts(walk.bound):
        walk.back(part.first, part.states, part.stages)
        walk.calls += part.evaluations
        del part  # its memory is part of the budget
    found = walk.y0, walk.theta, *(norm_bars(walk.bound) if hidden is not None else ())
    if not all(all_finite(bar) for bar in found):
        from .nonfinite import raise_nonfinite

        whole = seen if hidden is None else np.array([np.asarray(bar).ravel() for bar in bars]).reshape(len(bars), run.end.size)
        raise_nonfinite(run.lifted(), cotangents._replace(output=whole), budget)
    t0, t1 = (walk.ends.t0, walk.ends.t1) if walk.ends is not None else (None, None)
    y0, theta = walk.gradient(bars)
    return Gradient(y0, theta, t0, t1, walk.calls)


def _per_step(name: str, bar: ArrayLike | None, steps: int) -> Array:
    if bar is None:
        return np.zeros(steps)
    bar = finite(name, bar).astype(np.float64)
    if bar.shape != (steps,):
        raise InputError(f"{name} must have one entry an accepted step, shape ({steps},); got {bar.shape}")
    return bar
