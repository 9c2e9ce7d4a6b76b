"""Bars of seconds, one group above the other, on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from adaptode.experiments import plots

from .units import seconds

COLORS = {  # Okabe and Ito's
    "adaptode": "#0072b2", "diffrax": "#cc79a7", "JAX": "#cc79a7", "torchdiffeq": "#d55e00", "PyTorch": "#d55e00", "torchode": "#e69f00",
}  # fmt: skip
OTHER = "#4d4d4d"


def color(name: str) -> str:
    """That of the library, which every contender's name begins with."""
    return next((shade for library, shade in COLORS.items() if name == library or name.startswith(f"{library}-")), OTHER)


def bars(path: Path, groups: Mapping[str, Mapping[str, float]], label: str) -> str:
    """A panel for each group with a bar for each of its names; returns the file's name, or "" where there is nothing to draw."""
    groups = {title: values for title, values in groups.items() if values}
    if not groups:
        return ""
    from matplotlib.ticker import NullFormatter

    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    fig, axes = plots.figure(lines, columns, size=(4.4 * columns, (0.9 + 0.26 * max(map(len, groups.values()))) * lines), squeeze=False)
    for ax, (title, values) in zip(axes.flat, groups.items(), strict=False):
        names = list(values)[::-1]
        ax.barh(names, [values[name] for name in names], color=[color(name) for name in names], height=0.7)
        ax.set(xscale="log", xlabel=label)
        ax.set_title(title, fontsize=10)
        ax.set_xlim(10.0 ** math.floor(math.log10(0.7 * min(values.values()))), 4.0 * max(values.values()))  # whole decades: ticks that have numbers
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(axis="y", visible=False)
        for name in names:
            ax.annotate(seconds(values[name]), (values[name], name), textcoords="offset points", xytext=(3, 0), va="center", fontsize=8)
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    return plots.save(fig, path)
