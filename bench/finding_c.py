"""Finding C: how far each adjoint's gradient is from the flow's, against the tolerance and against what it costs.

L = ⟨c, y(t₁)⟩. The solve and the adjoint have the same tolerance, rtol = atol; the reference is the discrete adjoint of a solve by DOP853 at 1e-13, and what it
differs from `forward` on the solve by Tsit5 at 1e-12 says how far it can be believed. Evaluations are of the field and of its transpose, of the solve and of
the adjoint together.

    tanh MLP   2-32-32-2, 16 samples, 0 to 1
    spiral     y′ = A y³, the spiral of [Chen18] as an MLP of one layer with a cube before it, 0 to 5
    van der Pol   y₂′ = μ (1 − y₁²) y₂ − y₁ from (2, 0), parameters μ and the coefficient of y₁, 0 to 5; the flow contracts as μ grows

`python -m bench.finding_c` writes runs/finding_c/.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import adaptode as ao
from adaptode.experiments import plots
from adaptode.experiments.report import table
from adaptode.plotting import PALETTE

from .finding import Rows, command_line, groups

ADJOINTS = ("discrete", "backsolve", "interpolating", "quadrature")
TOLERANCES = tuple(10.0**-k for k in range(3, 11))
STIFF = (1.0, 5.0, 10.0, 30.0)
HOPELESS = 1e3  # an error that the figure leaves out


class Problem(NamedTuple):
    field: Any
    theta: np.ndarray
    y0: np.ndarray
    t1: float
    bar: np.ndarray


def oscillator() -> ao.PythonField:
    """van der Pol's, θ = (μ, ω²)."""

    def value(t, y, theta):
        x, v = y[:, 0], y[:, 1]
        return np.stack([v, theta[0] * (1.0 - x * x) * v - theta[1] * x], axis=1)

    def vjp(t, y, theta, w):
        x, v = y[:, 0], y[:, 1]
        a, b = w[:, 0], w[:, 1]
        y_bar = np.stack([-b * (2.0 * theta[0] * x * v + theta[1]), a + b * theta[0] * (1.0 - x * x)], axis=1)
        return y_bar, np.array([b @ ((1.0 - x * x) * v), -b @ x])

    return ao.PythonField(value, n=2, n_params=2, vjp=vjp, name="van der Pol")


def problems(quick: bool) -> dict[str, Callable[[], Problem]]:
    def network() -> Problem:
        rng = np.random.default_rng(0)
        field = ao.MLP((2, 32, 32, 2))
        return Problem(field, field.init(rng, scale=2.0), rng.normal(size=(16, 2)), 1.0, rng.normal(size=(16, 2)))

    def spiral() -> Problem:
        field = ao.MLP((2, 2), preactivation="cube")
        return Problem(field, np.array([-0.1, 2.0, -2.0, -0.1, 0.0, 0.0]), np.array([[2.0, 0.0]]), 5.0, np.array([[1.0, 0.5]]))

    def stiff(mu: float) -> Problem:
        return Problem(oscillator(), np.array([mu, 1.0]), np.array([[2.0, 0.0]]), 5.0, np.array([[1.0, 0.5]]))

    found = {"tanh MLP": network, "spiral": spiral} | {f"van der Pol, μ = {mu:g}": lambda mu=mu: stiff(mu) for mu in STIFF}
    return {name: make for name, make in found.items() if not quick or name in ("van der Pol, μ = 1", "van der Pol, μ = 10")}


def solved(problem: Problem, tolerance: float, method: str = "Tsit5") -> Any:
    options = {"method": method, "rtol": tolerance, "atol": tolerance, "max_steps": 200_000, "coordinates": "state"}
    return ao.solve(problem.field, problem.theta, problem.y0, (0.0, problem.t1), **options).require_success()


def distance(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def measure(quick: bool = False) -> Rows:
    """One row a problem, tolerance and adjoint; `believed`: how far two references are apart, `oracle`: `discrete` from `forward` on one run."""
    rows: Rows = []
    for name, make in problems(quick).items():
        problem = make()
        exact = ao.adjoint.discrete(solved(problem, 1e-13, "DOP853"), problem.bar)
        tight = solved(problem, 1e-12)
        check = ao.adjoint.forward(tight, problem.bar)
        believed = distance(check.theta, exact.theta)
        oracle = distance(ao.adjoint.discrete(tight, problem.bar).theta, check.theta)
        for tolerance in TOLERANCES[::3] if quick else TOLERANCES:
            run = solved(problem, tolerance)
            for adjoint in ADJOINTS:
                row: dict[str, Any] = {"problem": name, "tolerance": tolerance, "adjoint": adjoint, "believed": believed, "oracle": oracle, "forward": run.nfev}
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", ao.DriftWarning)  # the drift is in the table
                        found = ao.adjoint.ADJOINTS[adjoint](run, problem.bar, **({} if adjoint == "discrete" else {"max_steps": 20_000}))
                except (ao.SolveError, ao.NonFiniteGradientError) as error:
                    rows.append({**row, "error": np.nan, "error_y0": np.nan, "evaluations": np.nan, "drift": np.nan, "failure": str(error)})
                    continue
                row |= {"error": distance(found.theta, exact.theta), "error_y0": distance(found.y0, exact.y0)}
                rows.append({**row, "evaluations": run.nfev + found.evaluations, "drift": found.drift, "failure": ""})
    return rows


def number(value: float | None, form: str = ".1e") -> str:
    return "fails" if value is None or np.isnan(value) else f"{value:{form}}"


def slope(rows: Rows) -> str:
    """By how many powers of ten the error falls with one of the tolerance: a line through all points above ten times what the reference is worth."""
    good = [row for row in rows if np.isfinite(row["error"]) and row["error"] > 10 * row["believed"]]
    if len(good) < 3:
        return "—"
    return f"{np.polyfit(np.log10([row['tolerance'] for row in good]), np.log10([row['error'] for row in good]), 1)[0]:.2f}"


def price(rows: Rows, error: float = 1e-6) -> str:
    """Evaluations for an error, by a line between the logarithms of the two points around it, those with more evaluations last."""
    good = sorted((row["evaluations"], row["error"]) for row in rows if np.isfinite(row["error"]))
    for (n0, e0), (n1, e1) in pairwise(good):
        if e0 > error >= e1:
            share = np.log(e0 / error) / np.log(e0 / e1)
            return f"{np.exp((1 - share) * np.log(n0) + share * np.log(n1)):.0f}"
    return "—"


def report(rows: Rows) -> str:
    tolerances = [t for t in sorted({row["tolerance"] for row in rows}, reverse=True) if round(-np.log10(t)) in (3, 6, 9)]
    header = (
        "problem",
        "adjoint",
        *(f"error at {t:g}" for t in tolerances),
        "slope",
        *(f"evaluations at {t:g}" for t in tolerances),
        "for an error of 1e-6",
        "drift at 1e-6",
    )
    lines = []
    for (name, adjoint), own in groups(rows, "problem", "adjoint").items():
        at = {row["tolerance"]: row for row in own}
        cells = [*(number(at[t]["error"]) for t in tolerances), slope(own), *(number(at[t]["evaluations"], ".0f") for t in tolerances), price(own)]
        middle = min(at, key=lambda t: abs(np.log10(t) + 6))
        lines.append((name, adjoint, *cells, number(at[middle]["drift"], ".1e") if adjoint == "backsolve" else ""))
    worth = [(name, f"{own[0]['believed']:.1e}", f"{own[0]['oracle']:.1e}") for name, own in groups(rows, "problem").items()]
    return "\n\n".join(
        [
            "# The gradient's error, adjoint by adjoint",
            "Error: |θ̄ − reference| / |reference|. Evaluations: of field and transpose, solve and adjoint together. Drift: of `backsolve`, in tolerances.",
            table(header, lines),
            "How far two references are apart (the discrete adjoint of DOP853 at 1e-13, `forward` on Tsit5 at 1e-12); `discrete` from `forward` on one run.",
            table(("problem", "references", "discrete − forward"), worth),
        ]
    )


def draw(rows: Rows) -> Any:
    """Error against evaluations, a panel a problem; the dotted line is what the reference is worth."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    names = list(groups(rows, "problem"))
    across = min(3, len(names))
    fig, axes = plots.figure(-(-len(names) // across), across, (3.4 * across, 2.9 * -(-len(names) // across)), squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        for color, marker, adjoint in zip(PALETTE, "os^D", ADJOINTS, strict=False):
            own = [row for row in rows if row["problem"] == name and row["adjoint"] == adjoint]
            good = [row for row in own if row["error"] < HOPELESS]
            look = {"color": color, "marker": marker, "ms": 4.5, "lw": 1.4, "mfc": "white" if adjoint == "backsolve" else color}
            ax.plot([row["evaluations"] for row in good], [row["error"] for row in good], label=adjoint, **look)
            if len(good) < len(own):
                said = f"{adjoint}: {len(own) - len(good)} of {len(own)} tolerances\nfail, or are off by more than {HOPELESS:g}×"
                ax.annotate(said, (0.97, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=8, color=color)
        ax.axhline(rows[[row["problem"] for row in rows].index(name)]["believed"], color="#808080", lw=1, ls=":")
        ax.set(xscale="log", yscale="log", title=name)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(axis="x", labelsize=8)
    for ax in axes[:, 0]:
        ax.set_ylabel("relative error of θ̄")
    for ax in axes[-1]:
        ax.set_xlabel("evaluations")
    axes.flat[0].legend(frameon=False, fontsize=8)
    return fig


def main() -> int:
    return command_line("finding_c", __doc__, measure, report, draw)


if __name__ == "__main__":
    sys.exit(main())
