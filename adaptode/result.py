"""What solve_ivp returns: SciPy's fields, the log of attempts, and what can be asked of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import InputError
from .fields.protocol import Array
from .solution import Status, StepLog, explain
from .tableau import get_tableau

if TYPE_CHECKING:
    from .integration import Integration
    from .tableau import Tableau

_SCIPY = ("message", "success", "status", "t", "y", "sol", "t_events", "y_events", "nfev", "njev", "nlu")
_TOO_SMALL = "Required step size is less than spacing between numbers"
_STIFF_STEPS = 30  # accepted steps in a row at the border of stability


class StiffnessWarning(RuntimeWarning):
    """A problem for which an explicit method takes many more steps than its accuracy asks for."""


class GlobalError(NamedTuple):
    """An estimate of the error at the output times: error (n, k) = y − y_tight, and its largest scaled and absolute values."""

    error: Array
    largest: float
    scaled: float


class IVPResult(dict):
    """A solve: SciPy's fields by name or by key, and `.steps` (a StepLog), `.stats` (a dict).

    t (k,), y (n, k), sol (dense output or None), t_events, y_events, nfev, njev, nlu, status (0 end of the span, 1 event or callback, −1 failure), message,
    success; steps: every attempt; stats: counts, method, seconds. It can be pickled, without the means to solve again.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"a result has no {name!r}; it has {', '.join(self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)

    def remember(self, again: Callable[..., IVPResult], method: Tableau, tolerances: tuple[Array, Array]) -> None:
        """How to solve the same problem again."""
        vars(self).update(_again=again, _method=method, _tolerances=tolerances)

    def to_scipy(self) -> Any:
        """SciPy's fields alone, as scipy.optimize.OptimizeResult, which its own results are."""
        from scipy.optimize import OptimizeResult

        return OptimizeResult({name: self[name] for name in _SCIPY})

    def estimate_global_error(self, factor: float = 0.01) -> GlobalError:
        """Solve again at `factor` times the tolerances and compare at the output times.

        The tighter solution's own error is smaller by about that factor. For chaotic problems the answer grows without bound, as the error does.
        InputError where nothing was solved, or for a result that was pickled.
        """
        if "_again" not in vars(self):
            raise InputError("this result cannot be solved again: it was pickled or made by hand")
        if not 0.0 < factor < 1.0:
            raise InputError(f"factor must lie between 0 and 1; got {factor!r}")
        if self.t.size == 0:
            raise InputError("there is no output to compare: the result holds no times")
        atol, rtol = vars(self)["_tolerances"]
        new = np.append(True, self.t[1:] != self.t[:-1])  # a span of length zero has its one time twice
        tight = vars(self)["_again"](t_eval=self.t[new], atol=_scalar(factor * atol), rtol=_scalar(np.maximum(factor * rtol, 100 * np.finfo(float).eps)))
        if not tight.success:
            raise InputError(f"the solve at tighter tolerances failed: {tight.message}")
        error = self.y - tight.y[:, np.cumsum(new) - 1]
        scale = atol.reshape(-1, 1) + rtol.reshape(-1, 1) * np.abs(self.y)
        size = np.abs(error)
        return GlobalError(error, float(size.max(initial=0.0)), float((size / scale).max(initial=0.0)))

    def plot(self, kind: str = "solution", ax: Any = None, **style: Any) -> Any:
        """A picture on `ax` (its own figure by default); returns the Axes.

        kind  "solution" every component over t; "steps" step sizes, rejected attempts marked; "error" the scaled error of each attempt;
              "stability" the method's stability region with h·λ of the steps, λ the stiffness estimate
        """
        from .plotting import plot_result

        method = vars(self).get("_method") or get_tableau(self.stats["method"])
        return plot_result(self, method, kind, ax, **style)

    def __str__(self) -> str:
        return summary(self)

    __repr__ = __str__


def _scalar(x: Array) -> Any:
    return float(x[0]) if x.size == 1 else x


def summary(result: IVPResult) -> str:
    """A result in a few lines."""
    stats, log = result.stats, result.steps
    lines = [("solved" if result.status == 0 else "stopped" if result.success else "FAILED") + f" by {stats['method']}: {result.message}"]
    if result.t.size:
        lines.append(f"  t from {result.t[0]:g} to {result.t[-1]:g} at {result.t.size} times, y {result.y.shape}")
        values = ", ".join(f"{value:.6g}" for value in result.y[:4, -1]) + (", …" if len(result.y) > 4 else "")
        lines.append(f"  y at the end: {values}")
    lines.append(f"  {result.nfev} evaluations, {stats['accepted']} steps accepted, {stats['rejected']} rejected")
    if log.accepted.any():
        h = np.abs(log.h[log.accepted])
        border = np.nanmax(np.abs(log.h) * log.stiffness, initial=0.0)
        lines.append(f"  step sizes {h.min():.3g} to {h.max():.3g}, |h| times stiffness up to {border:.2g} (1 is the border of stability)")
    for i, t in enumerate(result.t_events or ()):
        lines.append(f"  event {i}: {len(t)} times" + (f", the last at t = {t[-1]:.9g}" if len(t) else ""))
    if "seconds" in stats:
        lines.append(f"  {stats['seconds']:.3g} s")
    return "\n".join(lines)


def failure_message(integration: Integration, log: StepLog) -> str:
    """SciPy's sentence where it has one, and where, in which component, after which attempts (the last of `log`), and what to try."""
    status, K = integration.ended(log), integration.state.K
    bad = np.flatnonzero(~np.isfinite(K).all(axis=1)) if status is Status.NONFINITE and len(log) else []
    text = explain(status, log, integration.t, K[bad[0]] if len(bad) else K[0], "fun")
    return f"{_TOO_SMALL}: {text}" if status is Status.STEP_TOO_SMALL else text


def warn_if_stiff(log: StepLog, method: Tableau, stacklevel: int) -> None:
    """One warning when many accepted steps in a row lie at the border of stability rather than of accuracy."""
    if method.stiffness_pair is None or not len(log):
        return
    at_border = (np.abs(log.h) * log.stiffness > 0.85)[log.accepted]
    inside = np.flatnonzero(~at_border)
    longest = int(np.diff(np.concatenate([[-1], inside, [at_border.size]])).max()) - 1
    if longest < _STIFF_STEPS:
        return
    warnings.warn(
        f"the problem looks stiff: {longest} steps in a row of {method.name} were as long as stability allows, not as accuracy asks. "
        'An implicit method takes fewer: scipy.integrate.solve_ivp(..., method="Radau") or "BDF", or "LSODA" which switches by itself',
        StiffnessWarning,
        stacklevel=stacklevel + 1,
    )
