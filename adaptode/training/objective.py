"""What training minimises: a task loss of the flow's end, plus weighted penalties, with the exact gradient of both.

    L(θ, φ) = loss(head(y(t₁); φ), target) + Σ_i λ_i(step) R_i,     y′ = f(t, y; θ),   y(t₀) = x
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..adjoint import discrete
from ..checked import check_rng, check_span, check_tolerances
from ..control import Controller, get_controller
from ..errors import InputError
from ..fields.protocol import Array, Field
from ..regularize.base import Penalty
from ..solution import Run
from ..solver import solve
from ..tableau import METHODS, Tableau, get_tableau
from .heads import LinearHead
from .losses import LOSSES


class Evaluation(NamedTuple):
    """The objective and its gradient on one batch.

    loss         : float            task loss plus weighted penalties, what `grad` is the gradient of
    grad         : (P,) float       gradient with respect to the flat parameters
    parts        : dict str->float  the terms of `loss`, e.g. {"task": 0.31, "local_error": 0.002}; the same names at every step
    nfe_forward  : int              evaluations of the field in the forward solve
    nfe_backward : int              evaluations of the field and of its vjp in the backward pass
    error        : float            largest scaled error among the accepted steps, dimensionless
    """

    loss: float
    grad: np.ndarray
    parts: dict[str, float]
    nfe_forward: int = 0
    nfe_backward: int = 0
    error: float = 0.0


class Objective:
    """A neural ODE with its loss and penalties, as a function of one flat parameter vector (θ, then the head's φ).

    field      the vector field; samples X (B, n) are its initial states
    loss       "binary_cross_entropy" (one logit), "cross_entropy" (k logits) or "mean_squared_error"
    head       a LinearHead from n to the outputs; None: the state at t₁ is the output
    penalties  any of `adaptode.regularize`
    the rest   as in `adaptode.solve`

    InputError, MissingDerivativeError or SingularJacobianError at construction when the parts do not fit together.
    """

    def __init__(
        self,
        field: Field,
        loss: str,
        *,
        head: LinearHead | None = None,
        tspan: tuple[float, float] = (0.0, 1.0),
        method: str | Tableau = "Dopri5",
        rtol: float = 1e-3,
        atol: float = 1e-3,
        controller: str | Controller | None = None,
        penalties: Iterable[Penalty] = (),
        dtype: str = "float64",
        max_steps: int = 10_000,
        keep: str = "states",
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
        for penalty in self.penalties:
            penalty.check(field, self.method)
        self._options: dict[str, Any] = {
            "method": self.method,
            "controller": self.controller,
            "rtol": rtol,
            "atol": atol,
            "max_steps": max_steps,
            "keep": keep,
        }
        self.n_params = field.n_params + (head.n_params if head else 0)

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

    def solve(self, params: ArrayLike, X: ArrayLike, saveat: ArrayLike | None = None) -> Run:
        """The flow of X (B, n), all of it stepped jointly; SolveError when it does not reach the end."""
        theta, _ = self.split(params)
        X = np.asarray(X, dtype=self.dtype)
        return solve(self.field, theta, X, self.tspan, saveat=saveat, **self._options).require_success()

    def output(self, params: ArrayLike, run: Run) -> Array:
        """What the loss sees of a run: the head's outputs (B, k), or the states (B, n)."""
        return self.head.value(self.split(params)[1], run.y1) if self.head else run.y1

    def predict(self, params: ArrayLike, X: ArrayLike) -> Array:
        """Outputs (B, k) at X, no penalty evaluated."""
        return self.output(params, self.solve(params, X))

    def value_and_grad(self, params: ArrayLike, X: ArrayLike, y: ArrayLike, *, rng: np.random.Generator, step: int = 0) -> Evaluation:
        """The objective on one batch and its gradient, exact on the accepted grid.

        rng   draws one uniform variate a penalty;  step   the training step, which sets the schedules of the λ
        """
        theta, phi = self.split(params)
        variates = [float(rng.random()) for _ in self.penalties]
        times = {t for p, v in zip(self.penalties, variates, strict=True) for t in p.times(self.tspan, v)}
        run = self.solve(params, X, saveat=sorted({*times, self.tspan[1]}, reverse=self.tspan[1] < self.tspan[0]))

        output = self.output(params, run)
        task, output_bar = LOSSES[self.loss](output, y)
        y_bar, phi_bar = self.head.vjp(phi, run.y1, output_bar) if self.head else (output_bar, phi)
        parts, jumps = {"task": float(task)}, []
        theta_bar, forward, backward = np.zeros_like(theta), run.nfev, 0
        for name, penalty, variate in zip(self._names, self.penalties, variates, strict=True):
            weight = penalty.weight(step)
            term = penalty.evaluate(run, variate)
            parts[name] = weight * term.value
            pulled = term.pull(weight)
            theta_bar += pulled.theta
            jumps += pulled.jumps
            forward += term.evaluations
            backward += pulled.evaluations
        if all(np.isfinite(bar).all() for bar in (y_bar, *(bar for _, bar in jumps))):
            gradient = discrete(run, y_bar, jumps=jumps)
            theta_bar += gradient.theta
            backward += gradient.evaluations
        else:  # an overflow in the head or the loss, not a wrong argument
            theta_bar[:] = np.nan
        return Evaluation(
            loss=sum(parts.values()),
            grad=np.concatenate([theta_bar, phi_bar]),
            parts=parts,
            nfe_forward=forward,
            nfe_backward=backward,
            error=float(run.accepted("error").max(initial=0.0)),
        )

    def config(self) -> dict[str, Any]:
        """Everything that makes this objective, for JSON: a checkpoint of another one is refused."""
        field = self.field
        description = field.config() if hasattr(field, "config") else {"name": field.name, "n": field.n, "n_params": field.n_params}
        options = {k: np.asarray(v).tolist() for k, v in self._options.items() if k not in ("method", "controller")}  # plain numbers
        return {
            "field": description,
            "loss": self.loss,
            "head": [self.head.n_in, self.head.n_out] if self.head else None,
            "tspan": list(self.tspan),
            "dtype": self.dtype.name,
            "method": self.method.name,
            "controller": self.controller.name,
            "penalties": [p.config() for p in self.penalties],
            **options,
        }
