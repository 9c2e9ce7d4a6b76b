"""diffrax on the workloads of `bench train`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .train_types import Case, SolveFailed
from .workloads import Workload

MAX_STEPS = 32  # twice what any workload takes: the fewer, the smaller its buffer of checkpoints, and the faster the gradient
EVALUATIONS = 6, 3  # of Tsit5: a step, and to begin with: its first slope twice, and one to choose the first step


def diffrax_case(workload: Workload, dtype: str, tolerance: float, threads: int, backsolve: bool = False) -> Case:
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", dtype == "float64")
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # whoever waits for every result is served sooner in its own thread

    def field(t: Any, y: Any, layers: Any) -> Any:
        x = y * y * y if workload.preactivation == "cube" else y
        for k, (W, *v, b) in enumerate(layers):
            x = x @ W + (b + t * v[0] if v else b)
            x = jnp.tanh(x) if k < len(layers) - 1 else x
        return x

    array = lambda a: jnp.asarray(np.asarray(a, dtype))  # noqa: E731
    params = jax.tree.map(array, workload.layers(workload.params))
    X, target = workload.data
    X, target = array(X), array(target) if workload.loss != "cross_entropy" else jnp.asarray(target, jnp.int32)
    t0, t1 = array(0.0), array(workload.t1)
    saveat = diffrax.SaveAt(t1=True) if workload.times is None else diffrax.SaveAt(ts=array(workload.times))
    term, solver, controller = diffrax.ODETerm(field), diffrax.Tsit5(), diffrax.PIDController(rtol=tolerance, atol=tolerance)
    adjoint = diffrax.BacksolveAdjoint() if backsolve else diffrax.RecursiveCheckpointAdjoint()

    def solve(params: Any, X: Any) -> tuple[Any, Any]:
        layers, head = params
        found = diffrax.diffeqsolve(
            term, solver, t0, t1, None, X, layers, saveat=saveat, stepsize_controller=controller, adjoint=adjoint, max_steps=MAX_STEPS, throw=False
        )
        states = found.ys[-1] if workload.times is None else jnp.moveaxis(found.ys, 0, 1)
        return states @ head[0] + head[1] if head else states, found

    def loss(params: Any, X: Any, target: Any) -> Any:
        out = solve(params, X)[0]
        if workload.loss == "binary_cross_entropy":
            return (jax.nn.softplus(out[:, 0]) - out[:, 0] * target).mean()
        if workload.loss == "cross_entropy":
            return (jax.nn.logsumexp(out, axis=1) - jnp.take_along_axis(out, target[:, None], axis=1)[:, 0]).mean()
        return ((out - target) ** 2).mean()

    predict, value_and_grad = jax.jit(lambda params, X: solve(params, X)[0]), jax.jit(jax.value_and_grad(loss))

    def work() -> int:
        found = jax.jit(lambda params, X: (lambda s: (s.stats["num_steps"], s.result == diffrax.RESULTS.successful))(solve(params, X)[1]))(params, X)
        if not found[1]:
            raise SolveFailed("diffrax reports no success")
        return EVALUATIONS[0] * int(found[0]) + EVALUATIONS[1]

    def read(found: Any) -> tuple[float, np.ndarray]:
        return float(found[0]), np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(found[1])])

    return Case(
        lambda: jax.block_until_ready(predict(params, X)),
        lambda: jax.block_until_ready(value_and_grad(params, X, target)),
        np.asarray,
        read,
        work,
    )
