"""Gradients of solved batches."""

from .discrete import Gradient, discrete

__all__ = ["Gradient", "discrete"]
