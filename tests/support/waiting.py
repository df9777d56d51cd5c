"""Wait for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 480.0
"""Long enough for a loaded machine; only a failing test waits for it."""


def until(condition: Callable[[], object], what: str = "the condition", *, every_s: float = 0.02) -> None:
    """Return once the condition holds; fail after `DEADLINE_S`."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not hold within {DEADLINE_S:.0f} s"
        time.sleep(every_s)
