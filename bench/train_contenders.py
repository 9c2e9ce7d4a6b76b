"""Neural ODE libraries on the workloads of `bench train`, each as its own manual would have it train fastest; all but adaptode's are optional.

Arrays live where a training loop has them. Step controllers and first steps are each library's defaults; adaptode, diffrax and torchdiffeq step the whole
batch jointly, torchode every sample alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import adaptode as ao

from .train_jax import diffrax_case
from .train_torch import torchdiffeq_case, torchode_case
from .train_types import Case
from .workloads import Workload

Prepare = Callable[[Workload, str, float, int], Case]  # workload, dtype, tolerance, threads


def adaptode_case(workload: Workload, dtype: str, tolerance: float, threads: int, compiled: bool = False, **options: Any) -> Case:
    objective = workload.objective(dtype, tolerance, **options)
    if compiled:
        objective = objective.compiled()
    params, (X, y) = workload.params.astype(dtype), workload.data
    X, rng = X.astype(dtype), np.random.default_rng(0)
    y = y.astype(dtype) if workload.loss == "mean_squared_error" else y
    return Case(
        partial(objective.predict, params, X),
        lambda: objective.value_and_grad(params, X, y, rng=rng),
        np.asarray,
        lambda found: (found.loss, found.grad),
        lambda: objective.solve(params, X).nfev,
    )


@dataclass(frozen=True)
class Contender:
    """A library and one of its gradients.

    forward  False where its forward solve is that of another contender;  only  its groups, all if empty;  compiler  it needs one of C++
    """

    key: str
    prepare: Prepare
    needs: tuple[str, ...] = ()
    forward: bool = True
    only: tuple[str, ...] = ()
    compiler: bool = False
    note: str = ""

    @property
    def ours(self) -> bool:
        return self.key.startswith("adaptode")

    def missing(self) -> str | None:
        gone = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if not gone and self.compiler and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl"))):
            return "no C++ compiler"
        return f"{', '.join(gone)} not installed" if gone else None

    def serves(self, workload: Workload) -> bool:
        return workload.group in self.only if self.only else not workload.penalty or self.key == "adaptode"


ALL = [
    Contender("adaptode", adaptode_case, note="`Objective` as it is: Tsit5, discrete adjoint"),
    Contender("adaptode-compiled", partial(adaptode_case, compiled=True), only=("moons", "spiral", "small"), note="`Objective.compiled()`"),
    Contender("adaptode-backsolve", partial(adaptode_case, adjoint="backsolve"), forward=False, note='`adjoint="backsolve"`'),
    Contender("adaptode-state", partial(adaptode_case, coordinates="state"), only=("mnist",), note='`coordinates="state"`: no hidden coordinates'),
    Contender("adaptode-local", partial(adaptode_case, penalties=[ao.LocalError(1.0)]), only=("reg",), forward=False, note="`penalties=[LocalError(1.0)]`"),
    Contender(
        "adaptode-local-own",
        partial(adaptode_case, penalties=[ao.LocalError(1.0, "biased", detach=())]),
        only=("reg",),
        forward=False,
        note='`penalties=[LocalError(1.0, "biased", detach=())]`: of the solver\'s own steps',
    ),
    Contender("diffrax", diffrax_case, ("diffrax",), note="Tsit5, `RecursiveCheckpointAdjoint`, jitted"),
    Contender("diffrax-backsolve", partial(diffrax_case, backsolve=True), ("diffrax",), forward=False, note="Tsit5, `BacksolveAdjoint`, jitted"),
    Contender("torchdiffeq", torchdiffeq_case, ("torchdiffeq",), note="dopri5 (it has no Tsit5), backpropagation through `odeint`"),
    Contender("torchdiffeq-adjoint", partial(torchdiffeq_case, adjoint=True), ("torchdiffeq",), forward=False, note="dopri5, `odeint_adjoint`, seminorm"),
    Contender("torchode", torchode_case, ("torchode",), note="Tsit5, `AutoDiffAdjoint`, each sample with its own steps"),
    Contender("torchode-compiled", partial(torchode_case, compiled=True), ("torchode",), compiler=True, note="the same through `torch.compile`"),
]
CONTENDERS = {contender.key: contender for contender in ALL}
