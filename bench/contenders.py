"""The solvers that compete: SciPy, adaptode and its peers, each with what it needs and what it brings back.

A contender prepares a `Case`: everything that is done once (compiling, the first call) is done there, and `solve(t1)` is what is timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from . import peers
from .case import JIT, Case, SolveFailed, arrays, jitted, last_column, nfev, plain_parameters
from .problems import Problem


@dataclass(frozen=True)
class Contender:
    key: str
    library: str
    method: str
    how: str  # what form the right-hand side has, which entry is called
    output: str  # what the timed call brings back
    prepare: Callable[[Problem, float], Case]
    needs: tuple[str, ...]
    work_unit: str = ""  # where `work` does not count right-hand sides one by one
    plotted: bool = True

    @property
    def label(self) -> str:
        return f"{self.library} {self.method}, {self.how}"

    @property
    def short(self) -> str:
        """For a legend: the form is said where a library has several curves of a method."""
        return self.label if self.how in ("Python f", "njit f", "specialize") and self.library != "torchdiffeq" else f"{self.library} {self.method}"

    def missing(self) -> str:
        """Why it cannot run here, or an empty string."""
        for need in self.needs:
            module, _, name = need.partition(":")
            try:
                found = importlib.import_module(module)
            except Exception as error:  # a broken install must not end the report
                return f"{module} does not import ({type(error).__name__}: {error})"
            if name and not hasattr(found, name):
                return f"{module} has no {name}"
        return ""


# --- SciPy ----------------------------------------------------------------------------------------------------------------


def scipy_python(method: str) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        from scipy.integrate import solve_ivp

        options = {"method": method, "rtol": tol, "atol": tol, "args": (plain_parameters(problem),)}
        return Case(lambda t1: solve_ivp(problem.python, (0.0, t1), problem.y0, **options), last_column, nfev)

    return prepare


@lru_cache
def scipy_style(fill: Callable[..., None], p: tuple[float, ...]) -> Any:
    """f(t, y) -> array, compiled."""
    import numba

    body, parameters = jitted(fill), np.array(p)

    def f(t, y):
        dy = np.empty_like(y)
        body(t, y, parameters, dy)
        return dy

    return numba.njit(f, **JIT)


def scipy_njit(method: str) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        from scipy.integrate import solve_ivp

        f = scipy_style(problem.fill, problem.p)
        return Case(lambda t1: solve_ivp(f, (0.0, t1), problem.y0, method=method, rtol=tol, atol=tol), last_column, nfev)

    return prepare


# --- adaptode ---------------------------------------------------------------------------------------------------------------


def adaptode_python(method: str) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        import adaptode as ao

        options = {"method": method, "rtol": tol, "atol": tol, "args": (plain_parameters(problem),)}
        return Case(lambda t1: ao.solve_ivp(problem.python, (0.0, t1), problem.y0, **options), last_column, nfev)

    return prepare


def adaptode_njit(method: str) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        import adaptode as ao

        f = scipy_style(problem.fill, problem.p)
        return Case(lambda t1: ao.solve_ivp(f, (0.0, t1), problem.y0, method=method, rtol=tol, atol=tol), last_column, nfev)

    return prepare


@lru_cache
def adaptode_rhs(fill: Callable[..., None]) -> Any:
    import adaptode as ao

    return ao.rhs(jitted(fill))


def adaptode_rhs_form(method: str, **more: Any) -> Callable[[Problem, float], Case]:
    def prepare(problem: Problem, tol: float) -> Case:
        import adaptode as ao

        f, (y0, p) = adaptode_rhs(problem.fill), arrays(problem)
        return Case(lambda t1: ao.solve_ivp(f, (0.0, t1), y0, method=method, p=p, rtol=tol, atol=tol, **more), last_column, nfev)

    return prepare


@lru_cache
def adaptode_lean_solver(fill: Callable[..., None], method: str) -> Any:
    import adaptode as ao

    return ao.jit_solver(adaptode_rhs(fill), method=method)


def adaptode_lean(method: str) -> Callable[[Problem, float], Case]:
    def state(answer: Any) -> Any:
        if answer[0] != 0:
            raise SolveFailed(f"status {answer[0]} at t = {answer[1]}")
        return answer[2]

    def prepare(problem: Problem, tol: float) -> Case:
        solver, (y0, p) = adaptode_lean_solver(problem.fill, method), arrays(problem)
        return Case(lambda t1: solver(0.0, t1, y0, p, tol, tol), state, lambda answer: int(answer[3]))

    return prepare


# --- the list ---------------------------------------------------------------------------------------------------------------


def _contenders() -> list[Contender]:
    steps, end, plain = "every step", "the end", "Python f"
    ivp, rhs, lean = ("adaptode:solve_ivp",), ("adaptode:solve_ivp", "adaptode:rhs"), ("adaptode:rhs", "adaptode:jit_solver")
    rows = [
        Contender("scipy-rk45", "SciPy", "RK45", plain, steps, scipy_python("RK45"), ("scipy",)),
        Contender("scipy-rk45-njit", "SciPy", "RK45", "njit f", steps, scipy_njit("RK45"), ("scipy", "numba")),
        Contender("scipy-dop853", "SciPy", "DOP853", plain, steps, scipy_python("DOP853"), ("scipy",)),
        Contender("cyrk-rk45-python", "CyRK", "RK45", plain, steps, peers.cyrk_python("RK45"), ("CyRK",), plotted=False),
        Contender("adaptode-rk45-python", "adaptode", "RK45", plain, steps, adaptode_python("RK45"), ivp),
        Contender("adaptode-rk45-njit", "adaptode", "RK45", "njit f", steps, adaptode_njit("RK45"), ivp, plotted=False),
    ]
    for method in ("RK45", "Tsit5", "DOP853"):
        m = method.lower()
        rows += [
            Contender(f"cyrk-{m}", "CyRK", method, "nbsolve2_ivp in njit code", steps, peers.cyrk_compiled(method), ("CyRK:nbsolve2_ivp", "numba")),
            Contender(f"adaptode-{m}", "adaptode", method, "@rhs", steps, adaptode_rhs_form(method), rhs, plotted=False),
            Contender(f"adaptode-{m}-specialize", "adaptode", method, "specialize", steps, adaptode_rhs_form(method, specialize=True), rhs),
            Contender(f"adaptode-{m}-lean", "adaptode", method, "jit_solver", end, adaptode_lean(method), lean, plotted=False),
        ]
    rows += [
        Contender(
            "cyrk-rk45-call", "CyRK", "RK45", "nbsolve2_ivp from Python", steps, peers.cyrk_from_python("RK45"), ("CyRK:nbsolve2_ivp", "numba"), plotted=False
        ),  # fmt: skip
        Contender("numbalsoda-dop853", "numbalsoda", "DOP853", "cfunc", end, peers.numbalsoda("dop853"), ("numbalsoda:dop853",)),
        Contender("numbalsoda-lsoda", "numbalsoda", "LSODA", "cfunc", end, peers.numbalsoda("lsoda"), ("numbalsoda:lsoda",), plotted=False),
        Contender("heyoka", "heyoka", "Taylor", "expressions", end, peers.heyoka_taylor, ("heyoka",), "Taylor steps"),
        Contender("diffrax-tsit5", "diffrax", "Tsit5", "jit", end, peers.diffrax_jitted("Tsit5", 6), ("diffrax",), "six a step"),
        Contender("diffrax-dopri8", "diffrax", "Dopri8", "jit", end, peers.diffrax_jitted("Dopri8", 13), ("diffrax",), "thirteen a step", plotted=False),
        Contender("torchdiffeq-dopri5", "torchdiffeq", "dopri5", plain, end, peers.torchdiffeq_dopri5, ("torch", "torchdiffeq")),
    ]
    return rows


CONTENDERS: dict[str, Contender] = {contender.key: contender for contender in _contenders()}
