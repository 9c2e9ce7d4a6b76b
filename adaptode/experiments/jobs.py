"""Many independent trainings on all cores, compiled once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError
from ..fields import MLP
from ..ivp import solve_ivp
from ..regularize import ConditionNumber, Directional, GlobalError, JacobianNorm, LocalError
from ..training.heads import LinearHead
from ..training.objective import Objective

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    n_jobs: int = -1,
    describe: Callable[[Result], str] | None = None,
    keep: Callable[[Result], None] | None = None,
) -> list[Result]:
    """`[work(task) for task in tasks]` on `n_jobs` processes (-1: one a core), each with one BLAS thread.

    As each result arrives, in the order of the tasks, `keep` is called with it and `describe(result)` becomes a line on stderr.
    An exception in one task, or Ctrl-C, ends all of them.
    """
    results = []
    for result in _results(work, tasks, n_jobs):
        results.append(result)
        if keep is not None:
            keep(result)
        if describe is not None:
            print(describe(result), file=sys.stderr, flush=True)
    return results


def _results(work: Callable[[Task], Result], tasks: Iterable[Task], n_jobs: int) -> Iterator[Result]:
    if n_jobs == 1:
        with one_blas_thread():
            yield from map(work, tasks)
        return
    joblib = _require("joblib")
    # Thread pools that spin against each other cost more than they give: one thread a process.
    with joblib.parallel_config("loky", n_jobs=n_jobs, inner_max_num_threads=1):
        with _deaf_to_ctrl_c():
            results = joblib.Parallel(return_as="generator")(joblib.delayed(work)(task) for task in tasks)
        yield from results


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which a terminal sends to all of them: each would print a traceback. Their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it unblocks the signal when it is started, so let that be before
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Small matrices do not repay a second BLAS thread; timings with one thread compare rows fairly."""
    with _require("threadpoolctl").threadpool_limits(1):
        yield


def _require(package: str) -> Any:
    """joblib or threadpoolctl, which scikit-learn brings."""
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise InputError("the experiments need scikit-learn: pip install 'adaptode[ml]'") from error


def warm_up(dtypes: Iterable[str] = ("float64", "float32"), *, wide: bool = False) -> None:
    """Compile every kernel of a training by one tiny step in each dtype; kept on disk, other processes only load.

    wide: those of a state wider than its hidden layer too, which is solved in hidden coordinates
    """
    rng = np.random.default_rng(0)
    local = (LocalError(1.0, sampling="unbiased"), LocalError(1.0, sampling="biased"))
    penalties = (
        *local,
        JacobianNorm("frobenius", 1.0),
        JacobianNorm("spectral", 1.0),
        ConditionNumber(1.0),
        JacobianNorm("frobenius", 1.0, at="end_to_end"),
        Directional(1.0),
        GlobalError(1.0),
    )
    trainings = [((2, 4, 2), penalties)] + ([((12, 2, 12), (*local, GlobalError(1.0)))] if wide else [])
    for dtype in dtypes:
        for sizes, chosen in trainings:
            X, y = rng.standard_normal((8, sizes[0])), np.arange(8) % 2
            objective = Objective(MLP(sizes), "binary_cross_entropy", head=LinearHead(sizes[0], 1), penalties=chosen, dtype=dtype)
            params = objective.init(rng)
            objective.value_and_grad(params, X, y, rng=rng, step=0)
            objective.solve(params, X).sol(0.5)


def warm_up_solvers() -> None:
    """Compile what `solve_ivp` needs for real and complex states, with dense output and events."""
    for y0 in (np.ones(2), np.ones(2, complex)):
        for method in ("Tsit5", "DOP853"):
            solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, method, t_eval=[0.5], dense_output=True).sol(0.5)
    solve_ivp(lambda t, y: -y, (0.0, 1.0), [1.0], events=lambda t, y: y[0] - 0.5)
