"""Initial states that are learned: parameters of the objective like any other, by the adjoint's gradient with respect to y₀."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..fields.protocol import Array
from .objective import Evaluation, Objective


class LearnedStart:
    """An objective L(p, Y₀; y) whose initial states Y₀ are parameters too, after the p = (θ, φ) of the given one.

    objective  an Objective;  start (N, n)  where the initial states of the N samples start from

    To `adaptode.fit` a sample is its number, X = arange(N), so that any batches serve: ∂L/∂Y₀ is 0 in the rows of those that are not in the batch.
    """

    def __init__(self, objective: Objective, start: ArrayLike) -> None:
        self.objective, self.start = objective, np.array(start, dtype=objective.dtype)
        if self.start.ndim != 2 or self.start.shape[1] != objective.field.n or not self.start.size:
            raise InputError(f"start must be the initial states (N, {objective.field.n}); got shape {self.start.shape}")
        self.n_params = objective.n_params + self.start.size

    def by_epochs(self, steps_per_epoch: int) -> LearnedStart:
        twin = copy.copy(self)
        twin.objective = self.objective.by_epochs(steps_per_epoch)
        return twin

    def init(self, rng: np.random.Generator | int | None = None) -> Array:
        """p as the objective makes it, and the start."""
        return np.concatenate([self.objective.init(rng), self.start.ravel()])

    def split(self, params: ArrayLike) -> tuple[Array, Array]:
        """(p, Y₀ (N, n)) of a flat parameter vector."""
        params = np.asarray(params, dtype=self.objective.dtype)
        if params.shape != (self.n_params,):
            raise InputError(f"params must have shape ({self.n_params},); got {params.shape}")
        return params[: self.objective.n_params], params[self.objective.n_params :].reshape(self.start.shape)

    def value_and_grad(self, params: ArrayLike, X: ArrayLike, y: ArrayLike, *, rng: np.random.Generator, step: int = 0) -> Evaluation:
        """The objective on the samples with the numbers X (B,), and its gradient with respect to p and Y₀."""
        p, start = self.split(params)
        rows = np.asarray(X)
        evaluation = self.objective.value_and_grad(p, start[rows], y, rng=rng, step=step, start=True)
        start_bar = np.zeros_like(start)
        np.add.at(start_bar, rows, evaluation.start)
        return evaluation._replace(grad=np.concatenate([evaluation.grad, start_bar.ravel()]))

    def config(self) -> dict[str, Any]:
        return {"objective": self.objective.config(), "start": self.start.tolist()}
