"""Whether a claim holds over the seeds: yes, no, or not decided by these seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

YES, NO, UNDECIDED = "yes", "no", "undecided"
LEVEL = 0.1
RULE = (
    "A claim is held against the differences of its two rows seed by seed, with Student's paired test at one side and 10 %: yes where their mean is "
    "more than t standard errors on the claimed side, no where it is on the other (t is 1.5 for 5 seeds, 3.1 for 2), and not decided in between. A claim "
    "of several parts needs all of them. κ is compared by its logarithm"
)


class Part(NamedTuple):
    """One comparison of a claim: what is compared, in words, and its verdict."""

    text: str
    verdict: str


def decide(differences: ArrayLike, *, strict: bool = True) -> str:
    """The verdict on "this difference is positive" (strict=False: not negative) from one value a seed.

    With mean d and standard error e = s / sqrt(n) of the n differences: yes where d > t e, no where d < −t e, t the 90 % quantile of Student's t with
    n − 1 degrees of freedom. Where all seeds agree to the last digit the sign decides; a single seed decides nothing.
    """
    from scipy.special import stdtrit

    differences = np.asarray(differences, dtype=float)
    if differences.size < 2 or not np.isfinite(differences).all():
        return UNDECIDED
    mean, error = _mean_and_error(differences)
    if error <= 1e-12 * abs(mean):
        return YES if mean > 0 or (mean == 0 and not strict) else NO
    ratio = mean / (float(stdtrit(differences.size - 1, 1.0 - LEVEL)) * error)
    return YES if ratio > 1 else NO if ratio < -1 else UNDECIDED


def all_of(parts: Sequence[Part]) -> str:
    """No if any part is refuted, yes if all are borne out."""
    verdicts = [part.verdict for part in parts]
    return NO if NO in verdicts else UNDECIDED if UNDECIDED in verdicts else YES


def compare(column: str, low: Mapping[str, Any], high: Mapping[str, Any], *, slack: float = 0.0, strict: bool = True) -> Part:
    """"`low` has less of `column` than `high`", by more than −slack; κ as a ratio."""
    ratio = column == "condition_number"
    values = [np.asarray(row[column]["values"], dtype=float) for row in (low, high)]
    small, large = map(np.log, values) if ratio else values
    difference = large - small + slack
    scale, unit = (100.0, " points") if column == "accuracy" else (1.0, "")
    mean, error = _mean_and_error(large - small)
    spread = "" if math.isnan(error) else f" ± {error * scale:.2g}"  # of a single seed nobody knows it
    name = "NFE" if column == "nfe" else column.replace("_", " ")
    if ratio:
        text = f"{name}, {high['name']} / {low['name']} = {math.exp(mean):.2f}"
    else:
        text = f"{name}, {high['name']} − {low['name']} = {mean * scale:.3g}{spread}{unit}"
    return Part(text, decide(difference, strict=strict))


def _mean_and_error(differences: NDArray) -> tuple[float, float]:
    n = differences.size
    return float(np.mean(differences)), float(np.std(differences, ddof=1) / np.sqrt(n)) if n > 1 else math.nan
