"""The experiments' pictures. Each function draws on `ax` (its own figure by default) and returns the Axes.

A row has the same colour and marker in every figure: Okabe and Ito's palette, which colour-blind readers tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..plotting import axes as _axes
from ..plotting import figure, save, step_sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["figure", "save", "step_sizes"]

ROW_STYLE: dict[str, tuple[str, str, str]] = {  # name -> label, colour, marker
    "none": ("none", "#4d4d4d", "o"),
    "frobenius": ("Frobenius norm", "#e69f00", "s"),
    "spectral": ("spectral norm", "#d55e00", "D"),
    "condition": ("condition number", "#009e73", "^"),
    "local-unbiased": ("local error, unbiased", "#0072b2", "v"),
    "local-biased": ("local error, biased", "#cc79a7", "P"),
}
CLASS_COLORS = ("#0072b2", "#d55e00")


def flow(
    grid: tuple[NDArray, NDArray],
    probability: NDArray,
    paths: NDArray,
    labels: NDArray,
    *,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """The plane coloured by what the model says of an input there, its boundary, and trajectories from t0 to t1.

    grid : x (nx,), y (ny,); probability (ny, nx) of class 1; paths (k, B, 2), paths[0] the inputs; labels (B,) of 0, 1
    """
    from matplotlib.colors import LinearSegmentedColormap

    ax = _axes(ax, (5.0, 4.4))
    shades = LinearSegmentedColormap.from_list("classes", ["#b9d3e8", "#ffffff", "#f3cdb4"])
    ax.contourf(*grid, probability, levels=np.linspace(0, 1, 21), cmap=shades, vmin=0, vmax=1)
    ax.contour(*grid, probability, levels=[0.5], colors="#222222", linewidths=1.4)
    for label, color in enumerate(CLASS_COLORS):
        own = paths[:, labels == label]
        ax.plot(own[:, :, 0], own[:, :, 1], color=color, lw=0.7, alpha=0.45)
        ax.scatter(own[0, :, 0], own[0, :, 1], s=9, color=color, linewidths=0, zorder=3)
        ax.scatter(own[-1, :, 0], own[-1, :, 1], s=16, facecolor="white", edgecolor=color, linewidths=0.9, zorder=3)
    ax.set(xlim=(grid[0][0], grid[0][-1]), ylim=(grid[1][0], grid[1][-1]), title=title)
    ax.grid(False)
    return ax


def noise_curves(stds: NDArray, accuracy: Mapping[str, NDArray], *, ax: Axes | None = None) -> Axes:
    """Accuracy against the noise's standard deviation, (seeds, k) a row: mean, and a band of one standard deviation."""
    ax = _axes(ax)
    for name, values in accuracy.items():
        label, color, marker = ROW_STYLE[name]
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
        ax.fill_between(stds, mean - spread, mean + spread, color=color, alpha=0.12, linewidth=0)
        ax.plot(stds, mean, color=color, marker=marker, ms=5, lw=1.8, label=label)
    ax.set(xlabel="standard deviation of the Gaussian input noise", ylabel="test accuracy")
    ax.legend(frameon=False)
    return ax


def distance_boxes(distance: Mapping[str, NDArray], *, ax: Axes | None = None) -> Axes:
    """Box plot of each row's distances to the decision boundary: quartiles, whiskers to 5 and 95 %, mean as a dot."""
    ax = _axes(ax, (6.4, 3.6))
    names = list(distance)[::-1]
    boxes = ax.boxplot(
        [distance[name] for name in names], orientation="horizontal", whis=(5, 95), showfliers=False, showmeans=True,
        patch_artist=True, widths=0.62, medianprops={"color": "#222222", "linewidth": 1.6},
        meanprops={"marker": "o", "markerfacecolor": "white", "markeredgecolor": "#222222", "markersize": 5},
    )  # fmt: skip
    for name, box in zip(names, boxes["boxes"], strict=True):
        box.set(facecolor=ROW_STYLE[name][1], alpha=0.6, edgecolor="#4d4d4d")
    ax.set_yticks(range(1, len(names) + 1), [ROW_STYLE[name][0] for name in names])
    ax.set(xlabel="distance to the decision boundary", xlim=(0, None))
    ax.grid(axis="y", visible=False)
    return ax


def sweep_curves(points: Sequence[Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """Accuracy against NFE as the weight λ of each penalty grows; each dot is the mean over seeds, labelled with its λ.

    points : {"name", "weight", "nfe": {"mean"}, "accuracy": {"mean"}}, those of one name in the order of λ
    """
    ax = _axes(ax, (7.2, 4.6))
    for name in dict.fromkeys(point["name"] for point in points):
        label, color, marker = ROW_STYLE[name]
        own = [point for point in points if point["name"] == name]
        nfe = [point["nfe"]["mean"] for point in own]
        accuracy = [point["accuracy"]["mean"] for point in own]
        ax.plot(nfe, accuracy, color=color, marker=marker, ms=6, lw=1.3, label=label)
        ax.annotate(
            f"λ = {own[-1]['weight']:g}", (nfe[-1], accuracy[-1]),
            textcoords="offset points", xytext=(7, 4), fontsize=8, color=color,
        )  # fmt: skip
    ax.set(xlabel="NFE", ylabel="test accuracy")
    ax.legend(frameon=False)
    return ax


def history_curves(histories: Mapping[str, Mapping[str, NDArray]], column: str, ylabel: str, *, ax: Axes | None = None) -> Axes:
    """A column of the training history of each row against the step."""
    ax = _axes(ax)
    for name, history in histories.items():
        label, color, _ = ROW_STYLE[name]
        ax.plot(history["step"], history[column], color=color, lw=1.5, label=label)
    ax.set(xlabel="training step", ylabel=ylabel)
    return ax


def log_if_wide(ax: Axes) -> None:
    """A logarithmic y axis, labelled in plain numbers, where the data span a decade; less than that has hardly a tick on it."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    values = np.concatenate([line.get_ydata() for line in ax.lines])
    if np.min(values) > 0 and np.max(values) >= 10 * np.min(values):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
