"""Value and gradient of Jacobian penalties, R = mean_b φ(J_b) with respect to θ and y: adaptode, its route by SVDs, JAX and PyTorch.

All with the same weights, states and float64, on one thread, compiled or warm, timed turn and turn about. The gradient's error is against singular triplets
of J in extended precision: those of the SVD after two steps of Newton's method on the triplet's equations in long double, and the same bilinear form.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import adaptode as ao
from adaptode.experiments.report import open_folder, table, write_text

from . import charts, record
from .timing import on_the_wall, rounds
from .units import seconds, times

WORKLOADS = {2: ((2, 64, 64, 2), 256), 32: ((32, 64, 64, 32), 256), 256: ((256, 512, 256), 128)}
PENALTIES = {"kappa": "κ(J)", "spectral": "‖J‖₂", "frobenius": "‖J‖_F"}
TARGETS = {(32, "kappa"): 5.0, (256, "kappa"): 8.0}
Result = tuple[float, np.ndarray, np.ndarray]


class Case:
    """A penalty on one workload."""

    def __init__(self, d: int, penalty: str) -> None:
        self.penalty, (sizes, batch) = penalty, WORKLOADS[d]
        rng = np.random.default_rng(0)
        self.field = ao.MLP(sizes)
        self.theta, self.y = self.field.init(rng), rng.standard_normal((batch, d))
        self.bar = np.full(batch, 1.0 / batch)
        self.term = ao.ConditionNumber(1.0, floor=0.0) if penalty == "kappa" else ao.JacobianNorm(penalty, 1.0)

    def ours(self) -> Result:
        values, transpose, _ = self.term.pointwise(self.field, 0.0, self.y, self.theta, 0.0)
        return float(values.mean()), *transpose(self.bar)

    def by_svd(self) -> Result:
        """The batched SVD, and the bilinear form with J's cotangent in all n unit directions."""
        J = self.field.jacobian(0.0, self.y, self.theta)
        U, s, Vt = np.linalg.svd(J)
        first, last = U[:, :, :1] * Vt[:, :1], U[:, :, -1:] * Vt[:, -1:]
        top, low = s[:, :1, None], s[:, -1:, None]
        values, J_bar = (s[:, 0] / s[:, -1], first / low - top / low**2 * last) if self.penalty == "kappa" else (s[:, 0], first)
        u = np.broadcast_to(np.eye(self.field.n), J.shape)
        w = (self.bar[:, None, None] * J_bar).transpose(0, 2, 1)
        y_bar, theta_bar = self.field.bilinear_vjp(0.0, self.y, self.theta, u, w)
        return float(values.mean()), y_bar, theta_bar

    def reference(self) -> Result:
        J = self.field.jacobian(0.0, self.y, self.theta)
        if self.penalty == "frobenius":
            values = np.sqrt((J.astype(np.longdouble) ** 2).sum(axis=(1, 2)))
            u, w = np.broadcast_to(np.eye(self.field.n), J.shape), np.ascontiguousarray((J / values[:, None, None]).transpose(0, 2, 1), dtype=np.float64)
        else:
            U, s, Vt = np.linalg.svd(J)
            u_1, s_1, v_1 = _polished(J, U, s, Vt, 0)
            if self.penalty == "spectral":
                values, u, w = s_1, v_1[:, None], u_1[:, None]
            else:
                u_n, s_n, v_n = _polished(J, U, s, Vt, -1)
                values = s_1 / s_n
                u, w = np.stack([v_1, v_n], axis=1), np.stack([u_1 / s_n[:, None], -(s_1 / s_n**2)[:, None] * u_n], axis=1)
        y_bar, theta_bar = self.field.bilinear_vjp(0.0, self.y, self.theta, np.float64(u), np.float64(w) * self.bar[:, None, None])
        return float(values.mean()), y_bar, theta_bar

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        views = self.field.views(self.theta)
        return [(views[f"W{k}"], views[f"b{k}"]) for k in range(1, len(self.field.sizes))]

    def flat(self, value: Any, of_layers: Any, y_bar: Any) -> Result:
        return float(value), np.asarray(y_bar), np.concatenate([np.asarray(part).ravel() for pair in of_layers for part in pair])

    def in_jax(self) -> Callable[[], Result]:
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_cpu_enable_async_dispatch", False)

        def field(layers: Any, y: Any) -> Any:
            for W, b in layers[:-1]:
                y = jnp.tanh(y @ W + b)
            return y @ layers[-1][0] + layers[-1][1]

        def value(layers: Any, y: Any) -> Any:
            J = jax.vmap(jax.jacfwd(field, argnums=1), in_axes=(None, 0))(layers, y)
            if self.penalty == "frobenius":
                return jnp.sqrt((J**2).sum(axis=(1, 2))).mean()
            s = jnp.linalg.svd(J, compute_uv=False)
            return (s[:, 0] / s[:, -1] if self.penalty == "kappa" else s[:, 0]).mean()

        call = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))
        layers, y = jax.tree.map(jnp.asarray, (self.layers(), self.y))

        def run() -> Result:
            result, (layers_bar, y_bar) = jax.block_until_ready(call(layers, y))
            return self.flat(result, layers_bar, y_bar)

        return run

    def in_torch(self) -> Callable[[], Result]:
        import torch

        torch.set_num_threads(1)
        layers = [tuple(torch.tensor(part, requires_grad=True) for part in pair) for pair in self.layers()]
        y = torch.tensor(self.y, requires_grad=True)

        def field(y: Any) -> Any:
            for W, b in layers[:-1]:
                y = torch.tanh(y @ W + b)
            return y @ layers[-1][0] + layers[-1][1]

        jacobians = torch.func.vmap(torch.func.jacrev(field))

        def run() -> Result:
            J = jacobians(y)
            if self.penalty == "frobenius":
                value = torch.linalg.matrix_norm(J).mean()
            else:
                s = torch.linalg.svdvals(J)
                value = (s[:, 0] / s[:, -1] if self.penalty == "kappa" else s[:, 0]).mean()
            parts = torch.autograd.grad(value, [*(part for pair in layers for part in pair), y], allow_unused=True)
            bars = [torch.zeros_like(part) if bar is None else bar for bar, part in zip(parts, [p for pair in layers for p in pair], strict=False)]
            return self.flat(value.detach(), zip(bars[::2], bars[1::2], strict=True), parts[-1])

        return run


def _polished(J: np.ndarray, U: np.ndarray, s: np.ndarray, Vt: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k-th triplet of J = U diag(s) Vᵀ to more than double precision: with E = Uᵀ J V − diag(s) in long double, twice the first-order correction

    u += Σ_j≠k u_j (s_k E_jk + s_j E_kj) / (s_k² − s_j²),   v += Σ_j≠k v_j (s_j E_jk + s_k E_kj) / (s_k² − s_j²),   s_k = uᵀ J v
    """
    exact = J.astype(np.longdouble)
    basis_u, basis_v = U.astype(np.longdouble), Vt.transpose(0, 2, 1).astype(np.longdouble)
    u, v = basis_u[:, :, k].copy(), basis_v[:, :, k].copy()
    values = s.astype(np.longdouble)
    for _ in range(2):
        size = np.einsum("bi,bij,bj->b", u, exact, v, optimize=True)
        left = np.einsum("bi,bij->bj", np.einsum("bij,bj->bi", exact, v) - size[:, None] * u, basis_u)  # E_jk
        right = np.einsum("bj,bjl->bl", np.einsum("bij,bi->bj", exact, u) - size[:, None] * v, basis_v)  # E_kj
        gap = size[:, None] ** 2 - values**2
        gap[:, k] = np.inf
        u += np.einsum("bij,bj->bi", basis_u, (size[:, None] * left + values * right) / gap)
        v += np.einsum("bij,bj->bi", basis_v, (values * left + size[:, None] * right) / gap)
        u /= np.sqrt((u**2).sum(axis=1))[:, None]
        v /= np.sqrt((v**2).sum(axis=1))[:, None]
    return u, np.einsum("bi,bij,bj->b", u, exact, v, optimize=True), v


def _error(found: Result, reference: Result) -> float:
    """Relative error of the whole gradient."""
    a, b = (np.concatenate([part.ravel() for part in result[1:]]) for result in (found, reference))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def run(out: str, *, dims: list[int], budget: float, command: str = "") -> str:
    """Times everything at hand, writes result.jsonl, report.md and a figure to `out`; the report."""
    path, rows, absent = open_folder(out), [], {}
    head = record.header(command, {"dims": dims, "budget": budget}, ("jax", "torch"))
    for d in dims:
        for penalty in PENALTIES:
            case = Case(d, penalty)
            calls: dict[str, Callable[[], Result]] = {"adaptode": case.ours}
            if penalty != "frobenius":
                calls["by SVD"] = case.by_svd
            for name, make in (("JAX", case.in_jax), ("PyTorch", case.in_torch)):
                try:
                    calls[name] = make()
                except ImportError as error:
                    absent[name] = str(error)
            reference = case.reference()
            errors = {name: _error(call(), reference) for name, call in calls.items()}
            taken = {name: median(times) for name, times in rounds(calls, budget, by=on_the_wall).items()}
            rows += [{"d": d, "penalty": penalty, "contender": name, "seconds": taken[name], "error": errors[name]} for name in calls]
            record.write(path, head | {"absent": absent}, rows)
    groups = {f"{PENALTIES[penalty]}, d = {d}": {name: row["seconds"] for name, row in found.items()} for (d, penalty), found in _grouped(rows).items()}
    report = markdown(head | {"absent": absent}, rows, charts.bars(path / "penalties.png", groups, "seconds of value and gradient"))
    write_text(path / record.REPORT, report)
    return report


def _grouped(rows: list[dict[str, Any]]) -> dict[tuple[int, str], dict[str, dict[str, Any]]]:
    found: dict[tuple[int, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["d"], row["penalty"]), {})[row["contender"]] = row
    return found


def markdown(head: dict[str, Any], rows: list[dict[str, Any]], image: str) -> str:
    names = [name for name in ("adaptode", "by SVD", "JAX", "PyTorch") if any(row["contender"] == name for row in rows)]
    header = ["d", "φ", *names, *(f"× {name}" for name in names[1:]), "gradient's error", *(f"{name}'s" for name in names[1:])]
    body, checks = [], []
    for (d, penalty), found in _grouped(rows).items():
        speed = {name: found[name]["seconds"] / found["adaptode"]["seconds"] for name in names[1:] if name in found}
        cells = [seconds(found[name]["seconds"]) if name in found else "—" for name in names]
        errors = [f"{found[name]['error']:.0e}" if name in found else "—" for name in names]
        body.append([str(d), PENALTIES[penalty], *cells, *(times(speed.get(name)) for name in names[1:]), *errors])
        if (d, penalty) in TARGETS:
            least, error = TARGETS[d, penalty], found["adaptode"]["error"]
            sentence = f"{PENALTIES[penalty]} at d = {d} is {least:g} times as fast as by SVD, its gradient right to 1e-6"
            checks.append((sentence, speed["by SVD"] >= least and error <= 1e-6, f"{times(speed['by SVD'])}, {error:.0e}"))
    shapes = "; ".join(f"d = {d}: {'-'.join(map(str, WORKLOADS[d][0]))}, batch {WORKLOADS[d][1]}" for d in head["config"]["dims"])
    return record.markdown(
        [
            "# Jacobian penalties, timed",
            record.setting(head),
            f"Median seconds of value and gradient of R = mean φ(J) with respect to θ and y, float64, one thread, taken turn and turn about. {shapes}; tanh.",
            f"![penalties]({image})" if image else "",
            table(header, body),
            "## Targets\n\n" + record.targets(checks) if checks else "",
            record.left_out(head["absent"]),
        ]
    )
