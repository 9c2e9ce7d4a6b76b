"""The moons experiment on paper: findings, tables, figures, `report.md`, `result.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..solution import StepLog
from . import plots
from .report import plus_minus, table, write_result, write_text
from .verdict import NO, RULE, UNDECIDED, YES, Part, all_of, compare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSTER = {  # Table 1 of the poster: NFE, test accuracy, condition number, each mean and standard deviation
    "none": ("34.98 ± 2.98", "99.75 ± 0.08", "5.31 ± 3.51"),
    "frobenius": ("14.00 ± 0.00", "88.62 ± 0.03", "27.3 ± 34.1"),
    "spectral": ("19.81 ± 5.76", "88.46 ± 0.22", "45.9 ± 70.6"),
    "condition": ("27.12 ± 1.94", "99.73 ± 0.07", "6.10 ± 5.22"),
}
NORMS = ("frobenius", "spectral")
MARGIN = 0.005  # of accuracy: "within 0.5 points"
VERDICTS = {YES: "Yes", NO: "No", UNDECIDED: "Not decided by these seeds"}


class Picture(NamedTuple):
    """What the figures show of one trained model."""

    name: str
    seed: int
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
    """A claim, whether these runs bear it out ("yes", "no", "undecided"; see `verdict.decide`), and the numbers."""

    claim: str
    verdict: str
    evidence: str


def findings(rows: Sequence[Mapping[str, Any]], sweep: Sequence[Mapping[str, Any]] = ()) -> list[Finding]:
    """The poster's claims, and what the local penalties do, held against the runs seed by seed."""
    by_name = {row["name"]: row for row in rows}
    none, condition = by_name["none"], by_name["condition"]
    norms, local = [by_name[name] for name in NORMS], [by_name[name] for name in ("local-unbiased", "local-biased")]

    def numbers(column: str, some: Sequence[Mapping[str, Any]], digits: int, scale: float = 1.0) -> str:
        return ", ".join(f"{row['name']} {row[column]['mean'] * scale:.{digits}f}" for row in some)

    def finding(claim: str, evidence: str, parts: Sequence[Part]) -> Finding:
        verdict = all_of(parts)
        if verdict == UNDECIDED:
            open_parts = "; ".join(part.text for part in parts if part.verdict == UNDECIDED)
            evidence += f" (undecided: {open_parts})"
        return Finding(claim, verdict, evidence)

    def lower(column: str, some: Sequence[Mapping[str, Any]], than: Mapping[str, Any], slack: float = 0.0) -> list[Part]:
        return [compare(column, row, than, slack=slack) for row in some]

    def as_accurate(some: Sequence[Mapping[str, Any]]) -> list[Part]:
        return [compare("accuracy", none, row, slack=MARGIN, strict=False) for row in some]

    jacobian = [*norms, condition]
    found = [
        finding("All three Jacobian penalties lower the NFE", numbers("nfe", [none, *jacobian], 1), lower("nfe", jacobian, none)),
        finding(
            "The condition number does so with accuracy within 0.5 points of none",
            numbers("accuracy", [none, condition], 2, 100.0),
            lower("nfe", [condition], none) + as_accurate([condition]),
        ),
        finding(
            "The norms lower the NFE most, and cost accuracy",
            numbers("nfe", jacobian, 1) + "; accuracy " + numbers("accuracy", [none, *norms], 2, 100.0),
            lower("nfe", norms, condition) + lower("accuracy", norms, none, slack=-MARGIN),
        ),
        finding(
            "The norms leave the Jacobian worse conditioned than the condition number's penalty does",
            numbers("condition_number", [none, *jacobian], 2),
            [compare("condition_number", condition, row) for row in norms],
        ),
        finding(
            "The norms increase the mean distance to the decision boundary",
            numbers("distance", [none, *jacobian], 3),
            [compare("distance", none, row) for row in norms],
        ),
        finding(
            "Not on the poster: local error regularization lowers the NFE with accuracy within 0.5 points of none",
            numbers("nfe", [none, *local], 1) + "; accuracy " + numbers("accuracy", [none, *local], 2, 100.0),
            lower("nfe", local, none) + as_accurate(local),
        ),
    ]
    points = [point for point in (*rows, *sweep) if point["name"] in NORMS]
    if len(points) > len(NORMS):
        free = [(point, all_of([compare("nfe", point, condition, strict=False), *as_accurate([point])])) for point in points]
        shown = YES if any(verdict == YES for _, verdict in free) else UNDECIDED
        against = [point for point, verdict in free if verdict == shown]
        verdict = {YES: NO, UNDECIDED: UNDECIDED if against else YES}[shown]
        evidence = "; ".join(
            f"{point['name']} at λ = {point['weight']:g}: NFE {point['nfe']['mean']:.1f}, accuracy {point['accuracy']['mean'] * 100.0:.2f}" for point in against
        )
        claim = "Only the condition number comes without a cost in accuracy: no λ of the norms lowers the NFE as far"
        found.insert(3, Finding(claim, verdict, evidence or "none of the λ tried"))
    return found


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
    claims = findings(outcome.rows, outcome.sweep)
    images = _figures(folder, outcome)
    write_result(
        folder, outcome.config, outcome.seeds, outcome.rows, sweep=outcome.sweep, seconds=outcome.seconds,
        findings=[claim._asdict() for claim in claims], command=outcome.command,
    )  # fmt: skip
    write_text(folder / "report.md", _markdown(outcome, claims, images))
    words = {YES: "yes", NO: "NO", UNDECIDED: "undecided"}
    verdicts = "\n".join(f"{words[c.verdict]:9}  {c.claim}: {c.evidence}" for c in claims)
    where = f"{outcome.seconds:.0f} s; report, figures and result.json in {folder}"
    return f"{short_table(outcome.rows)}\n\n{verdicts}\n\n{where}"


def before_after(pictures: Sequence[Picture]) -> tuple[Figure, str]:
    """Some rows side by side, the flow above the solver's steps, and the caption."""
    fig, axes = plots.figure(2, len(pictures), (11.0, 6.2), height_ratios=(3, 2), sharey="row")
    for picture, (top, bottom) in zip(pictures, axes.T, strict=True):
        label, color, _ = plots.ROW_STYLE[picture.name]
        plots.flow(picture.grid, picture.probability, picture.paths, picture.labels, ax=top)
        top.set_title(f"{'no penalty' if picture.name == 'none' else label}: {picture.accuracy:.1%} right", fontweight="bold")
        plots.step_sizes(picture.steps.t, picture.steps.h, picture.steps.accepted, t1=1.0, ax=bottom, color=color)
        bottom.set_title(f"{len(picture.steps)} steps, {picture.nfe} evaluations")
        bottom.label_outer()
    return fig, (
        "Before and after regularization: the flow that separates the moons, from dot to circle, and the solver's steps on the test set, each a bar as high "
        f"as the step is long; the last is cut off at t = 1. Of each row the seed nearest to its median NFE: {_seeds(pictures)}. {_outside(pictures)}"
    )


def _figures(folder: Path, outcome: Outcome) -> dict[str, str]:
    """Every figure as a PNG: caption -> file name."""
    images: dict[str, str] = {}

    def save(caption: str, name: str, fig: Figure) -> None:
        images[caption] = plots.save(fig, folder / name)

    pictures = {picture.name: picture for picture in outcome.pictures}
    labels = {name: style[0] for name, style in plots.ROW_STYLE.items()}

    fig, caption = before_after([pictures[name] for name in ("none", "condition", "local-biased")])
    save(caption, "before_after.png", fig)

    fig, axes = plots.figure(2, 3, (11.5, 6.6), sharex=True, sharey=True)
    for picture, ax in zip(outcome.pictures, axes.flat, strict=True):
        title = f"{labels[picture.name]}: NFE {picture.nfe}, {picture.accuracy:.1%}"
        plots.flow(picture.grid, picture.probability, picture.paths, picture.labels, ax=ax, title=title)
    save(
        "The moons, the learned boundary and trajectories, from dot to circle. "
        f"Of each row the seed nearest to its median NFE: {_seeds(outcome.pictures)}. {_outside(outcome.pictures)}",
        "flows.png",
        fig,
    )

    fig, axes = plots.figure(2, 3, (11.5, 5.2), sharex=True, sharey=True)
    for picture, ax in zip(outcome.pictures, axes.flat, strict=True):
        steps, color = picture.steps, plots.ROW_STYLE[picture.name][1]
        title = f"{labels[picture.name]}: {len(steps)} steps, NFE {picture.nfe}"
        plots.step_sizes(steps.t, steps.h, steps.accepted, t1=1.0, ax=ax, color=color, title=title)
        ax.label_outer()
    rejected = sum(int(np.sum(~picture.steps.accepted)) for picture in outcome.pictures)
    save(
        f"Step sizes on the test set, of the same seeds; rejected attempts, {rejected or 'none'} here, are dashed. The last "
        "step passes t = 1, where its bar is cut off, and the state there is interpolated, as torchdiffeq does.",
        "steps.png",
        fig,
    )

    stds = np.asarray(outcome.config["noise_stds"])
    noise = {name: np.array([t["noise_accuracy"] for t in group]) for name, group in outcome.trained.items()}
    save(
        "Test accuracy against Gaussian input noise; bands are one standard deviation over seeds.",
        "noise.png",
        plots.noise_curves(stds, noise).figure,
    )
    distance = {name: np.concatenate([t["distance"] for t in group]) for name, group in outcome.trained.items()}
    save(
        "Distance from correctly classified training points to the decision boundary, all seeds: quartiles, whiskers at 5 and 95 %, mean as a dot.",
        "distance.png",
        plots.distance_boxes(distance).figure,
    )
    if {point["name"] for point in outcome.sweep} > set(NORMS):
        ax = plots.sweep_curves(outcome.sweep)
        none, (label, color, marker) = outcome.rows[0], plots.ROW_STYLE["none"]
        ax.plot(none["nfe"]["mean"], none["accuracy"]["mean"], marker, color=color, ms=9, label=label)
        ax.legend(frameon=False)
        save(
            "How λ moves the result: accuracy against NFE, means over seeds; the largest λ of each penalty is written.",
            "sweep.png",
            ax.figure,
        )
    return images


def _seeds(pictures: Sequence[Picture]) -> str:
    return ", ".join(f"{picture.name} seed {picture.seed}" for picture in pictures)


def _outside(pictures: Sequence[Picture]) -> str:
    """How many circles the reader looks for in vain."""
    counts = []
    for picture in pictures:
        lowest, highest = ([axis[i] for axis in picture.grid] for i in (0, -1))
        ends = picture.paths[-1]
        counts.append(int(((ends < lowest) | (ends > highest)).any(axis=1).sum()))
    if not any(counts):
        return "All circles lie in the frame."
    each = ", ".join(f"{picture.name} {count}" for picture, count in zip(pictures, counts, strict=True))
    return f"The frame is made for the dots; of {pictures[0].paths.shape[1]} circles a row these lie outside it: {each}."


def _markdown(outcome: Outcome, claims: Sequence[Finding], images: Mapping[str, str]) -> str:
    config = outcome.config
    tight = config["tight_tolerance"]
    hidden, weights = "-".join(map(str, config["hidden"])), config["weights"]
    radii = f"{config['radius_step']:g}, {2 * config['radius_step']:g} … {config['radius_limit']:g}"
    choices = {
        "field": f"2-{hidden}-2 MLP, {config['activation']}, no time input, no augmentation; t from 0 to 1",
        "classifier": "linear, one logit, binary cross-entropy",
        "solver": f"{config['method']}, controller {config['controller']}, rtol = atol = {config['tolerance']:g}, the batch stepped jointly",
        "NFE": "of one solve of the test set: 2 for the start and the first step, then 6 a step, rejected steps too",
        "Jacobian": "∂f/∂h at (h(t₀), t₀) of each sample; penalty and κ are means over samples, not squared; κ is "
        f"penalized as σ₁ / sqrt(σ₂² + ({config['floor']:g} σ₁)²), and reported as it is",
        "local error": "scaled error of one step, times h, at a random t (unbiased) or a random accepted step (biased), with the solver's own step size",
        "λ": ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight)
        + "; constant for the norms; for the others growing linearly from 0 over the first "
        f"{config['ramp']:.0%} of the training, because at full strength from the start some seeds never separate the "
        "moons",
        "training": f"Glorot uniform, Adam, learning rate {config['learning_rate']:g} falling to 0 as a cosine, "
        f"{config['epochs']} epochs, batch {config['batch_size']}",
        "data": f"two moons, noise {config['noise']:g}, {config['n_train']} training and {config['n_test']} test points, drawn anew for each seed",
        "seeds": f"{', '.join(map(str, outcome.seeds))}; ± is the sample standard deviation; a seed sets data, initial "
        "parameters, batches and sampling. λ and the other choices were made looking at seeds 0 to 7; `--first-seed 100` "
        "runs others",
        "distance": f"spheres of radius {radii}, {config['sphere_points']} points each",
    }
    medians = ", ".join(f"{row['name']} {row['condition_number_median']['mean']:.2f}" for row in outcome.rows)
    tights = ", ".join(f"{row['name']} {row['nfe_tight']['mean']:.0f}" for row in outcome.rows)
    parts = [
        "# Two moons: Jacobian and local regularization of a neural ODE",
        "The experiment of Josias and Brink, *Jacobian norm regularisation and conditioning in neural ODEs* (CCIS "
        "1734, 2022, doi 10.1007/978-3-031-22321-1_3), whose Table 1 stands beside our numbers. The two local rows are "
        "the method of Pal, Edelman and Rackauckas (PMLR 202, 2023) on the same task.",
        f"Made by `{outcome.command}` in {outcome.seconds:.0f} s; every number is in `result.json`.",
        "## Result",
        short_table(outcome.rows),
        "κ(J) is the mean over training points after the last epoch; a few points where det J is near zero carry it. "
        f"The medians are {medians}. Solving the trained models at a tolerance of {tight:g} takes an NFE of {tights}.",
        "## What it shows",
        "\n".join(f"- **{VERDICTS[c.verdict]}.** {c.claim}: {c.evidence}." for c in claims),
        f"*{RULE}.*",
        _disagreement(claims),
        "## What the poster leaves unsaid and we chose",
        "\n".join(f"- {name}: {choice}" for name, choice in choices.items()),
    ]
    if outcome.sweep:
        header = ("row", "λ", "NFE", "accuracy %", "κ(J)")
        lines = [
            (r["name"], f"{r['weight']:g}", plus_minus(r["nfe"], 1), plus_minus(r["accuracy"], 2, 100.0),
             plus_minus(r["condition_number"], 2))
            for r in outcome.sweep
        ]  # fmt: skip
        parts += ["## How λ moves the result", table(header, lines)]
    if "sweep.png" not in images.values():
        parts.append("Run with `--sweep` to see how every λ moves the result.")
    parts.append("## Figures")
    parts += [f"![{caption}]({name})\n\n*{caption}*" for caption, name in images.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _disagreement(claims: Sequence[Finding]) -> str:
    failed, open_claims = ([claim.claim for claim in claims if claim.verdict == verdict] for verdict in (NO, UNDECIDED))
    text = []
    if failed:
        text.append("These runs do not bear out: " + "; ".join(failed) + ". The numbers above are the evidence.")
    if open_claims:
        text.append("These seeds do not decide: " + "; ".join(open_claims) + ". More of them might (`--seeds`).")
    return "\n\n".join(text)
