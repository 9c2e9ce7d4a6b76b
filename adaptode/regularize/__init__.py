"""Penalties that make a learned flow easy to integrate, or well conditioned; each is one keyword, and they add up."""

from .base import Penalty, Pulled, Term
from .global_error import GlobalError
from .jacobian import ConditionNumber, JacobianNorm
from .kinetic import Directional, JacobianFrobenius, Kinetic
from .local_error import LocalError
from .pointwise import PointwisePenalty
from .steer import Steer

__all__ = [
    "ConditionNumber",
    "Directional",
    "GlobalError",
    "JacobianFrobenius",
    "JacobianNorm",
    "Kinetic",
    "LocalError",
    "Penalty",
    "PointwisePenalty",
    "Pulled",
    "Steer",
    "Term",
]
