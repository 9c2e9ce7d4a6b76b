"""What training minimises: a task loss of the flow, plus weighted penalties, with the exact gradient of both.

    L(θ, φ) = loss(head(y(t); φ), target) + Σ_i λ_i(step) R_i,     y′ = f(t, y; θ),   y(t₀) = x

seen at the end of the span, t = t₁, or at given observation times. A penalty may move the end of the span in training; predictions use the nominal one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import adjoint as adjoints
from ..checked import check_rng, check_saveat, check_span, check_tolerances
from ..combine import all_finite
from ..control import Controller, get_controller
from ..errors import InputError, SolveError
from ..fields.protocol import Array, Field
from ..products import Factors
from ..regularize.base import Penalty
from ..room import zeros
from ..solution import Run
from ..solver import solve
from ..tableau import METHODS, Tableau, get_tableau
from .heads import Head, LinearHead
from .losses import LOSSES


class Evaluation(NamedTuple):
    """The objective and its gradient on one batch.

    loss         : float            task loss plus weighted penalties, what `grad` is the gradient of
    grad         : (P,) float       gradient with respect to the flat parameters
    parts        : dict str->float  the terms of `loss`, e.g. {"task": 0.31, "local_error": 0.002}; the same names at every step
    nfe_forward  : int              evaluations of the field in the forward solve
    nfe_backward : int              evaluations of the field and of its vjp in the backward pass
    error        : float            largest scaled error among the accepted steps, dimensionless
    start        : (B, n) float     gradient with respect to X, the initial states; None where it was not asked for
    """

    loss: float
    grad: np.ndarray
    parts: dict[str, float]
    nfe_forward: int = 0
    nfe_backward: int = 0
    error: float = 0.0
    start: np.ndarray | None = None


@contextmanager
def _detaching() -> Iterator[None]:
    """The run of a SolveError outlives the call that raises it: it must not be of the caller's arrays."""
    try:
        yield
    except SolveError as error:
        error.run = error.run and error.run.detached()
        raise


class Objective:
    """A neural ODE with its loss and penalties, as a function of one flat parameter vector (θ, then the head's φ).

    field      the vector field; samples X (B, n) are its initial states
    loss       "binary_cross_entropy" (one logit), "cross_entropy" (k logits) or "mean_squared_error"
    head       a LinearHead from n to the outputs, or FirstComponents; None: the state is the output
    times      (k,) observation times in the span, in the order of integration: outputs are (B, k, ·) and targets (B, k, …), and the loss is the mean over
               samples and times; None: the end alone, outputs (B, ·)
    penalties  any of `adaptode.regularize`
    adjoint    which gradient of the solve, a name of `adaptode.adjoint.ADJOINTS`; adjoint_options are its own, as a dictionary
    the rest   as in `adaptode.solve`

    InputError, MissingDerivativeError or SingularJacobianError at construction when the parts do not fit together.
    """

    def __init__(
        self,
        field: Field,
        loss: str,
        *,
        head: Head | None = None,
        tspan: tuple[float, float] = (0.0, 1.0),
        method: str | Tableau = "Dopri5",
        rtol: float = 1e-3,
        atol: float = 1e-3,
        controller: str | Controller | None = None,
        penalties: Iterable[Penalty] = (),
        dtype: str = "float64",
        max_steps: int = 10_000,
        keep: str = "states",
        coordinates: str = "auto",
        times: ArrayLike | None = None,
        adjoint: str = "discrete",
        adjoint_options: Mapping[str, Any] | None = None,
    ) -> None:
        if loss not in LOSSES:
            raise InputError(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")
        if head is not None and head.n_in != field.n:
            raise InputError(f"the head takes {head.n_in} inputs, but the field has {field.n} components")
        if dtype not in ("float64", "float32", np.float64, np.float32):
            raise InputError(f"dtype must be float64 or float32; got {dtype!r}")
        field.require("vjp")
        if isinstance(penalties, Penalty):
            raise InputError(f"penalties must be a list; for a single one write penalties=[{type(penalties).__name__}(...)]")
        if isinstance(penalties, str) or not isinstance(penalties, Iterable):
            raise InputError(f"penalties must be a list such as [adaptode.LocalError(0.1)]; got {penalties!r}")
        self.field, self.loss, self.head, self.penalties = field, loss, head, tuple(penalties)
        self.tspan, self.dtype = check_span(tspan), np.dtype(dtype)
        self._forwards = self.tspan[1] >= self.tspan[0]
        check_tolerances(rtol, atol, field.n, 1, self.dtype)
        self.method, self.controller = get_tableau(method), get_controller(controller)
        if not self.method.adaptive:
            adaptive = ", ".join(name for name, tableau in METHODS.items() if tableau.adaptive)
            raise InputError(f"{self.method.name} has no error estimate to choose its steps by; training needs an adaptive method: {adaptive}")
        for penalty in self.penalties:
            if not isinstance(penalty, Penalty):
                raise InputError(f"penalties must be made like adaptode.LocalError(0.1); got {penalty!r}")
        names = [p.name for p in self.penalties]
        self._names = [f"{name}_{names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
        self.times = None if times is None else check_saveat(times, *self.tspan, name="times")
        if times is not None and (self.times.size == 0 or (np.diff(self.times) == 0).any()):
            raise InputError(f"times must be at least one time, and no time twice; got {self.times.tolist()}")
        self.adjoint, self.adjoint_options = adjoint, dict(adjoint_options or {})
        discrete = adjoint == "discrete"
        self._adjoint_options = ({"ends": False} if discrete else {}) | self.adjoint_options  # training holds the span
        self._keep_factors = discrete  # of the head's cotangents, which in hidden coordinates need not be multiplied out
        self._gradient()
        self.steps_per_epoch: int | None = None
        for penalty in self.penalties:
            penalty.check(field, self.method)
            penalty.check_times(self._observed(self.tspan), self.tspan)
            if penalty.adjoints is not None and adjoint not in penalty.adjoints:
                raise InputError(
                    f"{type(penalty).__name__} needs the adjoint {' or '.join(map(repr, penalty.adjoints))}, which opens every step; got adjoint={adjoint!r}"
                )
        self.penalties = tuple(penalty.using(adjoint) for penalty in self.penalties)
        movers = [type(penalty).__name__ for penalty in self.penalties if type(penalty).span is not Penalty.span]
        if movers and times is not None:
            raise InputError(f"{movers[0]} moves the end of the span, and observation times are fixed: leave out one of the two")
        if len(movers) > 1:
            raise InputError(f"only one penalty can move the end of the span; got {' and '.join(movers)}")
        self._options: dict[str, Any] = {
            "method": self.method,
            "controller": self.controller,
            "rtol": rtol,
            "atol": atol,
            "max_steps": max_steps,
            "keep": keep,
            "coordinates": coordinates,
        }
        self.n_params = field.n_params + (head.n_params if head else 0)

    def by_epochs(self, steps_per_epoch: int) -> Objective:
        """The same objective where an epoch has so many steps: what a penalty's `PerEpoch` weight counts by. `adaptode.fit` asks for it."""
        twin = copy.copy(self)
        twin.steps_per_epoch = steps_per_epoch
        return twin

    def init(self, rng: np.random.Generator | int | None = None) -> Array:
        """Initial parameters (P,): the field's own initialisation, then the head's."""
        rng = check_rng(rng)
        init = getattr(self.field, "init", None)
        if init is None:
            raise InputError(f"{self.field!r} cannot initialise its parameters; give starting parameters to fit as params=")
        parts = [init(rng)]
        if self.head:
            parts.append(self.head.init(rng))
        return np.concatenate(parts).astype(self.dtype)

    def split(self, params: ArrayLike) -> tuple[Array, Array]:
        """(θ, φ) of a flat parameter vector."""
        params = np.asarray(params, dtype=self.dtype)
        if params.shape != (self.n_params,):
            raise InputError(f"params must have shape ({self.n_params},); got {params.shape}")
        return params[: self.field.n_params], params[self.field.n_params :]

    def solve(
        self, params: ArrayLike, X: ArrayLike, saveat: ArrayLike | None = None, tspan: tuple[float, float] | None = None, *, reservoirs: Collection[int] = ()
    ) -> Run:
        """The flow of X (B, n) over the nominal span or another, all of it stepped jointly; SolveError when it does not reach the end.

        saveat  None: the observation times
        """
        return self._solve(params, X, saveat, tspan, reservoirs, copy=True)

    def _solve(
        self,
        params: ArrayLike,
        X: ArrayLike,
        saveat: ArrayLike | None = None,
        tspan: tuple[float, float] | None = None,
        reservoirs: Collection[int] = (),
        copy: bool = False,
    ) -> Run:
        """`solve`, whose run may be of the arrays themselves where it is used up before they can change; see `_detaching`."""
        theta, _ = self.split(params)
        X = np.asarray(X, dtype=self.dtype)
        span = self.tspan if tspan is None else tspan
        if saveat is None:
            saveat = self._observed(span)
        return solve(self.field, theta, X, span, saveat=saveat, reservoirs=reservoirs, copy=copy, **self._options).require_success()

    def output(self, params: ArrayLike, run: Run) -> Array:
        """What the loss sees of a run: the head's outputs (B, ·) or the states (B, n); with observation times, of each of them, (B, k, ·)."""
        return self._output(self.split(params)[1], self._states(run))[0]

    def _states(self, run: Run) -> Array:
        """The states that the loss sees, (k, B, n), one at the end without observation times."""
        if self.times is None:
            return run.y1[None]
        return run.y if run.t.size == self.times.size else run.y[np.searchsorted(*((run.t, self.times) if self._forwards else (-run.t, -self.times)))]

    def _output(self, phi: Array, seen: Array) -> tuple[Array, Callable[[Array], tuple[Sequence[Array | Factors], Array]]]:
        """The output, and its transpose: cotangents (B, n) of the states at each of the observed times, in order, and φ̄."""
        states = seen[0] if self.times is None else seen.transpose(1, 0, 2)
        if self.head is None:
            return states, lambda bar: (bar[None] if self.times is None else np.ascontiguousarray(bar.reshape(states.shape).transpose(1, 0, 2)), phi)
        flat = states.reshape(-1, self.field.n)
        output = self.head.value(phi, flat)

        def transpose(output_bar: Array) -> tuple[Sequence[Array | Factors], Array]:
            flat_bar = output_bar.reshape(output.shape)
            if self._keep_factors and type(self.head) is LinearHead:
                factors, phi_bar = self.head.pull(phi, flat, flat_bar)
                lefts = factors.left[None] if self.times is None else factors.left.reshape(*states.shape[:2], -1).transpose(1, 0, 2)
                return [Factors(np.ascontiguousarray(left), factors.right) for left in lefts], phi_bar
            bar, phi_bar = self.head.vjp(phi, flat, flat_bar)
            bar = bar.reshape(states.shape)
            return bar[None] if self.times is None else np.ascontiguousarray(bar.transpose(1, 0, 2)), phi_bar

        return output.reshape(*states.shape[:-1], -1), transpose

    def _loss(self, output: Array, y: ArrayLike) -> tuple[float, Array]:
        """The loss and its gradient; labels of several times are those of so many samples."""
        if self.times is None or self.loss == "mean_squared_error":
            return LOSSES[self.loss](output, y)
        y = np.asarray(y)
        if y.shape[:2] != output.shape[:2]:
            raise InputError(f"targets must begin with samples and observation times, {output.shape[:2]}; got shape {y.shape}")
        return LOSSES[self.loss](output.reshape(-1, output.shape[-1]), y.reshape(-1, *y.shape[2:]))

    def _observed(self, tspan: tuple[float, float]) -> Array:
        """The times at which the loss sees the flow over a span."""
        return np.array([tspan[1]]) if self.times is None else self.times

    def _gradient(self) -> Callable[..., Any]:
        """The adjoint, looked up when it is needed, so that one that is registered later serves too."""
        known = adjoints.ADJOINTS
        if not isinstance(self.adjoint, str) or self.adjoint not in known:
            raise InputError(f"unknown adjoint {self.adjoint!r}; known: {', '.join(known)}")
        return known[self.adjoint]

    @_detaching()
    def predict(self, params: ArrayLike, X: ArrayLike) -> Array:
        """Outputs (B, ·) at X, or (B, k, ·) at the observation times, no penalty evaluated."""
        return self.output(params, self._solve(params, X))

    @_detaching()
    def value_and_grad(self, params: ArrayLike, X: ArrayLike, y: ArrayLike, *, rng: np.random.Generator, step: int = 0, start: bool = False) -> Evaluation:
        """The objective on one batch and its gradient, exact on the accepted grid.

        rng   draws one uniform variate a penalty;  step   the training step, which sets the schedules of the λ;  start   the gradient with respect to X too
        """
        theta, phi = self.split(params)
        weights = [penalty.weight.by_epochs(self.steps_per_epoch)(step) for penalty in self.penalties]
        variates = [float(rng.random()) for _ in self.penalties]
        span = self.tspan
        for penalty, variate in zip(self.penalties, variates, strict=True):
            span = penalty.span(span, variate)
        wanted = [set(p.times(span, v)) for p, v in zip(self.penalties, variates, strict=True)]
        observed = self._observed(span).tolist()
        bare = self._options["keep"] not in ("states", "stages")
        seeds = tuple(seed for p, v in zip(self.penalties, variates, strict=True) for seed in p.reservoirs(v) if bare)
        saveat = sorted({*observed, *(t for times in wanted for t in times)}, reverse=span[1] < span[0])
        run = self._solve(params, X, saveat, span, seeds)

        output, transpose = self._output(phi, self._states(run))
        task, output_bar = self._loss(output, y)
        bars, phi_bar = transpose(output_bar)
        jumps = dict(zip(observed, bars, strict=True))
        parts = {"task": float(task)}
        grad, forward, backward = zeros(self.n_params, self.dtype), run.nfev, 0
        theta_bar = grad[: theta.size]
        grad[theta.size :] = phi_bar
        per_step: dict[str, Array] = {}
        for name, penalty, weight, variate, times in zip(self._names, self.penalties, weights, variates, wanted, strict=True):
            term = penalty.evaluate(_seen(run, times.union(observed)), variate)
            parts[name] = weight * term.value
            pulled = term.pull(weight)
            theta_bar += pulled.theta
            for t, bar in pulled.jumps:  # one jump a time: a continuous adjoint stops at each
                jumps[t] = np.asarray(jumps[t]) + bar if t in jumps else bar
            forward += term.evaluations
            backward += pulled.evaluations
            for which, bar in (("error_bar", pulled.error), ("stiffness_bar", pulled.stiffness)):
                if bar is not None:
                    per_step[which] = per_step.get(which, 0.0) + bar
        if all(bar.is_finite() if isinstance(bar, Factors) else all_finite(bar) for bar in (*jumps.values(), *per_step.values())):
            options = self._adjoint_options | ({"start": start} if self._keep_factors else {})
            gradient = self._gradient()(run, jumps=list(jumps.items()), **per_step, **options)
            theta_bar += gradient.theta
            start_bar = gradient.y0
            backward += gradient.evaluations
        else:  # an overflow in the head or the loss, not a wrong argument
            theta_bar[:] = np.nan
            start_bar = np.full_like(run.y0, np.nan)
        return Evaluation(
            loss=sum(parts.values()),
            grad=grad,
            parts=parts,
            nfe_forward=forward,
            nfe_backward=backward,
            error=float(run.accepted("error").max(initial=0.0)),
            start=start_bar if start else None,
        )

    def compiled(self) -> Objective:
        """The same objective by `adaptode.Flow`: quick where states are a few numbers; InputError where there is more to it than an MLP and a loss.

        Its steps and gradients are the same to rounding; penalties, other adjoints and fields, and several BLAS threads are for the objective itself.
        """
        from .compiled import CompiledObjective

        return CompiledObjective(self)

    def config(self) -> dict[str, Any]:
        """Everything that makes this objective, for JSON: a checkpoint of another one is refused."""
        field = self.field
        description = field.config() if hasattr(field, "config") else {"name": field.name, "n": field.n, "n_params": field.n_params}
        options = {k: np.asarray(v).tolist() for k, v in self._options.items() if k not in ("method", "controller")}  # plain numbers
        return {
            "field": description,
            "loss": self.loss,
            "head": self.head.config() if self.head else None,
            "tspan": list(self.tspan),
            "dtype": self.dtype.name,
            "method": self.method.name,
            "controller": self.controller.name,
            "times": None if self.times is None else self.times.tolist(),
            "adjoint": self.adjoint,
            "adjoint_options": {name: repr(value) for name, value in self.adjoint_options.items()},
            "penalties": [p.config() for p in self.penalties],
            **options,
        }


def _seen(run: Run, times: set[float]) -> Run:
    """The run with those of its outputs: what others asked for is not a penalty's to see."""
    which = [i for i, t in enumerate(run.t.tolist()) if t in times]
    return run if len(which) == run.t.size else replace(run, t=run.t[which], y=run.y[which])
