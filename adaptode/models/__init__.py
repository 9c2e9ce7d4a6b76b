"""Models with scikit-learn manners, loaded when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classifier import NeuralODEClassifier

__all__ = ["NeuralODEClassifier"]


def __getattr__(name: str) -> Any:
    if name == "NeuralODEClassifier":  # imports scikit-learn, which is optional and slow to load
        from .classifier import NeuralODEClassifier

        return NeuralODEClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
