"""Progress on the terminal: a tqdm bar, or plain lines where tqdm is not installed."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """Shows how much is done, and numbers beside it, on stderr: a bar ten times a second, or a line a second; nothing when not `enabled`."""

    def __init__(self, enabled: bool, done: int, total: int, what: str = "training", unit: str = "step") -> None:
        self._total, self._what, self._unit = total, what, unit
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
                self._bar = tqdm(total=total, initial=done, desc=what, unit=unit, file=sys.stderr)

    def tick(self, now: float, done: int, **numbers: float) -> None:
        """`done` units are complete at time `now`; costs nothing but a comparison until it is time to show it."""
        if now - self._shown >= self._wait or done == self._total and self._wait < float("inf"):
            self._shown = now
            texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in numbers.items()}
            if self._bar is None:
                shown = "".join(f", {name} {text}" for name, text in texts.items())
                print(f"{self._what}: {self._unit} {done}/{self._total}{shown}", file=sys.stderr, flush=True)
            else:
                self._bar.set_postfix(texts, refresh=False)
                self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
