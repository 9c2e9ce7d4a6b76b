"""Penalties that make a learned flow easy to integrate, or well conditioned; each is one keyword, and they add up."""

from .base import Penalty, Pulled, Term
from .jacobian import ConditionNumber, JacobianNorm
from .local_error import LocalError
from .pointwise import PointwisePenalty

__all__ = ["ConditionNumber", "JacobianNorm", "LocalError", "Penalty", "PointwisePenalty", "Pulled", "Term"]
