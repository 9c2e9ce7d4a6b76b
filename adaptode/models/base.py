"""What the models have in common: their way to scikit-learn, their settings' checks, their training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
    from threadpoolctl import threadpool_limits
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('a neural ODE as an estimator needs scikit-learn 1.6 or later: pip install "adaptode[ml]"', name=error.name) from error

from ..checked import check_tolerances
from ..errors import AdaptodeError, InputError
from ..fields import MLP
from ..training.fit import fit
from ..training.heads import Head
from ..training.history import FitResult
from ..training.objective import Objective
from ..training.optimizers import Adam

__all__ = [
    "ClassifierMixin",
    "NeuralODE",
    "RegressorMixin",
    "blas_for",
    "cast",
    "check_array",
    "check_classification_targets",
    "check_consistent_length",
    "check_is_fitted",
    "input_errors",
    "rng_of",
    "validate_data",
]


class NeuralODE(BaseEstimator):
    """Base of the models: an MLP as the field, an Objective of it, `fit` with Adam.

    The parameters below are set by the subclass's own __init__: scikit-learn reads their names there.
    """

    hidden: Any
    activation: str
    time: str
    method: Any
    controller: Any
    rtol: float
    atol: float
    penalties: Any
    adjoint: str
    learning_rate: Any
    weight_decay: float
    batch_size: int | None
    epochs: int
    dtype: str
    progress: bool
    checkpoint: Any
    resume: bool

    def _objective(self, n: int, loss: str, *, head: Head | None, tspan: tuple[float, float], times: Any = None, preactivation: str = "identity") -> Objective:
        """The objective of a field of n components."""
        hidden = _widths(self.hidden)
        if self.dtype not in ("float64", "float32"):
            raise InputError(f"dtype must be 'float64' or 'float32', not {self.dtype!r}")
        check_tolerances(self.rtol, self.atol, n, 1, self.dtype)
        return Objective(
            MLP((n, *hidden, n), activation=self.activation, time=self.time, preactivation=preactivation),
            loss,
            head=head,
            tspan=tspan,
            times=times,
            method=self.method,
            controller=self.controller,
            rtol=self.rtol,
            atol=self.atol,
            penalties=self.penalties,
            adjoint=self.adjoint,
            dtype=self.dtype,
        )

    def _train(self, objective: Any, X: np.ndarray, y: np.ndarray, field: MLP, rng: Any, params: np.ndarray | None = None) -> FitResult:
        """Minimise the objective, from `params` if they are given, and keep history_ and n_iter_."""
        with blas_for(field, self.batch_size or len(X)):
            result = fit(
                objective,
                X,
                y,
                params=params,
                optimizer=Adam(self.learning_rate, weight_decay=self.weight_decay),
                epochs=self.epochs,
                batch_size=self.batch_size,
                rng=rng,
                progress=self.progress,
                checkpoint=self.checkpoint,
                resume=self.resume,
            )
        if result.status == "interrupted":
            warnings.warn(f"training {result.message}: the model is what it had become", RuntimeWarning, stacklevel=3)
        self.history_, self.n_iter_ = result.history, result.epoch
        return result


def _widths(hidden: Any) -> tuple[int, ...]:
    """`hidden` as a tuple of widths."""
    if isinstance(hidden, Integral) and not isinstance(hidden, bool):
        raise InputError(f"hidden must be a sequence of widths; for a single layer write hidden=({hidden},)")
    widths = tuple(hidden) if isinstance(hidden, (Sequence, np.ndarray)) and not isinstance(hidden, str) else None
    if widths is None or not all(isinstance(width, Integral) and not isinstance(width, bool) and width > 0 for width in widths):
        raise InputError(f"hidden must be a sequence of positive whole numbers such as (64, 64), the widths of the layers; got {hidden!r}")
    return tuple(int(width) for width in widths)


def blas_for(field: MLP, batch: int) -> AbstractContextManager[Any]:
    """One BLAS thread where the products are small: a second gains nothing there, and on a busy machine it costs many times the whole."""
    flops = 2 * batch * max(m * k for m, k in pairwise(field.sizes))
    return threadpool_limits(1, "blas") if flops < 2e7 else nullcontext()


@contextmanager
def input_errors() -> Iterator[None]:
    """scikit-learn's complaints about arguments, under adaptode's name for them (which is a ValueError too)."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, AdaptodeError):
            raise
        raise InputError(str(error)) from error


def cast(values: np.ndarray, dtype: np.dtype, name: str = "X") -> np.ndarray:
    """`values` in the model's dtype; InputError where that makes them infinite."""
    with np.errstate(over="ignore"):
        result = values.astype(dtype, copy=False)
    if not np.isfinite(result).all():
        raise InputError(f"{name} has values beyond the range of {dtype}; scale it, or use float64")
    return result


def rng_of(random_state: Any) -> int | np.random.Generator | None:
    """What `fit` takes. Only an int names the run that a resumed one must be."""
    if random_state is None or isinstance(random_state, Integral) and not isinstance(random_state, bool):
        return random_state
    return np.random.default_rng(check_random_state(random_state).randint(2**31))
