"""Gradients of solved batches."""

from .discrete import discrete
from .gradient import Gradient

ADJOINTS = {"discrete": discrete}

__all__ = ["ADJOINTS", "Gradient", "discrete"]
