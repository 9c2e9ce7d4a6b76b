"""Gradients of solved batches."""

from .continuous import backsolve, interpolating, quadrature
from .discrete import discrete
from .gradient import Gradient

ADJOINTS = {f.__name__: f for f in (discrete, backsolve, interpolating, quadrature)}

__all__ = ["ADJOINTS", "Gradient", "backsolve", "discrete", "interpolating", "quadrature"]
