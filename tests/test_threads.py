"""Threads share out rows and tiles: the same bits with any number of them, and no thread is left waiting."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite.binding import get_host_cpu_features

import adaptode as ao
from adaptode import team, threads
from adaptode.fields.hidden import LIFT_ROWS, new_lift
from adaptode.lifted import lifted_rms
from adaptode.products import BLOCK_ROWS
from adaptode.solution import Status

FIELD = ao.MLP((9, 4, 9), time="every")


@pytest.fixture
def number(monkeypatch):
    """Sets how many threads there are, whatever the work is worth."""
    monkeypatch.setattr(threads, "WORTHWHILE", 0)

    def choose(n):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", n)

    return choose


def until_none_waits():
    """Helpers of earlier tests end by themselves, and would do so in the middle of one that counts."""
    ends = time.monotonic() + 30.0
    while any(thread.name == "adaptode" for thread in threading.enumerate()) and time.monotonic() < ends:
        time.sleep(0.05)


def solved(rows=3 * BLOCK_ROWS + 39, dtype="float64", span=(0.0, 1.0), scale=2.0, **options):
    theta = FIELD.init(0, scale=scale).astype(dtype)
    y0 = np.random.default_rng(1).normal(size=(rows, 9)).astype(dtype)
    return ao.solve(FIELD, theta, y0, span, coordinates="hidden", **options)


def bits(run, bar=None):
    """Digests of everything a run and its gradient have: a difference of the bytes themselves takes a test hours to print."""
    found = [run.y, run.end, run.grid, run.kept_states, run.kept_stages, run.steps.t, run.steps.h, run.steps.error, run.steps.stiffness]
    if bar is not None:
        gradient = ao.adjoint.discrete(run, bar, ends=False)
        found += [gradient.y0, gradient.theta, np.array(gradient.evaluations)]
    return [None if x is None else hashlib.sha256(x.tobytes()).hexdigest() for x in found] + [run.nfev, run.status, run.message]


@pytest.mark.parametrize("method", ["Tsit5", "DOP853", "BS32"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("keep", ["states", "stages"])
def test_the_same_bits_with_any_number_of_threads(number, method, dtype, keep):
    bar = np.random.default_rng(2).normal(size=(4, 3 * BLOCK_ROWS + 39, 9)).astype(dtype)
    found = []
    for n in (1, 2, 3):
        number(n)
        run = solved(method=method, dtype=dtype, keep=keep, saveat=[0.1, 0.45, 0.5, 1.0], rtol=1e-5, atol=1e-5)
        found.append(bits(run, bar))
    assert found[0] == found[1] == found[2]


@pytest.mark.whole
@pytest.mark.skipif(not get_host_cpu_features().get("avx2"), reason="OpenBLAS has no kernels of another kind that this processor could run")
@pytest.mark.parametrize("core", ["Haswell", "Sandybridge"])
def test_the_same_bits_with_other_kernels_of_blas(core):
    """Which rows are multiplied together shows in the bits of some of OpenBLAS's kernels, not of those for AVX-512."""
    environment = os.environ | {"OPENBLAS_CORETYPE": core}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-k", "same_bits_with_any or number_of_rows", __file__]
    found = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.parametrize("tiles", [6, 7, 8])
def test_a_first_step_norm_has_the_same_bits_with_any_number_of_threads(number, tiles):
    """A row that is left over is multiplied with the same others."""
    rows, n, m = LIFT_ROWS * (tiles - 1) + 1, 3, 21
    rng, found = np.random.default_rng(0), []
    lift = new_lift(rng.normal(size=(rows, n)), rng.normal(size=(m, n)), rng.normal(size=(m, n)), True, False)
    x = rng.normal(size=rows * m)
    for count in (1, 2, 3):
        number(count)
        found.append(lifted_rms(lift, x, np.array([1e-6]), np.array([1e-3])))
    assert found[0] == found[1] == found[2]


@settings(max_examples=20)
@given(rows=st.integers(2 * BLOCK_ROWS, 9 * BLOCK_ROWS), n=st.integers(2, 4), back=st.booleans(), tight=st.booleans(), vector=st.booleans())
def test_any_number_of_rows(rows, n, back, tight, vector):
    options = {"span": (1.0, -0.5) if back else (-0.5, 1.0), "rtol": 1e-9 if tight else 1e-3, "atol": np.linspace(1e-5, 1e-3, 9) if vector else 1e-4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "WORTHWHILE", 0)
        found = []
        for count in (1, n):
            patch.setattr(numba.config, "NUMBA_NUM_THREADS", count)
            found.append(bits(solved(rows, **options)))
    assert found[0] == found[1]


@pytest.mark.parametrize("options, status", [({"max_steps": 3}, Status.MAX_STEPS), ({"scale": 1e160, "rtol": 1e-9}, Status.NONFINITE)])
def test_what_fails_fails_alike(number, options, status):
    found = []
    for n in (1, 2):
        number(n)
        with np.errstate(all="ignore"):
            run = solved(span=(0.0, 9.0), **options)
        assert run.status == status
        found.append(bits(run))
    assert found[0] == found[1]


def test_it_was_a_team(number, monkeypatch):
    entered = []
    monkeypatch.setattr(team, "together", lambda tasks, give_up: (entered.append(len(tasks)), threads.together(tasks, give_up)))
    number(2)
    solved()
    assert entered and set(entered) == {2}


def test_a_thread_that_fails_leaves_none_waiting(number, monkeypatch):
    number(2)
    advance = team._Part.advance

    def failing(part, *arguments):
        if part.numbers.start:
            raise MemoryError("no room")
        advance(part, *arguments)

    until_none_waits()
    solved()
    before, idle = threading.active_count(), len(threads._idle)
    monkeypatch.setattr(team._Part, "advance", failing)
    with pytest.raises(MemoryError, match="no room"):
        solved()
    assert threading.active_count() == before and len(threads._idle) == idle > 0


def test_gradients_of_a_field_in_its_own_coordinates(number):
    field = ao.MLP((2, 32, 2))
    theta, y0 = field.init(0), np.random.default_rng(0).normal(size=(2000, 2))
    found = []
    for n in (1, 2, 3):
        number(n)
        found.append(bits(ao.solve(field, theta, y0, (0.0, 1.0)), np.ones((2000, 2))))
    assert found[0] == found[1] == found[2]


def test_together():
    done = []
    threads.together([lambda i=i: done.append((i, threading.current_thread().name)) for i in range(3)])
    assert sorted(i for i, _ in done) == [0, 1, 2] and [name == threading.current_thread().name for i, name in sorted(done)] == [True, False, False]
    gave_up = []

    def fails():
        raise KeyError("here")

    for order in (1, -1):
        with pytest.raises(KeyError, match="here"):
            threads.together([lambda: None, fails][::order], give_up=lambda: gave_up.append(1))
    assert len(gave_up) == 2


def test_threads_are_used_again():
    names = []

    def note():
        names.append(threading.current_thread())

    for _ in range(3):
        threads.together([lambda: None, note])
    assert len(set(names)) == 1 and names[0] is not threading.current_thread()


def test_threads_that_are_not_needed_end(monkeypatch):
    until_none_waits()
    monkeypatch.setattr(threads, "_PATIENCE", 0.05)
    found = []
    for _ in range(2):
        threads.together([lambda: None, lambda: found.append(threading.current_thread())])
        found[-1].join(5.0)
        assert not found[-1].is_alive() and not threads._idle
    assert found[0] is not found[1]


def test_who_fails_even_in_giving_up_leaves_nobody_waiting(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)

    def fails():
        raise KeyError("here")

    def give_up():
        if threading.current_thread().name == "adaptode":
            raise OSError("in giving up")

    with pytest.raises(KeyError, match="here"):
        threads.together([lambda: None, fails], give_up)
    threads.together([lambda: None, lambda: None])


def test_together_from_many_threads():
    """Each has helpers of its own: tasks that wait for each other never share one."""
    met = []

    def call():
        for _ in range(20):
            both = threading.Barrier(3, timeout=60)
            threads.together([both.wait] * 3)
            met.append(1)

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(met) == 120


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_helpers_of_its_own():
    script = """
import os, sys, warnings
from adaptode.threads import together
warnings.simplefilter("ignore")
together([lambda: None] * 2)
child = os.fork()
together([lambda: None] * 2)
if child == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "7", found.stderr


@pytest.mark.parametrize("work, parts, expected", [(1e6, 8, 1), (1e9, 8, 3), (1e9, 2, 2), (1e9, 0, 1)])
def test_how_many(monkeypatch, work, parts, expected):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 3)
    assert threads.how_many(work, parts) == expected
