"""Gradients of solved batches."""

from .discrete import Gradient, discrete

ADJOINTS = {"discrete": discrete}

__all__ = ["ADJOINTS", "Gradient", "discrete"]
