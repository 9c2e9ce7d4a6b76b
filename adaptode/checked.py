"""Checks of a solve's arguments: each returns what it checked in the form the loop takes, or raises InputError naming what to mend."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .combine import all_finite
from .errors import InputError

if TYPE_CHECKING:
    from .tableau import Tableau


def check_span(tspan: Any, name: str = "tspan") -> tuple[float, float]:
    """(t0, t1) as finite floats."""
    try:
        t0, t1 = (float(t) for t in tspan)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be two numbers (t0, t1); got {tspan!r}") from None
    if not (np.isfinite(t0) and np.isfinite(t1)):
        raise InputError(f"{name} must be finite; got ({t0}, {t1})")
    if not np.isfinite(t1 - t0):
        raise InputError(f"{name} is longer than the largest number: ({t0}, {t1})")
    return t0, t1


def check_saveat(saveat: ArrayLike | None, t0: float, t1: float, name: str = "saveat", span: str = "tspan") -> np.ndarray:
    """Output times as a float64 array, monotone from t0 to t1."""
    if saveat is None:
        return np.array([t1], np.float64)
    try:
        times = np.array(saveat, dtype=np.float64, ndmin=1)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be an array of times; got {saveat!r}") from None
    direction = 1.0 if t1 >= t0 else -1.0
    if times.ndim != 1 or not np.isfinite(times).all():
        raise InputError(f"{name} must be a one-dimensional array of finite times")
    steps = direction * np.diff(times)
    if (steps < 0).any():
        i = int(np.argmax(steps < 0))
        raise InputError(f"{name} must run from t0 = {t0:g} towards t1 = {t1:g}; {name}[{i + 1}] = {times[i + 1]:g} comes after {times[i]:g}")
    outside = (direction * (times - t0) < 0) | (direction * (times - t1) > 0)
    if outside.any():
        raise InputError(f"{name} must lie in {span} ({t0:g}, {t1:g}); got {times[outside][0]:g}")
    return times


def check_tolerances(rtol: ArrayLike, atol: ArrayLike, n: int, batch: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """(atol, rtol), each of one element or of B n."""
    if type(atol) is float and type(rtol) is float and 0.0 < atol < math.inf and 0.0 <= rtol < math.inf:
        return np.array([atol]), np.array([rtol])
    checked = []
    for name, value in (("atol", atol), ("rtol", rtol)):
        try:
            array = np.array(value, dtype=np.float64, ndmin=1)
        except (TypeError, ValueError):
            raise InputError(f"{name} must be a number or an array of numbers; got {value!r}") from None
        if array.shape not in ((1,), (n,)):
            raise InputError(f"{name} must be a number or have shape ({n},); got shape {array.shape}")
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise InputError(f"{name} must be finite and not negative; got {value!r}")
        checked.append(array)
    a, r = np.broadcast_arrays(*checked)
    smallest = 10 * float(np.finfo(dtype).eps)
    if ((a == 0) & (r < smallest)).any():
        raise InputError(
            f"where atol is 0, rtol must be at least {smallest:.1e}, ten times the precision of {np.dtype(dtype).name}; got rtol={rtol!r}"
        )
    return tuple(np.repeat(a[None], batch, 0).ravel() if a.size == n > 1 else a for a in checked)  # type: ignore[return-value]


def check_steps(first_step: Any, max_step: Any, max_steps: Any) -> None:
    """InputError unless all are positive, first_step finite or None, and max_steps an integer."""
    for name, value in (("first_step", first_step), ("max_step", max_step)):
        real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not (real and value > 0 and (name == "max_step" or np.isfinite(value))) and not (name == "first_step" and value is None):
            raise InputError(f"{name} must be a positive number; got {value!r}")
    check_max_steps(max_steps)


def check_max_steps(max_steps: Any) -> None:
    """InputError unless it is a positive integer."""
    if not (isinstance(max_steps, (int, np.integer)) and not isinstance(max_steps, bool) and max_steps > 0):
        raise InputError(f"max_steps must be a positive integer; got {max_steps!r}")


def check_steppable(method: Tableau, first_step: Any) -> None:
    """InputError for a method without an error estimate and without a step to take instead."""
    if not method.adaptive and first_step is None:
        raise InputError(f"{method.name} has no error estimate to choose steps by; give its step as first_step=")


def check_bounds(t0: float, t_bound: float) -> None:
    """InputError unless t0 is finite and t_bound a number, or infinite."""
    if not np.isfinite(t0) or np.isnan(t_bound):
        raise InputError(f"t0 must be finite and t_bound a number; got {t0} and {t_bound}")


def warn_extraneous(options: dict[str, Any], stacklevel: int) -> None:
    """SciPy's warning of options that a solver does not know; stacklevel as seen by the caller."""
    if options:
        names = ", ".join(f"`{name}`" for name in options)
        warnings.warn(f"The following arguments have no effect for a chosen solver: {names}.", stacklevel=stacklevel + 1)


def check_scale(y0: np.ndarray, atol: np.ndarray) -> None:
    """InputError where atol and y0 are both 0: an error there has no scale."""
    if atol.all():
        return
    bad = np.argwhere((y0 == 0) & (atol == 0 if atol.size == 1 else (atol == 0).reshape(y0.shape)))
    if len(bad):
        raise InputError(f"atol must be positive where y0 is 0, as y0[{bad[0][0]}, {bad[0][1]}] is: a relative error of 0 has no meaning")


def check_rng(rng: Any) -> np.random.Generator:
    """A generator from a seed, a generator or None."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise InputError(f"rng must be a seed (a whole number of at least 0), a numpy.random.Generator or None; got {rng!r}") from None


def check_finite(y0: np.ndarray, theta: np.ndarray) -> None:
    """InputError naming the first entry of y0 or theta that is NaN or inf."""
    for name, array in (("y0", y0), ("theta", theta)):
        if not all_finite(array):
            bad = np.argwhere(~np.isfinite(array))[0]
            raise InputError(f"{name}[{', '.join(map(str, bad))}] is {array[tuple(bad)]}; {name} must be finite")


def check_ivp_tolerances(rtol: ArrayLike, atol: ArrayLike, y0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(atol, rtol) of one element or of n, by SciPy's rules and in its words: an rtol below 100 eps is raised to that, with a warning; atol may be inf.

    Besides, InputError for NaN, for an rtol that is not finite, and where atol and y0 are both 0.
    """
    checked = []
    for name, value in (("atol", atol), ("rtol", rtol)):
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(f"`{name}` must be a number or an array of numbers; got {value!r}") from None
        if array.ndim > 0 and array.shape != y0.shape:
            raise InputError(f"`{name}` has wrong shape. It must be a number or have the shape of y0, {y0.shape}; got {array.shape}")
        checked.append(array.reshape(-1))
    a, r = checked
    if not (a >= 0).all():
        raise InputError(f"`atol` must be positive. Got {atol!r}")
    if not np.isfinite(r).all():
        raise InputError(f"`rtol` must be finite; got {rtol!r}")
    smallest = 100 * float(np.finfo(np.float64).eps)
    if (r < smallest).any():
        warnings.warn(f"At least one element of `rtol` is too small. Setting `rtol = np.maximum(rtol, {smallest})`.", stacklevel=3)
        r = np.maximum(r, smallest)
    bad = np.flatnonzero((y0 == 0) & (a == 0))
    if bad.size:
        raise InputError(f"atol must be positive where y0 is 0, as y0[{bad[0]}] is: a relative error of 0 has no meaning")
    return a, r


def check_ivp_steps(first_step: Any, max_step: Any, length: float) -> None:
    """InputError in SciPy's words unless both are positive and first_step, where given, fits in the span of that length."""
    for name, value in (("max_step", max_step), ("first_step", first_step)):
        if value is None and name == "first_step":
            continue
        if isinstance(value, bool) or not (isinstance(value, (int, float, np.integer, np.floating)) and value > 0):
            raise InputError(f"`{name}` must be positive. Got {value!r}")
    if first_step is not None and not (first_step <= length and first_step < np.inf):
        raise InputError(f"`first_step` exceeds bounds. Got {first_step!r} in a span of length {length:g}")


def check_unpackable(args: Any) -> tuple[Any, ...]:
    """`args` as a tuple; TypeError in SciPy's words when it cannot be one."""
    if args is None:
        return ()
    try:
        return tuple(args)
    except TypeError as error:
        raise TypeError(f"Supplied 'args' cannot be unpacked. Please supply `args` as a tuple (e.g. `args=({args},)`)") from error


def check_initial(y0: Any) -> np.ndarray:
    """y0 as a contiguous float64 or complex128 array (n,), finite."""
    try:
        y = np.asarray(y0)
        if y.dtype.kind in "OSU":
            y = y.astype(complex if any(isinstance(x, complex) for x in y.flat) else float)
    except (TypeError, ValueError) as error:
        raise InputError(f"`y0` must be an array of numbers: {error}") from None
    if y.ndim != 1:
        raise InputError(f"`y0` must be 1-dimensional; got shape {y.shape}")
    if not (np.issubdtype(y.dtype, np.number) or y.dtype == bool):
        raise InputError(f"`y0` must be an array of numbers; got dtype {y.dtype}")
    y = np.ascontiguousarray(y, dtype=complex if np.iscomplexobj(y) else float)
    bad = np.flatnonzero(~np.isfinite(y))
    if bad.size:
        raise InputError(f"All components of the initial state `y0` must be finite; y0[{bad[0]}] is {y[bad[0]]}")
    return y
