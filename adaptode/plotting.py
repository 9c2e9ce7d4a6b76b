"""Pictures of solves. Each function draws on `ax` (its own figure by default) and returns the Axes; nothing is shown or closed.

Colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .result import IVPResult
    from .tableau import Tableau

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
REJECTED = "#d55e00"

_STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.edgecolor": "#808080",
    "figure.constrained_layout.use": True,
}


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise InputError("figures need matplotlib: pip install 'adaptode[plot]'") from error
    return plt


def figure(n_rows: int = 1, n_columns: int = 1, size: tuple[float, float] = (6.4, 4.0), **options: Any) -> tuple[Figure, Any]:
    """A figure in the house's style and its Axes: one, or an array of them."""
    plt = _pyplot()
    with plt.rc_context(_STYLE):
        return plt.subplots(n_rows, n_columns, figsize=size, **options)


def save(fig: Figure, path: Path) -> str:
    """Write a PNG and close the figure; its file name."""
    plt = _pyplot()
    with plt.rc_context(_STYLE):
        fig.savefig(path)
    plt.close(fig)
    return path.name


def axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    """`ax`, or those of a new figure."""
    return figure(size=size)[1] if ax is None else ax


def step_sizes(
    t: NDArray,
    h: NDArray,
    accepted: NDArray,
    *,
    t1: float | None = None,
    ax: Axes | None = None,
    color: str = "#4d4d4d",
    title: str = "",
) -> Axes:
    """Every attempt of a solve as a bar from t to t + h, h high; rejected attempts as dashed outlines with a cross.

    t, h, accepted : (k,) one row an attempt, as in `run.steps`
    t1             : the end of the span, where bars are cut off; a controller may step past it
    """
    ax = axes(ax)
    rejected = ~np.asarray(accepted, bool)
    width = h if t1 is None else np.minimum(h, t1 - t)
    look = {"color": color, "alpha": 0.6, "edgecolor": "white", "linewidth": 1.2}
    ax.bar(t[~rejected], h[~rejected], width[~rejected], align="edge", **look)
    if rejected.any():
        ax.bar(t[rejected], h[rejected], width[rejected], align="edge", fill=False, edgecolor=REJECTED, ls="--", lw=1.1)
        middle, label = t[rejected] + width[rejected] / 2, f"rejected ({rejected.sum()})"
        ax.plot(middle, h[rejected], "x", color=REJECTED, ms=8, mew=2, label=label, clip_on=False)
        ax.legend(loc="upper left", frameon=False)
    ax.set(xlabel="t", ylabel="step size h", title=title)
    ax.grid(axis="x", visible=False)
    return ax


def solution(result: IVPResult, ax: Axes | None = None, **style: Any) -> Axes:
    """Every component over t: the dense output where there is one, else the output times; of complex ones the real part. Events are marked."""
    ax = axes(ax)
    t, y = result.t, result.y
    if result.sol is not None and t.size:
        t = np.linspace(t[0], t[-1], max(500, 8 * t.size))
        y = result.sol(t)
    for i, values in enumerate(np.real(y[:10])):
        ax.plot(t, values, **{"color": PALETTE[i % len(PALETTE)], "lw": 1.6, "label": f"y[{i}]"} | style)
    for i, (times, states) in enumerate(zip(result.t_events or (), result.y_events or (), strict=True)):
        if len(times):
            marks = np.repeat(times, states.shape[1]), np.real(states).ravel()
            ax.plot(*marks, "o", mfc="white", color="#222222", ms=4, label=f"event {i}")
    hidden = len(y) - min(10, len(y))
    ax.set(xlabel="t", ylabel="y", title=f"the first 10 of {len(y)} components" if hidden else "")
    ax.legend(frameon=False)
    return ax


def errors(result: IVPResult, ax: Axes | None = None, **style: Any) -> Axes:
    """The scaled error of every attempt; above 1 it was rejected."""
    ax = axes(ax)
    log = result.steps
    good = log.accepted
    ax.semilogy(log.t[good], np.maximum(log.error[good], 1e-17), **{"color": PALETTE[0], "marker": ".", "ls": "", "label": "accepted"} | style)
    if not good.all():
        ax.semilogy(log.t[~good], log.error[~good], "x", color=REJECTED, label=f"rejected ({(~good).sum()})")
    ax.axhline(1.0, color="#808080", lw=1, ls="--")
    ax.set(xlabel="t", ylabel="scaled error of the attempt")
    ax.legend(frameon=False)
    return ax


def growth(method: Tableau, z: NDArray) -> NDArray:
    """R(z), the factor of one step on y′ = λ y with z = h λ: 1 + z bᵀ (I − z A)⁻¹ 1.                                    [HW96, IV.2 (2.9)]"""
    z = np.asarray(z, dtype=complex)
    stages = np.empty((method.stages, *z.shape), complex)
    for i in range(method.stages):
        stages[i] = 1.0 + z * np.tensordot(method.A[i, :i], stages[:i], 1)
    return 1.0 + z * np.tensordot(method.b, stages, 1)


def stability(method: Tableau, ratio: NDArray, ax: Axes | None = None, **style: Any) -> Axes:
    """The region |R(z)| <= 1 in the plane of z = h λ, and where the steps lie on its real axis.

    ratio : |h| S of the accepted steps, S the stiffness estimate: |h λ| in units of the region's real extent
    """
    ax = axes(ax, (5.6, 4.6))
    extent = method.stiffness_constant
    x, y = np.linspace(-1.35 * extent, 0.35 * extent, 301), np.linspace(-1.3 * extent, 1.3 * extent, 301)
    size = np.abs(growth(method, x + 1j * y[:, None]))
    ax.contourf(x, y, size, levels=[0.0, 1.0], colors=["#dbe9f4"])
    ax.contour(x, y, size, levels=[1.0], colors=[PALETTE[0]], linewidths=1.4)
    ratio = ratio[np.isfinite(ratio)]
    look = {"marker": "|", "ls": "", "ms": 14, "color": REJECTED, "alpha": 0.5, "label": "|h| times stiffness"}
    ax.plot(-extent * ratio, np.zeros_like(ratio), **look | style)
    ax.axhline(0.0, color="#808080", lw=0.8)
    ax.axvline(0.0, color="#808080", lw=0.8)
    ax.set(xlabel="Re hλ", ylabel="Im hλ", title=f"{method.name}: |R(hλ)| ≤ 1", aspect="equal", xlim=(x[0], x[-1]))
    ax.legend(frameon=False, loc="upper left")
    return ax


def plot_result(result: IVPResult, method: Tableau, kind: str, ax: Axes | None, **style: Any) -> Axes:
    """One of the pictures of `IVPResult.plot`."""
    log = result.steps
    if kind == "solution":
        return solution(result, ax, **style)
    if kind == "steps":
        return step_sizes(log.t, np.abs(log.h) if log.h.size and log.h[0] > 0 else log.h, log.accepted, ax=ax, **style)
    if kind == "error":
        return errors(result, ax, **style)
    if kind == "stability":
        return stability(method, (np.abs(log.h) * log.stiffness)[log.accepted], ax, **style)
    raise InputError(f'plot knows the kinds "solution", "steps", "error" and "stability"; got {kind!r}')
