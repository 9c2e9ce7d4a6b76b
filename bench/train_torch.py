"""torchdiffeq and torchode on the workloads of `bench train`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .train_types import Case, SolveFailed
from .workloads import Workload


class _Problem:
    """The weights and data of a workload as tensors, its field and its loss; the field counts its calls where asked to."""

    def __init__(self, workload: Workload, dtype: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.workload, self.dtype = torch, workload, getattr(torch, dtype)
        layers, head = workload.layers(workload.params)
        self.layers = [[self.tensor(part).requires_grad_() for part in layer] for layer in layers]
        self.head = [self.tensor(part).requires_grad_() for part in head]
        self.params = [part for layer in self.layers for part in layer] + self.head
        X, y = workload.data
        self.X, self.y = self.tensor(X), torch.tensor(y) if workload.loss == "cross_entropy" else self.tensor(y)
        self.calls, self.counting = 0, False

    def tensor(self, value: Any) -> Any:
        return self.torch.tensor(np.asarray(value), dtype=self.dtype)

    def field(self, t: Any, y: Any) -> Any:
        torch, x = self.torch, y
        if self.counting:
            self.calls += 1
        if self.workload.preactivation == "cube":
            x = x * x * x
        for k, (W, *v, b) in enumerate(self.layers):
            shift = b if not v else b + t * v[0] if t.ndim == 0 else torch.addcmul(b, t[:, None], v[0])
            x = torch.addmm(shift, x, W)
            x = torch.tanh(x) if k < len(self.layers) - 1 else x
        return x

    def loss(self, out: Any) -> Any:
        functional = self.torch.nn.functional
        if self.workload.loss == "binary_cross_entropy":
            return functional.binary_cross_entropy_with_logits(out[:, 0], self.y)
        return functional.cross_entropy(out, self.y) if self.workload.loss == "cross_entropy" else functional.mse_loss(out, self.y)

    def case(self, states: Callable[[], Any], work: Callable[[], int]) -> Case:
        """A case whose `states` are (B, n), or (B, k, n) at the observation times."""

        def outputs() -> Any:
            y = states()
            return self.torch.addmm(self.head[1], y, self.head[0]) if self.head else y

        def forward() -> Any:
            with self.torch.no_grad():
                return outputs()

        def gradient() -> Any:
            loss = self.loss(outputs())
            return loss, self.torch.autograd.grad(loss, self.params)

        def read(found: Any) -> tuple[float, np.ndarray]:
            return float(found[0].detach()), np.concatenate([part.numpy().ravel() for part in found[1]])

        return Case(forward, gradient, lambda out: out.numpy(), read, work)


def torchdiffeq_case(workload: Workload, dtype: str, tolerance: float, threads: int, adjoint: bool = False) -> Case:
    from torchdiffeq import odeint, odeint_adjoint

    problem = _Problem(workload, dtype, threads)
    times = problem.tensor([0.0, workload.t1] if workload.times is None else [0.0, *workload.times])
    options: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "method": "dopri5"}
    if adjoint:  # the seminorm is the manual's advice for fewer steps
        options |= {"adjoint_params": tuple(part for layer in problem.layers for part in layer), "adjoint_options": {"norm": "seminorm"}}
    integrate = odeint_adjoint if adjoint else odeint

    def states() -> Any:
        found = integrate(problem.field, problem.X, times, **options)
        return found[-1] if workload.times is None else found[1:].transpose(0, 1)

    case = problem.case(states, lambda: 0)

    def work() -> int:
        problem.calls, problem.counting = 0, True
        case.forward()
        problem.counting = False
        return problem.calls

    return case._replace(work=work)


def torchode_case(workload: Workload, dtype: str, tolerance: float, threads: int, compiled: bool = False) -> Case:
    import torchode

    problem = _Problem(workload, dtype, threads)
    torch, batch = problem.torch, workload.batch
    start, end = (torch.full((batch,), t, dtype=problem.dtype) for t in (0.0, workload.t1))
    times = None if workload.times is None else problem.tensor(workload.times).repeat(batch, 1)
    term = torchode.ODETerm(problem.field)
    controller = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller, backprop_through_step_size_control=False)

    integrate = solver.solve
    if compiled:
        torch._dynamo.reset()  # it compiles one function so many times and no more
        integrate = torch.compile(solver.solve)

    def solve() -> Any:
        return integrate(torchode.InitialValueProblem(y0=problem.X, t_start=start, t_end=end, t_eval=times))

    def states() -> Any:
        ys = solve().ys
        return ys[:, -1] if times is None else ys

    def work() -> int:
        with torch.no_grad():
            found = solve()
        if found.status.any():
            raise SolveFailed("torchode reports no success")
        return int(found.stats["n_f_evals"].max())

    return problem.case(states, work)
