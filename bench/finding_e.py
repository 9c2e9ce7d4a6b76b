"""Finding E: what the condition number does to NFE and accuracy beyond two dimensions.

Two moons padded with zeros, d = 2 + k, and scikit-learn's digits, d = 64, in a net wide enough for J = ∂f/∂y to have full rank. One penalty a row, all on J at
(t₀, y₀); λ grows from 0 over the first part of the training. Measured on the trained net: NFE of one solve of the test set at the training's tolerance and at
1e-6, test accuracy, and over training samples the medians of κ = σ₁/σ_d, σ₁, σ_d and ‖J‖_F.

    padded    Σ_i>2 v_i² of the right singular vector of σ_d: how much of the direction that J nearly annihilates lies in the padding; (d − 2)/d at random
    block     κ of the 2 × 2 block of J in the data's own coordinates
    claim     "less NFE than none, accuracy within 0.5 points of none", both parts by Student's paired test (`adaptode.experiments.verdict`)

`python -m bench.finding_e` writes runs/finding_e/.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import adaptode as ao
from adaptode.datasets import load_digits, make_moons, stratified_split
from adaptode.experiments import plots
from adaptode.experiments.moons_report import MARGIN
from adaptode.experiments.report import table
from adaptode.experiments.verdict import YES, Part, all_of, decide
from adaptode.plotting import PALETTE

from .finding import Rows, column, command_line, groups
from .finding_d import paired, plus

FLOOR = 0.01  # δ of κ, as for the two moons; log κ has the library's own, 1e-4
TIGHT = 1e-6
ROWS: dict[str, Callable[[Any], list[ao.Penalty]]] = {
    "none": lambda weight: [],
    "κ": lambda weight: [ao.ConditionNumber(weight, floor=FLOOR)],
    "κ, δ = 1e-4": lambda weight: [ao.ConditionNumber(weight)],
    "log κ": lambda weight: [ao.ConditionNumber(weight, log=True)],
    "‖J‖_F": lambda weight: [ao.JacobianNorm("frobenius", weight)],
    "‖J‖₂": lambda weight: [ao.JacobianNorm("spectral", weight)],
    "local error": lambda weight: [ao.LocalError(weight)],
}


class Task(NamedTuple):
    """Data padded to d dimensions, the net's hidden width, the training, and the λ of every row."""

    data: str
    d: int
    hidden: int
    steps: int
    rate: float
    weights: dict[str, tuple[float, ...]]


MOONS = {"none": (0.0,), "κ": (0.002, 0.01, 0.05), "log κ": (0.1,), "‖J‖_F": (0.03,), "‖J‖₂": (0.03,), "local error": (0.05,)}
DIGITS = {"none": (0.0,), "κ": (0.002, 0.01, 0.05), "log κ": (0.5,), "‖J‖_F": (0.01, 0.1), "‖J‖₂": (0.1,), "local error": (10.0,)}
LOW: dict[str, tuple[float, ...]] = {"κ, δ = 1e-4": (0.01,)}  # where κ without a penalty is above 1/FLOOR
TASKS = {  # without a penalty every seed separates the moons; after 800 steps in the plane, or 400 at d = 16, one of five does not
    "moons, d = 2": Task("moons", 2, 64, 1200, 0.02, MOONS),
    "moons, d = 4": Task("moons", 4, 64, 600, 0.02, MOONS),
    "moons, d = 8": Task("moons", 8, 64, 600, 0.02, MOONS),
    "moons, d = 16": Task("moons", 16, 64, 600, 0.02, MOONS | LOW),
    "digits, d = 64": Task("digits", 64, 128, 250, 0.01, DIGITS | LOW),
}
BATCH, TOLERANCE, RAMP, LOOK = 50, 1e-3, 0.5, 200


def load(task: Task, seed: int) -> tuple[np.ndarray, ...]:
    """(X, y, X_test, y_test) of a seed."""
    if task.data == "digits":
        return stratified_split(*load_digits(), test_size=0.5, rng=seed)
    X, y = make_moons(1500, noise=0.1, rng=np.random.default_rng([seed, 0]))
    X = ao.augment(X, task.d - 2)
    return X[:500], y[:500], X[500:], y[500:]


def objective(task: Task, tolerance: float, penalties: Any = ()) -> ao.Objective:
    loss, outputs = ("binary_cross_entropy", 1) if task.data == "moons" else ("cross_entropy", 10)
    options = {"head": ao.LinearHead(task.d, outputs), "method": "Dopri5_Shampine", "controller": "torchdiffeq", "rtol": tolerance, "atol": tolerance}
    return ao.Objective(ao.MLP((task.d, task.hidden, task.d)), loss, penalties=penalties, **options)


def spectrum(J: np.ndarray) -> dict[str, float]:
    """Medians over the samples of J (B, d, d); `padded` and `block` are for two coordinates of data before d − 2 of padding."""
    _, s, Vt = np.linalg.svd(J)
    found = {"kappa": s[:, 0] / s[:, -1], "largest": s[:, 0], "smallest": s[:, -1], "frobenius": np.sqrt(np.sum(s * s, axis=1))}
    found |= {"padded": np.sum(Vt[:, -1, 2:] ** 2, axis=1), "block": np.linalg.cond(J[:, :2, :2])}
    return {name: float(np.median(values)) for name, values in found.items()}


def train(name: str, row: str, weight: float, seed: int, steps: int) -> dict[str, Any]:
    """One training, and what is measured of it."""
    task = TASKS[name]
    X, y, X_test, y_test = load(task, seed)
    growing = ao.schedules.Linear(0.0, weight, max(1, round(RAMP * steps)))
    model = objective(task, TOLERANCE, ROWS[row](growing))
    start = model.init(np.random.default_rng([seed, 1]))
    began = time.perf_counter()
    optimizer = ao.Adam(ao.schedules.Cosine(task.rate, 0.0, steps))
    params = ao.fit(model, X, y, params=start, optimizer=optimizer, steps=steps, batch_size=BATCH, rng=np.random.default_rng([seed, 2])).params
    seconds = time.perf_counter() - began
    run = model.solve(params, X_test)
    output = model.output(params, run)
    said = (output.ravel() > 0).astype(int) if task.data == "moons" else output.argmax(axis=1)
    found = {"nfe": run.nfev, "nfe_tight": objective(task, TIGHT).solve(params, X_test).nfev, "accuracy": float(np.mean(said == y_test))}
    theta, first = params[: model.field.n_params], start[: model.field.n_params]
    found |= spectrum(model.field.jacobian(0.0, X[:LOOK], theta))
    found["kappa at the start"] = spectrum(model.field.jacobian(0.0, X[:LOOK], first))["kappa"]
    return {"data": name, "d": task.d, "row": row, "weight": weight, "seed": seed, **found, "seconds": seconds}


def measure(quick: bool = False, seeds: int | None = None) -> Rows:
    rows: Rows = []
    for name, task in TASKS.items():
        if quick and task.d not in (4, 64):
            continue
        plan = {"none": (0.0,), "κ": task.weights["κ"][1:2]} if quick else task.weights
        for seed in range(seeds or (2 if quick else 3)):
            for row, weight in ((row, weight) for row, weights in plan.items() for weight in weights):
                rows.append(train(name, row, weight, seed, 40 if quick else task.steps))
                if not quick:
                    said = "NFE {nfe} and {nfe_tight}, accuracy {accuracy:.4f}, κ {kappa:.1f}, {seconds:.1f} s".format(**rows[-1])
                    print(f"{name} seed {seed} {row} {weight:g}: {said}", file=sys.stderr)
    return rows


def claim(none: Rows, own: Rows, nfe: str) -> str:
    """The verdict on "fewer evaluations than none, and an accuracy within MARGIN of it"."""
    fewer = decide(column(none, nfe) - column(own, nfe))
    as_good = decide(column(own, "accuracy") - column(none, "accuracy") + MARGIN, strict=False)
    return all_of([Part("", fewer), Part("", as_good)])


def middle(values: np.ndarray) -> str:
    """Geometric mean over the seeds, to three digits."""
    mean = float(np.exp(np.mean(np.log(values))))
    return f"{mean:.0f}" if mean >= 100 else f"{mean:.3g}"


def report(rows: Rows) -> str:
    header = (
        "data",
        "row",
        "λ",
        "NFE",
        "NFE at 1e-6",
        "accuracy %",
        "κ(J)",
        "σ₁",
        "σ_d",
        "‖J‖_F",
        *(f"{what} − none" for what in ("NFE", "NFE at 1e-6", "accuracy")),
        "claim",
        "claim at 1e-6",
    )
    lines, inside = [], []
    by_row = groups(rows, "data", "row", "weight")
    for (name, row, weight), own in by_row.items():
        none = by_row[name, "none", 0.0]
        cells = [plus(column(own, "nfe"), ".1f"), plus(column(own, "nfe_tight"), ".1f"), plus(100 * column(own, "accuracy"), ".2f")]
        cells += [middle(column(own, key)) for key in ("kappa", "largest", "smallest", "frobenius")]
        if own is none:
            cells += [""] * 5
        else:
            cells += [paired(column(none, key), column(own, key), ".1f") for key in ("nfe", "nfe_tight")]
            cells += [paired(100 * column(none, "accuracy"), 100 * column(own, "accuracy"), ".2f"), *(claim(none, own, key) for key in ("nfe", "nfe_tight"))]
        lines.append((name, row, f"{weight:g}", *cells))
        if name.startswith("moons") and (row == "none" or "κ" in row):
            cells = [middle(column(own, "kappa at the start")), middle(column(own, "kappa")), middle(column(own, "block"))]
            d = own[0]["d"]
            inside.append((name, row, f"{weight:g}", *cells, f"{np.mean(column(own, 'padded')):.2f}" if d > 2 else "", f"{(d - 2) / d:.2f}" if d > 2 else ""))
    holds = [f"{name}, {row} {weight}" for name, row, weight, *_, last in lines if last == YES]
    parts = [
        "# The condition number beyond two dimensions",
        "NFE and accuracy: means ± standard deviations over the seeds. κ, σ₁, σ_d, ‖J‖_F: geometric means of each seed's median over training samples. Claim: "
        f"fewer evaluations than none, accuracy within {100 * MARGIN:g} points; paired tests at one side and 10 %, one for each cell and none corrected for "
        "how many there are.",
        table(header, lines),
        "The claim holds at 1e-6 for: " + ("; ".join(holds) or "none") + ".",
        "## Inside the padded moons",
        "κ before the training and after; κ of the block of the data's own coordinates; the padding's share in the direction of σ_d, and in a random one.",
        table(("data", "row", "λ", "κ at the start", "κ", "κ of the block", "padded", "at random"), inside),
    ]
    return "\n\n".join(parts)


def draw(rows: Rows) -> Any:
    """Accuracy against NFE at 1e-6, a panel a data set: means over the seeds with their standard errors, a line through the λ of a row."""
    names = list(groups(rows, "data"))
    across = min(3, len(names))
    down = -(-len(names) // across)
    fig, axes = plots.figure(down, across, (3.9 * across, 3.3 * down), squeeze=False)
    handles: dict[str, Any] = {}
    for ax, name in zip(axes.flat, names, strict=False):
        for color, marker, row in zip((PALETTE[-1], *PALETTE), "o^v<sDh", ROWS, strict=False):
            own = [r for r in rows if r["data"] == name and r["row"] == row]
            if not own:
                continue
            by_weight = groups(sorted(own, key=lambda r: r["weight"]), "weight")
            points = [np.stack([column(part, "nfe_tight"), 100 * column(part, "accuracy")]) for part in by_weight.values()]
            means = np.array([p.mean(axis=1) for p in points])
            for p, mean in zip(points, means, strict=True):
                error = p.std(axis=1, ddof=1) / np.sqrt(p.shape[1])
                ax.errorbar(*mean, xerr=error[0], yerr=error[1], color=color, elinewidth=0.8, alpha=0.5)
            (handles[row],) = ax.plot(*means.T, color=color, marker=marker, ms=7.5, lw=1.3, mec="white", zorder=3)
            if row == "κ":  # where along the line λ grows
                ax.annotate(f"λ = {max(by_weight):g}", means[-1], xytext=(-4, -16), textcoords="offset points", ha="right", fontsize=8, color=color, zorder=4)
        low, high = ax.get_ylim()
        ax.set(title=name, ylim=(min(low, high - 1.0), high))  # at least one point of accuracy
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy %")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax in axes.flat[max(0, len(names) - across) : len(names)]:
        ax.set_xlabel("NFE of the test set at 1e-6")
    apart = len(names) < axes.size
    handles = {row: handles[row] for row in ROWS if row in handles}
    axes.flat[len(names) if apart else 0].legend(handles.values(), handles, frameon=False, fontsize=9, loc="center" if apart else "best")
    return fig


MORE = {"seeds": {"type": int, "default": None, "help": "how many (default 3)"}}


def main() -> int:
    return command_line("finding_e", __doc__, measure, report, draw, MORE)


if __name__ == "__main__":
    sys.exit(main())
