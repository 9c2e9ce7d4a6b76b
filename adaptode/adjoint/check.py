"""One table of every gradient of a run against finite differences and complex steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf

from ..checks import complex_step, finite_difference
from ..dense import dense_weights, locate
from ..errors import InputError, NonFiniteGradientError, SolveError
from ..fields.mlp import MLP
from ..fields.protocol import Array, Field
from ..fields.user import PythonField
from ..solution import Run
from .continuous import DriftWarning, backsolve, interpolating, quadrature
from .discrete import discrete
from .forward import forward
from .gradient import Gradient, again, check_run, outputs

GRID, FLOW, CONTROLLER = "the computed numbers, on the frozen grid", "the flow, which the run approximates", "the computed numbers, through the controller"
_LARGEST = 2_000_000  # numbers in a tangent of `forward`, beyond which it is left out


class CheckRow(NamedTuple):
    """One derivative of one block along its direction, beside that of the reference; `scale` is the size of the block's gradient."""

    method: str
    block: str
    value: float
    reference: float
    scale: float
    allowed: float

    @property
    def difference(self) -> float:
        """Relative to the size of the block's gradient."""
        return abs(self.value - self.reference) / self.scale if self.scale > 0.0 else abs(self.value - self.reference)

    @property
    def agrees(self) -> bool:
        return bool(self.difference <= self.allowed)


class GradientCheck(NamedTuple):
    """Rows, one a method and block; str() is a table.

    differentiates   method -> what it is the derivative of      failed   method -> why it has no rows      reference   the method that the others are held to
    """

    title: str
    rows: tuple[CheckRow, ...]
    differentiates: dict[str, str]
    failed: dict[str, str]
    reference: str

    @property
    def passed(self) -> bool:
        """Whether every adjoint agrees in every block."""
        return not self.failed and all(row.agrees for row in self.rows)

    def first_disagreement(self, method: str) -> CheckRow | None:
        """The first block in which a method disagrees."""
        return next((row for row in self.rows if row.method == method and not row.agrees), None)

    def __str__(self) -> str:
        methods, blocks = (list(dict.fromkeys(getattr(row, key) for row in self.rows)) for key in ("method", "block"))
        by = {(row.method, row.block): row for row in self.rows}
        width = max([len(b) for b in blocks] + [5])
        head = "  ".join(f"{m:>{max(len(m), 9)}}" for m in methods)
        lines = [self.title, f"  {'block':{width}}  {self.reference:>17}  {head}"]
        for block in blocks:
            cells = []
            for m in methods:
                row = by.get((m, block))
                cells.append(f"{'' if row is None else f'{row.difference:.1e}' + ('' if row.agrees else ' !'):>{max(len(m), 9)}}")
            value = next(row.reference for row in self.rows if row.block == block)
            lines.append(f"  {block:{width}}  {value:>17.10g}  {'  '.join(cells)}".rstrip())
        for m in methods:
            first = self.first_disagreement(m)
            verdict = "agrees" if first is None else f"DISAGREES first in {first.block}, by {first.difference:.2g} where {first.allowed:.2g} is allowed"
            lines.append(f"  {m}: differentiates {self.differentiates[m]}; {verdict}")
        if self.reference == "complex step" and "t0" in blocks:
            lines.append("  t0, t1: held to finite differences, on the frozen grid")
        lines += [f"  {m}: FAILED: {why}" for m, why in self.failed.items()]
        return "\n".join(lines)


def check_gradients(
    run: Run,
    y_bar: ArrayLike | None = None,
    *,
    jumps: Iterable[tuple[float, ArrayLike]] | None = None,
    adjoints: Iterable[str] | None = None,
    rng: np.random.Generator | int | None = 0,
) -> GradientCheck:
    """Every adjoint of a run, with finite differences and, where the field takes complex numbers, complex steps.

    run           of `solve`, successful         y_bar, jumps   as in the adjoints; neither: a random cotangent of run.y1
    adjoints      names of some; None: all that apply (forward: of up to 2 million tangents)
    rng           of the random cotangent, and of the directions: one a block, of length 1. Blocks are y0, the parts of θ by the names that `field.views` gives
                  them (or theta), t0 and t1

    discrete, forward    differentiate the computed numbers on the frozen grid, and so must agree with the reference to rounding: complex steps over the run's
                         own grid, or finite differences there, where the field takes real numbers alone
    the others           differentiate the flow, and agree to a thousand times the run's rtol (10⁻⁵ at least)
    finite differences   on the frozen grid, with the error that they estimate themselves (`checks.finite_difference`)
    controller           finite differences of whole solves, their grids moving: no adjoint differentiates that; shown, and never a disagreement

    For small problems: some dozens of solves a block. `print` it, or ask `.passed`, `.rows`, `.first_disagreement(name)`.
    """
    check_run(run, "check_gradients")
    rng = np.random.default_rng(rng)
    jumps = None if jumps is None else list(jumps)
    if y_bar is None and jumps is None:
        y_bar = rng.normal(size=run.end.shape)
    pairs = outputs(run, y_bar, jumps)
    applicable = _applicable(run)
    names = list(applicable) if adjoints is None else list(adjoints)
    unknown = [name for name in names if name not in applicable]
    if unknown:
        raise InputError(f"no adjoint {unknown[0]!r} applies to this run; there are {', '.join(applicable)}")
    differentiates, failed, gradients = {}, {}, {}
    for name in names:
        try:
            gradients[name] = applicable[name](run, y_bar, jumps=jumps)
        except (SolveError, NonFiniteGradientError) as error:
            failed[name] = str(error).splitlines()[0]
        differentiates[name] = GRID if name in ("discrete", "forward") else FLOW

    functional = _Functional(run, pairs)
    blocks = _blocks(run, rng)
    exact = functional.complex_value is not None
    reference = "complex step" if exact else "finite differences"
    rows: list[CheckRow] = []
    single = run.end.dtype == np.float32
    for block in blocks:
        if block.ends and not any(g.t0 is not None for g in gradients.values()):
            continue
        by_fd, error = finite_difference(functional.along(block), 0.0, 1.0, block.step)
        wanted = complex_step(functional.along(block), 0.0, 1.0) if exact and not block.ends else by_fd
        norms = [block.norm(g) for g in gradients.values()]
        scale = max([abs(wanted), *(x for x in norms if math.isfinite(x))])
        noise = error / scale if scale > 0.0 else 0.0
        tight = (1e-4 if single else 1e-9) if exact and not block.ends else 1e-4 if single else 1e-7 + 10.0 * noise
        if exact and not block.ends:
            rows.append(CheckRow("finite differences", block.name, by_fd, wanted, scale, 1e-7 + 10.0 * noise))
        for name, gradient in gradients.items():
            value = block.along(gradient)
            if value is None:
                continue
            loose = max(1e-5, 1e3 * float(run.rtol.max()), tight)
            rows.append(CheckRow(name, block.name, value, wanted, scale, tight if differentiates[name] == GRID else loose))
        try:
            moving, error = finite_difference(lambda x, block=block: functional.solved(block, float(x)), 0.0, 1.0, block.step)
            rows.append(CheckRow("controller", block.name, moving, wanted, scale, math.inf))
        except (SolveError, InputError):  # a span cut so short that an output is outside
            pass
    differentiates |= {"finite differences": GRID, "controller": CONTROLLER}
    rows.sort(key=lambda row: ["finite differences", *names, "controller"].index(row.method))
    title = (
        f"gradient of Σ⟨ȳ, y⟩ along a direction a block: {run.method.name}, {run.grid.size - 1} steps, rtol {run.rtol.max():g}, {run.end.dtype}; "
        "differences relative to the block's gradient"
    )
    return GradientCheck(title, tuple(rows), differentiates, failed, reference)


def _applicable(run: Run) -> dict[str, Callable[..., Gradient]]:
    """Every adjoint that the run allows, with what it needs for that."""
    has_states = run.kept_states is not None
    budget = None if has_states or run.kept_checkpoints.every else run.end.nbytes * run.grid.size  # type: ignore[union-attr]
    found: dict[str, Callable[..., Gradient]] = {"discrete": lambda *a, **k: discrete(*a, budget=budget, **k)}
    if run.end.size * (run.field.n + run.field.n_params + 2) <= _LARGEST:
        found["forward"] = forward
    if (run.atol > 0).all():
        options: dict[str, Any] = {} if has_states or run.kept_checkpoints.every else {"checkpoints": 4}  # type: ignore[union-attr]
        found["backsolve"] = _without_warning
        found["interpolating"] = lambda *a, **k: interpolating(*a, **options, **k)
        found["quadrature"] = lambda *a, **k: quadrature(*a, **options, **k)
    return found


def _without_warning(*arguments: Any, **options: Any) -> Gradient:
    """`backsolve`; what the table says of its gradient is more than its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DriftWarning)
        return backsolve(*arguments, **options)


class _Block(NamedTuple):
    """Part of what a gradient is of: a direction of length 1 in it, and the first step of finite differences."""

    name: str
    y0: Array
    theta: Array
    t0: float
    t1: float
    step: float

    @property
    def ends(self) -> bool:
        return bool(self.t0 or self.t1)

    def along(self, g: Gradient) -> float | None:
        """The gradient's derivative along it."""
        if self.ends:
            return None if g.t0 is None or g.t1 is None else self.t0 * g.t0 + self.t1 * g.t1
        return float(np.sum(self.y0 * g.y0) + self.theta @ g.theta.astype(np.float64))

    def norm(self, g: Gradient) -> float:
        if self.ends:
            return abs(self.along(g) or 0.0)
        return float(np.linalg.norm(g.y0[self.y0 != 0]) + np.linalg.norm(g.theta[self.theta != 0]))


def _blocks(run: Run, rng: np.random.Generator) -> list[_Block]:
    none, zero = np.zeros(run.end.shape), np.zeros(run.field.n_params)

    def direction(size: int) -> Array:
        d = rng.normal(size=size)
        return d / np.linalg.norm(d)

    blocks = [_Block("y0", direction(run.end.size).reshape(run.end.shape), zero, 0.0, 0.0, 0.1)]
    if run.field.n_params:
        places = np.arange(run.field.n_params)
        views = run.field.views(places) if hasattr(run.field, "views") else {"theta": places}
        for name, where in views.items():
            theta = zero.copy()
            theta[where.ravel()] = direction(where.size)
            blocks.append(_Block(name, none, theta, 0.0, 0.0, 0.1))
    if run.grid.size > 1:
        widths = np.abs(np.diff(run.grid))
        blocks.append(_Block("t0", none, zero, 1.0, 0.0, 0.2 * widths[0]))
        blocks.append(_Block("t1", none, zero, 0.0, 1.0, 0.2 * widths[-1]))
    return blocks


class _Functional:
    """Σ⟨ȳ, y⟩ of the outputs, as a function of y0, θ and the ends of the span: on the run's grid by plain NumPy in float64, no kernel used twice; or solved."""

    def __init__(self, run: Run, pairs: list[tuple[float, Array]]) -> None:
        self.run, self.pairs = run, [(t, bar.reshape(run.end.shape).astype(np.float64)) for t, bar in pairs]
        self.tab = run.method.coefficients(np.float64)
        self.where = locate(run, np.array([t for t, _ in pairs]))
        self.complex_value = complex_value_of(run)

    def along(self, block: _Block) -> Callable[[Any], Any]:
        run = self.run
        y0, theta = run.y0.astype(np.float64), run.theta.astype(np.float64)
        return lambda x: self.on_grid(y0 + x * block.y0, theta + x * block.theta, x * block.t0, x * block.t1)

    def on_grid(self, y: Array, theta: Array, t0: Any, t1: Any) -> Any:
        """On the accepted times, the first moved by t0 and the last by t1."""
        run, tab = self.run, self.tab
        times = np.array(run.grid)
        passes = run.grid[-1] != run.tspan[1]
        if not np.iscomplexobj(y):
            times[0] += t0
            times[-1] += 0.0 if passes else t1
            t1 = float(t1)
        else:
            t1 = 0.0
        value = self.complex_value if np.iscomplexobj(y) else run.field.value
        total = sum((np.sum(bar * y) for t, bar in self.pairs if t == run.tspan[0] or times.size == 1), 0.0)
        s, size = tab.b.size, tab.c.size
        for n in range(times.size - 1):
            t, h = times[n], times[n + 1] - times[n]
            inside = [(time, bar) for (time, bar), k in zip(self.pairs, self.where, strict=True) if k == n and time != run.tspan[0]]
            K: list[Array] = []
            for i in range(size if inside else s):
                Y = y + h * sum((tab.A[i, j] * K[j] for j in range(i) if tab.A[i, j] != 0.0), 0.0)
                K.append(value(t + tab.c[i] * h, Y, theta))
            end = y + h * sum(b * k for b, k in zip(tab.b, K, strict=False) if b != 0.0)
            for time, bar in inside:
                place, at_end = ((z - run.grid[n]) / (run.grid[n + 1] - run.grid[n]) for z in (time, run.tspan[1]))
                if place == 1.0:
                    total = total + np.sum(bar * end)
                else:
                    x = (time + (t1 if place == at_end else 0.0) - t) / h
                    total = total + np.sum(bar * (y + h * sum(w * k for w, k in zip(dense_weights(tab, x), K, strict=True))))
            y = end
        return total

    def solved(self, block: _Block, x: float) -> float:
        """By a new solve with the run's method and tolerances."""
        run = self.run
        moved = run.tspan[0] + x * block.t0, run.tspan[1] + x * block.t1
        places = [{run.tspan[0]: moved[0], run.tspan[1]: moved[1]}.get(t, t) for t, _ in self.pairs]
        times = sorted(set(places), reverse=moved[1] < moved[0])
        fresh = again(run, run.y0 + x * block.y0, moved, run.theta + x * block.theta, saveat=times, keep="none")
        at = {t: y for t, y in zip(fresh.t.tolist(), fresh.y, strict=True)}
        return float(sum(np.sum(bar * at[t]) for t, (_, bar) in zip(places, self.pairs, strict=True)))


_TWINS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "sigmoid": lambda z: 0.5 + 0.5 * np.tanh(0.5 * z),
    "softplus": lambda z: np.where(z.real > 0, z, 0.0) + np.log1p(np.exp(np.where(z.real > 0, -z, z))),
    "sine": np.sin,
    "gelu": lambda z: 0.5 * z * (1.0 + erf(z / math.sqrt(2.0))),
    "cube": lambda z: z * z * z,
}


def complex_value_of(run: Run) -> Callable[[float, Array, Array], Array] | None:
    """f(t, y, θ) on complex y and θ, for an MLP of smooth activations, and a PythonField whose function is analytic; else None."""
    field: Field = run.field
    if isinstance(field, MLP):
        if not {field.activation, field.outer, field.preactivation} <= set(_TWINS):
            return None

        def twin(t: float, y: Array, theta: Array) -> Array:
            views, layers = field.views(theta), len(field.sizes) - 1
            x = _TWINS[field.preactivation](y)
            for k in range(1, layers + 1):
                z = x @ views[f"W{k}"] + views[f"b{k}"] + t * views.get(f"v{k}", 0.0)
                x = _TWINS[field.activation if k < layers else field.outer](z)
            return x

        return twin
    if not isinstance(field, PythonField):
        return None
    value = field.function("value")
    y, theta = run.y0.astype(np.float64), run.theta.astype(np.float64)
    y_dot, theta_dot = np.cos(1.0 + np.arange(y.size)).reshape(y.shape), np.sin(1.0 + np.arange(theta.size))
    try:  # one probe: complex in, complex out, and the derivative that real differences have
        probe = complex_step(lambda x: np.asarray(value(run.tspan[0], y + x * y_dot, theta + x * theta_dot)) + 0j * x, 0.0, 1.0)
        real, error = finite_difference(lambda x: np.array(value(run.tspan[0], y + x * y_dot, theta + x * theta_dot), dtype=float), 0.0, 1.0, 0.01)
    except Exception:  # noqa: BLE001 - a user's function that takes no complex numbers may raise anything
        return None
    scale = np.abs(real).max(initial=0.0)
    return (lambda t, y, theta: np.asarray(value(t, y, theta))) if np.abs(probe - real).max(initial=0.0) <= 10 * error + 1e-6 * scale else None
