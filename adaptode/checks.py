"""Checks of hand-written derivatives. NumPy only; nothing in the library calls them, its tests and its users do.

Which error each one finds: `dot_test` a VJP that is not the transpose of its JVP (whether or not the JVP is right);
`taylor_test` a wrong derivative of a smooth function, by the order at which its error vanishes, with no tolerance to
choose; `complex_step` a wrong derivative to the last digit, of code that runs on complex numbers; `finite_difference` a
wrong derivative of anything that can be evaluated, to 8-11 digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError

Array = NDArray[np.float64]


class TaylorTest(NamedTuple):
    """steps (k,), remainders (k,) and the smallest observed order between two successive steps."""

    steps: Array
    remainders: Array
    slope: float


def dot_test(
    jvp: Callable[[Array], ArrayLike],
    vjp: Callable[[Array], ArrayLike],
    shape_in: int | tuple[int, ...],
    shape_out: int | tuple[int, ...],
    rng: np.random.Generator | int | None = None,
) -> float:
    """How far a VJP is from being the transpose of its JVP.

    | <w, J v> - <J^T w, v> | / ( |w| |J v| + |J^T w| |v| ),   v, w standard normal                          [GW08, 3.1]

    jvp : v (shape_in) -> J v (shape_out)
    vjp : w (shape_out) -> J^T w (shape_in), not added to something
    returns the relative error: about 1e-16 when they match, usually above 1e-3 when not; NaN when either returns NaN; 0
    when both return zeros.

    Catches a missing transposition, a sign, a wrong axis or accumulation in either. Does not catch the same mistake in
    both: for that, `taylor_test`. InputError: a result has the wrong shape.
    """
    rng = np.random.default_rng(rng)
    v, w = rng.standard_normal(shape_in), rng.standard_normal(shape_out)
    Jv, Jtw = np.asarray(jvp(v.copy()), dtype=np.float64), np.asarray(vjp(w.copy()), dtype=np.float64)
    if Jv.shape != w.shape or Jtw.shape != v.shape:
        raise InputError(f"jvp must return shape {w.shape} and vjp shape {v.shape}, not {Jv.shape} and {Jtw.shape}")
    gap = abs(np.vdot(w, Jv) - np.vdot(Jtw, v))
    size = np.linalg.norm(w) * np.linalg.norm(Jv) + np.linalg.norm(Jtw) * np.linalg.norm(v)
    return float(gap / size) if size != 0.0 else 0.0


def taylor_test(
    value: Callable[[Any], ArrayLike],
    derivative: ArrayLike,
    x: ArrayLike,
    direction: ArrayLike,
    steps: Sequence[float] = (1e-2, 5e-3, 2.5e-3, 1.25e-3, 6.25e-4),
) -> TaylorTest:
    """The order at which a first-order Taylor expansion's error vanishes: 2 for a right derivative, 1 for a wrong one.

    R(h) = | value(x + h d) - value(x) - h derivative |,   slope = min_k log(R_k / R_k+1) / log(h_k / h_k+1)

    derivative : the derivative of value at x along `direction`, of the shape of value(x); for a gradient g it is
                 `np.vdot(g, direction)`
    steps      : decreasing h > 0, a few per cent of the scale over which value curves
    returns    : steps, remainders, slope. The slope is inf when every remainder is rounding (value is linear along the
                 direction and the derivative is right), NaN when value is.

    Catches any error in a derivative that stands out from the curvature at the smallest step, with no tolerance to
    choose: assert slope > 1.9. A derivative that is right to 5 digits and wrong in the 6th needs smaller steps, or
    `complex_step`.
    """
    x, direction, derivative = (np.asarray(a, dtype=np.float64) for a in (x, direction, derivative))
    h = np.asarray(steps, dtype=np.float64)
    if h.ndim != 1 or h.size < 2 or not (np.all(h > 0) and np.all(np.diff(h) < 0)):
        raise InputError("steps must be at least two positive numbers, decreasing")
    base = np.asarray(value(x.copy()), dtype=np.float64)
    if derivative.shape != base.shape:
        raise InputError(
            f"derivative must have the shape of value(x), {base.shape}, not {derivative.shape}: "
            "for a gradient g it is np.vdot(g, direction)"
        )
    remainders = np.array([np.linalg.norm(np.asarray(value(x + k * direction)) - base - k * derivative) for k in h])
    # Below this a remainder is the rounding of value, and says nothing about its order.
    heard = remainders > 1e3 * np.finfo(np.float64).eps * (np.linalg.norm(base) + h * np.linalg.norm(derivative))
    pairs = np.flatnonzero(heard[:-1] & heard[1:])
    orders = np.log(remainders[pairs] / remainders[pairs + 1]) / np.log(h[pairs] / h[pairs + 1])
    slope = float(np.min(orders, initial=np.inf))
    return TaylorTest(h, remainders, slope if np.all(np.isfinite(remainders)) else float("nan"))


def complex_step(value: Callable[[Any], ArrayLike], x: ArrayLike, direction: ArrayLike, h: float = 1e-30) -> Any:
    """The derivative of value at x along `direction`, without cancellation.

    Im value(x + i h d) / h = d value/dx . d + O(h^2)                                                           [ST98]

    value : takes complex arrays and is analytic on the way: no abs, max, conj, comparison or float cast that an
            imaginary part depends on
    returns a float or an array of value's shape, as exact as value itself (1e-15).

    Catches any wrong derivative of such code, to the last digits. InputError: value returned real numbers, that is, it
    dropped the imaginary part on its way (silently a derivative of zero).
    """
    x, direction = np.asarray(x, dtype=np.float64), np.asarray(direction, dtype=np.float64)
    result = np.asarray(value(x + 1j * h * direction))
    if result.dtype.kind != "c":
        raise InputError(
            f"value returned {result.dtype}, not complex numbers: it lost the imaginary part on its way, "
            "so it cannot be differentiated like this; try finite_difference"
        )
    derivative = result.imag / h
    return float(derivative) if derivative.ndim == 0 else derivative


def finite_difference(
    value: Callable[[Any], ArrayLike], x: ArrayLike, direction: ArrayLike, step: float = 0.1
) -> tuple[Any, float]:
    """The derivative of value at x along `direction`, with an estimate of its error.

    D(h) = (value(x + h d) - value(x - h d)) / (2 h) at h = step / 1.6^k, then extrapolated in h^2 [Rid82]

    step : the largest h: value must be smooth over x +- step d
    returns (derivative, error): a float or an array of value's shape, and the largest difference to the two
    extrapolations it was made from, an estimate usually above the true error. 20 evaluations; 10-11 digits of a smooth
    value of order 1.

    Catches a wrong derivative of anything that can be evaluated; compare within a few times `error` plus rounding, not
    blindly. A large `error` says that value is not smooth there (a kink, a changed step sequence), which no derivative
    check can excuse.
    """
    x, direction = np.asarray(x, dtype=np.float64), np.asarray(direction, dtype=np.float64)
    shrink = 1.6
    best, error = np.asarray(np.nan), np.inf
    above: list[Array] = []
    for k in range(10):
        h = step / shrink**k
        row = [(np.asarray(value(x + h * direction)) - np.asarray(value(x - h * direction))) / (2 * h)]
        for m, previous in enumerate(above, start=1):
            factor = shrink ** (2 * m)
            row.append((factor * row[-1] - previous) / (factor - 1))
            gap = float(max(np.max(np.abs(row[-1] - row[-2])), np.max(np.abs(row[-1] - previous))))
            if gap < error:
                best, error = row[-1], gap
        above = row
    return (float(best) if best.ndim == 0 else best), error
