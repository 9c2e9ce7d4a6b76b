"""Training: objective, losses, head, optimizers, the fit loop, its history and its checkpoints."""

from .checkpoint import SavedRun, load_run, save_run
from .fit import StepInfo, fit
from .heads import FirstComponents, LinearHead
from .history import FitResult, History
from .losses import binary_cross_entropy, cross_entropy, mean_squared_error
from .objective import Evaluation, Objective
from .optimizers import SGD, Adam, Optimizer
from .start import LearnedStart

__all__ = [
    "SGD",
    "Adam",
    "Evaluation",
    "FirstComponents",
    "FitResult",
    "History",
    "LearnedStart",
    "LinearHead",
    "Objective",
    "Optimizer",
    "SavedRun",
    "StepInfo",
    "binary_cross_entropy",
    "cross_entropy",
    "fit",
    "load_run",
    "mean_squared_error",
    "save_run",
]
