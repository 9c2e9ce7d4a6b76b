"""Many trajectories of one system, each with its own step sizes and its own fate, on all cores."""

from __future__ import annotations

import inspect
import itertools
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba.core.errors import NumbaError, NumbaPerformanceWarning
from numpy.typing import ArrayLike

from ._jit import is_compiled
from .checked import check_saveat, check_scale, check_span, check_steps, check_tolerances
from .control import Controller, get_controller
from .errors import FieldError, InputError
from .fields.protocol import Array
from .fields.user import PythonField
from .lane_memory import LANES, Layout, layout
from .lanes import JOB, Book, Task, lane_kernel
from .lanes import T as TIME
from .progress import Progress
from .solution import RUNNING, Status
from .solver import solve
from .tableau import Tableau, get_tableau

_PER_TRAJECTORY = 8 * 8  # bytes of counts and of where it ended


@dataclass(frozen=True, repr=False)
class EnsembleResult:
    """What became of M trajectories.

    t (k,)       output times: `t_eval`, or the end of the span alone
    y (M, k, n)  the states there; NaN from where a trajectory failed
    status (M,)  `Status` of each: 0 reached the end, -1 STEP_TOO_SMALL, -2 MAX_STEPS, -3 NONFINITE        success (M,) bool
    nfev, n_accepted, n_rejected (M,)      evaluations of f, and attempts
    t_reached (M,)                         the last accepted time
    message(i)                             what happened to trajectory i, when and why
    """

    t: Array
    y: Array
    status: Array
    nfev: Array
    n_accepted: Array
    n_rejected: Array
    t_reached: Array
    name: str
    method: Tableau
    t_span: tuple[float, float]
    threads: int
    seconds: float
    _h: Array
    _error: Array
    _component: Array
    _messages: dict[int, str] = field(default_factory=dict)

    @property
    def success(self) -> Array:
        """True for the trajectories that reached the end."""
        return self.status >= 0

    def __len__(self) -> int:
        return self.status.size

    def message(self, i: int) -> str:
        """What happened to trajectory i."""
        i = range(len(self))[i]
        if i in self._messages:
            return self._messages[i]
        status, t = Status(int(self.status[i])), f"{self.t_reached[i]:.9g}"
        if status is Status.SUCCESS:
            return "the end of the span was reached"
        where = f" (component {self._component[i]})" if self._component[i] >= 0 else ""
        attempts = int(self.n_accepted[i] + self.n_rejected[i])
        if not attempts:
            return f"{self.name} is not finite at t = {t}, the start{where}; check Y0[{i}], P[{i}] and {self.name} there"
        last = f"; the last of {attempts} attempts had error {self._error[i]:.3g} at |h| = {abs(self._h[i]):.3g}"
        if status is Status.NONFINITE:
            return f"{self.name} gives NaN or inf just after t = {t}{where}, however small the step{last}. A blow-up, or a log of 0?"
        if status is Status.MAX_STEPS:
            return f"max_steps attempts ended at t = {t} before the end of the span{last}. Raise max_steps, loosen rtol and atol, or is it stiff?"
        return f"the step became smaller than the spacing of numbers at t = {t}{last}. A singularity or discontinuity, or too small tolerances?"

    def __repr__(self) -> str:
        n = self.y.shape[2]
        lines = [f"{len(self)} trajectories of {self.name} ({n} components) by {self.method.name} from {self.t_span[0]:g} to {self.t_span[1]:g}:"]
        for status in Status:
            found = np.flatnonzero(self.status == status)
            if found.size:
                which = "" if status is Status.SUCCESS else f": {', '.join(map(str, found[:5]))}{', …' if found.size > 5 else ''}"
                lines.append(f"  {found.size} {status.name}{which}")
        if len(self):
            attempts = self.n_accepted + self.n_rejected
            rejected = f"{self.n_rejected.sum() / max(1, attempts.sum()):.1%} rejected"
            lines.append(f"  {attempts.min()} to {attempts.max()} attempts each, {rejected}, {self.nfev.sum()} evaluations in all")
        failed = np.flatnonzero(~self.success)
        if failed.size:
            lines.append(f"  trajectory {failed[0]}: {self.message(int(failed[0]))}")
        lines.append(f"  y {self.y.shape}, {_bytes(self.y.nbytes)}; {self.seconds:.3g} s on {self.threads} thread{'s' * (self.threads > 1)}")
        return "\n".join(lines)


def solve_ensemble(
    f: Any,
    t_span: tuple[float, float],
    Y0: ArrayLike,
    P: ArrayLike | None = None,
    *,
    method: str | Tableau = "Tsit5",
    rtol: ArrayLike = 1e-3,
    atol: ArrayLike = 1e-6,
    controller: str | Controller | None = "scipy",
    first_step: float | None = None,
    max_step: float = math.inf,
    max_steps: int = 10**6,
    t_eval: ArrayLike | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> EnsembleResult:
    """Integrate y′ = f(t, y; p) from many starts, or with many parameters, each trajectory with its own step sizes.

    f          @adaptode.rhs function f(t, y, p, dy) that fills dy, or the same made by numba.njit;
               a Python function f(t, y, p) -> (n,) works, a thousand times slower
    t_span     (t0, t1), forwards or backwards
    Y0         (M, n) float64, or (n,) or (1, n): one start for all        P   (M, m), or (1, m): the same parameters for all; None: m = 0
    method     "Tsit5", "Dopri5", "BS32" or a Tableau with an error estimate, of one error row
    rtol, atol tolerances, scalars or (n,): rtol dimensionless, atol in units of y
    controller, first_step, max_step, max_steps   as in `solve_ivp`, for each trajectory alone
    t_eval     (k,) output times in the order of integration; None: t1 alone
    threads    None: all cores that this process may use                   progress  on stderr

    A trajectory's numbers depend on nothing but its own start and parameters: they are the same bit for bit in any company, order and number of threads.
    One that cannot go on has its own status and message, and NaN from there on; nobody else notices. An exception that f raises ends everything and
    passes through. The first call for a function, method, n and m compiles for some seconds, in memory only. f is compiled with NumPy's rules for
    division (1/0 is inf) and with fused multiply-add. InputError for arguments that make no sense, and,
    before anything is spent, for results that would not fit into memory.
    """
    tab, control = get_tableau(method), get_controller(controller)
    if not tab.adaptive or tab.estimates != 1:
        raise InputError(f"solve_ensemble needs a method with one error estimate, such as Tsit5, Dopri5 or BS32; {tab.name} has not")
    t0, t1 = check_span(t_span, "t_span")
    times = check_saveat(t_eval, t0, t1, "t_eval", "t_span")
    check_steps(first_step, max_step, max_steps)
    Y0, P = _starts(Y0, P)
    (count, n), m = Y0.shape, P.shape[1]
    atol_rtol = check_tolerances(rtol, atol, n, 1, np.float64)
    check_scale(Y0, np.broadcast_to(atol_rtol[0], Y0.shape))
    threads = _threads(threads, count)
    function = getattr(f, "dispatcher", f)
    in_place = is_compiled(function) or hasattr(f, "dispatcher") or _arguments(f) == 4  # 4: numba.njit under NUMBA_DISABLE_JIT
    places = layout(tab, n, m)
    _check_memory(count, times.size, n, 8 * places.TOTAL * threads, Y0.nbytes + P.nbytes)

    book = _book(Y0, P, times.size)
    name = getattr(f, "name", None) or getattr(f, "__name__", "f")
    messages: dict[int, str] = {}
    bar = Progress(progress, 0, count, f"{count} trajectories, {_bytes(book.out.nbytes)}", "trajectory")
    began = time.perf_counter()
    try:
        if not in_place:
            threads = 1
            options = {"method": tab, "rtol": rtol, "atol": atol, "controller": control, "first_step": first_step}
            options |= {"max_step": max_step, "max_steps": max_steps}
            _one_by_one(f, name, book, (t0, t1), times, options, messages, bar)
        elif count:
            limit = min(abs(t1 - t0), float(max_step)) if control.clip_first_step else math.inf
            first = math.nan if first_step is None else float(first_step)
            task = Task(t0, t1, 1.0 if t1 >= t0 else -1.0, float(max_step), int(max_steps), first, limit, tab.error_order, times, *atol_rtol)
            workers = _Workers(_compile(function, name, tab, n, m, places), tab, control, task, book, places)
            began = time.perf_counter()
            workers.run(threads, bar)
    finally:
        bar.close()
    return EnsembleResult(
        times, book.out, book.status, book.nfev, book.accepted, book.rejected, book.t, name, tab, (t0, t1), threads,
        time.perf_counter() - began, book.h, book.error, book.component, messages,
    )  # fmt: skip


class _Workers:
    """Threads that step lanes, each with its own memory, and take trajectories from one queue."""

    def __init__(self, kernel: Any, tab: Tableau, control: Controller, task: Task, book: Book, places: Layout) -> None:
        self.kernel, self.task, self.book, self.places = kernel, task, book, places
        self.tab, self.rule = tab.coefficients(), control.rule(tab.error_order)
        self.ended = threading.Event()
        self.blocks: Any = iter(())
        self.lock = threading.Lock()

    def run(self, threads: int, bar: Progress) -> None:
        """All trajectories; an exception or an interrupt stops all workers within their chunk of some hundredths of a second."""
        count = len(self.book.status)
        size = max(1, min(4 * LANES, -(-count // threads)))
        self.blocks = ((a, min(a + size, count)) for a in range(0, count, size))
        if threads == 1:
            self._work(lambda: self._show(bar))
        else:
            with ThreadPoolExecutor(threads, "adaptode") as pool:
                running = {pool.submit(self._work) for _ in range(threads)}
                try:
                    while running and not self.ended.is_set():
                        done, running = wait(running, timeout=0.05, return_when=FIRST_EXCEPTION)
                        for future in done:
                            future.result()
                        self._show(bar)
                finally:
                    self.ended.set()
        self._show(bar)

    def _show(self, bar: Progress) -> None:
        bar.tick(time.perf_counter(), int(np.count_nonzero(self.book.status != RUNNING)))

    def _take(self) -> tuple[int, int]:
        with self.lock:
            return next(self.blocks, (0, 0))

    def _work(self, after_chunk: Callable[[], None] | None = None) -> None:
        places, task, book = self.places, self.task, self.book
        memory, counts = np.zeros(places.TOTAL), np.zeros((7, LANES), np.int64)
        counts[JOB] = -1
        # Idle lanes are evaluated too: at a state that is valid, which zeros may not be.
        for place, values in ((places.Y, book.Y0[0]), (places.Z, book.Y0[0]), (places.P, book.P[0]), (places.LANE + TIME * LANES, np.array([task.t0]))):
            memory[place : place + values.size * LANES].reshape(values.size, LANES)[:] = values[:, None]
        first = stop = busy = 0
        drain, rounds = False, 16
        while not self.ended.is_set():
            if first == stop and not drain:
                first, stop = self._take()
                drain = first == stop
            if drain and not busy and not (counts[JOB] >= 0).any():
                return
            began = time.perf_counter()
            arguments = (self.tab, self.rule, task, memory, counts, book)
            first, busy = self.kernel(*arguments, first, stop, drain, places.N, LANES, rounds)
            seconds = time.perf_counter() - began
            if seconds < 0.01:
                rounds = min(2 * rounds, 2**24)
            elif seconds > 0.05:
                rounds = max(1, rounds // 2)
            if after_chunk is not None:
                after_chunk()


_COMPILING = threading.Lock()


def _compile(function: Any, name: str, tab: Tableau, n: int, m: int, places: Layout) -> Any:
    """The kernel for `function`, compiled; FieldError when it cannot be."""
    nothing = _book(np.empty((0, n)), np.empty((0, m)), 0)
    rule = get_controller("scipy").rule(tab.error_order)
    task = Task(0.0, 1.0, 1.0, 1.0, 1, 1.0, 1.0, tab.error_order, np.empty(0), np.ones(1), np.ones(1))
    idle = np.full((7, LANES), -1)
    with _COMPILING:
        for copied in (False, True):
            kernel = lane_kernel(function, tab, n, m, copied=copied)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", NumbaPerformanceWarning)  # np.dot wants contiguous arrays
                    kernel(tab.coefficients(), rule, task, np.zeros(places.TOTAL), idle, nothing, 0, 0, True, places.N, LANES, 1)
                return kernel
            except (NumbaError, NumbaPerformanceWarning, TypeError) as error:
                failed = error
    lines = (line.strip() for line in str(failed).splitlines())
    reason = next((line for line in lines if line and "pipeline" not in line and "nopython frontend" not in line), "")
    raise FieldError(f"{name} cannot be compiled as f(t, y, p, dy), with a float t, and float64 arrays of which it fills dy: {reason}") from failed


def _book(Y0: Array, P: Array, k: int) -> Book:
    counts, numbers = (([np.zeros(len(Y0), dtype) for _ in range(size)]) for dtype, size in ((np.int64, 5), (np.float64, 3)))
    counts[0][:] = RUNNING
    return Book(Y0, P, np.empty((len(Y0), k, Y0.shape[1])), *counts[:4], *numbers, counts[4])


def _one_by_one(f: Any, name: str, book: Book, span: tuple[float, float], times: Array, options: dict, messages: dict, bar: Progress) -> None:
    """A Python function's trajectories, one after the other by the same loop."""
    n, m = book.Y0.shape[1], book.P.shape[1]
    one = PythonField(lambda t, y, p: np.asarray(f(t, y[0], p), dtype=np.float64).reshape(1, -1), n, m, name=name)
    for j in range(len(book.status)):
        run = solve(one, book.P[j], book.Y0[j : j + 1], span, saveat=times, keep="none", **options)
        book.out[j] = np.nan
        book.out[j, : len(run.t)] = run.y[:, 0]
        book.status[j], book.nfev[j], book.accepted[j], book.rejected[j] = run.status, run.nfev, run.n_accepted, run.n_rejected
        book.t[j] = run.grid[-1]
        if not run.success:
            messages[j] = run.message
        bar.tick(time.perf_counter(), j + 1)


def _arguments(f: Any) -> int:
    if not callable(f):
        raise InputError(f"f must be a function f(t, y, p, dy) made by adaptode.rhs, or f(t, y, p) -> array; got {f!r}")
    try:
        return sum(p.default is p.empty for p in inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        return 3


def _starts(Y0: Any, P: Any) -> tuple[Array, Array]:
    """Y0 (M, n) and P (M, m), C-contiguous float64."""
    arrays = []
    for name, value in (("Y0", Y0), ("P", np.empty((1, 0)) if P is None else P)):
        try:
            array = np.asarray(value)
            if array.dtype.kind not in "biuf":
                raise ValueError(f"dtype {array.dtype}")
            array = np.atleast_2d(array) if name == "Y0" else array
            array = np.ascontiguousarray(array, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} must be an array of real numbers: {error}") from None
        if array.ndim != 2:
            hint = "; for one parameter a trajectory write P[:, None], for the same of all P[None, :]" if name == "P" else ""
            raise InputError(f"{name} must have shape (M, {'n' if name == 'Y0' else 'm'}), a row a trajectory; got {np.shape(value)}{hint}")
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            raise InputError(f"{name}[{bad[0][0]}, {bad[0][1]}] is {array[tuple(bad[0])]}; {name} must be finite")
        arrays.append(array)
    Y0, P = arrays
    if Y0.shape[1] == 0:
        raise InputError(f"Y0 must have at least one component; got shape {Y0.shape}")
    if len(Y0) != len(P) and 1 not in (len(Y0), len(P)):
        raise InputError(f"Y0 and P must have a row a trajectory, or one for all; got {len(Y0)} and {len(P)} rows")
    count = len(P) if len(Y0) == 1 else len(Y0)
    return tuple(a.copy() if len(a) == count else np.repeat(a, count, axis=0) for a in (Y0, P))  # type: ignore[return-value]


def _threads(threads: Any, count: int) -> int:
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    elif not isinstance(threads, (int, np.integer)) or isinstance(threads, bool) or threads < 1:
        raise InputError(f"threads must be a positive integer or None; got {threads!r}")
    return max(1, min(int(threads), count))


def available_memory() -> int | None:
    """Bytes that this machine, or this process's control group, can still give; None where nothing tells."""
    found = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found += [1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable")]
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit, open("/sys/fs/cgroup/memory.current", encoding="ascii") as used:
            found.append(int(limit.read()) - int(used.read()))
    except (OSError, ValueError):  # not Linux; no control group; "max"
        pass
    return min(found, default=None)


def _check_memory(count: int, k: int, n: int, workspace: int, inputs: int) -> None:
    """InputError that says how much would be needed and how much there is, before it is taken."""
    states = 8 * count * k * n
    needed, available = states + count * _PER_TRAJECTORY + workspace + inputs, available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"{count} trajectories at {k} output times of {n} components need {_bytes(needed)} ({needed} bytes), {_bytes(states)} of it for y, "
            f"and {_bytes(available)} are available. Ask for fewer output times in t_eval, or solve in parts and keep what you need of each"
        )


def _bytes(count: float) -> str:
    for unit in itertools.chain(("B", "kB", "MB", "GB"), itertools.repeat("TB")):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
