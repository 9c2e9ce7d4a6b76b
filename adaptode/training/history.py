"""What a training leaves behind: the history, one row a step, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .objective import Evaluation

_FIRST = ("step", "epoch", "loss")
_LAST = ("nfe_forward", "nfe_backward", "error", "grad_norm", "learning_rate", "seconds")
_INTEGERS = ("step", "epoch", "nfe_forward", "nfe_backward")
_PART = "parts."


class History:
    """One row a training step, as columns.

    step, epoch        : int    counted from 0: row i is step i
    loss               : float  the objective on the step's batch, before its update
    parts.<name>       : float  the terms of the loss, named as in `Evaluation.parts`
    nfe_forward, nfe_backward : int   field evaluations
    error              : float  largest scaled error among the accepted steps of the solve, dimensionless
    grad_norm          : float  2-norm of the gradient
    learning_rate      : float
    seconds            : float  wall time of the step
    """

    def __init__(self, parts: tuple[str, ...] = ()) -> None:
        self._start(parts)

    def _start(self, parts: tuple[str, ...]) -> None:
        self._parts = parts
        self.names = (*_FIRST, *(_PART + name for name in parts), *_LAST)
        self._rows = np.empty((256, len(self.names)))
        self._length = 0

    def append(
        self, step: int, epoch: int, evaluation: Evaluation, grad_norm: float, learning_rate: float, seconds: float
    ) -> None:
        """Add a row. The first row names the parts; a later one with other parts: InputError."""
        if not self._length and tuple(evaluation.parts) != self._parts:
            self._start(tuple(evaluation.parts))
        if evaluation.parts.keys() != set(self._parts):
            raise InputError(f"step {step}: the loss has parts {list(evaluation.parts)}, until now {list(self._parts)}")
        if self._length == len(self._rows):
            self._rows = np.concatenate((self._rows, np.empty_like(self._rows)))
        loss, _, parts, nfe_forward, nfe_backward, error, _ = evaluation
        self._rows[self._length] = (
            step, epoch, loss, *(parts[name] for name in self._parts),
            nfe_forward, nfe_backward, error, grad_norm, learning_rate, seconds,
        )  # fmt: skip
        self._length += 1

    def truncate(self, length: int) -> None:
        """Forget the rows from `length` on."""
        self._length = min(self._length, length)

    def column(self, name: str) -> np.ndarray:
        """One column (rows,), a copy: int64 for counts, float64 otherwise. An unknown name: InputError."""
        if name not in self.names:
            raise InputError(f"no column {name!r}; the history has {', '.join(self.names)}")
        values = self._rows[: self._length, self.names.index(name)]
        return values.astype(np.int64 if name in _INTEGERS else np.float64)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Every column by name; `from_arrays` reads it back."""
        return {name: self.column(name) for name in self.names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> History:
        history = cls(tuple(name.removeprefix(_PART) for name in arrays if name.startswith(_PART)))
        if set(arrays) != set(history.names):
            raise InputError(f"a history has columns {', '.join(history.names)}, not {', '.join(arrays)}")
        rows = np.column_stack([arrays[name] for name in history.names])
        if len(rows):
            history._rows, history._length = rows.astype(np.float64), len(rows)
        return history

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        if not self._length:
            return "History(empty)"
        losses = self.column("loss")
        return f"History({self._length} steps, loss {losses[0]:.4g} -> {losses[-1]:.4g})"


@dataclass(frozen=True, eq=False)
class FitResult:
    """The outcome of `fit`.

    params          : (P,) float          after the last complete step
    history         : History             one row a complete step
    optimizer_state : dict str -> array   as the optimizer's `init` names them
    step, epoch     : int                 complete steps and epochs, over all resumed runs
    status          : str                 "finished", "stopped" (callback), "interrupted" (Ctrl-C), "failed" (error)
    message         : str                 the same in words
    seconds         : float               wall time, over all resumed runs
    """

    params: np.ndarray
    history: History
    optimizer_state: dict[str, np.ndarray]
    step: int
    epoch: int
    status: str
    message: str
    seconds: float

    def __repr__(self) -> str:
        return f"FitResult({self.status} after {self.step} steps, {self.history!r}, {self.seconds:.3g} s)"
