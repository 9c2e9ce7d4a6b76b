"""One of the accepted states at random, all equally likely, of a solve that need not keep them.                                    [Vit85]

The state after accepted step j = 1, 2, … replaces the one that is held with probability 1/j, so that after m of them each is held with probability 1/m. The
j at which that happens are known beforehand: from one to the next, with u uniform on (0, 1],

    P(next > n) = Π_{i=j+1}^{n} (1 − 1/i) = j/n,     next = 1 + floor(j/u)

about ln m of them in m steps. The state at the end of the span does not take part; where the solve is a single step, the start is held.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def replacements(seed: int) -> Iterator[int]:
    """The numbers of accepted steps, increasing, after which the held state is replaced: 1, then larger and larger ones."""
    rng = np.random.default_rng(seed)
    j = 1
    while True:
        yield j
        j = 1 + int(j / (1.0 - rng.random()))


def held(seed: int, steps: int) -> int:
    """Index of the accepted state that is held after a solve of that many steps."""
    last = 0
    for j in replacements(seed):
        if j >= steps:
            return last
        last = j
    raise AssertionError  # the replacements never end
