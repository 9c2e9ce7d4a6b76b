"""The training loop.

Every random number of a training comes from its seed and the number of the step or epoch, so a step can be repeated,
after an interrupt or in another process, with the same bits.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError, InputError, NonFiniteLossError, SolveError
from ..progress import Progress
from .batches import Batches, check_count, check_data, stream
from .checkpoint import check_config, check_versions, list_checkpoints, load_run, save_run
from .history import FitResult, History
from .objective import Evaluation
from .optimizers import Adam, Optimizer, State


class StepInfo(NamedTuple):
    """What the callback of `fit` is told after every step.

    step, epoch   : int              this step's number and its epoch, counted from 0
    params        : (P,) float       after the step; read-only, and overwritten two steps later: copy what is to be kept
    evaluation    : Evaluation       of the step's batch, before its update
    grad_norm     : float
    learning_rate : float
    history       : History         with this step's row; not to be changed
    """

    step: int
    epoch: int
    params: np.ndarray
    evaluation: Evaluation
    grad_norm: float
    learning_rate: float
    history: History


def fit(
    objective: Any,
    X: np.ndarray,
    y: np.ndarray,
    *,
    params: np.ndarray | None = None,
    optimizer: Optimizer = Adam(1e-3),  # noqa: B008  (frozen)
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    rng: np.random.Generator | int | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
    callback: Callable[[StepInfo], Any] | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
) -> FitResult:
    """Minimise `objective` over minibatches of (X, y).

    objective     : with `n_params`, `init(rng) -> params`, `config() -> dict` for JSON, and
                    `value_and_grad(params, X, y, *, rng, step) -> Evaluation`
                    and, for `PerEpoch` weights, `by_epochs(steps_per_epoch) -> objective`
    X, y          : arrays of one length N, real and finite
    params        : (P,) float start, copied; default `objective.init`
    epochs, steps : how long; exactly one of them, counted from the very beginning when resuming
    batch_size    : default, and when larger than N: all samples in every step, in their own order
    rng           : seed, or a generator from which one is drawn
    shuffle       : a new order of the samples in each epoch
    drop_last     : leave out an epoch's last batch when it is smaller than the others
    callback      : called after each step with a StepInfo; a true answer stops the training
    progress      : bar (or lines, without tqdm) on stderr
    checkpoint    : folder for checkpoints: one at the start, one every `checkpoint_every` steps, one at the end
    resume        : go on from the last checkpoint in that folder, bit for bit as if never stopped; from the start if
                    it has none

    Ctrl-C returns the model after the last complete step, status "interrupted", and writes its checkpoint. Any other
    error leaves with the same in its attribute `.result` (status "failed") and checkpoint. A checkpoint that cannot be
    written is an error at the start and a warning later.

    Errors: InputError, before any work, for unusable arguments or data; NonFiniteLossError when a loss, gradient or
    update is NaN or infinite; CheckpointError when the folder holds a run and `resume` is not asked for, or a damaged
    or different run.
    """
    X, y = check_data(X, y)
    n_steps = _check_options(objective, optimizer, callback, checkpoint, checkpoint_every, resume, epochs, steps)
    batches = Batches(X, y, batch_size, shuffle, drop_last)
    training = _Training(objective, optimizer, batches, checkpoint)
    training.start(params, rng, resume)
    total = n_steps if epochs is None else n_steps * batches.per_epoch
    try:
        status = training.run(total, callback, checkpoint_every, progress)
        return training.end(status)
    except KeyboardInterrupt:
        return training.end("interrupted")
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Ctrl-C, and then some library's clean-up failed over it
            return training.end("interrupted")
        error.result = training.end("failed")  # type: ignore[attr-defined]
        error.add_note(
            f"Training stopped at step {training.current.step}; the state before it is in this error's `.result`."
        )
        raise


class _State(NamedTuple):
    params: np.ndarray
    optimizer: State
    step: int  # complete steps


class _Training:
    """One training: its state after the last complete step, and the steps that change it.

    A step works on the spare copy of the state and commits it by one assignment, so that an interrupt finds no
    half-made step.
    """

    def __init__(
        self, objective: Any, optimizer: Optimizer, batches: Batches, folder: str | os.PathLike | None
    ) -> None:
        if hasattr(objective, "by_epochs"):
            objective = objective.by_epochs(batches.per_epoch)
        rate = optimizer.learning_rate.by_epochs(batches.per_epoch)
        if rate is not optimizer.learning_rate:
            optimizer = replace(optimizer, learning_rate=rate)
        self.objective, self.optimizer, self.batches, self.folder = objective, optimizer, batches, folder
        self.history = History()
        self.saved_step: int | None = None
        self.seconds_before = 0.0
        self.started = time.perf_counter()

    def start(self, params: np.ndarray | None, rng: np.random.Generator | int | None, resume: bool) -> None:
        """Set the state: new, or from the folder's checkpoint."""
        self.seed = _seed(rng)
        if self.folder is not None:
            self.config = self._describe()
            if list_checkpoints(self.folder):
                if not resume:
                    raise CheckpointError(
                        f"{self.folder} already holds a training; continue it by resume=True, or give another folder"
                    )
                return self._load(seed=self.seed if isinstance(rng, Integral) else None)
        if params is None:
            params = self.objective.init(stream(self.seed, "init"))
        params = _check_params(params, self.objective.n_params)
        self._set(params, self.optimizer.init(params), 0)
        self.save("running", warn=False)

    def run(self, total: int, callback: Callable[[StepInfo], Any] | None, checkpoint_every: int, progress: bool) -> str:
        """Train until `total` steps are complete or the callback has enough; returns the status."""
        bar = Progress(progress, self.current.step, total)
        try:
            while self.current.step < total:
                info = self.advance()
                bar.tick(time.perf_counter(), self.current.step, loss=float(info.evaluation.loss), nfe=info.evaluation.nfe_forward)
                if callback is not None and callback(info):
                    return "stopped"
                if self.current.step % checkpoint_every == 0 and self.current.step < total:
                    self.save("running")
            return "finished"
        finally:
            bar.close()

    def advance(self) -> StepInfo:
        """One step."""
        started = time.perf_counter()
        params, optimizer_state, step = self.current
        epoch, X, y = self.batches.at(step, self.seed)
        rng = stream(self.seed, "objective", step)
        try:
            evaluation = self.objective.value_and_grad(params, X, y, rng=rng, step=step)
        except SolveError as error:
            error.args = (self._unsolved(error),)
            raise
        if evaluation.grad.shape != params.shape:
            raise InputError(f"the objective's gradient must be {params.shape}, not {evaluation.grad.shape}")
        grad_norm = _norm(evaluation.grad)
        rate = self.optimizer.learning_rate(step)
        if not (math.isfinite(evaluation.loss) and math.isfinite(grad_norm)):
            raise self._not_finite("the loss or its gradient", evaluation, grad_norm, rate)

        new_params, new_optimizer_state, _ = self.spare
        np.copyto(new_params, params)
        for name, array in optimizer_state.items():
            np.copyto(new_optimizer_state[name], array)
        with np.errstate(over="ignore", invalid="ignore"):  # found by the check below, which names the step
            self.optimizer.update(new_params, evaluation.grad, new_optimizer_state, step)
        if not all(np.isfinite(array).all() for array in (new_params, *new_optimizer_state.values())):
            raise self._not_finite("the updated parameters or optimizer state", evaluation, grad_norm, rate)

        self.history.append(step, epoch, evaluation, grad_norm, rate, time.perf_counter() - started)
        self.current, self.spare = _State(new_params, new_optimizer_state, step + 1), self.current
        view = new_params.view()
        view.flags.writeable = False
        return StepInfo(step, epoch, view, evaluation, grad_norm, rate, self.history)

    def result(self, status: str) -> FitResult:
        params, optimizer_state, step = self.current
        self.history.truncate(step)  # an interrupt may fall between a row and its step's commit
        epoch, position = divmod(step, self.batches.per_epoch)
        return FitResult(
            params=params,
            history=self.history,
            optimizer_state=optimizer_state,
            step=step,
            epoch=epoch,
            status=status,
            message=f"{status} after {step} steps ({epoch} epochs" + (f" and {position} batches)" if position else ")"),
            seconds=self.seconds_before + time.perf_counter() - self.started,
        )

    def end(self, status: str) -> FitResult:
        """The result, with its checkpoint written if one was asked for."""
        self.save(status)
        return self.result(status)

    def save(self, status: str, warn: bool = True) -> None:
        """Write a checkpoint unless this step has one; `warn`: a failure to write must not end the training."""
        if self.folder is None or self.saved_step == self.current.step:
            return
        try:
            save_run(self.folder, self.result(status), seed=self.seed, config=self.config)
        except CheckpointError as error:
            if not warn:
                raise
            warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        else:
            self.saved_step = self.current.step

    def _load(self, seed: int | None) -> None:
        saved = load_run(self.folder)
        given = {"seed": saved.seed if seed is None else seed}
        check_config(saved.config | {"seed": saved.seed}, self.config | given, self.folder)
        check_versions(saved.versions)
        self.seed, self.history, self.seconds_before = saved.seed, saved.result.history, saved.result.seconds
        self._set(saved.result.params, saved.result.optimizer_state, saved.result.step)
        self.saved_step = saved.result.step

    def _set(self, params: np.ndarray, optimizer_state: State, step: int) -> None:
        self.current = _State(params, optimizer_state, step)
        self.spare = _State(params.copy(), {name: array.copy() for name, array in optimizer_state.items()}, step)

    def _describe(self) -> dict[str, Any]:
        """All that decides the numbers, beside the seed and the software."""
        return {
            "objective": self.objective.config(),
            "optimizer": self.optimizer.to_dict(),
            "batches": self.batches.config(),
        }

    def _unsolved(self, error: SolveError) -> str:
        """The solve's own advice is for a field that is given; here it has been learned."""
        step = self.current.step
        if step == 0:
            advice = "with the parameters it started from. Scale the data, start from smaller parameters, or loosen rtol and atol"
        else:
            advice = (
                "after updates that made the field too steep. Lower the learning rate "
                f"({self.optimizer.learning_rate(step - 1):.4g} in the step before), or scale the data"
            )
        return f"training step {step}: the solve of its batch failed, {advice}. The solve itself says: {error}"

    def _not_finite(self, what: str, evaluation: Evaluation, grad_norm: float, rate: float) -> NonFiniteLossError:
        step = self.current.step
        parts = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.parts.items())
        return NonFiniteLossError(
            f"training step {step}: {what} is NaN or infinite: loss {evaluation.loss:.4g} ({parts}), "
            f"gradient norm {grad_norm:.4g}, learning rate {rate:.4g}. "
            "Try a smaller learning rate or penalty weight, or scale the data",
            step=step,
        )


def _norm(grad: np.ndarray) -> float:
    """2-norm, also where its square overflows; NaN or inf only if the gradient has one or the norm is out of range."""
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(np.dot(grad, grad))
    if math.isfinite(square):
        return math.sqrt(square)
    largest = float(np.abs(grad).max())
    return largest * float(np.linalg.norm(grad / largest)) if math.isfinite(largest) else largest


def _seed(rng: np.random.Generator | int | None) -> int:
    if isinstance(rng, Integral) and not isinstance(rng, bool) and rng >= 0:
        return int(rng)
    if rng is None or isinstance(rng, np.random.Generator):
        return int(np.random.default_rng(rng).integers(2**63))
    raise InputError(f"rng must be a seed of at least 0, a numpy.random.Generator or None, not {rng!r}")


def _check_params(params: Any, n_params: int) -> np.ndarray:
    params = np.array(params)
    if params.dtype.kind in "iu":
        params = params.astype(np.float64)
    if params.shape != (n_params,) or params.dtype.kind != "f" or not np.isfinite(params).all():
        raise InputError(
            f"params must be ({n_params},) finite real numbers; they have shape {params.shape}, dtype {params.dtype}"
        )
    return params


def _check_options(
    objective: Any,
    optimizer: Any,
    callback: Any,
    checkpoint: Any,
    checkpoint_every: Any,
    resume: bool,
    epochs: Any,
    steps: Any,
) -> int:
    """Refuse unusable options; returns whichever of epochs and steps is given."""
    missing = [name for name in ("n_params", "init", "value_and_grad", "config") if not hasattr(objective, name)]
    if missing:
        raise InputError(f"the objective {objective!r} has no {', '.join(missing)}")
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer must be one of adaptode's, such as Adam(0.01), not {optimizer!r}")
    if callback is not None and not callable(callback):
        raise InputError(f"callback must be a function of one argument, not {callback!r}")
    if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike)):
        raise InputError(f"checkpoint must be a folder, not {checkpoint!r}")
    check_count("checkpoint_every", checkpoint_every)
    if resume and checkpoint is None:
        raise InputError("resume=True needs the folder of the run to resume: checkpoint=...")
    if (epochs is None) == (steps is None):
        raise InputError("give either epochs or steps")
    return check_count("steps", steps) if epochs is None else check_count("epochs", epochs)
