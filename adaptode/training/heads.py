"""The map from a state to the outputs that the loss sees."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..checked import check_rng
from ..errors import InputError
from ..products import Factors, add_matrix_product, matrix_product


@dataclass(frozen=True)
class LinearHead:
    """A linear layer on the final state.

    out = x W + b,   x̄ = out̄ Wᵀ,   W̄ = xᵀ out̄,   b̄ = Σ_B out̄

    phi (n_params,) holds W row-major (n_in, n_out), then b (n_out,). x (B, n_in), out (B, n_out); one dtype throughout.
    Wrong shapes: InputError.
    """

    n_in: int
    n_out: int

    def __post_init__(self) -> None:
        _check_sizes(self)

    @property
    def n_params(self) -> int:
        return (self.n_in + 1) * self.n_out

    def init(self, rng: np.random.Generator | int | None, dtype: DTypeLike = "float64") -> np.ndarray:
        """W uniform in ±sqrt(6 / (n_in + n_out)), b zero.          [GB10, (16)]"""
        limit = np.sqrt(6.0 / (self.n_in + self.n_out))
        phi = np.zeros(self.n_params, dtype)
        phi[: self.n_in * self.n_out] = check_rng(rng).uniform(-limit, limit, self.n_in * self.n_out)
        return phi

    def config(self) -> list[Any]:
        """For JSON."""
        return [self.n_in, self.n_out]

    def value(self, phi: np.ndarray, x: np.ndarray) -> np.ndarray:
        W, b = self._views(phi, x)
        out = matrix_product(x, W)
        out += b
        return out

    def vjp(self, phi: np.ndarray, x: np.ndarray, out_bar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(x_bar, phi_bar)` for the cotangent out_bar (B, n_out)."""
        x_bar, phi_bar = self.pull(phi, x, out_bar)
        return np.asarray(x_bar), phi_bar

    def pull(self, phi: np.ndarray, x: np.ndarray, out_bar: np.ndarray) -> tuple[Factors, np.ndarray]:
        """`vjp` with x̄ = out̄ Wᵀ not multiplied out."""
        W, _ = self._views(phi, x)
        if out_bar.shape != (len(x), self.n_out):
            raise InputError(f"LinearHead: out_bar must be {(len(x), self.n_out)}, not {out_bar.shape}")
        phi_bar = np.zeros(self.n_params, W.dtype)
        add_matrix_product(x, out_bar, phi_bar[: W.size].reshape(W.shape))
        phi_bar[W.size :] = out_bar.sum(axis=0)
        return Factors(out_bar, W.T), phi_bar

    def _views(self, phi: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if phi.shape != (self.n_params,) or x.ndim != 2 or x.shape[1] != self.n_in:
            raise InputError(
                f"LinearHead({self.n_in}, {self.n_out}): phi must be ({self.n_params},) and x (B, {self.n_in}), "
                f"not {phi.shape} and {x.shape}"
            )
        n_weights = self.n_in * self.n_out
        return phi[:n_weights].reshape(self.n_in, self.n_out), phi[n_weights:]


@dataclass(frozen=True)
class FirstComponents:
    """The first components of an augmented state; it has no parameters.

    out = x[:, :n_out],   x̄ = (out̄, 0)
    """

    n_in: int
    n_out: int
    n_params = 0

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.n_out > self.n_in:
            raise InputError(f"FirstComponents: a state of {self.n_in} has no {self.n_out} first components")

    def config(self) -> list[Any]:
        """For JSON."""
        return ["first", self.n_in, self.n_out]

    def init(self, rng: np.random.Generator | int | None, dtype: DTypeLike = "float64") -> np.ndarray:
        return np.zeros(0, dtype)

    def value(self, phi: np.ndarray, x: np.ndarray) -> np.ndarray:
        return x[:, : self.n_out]

    def vjp(self, phi: np.ndarray, x: np.ndarray, out_bar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(x_bar, phi_bar)` for the cotangent out_bar (B, n_out)."""
        return np.pad(out_bar, ((0, 0), (0, self.n_in - self.n_out))), phi


Head = LinearHead | FirstComponents


def _check_sizes(head: Head) -> None:
    for name in ("n_in", "n_out"):
        size = getattr(head, name)
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise InputError(f"{type(head).__name__}: {name} must be a whole number of at least 1, not {size!r}")
