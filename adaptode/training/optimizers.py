"""First-order optimizers on one flat parameter vector.

`init(params)` gives the state, a dict of arrays that a checkpoint can hold; `update(params, grad, state, step)` changes
params and state in place. `step` counts complete steps: the first update has step 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from ..errors import InputError
from ..schedules import Schedule, as_schedule

State = dict[str, np.ndarray]


class Optimizer:
    """Base of the optimizers: frozen dataclasses whose `learning_rate` is a number or a schedule."""

    learning_rate: float | Schedule

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rate", as_schedule(self.learning_rate))

    def init(self, params: np.ndarray) -> State:
        """The state before the first step: arrays of zeros like params."""
        raise NotImplementedError

    def update(self, params: np.ndarray, grad: np.ndarray, state: State, step: int) -> None:
        """One step, in place."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Kind and settings, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {"kind": type(self).__name__, **values, "learning_rate": self.learning_rate.to_dict()}

    def _check(self, name: str, below: float = math.inf) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < below:
            raise InputError(f"{type(self).__name__}: {name} must be a number in [0, {below:g}), not {value!r}")
        object.__setattr__(self, name, float(value))


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam; with `weight_decay`, AdamW: the decay is decoupled from the gradient, and scaled by the learning rate.

    m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
    m̂ = m / (1 − β₁^(s+1)),   v̂ = v / (1 − β₂^(s+1)),   α = learning_rate(s)
    θ ← θ − α weight_decay θ − α m̂ / (sqrt(v̂) + ε)                     [KB15, Alg. 1], [LH19, Alg. 2]
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("beta1", below=1)
        self._check("beta2", below=1)
        self._check("eps")
        if self.eps == 0:
            raise InputError(
                "Adam: eps must be positive; a parameter whose gradient is always 0 would be moved by 0 / 0"
            )
        self._check("weight_decay")

    def init(self, params: np.ndarray) -> State:
        return {"m": np.zeros_like(params), "v": np.zeros_like(params)}

    def update(self, params: np.ndarray, grad: np.ndarray, state: State, step: int) -> None:
        rate = self.learning_rate(step)
        m, v = state["m"], state["v"]
        scratch = np.empty_like(params)  # the only one: making arrays costs more than the arithmetic
        m *= self.beta1
        m += np.multiply(grad, 1 - self.beta1, out=scratch)
        v *= self.beta2
        np.square(grad, out=scratch)
        scratch *= 1 - self.beta2
        v += scratch
        np.divide(v, 1 - self.beta2 ** (step + 1), out=scratch)
        np.sqrt(scratch, out=scratch)
        scratch += self.eps
        np.divide(m, scratch, out=scratch)
        scratch *= rate / (1 - self.beta1 ** (step + 1))
        if self.weight_decay:
            params *= 1 - rate * self.weight_decay
        params -= scratch


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with heavy-ball momentum and decoupled weight decay.

    v ← momentum · v + g,   θ ← θ − α weight_decay θ − α v,   α = learning_rate(s)          [P64], [LH19, Alg. 1]
    """

    learning_rate: float | Schedule = 1e-2
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("momentum", below=1)
        self._check("weight_decay")

    def init(self, params: np.ndarray) -> State:
        return {"velocity": np.zeros_like(params)}

    def update(self, params: np.ndarray, grad: np.ndarray, state: State, step: int) -> None:
        rate = self.learning_rate(step)
        velocity = state["velocity"]
        velocity *= self.momentum
        velocity += grad
        if self.weight_decay:
            params *= 1 - rate * self.weight_decay
        params -= rate * velocity
