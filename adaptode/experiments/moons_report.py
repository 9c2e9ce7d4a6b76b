"""The moons experiment on paper: findings, tables, figures, `report.md`, `result.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..solution import StepLog
from . import plots
from .report import plus_minus, table, write_result, write_text

POSTER = {  # Table 1 of the poster: NFE, test accuracy, condition number, each mean and standard deviation
    "none": ("34.98 ± 2.98", "99.75 ± 0.08", "5.31 ± 3.51"),
    "frobenius": ("14.00 ± 0.00", "88.62 ± 0.03", "27.3 ± 34.1"),
    "spectral": ("19.81 ± 5.76", "88.46 ± 0.22", "45.9 ± 70.6"),
    "condition": ("27.12 ± 1.94", "99.73 ± 0.07", "6.10 ± 5.22"),
}
NORMS = ("frobenius", "spectral")


class Picture(NamedTuple):
    """What the figures show of one trained model."""

    name: str
    nfe: int
    accuracy: float
    grid: tuple[NDArray, NDArray]
    probability: NDArray
    paths: NDArray
    labels: NDArray
    steps: StepLog


class Outcome(NamedTuple):
    """Everything the report is made of; `trained` holds each row's measurements, one entry a seed."""

    config: dict[str, Any]
    seeds: list[int]
    rows: list[dict[str, Any]]
    sweep: list[dict[str, Any]]
    trained: Mapping[str, Sequence[Mapping[str, Any]]]
    pictures: list[Picture]
    seconds: float
    command: str


class Finding(NamedTuple):
    """A claim, whether these runs bear it out, and the numbers."""

    claim: str
    holds: bool
    evidence: str


def findings(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """The poster's claims, and what the local penalties do, held against the means over seeds."""
    by_name = {row["name"]: row for row in rows}

    def mean(column: str, name: str) -> float:
        return by_name[name][column]["mean"]

    def numbers(column: str, names: Sequence[str], digits: int, scale: float = 1.0) -> str:
        return ", ".join(f"{name} {mean(column, name) * scale:.{digits}f}" for name in names)

    jacobian = (*NORMS, "condition")
    nfe, accuracy = ({name: mean(column, name) for name in by_name} for column in ("nfe", "accuracy"))
    local = ("local-unbiased", "local-biased")
    return [
        Finding(
            "All three Jacobian penalties lower the NFE",
            all(nfe[name] < nfe["none"] for name in jacobian),
            numbers("nfe", ("none", *jacobian), 1),
        ),
        Finding(
            "The condition number does so with accuracy within 0.5 points of none",
            nfe["condition"] < nfe["none"] and accuracy["condition"] >= accuracy["none"] - 0.005,
            numbers("accuracy", ("none", "condition"), 2, 100.0),
        ),
        Finding(
            "The norms lower the NFE most, and cost accuracy",
            max(nfe[name] for name in NORMS) < nfe["condition"]
            and all(accuracy[name] < accuracy["none"] - 0.005 for name in NORMS),
            numbers("nfe", jacobian, 1) + "; accuracy " + numbers("accuracy", ("none", *NORMS), 2, 100.0),
        ),
        Finding(
            "The norms leave the Jacobian worse conditioned than the condition number's penalty does",
            all(mean("condition_number", name) > mean("condition_number", "condition") for name in NORMS),
            numbers("condition_number", ("none", *jacobian), 2),
        ),
        Finding(
            "The norms increase the mean distance to the decision boundary",
            all(mean("distance", name) > mean("distance", "none") for name in NORMS),
            numbers("distance", ("none", *jacobian), 3),
        ),
        Finding(
            "Not on the poster: local error regularization lowers the NFE with accuracy within 0.5 points of none",
            all(nfe[name] < nfe["none"] and accuracy[name] >= accuracy["none"] - 0.005 for name in local),
            numbers("nfe", ("none", *local), 1) + "; accuracy " + numbers("accuracy", ("none", *local), 2, 100.0),
        ),
    ]


def short_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ours beside the poster's."""
    header = ("row", "λ", "NFE", "poster", "accuracy %", "poster", "κ(J)", "poster", "seconds")
    lines = []
    for row in rows:
        nfe, accuracy, kappa = POSTER.get(row["name"], ("", "", ""))
        ours = (
            plus_minus(row["nfe"], 1),
            plus_minus(row["accuracy"], 2, 100.0),
            plus_minus(row["condition_number"], 2),
            plus_minus(row["seconds"], 1),
        )
        lines.append((row["name"], f"{row['weight']:g}", ours[0], nfe, ours[1], accuracy, ours[2], kappa, ours[3]))
    return table(header, lines)


def write(folder: Path, outcome: Outcome) -> str:
    """Write figures, `result.json` and `report.md` into `folder`; what the terminal shows."""
    claims = findings(outcome.rows)
    images = _figures(folder, outcome)
    write_result(
        folder, outcome.config, outcome.seeds, outcome.rows, sweep=outcome.sweep, seconds=outcome.seconds,
        findings=[claim._asdict() for claim in claims], command=outcome.command,
    )  # fmt: skip
    write_text(folder / "report.md", _markdown(outcome, claims, images))
    verdicts = "\n".join(f"{'yes' if c.holds else 'NO '}  {c.claim}: {c.evidence}" for c in claims)
    where = f"{outcome.seconds:.0f} s; report, figures and result.json in {folder}"
    return f"{short_table(outcome.rows)}\n\n{verdicts}\n\n{where}"


def _figures(folder: Path, outcome: Outcome) -> dict[str, str]:
    """Every figure as a PNG: caption -> file name."""
    images = {}
    pictures = {picture.name: picture for picture in outcome.pictures}
    labels = {name: style[0] for name, style in plots.ROW_STYLE.items()}

    fig, axes = plots.figure(2, 2, (9.6, 6.6), height_ratios=(3, 2), sharey="row")
    for name, (top, bottom) in zip(("none", "condition"), axes.T, strict=True):
        picture = pictures[name]
        title = "no penalty" if name == "none" else f"penalty on the {labels[name]}"
        plots.flow(picture.grid, picture.probability, picture.paths, picture.labels, ax=top)
        top.set_title(f"{title}: accuracy {picture.accuracy:.1%}", fontweight="bold")
        steps = picture.steps
        plots.step_sizes(steps.t, steps.h, steps.accepted, t1=1.0, ax=bottom, color=plots.ROW_STYLE[name][1])
        bottom.set_title(f"{picture.nfe} evaluations of the field")
    for ax in axes[:, 1]:
        ax.set_ylabel("")
    images["Before and after: the flow that separates the moons, and the solver's steps. Dots are inputs, circles where "
           "the flow takes them; a bar is one step, as wide and high as it is long, a dashed one was rejected."] = plots.save(
        fig, folder / "before_after.png"
    )  # fmt: skip

    fig, axes = plots.figure(2, 3, (11.5, 6.6), sharex=True, sharey=True)
    for picture, ax in zip(outcome.pictures, axes.flat, strict=True):
        title = f"{labels[picture.name]}: NFE {picture.nfe}, {picture.accuracy:.1%}"
        plots.flow(picture.grid, picture.probability, picture.paths, picture.labels, ax=ax, title=title)
    images["The moons, the learned boundary and trajectories, first seed."] = plots.save(fig, folder / "flows.png")

    fig, axes = plots.figure(2, 3, (11.5, 5.2), sharex=True, sharey=True)
    for picture, ax in zip(outcome.pictures, axes.flat, strict=True):
        steps, color = picture.steps, plots.ROW_STYLE[picture.name][1]
        title = f"{labels[picture.name]}: NFE {picture.nfe}"
        plots.step_sizes(steps.t, steps.h, steps.accepted, t1=1.0, ax=ax, color=color, title=title)
        ax.label_outer()
    images["Step sizes with rejected attempts on the test set, first seed. The last step passes t = 1 and the state "
           "there is interpolated, as torchdiffeq does."] = plots.save(fig, folder / "steps.png")  # fmt: skip

    stds = np.asarray(outcome.config["noise_stds"])
    noise = {name: np.array([t["noise_accuracy"] for t in group]) for name, group in outcome.trained.items()}
    images["Test accuracy against Gaussian input noise; bands are one standard deviation over seeds."] = plots.save(
        plots.noise_curves(stds, noise).figure, folder / "noise.png"
    )
    distance = {name: np.concatenate([t["distance"] for t in group]) for name, group in outcome.trained.items()}
    images["Distance from correctly classified training points to the decision boundary, all seeds: quartiles, "
           "whiskers at 5 and 95 %, mean as a dot."] = plots.save(
        plots.distance_boxes(distance).figure, folder / "distance.png"
    )  # fmt: skip
    if outcome.sweep:
        ax = plots.sweep_curves(outcome.sweep)
        none = outcome.rows[0]
        label, color, marker = plots.ROW_STYLE["none"]
        ax.plot(none["nfe"]["mean"], none["accuracy"]["mean"], marker, color=color, ms=9, label=label)
        ax.legend()
        images["How λ moves the result: accuracy against NFE, means over seeds, smallest and largest λ at the ends."] = (
            plots.save(ax.figure, folder / "sweep.png")
        )
    return images


def _markdown(outcome: Outcome, claims: Sequence[Finding], images: Mapping[str, str]) -> str:
    config = outcome.config
    batch = config["batch_size"] or "the whole training set"
    choices = [
        ("field", f"2-{'-'.join(map(str, config['hidden']))}-2 MLP, {config['activation']}, no time input, no augmentation; t from 0 to 1; Glorot uniform"),
        ("classifier", "linear, one logit, binary cross-entropy"),
        ("solver", f"{config['method']}, controller {config['controller']}, rtol = atol = {config['tolerance']:g}; the batch is stepped jointly"),
        ("NFE", "of one solve of the test set: 2 for the start and the first step, then 6 a step, rejected steps too"),
        ("Jacobian", "∂f/∂h at (h(t₀), t₀) of each sample; penalty and κ are means over samples, not squared"),
        ("local error", "scaled error of one step, times h, at a random t (unbiased) or accepted step (biased), with the solver's own step size"),
        ("λ", ", ".join(f"{name} {weight:g}" for name, weight in config["weights"].items() if weight)),
        ("training", f"Adam, learning rate {config['learning_rate']:g}, {config['epochs']} epochs, batch: {batch}"),
        ("data", f"two moons, noise {config['noise']:g}, {config['n_train']} training and {config['n_test']} test points, drawn anew for each seed"),
        ("seeds", f"{len(outcome.seeds)}; ± is the sample standard deviation; a seed sets data, initial parameters and sampling"),
        ("distance", f"spheres of radius {config['radius_step']:g}, {2 * config['radius_step']:g} … {config['radius_limit']:g}, {config['sphere_points']} points each"),
    ]  # fmt: skip
    parts = [
        "# Two moons: Jacobian and local regularization of a neural ODE",
        "The experiment of Josias and Brink, *Jacobian norm regularisation and conditioning in neural ODEs* (CCIS 1734, 2022, "
        "doi 10.1007/978-3-031-22321-1_3), whose Table 1 stands beside our numbers. The two local rows are the method of Pal, "
        "Edelman and Rackauckas (PMLR 202, 2023) on the same task.",
        f"Made by `{outcome.command}` in {outcome.seconds:.0f} s; every number is in `result.json`.",
        "## Result",
        short_table(outcome.rows),
        "κ(J) is the mean over training points after the last epoch. A few points where det J is near zero carry it; the medians are "
        + ", ".join(f"{row['name']} {row['condition_number_median']['mean']:.2f}" for row in outcome.rows) + ".",
        "## What it shows",
        "\n".join(f"- **{'Yes' if c.holds else 'No'}.** {c.claim}: {c.evidence}." for c in claims),
        _disagreement(claims),
        "## What the poster leaves unsaid and we chose",
        "\n".join(f"- {name}: {choice}" for name, choice in choices),
    ]  # fmt: skip
    if outcome.sweep:
        header = ("row", "λ", "NFE", "accuracy %", "κ(J)")
        lines = [
            (r["name"], f"{r['weight']:g}", plus_minus(r["nfe"], 1), plus_minus(r["accuracy"], 2, 100.0),
             plus_minus(r["condition_number"], 2))
            for r in outcome.sweep
        ]  # fmt: skip
        parts += ["## How λ moves the result", table(header, lines)]
    else:
        parts.append("Run with `--sweep` to see how each λ moves the result.")
    parts.append("## Figures")
    parts += [f"![{caption}]({name})\n\n*{caption}*" for caption, name in images.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _disagreement(claims: Sequence[Finding]) -> str:
    failed = [claim.claim for claim in claims if not claim.holds]
    if not failed:
        return ""
    return "These runs do not bear out: " + "; ".join(failed) + ". The numbers above are the evidence."
