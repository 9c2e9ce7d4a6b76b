"""What every adjoint takes and gives: cotangents of a run's outputs, the gradient with respect to what it started from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..combine import all_finite
from ..errors import InputError
from ..fields.protocol import Array
from ..products import Factors
from ..solution import Run
from ..solver import solve


class Gradient(NamedTuple):
    """Cotangents of a solve's inputs.

    y0 (B, n), theta (P,); y0 is None where it was left out
    t0, t1       floats, of the ends of the span: outputs at t1 move with it, those at other times do not; None where the field does not give what is needed
    evaluations  forward evaluations and pullbacks that it took
    drift        of an adjoint that solves the states backwards: how far from y0 they came, in units of the tolerance; None elsewhere
    """

    y0: Array | None
    theta: Array
    t0: float | None
    t1: float | None
    evaluations: int
    drift: float | None = None


def check_run(run: Any, name: str) -> Run:
    """The successful run of a field with a vjp, or a named error."""
    if not isinstance(run, Run):
        raise InputError(f"{name}(run, y_bar) starts with the run of adaptode.solve; got {type(run).__name__}")
    run.require_success()
    run.field.require("vjp")
    return run


def outputs(run: Run, y_bar: ArrayLike | None, jumps: Iterable[tuple[float, ArrayLike]] | None, factors: bool = False) -> list[tuple[float, Any]]:
    """Every cotangent of a state with its time, flat (B n,); y_bar is of run.y1, or of run.y, a row an output time. With `factors`, `Factors` stay.

    An entry whose time equals run.tspan[1] is a cotangent of an output at t1; `discrete` and `forward` take it so to a rounding.
    """
    shape = run.end.shape
    pairs: list[tuple[float, Any]] = []
    for t, bar in () if jumps is None else jumps:
        whole = not (factors and isinstance(bar, Factors) and bar.is_finite())
        pairs.append((float(t), finite(f"the cotangent at t = {float(t):g}", bar) if whole else bar))
    if y_bar is not None:
        y_bar = finite("y_bar", y_bar)
        if y_bar.shape == shape:
            pairs.append((run.tspan[1], y_bar))
        elif y_bar.shape == run.y.shape:
            pairs.extend(zip(run.t.tolist(), y_bar, strict=True))
        else:
            raise InputError(f"y_bar must have the shape of run.y1, {shape}, or of run.y, {run.y.shape}; got {y_bar.shape}")
    for t, bar in pairs:
        if bar.shape != shape:
            raise InputError(f"the cotangent at t = {t:g} must have shape {shape}; got {bar.shape}")
    return [(t, bar if isinstance(bar, Factors) else np.ascontiguousarray(bar).ravel()) for t, bar in pairs]


def finite(name: str, bar: ArrayLike) -> Array:
    """`bar` as an array of finite real numbers."""
    try:
        bar = np.asarray(bar)
    except ValueError:
        raise InputError(f"{name} must be an array of numbers") from None
    if bar.dtype.kind not in "fiub":
        raise InputError(f"{name} must be real numbers; got dtype {bar.dtype}")
    if not all_finite(bar):
        bad = np.argwhere(~np.isfinite(bar))
        raise InputError(f"{name}[{', '.join(map(str, bad[0]))}] is {bar[tuple(bad[0])]}; cotangents must be finite")
    return bar


def again(run: Run, y0: Array, tspan: tuple[float, float], theta: Array | None = None, **options: Any) -> Run:
    """The solve of a run once more, from y0 over tspan: with its field, method, tolerances and coordinates, and the default controller."""
    batch, n = y0.shape
    atol, rtol = (x if x.size == 1 else x.reshape(batch, n)[0] for x in (run.atol, run.rtol))
    first = None if run.method.adaptive else abs(float(run.steps.h[0]))
    options |= {"method": run.method, "rtol": rtol, "atol": atol, "first_step": first, "max_steps": 1000 + 10 * len(run.steps)}
    options["coordinates"] = "state" if run.coordinates is None else "hidden"
    return solve(run.field, run.theta if theta is None else theta, y0, tspan, **options).require_success()  # type: ignore[return-value,union-attr]
