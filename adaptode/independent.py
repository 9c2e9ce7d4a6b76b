"""Batches in which each row has its own step size: `solve(..., batch="independent")`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError, SolveError
from .solution import Run, Status

if TYPE_CHECKING:
    from .fields.protocol import Array


@dataclass(frozen=True, repr=False)
class RunBatch:
    """A batch solved row by row: what `Run` says of a batch, here of each row.

    runs           a Run of a batch of one for every row; gradients are theirs, row by row
    t (k,)         output times                     y (k, B, n)   the states there; NaN from where a row failed
    y1 (B, n)      the states at the end            nfev, status, n_accepted, n_rejected (B,)
    success        True when every row succeeded    message       of the first row that did not
    """

    runs: tuple[Run, ...]
    t: Array

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def y(self) -> Array:
        first = self.runs[0]
        out = np.full((self.t.size, len(self), first.field.n), np.nan, first.end.dtype)
        for i, run in enumerate(self.runs):
            out[: len(run.t), i] = run.y[:, 0]
        return out

    @property
    def y1(self) -> Array:
        """The states (B, n) at the end of the span; SolveError, which holds that row's run, when a row did not reach it."""
        return np.concatenate([run.y1 for run in self.require_success().runs])

    @property
    def status(self) -> Array:
        return self._column("status")

    @property
    def nfev(self) -> Array:
        return self._column("nfev")

    @property
    def n_accepted(self) -> Array:
        return self._column("n_accepted")

    @property
    def n_rejected(self) -> Array:
        return self._column("n_rejected")

    @property
    def success(self) -> bool:
        return all(run.success for run in self.runs)

    @property
    def message(self) -> str:
        for i, run in enumerate(self.runs):
            if not run.success:
                return f"row {i}: {run.message}"
        return self.runs[0].message

    def require_success(self) -> RunBatch:
        """This batch, or SolveError with the message of the first row that failed."""
        for i, run in enumerate(self.runs):
            if not run.success:
                raise SolveError(f"row {i}: {run.message}", run)
        return self

    def sol(self, t: Any) -> Array:
        """Dense output: (k, B, n) at times (k,), or (B, n) at a scalar, within the accepted steps of every row."""
        return np.concatenate([run.sol(t) for run in self.runs], axis=-2)

    def _column(self, name: str) -> Array:
        return np.array([int(getattr(run, name)) for run in self.runs])

    def __repr__(self) -> str:
        run, nfev = self.runs[0], self.nfev
        good = np.count_nonzero(self.status == Status.SUCCESS)
        return (
            f"{len(self)} rows by {run.method.name} from {run.tspan[0]:g} to {run.tspan[1]:g}, each with its own steps: {good} reached the end\n"
            f"  {self.message}\n"
            f"  {nfev.min()} to {nfev.max()} evaluations a row, {self.n_accepted.sum()} steps accepted, {self.n_rejected.sum()} rejected"
        )


def solve_rows(batch: str, solve: Callable[..., Run], field: Any, theta: Any, y0: Any, tspan: Any, options: dict[str, Any]) -> RunBatch:
    """`solve` of each row of y0 (B, n) as a batch of one, by the same loop."""
    if batch != "independent":
        raise InputError(f'batch must be "joint" or "independent"; got {batch!r}')
    y0, _ = field.check(y0, theta)
    runs = tuple(solve(field, theta, y0[i : i + 1], tspan, **options) for i in range(len(y0)))
    saveat = options["saveat"]
    return RunBatch(runs, np.array(runs[0].tspan[1:]) if saveat is None else np.array(saveat, dtype=np.float64, ndmin=1))
