"""Threads that work on parts of one batch: kernels let go of Python's lock.

As many as NUMBA_NUM_THREADS says, which is the number of cores unless it is set. Only the time depends on how many there are: parts are cut, and what is
made of parts is added up, as the size of the problem says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numba

from ._jit import JIT_DISABLED

WORTHWHILE = 20_000_000  # multiplications, some milliseconds: a thread takes a few hundredths of one to begin


def how_many(multiplications: float, most: int) -> int:
    """Threads for so much work in at most so many parts."""
    if JIT_DISABLED or multiplications < WORTHWHILE:
        return 1
    return max(1, min(int(numba.config.NUMBA_NUM_THREADS), most))


def together(tasks: Sequence[Callable[[], None]], give_up: Callable[[], None] = lambda: None) -> None:
    """Every task, the first in this thread and each other in one of its own; what one of them raises is raised here, once all have ended.

    give_up: called as soon as one fails, for tasks that wait for each other
    """
    errors: list[BaseException] = []

    def attempt(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            give_up()
            errors.append(error)

    running = []
    try:
        for task in tasks[1:]:
            thread = threading.Thread(target=attempt, args=(task,), name="adaptode", daemon=True)
            thread.start()
            running.append(thread)
        tasks[0]()
    except BaseException:
        give_up()
        raise
    finally:
        for thread in running:
            thread.join()
    for error in errors:
        raise error
