"""Finding A: what freezing k₁ does to the gradient of the local error estimate.

The penalty is r = q(t, u) |h| of one step from a state u, with h and u held fixed. The published code also holds k₁ = f(t, u) fixed [Pal23]; exact is the
gradient in θ with every stage, k₁ too. With ε̂ = h Σ e_i k_i, Σ e_i = 0, a change of f by a constant leaves ε̂ alone, unless k₁ does not take part.

Each net is compared at the same state and step: the cosine and the ratio of norms of the two gradients, and whether θ − s ĝ has a smaller r, where ĝ is the
unit gradient and s the length at which the exact gradient promises a hundredth, then a thousandth, of r.

`python -m bench.finding_a` writes runs/finding_a/.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import adaptode as ao
from adaptode.experiments import plots
from adaptode.experiments.report import table
from adaptode.plotting import PALETTE

from .finding import Rows, column, command_line, groups, median_interval, share_interval

# name: sizes, time, batch, law of the weights
NETS: dict[str, dict[str, Any]] = {
    "3-5-3, Glorot": {"sizes": (3, 5, 3), "batch": 1, "scale": 1.0},
    "3-5-3, Glorot × 2": {"sizes": (3, 5, 3), "batch": 1, "scale": 2.0},
    "3-5-3, N(0, 1)": {"sizes": (3, 5, 3), "batch": 1, "scale": None},
    "2-64-64-2, batch 64": {"sizes": (2, 64, 64, 2), "batch": 64, "scale": 2.0},
    "64-100-64, batch 64": {"sizes": (64, 100, 64), "batch": 64, "scale": 2.0, "time": "every"},
}
STEPS = (0.4, 0.3, 0.1, 0.02)
DESCENT = (1e-2, 1e-3)
FROZEN, EXACT = ("state", "step", "k1"), ("state", "step")


def field_of(net: dict[str, Any], rng: np.random.Generator) -> tuple[ao.MLP, np.ndarray, np.ndarray]:
    """A random net of a kind: field, θ, and states (B, n) to start from."""
    field = ao.MLP(net["sizes"], time=net.get("time", "none"))
    theta = rng.normal(size=field.n_params) if net["scale"] is None else field.init(rng, scale=net["scale"])
    return field, theta, rng.normal(size=(net["batch"], field.n))


def one_step(field: ao.MLP, theta: np.ndarray, u: np.ndarray, h: float) -> Any:
    """A solve of a single step h. Tolerances of 1 accept it; as rtol = atol, another value divides every r and every gradient by the same number."""
    run = ao.solve(field, theta, u, (0.0, h), first_step=h, rtol=1.0, atol=1.0, method="Tsit5", coordinates="state")
    if run.grid.size != 2:
        raise ao.InputError(f"the step {h:g} was not accepted at tolerance 1")
    return run


def term(run: Any, estimate: str, detach: tuple[str, ...]) -> Any:
    return ao.LocalError(1.0, sampling="biased", estimate=estimate, detach=detach).evaluate(run, 0.5)  # of a single step, this draws its start


def compare(field: ao.MLP, theta: np.ndarray, u: np.ndarray, h: float, estimate: str = "error") -> dict[str, Any]:
    """Cosine, ratio of norms, and descent of both gradients."""
    run = one_step(field, theta, u, h)
    value = term(run, estimate, EXACT).value
    gradients = {name: term(run, estimate, detach).pull(1.0).theta for name, detach in (("exact", EXACT), ("frozen", FROZEN))}
    size = {name: float(np.linalg.norm(g)) for name, g in gradients.items()}
    found: dict[str, Any] = {
        "cosine": float(gradients["exact"] @ gradients["frozen"] / (size["exact"] * size["frozen"])),
        "ratio": size["frozen"] / size["exact"],
    }
    for share in DESCENT:
        for name, g in gradients.items():
            moved = theta - share * value / size["exact"] * g / size[name]
            found[f"{name} descends {share:g}"] = bool(term(one_step(field, moved, u, h), estimate, EXACT).value < value)
    return found


def measure(quick: bool = False) -> Rows:
    """One row a net, step and estimate."""
    rows: Rows = []
    for name, net in NETS.items():
        count = (20 if net["batch"] == 1 else 2) if quick else (400 if net["batch"] == 1 else 100)
        for seed in range(count):
            field, theta, u = field_of(net, np.random.default_rng([seed, 0]))
            for estimate in ("error", "stiffness"):
                for h in STEPS:
                    rows.append({"net": name, "h": h, "estimate": estimate, "seed": seed, **compare(field, theta, u, h, estimate)})
    return rows


def report(rows: Rows) -> str:
    header = ("net", "h", "nets", "cosine, median", "95 % interval", "quartiles", "norm ratio, median", "frozen lowers r, %", "95 % interval", "exact, %")
    parts = ["# Freezing k₁", "Cosine and ratio of norms of the gradient with k₁ frozen against the exact one, at the same state and step."]
    for estimate, title in (("error", "r = q |h|"), ("stiffness", "r = S")):
        lines = []
        for (name, h), own in groups([row for row in rows if row["estimate"] == estimate], "net", "h").items():
            cosine, good = column(own, "cosine"), int(column(own, f"frozen descends {DESCENT[-1]:g}").sum())
            low, high = median_interval(cosine)
            share = share_interval(good, len(own))
            quartiles = np.percentile(cosine, (25, 75))
            lines.append(
                (
                    name,
                    f"{h:g}",
                    len(own),
                    f"{np.median(cosine):+.2f}",
                    f"{low:+.2f} … {high:+.2f}",
                    f"{quartiles[0]:+.2f} … {quartiles[1]:+.2f}",
                    f"{np.median(column(own, 'ratio')):.2g}",
                    f"{100 * good / len(own):.0f}",
                    f"{100 * share[0]:.0f} … {100 * share[1]:.0f}",
                    f"{100 * column(own, f'exact descends {DESCENT[-1]:g}').mean():.1f}",
                )
            )
        parts += [f"## {title}", table(header, lines)]
    return "\n\n".join(parts)


def draw(rows: Rows) -> Any:
    """Cosines as bands over h, and the ratio of norms."""
    fig, (left, right) = plots.figure(1, 2, (9.6, 3.7))
    own = [row for row in rows if row["estimate"] == "error"]
    for i, (name, mine) in enumerate(groups(own, "net").items()):
        by_step = groups(mine, "h")
        h = np.array(list(by_step)) * 1.06 ** (i - 2)
        cosines = [np.percentile(column(part, "cosine"), (25, 50, 75)) for part in by_step.values()]
        low, middle, high = np.array(cosines).T
        left.errorbar(h, middle, (middle - low, high - middle), color=PALETTE[i], marker="o", ms=5, lw=0, elinewidth=1.6, label=name)
        right.plot(list(by_step), [np.median(column(part, "ratio")) for part in by_step.values()], color=PALETTE[i], marker="o", ms=5, lw=1.6, label=name)
    left.axhline(1.0, color="#222222", lw=1.2)
    left.annotate("exact", (0.05, 1.0), textcoords="offset points", xytext=(0, 4), fontsize=9)
    left.axhline(0.0, color="#808080", lw=1, ls="--")
    left.set(
        xscale="log", xlabel="step h", ylabel="cosine with the exact gradient", ylim=(-1.05, 1.15), title="k₁ frozen: median and quartiles over random nets"
    )
    right.set(xscale="log", yscale="log", xlabel="step h", ylabel="norm, frozen / exact", title="median ratio of norms")
    right.legend(frameon=False, fontsize=9)
    for ax in (left, right):
        ax.set_xticks(STEPS, [f"{h:g}" for h in STEPS])
        ax.minorticks_off()
    return fig


def main() -> int:
    return command_line("finding_a", __doc__, measure, report, draw)


if __name__ == "__main__":
    sys.exit(main())
