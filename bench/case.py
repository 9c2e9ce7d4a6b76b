"""A problem made ready for a library, and the compiled right-hand sides that several libraries share.

Every library that calls a compiled right-hand side calls the same function, through the same compiler (Numba).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .problems import Problem

JIT = {"error_model": "numpy", "fastmath": {"contract"}}


class SolveFailed(Exception):
    """The solver itself says that it did not reach the end."""


class Case(NamedTuple):
    """A problem at a tolerance, ready for a contender.

    solve(t1) is timed; state(answer) is y at t1, or raises SolveFailed; work(answer) counts right-hand sides of a solve to problem.t1 (heyoka: steps).
    """

    solve: Callable[[float], Any]
    state: Callable[[Any], Any]
    work: Callable[[Any], int]


@lru_cache
def jitted(fill: Callable[..., None]) -> Any:
    import numba

    return numba.njit(fill, **JIT)


@lru_cache
def pointer(fill: Callable[..., None], order: str, counting: bool = False) -> Any:
    """`fill` as a C function of raw pointers, its arguments in a library's order; `counting` adds one to p[n_params] at every call."""
    import numba

    body, f8 = jitted(fill), numba.types.float64
    array = numba.types.CPointer(f8)

    if order == "dy t y p":

        def call(dy, t, y, p):
            body(t, y, p, dy)

        arguments = (array, f8, array, array)
    elif counting:

        def call(t, y, dy, p):
            p[-1] += 1.0
            body(t, y, p, dy)

        arguments = (f8, array, array, array)
    else:

        def call(t, y, dy, p):
            body(t, y, p, dy)

        arguments = (f8, array, array, array)
    return numba.cfunc(numba.types.void(*arguments), **JIT)(call)


def arrays(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    return np.array(problem.y0), np.array(problem.p)


def plain_parameters(problem: Problem) -> Any:
    """p as Python code likes it: floats to unpack, an array for array code."""
    return np.array(problem.p) if problem.vector else problem.p


def last_column(result: Any) -> Any:
    if not result.success:
        raise SolveFailed(str(result.message))
    return result.y[:, -1]


def nfev(result: Any) -> int:
    return int(result.nfev)


def end_of_pair(answer: tuple[bool, Any]) -> Any:
    if not answer[0]:
        raise SolveFailed("the solver reports no success")
    return answer[1]
