"""Models with scikit-learn manners, loaded when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classifier import NeuralODEClassifier
    from .regressor import NeuralODERegressor

__all__ = ["NeuralODEClassifier", "NeuralODERegressor"]


def __getattr__(name: str) -> Any:  # they import scikit-learn, which is optional and slow to load
    if name == "NeuralODEClassifier":
        from .classifier import NeuralODEClassifier

        return NeuralODEClassifier
    if name == "NeuralODERegressor":
        from .regressor import NeuralODERegressor

        return NeuralODERegressor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
