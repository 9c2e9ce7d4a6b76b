"""A neural ODE that learns time series, with scikit-learn manners."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..control import Controller
from ..errors import InputError
from ..fields import augment
from ..fields.protocol import Array
from ..regularize import Penalty
from ..schedules import Schedule
from ..solution import Run
from ..tableau import Tableau
from ..training.heads import FirstComponents
from ..training.objective import Objective
from ..training.start import LearnedStart
from .base import NeuralODE, RegressorMixin, blas_for, cast, check_array, check_consistent_length, check_is_fitted, input_errors, rng_of

_UNEVEN = 1e-6  # windows share their times: spacings may differ by this much, relative to their mean


class NeuralODERegressor(RegressorMixin, NeuralODE):
    """Learn the flow that carries a series, or several, from its first observation through the others.

    z′ = f(τ, z; θ),   z(0) = z₀,   ŷ(t) = m + s z(τ),   τ = (t − t₀)/u                                                       [Chen18]
    L = mean over times, series and components of (z(τ_i) − (y_i − m)/s)², and the penalties

    hidden        : widths of the hidden layers of the MLP f, whose ends are the components of y and the dimensions of `augment`
    activation, time, preactivation : as in `adaptode.MLP`; preactivation="cube" is the spiral's y³
    augment       : zeros put after each initial state, so that a series whose components do not determine its future can be one that does      [Dup19]
    initial       : z₀: "first", the first observation; "learn", parameters that start there (and the first observation is fitted like the others)
    normalize     : True: m and s are mean and standard deviation of each component over all observations; False: m = 0, s = 1
    t1            : τ of the last observation, > 0; None: u = 1, and τ has the unit of X. The untrained flow has slopes of order 1 in τ
    method, controller, rtol, atol : as in `adaptode.solve`, in units of z
    penalties     : of `adaptode.regularize`, e.g. [LocalError(1.0)]
    adjoint       : which gradient of the solve, a name of `adaptode.adjoint.ADJOINTS`
    learning_rate : number or schedule of the step; with weight_decay, for AdamW
    batch_time    : train on windows of so many consecutive observations, each starting from its own first one; None: on whole series
    batch_size    : windows, or series, a step, at random; None: all
    epochs        : passes over the windows, or series
    dtype         : "float64" or "float32"
    progress      : bar on stderr
    checkpoint, resume : folder for checkpoints; continue from there, bit for bit
    warm_start    : True: a further `fit` goes on from params_, e.g. on whole series after windows
    random_state  : None, int or RandomState

    X holds times, (k,) or (k, 1), and y (k,), (k, n) or, for B series observed at the same times, (k, B, n): an observation a row, in any order;
    observations at the same time are averaged. Windows need equally spaced times and, as they are solved together whenever they begin, time="none",
    initial="first" and augment=0.

    After fit: n_features_in_ (1), n_iter_ (complete epochs), params_ (P,), history_ (a History, its losses in units of z), objective_, and
    initial_state_, what predictions start from, in units of y and of the shape of one of its rows.

    Series are stepped jointly: each depends, within the tolerance, on those beside it. Ctrl-C in `fit` keeps the model so far, with a RuntimeWarning.
    Errors: InputError for unusable data or settings, before any work; SolveError where a prediction beyond the data runs away; those of `adaptode.fit`,
    `.result` and all, for a training that fails.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (50,),
        *,
        activation: str = "tanh",
        time: str = "none",
        preactivation: str = "identity",
        augment: int = 0,
        initial: str = "first",
        normalize: bool = True,
        t1: float | None = None,
        method: str | Tableau = "Dopri5",
        controller: str | Controller | None = None,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        penalties: Sequence[Penalty] = (),
        adjoint: str = "discrete",
        learning_rate: float | Schedule = 0.01,
        weight_decay: float = 0.0,
        batch_time: int | None = None,
        batch_size: int | None = None,
        epochs: int = 500,
        dtype: str = "float64",
        progress: bool = False,
        checkpoint: str | os.PathLike | None = None,
        resume: bool = False,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.time = time
        self.preactivation = preactivation
        self.augment = augment
        self.initial = initial
        self.normalize = normalize
        self.t1 = t1
        self.method = method
        self.controller = controller
        self.rtol = rtol
        self.atol = atol
        self.penalties = penalties
        self.adjoint = adjoint
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_time = batch_time
        self.batch_size = batch_size
        self.epochs = epochs
        self.dtype = dtype
        self.progress = progress
        self.checkpoint = checkpoint
        self.resume = resume
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> NeuralODERegressor:
        """Train on the observations y (k,), (k, n) or (k, B, n) at the times X (k,) or (k, 1), at least two of them different."""
        with input_errors():
            times, y = self._observations(X, y)
            rng = rng_of(self.random_state)
        self._check_settings(times)
        origin, unit = times[0], 1.0 if self.t1 is None else (times[-1] - times[0]) / self.t1
        tau, shape = (times - origin) / unit, y.shape[1:]
        series = y.reshape(len(y), -1, shape[-1] if shape else 1)
        mean, deviation = self._scales(series)
        series = (series - mean) / deviation
        n, extra = series.shape[2], augment(series[0], self.augment).shape[1]  # refuses an augment that is none
        head = FirstComponents(extra, n) if extra > n else None

        def objective_at(at: Array) -> Objective:
            return self._objective(extra, "mean_squared_error", head=head, tspan=(0.0, float(at[-1])), times=at, preactivation=self.preactivation)

        dtype = np.dtype(self.dtype if self.dtype in ("float64", "float32") else "float64")  # `_objective` refuses others
        series = cast(series, dtype, "y")
        start = augment(series[0], self.augment)
        if self.initial == "learn":
            objective = objective_at(tau)
            learned = LearnedStart(objective, start)
            before = self._before(objective)
            if before is not None:
                before = np.concatenate([before, start.ravel()])
            result = self._train(learned, np.arange(len(start)), series.swapaxes(0, 1), objective.field, rng, before)
            params, start = learned.split(result.params)
        else:
            samples, targets = start, series[1:].swapaxes(0, 1)
            objective = objective_at(tau[1:])
            if self.batch_time is not None:
                objective = objective_at(tau[-1] / (tau.size - 1) * np.arange(1, self.batch_time))
                windows = np.lib.stride_tricks.sliding_window_view(series, self.batch_time, axis=0).reshape(-1, n, self.batch_time)
                samples, targets = windows[:, :, 0], windows[:, :, 1:].swapaxes(1, 2)
            params = self._train(objective, samples, targets, objective.field, rng, self._before(objective)).params
        self.objective_, self.params_, self._start, self._shape = objective, params, start, shape
        self._origin, self._unit, self._mean, self._deviation = origin, unit, mean, deviation
        self.initial_state_ = self._in_units(start[None])[0]
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """States at the times X (m,) or (m, 1), in any order, within the data, after or before it: (m,), (m, n) or (m, B, n) as y was."""
        tau, inverse, runs = self._solved(X)
        states = np.empty((tau.size, *self._start.shape))
        for which, run in runs:
            states[which] = run.y
        return self._in_units(states)[inverse]

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """R² of the prediction, the mean over the components of all series; a weight an observation time."""
        from sklearn.metrics import r2_score

        predicted = self.predict(X)
        with input_errors():
            y = check_array(y, ensure_2d=False, allow_nd=True, dtype=np.float64, input_name="y")
            if y.shape[1:] != predicted.shape[1:] and y.size != predicted.size:
                raise InputError(f"y must have the shape of the prediction, {predicted.shape}; got {y.shape}")
            return r2_score(y.reshape(len(y), -1), predicted.reshape(len(predicted), -1), sample_weight=sample_weight)

    def n_function_evaluations(self, X: ArrayLike) -> int:
        """Evaluations of the field (NFE) in the solves that predict at X."""
        return sum(run.nfev for _, run in self._solved(X)[2])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.target_tags.multi_output = True, True
        tags.regressor_tags.poor_score = True  # of data that is no function of one time
        return tags

    def _observations(self, X: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Different times (k,), in order, and y there (k, …)."""
        if y is None:
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        times = self._times(X, reset=True)
        y = check_array(y, ensure_2d=False, allow_nd=True, dtype=np.float64, input_name="y")
        check_consistent_length(times, y)
        if y.ndim > 3 or y.size == 0:
            raise InputError(f"y must be observations (k,), (k, n) or, of several series, (k, B, n), not empty; got shape {y.shape}")
        different, inverse = np.unique(times, return_inverse=True)
        if different.size < 2:
            raise InputError(f"a series needs observations at two different times at least; X has n_samples = {times.size}, all at {times[0]:g}")
        total = np.zeros((different.size, *y.shape[1:]))
        np.add.at(total, inverse, y)
        return different, total / np.bincount(inverse).reshape(-1, *(1,) * (y.ndim - 1))

    def _times(self, X: ArrayLike, reset: bool = False) -> Array:
        """X as times (k,)."""
        if not reset:
            check_is_fitted(self)
        with input_errors():
            X = check_array(X, ensure_2d=False, dtype=np.float64, input_name="X")
        if X.ndim == 2 and X.shape[1] != 1:
            raise InputError(f"X must be times, (k,) or (k, 1); got shape {X.shape}")
        if reset:
            self.n_features_in_ = 1
        return X.ravel()

    def _check_settings(self, times: Array) -> None:
        """What no one below will refuse, or not in time."""
        if self.initial not in ("first", "learn"):
            raise InputError(f"initial must be 'first' or 'learn', not {self.initial!r}")
        if not isinstance(self.normalize, (bool, np.bool_)):
            raise InputError(f"normalize must be True or False, not {self.normalize!r}")
        if self.t1 is not None and (isinstance(self.t1, bool) or not (isinstance(self.t1, Real) and math.isfinite(self.t1) and self.t1 > 0)):
            raise InputError(f"t1 must be a finite time after 0, or None, not {self.t1!r}")
        if self.batch_time is None:
            return
        if isinstance(self.batch_time, bool) or not isinstance(self.batch_time, Integral) or not 2 <= self.batch_time <= times.size:
            raise InputError(f"batch_time must be a number of observations, from 2 to the {times.size} that there are; got {self.batch_time!r}")
        for name, only in (("time", "none"), ("initial", "first"), ("augment", 0)):
            if getattr(self, name) != only:
                raise InputError(f"windows of batch_time observations need {name}={only!r}: they are solved together whenever they begin, each from its first")
        gaps = np.diff(times)
        worst = int(np.argmax(np.abs(gaps - gaps.mean())))
        if abs(gaps[worst] - gaps.mean()) > _UNEVEN * gaps.mean():
            raise InputError(
                f"windows of batch_time observations need equally spaced times; from t = {times[worst]:g} to the next it is {gaps[worst]:g}, on average "
                f"{gaps.mean():g}. Leave out batch_time to train on whole series"
            )

    def _before(self, objective: Objective) -> Array | None:
        """The parameters that a warm start goes on from."""
        if not (self.warm_start and hasattr(self, "params_")):
            return None
        if self.params_.size != objective.n_params:
            raise InputError(
                f"warm_start goes on from parameters of another field: hidden={self.hidden!r} has {objective.n_params} of them, fitted were {self.params_.size}"
            )
        return self.params_.astype(objective.dtype)

    def _scales(self, series: Array) -> tuple[Array, Array]:
        """m (n,) and s (n,)."""
        n = series.shape[2]
        if not self.normalize:
            return np.zeros(n), np.ones(n)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = series.mean(axis=(0, 1)), series.std(axis=(0, 1))
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
            raise InputError("y has values too large for their mean and standard deviation; scale it")
        return mean, np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)  # a constant component stays as it is

    def _in_units(self, states: Array) -> Array:
        """States (m, B, n + augment) in units of y, shaped as its rows."""
        return (self._mean + self._deviation * states[..., : self._mean.size]).reshape(len(states), *self._shape)

    def _solved(self, X: ArrayLike) -> tuple[Array, Array, list[tuple[Array, Run]]]:
        """Different τ in order, for each of X which it is, and the solves that pass them: from the start onwards, and back from it."""
        times = self._times(X)
        tau, inverse = np.unique((times - self._origin) / self._unit, return_inverse=True)
        return tau, inverse, list(self._runs(tau))

    def _runs(self, tau: Array) -> Iterator[tuple[Array, Run]]:
        """(indices of tau, run whose outputs are there)."""
        after, before = np.flatnonzero(tau >= 0), np.flatnonzero(tau < 0)[::-1]
        with blas_for(self.objective_.field, len(self._start)):
            for which in (after, before):
                if which.size:
                    yield which, self.objective_.solve(self.params_, self._start, tau[which], (0.0, float(tau[which[-1]])))
