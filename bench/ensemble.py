"""Ensembles against their peers: 10 000 Lorenz systems with different rho, 0 to 10, at several tolerances, with 1 and 2 threads.

`python -m bench.ensemble` prints the table; `run()` returns its rows. Every library gets the same right-hand side, compiled by Numba with the same
options, and its own fastest form: CyRK and numbalsoda are called from compiled code without the GIL, trajectories dealt to threads in equal parts.
Seconds are medians of runs taken turn and turn about, after a call that compiles: with one thread those in which the process had the CPU, with two
those on the clock, which on a busy machine say little; the error is the median over some trajectories of the largest
component's, against DOP853 at 1e-12. "at equal error" interpolates (log, log) to the error that adaptode's Tsit5 makes at 1e-6.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numba
import numpy as np

import adaptode as ao

END, TOLERANCES, THREADS, CHECKED = 10.0, (1e-5, 1e-6, 1e-7), (1, 2), 40
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
Solver = Callable[[float, int], np.ndarray]  # tolerance, threads -> final states (M, 3)


@numba.njit(**OPTIONS)
def lorenz(t, y, p, dy):
    dy[0] = p[0] * (y[1] - y[0])
    dy[1] = y[0] * (p[1] - y[2]) - y[1]
    dy[2] = y[0] * y[1] - p[2] * y[2]


def parameters(count: int) -> np.ndarray:
    P = np.tile([10.0, 0.0, 8 / 3], (count, 1))
    P[:, 1] = np.linspace(20.0, 30.0, count)
    return P


def adaptode(method: str, P: np.ndarray) -> Solver:
    def solver(tol: float, threads: int) -> np.ndarray:
        result = ao.solve_ensemble(lorenz, (0.0, END), np.ones(3), P, method=method, rtol=tol, atol=tol, threads=threads)
        assert result.success.all()
        return result.y[:, 0]

    return solver


def in_parts(part: Callable[[float, int, int, np.ndarray], None], P: np.ndarray) -> Solver:
    """A solver from one that fills rows start … stop − 1 without the GIL."""

    def solver(tol: float, threads: int) -> np.ndarray:
        out = np.full((len(P), 3), np.nan)
        bounds = np.linspace(0, len(P), 8 * threads + 1).astype(int)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda a, b: part(tol, a, b, out), bounds[:-1], bounds[1:]))
        assert np.isfinite(out).all()
        return out

    return solver


def cyrk(method: str, P: np.ndarray) -> Solver:
    from CyRK import nbsolve2_ivp

    array = numba.types.CPointer(numba.types.float64)

    @numba.cfunc(numba.types.void(array, numba.types.float64, array, array), error_model="numpy", fastmath={"contract"})
    def call(dy, t, y, p):
        lorenz(t, y, p, dy)

    @numba.njit(nogil=True)
    def rows(address, tol, start, stop, P, out):
        y0 = np.ones(3)
        for j in range(start, stop):
            result = nbsolve2_ivp(address, (0.0, END), y0, method=method, args=P[j], rtol=tol, atol=tol)
            if result.success:
                y = result.y
                out[j] = y[:, y.shape[1] - 1]
            result.free()

    address = call.address
    return in_parts(lambda tol, a, b, out, keep=call: rows(address, tol, a, b, P, out), P)


def numbalsoda(method: str, P: np.ndarray) -> Solver:
    import numbalsoda as library

    entry, array = getattr(library, method), numba.types.CPointer(numba.types.float64)

    @numba.cfunc(numba.types.void(numba.types.float64, array, array, array), error_model="numpy", fastmath={"contract"})
    def call(t, y, dy, p):
        lorenz(t, y, p, dy)

    @numba.njit(nogil=True)
    def rows(address, tol, start, stop, P, out):
        y0, span = np.ones(3), np.array([0.0, END])
        for j in range(start, stop):
            y, success = entry(address, y0, span, data=P[j], rtol=tol, atol=tol, mxstep=10**6)
            if success:
                out[j] = y[-1]

    address = call.address
    return in_parts(lambda tol, a, b, out, keep=call: rows(address, tol, a, b, P, out), P)


CONTENDERS: dict[str, tuple[Callable[[str, np.ndarray], Solver], str]] = {
    "adaptode Tsit5": (adaptode, "Tsit5"),
    "adaptode Dopri5": (adaptode, "Dopri5"),
    "CyRK Tsit5": (cyrk, "Tsit5"),
    "CyRK RK45": (cyrk, "RK45"),
    "CyRK DOP853": (cyrk, "DOP853"),
    "numbalsoda dop853": (numbalsoda, "dop853"),
}


def reference(P: np.ndarray) -> np.ndarray:
    from scipy.integrate import solve_ivp

    def f(t: float, y: Any, p: Any) -> list[float]:
        return [p[0] * (y[1] - y[0]), y[0] * (p[1] - y[2]) - y[1], y[0] * y[1] - p[2] * y[2]]

    return np.array([solve_ivp(f, (0.0, END), np.ones(3), method="DOP853", rtol=1e-12, atol=1e-12, args=(p,)).y[:, -1] for p in P])


def run(quick: bool = False) -> list[dict[str, Any]]:
    """One row a contender, tolerance and number of threads: seconds, seconds of compiling, error, seconds at equal error."""
    P = parameters(1000 if quick else 10_000)
    checked = np.linspace(0, len(P) - 1, CHECKED).astype(int)
    exact = reference(P[checked])
    solvers: dict[str, Solver] = {}
    rows, compiling = [], {}
    for name, (make, method) in CONTENDERS.items():
        began = time.perf_counter()
        try:
            solvers[name] = make(method, P)
            solvers[name](1e-3, 1)
        except ImportError as error:
            rows.append({"contender": name, "trajectories": len(P), "note": f"absent: {error}"})
        compiling[name] = time.perf_counter() - began
    seconds: dict[tuple[str, float, int], list[float]] = {}
    errors: dict[tuple[str, float], float] = {}
    for _ in range(3 if quick else 5):
        for tol in TOLERANCES:
            for threads in THREADS:
                for name, solver in solvers.items():
                    began, cpu = time.perf_counter(), time.process_time()
                    y = solver(tol, threads)
                    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
                    seconds.setdefault((name, tol, threads), []).append(min(wall, cpu) if threads == 1 else wall)
                    errors[name, tol] = float(np.median(np.abs(y[checked] - exact).max(axis=1)))
    target = np.log(errors["adaptode Tsit5", 1e-6])
    for name in solvers:
        curve = [np.log(errors[name, tol]) for tol in TOLERANCES][::-1]
        for threads in THREADS:
            times = [np.log(median(seconds[name, tol, threads])) for tol in TOLERANCES][::-1]
            equal = float(np.exp(np.interp(target, curve, times)))
            for tol in TOLERANCES:
                rows.append(
                    {
                        "contender": name,
                        "trajectories": len(P),
                        "tolerance": tol,
                        "threads": threads,
                        "seconds": median(seconds[name, tol, threads]),
                        "fastest": min(seconds[name, tol, threads]),
                        "error": errors[name, tol],
                        "at equal error": equal,
                        "compile and first call": compiling[name],
                        "note": "",
                    }
                )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    header = ["contender", "trajectories", "tolerance", "threads", "seconds", "fastest", "error", "at equal error", "compile and first call", "note"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        lines.append("| " + " | ".join(f"{v:.3g}" if isinstance(v := row.get(key, ""), float) else str(v) for key in header) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.ensemble", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1000 trajectories, fewer repeats")
    print(table(run(parser.parse_args().quick)))
