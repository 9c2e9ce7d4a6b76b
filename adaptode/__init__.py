"""adaptode: an ODE solver and neural-ODE trainer you can read, every gradient derived by hand."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and where they live; nothing is imported before it is asked for.
_PUBLIC = {
    "solve": "solver",
    "solve_ivp": "ivp",
    "IVPResult": "result",
    "StepInfo": "solution",
    "Stepper": "stepper",
    "jit_solver": "jitted",
    "StiffnessWarning": "result",
    "rhs": "fields.rhs",
    "solve_ensemble": "ensemble",
    "EnsembleResult": "ensemble",
    "RunBatch": "independent",
    "Run": "solution",
    "Status": "solution",
    "StepLog": "solution",
    "Controller": "control",
    "Tableau": "tableau",
    "TSIT5": "tableau",
    "DOPRI5": "tableau",
    "DOPRI5_SHAMPINE": "tableau",
    "RK4": "tableau",
    "EULER": "tableau",
    "Tsit5": "scipy_api",
    "Dopri5": "scipy_api",
    "BS32": "scipy_api",
    "DOP853": "scipy_api",
    "StepRecorder": "scipy_api",
    "MLP": "fields",
    "Field": "fields",
    "CompiledField": "fields",
    "PythonField": "fields",
    "LinearField": "fields",
    "Sum": "fields",
    "Scaled": "fields",
    "TimeRescaled": "fields",
    "augment": "fields",
    "Gradient": "adjoint",
    "Flow": "adjoint.flow",
    "DriftWarning": "adjoint",
    "memory_report": "adjoint.memory",
    "check_gradients": "adjoint.check",
    "LocalError": "regularize",
    "GlobalError": "regularize",
    "Steer": "regularize",
    "Kinetic": "regularize",
    "JacobianFrobenius": "regularize",
    "Directional": "regularize",
    "JacobianNorm": "regularize",
    "ConditionNumber": "regularize",
    "Taylor": "regularize",
    "Objective": "training.objective",
    "LinearHead": "training.heads",
    "Adam": "training.optimizers",
    "SGD": "training.optimizers",
    "fit": "training.fit",
    "NeuralODEClassifier": "models.classifier",
    "NeuralODERegressor": "models.regressor",
    "Constant": "schedules",
    "Linear": "schedules",
    "Exponential": "schedules",
    "Cosine": "schedules",
    "InverseDecay": "schedules",
    "PerEpoch": "schedules",
    "AdaptodeError": "errors",
    "InputError": "errors",
    "SolveError": "errors",
    "FieldError": "errors",
    "MissingDerivativeError": "errors",
    "SingularJacobianError": "errors",
    "NonFiniteLossError": "errors",
    "NonFiniteGradientError": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
}
_MODULES = ("adjoint", "checks", "datasets", "experiments", "fields", "linalg", "models", "plotting", "regularize", "schedules", "training")
__all__ = ["__version__", *_PUBLIC, *_MODULES]

if TYPE_CHECKING:
    from .solver import solve as solve


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'adaptode' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
