"""Jacobian regularization on the two moons [JB22]: the poster's Table 1 and figures, with local-error rows [Pal23].

The poster leaves architecture, tolerance, λ and epochs unsaid. `Config` holds our choices, the report prints them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets import make_moons
from ..fields import MLP
from ..regularize import ConditionNumber, JacobianNorm, LocalError, Penalty
from ..schedules import Cosine, Linear
from ..training.fit import fit
from ..training.heads import LinearHead
from ..training.objective import Objective
from ..training.optimizers import Adam
from . import moons_report
from .jobs import run_all, warm_up
from .report import RunFolder, summarize
from .robustness import accuracy, accuracy_under_noise, boundary_distance

ROWS = ("none", "frobenius", "spectral", "condition", "local-unbiased", "local-biased")


@dataclass(frozen=True)
class Config:
    """Every choice of the experiment; the poster states only the data and, by its NFE, the method."""

    hidden: tuple[int, ...] = (64,)
    activation: str = "tanh"
    method: str = "Dopri5_Shampine"  # torchdiffeq's pair and step rule: NFE = 2 + 6 a step
    controller: str = "torchdiffeq"
    tolerance: float = 1e-3
    tight_tolerance: float = 1e-6  # the trained models are solved once more at this one: nfe_tight
    n_train: int = 1000
    n_test: int = 1000
    noise: float = 0.1
    epochs: int = 200
    batch_size: int = 50
    learning_rate: float = 0.02  # falls to 0 as a cosine
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "none": 0.0,
            "frobenius": 1.0,
            "spectral": 1.0,
            "condition": 0.02,
            "local-unbiased": 0.05,
            "local-biased": 0.05,
        }
    )
    ramp: float = 0.5  # λ of `condition` and of the local rows grows from 0 over this fraction of the training
    floor: float = 0.01  # κ is penalized as σ₁ / sqrt(σ₂² + (floor σ₁)²)
    gentle: float | None = 0.03  # a second, weaker λ for the norms, outside the table: is their cost that of their λ?
    sweep: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "frobenius": (0.01, 0.03, 0.1, 0.3, 1.0),
            "spectral": (0.01, 0.03, 0.1, 0.3, 1.0),
            "condition": (0.002, 0.006, 0.02, 0.06, 0.2),
            "local-unbiased": (0.005, 0.015, 0.05, 0.15, 0.5),
            "local-biased": (0.005, 0.015, 0.05, 0.15, 0.5),
        }
    )
    noise_stds: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    radius_step: float = 0.04
    radius_limit: float = 2.0
    sphere_points: int = 16

    @property
    def steps(self) -> int:
        """Training steps."""
        return self.epochs * -(-self.n_train // self.batch_size)


# In so short a training the sharper κ of `Config` keeps one seed in six from separating the moons.
QUICK = Config(epochs=85, floor=0.02, gentle=None, radius_step=0.1)


class Task(NamedTuple):
    """One training: a row, its λ, a seed, and whether to measure robustness too."""

    config: Config
    name: str
    weight: float
    seed: int
    robustness: bool = True


def penalties(config: Config, name: str, weight: float) -> tuple[Penalty, ...]:
    """The penalty of a row; Jacobians are ∂f/∂h at (h(t₀), t₀), averaged over the batch."""
    if name == "none":
        return ()
    if name in ("frobenius", "spectral"):
        return (JacobianNorm(name, weight),)
    # At full strength from the start these two keep some seeds from ever separating the moons: a small flow has small
    # errors, and κ has a barrier where det J changes sign.
    growing = Linear(0.0, weight, max(1, round(config.ramp * config.steps)))
    if name == "condition":
        return (ConditionNumber(growing, floor=config.floor),)
    return (LocalError(growing, sampling=name.removeprefix("local-")),)


def objective(config: Config, name: str, weight: float) -> Objective:
    return Objective(
        MLP((2, *config.hidden, 2), activation=config.activation), loss="binary_cross_entropy", head=LinearHead(2, 1),
        tspan=(0.0, 1.0), method=config.method, controller=config.controller, rtol=config.tolerance,
        atol=config.tolerance, penalties=penalties(config, name, weight),
    )  # fmt: skip


def data(config: Config, seed: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """(X, y, X_test, y_test) of a seed."""
    X, y = make_moons(config.n_train + config.n_test, noise=config.noise, rng=np.random.default_rng([seed, 0]))
    return X[: config.n_train], y[: config.n_train], X[config.n_train :], y[config.n_train :]


def train(task: Task) -> dict[str, Any]:
    """Train one row with one seed and measure it."""
    config, name, weight, seed, robustness = task
    X, y, X_test, y_test = data(config, seed)
    model = objective(config, name, weight)
    optimizer = Adam(Cosine(config.learning_rate, 0.0, config.steps))
    began = time.perf_counter()
    result = fit(
        model, X, y, params=model.init(np.random.default_rng([seed, 1])), optimizer=optimizer, epochs=config.epochs,
        batch_size=config.batch_size, rng=np.random.default_rng([seed, 2]),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if result.status == "interrupted":
        raise KeyboardInterrupt
    params = result.params

    def predict(points: NDArray) -> NDArray:
        return (model.predict(params, points).ravel() > 0).astype(int)

    kappa = np.linalg.cond(model.field.jacobian(0.0, X, params[: model.field.n_params]))
    measured = {
        "name": name,
        "weight": weight,
        "seed": seed,
        "params": params,
        "nfe": model.solve(params, X_test).nfev,
        "nfe_tight": objective(replace(config, tolerance=config.tight_tolerance), name, weight).solve(params, X_test).nfev,
        "accuracy": accuracy(predict, X_test, y_test),
        "train_accuracy": accuracy(predict, X, y),
        "condition_number": float(np.mean(kappa)),
        "condition_number_median": float(np.median(kappa)),
        "seconds": seconds,
    }
    if robustness:
        radii = np.arange(1, round(config.radius_limit / config.radius_step) + 1) * config.radius_step
        right = predict(X) == y
        rng = np.random.default_rng([seed, 3])
        measured["distance"] = boundary_distance(predict, X[right], radii, labels=y[right], n_points=config.sphere_points, rng=rng)
        measured["noise_accuracy"] = accuracy_under_noise(predict, X_test, y_test, config.noise_stds, rng=rng)
    return measured


def summary(name: str, weight: float, trained: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of the table from the trainings of its seeds."""
    columns = [
        "nfe",
        "nfe_tight",
        "accuracy",
        "train_accuracy",
        "condition_number",
        "condition_number_median",
        "seconds",
    ]
    row = {"name": name, "weight": weight, **{column: summarize(t[column] for t in trained) for column in columns}}
    if "distance" in trained[0]:
        row["distance"] = summarize(float(np.mean(t["distance"])) for t in trained)
        row["noise_accuracy"] = np.mean([t["noise_accuracy"] for t in trained], axis=0)
    return row


def run(
    out: str | Path,
    *,
    quick: bool = False,
    seeds: int | None = None,
    first_seed: int = 0,
    sweep: bool = False,
    n_jobs: int = -1,
    config: Config | None = None,
) -> str:
    """Train every row with every seed, write the report to `out`, return the short table for the terminal."""
    began = time.perf_counter()
    config = config or (QUICK if quick else Config())
    numbers = list(range(first_seed, first_seed + (seeds or (2 if quick else 5))))
    tasks = [Task(config, name, config.weights[name], seed) for name in ROWS for seed in numbers]
    extra = config.sweep if sweep else dict.fromkeys(moons_report.NORMS, (config.gentle,) if config.gentle else ())
    points = [(name, weight) for name in ROWS for weight in extra.get(name, ())]
    tasks += [Task(config, name, weight, seed, robustness=False) for name, weight in points if weight != config.weights[name] for seed in numbers]
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    data(config, first_seed)  # DataError now, not after minutes of compiling
    with RunFolder(out, asdict(config)) as folder:
        warm_up(("float64",))
        for result in run_all(train, tasks, n_jobs=n_jobs, describe=_line, keep=folder.add):
            groups.setdefault((result["name"], result["weight"]), []).append(result)
        main = {name: groups[name, config.weights[name]] for name in ROWS}
        outcome = moons_report.Outcome(
            config=asdict(config),
            seeds=numbers,
            rows=[summary(name, config.weights[name], trained) for name, trained in main.items()],
            sweep=[summary(*point, groups[point]) for point in points],
            trained=main,
            pictures=[picture(config, median(trained)) for trained in main.values()],
            seconds=time.perf_counter() - began,
            command=f"adaptode reproduce moons --seeds {len(numbers)}"
            + f" --first-seed {first_seed}" * (first_seed > 0)
            + " --quick" * quick
            + " --sweep" * sweep,
        )
        return moons_report.write(folder.path, outcome)


def median(trained: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The training whose NFE is nearest to the row's median, the first of equals."""
    middle = np.median([t["nfe"] for t in trained])
    return min(trained, key=lambda t: abs(t["nfe"] - middle))


def picture(config: Config, trained: Mapping[str, Any]) -> moons_report.Picture:
    """What the figures show of one trained model: its map of the plane, trajectories, steps on the test set."""
    model, params = objective(config, trained["name"], trained["weight"]), trained["params"]
    *_, X_test, y_test = data(config, trained["seed"])
    grid = np.linspace(-2.0, 3.0, 121), np.linspace(-1.7, 2.2, 95)
    plane = np.stack(np.meshgrid(*grid), axis=-1).reshape(-1, 2)
    logits = model.predict(params, plane).reshape(grid[1].size, grid[0].size)
    return moons_report.Picture(
        name=trained["name"],
        seed=trained["seed"],
        nfe=trained["nfe"],
        accuracy=trained["accuracy"],
        grid=grid,
        probability=0.5 * (1.0 + np.tanh(0.5 * logits)),
        paths=model.solve(params, X_test[:100]).sol(np.linspace(0.0, 1.0, 41)),
        labels=y_test[:100],
        steps=model.solve(params, X_test).steps,
    )


def _line(result: Mapping[str, Any]) -> str:
    return (
        f"{result['name']:14}  λ {result['weight']:<8g} seed {result['seed']}  NFE {result['nfe']:3d}  "
        f"accuracy {result['accuracy']:.4f}  {result['seconds']:5.1f} s"
    )
