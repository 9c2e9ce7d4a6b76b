"""Finding D: local against global regularization, as estimators and in training at equal cost.

As estimators, on nets trained without a penalty (one a seed), one batch: the local penalty at many times against the global one, the mean of q |h| over the
accepted steps. `value`: E[r] over the global value, and over the time average of q |h| along the accepted steps; `cv`: std(r)/E[r] of a single draw; `cosine`,
`norm`: the mean gradient against the global one; `noise`: sqrt(E|g − E g|²)/|E g| of a single draw.

In training, every row may spend the same number of evaluations of the field and its transpose, forwards and backwards, penalties included, and stops when they
are spent. λ grows from 0 over the first steps, the learning rate is constant. The same λ means the same size of penalty for all, as GlobalError(reduce="mean").
Rows are compared seed by seed with Student's paired test (`adaptode.experiments.verdict`).

`python -m bench.finding_d` writes runs/finding_d/.
"""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import numpy as np

import adaptode as ao
from adaptode.datasets import load_digits, make_moons, stratified_split
from adaptode.experiments import plots
from adaptode.experiments.report import table
from adaptode.experiments.verdict import UNDECIDED, decide
from adaptode.plotting import PALETTE

from .finding import Rows, column, command_line, groups

DETACHED = ("state", "step", "k1")
ROWS = {  # name -> what a penalty of weight λ is
    "none": lambda weight: [],
    "local, unbiased": lambda weight: [ao.LocalError(weight)],
    "local, biased": lambda weight: [ao.LocalError(weight, sampling="biased")],
    "local, k₁ frozen": lambda weight: [ao.LocalError(weight, detach=DETACHED)],
    "global": lambda weight: [ao.GlobalError(weight, reduce="mean")],
}
DRAWN = {  # name -> the estimators compared with the global one
    "unbiased": ao.LocalError(1.0),
    "unbiased, through u(t)": ao.LocalError(1.0, detach=()),
    "unbiased, k₁ frozen": ao.LocalError(1.0, detach=DETACHED),
    "unbiased, 4 times": ao.LocalError(1.0, samples=4),
    "biased": ao.LocalError(1.0, sampling="biased"),
}


class Data(NamedTuple):
    """A task: how to get it, its net, tolerance, training."""

    sizes: tuple[int, ...]
    outputs: int
    loss: str
    tolerance: float
    rate: float
    budget: int  # evaluations a training
    weights: tuple[float, float, float]


TASKS = {
    "moons": Data((2, 64, 2), 1, "binary_cross_entropy", 1e-4, 0.02, 60_000, (0.2, 0.6, 2.0)),
    "digits": Data((64, 32, 64), 10, "cross_entropy", 1e-6, 0.005, 40_000, (2.0, 8.0, 30.0)),
}
BATCH = 50


def load(name: str, seed: int) -> tuple[np.ndarray, ...]:
    """(X, y, X_test, y_test) of a seed."""
    if name == "digits":
        return stratified_split(*load_digits(), test_size=0.3, rng=seed)
    X, y = make_moons(1500, noise=0.1, rng=np.random.default_rng([seed, 0]))
    return X[:500], y[:500], X[500:], y[500:]


def objective(task: Data, penalties: Any) -> ao.Objective:
    head = ao.LinearHead(task.sizes[0], task.outputs)
    return ao.Objective(ao.MLP(task.sizes), task.loss, head=head, method="Tsit5", rtol=task.tolerance, atol=task.tolerance, penalties=penalties)


def train(name: str, row: str, weight: float, seed: int, budget: int) -> tuple[dict[str, Any], np.ndarray]:
    """One training within the budget, and its parameters."""
    task = TASKS[name]
    X, y, X_test, y_test = load(name, seed)
    model = objective(task, ROWS[row](ao.schedules.Linear(0.0, weight, max(1, budget // 400))))
    spent = 0

    def enough(info: Any) -> bool:
        nonlocal spent
        spent += info.evaluation.nfe_forward + info.evaluation.nfe_backward
        return spent >= budget

    start = model.init(np.random.default_rng([seed, 1]))
    began = time.perf_counter()
    fitted = ao.fit(model, X, y, params=start, optimizer=ao.Adam(task.rate), steps=budget, batch_size=BATCH, rng=seed, callback=enough)
    seconds = time.perf_counter() - began
    run = model.solve(fitted.params, X_test)
    output = model.output(fitted.params, run)
    said = (output.ravel() > 0).astype(int) if task.outputs == 1 else output.argmax(axis=1)
    found = {"nfe": run.nfev, "accuracy": float(np.mean(said == y_test)), "steps": len(fitted.history), "spent": spent, "seconds": seconds}
    return {"kind": "training", "data": name, "row": row, "weight": weight, "seed": seed, **found}, fitted.params


def estimators(name: str, params: np.ndarray, seed: int, draws: int) -> Rows:
    """The local penalty's draws against the global penalty, on one batch of one trained net."""
    model = objective(TASKS[name], ())
    run = model.solve(params, load(name, seed)[0][:BATCH])
    q, h = run.accepted("error"), np.abs(np.diff(run.grid))
    whole = ao.GlobalError(1.0, reduce="mean").evaluate(run, 0.5)
    reference = ao.adjoint.discrete(run, error_bar=whole.pull(1.0).error, ends=False).theta
    rows: Rows = []
    for which, penalty in DRAWN.items():
        values, gradients = [], []
        for variate in (np.arange(draws) + np.random.default_rng(seed).random(draws)) / draws:
            term = penalty.evaluate(run, float(variate))
            pulled = term.pull(1.0)
            through = ao.adjoint.discrete(run, jumps=pulled.jumps, ends=False).theta if pulled.jumps else 0.0
            values.append(term.value)
            gradients.append(pulled.theta + through)
        g = np.array(gradients)
        mean, noise = g.mean(axis=0), np.sqrt(np.mean(np.sum((g - g.mean(axis=0)) ** 2, axis=1)))
        size, whole_size = np.linalg.norm(mean), np.linalg.norm(reference)
        row: dict[str, Any] = {"kind": "estimator", "data": name, "row": which, "seed": seed, "value": float(np.mean(values) / whole.value)}
        row |= {"time": float(np.mean(values) / (np.sum(q * h * h) / np.sum(h))), "cv": float(np.std(values) / np.mean(values))}
        rows.append({**row, "cosine": float(mean @ reference / (size * whole_size)), "norm": float(size / whole_size), "noise": float(noise / size)})
    return rows


def measure(quick: bool = False, seeds: int | None = None) -> Rows:
    rows: Rows = []
    for name, task in TASKS.items():
        budget, draws = (2_000, 16) if quick else (task.budget, 128)
        local, middle = task.weights, task.weights[1:2]
        plan = {"none": (0.0,), "local, unbiased": middle, "global": middle}
        if not quick:  # a frozen k₁ makes the gradient larger: it gets a smaller λ too
            plan = {"none": (0.0,), "local, unbiased": local, "local, biased": middle, "local, k₁ frozen": (local[0] / 10, *local[:2]), "global": local}
        for seed in range(seeds or (2 if quick else 5)):
            for row, weight in ((row, weight) for row, weights in plan.items() for weight in weights):
                trained, params = train(name, row, weight, seed, budget)
                rows.append(trained)
                if row == "none":
                    rows += estimators(name, params, seed, draws)
                if not quick:
                    print(
                        f"{name} seed {seed} {row} {weight:g}: NFE {trained['nfe']}, accuracy {trained['accuracy']:.4f}, {trained['seconds']:.1f} s",
                        file=sys.stderr,
                    )
    return rows


def plus(values: np.ndarray, form: str) -> str:
    return f"{np.mean(values):{form}} ± {np.std(values, ddof=1):{form}}"


def paired(low: np.ndarray, high: np.ndarray, form: str) -> str:
    """Mean difference with its standard error, and which sign Student's paired test says it has."""
    difference = high - low
    verdict = {"yes": "above", "no": "below"}.get(decide(difference), UNDECIDED)
    if not difference.any():
        return "0, all alike"
    return f"{difference.mean():+{form}} ± {difference.std(ddof=1) / np.sqrt(difference.size):{form}}, {verdict}"


def report(rows: Rows) -> str:
    parts = ["# Local against global", "## As estimators of the global penalty", "Means ± standard deviations over the nets, one a seed."]
    header = ("data", "estimator", "value / global", "value / time mean", "cv of a draw", "cosine of mean gradient", "norm of mean gradient", "noise of a draw")
    lines = []
    for (name, row), own in groups([r for r in rows if r["kind"] == "estimator"], "data", "row").items():
        lines.append(
            (name, row, *(plus(column(own, key), form) for key, form in zip(("value", "time", "cv", "cosine", "norm", "noise"), [".2f"] * 6, strict=True)))
        )
    parts += [table(header, lines), "## In training, at equal cost", "Paired differences with their standard errors, seed by seed; test at one side and 10 %."]
    header = (
        "data",
        "row",
        "λ",
        "steps",
        "NFE",
        "accuracy %",
        "NFE − none",
        "accuracy − none, points",
        "NFE − local unbiased",
        "accuracy − local unbiased, points",
    )
    lines = []
    training = groups([r for r in rows if r["kind"] == "training"], "data", "row", "weight")
    for (name, row, weight), own in training.items():
        cells = [f"{weight:g}", f"{np.mean(column(own, 'steps')):.0f}", plus(column(own, "nfe"), ".1f"), plus(100 * column(own, "accuracy"), ".2f")]
        for other in (training[name, "none", 0.0], training.get((name, "local, unbiased", weight))):
            if other is None or other is own or row == "none":
                cells += ["", ""]
                continue
            cells += [paired(column(other, "nfe"), column(own, "nfe"), ".1f"), paired(100 * column(other, "accuracy"), 100 * column(own, "accuracy"), ".2f")]
        lines.append((name, row, *cells))
    return "\n\n".join([*parts, table(header, lines)])


def draw(rows: Rows) -> Any:
    """Accuracy against NFE, a dot a seed and a line through the means over λ; a panel a data set."""
    names = list(groups(rows, "data"))
    fig, axes = plots.figure(1, len(names), (4.9 * len(names), 3.9), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for color, marker, row in zip((PALETTE[-1], *PALETTE), "osPXD", ROWS, strict=False):
            own = [r for r in rows if r["kind"] == "training" and r["data"] == name and r["row"] == row]
            if not own:
                continue
            by_weight = groups(sorted(own, key=lambda r: r["weight"]), "weight")
            ax.plot(column(own, "nfe"), 100 * column(own, "accuracy"), marker=marker, ls="", ms=3.5, color=color, alpha=0.35, mew=0)
            middle = [(np.mean(column(part, "nfe")), 100 * np.mean(column(part, "accuracy"))) for part in by_weight.values()]
            ax.plot(*zip(*middle, strict=True), marker=marker, ms=8, lw=1.4, color=color, label=row, mec="white")
        ax.set(xlabel="NFE of the test set", ylabel="test accuracy %", title=f"{name}, equal evaluations in training")
    axes[0][0].legend(frameon=False, fontsize=8)
    return fig


MORE = {"seeds": {"type": int, "default": None, "help": "how many (default 5)"}}


def main() -> int:
    return command_line("finding_d", __doc__, measure, report, draw, MORE)


if __name__ == "__main__":
    sys.exit(main())
