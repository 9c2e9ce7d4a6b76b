"""Gradients of solved batches."""

from .discrete import discrete
from .gradient import Gradient

__all__ = ["Gradient", "discrete"]
