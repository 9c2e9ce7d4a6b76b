"""Vector fields f(t, y; θ) with their derivatives."""

from .mlp import MLP
from .protocol import Bound, Field
from .user import CompiledField, PythonField

__all__ = ["MLP", "Bound", "CompiledField", "Field", "PythonField"]
