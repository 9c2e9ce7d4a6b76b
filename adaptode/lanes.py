"""Many trajectories of one small system at a time, each with its own time, step size and fate, one a SIMD lane.

A lane's arithmetic is that of `adaptode.step`, in its order, and depends on
nothing but its own trajectory: results are the same bit for bit whoever its neighbours are.
"""

from __future__ import annotations

import weakref
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ._jit import JIT_DISABLED, dual, inline, part, specialize, spliced
from .combine import combine_lanes
from .control import SMALLEST, accepts, compiled_first_guess, compiled_first_size, next_factor, next_time
from .dense import dense_state
from .lane_memory import LANES, column, layout
from .norms import scaled_rms, scaled_rms_lanes
from .solution import MAX_STEPS, NONFINITE, RUNNING, SUCCESS, TOO_SMALL
from .tableau import Tableau

JOB, STATUS, ATTEMPTS, NFEV, ACCEPTED, SAVED, AFTER_REJECT = range(7)  # a lane's counters; JOB: its trajectory, -1 when it idles
T, T1, NEXT, Q, Q1, Q2, STAGE_T, KEEP = range(8)  # a lane's numbers: time, end of the attempt, next |h|, errors, time of a stage, 1 when accepted


class Task(NamedTuple):
    """What is to be solved, for all trajectories alike: span, limits, first step (NaN: to be found), output times, and tolerances."""

    t0: float
    end: float
    direction: float
    max_step: float
    max_steps: int
    first_step: float
    first_limit: float
    error_order: int
    saveat: np.ndarray
    atol: np.ndarray
    rtol: np.ndarray


class Book(NamedTuple):
    """A row a trajectory: its start Y0 (M, n), parameters P (M, m) and results out (M, k, n); counts; where, with which step and which error it ended."""

    Y0: np.ndarray
    P: np.ndarray
    out: np.ndarray
    status: np.ndarray
    nfev: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray
    t: np.ndarray
    h: np.ndarray
    error: np.ndarray
    component: np.ndarray


# The names that `lane_kernel` binds.
SIZE = PARAMS = STAGES = N = Y = H = Z = Y1 = E = K = P = SUMS = LANE = ONE_Y = ONE_Y1 = ONE_P = ONE_F = ONE_K = I = 0
FSAL = True
NODE = 0.0
WEIGHTS = B = ERROR = np.empty(0)


def rhs(t, y, p, dy):
    """The right-hand side, to become part of the loops over lanes; bound."""
    raise NotImplementedError


def rhs_alone(t, y, p, dy):
    """The right-hand side of one trajectory; bound."""
    raise NotImplementedError


def stage_of_lanes(i, weights, node, memory, size, width):
    """`stage_lanes`, bound once for all stages."""
    raise NotImplementedError


@dual
def evaluate_in_place(t, memory, y, k, l):
    """Lane l's right-hand side on its columns, strided arrays."""
    rhs(t, column(memory, y + l, SIZE), column(memory, P + l, PARAMS), column(memory, k + l, SIZE))


@dual
def evaluate_copied(t, memory, y, k, l):
    """The same on contiguous copies, for a right-hand side that needs them (`np.dot`, `reshape`)."""
    one_y, one_p, one_f = part(memory, ONE_Y, (SIZE,)), part(memory, ONE_P, (PARAMS,)), part(memory, ONE_F, (SIZE,))
    for e in range(SIZE):
        one_y[e] = memory[y + e * LANES + l]
    for e in range(PARAMS):
        one_p[e] = memory[P + e * LANES + l]
    rhs(t, one_y, one_p, one_f)
    for e in range(SIZE):
        memory[k + e * LANES + l] = one_f[e]


def evaluate(t, memory, y, k, l):
    """One of the two; bound."""
    raise NotImplementedError


@dual
def stage_lanes(i, weights, node, memory, size, width):
    """Equation (1) of `adaptode.step` for stage i in all lanes."""
    h, t, stage_t = part(memory, H, (N,)), part(memory, LANE + T * LANES, (LANES,)), part(memory, LANE + STAGE_T * LANES, (LANES,))
    combine_lanes(part(memory, Y, (N,)), h, weights, part(memory, K, (STAGES, N)), i, part(memory, Z, (N,)), size)
    for l in range(width):
        stage_t[l] = t[l] + node * h[l]
    for l in range(width):
        evaluate(stage_t[l], memory, Z, K + i * N, l)


def stages_before(memory, size, width):
    """All stages before a stage; bound. For the first there are none, but where the method is not FSAL, K₁ = f(t, y) has to be found."""
    raise NotImplementedError


@dual
def first_stage(memory, size, width):
    """K₁ = f(t, y) where the method is not FSAL; with FSAL it is known."""
    if not FSAL:
        t = part(memory, LANE + T * LANES, (LANES,))
        for l in range(width):
            evaluate(t[l], memory, Y, K, l)


@dual
def stages_until(memory, size, width):
    """The stages up to stage I: a chain of functions and not a loop, so that I, its weights and node are constants in each."""
    stages_before(memory, size, width)
    stage_of_lanes(I, WEIGHTS, NODE, memory, size, width)


@dual
def attempt_lanes(task, memory, size, width):
    """Stages, new states and scaled errors of all lanes."""
    h = part(memory, H, (SIZE, LANES))
    for e in range(1, SIZE):
        for l in range(width):
            h[e, l] = h[0, l]
    stages_before(memory, size, width)
    steps, stages, err = part(memory, H, (N,)), part(memory, K, (STAGES, N)), part(memory, E, (N,))
    if not FSAL:
        combine_lanes(part(memory, Y, (N,)), steps, B, stages, STAGES, part(memory, Y1, (N,)), size)
    for e in range(size):
        err[e] = 0.0
    combine_lanes(err, steps, ERROR, stages, STAGES, err, size)
    y, y1, err, sums = (
        part(memory, Y, (SIZE, LANES)),
        part(memory, Y1, (SIZE, LANES)),
        part(memory, E, (SIZE, LANES)),
        part(memory, SUMS, (4, LANES)),
    )
    scaled_rms_lanes(err, y, y1, task.atol, task.rtol, sums, part(memory, LANE + Q * LANES, (LANES,)), width)


@dual
def move_lanes(memory, width):
    """y ← y₁, and with FSAL K₁ ← K_s, in the lanes whose attempt was accepted."""
    keep = part(memory, LANE + KEEP * LANES, (LANES,))
    y, y1 = part(memory, Y, (SIZE, LANES)), part(memory, Y1, (SIZE, LANES))
    first, last = part(memory, K, (SIZE, LANES)), part(memory, K + (STAGES - 1) * N, (SIZE, LANES))
    for e in range(SIZE):
        for l in range(width):
            y[e, l] = y1[e, l] if keep[l] != 0.0 else y[e, l]
        if FSAL:
            for l in range(width):
                first[e, l] = last[e, l] if keep[l] != 0.0 else first[e, l]


@dual
def retire(memory, counts, book, l):
    """Write down how lane l's trajectory ended, and free the lane."""
    lane, h = part(memory, LANE, (8, LANES)), part(memory, H, (SIZE, LANES))
    j, status = counts[JOB, l], counts[STATUS, l]
    if status == TOO_SMALL and not lane[Q, l] < np.inf:
        status = NONFINITE
    book.status[j], book.nfev[j] = status, counts[NFEV, l]
    book.accepted[j], book.rejected[j] = counts[ACCEPTED, l], counts[ATTEMPTS, l] - counts[ACCEPTED, l]
    book.t[j], book.h[j], book.error[j], book.component[j] = lane[T, l], h[0, l], lane[Q, l], -1
    if status != SUCCESS:
        for k in range(counts[SAVED, l], book.out.shape[1]):
            for e in range(SIZE):
                book.out[j, k, e] = np.nan
        for i in range(STAGES if counts[ATTEMPTS, l] > 0 else 1):
            for e in range(SIZE):
                if book.component[j] < 0 and not np.isfinite(memory[K + (i * SIZE + e) * LANES + l]):
                    book.component[j] = e
    counts[JOB, l] = -1
    for e in range(SIZE):
        h[e, l] = 0.0  # an idle lane stays where it is


@dual
def begin(rule, task, memory, counts, book, l, j):
    """Put trajectory j into lane l: its start, f there, and its first step size."""
    y, p, f0, f1 = part(memory, ONE_Y, (SIZE,)), part(memory, ONE_P, (PARAMS,)), part(memory, ONE_F, (SIZE,)), part(memory, ONE_Y1, (SIZE,))
    lane = part(memory, LANE, (8, LANES))
    for i in range(counts.shape[0]):
        counts[i, l] = 0
    counts[JOB, l], counts[STATUS, l] = j, RUNNING
    for e in range(PARAMS):
        p[e] = memory[P + e * LANES + l] = book.P[j, e]
    for e in range(SIZE):
        y[e] = memory[Y + e * LANES + l] = book.Y0[j, e]
        f0[e] = np.nan  # what a right-hand side forgets to fill must not pass for an answer
    lane[T, l], lane[Q, l], lane[Q1, l], lane[Q2, l] = task.t0, 0.0, rule.start, rule.start
    while counts[SAVED, l] < task.saveat.size and task.saveat[counts[SAVED, l]] == task.t0:
        for e in range(SIZE):
            book.out[j, counts[SAVED, l], e] = y[e]
        counts[SAVED, l] += 1
    if task.end == task.t0:
        counts[STATUS, l] = SUCCESS
        return
    rhs_alone(task.t0, y, p, f0)
    counts[NFEV, l] = 1
    finite = True
    for e in range(SIZE):
        memory[K + e * LANES + l] = f0[e]
        finite = finite and np.isfinite(f0[e])
    if not finite:
        counts[STATUS, l] = NONFINITE
        return
    lane[NEXT, l] = task.first_step
    if task.first_step > 0.0:
        return
    d1 = scaled_rms(f0, y, y, task.atol, task.rtol)
    h0 = compiled_first_guess(scaled_rms(y, y, y, task.atol, task.rtol), d1, task.first_limit)
    lane[NEXT, l] = SMALLEST
    if h0 > 0.0:
        h = task.direction * h0
        for e in range(SIZE):
            y[e] += h * f0[e]
        rhs_alone(task.t0 + h, y, p, f1)
        counts[NFEV, l] += 1
        for e in range(SIZE):
            f1[e] -= f0[e]
            y[e] = book.Y0[j, e]
        lane[NEXT, l] = compiled_first_size(h0, scaled_rms(f1, y, y, task.atol, task.rtol), d1, task.error_order, task.first_limit)


@dual
def save(tab, task, memory, counts, book, l):
    """The outputs within lane l's accepted attempt."""
    lane, step = part(memory, LANE, (8, LANES)), part(memory, H, (LANES,))
    y, y1, stages = part(memory, ONE_Y, (SIZE,)), part(memory, ONE_Y1, (SIZE,)), part(memory, ONE_K, (STAGES, SIZE))
    t, t1, h, j, k = lane[T, l], lane[T1, l], step[l], counts[JOB, l], counts[SAVED, l]
    copied = False
    while k < task.saveat.size and task.direction * (task.saveat[k] - t1) <= 0.0:
        if not copied:
            for e in range(SIZE):
                y[e], y1[e] = memory[Y + e * LANES + l], memory[Y1 + e * LANES + l]
                for i in range(STAGES):
                    stages[i, e] = memory[K + (i * SIZE + e) * LANES + l]
            copied = True
        dense_state(tab, (task.saveat[k] - t) / h, h, y, y1, stages, book.out[j, k])
        k += 1
    counts[SAVED, l] = k


@dual
def settle(tab, rule, task, memory, counts, book):
    """Accept or reject every lane's attempt, choose its next step size, and write outputs."""
    lane, step = part(memory, LANE, (8, LANES)), part(memory, H, (LANES,))
    for l in range(LANES):
        lane[KEEP, l] = 0.0
        if counts[JOB, l] < 0:
            continue
        q, t1 = lane[Q, l], lane[T1, l]
        accepted = accepts(rule, q)
        lane[NEXT, l] = abs(step[l]) * next_factor(rule, q, lane[Q1, l], lane[Q2, l], accepted, counts[AFTER_REJECT, l] != 0)
        counts[ATTEMPTS, l] += 1
        counts[NFEV, l] += STAGES - 1
        if not FSAL and counts[AFTER_REJECT, l] == 0 and counts[ATTEMPTS, l] > 1:
            counts[NFEV, l] += 1
        counts[AFTER_REJECT, l] = not accepted
        if not accepted:
            continue
        if counts[SAVED, l] < task.saveat.size and task.direction * (task.saveat[counts[SAVED, l]] - t1) <= 0.0:
            save(tab, task, memory, counts, book, l)
        counts[ACCEPTED, l] += 1
        lane[KEEP, l] = 1.0
        lane[T, l] = t1
        lane[Q2, l], lane[Q1, l] = lane[Q1, l], max(q, rule.floor)
        if task.direction * (t1 - task.end) >= 0.0:
            counts[STATUS, l] = SUCCESS


@dual
def advance_lanes(tab, rule, task, memory, counts, book, first, stop, drain, size, width, rounds):
    """At most `rounds` attempts in every lane; lanes that become free take trajectories first … stop − 1, one after the other.

    Returns (the next trajectory not begun, the number of lanes at work), when the rounds are over, when no lane is at work, or, unless `drain`,
    when a lane finds no trajectory. size = N and width = LANES: lengths that are not constants, which LLVM would unroll rather than make SIMD.
    """
    lane, step = part(memory, LANE, (8, LANES)), part(memory, H, (LANES,))
    busy = 0
    for _ in range(rounds):
        busy = 0
        for l in range(LANES):
            while True:
                if counts[JOB, l] >= 0 and counts[STATUS, l] == RUNNING:
                    t = lane[T, l]
                    t1 = next_time(rule, t, lane[NEXT, l], task.end, task.direction, task.max_step, counts[AFTER_REJECT, l] != 0)
                    if t1 != t1:
                        counts[STATUS, l] = TOO_SMALL
                    elif counts[ATTEMPTS, l] >= task.max_steps:
                        counts[STATUS, l] = MAX_STEPS
                    else:
                        lane[T1, l] = t1
                        step[l] = t1 - t
                        busy += 1
                        break
                if counts[JOB, l] >= 0:
                    retire(memory, counts, book, l)
                if first >= stop:
                    break
                begin(rule, task, memory, counts, book, l, first)
                first += 1
        if busy == 0 or busy < LANES and not drain:
            break
        attempt_lanes(task, memory, size, width)
        settle(tab, rule, task, memory, counts, book)
        move_lanes(memory, width)
    return first, busy


_KERNELS: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Any]] = weakref.WeakKeyDictionary()


def lane_kernel(function: Any, tab: Tableau, n: int, m: int, *, compiled: bool = not JIT_DISABLED, copied: bool = False) -> Any:
    """`advance_lanes` for one right-hand side, method, and numbers of components and parameters; made once, kept with the function, in memory only."""
    kernels = _KERNELS.setdefault(function, {})
    key = (tab, n, m, compiled, copied)
    if key not in kernels:
        kernels[key] = _build(function, tab, n, m, compiled, copied)
    return kernels[key]


def _build(function: Any, tab: Tableau, n: int, m: int, compiled: bool, copied: bool) -> Any:
    source = getattr(function, "py_func", function)

    def bind(template: Any, finish: Any = spliced, **more: Any) -> Any:
        return specialize(template, compiled=compiled, finish=finish, **names, **more)

    names = dict(_shared(tab, n, m, compiled))
    names |= {"rhs": inline(source), "rhs_alone": inline(source)} if compiled else {"rhs": source, "rhs_alone": source}
    names["evaluate"] = bind(evaluate_copied if copied else evaluate_in_place, inline)
    names["stage_of_lanes"] = bind(stage_lanes)
    stages = bind(first_stage)
    for i in range(1, tab.stages):
        stages = bind(stages_until, stages_before=stages, I=i, WEIGHTS=np.array(tab.A[i, :i]), NODE=float(tab.c[i]))
    return bind(advance_lanes, inline, stages_before=stages)


@lru_cache(maxsize=32)
def _shared(tab: Tableau, n: int, m: int, compiled: bool) -> dict[str, Any]:
    """The names that do not depend on the right-hand side, and the functions that need no others."""
    names: dict[str, Any] = dict(layout(tab, n, m)._asdict(), B=np.array(tab.b), ERROR=np.array(tab.e))
    functions = {f.__name__: specialize(f, compiled=compiled, finish=inline, **names) for f in (settle, retire, move_lanes)}
    return names | functions
