"""Where a gradient stopped being finite: the way home once more, step by step, every pullback looked at. Only after a failure."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from .._jit import specialize
from ..errors import NonFiniteGradientError
from ..fields.protocol import Array
from ..solution import Run
from ..step import bound_linearize, bound_pullback
from .checkpoints import check_parts
from .discrete import Walk
from .sweep import Cotangents, sweep

_ADVICE = (
    "A derivative of the field that is infinite there (a root or a logarithm at 0)? Cotangents that grow beyond the largest number, "
    "as a flow that expands much makes them, in float32 sooner? Or a mistake in the field's vjp?"
)


class _FoundError(Exception):
    """The first pullback with a number that is not finite."""

    def __init__(self, t: float, w: Array, y_bar: Array, theta_bar: Array) -> None:
        self.t, self.w, self.y_bar, self.theta_bar = t, w, y_bar, theta_bar


def _watched_pullback(t: float, y: Array, bound: Any, kept: Array, w: Array, y_bar: Array, theta_bar: Array) -> None:
    bound_pullback(t, y, bound, kept, w, y_bar, theta_bar)
    if not (np.isfinite(y_bar).all() and np.isfinite(theta_bar).all()):
        raise _FoundError(t, w, y_bar, theta_bar)


_sweep_watched = specialize(sweep, compiled=False, linearize=bound_linearize, pullback=_watched_pullback)


def block_of(run: Run, theta_bar: Array) -> str:
    """The first part of a (P,) cotangent with a number that is not finite, as the field names its parts."""
    views = getattr(run.field, "views", None)
    parts = views(theta_bar) if views is not None else {"theta": theta_bar}
    for name, part in parts.items():
        bad = np.argwhere(~np.isfinite(part))
        if len(bad):
            return f"{name}[{', '.join(map(str, bad[0]))}]"
    return "theta"


def raise_nonfinite(run: Run, cotangents: Cotangents, budget: int | None) -> NoReturn:
    """NonFiniteGradientError with the step, stage and block where the gradient of a run first is not finite on its way home."""
    walk = Walk(run, cotangents, False, tiled=False)
    walk.enter, walk.single = _sweep_watched, True
    m = run.grid.size - 1
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            for part in check_parts(run, budget)(walk.bound):
                walk.back(part.first, part.states, part.stages)
                if not np.isfinite(walk.y0).all():
                    break
    except _FoundError as found:
        stage = next(i for i, row in enumerate(walk.scratch.K_bar) if np.shares_memory(row, found.w))
        if not np.isfinite(found.w).all():
            block, what = "K", "the cotangent that comes to it"
        elif not np.isfinite(found.y_bar).all():
            sample, component = divmod(int(np.argmin(np.isfinite(found.y_bar))), run.field.n)
            block, what = "y", f"the cotangent of its state (sample {sample}, component {component})"
        else:
            block = block_of(run, found.theta_bar)
            what = f"that of {block}"
        raise NonFiniteGradientError(
            f"the gradient is NaN or infinite. On the way home that begins in step {walk.at} of 0 … {m - 1}, from t = {run.grid[walk.at]:.9g} to "
            f"{run.grid[walk.at + 1]:.9g}, in stage {stage + 1} at t = {found.t:.9g}, in {what}; "
            f"the largest cotangent that comes to it is {np.abs(found.w).max():.3g}. {_ADVICE}",
            solver_step=walk.at,
            stage=stage,
            block=block,
        ) from None
    where = f"the sums of step {walk.at} of 0 … {m - 1}, from t = {run.grid[walk.at]:.9g}"
    raise NonFiniteGradientError(f"the gradient is NaN or infinite, which arose in {where}. {_ADVICE}", solver_step=walk.at, block="y")
