"""Continuous adjoints: the gradient of the exact flow as a differential equation, solved backwards in time.

For outputs L(y(T_1), …), T_1 … between t0 and t1, the cotangent of the state a(t) = ∂L/∂y(t) and that of θ obey          [Chen18; Ma21]

(1)   a′ = −(∂f/∂y)ᵀ a,   a(T_j−) = a(T_j+) + ∂L/∂y(T_j),   a = 0 after the last output;   ȳ₀ = a(t0) with the outputs at t0
(2)   θ̄ = ∫_{t0}^{t1} (∂f/∂θ)ᵀ a dt
(3)   t̄1 = ⟨ȳ(t1), f(t1, y1)⟩ over the outputs at t1,   t̄0 = −⟨a(t0+), f(t0, y0)⟩ before the outputs at t0 are added

in either direction of time. The three differ in where y(t) comes from and in who integrates (2):

backsolve       [y, a, θ̄] as one system: y′ = f too is solved backwards, so that nothing is stored       unstable where the flow contracts
interpolating   [a, θ̄], y(t) from the run's dense output                                                 stable as the run is
quadrature      [a], y(t) likewise; (2) by Gauss–Legendre on the accepted steps, so that θ̄ is in no error norm

They are the exact gradient neither of the computed numbers (`discrete` is) nor of the flow, but come as close to the latter as both tolerances ask, the
run's and theirs. For a and θ̄ atol is in units of the cotangents, multiplied by the RMS of the largest, so that the gradient is linear in them.
Derivations: docs/adjoints.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..checked import check_steppable, check_steps, check_tolerances
from ..control import HAIRER_PI
from ..dense import dense_state
from ..errors import InputError, SolveError
from ..fields.protocol import Array
from ..fields.sockets import PythonSocket, python_bound
from ..integration import Integration
from ..loop import H, Store
from ..norms import scaled_rms
from ..solution import Run, StepLog, explain
from ..tableau import Tableau, get_tableau
from .gradient import Gradient, check_run, outputs
from .path import Path, check_checkpoints

Jumps = Iterable[tuple[float, ArrayLike]]
Slope = Callable[[float, Array], Array]


LOST = 0.01  # how far off, of their size, recovered states are worth a warning, if that is above 10 tolerances


class DriftWarning(RuntimeWarning):
    """`backsolve` came back to other states than the run's."""


def backsolve(
    run: Run,
    y_bar: ArrayLike | None = None,
    *,
    jumps: Jumps | None = None,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    method: str | Tableau | None = None,
    first_step: float | None = None,
    max_steps: int = 10_000,
    adjoint_norm: str = "full",
) -> Gradient:
    """The gradient by solving [y, a, θ̄] backwards from the end: of the run it needs nothing but its outputs, so keep="none" will do.

    run           of `solve`, successful
    y_bar         cotangents of run.y1 (B, n), or of run.y (k, B, n)
    jumps         (t, (B, n)) pairs: cotangents of the state at any times in the span
    rtol, atol    tolerances, numbers or (n,) one a component of y and a (θ̄: the smallest); None: the run's. atol > 0
    method        None: the run's          first_step  of the first solve backwards; None: Hairer's rule, for fixed steps the run's
    max_steps     attempts between two outputs
    adjoint_norm  "seminorm" leaves θ̄ out of the error norm, which nothing depends on [KCL21]; the RMS is over the other components

    y starts again from the run's own value at every saved output that has a cotangent, be it 0. `drift` is how far from these values, and from y0, it
    came, at worst: the scaled RMS in units of the run's tolerance. Far above 1 the gradient belongs to another trajectory: a flow that contracts
    forwards expands backwards, and errors grow as e^(contraction). Then use `interpolating` or `discrete`. DriftWarning where the states come more than
    a hundredth, and ten tolerances, off.
    Memory: the stages of one step of 2 B n + P numbers. Cost: an evaluation and a pullback a stage.
    InputError for cotangents or options that make no sense; SolveError when the solve backwards fails, which says where.
    """
    home = _Homeward("backsolve", run, y_bar, jumps, rtol, atol, method, first_step, max_steps)
    n, w = home.size, home.w
    z = np.zeros(2 * n + home.n_params, home.dtype)
    slope = np.empty_like(z)

    def right_hand_side(t: float, z: Array) -> Array:
        slope[n:] = 0.0
        np.negative(z[n : 2 * n], out=w)
        home.pull(t, z[:n], w, slope[n : 2 * n], slope[2 * n :], slope[:n])
        return slope

    known = {run.tspan[0]: run.y0.ravel(), **{t: y.ravel() for t, y in zip(run.t.tolist(), run.y, strict=True)}, run.tspan[1]: run.y1.ravel()}
    drifts, misses = [0.0], [0.0]

    def arrive(t: float, z: Array, solved: bool) -> bool:
        if t not in known:
            return False
        if solved:
            drifts.append(scaled_rms(z[:n] - known[t], z[:n], known[t], run.atol, run.rtol))
            misses.append(math.dist(z[:n], known[t]) / max(np.linalg.norm(known[t]), np.finfo(float).tiny))
        z[:n] = known[t]
        return True

    tolerances = home.tolerances("yat", _seminorm(adjoint_norm))
    y0_bar, t0_bar, t1_bar = home.solve(z, slice(n, 2 * n), right_hand_side, tolerances, arrive=arrive)
    drift, miss = float(np.max(drifts)), max(misses)
    if miss > LOST and drift > 10.0:
        warnings.warn(
            f"the states that backsolve recovered miss the run's by {100 * miss:.3g} % (drift: {drift:.3g} tolerances): the flow contracts, and the "
            "gradient may belong to another trajectory. Use adjoint.interpolating or adjoint.discrete, or save outputs on the way and give them cotangents, "
            "be they 0",
            DriftWarning,
            stacklevel=2,
        )
    return Gradient(y0_bar, z[2 * n :].copy(), t0_bar, t1_bar, home.evaluations, drift)


def interpolating(
    run: Run,
    y_bar: ArrayLike | None = None,
    *,
    jumps: Jumps | None = None,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    method: str | Tableau | None = None,
    first_step: float | None = None,
    max_steps: int = 10_000,
    adjoint_norm: str = "full",
    checkpoints: int | None = None,
) -> Gradient:
    """The gradient by solving [a, θ̄] backwards, with y(t) from the run's dense output.

    checkpoints   k: how many states to hold of a run solved with keep="none", found by taking its steps once more. Between them, as between those of a run
                  with keep=k, states are computed again, two parts at a time, to the same bits
    adjoint_norm  "seminorm" leaves θ̄ out of the error norm. Then only a holds the steps down: where ∂f/∂y is small and ∂f/∂θ moves, θ̄ can
                  be wrong without a sign; `quadrature` has no such gap

    The other arguments, and errors, are those of `backsolve`. InputError too where the run kept no states and no checkpoints are asked for.
    Memory: the run's states, or the checkpoints and the states of two parts; the stages of four steps, and of one of B n + P numbers.
    Cost: a linearization and a pullback a stage, and the stages of the run's steps once more, unless it kept them; twice if states are computed again.
    """
    home = _Homeward("interpolating", run, y_bar, jumps, rtol, atol, method, first_step, max_steps)
    n, w, y = home.size, home.w, np.empty(home.size, home.dtype)
    tolerances = home.tolerances("at", _seminorm(adjoint_norm))
    path = home.path(checkpoints)
    z = np.zeros(n + home.n_params, home.dtype)
    slope = np.empty_like(z)

    def right_hand_side(t: float, z: Array) -> Array:
        path(t, y)
        slope[:] = 0.0
        np.negative(z[:n], out=w)
        home.pull(t, y, w, slope[:n], slope[n:])
        return slope

    y0_bar, t0_bar, t1_bar = home.solve(z, slice(0, n), right_hand_side, tolerances)
    return Gradient(y0_bar, z[n:].copy(), t0_bar, t1_bar, home.evaluations + path.evaluations)


def quadrature(
    run: Run,
    y_bar: ArrayLike | None = None,
    *,
    jumps: Jumps | None = None,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    method: str | Tableau | None = None,
    first_step: float | None = None,
    max_steps: int = 10_000,
    nodes: int | None = None,
    checkpoints: int | None = None,
) -> Gradient:
    """The gradient by solving [a] alone backwards; θ̄ by Gauss–Legendre quadrature, a and y(t) from dense output.

    θ̄ = Σ_pieces Σ_k (w_k |piece|) (∂f/∂θ)ᵀ a at t_k

    The pieces are the accepted steps of a, cut at those of y: within a piece both are polynomials. nodes: of each piece; None: p/2 + 1, rounded down, with p
    the larger order of the run's method and of this one's. g nodes err by |piece|^(2g + 1), 2g > p, and so by less than the steps do.

    The other arguments, and errors, are those of `interpolating`. P-sized numbers are in no step and in no error norm.
    Cost: beyond that of a alone, a linearization and a pullback a node.
    """
    home = _Homeward("quadrature", run, y_bar, jumps, rtol, atol, method, first_step, max_steps)
    if nodes is None:
        nodes = max(run.method.order, home.method.order) // 2 + 1
    if not isinstance(nodes, (int, np.integer)) or isinstance(nodes, bool) or nodes < 1:
        raise InputError(f"nodes must be a positive integer; got {nodes!r}")
    tolerances = home.tolerances("a", False)
    path = home.path(checkpoints)
    n, w, y = home.size, home.w, np.empty(home.size, home.dtype)
    z, slope, unused = np.zeros(n, home.dtype), np.empty(n, home.dtype), np.zeros(home.n_params, home.dtype)

    def right_hand_side(t: float, z: Array) -> Array:
        path(t, y)
        slope[:] = unused[:] = 0.0
        np.negative(z, out=w)
        home.pull(t, y, w, slope, unused)
        return slope

    x, weights = (v.tolist() for v in np.polynomial.legendre.leggauss(int(nodes)))
    theta_bar, a = np.zeros(home.n_params, home.dtype), np.empty(n, home.dtype)

    def add_up(integration: Integration, step: Store) -> None:
        """Equation (2) over an accepted step."""
        t, h = float(step.t[0]), float(step.h[0])
        edges = [t, *path.breaks(t, t + h), t + h]
        for start, end in pairwise(edges):
            for node, weight in zip(x, weights, strict=True):
                at = 0.5 * (start + end) + 0.5 * (end - start) * node
                dense_state(integration.tab, (at - t) / h, h, step.states[0], integration.state.y, step.stages[0], a)
                path(at, y)
                np.multiply(a, a.dtype.type(-0.5 * (end - start) * weight), out=w)  # against the direction of the run, hence the sign
                home.pull(at, y, w, slope, theta_bar)

    y0_bar, t0_bar, t1_bar = home.solve(z, slice(0, n), right_hand_side, tolerances, use=add_up)
    return Gradient(y0_bar, theta_bar, t0_bar, t1_bar, home.evaluations + path.evaluations)


def _seminorm(adjoint_norm: str) -> bool:
    if adjoint_norm not in ("full", "seminorm"):
        raise InputError(f'adjoint_norm must be "full" or "seminorm"; got {adjoint_norm!r}')
    return adjoint_norm == "seminorm"


class _Homeward:
    """The way from the last output back to t0: a solve from each output to the one before, where its cotangent is added.

    size, n_params, dtype      N = B n, P, and of all arrays               w   (N,) scratch
    evaluations                of the field, and pullbacks, so far
    """

    def __init__(self, name: str, run: Any, y_bar: Any, jumps: Any, rtol: Any, atol: Any, method: Any, first_step: Any, max_steps: Any) -> None:
        self.run = run = check_run(run, name)
        if y_bar is None and jumps is None:
            raise InputError(f"{name} needs a cotangent: y_bar, the gradient of a loss with respect to run.y1 or run.y, or jumps")
        self.name, (batch, n), self.dtype = name, run.end.shape, run.end.dtype
        self.size, self.n_params, self.evaluations = batch * n, run.field.n_params, 0
        self.method = run.method if method is None else get_tableau(method)
        check_steps(first_step, math.inf, max_steps)
        if first_step is None and not self.method.adaptive and not run.method.adaptive and len(run.steps):
            first_step = abs(float(run.steps.h[0]))
        check_steppable(self.method, first_step)
        self.first, self.max_steps = first_step, int(max_steps)
        own = [x if x.size == 1 else x.reshape(batch, n)[0] for x in (run.rtol, run.atol)]
        self._atol, self._rtol = check_tolerances(own[0] if rtol is None else rtol, own[1] if atol is None else atol, n, batch, self.dtype)
        if not (self._atol > 0).all():
            raise InputError(f"{name} needs atol > 0, for cotangents may be 0 throughout: give atol=, in units of the cotangents; got {self._atol.min():g}")
        self._cotangents: dict[float, Array] = {}
        largest = 0.0
        low, high = sorted(run.tspan)
        for t, bar in outputs(run, y_bar, jumps):
            if not low <= t <= high:
                raise InputError(f"the cotangent at t = {t:g} is outside the solved span ({run.tspan[0]:g}, {run.tspan[1]:g})")
            if name != "backsolve" and not bar.any():
                continue  # nothing to stop for; backsolve starts again from the output there
            bar = bar.astype(np.float64)
            largest = max(largest, float(np.sqrt(np.mean(bar * bar))))
            self._cotangents[t] = self._cotangents[t] + bar if t in self._cotangents else bar
        self._scale = largest or 1.0
        self.bound = run.field.bind(run.theta, batch, self.dtype)
        self._kept, self._nothing, self.w = np.empty(self.bound.kept, self.dtype), np.empty(0, self.dtype), np.empty(self.size, self.dtype)

    def tolerances(self, parts: str, seminorm: bool) -> tuple[Array, Array]:
        """(atol, rtol) of a state made of some of y, a and t (θ̄).

        The seminorm is the norm with atol = ∞ for θ̄ and, of N entries in all of which M are others, tolerances sqrt(M/N) times those given for these:
        sqrt(1/N Σ (err/(sqrt(M/N) s))²) = sqrt(1/M Σ (err/s)²).
        """
        sizes = [self.n_params if part == "t" else self.size for part in parts]
        by_part = {"y": 1.0 * self._atol, "a": self._scale * self._atol, "t": np.array([math.inf if seminorm else self._scale * self._atol.min()])}
        by_part_rtol = {"y": self._rtol, "a": self._rtol, "t": np.array([self._rtol.min()])}
        atol, rtol = (np.concatenate([np.broadcast_to(by[p], k) for p, k in zip(parts, sizes, strict=True)]) for by in (by_part, by_part_rtol))
        if seminorm:
            narrower = math.sqrt((sum(sizes) - self.n_params) / sum(sizes))
            atol, rtol = atol * narrower, rtol * narrower
        return atol, rtol

    def path(self, checkpoints: int | None) -> Path:
        """y(t) of the run."""
        return Path(self.run, self.bound, check_checkpoints(self.run, checkpoints, self.name))

    def pull(self, t: float, y: Array, w: Array, y_bar: Array, theta_bar: Array, out: Array | None = None) -> None:
        """Adds the field's transpose at (t, y) applied to w; fills `out` (N,), where given, with its value."""
        bound, out = self.bound, self._nothing if out is None else out
        bound.linearize(t, y, bound.pack, out, self._kept)
        bound.pullback(t, y, bound.pack, self._kept, w, y_bar, theta_bar)
        self.evaluations += 2 if out.size or self._kept.size else 1

    def _product(self, t: float, y: Array, bar: Array) -> float:
        """⟨bar, f(t, y)⟩."""
        if not bar.any():
            return 0.0
        value = np.empty(self.size, self.dtype)
        self.bound.value(t, y.ravel(), self.bound.pack, value)
        self.evaluations += 1
        return float(bar @ value.astype(np.float64))

    def solve(
        self,
        z: Array,
        where: slice,
        slope: Slope,
        tolerances: tuple[Array, Array],
        *,
        arrive: Callable[[float, Array, bool], bool] = lambda t, z, solved: True,
        use: Callable[[Integration, Store], None] | None = None,
    ) -> tuple[Array, float, float]:
        """z, of which a is z[where], from t1 to t0 by z′ = slope(t, z); returns ȳ₀, t̄0, t̄1, and leaves θ̄ in z.

        arrive(t, z, solved)   at every output and at t0, before its cotangent is added; True when z's state is known there, so that a = 0 may jump there
        use(integration, step)   takes each accepted step with its stages
        """
        t0, t1 = self.run.tspan
        sign = 1.0 if t1 >= t0 else -1.0
        stops = sorted({t0, t1, *self._cotangents}, key=lambda t: -sign * t)
        socket = PythonSocket(slope, z.shape, z.dtype, f"the {self.name} adjoint")
        a = z[where]
        arrive(t1, z, False)
        t1_bar = self._product(t1, self.run.y1, self._cotangents.get(t1, a))
        t = t1
        for stop in stops:
            if stop != t:
                if a.any() or not arrive(stop, z, False):
                    self._between(t, stop, z, socket, tolerances, use)
                    arrive(stop, z, True)
                t = stop
            if stop == t0 != t1:
                t0_bar = -self._product(t0, self.run.y0, a.astype(np.float64))
            if stop in self._cotangents:
                a += self._cotangents[stop].astype(self.dtype)
        return a.reshape(self.run.y0.shape).copy(), t0_bar if t0 != t1 else -t1_bar, t1_bar

    def _between(self, start: float, end: float, z: Array, socket: PythonSocket, tolerances: tuple[Array, Array], use: Any) -> None:
        """z from one output to the one before."""
        integration = Integration(
            python_bound(socket),
            z,
            (start, end),
            self.method,
            HAIRER_PI,
            tolerances,
            saveat=np.empty(0),
            max_step=math.inf,
            max_steps=self.max_steps,
            keep=frozenset() if use is None else frozenset({"states", "dense"}),
        )
        integration.start(self.first)
        if use is None:
            integration.run()
            log = integration.log()
        else:
            store, attempts = integration.new_store(1), []  # step by step, so that the path is looked at once
            while integration.step(store, attempts.append):
                use(integration, store)
            log = StepLog.of(attempts)
        status = integration.ended(log)
        if status < 0:
            why = explain(status, log, integration.t, np.zeros(1), "its right-hand side")
            raise SolveError(f"the backward solve of the {self.name} adjoint, from t = {start:g} to {end:g}, failed: {why}. {_ADVICE[self.name]}", self.run)
        z[:] = integration.state.y
        if self.method.adaptive:  # the last step was cut at the output: the one before it, or what the controller asks for, says more
            self.first = max([float(integration.state.clock[H]), *abs(log.h[log.accepted][-2:])])


_ELSEWHERE = "adjoint.discrete solves nothing backwards"
_ADVICE = {
    "backsolve": f"A flow that contracts forwards blows up backwards: adjoint.interpolating reads the states of the run instead, and {_ELSEWHERE}",
    "interpolating": f"Try looser rtol and atol; {_ELSEWHERE}",
    "quadrature": f"Try looser rtol and atol; {_ELSEWHERE}",
}
