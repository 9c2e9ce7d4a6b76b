"""SciPy's peers, each called as its own manual would have it solve a problem as fast as it can."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from .case import Case, SolveFailed, arrays, end_of_pair, last_column, plain_parameters, pointer
from .problems import Problem

# --- CyRK -------------------------------------------------------------------------------------------------------------------


@lru_cache
def _cyrk_count(problem: Problem, tol: float, method: str) -> int:
    """Its compiled entries count steps only: the same C++ solver counts calls of a Python function."""
    from CyRK import pysolve_ivp

    count, p = 0, plain_parameters(problem)

    def f(dy: Any, t: float, y: Any) -> None:
        nonlocal count
        count += 1
        dy[:] = problem.python(t, y, p)

    pysolve_ivp(f, (0.0, problem.t1), np.array(problem.y0), method=method, rtol=tol, atol=tol, pass_dy_as_arg=True)
    return count


def cyrk_python(method: str) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        from CyRK import pysolve_ivp

        (y0, _), p, python = arrays(problem), plain_parameters(problem), problem.python

        def f(dy: Any, t: float, y: Any) -> None:
            dy[:] = python(t, y, p)

        options = {"method": method, "rtol": tol, "atol": tol, "pass_dy_as_arg": True}
        return Case(lambda t1: pysolve_ivp(f, (0.0, t1), y0, **options), last_column, lambda _: _cyrk_count(problem, tol, method))

    return prepare


@lru_cache
def cyrk_compiled_call(method: str) -> Any:
    """nbsolve2_ivp called from compiled code, which copies the end and frees the rest: no cost of Python between."""
    import numba
    from CyRK import nbsolve2_ivp

    @numba.njit
    def call(address, t1, y0, p, tol):
        result = nbsolve2_ivp(address, (0.0, t1), y0, method=method, args=p, rtol=tol, atol=tol)
        success, y = result.success, result.y
        end = y[:, y.shape[1] - 1].copy() if success else y0
        result.free()
        return success, end

    return call


def cyrk_compiled(method: str) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        address, call, (y0, p) = pointer(problem.fill, "dy t y p").address, cyrk_compiled_call(method), arrays(problem)
        return Case(lambda t1: call(address, t1, y0, p, tol), end_of_pair, lambda _: _cyrk_count(problem, tol, method))

    return prepare


def cyrk_from_python(method: str) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        from CyRK import nbsolve2_ivp

        address, (y0, p) = pointer(problem.fill, "dy t y p").address, arrays(problem)

        def solve(t1: float) -> tuple[bool, Any]:
            result = nbsolve2_ivp(address, (0.0, t1), y0, method=method, args=p, rtol=tol, atol=tol)
            success, y = result.success, result.y.copy()
            result.free()
            return success, y[:, -1]

        return Case(solve, end_of_pair, lambda _: _cyrk_count(problem, tol, method))

    return prepare


# --- numbalsoda -------------------------------------------------------------------------------------------------------------


def numbalsoda(method: str) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        import numbalsoda as nl

        entry, order = getattr(nl, method), "t y dy p"
        address, (y0, p) = pointer(problem.fill, order).address, arrays(problem)

        def solve(t1: float) -> tuple[bool, Any]:
            y, success = entry(address, y0, np.array([0.0, t1]), data=p, rtol=tol, atol=tol, mxstep=10**6)
            return success, y[-1]

        def work(_: Any) -> int:
            counted = np.array([0.0, *problem.p, 0.0])  # the pointer starts at p[0], so that p[-1] is the first number
            entry(pointer(problem.fill, order, True).address, y0, np.array([0.0, problem.t1]), data=counted[1:], rtol=tol, atol=tol, mxstep=10**6)
            return int(counted[0])

        return Case(solve, end_of_pair, work)

    return prepare


# --- heyoka -----------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def heyoka_integrator(formula: Callable[..., list[Any]], y0: tuple[float, ...], p: tuple[float, ...], tol: float) -> Any:
    import heyoka as hy

    y = hy.make_vars(*(f"y{i:02d}" for i in range(len(y0))))
    system = list(zip(y, formula(hy.time, y, [hy.par[i] for i in range(len(p))]), strict=True))
    return hy.taylor_adaptive(system, np.array(y0), pars=np.array(p), tol=tol)


def heyoka_taylor(problem: Problem, tol: float) -> Case:
    integrator, y0 = heyoka_integrator(problem.formula, problem.y0, problem.p, tol), np.array(problem.y0)

    def solve(t1: float) -> tuple[bool, Any, int]:
        integrator.time = 0.0
        integrator.state[:] = y0
        outcome, _, _, steps, *_ = integrator.propagate_until(t1)
        return outcome.name == "time_limit", integrator.state.copy(), steps

    return Case(solve, end_of_pair, lambda answer: int(answer[2]))


# --- diffrax ----------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def diffrax_solver(problem: Problem, method: str) -> Any:
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # in the thread that is timed: the CPU time of others is counted late
    term, solver = diffrax.ODETerm(problem.stacked(jnp)), getattr(diffrax, method)()

    @jax.jit
    def call(t1: Any, y0: Any, p: Any, tol: Any) -> Any:
        found = diffrax.diffeqsolve(
            term, solver, 0.0, t1, None, y0, p, stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
            adjoint=diffrax.DirectAdjoint(), max_steps=None, throw=False,
        )  # fmt: skip
        return found.result == diffrax.RESULTS.successful, found.ys[-1], found.stats["num_steps"]

    return call


def diffrax_jitted(method: str, evaluations_a_step: int) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        call = diffrax_solver(problem, method)  # first: it asks JAX for double precision
        import jax.numpy as jnp

        y0, p = jnp.array(problem.y0, dtype=jnp.float64), jnp.array(problem.p, dtype=jnp.float64)

        def solve(t1: float) -> Any:
            answer = call(t1, y0, p, tol)
            answer[1].block_until_ready()
            return answer

        return Case(solve, end_of_pair, lambda answer: evaluations_a_step * int(answer[2]))

    return prepare


# --- torchdiffeq ------------------------------------------------------------------------------------------------------------


def torchdiffeq_dopri5(problem: Problem, tol: float) -> Case:
    import torch
    from torchdiffeq import odeint

    torch.set_num_threads(1)
    y0, p = torch.tensor(problem.y0, dtype=torch.float64), torch.tensor(problem.p, dtype=torch.float64)
    stacked, count = problem.stacked(torch), 0

    def f(t: Any, y: Any) -> Any:
        nonlocal count
        count += 1
        return stacked(t, y, p)

    def solve(t1: float) -> Any:
        nonlocal count
        count = 0
        with torch.no_grad():
            return odeint(f, y0, torch.tensor([0.0, t1], dtype=torch.float64), rtol=tol, atol=tol, method="dopri5")[-1], count

    def state(answer: Any) -> Any:
        if not math.isfinite(float(answer[0].sum())):
            raise SolveFailed("the solution is not finite")
        return answer[0].numpy()

    return Case(solve, state, lambda answer: answer[1])
