"""An objective without penalties, its solve and gradient two calls of compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..adjoint.flow import Flow
from ..errors import InputError
from ..fields.protocol import Array
from .objective import Evaluation, Objective


class CompiledObjective(Objective):
    """`objective.compiled()`: `predict` and `value_and_grad` by a `Flow`, all else as it was."""

    def __init__(self, objective: Objective) -> None:
        vars(self).update(vars(objective))
        self._keep_factors = False
        if self.penalties:
            raise InputError("a compiled objective has no penalties: leave them out, or train with the objective itself")
        if self.adjoint != "discrete" or self.adjoint_options:
            raise InputError(f"a compiled objective has the discrete adjoint without options; got adjoint={self.adjoint!r}, {self.adjoint_options}")
        names = ("method", "controller", "rtol", "atol", "max_steps")
        self.flow = Flow(self.field, self.tspan, times=self.times, dtype=self.dtype, **{name: self._options[name] for name in names})  # type: ignore[arg-type]

    def compiled(self) -> Objective:
        return self

    def predict(self, params: ArrayLike, X: ArrayLike) -> Array:
        theta, phi = self.split(params)
        states = self.flow(theta, X)[0]  # type: ignore[arg-type]
        return states[0] if self.head is None and self.times is None else self._output(phi, states)[0]

    def value_and_grad(self, params: ArrayLike, X: ArrayLike, y: ArrayLike, *, rng: Any = None, step: int = 0, start: bool = False) -> Evaluation:
        theta, phi = self.split(params)
        states, tape = self.flow(theta, X, keep=True)  # type: ignore[arg-type]
        output, transpose = self._output(phi, states)
        loss, output_bar = self._loss(output, y)
        bars, phi_bar = transpose(output_bar)
        if np.isfinite(bars).all():
            start_bar, theta_bar, calls = self.flow.vjp(tape, bars)
        else:  # an overflow in the head or the loss, not a wrong argument
            start_bar, theta_bar, calls = np.full_like(tape.y0, np.nan), np.full_like(theta, np.nan), 0
        grad = np.concatenate([theta_bar, phi_bar]) if phi_bar.size else theta_bar
        return Evaluation(loss, grad, {"task": loss}, tape.nfev, calls, tape.error, start_bar if start else None)
