"""A neural ODE that classifies, with scikit-learn manners."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from ..control import Controller
from ..errors import InputError
from ..fields import augment
from ..regularize import Penalty
from ..schedules import Schedule
from ..tableau import Tableau
from ..training.heads import LinearHead
from ..training.objective import Objective
from .base import ClassifierMixin, NeuralODE, blas_for, cast, check_classification_targets, check_is_fitted, input_errors, rng_of, validate_data


class NeuralODEClassifier(ClassifierMixin, NeuralODE):
    """Classify by where a learned flow carries a sample.

    y′ = f(t, y; θ),   y(0) = x,   logits = W y(t1) + b;   one logit for two classes, k for k > 2          [Chen18]

    hidden        : widths of the hidden layers of the MLP f, whose ends are the features and the dimensions of `augment`
    activation, time : as in `adaptode.MLP`
    augment       : zeros put after each sample, so that the flow has room to go around itself      [Dup19]
    method, controller, rtol, atol : as in `adaptode.solve`
    t1            : end of the flow, > 0
    penalties     : of `adaptode.regularize`, e.g. [LocalError(1.0)]
    adjoint       : which gradient of the solve, a name of `adaptode.adjoint.ADJOINTS`
    learning_rate : number or schedule of the step; with weight_decay, for AdamW
    batch_size    : samples a step; None: all
    epochs        : passes over the samples
    dtype         : "float64" or "float32"
    progress      : bar on stderr
    checkpoint, resume : folder for checkpoints; continue from there, bit for bit
    random_state  : None, int or RandomState

    After fit: classes_, n_features_in_, n_iter_ (complete epochs), params_ (P,), history_ (a History), objective_.

    A batch is stepped jointly: a sample's logits depend, within the tolerance, on the samples beside it. Ctrl-C in
    `fit` keeps the model so far, with a RuntimeWarning. Errors: InputError for unusable data or settings, before any
    work; those of `adaptode.fit`, `.result` and all, for a training that fails.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        *,
        activation: str = "tanh",
        time: str = "none",
        augment: int = 0,
        method: str | Tableau = "Dopri5",
        controller: str | Controller | None = None,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        t1: float = 1.0,
        penalties: Sequence[Penalty] = (),
        adjoint: str = "discrete",
        learning_rate: float | Schedule = 0.01,
        weight_decay: float = 0.0,
        batch_size: int | None = None,
        epochs: int = 100,
        dtype: str = "float64",
        progress: bool = False,
        checkpoint: str | os.PathLike | None = None,
        resume: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.time = time
        self.augment = augment
        self.method = method
        self.controller = controller
        self.rtol = rtol
        self.atol = atol
        self.t1 = t1
        self.penalties = penalties
        self.adjoint = adjoint
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.dtype = dtype
        self.progress = progress
        self.checkpoint = checkpoint
        self.resume = resume
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> NeuralODEClassifier:
        """Train on X (B, n) and labels y (B,) of at least two classes."""
        with input_errors():
            X, y = validate_data(self, X, y, dtype=np.float64)
            check_classification_targets(y)
            rng = rng_of(self.random_state)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y has one class only, {classes.tolist()[0]!r}; a classifier needs at least two")
        X = augment(X, self.augment)
        objective = self._classifying(X.shape[1], len(classes))
        result = self._train(objective, cast(X, objective.dtype), labels, objective.field, rng)
        self.classes_, self.objective_, self.params_ = classes, objective, result.params
        return self

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Logits: (B,) for two classes, positive for the second; (B, k) for more."""
        X = self._validated(X)
        with blas_for(self.objective_.field, len(X)):
            logits = self.objective_.predict(self.params_, X)
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities (B, k), columns as in `classes_`."""
        logits = self.decision_function(X)
        if logits.ndim == 1:
            logits = np.column_stack((np.zeros_like(logits), logits))  # softmax of (0, z) is (σ(−z), σ(z))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Labels (B,)."""
        logits = self.decision_function(X)
        return self.classes_[(logits > 0).astype(int) if logits.ndim == 1 else logits.argmax(axis=1)]

    def n_function_evaluations(self, X: ArrayLike) -> int:
        """Evaluations of the field (NFE) in one solve of all of X."""
        X = self._validated(X)
        with blas_for(self.objective_.field, len(X)):
            return self.objective_.solve(self.params_, X).nfev

    def _classifying(self, n: int, n_classes: int) -> Objective:
        if not (isinstance(self.t1, Real) and math.isfinite(self.t1) and self.t1 > 0):
            raise InputError(f"t1 must be a finite time after 0, not {self.t1!r}")
        loss, outputs = ("binary_cross_entropy", 1) if n_classes == 2 else ("cross_entropy", n_classes)
        return self._objective(n, loss, head=LinearHead(n, outputs), tspan=(0.0, float(self.t1)))

    def _validated(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        with input_errors():
            X = validate_data(self, X, dtype=np.float64, reset=False)
        return cast(augment(X, self.objective_.field.n - self.n_features_in_), self.objective_.dtype)
