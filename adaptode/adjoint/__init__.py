"""Gradients of solved batches."""

from .continuous import backsolve, interpolating, quadrature
from .discrete import discrete
from .gradient import Gradient

__all__ = ["Gradient", "backsolve", "discrete", "interpolating", "quadrature"]
