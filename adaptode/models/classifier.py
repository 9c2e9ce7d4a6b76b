"""A neural ODE that classifies, with scikit-learn manners."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
    from threadpoolctl import threadpool_limits
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'NeuralODEClassifier needs scikit-learn 1.6 or later: pip install "adaptode[ml]"', name=error.name
    ) from error

from ..checked import check_tolerances
from ..control import Controller
from ..errors import AdaptodeError, InputError
from ..fields import MLP
from ..regularize import Penalty
from ..schedules import Schedule
from ..tableau import Tableau
from ..training.fit import fit
from ..training.heads import LinearHead
from ..training.objective import Objective
from ..training.optimizers import Adam


class NeuralODEClassifier(ClassifierMixin, BaseEstimator):
    """Classify by where a learned flow carries a sample.

    y′ = f(t, y; θ),   y(0) = x,   logits = W y(t1) + b;   one logit for two classes, k for k > 2          [Chen18]

    hidden        : widths of the hidden layers of the MLP f, whose ends are the features
    activation, time : as in `adaptode.MLP`
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
        with _input_errors():
            X, y = validate_data(self, X, y, dtype=np.float64)
            check_classification_targets(y)
            rng = _rng(self.random_state)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y has one class only, {classes.tolist()[0]!r}; a classifier needs at least two")
        objective = self._objective(X.shape[1], len(classes))
        with _blas_for(objective, self.batch_size or len(X)):
            result = fit(
                objective,
                _cast(X, objective.dtype),
                labels,
                optimizer=Adam(self.learning_rate, weight_decay=self.weight_decay),
                epochs=self.epochs,
                batch_size=self.batch_size,
                rng=rng,
                progress=self.progress,
                checkpoint=self.checkpoint,
                resume=self.resume,
            )
        if result.status == "interrupted":
            warnings.warn(f"training {result.message}: the model is what it had become", RuntimeWarning, stacklevel=2)
        self.classes_, self.objective_ = classes, objective
        self.params_, self.history_, self.n_iter_ = result.params, result.history, result.epoch
        return self

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Logits: (B,) for two classes, positive for the second; (B, k) for more."""
        X = self._validated(X)
        with _blas_for(self.objective_, len(X)):
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
        with _blas_for(self.objective_, len(X)):
            return self.objective_.solve(self.params_, X).nfev

    def _objective(self, n: int, n_classes: int) -> Objective:
        hidden = _widths(self.hidden)
        if not (isinstance(self.t1, Real) and math.isfinite(self.t1) and self.t1 > 0):
            raise InputError(f"t1 must be a finite time after 0, not {self.t1!r}")
        if self.dtype not in ("float64", "float32"):
            raise InputError(f"dtype must be 'float64' or 'float32', not {self.dtype!r}")
        check_tolerances(self.rtol, self.atol, n, 1, self.dtype)
        return Objective(
            MLP((n, *hidden, n), activation=self.activation, time=self.time),
            "binary_cross_entropy" if n_classes == 2 else "cross_entropy",
            head=LinearHead(n, 1 if n_classes == 2 else n_classes),
            tspan=(0.0, float(self.t1)),
            method=self.method,
            controller=self.controller,
            rtol=self.rtol,
            atol=self.atol,
            penalties=self.penalties,
            adjoint=self.adjoint,
            dtype=self.dtype,
        )

    def _validated(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        with _input_errors():
            X = validate_data(self, X, dtype=np.float64, reset=False)
        return _cast(X, self.objective_.dtype)


def _widths(hidden: Any) -> tuple[int, ...]:
    """`hidden` as a tuple of widths."""
    if isinstance(hidden, Integral) and not isinstance(hidden, bool):
        raise InputError(f"hidden must be a sequence of widths; for a single layer write hidden=({hidden},)")
    widths = tuple(hidden) if isinstance(hidden, (Sequence, np.ndarray)) and not isinstance(hidden, str) else None
    if widths is None or not all(isinstance(width, Integral) and not isinstance(width, bool) and width > 0 for width in widths):
        raise InputError(f"hidden must be a sequence of positive whole numbers such as (64, 64), the widths of the layers; got {hidden!r}")
    return tuple(int(width) for width in widths)


def _blas_for(objective: Objective, batch: int) -> AbstractContextManager[Any]:
    """One BLAS thread where the products are small: a second gains nothing there, and on a busy machine it costs many times the whole."""
    sizes = objective.field.sizes
    flops = 2 * batch * max(m * k for m, k in pairwise(sizes))
    return threadpool_limits(1, "blas") if flops < 2e7 else nullcontext()


@contextmanager
def _input_errors() -> Iterator[None]:
    """scikit-learn's complaints about arguments, under adaptode's name for them (which is a ValueError too)."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, AdaptodeError):
            raise
        raise InputError(str(error)) from error


def _cast(X: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = X.astype(dtype, copy=False)
    if not np.isfinite(cast).all():
        raise InputError(f"X has values beyond the range of {dtype}; scale it, or use float64")
    return cast


def _rng(random_state: Any) -> int | np.random.Generator | None:
    """What `fit` takes. Only an int names the run that a resumed one must be."""
    if random_state is None or isinstance(random_state, Integral) and not isinstance(random_state, bool):
        return random_state
    return np.random.default_rng(check_random_state(random_state).randint(2**31))
