"""Memory in one piece: the system gives large pieces in large pages, a few requests where arrays apart, of megabytes each, would take a thousand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Room:
    """So many numbers of one dtype, not initialized, of which `take` gives an array at a time."""

    def __init__(self, numbers: int, dtype: Any) -> None:
        self._block, self._used = np.empty(numbers, dtype), 0

    def take(self, *shape: int) -> np.ndarray:
        first = self._used
        self._used += math.prod(shape)
        assert self._used <= self._block.size
        return self._block[first : self._used].reshape(shape)
