"""Clocks and the machine: contenders timed turn and turn about, so that a busy moment falls on all alike."""

from __future__ import annotations

import gc
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Call = Callable[[], object]

# One thread for every library; set before any of them is imported.
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "NPROC": "1",  # the size of XLA's own pool of threads, which its flags leave as large as the machine
}
# What makes a library slower or faster than it is on another machine with the same CPU.
TELLING = (*ONE_THREAD, "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "NUMBA_CPU_NAME", "NUMBA_OPT", "NUMBA_DEBUG")
DIFFERENT = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # make OpenBLAS another library than the one that users have: not for the workers
UNKEPT = "PYTHONDONTWRITEBYTECODE"  # pip has compiled the peers' modules; those of a checkout would be compiled by each process again
ROOT = Path(__file__).resolve().parent.parent


def pin_threads() -> None:
    """One thread for every library not yet imported; a variable that is set already stays."""
    for name, value in ONE_THREAD.items():
        os.environ.setdefault(name, value)


def environment(threads: int) -> dict[str, str]:
    """The variables of a worker: so many threads for every library, and the same BLAS kernels as any user has."""
    kept = {name: value for name, value in os.environ.items() if name not in (*DIFFERENT, *ONE_THREAD, UNKEPT)}
    pinned = {name: str(threads) for name in ONE_THREAD if name.endswith("_NUM_THREADS")} | {"NUMBA_NUM_THREADS": str(threads), "NPROC": str(threads)}
    others = {name: value for name, value in ONE_THREAD.items() if name not in pinned and (threads == 1 or name != "XLA_FLAGS")}
    return kept | pinned | others | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


def turn_about(cases: list[Call], repeats: int) -> list[list[float]]:
    """Seconds of each case, the cases taken in turn, after one call each that compiles and warms."""
    for case in cases:
        case()
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(repeats):
        for case, record in zip(cases, seconds, strict=True):
            record.append(clock(case))
    return seconds


def rounds(cases: Mapping[Any, Call], budget: float, runs: int = 7, by: Callable[[Call], float] | None = None, pause: float = 0.0) -> dict[Any, list[float]]:
    """Seconds of every single call of each (warm) case, in `runs` rounds of all cases in turn.

    A case calls again and again in its share budget / runs of a round, at least once, and sits out once it has had its budget.
    by is `clock` if None. pause: seconds before each turn, with a call that is not counted after them, for libraries whose threads go on looking for work
    when there is none, and would take the next one's cores.
    """
    by = by or clock
    seconds: dict[str, list[float]] = {key: [] for key in cases}
    spent = dict.fromkeys(cases, 0.0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(runs):
            for key, case in cases.items():
                share = min(budget / runs, budget - spent[key])
                if pause and share > 0.0:
                    time.sleep(pause)
                    case()
                while share > 0.0:
                    took = by(case)
                    seconds[key].append(took)
                    spent[key] += took
                    share -= took
    finally:
        if collecting:
            gc.enable()
    return seconds


def clock(case: Call) -> float:
    """Seconds of a call in which this process had the CPU.

    On an idle machine that is the time on the clock. On a busy one the clock would charge long calls, which are interrupted, and spare short ones.
    """
    cpu = time.process_time()
    began = time.perf_counter()
    case()
    took = time.perf_counter() - began
    return min(took, time.process_time() - cpu)  # reading the CPU clock costs what a short call does: hence the inner clock too


def on_the_wall(case: Call) -> float:
    """Seconds of a call on the clock: for libraries that compute in threads of their own, whose CPU time the system counts late."""
    began = time.perf_counter()
    case()
    return time.perf_counter() - began


class Watch:
    """What other processes take of the machine, from now on."""

    def __init__(self) -> None:
        self.began = self._now()

    def others(self) -> float | None:
        """How many cores they kept busy; None where the system does not tell."""
        wall, own, everyone = (now - then for now, then in zip(self._now(), self.began, strict=True))
        return None if math.isnan(everyone) or wall <= 0.0 else round(max(0.0, (everyone - own) / wall), 2)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        try:
            user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:9])
            everyone = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            everyone = math.nan
        return time.perf_counter(), time.process_time(), everyone


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load() -> float | None:
    """How many processes wanted the CPU in the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def machine() -> dict[str, Any]:
    """CPU, cores, load, and the environment variables that change the speed of libraries."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load": load(),
        "environment": {name: os.environ[name] for name in TELLING if name in os.environ},
    }


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
