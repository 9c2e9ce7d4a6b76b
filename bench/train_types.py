"""What a contender of `bench train` hands over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """Ready to be called; both calls end when their result is there.

    forward  predictions;  gradient  loss and its gradient with respect to every parameter, in the library's own arrays
    outputs  predictions as a NumPy array;  read  (loss, gradient (P,)) of what `gradient` returned, in the order of `ao.Objective`
    work     evaluations of the field in one forward solve
    """

    forward: Callable[[], Any]
    gradient: Callable[[], Any]
    outputs: Callable[[Any], np.ndarray]
    read: Callable[[Any], tuple[float, np.ndarray]]
    work: Callable[[], int]


class SolveFailed(RuntimeError):
    """A library says that its solve did not reach the end."""
