"""Numbers as the reports print them."""

from __future__ import annotations

import math


def seconds(value: float | None) -> str:
    """Three digits and a unit."""
    if value is None or not math.isfinite(value):
        return "—"
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if value < limit:
            return f"{value * scale:.3g} {unit}" if value * scale < 999.5 else f"{value * scale:.0f} {unit}"
    return f"{value:.3g} s"


def times(value: float | None) -> str:
    """A ratio of speeds."""
    if value is None:
        return "—"
    return f"{value:.0f}×" if value >= 99.5 else f"{value:.2g}×" if value >= 9.95 else f"{value:.1f}×" if value >= 0.95 else f"{value:.2f}×"
