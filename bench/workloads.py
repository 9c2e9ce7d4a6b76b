"""What `bench train` times: neural ODEs with their data, weights and reference gradients, the same for every contender.

Weights and data are numbers of float32, so that both dtypes solve the same problem.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

import adaptode as ao

Layers = list[list[np.ndarray]]
REFERENCE = 1e-12  # tolerance of the reference gradient


@dataclass(frozen=True)
class Workload:
    """y′ = f(t, y; θ) from X at 0 to t1, read out by a linear head or as it is, and a loss.

    sizes, time, preactivation : of `ao.MLP`
    batch, t1, tolerances      : samples, end of the span, rtol = atol; float32 has those of `coarse`
    loss                       : of `ao.Objective`
    outputs, points            : width of the linear readout, 0 for none; observation times, 0 for the end alone
    penalty                    : timed against itself without the local error penalty, which no peer has
    """

    key: str
    group: str
    sizes: tuple[int, ...]
    batch: int
    loss: str
    tolerances: tuple[float, ...]
    coarse: tuple[float, ...] = ()
    time: str = "none"
    preactivation: str = "identity"
    outputs: int = 0
    points: int = 0
    t1: float = 1.0
    penalty: bool = False

    def tolerances_of(self, dtype: str) -> tuple[float, ...]:
        return self.coarse if dtype == "float32" and self.coarse else self.tolerances

    def describe(self) -> str:
        parts = ["-".join(map(str, self.sizes)) + ", tanh"]
        parts += ["of y³"] if self.preactivation == "cube" else []
        parts += ["the time an input of every layer"] if self.time == "every" else []
        parts += [f"batch {self.batch}", f"t from 0 to {self.t1:g}"]
        parts += [f"seen at {self.points} times"] if self.points else []
        parts += [f"readout {self.sizes[0]}-{self.outputs}"] if self.outputs else []
        return ", ".join([*parts, self.loss.replace("_", " ")])

    @property
    def times(self) -> np.ndarray | None:
        return np.linspace(0.0, self.t1, self.points + 1)[1:] if self.points else None

    @cached_property
    def field(self) -> ao.MLP:
        return ao.MLP(self.sizes, time=self.time, preactivation=self.preactivation)

    @cached_property
    def params(self) -> np.ndarray:
        """The field's parameters, then the readout's, in the order of `ao.Objective`."""
        rng = np.random.default_rng(0)
        parts = [self.field.init(rng)] + ([ao.LinearHead(self.field.n, self.outputs).init(rng)] if self.outputs else [])
        return _single(np.concatenate(parts))

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """X (batch, n) and the targets."""
        rng, n = np.random.default_rng(1), self.field.n
        if self.loss == "binary_cross_entropy":
            X, y = moons(self.batch, 0.1, rng)
        elif self.loss == "cross_entropy":
            X, y = rng.random((self.batch, n)), rng.integers(0, self.outputs, self.batch)
        elif self.points:
            X = _single(rng.uniform(-1.5, 1.5, (self.batch, n)))
            y = _single(spiral(X, self.times))
        else:
            X, y = rng.standard_normal((self.batch, n)), _single(rng.standard_normal((self.batch, n)))
        return _single(X), y

    def layers(self, params: np.ndarray) -> tuple[Layers, list[np.ndarray]]:
        """(W, v, b) or (W, b) of each layer and (W, b) of the readout, which raveled one after the other are `params` again."""
        views, used = self.field.views(params[: self.field.n_params]), self.field.n_params
        layers = [[views[f"{letter}{k}"] for letter in "Wvb" if f"{letter}{k}" in views] for k in range(1, len(self.sizes))]
        cut = used + self.field.n * self.outputs
        return layers, [params[used:cut].reshape(self.field.n, -1), params[cut:]] if self.outputs else []

    def objective(self, dtype: str, tolerance: float, method: str = "Tsit5", **options: Any) -> ao.Objective:
        head = ao.LinearHead(self.field.n, self.outputs) if self.outputs else None
        settings = {"method": method, "rtol": tolerance, "atol": tolerance, "dtype": dtype, "tspan": (0.0, self.t1), "times": self.times}
        return ao.Objective(self.field, self.loss, head=head, **settings | options)

    @cached_property
    def reference(self) -> tuple[float, np.ndarray]:
        """Loss and gradient by the discrete adjoint of DOP853 at 1e-12, in double precision."""
        evaluation = self.objective("float64", REFERENCE, "DOP853").value_and_grad(self.params, *self.data, rng=np.random.default_rng(0))
        return evaluation.loss, evaluation.grad

    def error(self, gradient: np.ndarray) -> float:
        """Relative 2-norm error of a whole parameter gradient."""
        exact = self.reference[1]
        return float(np.linalg.norm(np.asarray(gradient, np.float64) - exact) / np.linalg.norm(exact))


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


def moons(count: int, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles with Gaussian noise, as scikit-learn's make_moons draws them; points (count, 2) and labels."""
    outer = np.linspace(0.0, np.pi, count // 2)
    inner = np.linspace(0.0, np.pi, count - count // 2)
    x = np.concatenate([np.cos(outer), 1.0 - np.cos(inner)])
    z = np.concatenate([np.sin(outer), 0.5 - np.sin(inner)])
    labels = np.repeat([0, 1], [outer.size, inner.size])
    order = rng.permutation(count)
    return np.column_stack([x, z])[order] + noise * rng.standard_normal((count, 2)), labels[order]


def spiral(X: np.ndarray, times: np.ndarray) -> np.ndarray:
    """States (batch, times, 2) of y′ = y³ A from X."""
    A = np.array([[-0.1, 2.0], [-2.0, -0.1]])

    def fun(_: float, y: np.ndarray) -> np.ndarray:
        return (y.reshape(X.shape) ** 3 @ A).ravel()

    found = solve_ivp(fun, (0.0, times[-1]), X.ravel(), "DOP853", t_eval=times, rtol=1e-10, atol=1e-10)
    return np.moveaxis(found.y.reshape(*X.shape, -1), 2, 1)


def _workloads() -> Iterable[Workload]:
    moon = {"sizes": (2, 64, 64, 2), "batch": 256, "loss": "binary_cross_entropy", "outputs": 1}
    mnist = {"sizes": (784, 100, 784), "batch": 512, "loss": "cross_entropy", "outputs": 10, "time": "every", "coarse": (1e-5,)}
    yield Workload("moons", "moons", tolerances=(1e-6, 1e-3), **moon)
    yield Workload("mnist", "mnist", tolerances=(1.4e-8, 1e-5), **mnist)
    for points in (10, 100):
        extra = {"preactivation": "cube", "points": points, "t1": 1.5}
        yield Workload(f"spiral-{points}", "spiral", (2, 50, 2), 20, "mean_squared_error", (1e-6,), **extra)
    for batch in (1, 16):
        yield Workload(f"small-{batch}", "small", (3, 32, 3), batch, "mean_squared_error", (1e-6,))
    yield Workload("reg-moons", "reg", tolerances=(1e-6, 1e-3), penalty=True, **moon)
    yield Workload("reg-mnist", "reg", tolerances=(1.4e-8, 1e-5), penalty=True, **mnist)


WORKLOADS = {workload.key: workload for workload in _workloads()}
GROUPS = tuple(dict.fromkeys(workload.group for workload in WORKLOADS.values()))
