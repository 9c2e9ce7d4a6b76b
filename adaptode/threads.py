"""Threads that work on parts of one batch: kernels let go of Python's lock.

As many as NUMBA_NUM_THREADS says, which is the number of cores unless it is set. Only the time depends on how many there are: parts are cut, and what is
made of parts is added up, as the size of the problem says.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numba

from ._jit import JIT_DISABLED

WORTHWHILE = 20_000_000  # multiplications, some milliseconds: a thread takes a few hundredths of one to wake


def how_many(multiplications: float, most: int) -> int:
    """Threads for so much work in at most so many parts."""
    if JIT_DISABLED or multiplications < WORTHWHILE:
        return 1
    return max(1, min(int(numba.config.NUMBA_NUM_THREADS), most))


_PATIENCE = 1.0  # seconds after which a thread that is given nothing ends


class _Helper:
    """A thread that does what it is given, and then waits for more: to wake one takes a tenth of a millisecond less than to start one."""

    def __init__(self) -> None:
        self._given = threading.Lock()
        self._given.acquire()
        threading.Thread(target=self._work, name="adaptode", daemon=True).start()

    def begin(self, task: Callable[[], None]) -> threading.Lock:
        """A lock that is free when the task, which raises nothing, has ended."""
        done = threading.Lock()
        done.acquire()
        self._task = task, done
        self._given.release()
        return done

    def _work(self) -> None:
        while True:
            if not self._given.acquire(timeout=_PATIENCE):
                with suppress(ValueError):  # somebody has just taken it, and will give it something
                    _idle.remove(self)
                    return
                self._given.acquire()
            task, done = self._task
            try:
                task()
                del self._task, task  # and what it was made of
                _idle.append(self)
            finally:
                done.release()


_idle: list[_Helper] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # threads stay with the parent


def _helper() -> _Helper:
    with suppress(IndexError):
        return _idle.pop()
    return _Helper()


def together(tasks: Sequence[Callable[[], None]], give_up: Callable[[], None] = lambda: None) -> None:
    """Every task, the first in this thread and each other in one of its own; what one of them raises is raised here, once all have ended.

    give_up: called as soon as one fails, for tasks that wait for each other
    """
    errors: list[BaseException] = []

    def attempt(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)
            give_up()

    running: list[threading.Lock] = []
    try:
        for task in tasks[1:]:
            running.append(_helper().begin(partial(attempt, task)))
        tasks[0]()
    except BaseException:
        give_up()
        raise
    finally:
        for done in running:
            done.acquire()
    for error in errors:
        raise error
