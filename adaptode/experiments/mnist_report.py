"""The MNIST experiment on paper: tables, figures, `report.md`, `result.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..solution import StepLog
from . import plots
from .report import plus_minus, table, write_result, write_text

PAPER = {  # train accuracy %, test accuracy %, NFE, prediction s a batch; NFE and prediction speed relative to none
    "none": ("99.90", "97.61", "303.6", "0.088", "1", "1"),
    "local-unbiased": ("99.45", "97.53", "188.0", "0.046", "0.62", "1.9×"),
    "local-biased": ("99.48", "97.49", "182.8", "0.044", "0.60", "2.0×"),
}
PAPER_STEPS = 7500


class Outcome(NamedTuple):
    """Everything the report is made of; histories and step logs are of the first seed, by row."""

    config: dict[str, Any]
    seeds: list[int]
    rows: list[dict[str, Any]]
    samples: int
    histories: Mapping[str, Mapping[str, NDArray]]
    step_logs: Mapping[str, StepLog]
    seconds: float
    command: str


def short_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ours, and the ratios beside the paper's."""
    header = (
        "row", "train %", "test %", "NFE", "NFE ratio", "paper", "predict ms", "speedup", "paper", "train s",
    )  # fmt: skip
    lines = [
        (
            row["name"], plus_minus(row["train_accuracy"], 2, 100.0), plus_minus(row["accuracy"], 2, 100.0),
            plus_minus(row["nfe"], 1), f"{row['nfe_ratio']:.2f}", PAPER[row["name"]][4],
            plus_minus(row["predict_seconds"], 1, 1000.0), f"{row['predict_speedup']:.2f}×", PAPER[row["name"]][5],
            plus_minus(row["seconds"], 0),
        )
        for row in rows
    ]  # fmt: skip
    return table(header, lines)


def write(folder: Path, outcome: Outcome) -> str:
    """Write figures, `result.json` and `report.md` into `folder`; what the terminal shows."""
    images = _figures(folder, outcome)
    write_result(
        folder, outcome.config, outcome.seeds, outcome.rows, seconds=outcome.seconds, command=outcome.command,
        histories=outcome.histories,
    )  # fmt: skip
    write_text(folder / "report.md", _markdown(outcome, images))
    return f"{short_table(outcome.rows)}\n\n{_length(outcome)}\n\n{outcome.seconds:.0f} s; report, figures and result.json in {folder}"


def _length(outcome: Outcome) -> str:
    config = outcome.config
    epochs = config["steps"] * config["batch_size"] / outcome.samples
    text = f"{config['steps']} steps of {config['batch_size']} samples a row, {epochs:.1f} epochs of {config['data']}"
    if config["data"] != "mnist":
        return text + "; the paper's numbers are MNIST's."
    share = config["steps"] / PAPER_STEPS
    return text + (f": {share:.0%} of the paper's training, so accuracies are not its final ones." if share < 1 else ".")


def _figures(folder: Path, outcome: Outcome) -> dict[str, str]:
    images = {}
    fig, (left, right) = plots.figure(1, 2, (10.5, 4.1))
    plots.history_curves(outcome.histories, "loss", "loss with penalty", ax=left)
    plots.log_if_wide(left)
    plots.history_curves(outcome.histories, "nfe_forward", "NFE in training", ax=right)
    for axis in (left.xaxis, right.xaxis, right.yaxis):
        axis.get_major_locator().set_params(integer=True)
    fig.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(outcome.histories), frameon=False)
    images[
        "Training, first seed: the loss with its penalty, and the NFE of each training step: evaluations forwards, with those of the penalty, which has its "
        "own step (the NFE of the table is of solves alone)."
    ] = plots.save(fig, folder / "training.png")
    fig, axes = plots.figure(1, 3, (11.5, 3.2), sharex=True, sharey=True)
    for (name, steps), ax in zip(outcome.step_logs.items(), axes, strict=True):
        label, color, _ = plots.ROW_STYLE[name]
        plots.step_sizes(steps.t, steps.h, steps.accepted, t1=1.0, ax=ax, color=color)
        ax.set_title(f"{label}: {int(np.sum(steps.accepted))} steps")
        ax.label_outer()
    images["Step sizes with rejected attempts on the first test batch, first seed."] = plots.save(fig, folder / "steps.png")
    return images


def _markdown(outcome: Outcome, images: Mapping[str, str]) -> str:
    config = outcome.config
    published = config["dtype"] == "float32"
    tolerance = f"{config['dtype']}, rtol = atol = {config['tolerance']:g}, penalty step: {config['step']}. " + (
        "This is the published setting. The tolerance is below the precision of float32 (1.2e-7), so the error "
        "estimate, and with it the NFE and the penalty, contain mostly rounding."
        if published
        else "The published setting, float32 at 1.4e-8 with the step of the first-step rule, is below the precision of "
        "float32 and its penalty nearly vanishes in float64; so the tolerance is ours, the penalty takes the step "
        "the solver would take, and ratios to the row without penalty are what compares. `--dtype float32` runs the "
        "published setting."
    )
    choices = [
        f"field: n-{config['hidden']}-n MLP, tanh, time to both layers, no activation after the second; t from 0 to 1; "
        "linear classifier on the state at t = 1; cross-entropy (published)",
        f"training: Adam, learning rate {config['learning_rate']:g}, batch {config['batch_size']}, partial batches dropped (published)",
        f"penalty: λ E h, one step a batch at a random t (unbiased) or a random accepted step (biased); λ from "
        f"{config['weight_start']:g} to {config['weight_end']:g}, exponentially over the run"
        + (
            " (published)"
            if (config["weight_start"], config["weight_end"]) == (2.5, 1.0)
            else "; published: 2.5 to 1 over 7500 steps, which moves little in a short run"
        )
        + "; the first "
        "stage is differentiated too, without which the gradient does not point downhill (ours)",
        f"solver: {config['method']}, controller {config['controller']} (published); {tolerance}",
        "NFE and prediction time: means over test batches of the training batch's size, one BLAS thread, nothing else "
        "running; training time: the rows trained side by side, one BLAS thread each (ours)",
    ]
    reference = table(("paper, 7500 steps", "train %", "test %", "NFE", "predict s"), [(name, *PAPER[name][:4]) for name in PAPER])
    return (
        "\n\n".join(
            [
                f"# Local regularization of a neural ODE on {config['data']}",
                "The experiment of Pal, Edelman and Rackauckas, *Locally Regularized Neural Differential Equations: "
                "Some Black Boxes Were Meant to Remain Closed!* (ICML 2023, PMLR 202:26809-26819).",
                f"Made by `{outcome.command}` in {outcome.seconds:.0f} s; every number is in `result.json`.",
                "## Result",
                short_table(outcome.rows),
                _length(outcome),
                reference,
                "## Choices",
                "\n".join(f"- {choice}" for choice in choices),
                "## Figures",
                *(f"![{caption}]({name})\n\n*{caption}*" for caption, name in images.items()),
            ]
        )
        + "\n"
    )
