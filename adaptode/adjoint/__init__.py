"""Gradients of solved batches."""

from collections.abc import Callable

from .continuous import DriftWarning, backsolve, interpolating, quadrature
from .discrete import discrete
from .forward import Sensitivities, forward, sensitivities
from .gradient import Gradient

ADJOINTS: dict[str, Callable[..., Gradient]] = {f.__name__: f for f in (discrete, backsolve, interpolating, quadrature, forward)}

__all__ = ["ADJOINTS", "DriftWarning", "Gradient", "Sensitivities", "backsolve", "discrete", "forward", "interpolating", "quadrature", "sensitivities"]
