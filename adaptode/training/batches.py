"""Which samples each training step sees."""

from __future__ import annotations

import hashlib
from numbers import Integral
from typing import Any

import numpy as np

from ..errors import InputError

_STREAMS = ("init", "order", "objective")


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The random numbers of one purpose (init, order, objective) at one step or epoch: independent of all others."""
    return np.random.default_rng((seed, _STREAMS.index(purpose), index))


class Batches:
    """The samples of every step, as a function of the seed and the step alone."""

    def __init__(self, X: np.ndarray, y: np.ndarray, size: int | None, shuffle: bool, drop_last: bool) -> None:
        n = len(X)
        self.X, self.y, self.shuffle, self.drop_last = X, y, bool(shuffle), bool(drop_last)
        self.size = n if size is None else min(check_count("batch_size", size), n)
        self.per_epoch = n // self.size if drop_last else -(-n // self.size)
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def at(self, step: int, seed: int) -> tuple[int, np.ndarray, np.ndarray]:
        """`(epoch, X, y)` of a step."""
        epoch, position = divmod(step, self.per_epoch)
        if self.size == len(self.X):
            return epoch, self.X, self.y
        rows: Any = slice(position * self.size, (position + 1) * self.size)
        if self.shuffle:
            if epoch != self._epoch:
                self._order = stream(seed, "order", epoch).permutation(len(self.X))
                self._epoch = epoch
            rows = self._order[rows]
        return epoch, self.X[rows], self.y[rows]

    def config(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "X": _fingerprint(self.X),
            "y": _fingerprint(self.y),
        }


def check_data(X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """X and y as arrays of one length, real and finite; InputError otherwise."""
    arrays = {}
    for name, values in (("X", X), ("y", y)):
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise InputError(f"{name} is not an array: {error}") from error
        if array.dtype.kind not in "fiub" or array.ndim == 0 or array.size == 0:
            raise InputError(
                f"{name} must be an array of real numbers, not empty; it has dtype {array.dtype}, shape {array.shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = np.argwhere(~np.isfinite(array))[0, 0]
            raise InputError(f"{name} has NaN or inf, first in row {row}")
        arrays[name] = array
    X, y = arrays["X"], arrays["y"]
    if len(X) != len(y):
        raise InputError(f"X has {len(X)} samples, y has {len(y)}")
    return X, y


def check_count(name: str, value: Any) -> int:
    """`value` as an int of at least 1; InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    return int(value)


def _fingerprint(array: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return {"shape": list(array.shape), "dtype": array.dtype.str, "sha256": digest}
