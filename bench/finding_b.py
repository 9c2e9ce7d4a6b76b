"""Finding B: float32 near its own precision: evaluations and the local penalty against precision, tolerance and weight scale.

The published MNIST runs are float32 at tolerances of 1.4e-8 [Pal23], a ninth of float32's epsilon of 1.2e-7. The same untrained net, Glorot weights times a
scale, is solved in float64 and in float32, in the coordinates of the state and in those of its hidden layer (which `adaptode.solve` takes by itself where they
pay), and q |h| is averaged over stratified times, with the solver's own steps and with the published first-step rule (step="initial"). The gradients of these
penalties in float32 are held against those in float64 by their cosine; the steps are each precision's own.

`python -m bench.finding_b` runs on scikit-learn's digits and a 64-32-64 net; `--data-dir DIR` on 512 MNIST test images and the published 784-100-784 net.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import adaptode as ao
from adaptode.datasets import load_digits, load_mnist
from adaptode.experiments import plots
from adaptode.experiments.report import table
from adaptode.plotting import PALETTE

from .finding import Rows, command_line, groups

TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1.4e-8)
SCALES = (1.0, 2.0, 3.0, 5.0)
WAYS = {"float64": ("float64", "hidden"), "float32, state": ("float32", "state"), "float32, hidden": ("float32", "hidden")}
SAMPLES = 16  # times at which q |h| is measured


def images(data_dir: str | None) -> tuple[np.ndarray, tuple[int, ...]]:
    """(X in [0, 1], sizes of the net)."""
    if data_dir is None:
        return load_digits()[0][:512], (64, 32, 64)
    return load_mnist(Path(data_dir))[2][:512], (784, 100, 784)


def measure(quick: bool = False, data_dir: str | None = None) -> Rows:
    """One row a scale, tolerance and way; `error`: of the end, against float64 at 1e-11, RMS in units of the tolerance."""
    X, sizes = images(data_dir)
    X = X[:64] if quick else X
    rows: Rows = []
    field = ao.MLP(sizes, time="every")
    for scale in (1.0, 3.0) if quick else SCALES:
        theta = field.init(np.random.default_rng(0), scale=scale)
        exact = ao.solve(field, theta, X, (0.0, 1.0), rtol=1e-11, atol=1e-11, keep="none").require_success().y1
        for tolerance in (1e-4, 1.4e-8) if quick else TOLERANCES:
            gradients: dict[str, np.ndarray] = {}
            for way, (dtype, coordinates) in WAYS.items():
                options = {"method": "Tsit5", "controller": "ordinarydiffeq", "rtol": tolerance, "atol": tolerance, "coordinates": coordinates}
                run = ao.solve(field, theta.astype(dtype), X.astype(dtype), (0.0, 1.0), **options)
                row: dict[str, Any] = {"scale": scale, "tolerance": tolerance, "way": way}
                row |= {"nfe": run.nfev, "rejected": int((~run.steps.accepted).sum()), "accepted": int(run.steps.accepted.sum())}
                row["error"] = float(np.sqrt(np.mean(((run.end - exact) / (1.0 + np.abs(exact))) ** 2))) / tolerance
                for step in ("solver", "initial"):
                    term = ao.LocalError(1.0, step=step, samples=SAMPLES).evaluate(run.require_success(), 0.5)
                    gradient = term.pull(1.0).theta.astype(np.float64)
                    reference = gradients.setdefault(step, gradient)  # float64 comes first
                    row[f"r {step}"] = float(term.value)
                    row[f"cosine {step}"] = float(gradient @ reference / (np.linalg.norm(gradient) * np.linalg.norm(reference)))
                rows.append(row)
    return rows


def report(rows: Rows) -> str:
    columns = {"NFE": ("nfe", "d"), "E·h, solver": ("r solver", ".1e"), "E·h, initial": ("r initial", ".1e"), "end off by": ("error", ".2g")}
    single = {"cosine of ∇(E·h), solver": ("cosine solver", "+.2f"), "cosine of ∇(E·h), initial": ("cosine initial", "+.2f")}
    own_ways, low = list(WAYS), list(WAYS)[1:]
    parts = [
        "# float32 near its own precision",
        f"Float64 / float32 in the state's coordinates / float32 in the hidden layer's, of each column; {SAMPLES} times in the mean of E·h. `end off by`: RMS "
        "in units of the tolerance. Cosines: of float32's gradient, in the two coordinates, with float64's.",
    ]
    lines = []
    for (scale, tolerance), own in groups(rows, "scale", "tolerance").items():
        by_way = {row["way"]: row for row in own}
        cells = [" / ".join(f"{by_way[way][key]:{form}}" for way in own_ways) for key, form in columns.values()]
        cells += [" / ".join(f"{by_way[way][key]:{form}}" for way in low) for key, form in single.values()]
        lines.append((f"{scale:g}", f"{tolerance:g}", *cells))
    return "\n\n".join([*parts, table(("scale", "tolerance", *columns, *single), lines)])


def draw(rows: Rows) -> Any:
    """NFE and E·h against the tolerance, a line a way, for the smallest and the largest scale."""
    fig, axes = plots.figure(1, 2, (9.6, 3.9))
    scales = sorted({row["scale"] for row in rows})
    for scale, line in ((scales[0], "-"), (scales[-1], "--")):
        for color, marker, way in zip(PALETTE, "os^", WAYS, strict=False):
            own = [row for row in rows if row["way"] == way and row["scale"] == scale]
            look = {"color": color, "marker": marker, "ms": 5, "ls": line, "lw": 1.5, "mfc": color if line == "-" else "white"}
            tolerances = [row["tolerance"] for row in own]
            axes[0].plot(tolerances, [row["nfe"] for row in own], label=f"{way}, scale {scale:g}", **look)
            axes[1].plot(tolerances, [row["r initial"] for row in own], **look)
    axes[0].set(ylabel="evaluations of a solve", title="evaluations")
    axes[1].set(ylabel="E·h, h by the first-step rule", title="the published penalty")
    for ax in axes:
        ax.axvline(np.finfo(np.float32).eps, color="#808080", lw=1, ls=":")
        ax.set(xscale="log", yscale="log", xlabel="tolerance")
        ax.invert_xaxis()
    axes[1].annotate("ε of float32", (np.finfo(np.float32).eps, axes[1].get_ylim()[0]), textcoords="offset points", xytext=(-4, 6), fontsize=8, ha="right")
    axes[0].legend(frameon=False, fontsize=8)
    return fig


MORE = {"data-dir": {"default": None, "metavar": "DIR", "help": "folder with mnist/: the published net on MNIST in the place of the digits"}}


def main() -> int:
    return command_line("finding_b", __doc__, measure, report, draw, MORE)


if __name__ == "__main__":
    sys.exit(main())
