"""Progress of a training on the terminal: a tqdm bar, or plain lines where tqdm is not installed."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """Shows steps, loss and NFE on stderr: a bar ten times a second, or a line a second; nothing when not `enabled`."""

    def __init__(self, enabled: bool, done: int, total: int) -> None:
        self._total = total
        self._bar: Any = None
        self._wait = float("inf")
        self._shown = time.perf_counter()
        if enabled:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                self._wait = 1.0
            else:
                self._wait = 0.1
                self._bar = tqdm(total=total, initial=done, desc="training", unit="step", file=sys.stderr)

    def tick(self, now: float, done: int, loss: float, nfe: int) -> None:
        """`done` steps are complete at time `now`; costs nothing but a comparison until it is time to show it."""
        if now - self._shown >= self._wait or done == self._total and self._wait < float("inf"):
            self._shown = now
            if self._bar is None:
                print(f"training: step {done}/{self._total}, loss {loss:.4g}, nfe {nfe}", file=sys.stderr, flush=True)
            else:
                self._bar.set_postfix(loss=f"{loss:.4g}", nfe=nfe, refresh=False)
                self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
