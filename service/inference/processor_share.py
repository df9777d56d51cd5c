"""How much of a processor a thread gets: on a busy machine, a call that takes long need not hang."""

from __future__ import annotations

import time

PROBE_S = 0.002
"""Seconds of processor time that a measurement takes."""


def processor_share() -> float:
    """Return the share of a processor that this thread gets at the moment, above 0 and at most 1."""
    begin, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < PROBE_S:
        pass
    return min(1.0, (time.thread_time() - used) / max(time.perf_counter() - begin, 1e-9))
