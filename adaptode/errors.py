"""Named errors. Each message says what is wrong, where, and what to try."""

from __future__ import annotations

from typing import Any


class AdaptodeError(Exception):
    """Base of every error that adaptode raises on purpose."""


class InputError(AdaptodeError, ValueError):
    """An argument has a wrong shape, type or value."""


class SolveError(AdaptodeError, RuntimeError):
    """A solve that had to succeed did not; `.run` holds what was computed."""

    def __init__(self, message: str, run: Any = None) -> None:
        super().__init__(message)
        self.run = run


class FieldError(AdaptodeError, RuntimeError, ValueError):
    """A vector field returned something that is not a vector field's answer; SciPy's users catch it as a ValueError."""


class MissingDerivativeError(FieldError, NotImplementedError):
    """A field lacks, or does not smoothly have, a derivative that was asked for."""


class SingularJacobianError(AdaptodeError, ArithmeticError):
    """A Jacobian whose condition number is asked for is singular."""


class NonFiniteLossError(AdaptodeError, FloatingPointError):
    """Training met a NaN or infinite loss or gradient; `.step` says when, `.result` holds the last good state."""

    def __init__(self, message: str, step: int | None = None, result: Any = None) -> None:
        super().__init__(message)
        self.step = step
        self.result = result


class NonFiniteGradientError(NonFiniteLossError):
    """An adjoint met a NaN or an infinity on its way home.

    solver_step, stage  indices of the accepted step and of its stage where it arose; stage None: in the step's sums
    block               "y", "K" (a cotangent that came to the stage), or a part of the parameters, such as "W2[0, 3]"
    """

    def __init__(self, message: str, solver_step: int | None = None, stage: int | None = None, block: str | None = None) -> None:
        super().__init__(message)
        self.solver_step, self.stage, self.block = solver_step, stage, block


class CheckpointError(AdaptodeError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class DataError(AdaptodeError, ValueError):
    """A data file is missing, damaged, or not what its name says."""
