"""Task losses from logits: value and gradient together, on one page.

Each returns `(value, logits_bar)`: the mean over the batch as a Python float, summed in float64, and its gradient with
the shape and dtype of the logits. They are stable for any finite logits. NaN or inf in the logits gives a NaN or
infinite value without a warning: `fit` stops on it and names the step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import InputError


def binary_cross_entropy(logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Binary cross-entropy of one logit a sample.

    L = mean( softplus(z) − y z ),   softplus(z) = max(z, 0) + ln(1 + e^−|z|),   z̄ = (σ(z) − y) / B

    logits : (B,) or (B, 1) float
    y      : (B,) or the shape of logits, labels 0 and 1 or probabilities in between
    """
    if logits.ndim != 1 and (logits.ndim != 2 or logits.shape[1] != 1):
        raise InputError(
            f"binary_cross_entropy takes one logit a sample, not logits of shape {logits.shape}; try cross_entropy"
        )
    y = np.asarray(y)
    if y.ndim == 1 and logits.ndim == 2:
        y = y[:, None]
    _same_shape("binary_cross_entropy", logits, y)
    if y.dtype.kind not in "biuf" or not (y.min() >= 0 and y.max() <= 1):
        raise InputError("binary_cross_entropy takes labels (or probabilities) between 0 and 1")
    y = y.astype(logits.dtype, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        small = np.exp(-np.abs(logits))
        value = np.mean(np.maximum(logits, 0) - y * logits + np.log1p(small), dtype=np.float64)
        # σ(z) − y = (1 − y) σ(z) − y σ(−z): no cancellation where the sample is already classified well
        large_side, small_side = 1 / (1 + small), small / (1 + small)
        right = logits >= 0
        sigma, sigma_minus = np.where(right, large_side, small_side), np.where(right, small_side, large_side)
        logits_bar = ((1 - y) * sigma - y * sigma_minus) / len(logits)
    return float(value), logits_bar


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Categorical cross-entropy.

    L = mean( ln Σⱼ e^zⱼ − z_y ),   z̄ = (softmax(z) − 1_y) / B

    logits : (B, k) float
    y      : (B,) int, 0 … k − 1
    """
    y = np.asarray(y)
    if logits.ndim != 2 or y.shape != logits.shape[:1] or y.size == 0:
        raise InputError(
            f"cross_entropy takes logits (B, k) and labels (B,), not empty; not {logits.shape} and {y.shape}"
        )
    if y.dtype.kind not in "iu":
        raise InputError(f"cross_entropy takes whole-number labels, not {y.dtype}")
    if not (y.min() >= 0 and y.max() < logits.shape[1]):
        raise InputError(f"cross_entropy: labels from {y.min()} to {y.max()} do not fit {logits.shape[1]} logits")
    rows = np.arange(len(y))
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        total = powers.sum(axis=1, keepdims=True)
        value = np.mean(np.log(total[:, 0]) - shifted[rows, y], dtype=np.float64)
        logits_bar = powers / total
        logits_bar[rows, y] -= 1
        logits_bar /= len(y)
    return float(value), logits_bar


def mean_squared_error(pred: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean squared error over every entry.

    L = mean( (p − y)² ),   p̄ = 2 (p − y) / N,   N entries

    pred, y : (B, …) float, the same shape
    """
    y = np.asarray(y)
    _same_shape("mean_squared_error", pred, y)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = pred - y.astype(pred.dtype, copy=False)
        value = np.mean(np.square(difference, dtype=np.float64))
        return float(value), 2 / difference.size * difference


LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]] = {
    loss.__name__: loss for loss in (binary_cross_entropy, cross_entropy, mean_squared_error)
}


def _same_shape(name: str, prediction: np.ndarray, y: np.ndarray) -> None:
    if prediction.shape != y.shape or y.size == 0:
        raise InputError(
            f"{name} takes a prediction and a target of one shape, not empty; not {prediction.shape} and {y.shape}"
        )
