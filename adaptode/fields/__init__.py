"""Vector fields f(t, y; θ) with their derivatives."""

from .compose import Scaled, Sum, TimeRescaled, augment
from .linear import LinearField
from .mlp import MLP
from .protocol import Bound, Field
from .user import CompiledField, PythonField

__all__ = ["MLP", "Bound", "CompiledField", "Field", "LinearField", "PythonField", "Scaled", "Sum", "TimeRescaled", "augment"]
