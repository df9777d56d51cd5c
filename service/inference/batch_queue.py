"""A bounded queue with one thread that computes the queued rows in batches."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple

from service.errors import BackendFailed, Overloaded, QueueTimeout
from service.inference.processor_share import processor_share
from service.inference.queued_rows import Call, QueuedRows, Row, Timings

IDLE_S = 1.0
"""Seconds without rows after which the thread ends; the next row starts another."""

NICENESS = 6
HANG_S, HANG_RATIO = 3.0, 8.0
"""A batch hangs if it has these seconds of a processor, plus this many times what its tokens usually take."""

FIRST_BATCH_S = 120.0
"""Seconds of a processor after which the first batch of a kind hangs, or the reload of a model."""

BUSY_RATIO = 5.0
"""How many times these seconds may pass on a machine that is busy with other work."""

CLOSE_S = 20.0
"""Seconds for the queued rows when a server shuts down."""

_QUEUES: weakref.WeakSet[BatchQueue] = weakref.WeakSet()


class Batch(NamedTuple):
    """Statistics of a computed batch."""

    rows: int
    tokens: int
    seconds: float


class BatchQueue:
    """Payloads in, results out; thread-safe.

    Args:
        run: takes a kind and the payloads of a batch, returns a result for each; called from one thread.
        batch_tokens: maximum tokens of a batch; a single row may be longer.
        max_tokens: maximum tokens in the queue.
        padded: whether a batch costs its longest row times its rows, as opposed to the tokens it holds.
        family: what a first batch is slow for, such as a part of the model that no batch used before, given its kind.
        restart: called before the next batch after a batch hung: another thread takes over, and the one that hangs is
            abandoned. Without it, a batch may take any time.
        on_batch: called after every computed batch.
    """

    def __init__(
        self,
        run: Callable[[Any, list[Any]], Sequence[Any]],
        *,
        batch_tokens: int,
        max_tokens: int,
        padded: bool = True,
        family: Callable[[Any], Hashable] = lambda kind: kind,
        restart: Callable[[], None] | None = None,
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self._run, self._batch_tokens, self._max_tokens, self._padded = run, batch_tokens, max_tokens, padded
        self._restart, self._on_batch, self._family = restart, on_batch, family
        self._computed: set[Hashable] = set()
        self._runtime = 0
        self._tokens_per_s: float | None = None  # smoothed
        self._ended = 0.0
        self._arrived = 0
        self._reset()
        _QUEUES.add(self)

    @property
    def queued_tokens(self) -> int:
        """Tokens in the queue."""
        return self._rows.tokens

    def seconds(self, tokens: float) -> float:
        """Return the expected seconds for so many tokens; 0 before the first batch."""
        return tokens / self._tokens_per_s if self._tokens_per_s else 0.0

    def submit(
        self,
        kind: Hashable,
        payloads: Sequence[Any],
        lengths: Sequence[int],
        *,
        rows: int,
        wait: bool = False,
        timings: Timings | None = None,
    ) -> Future[list[Any]]:
        """Queue payloads and return the future of their results, in order. Cancel it to skip what is still queued.

        Args:
            kind: only rows of the same kind share a batch.
            lengths: tokens of each payload.
            rows: maximum rows of a batch.
            wait: block until the queue has space, instead of raising.
            timings: the queue timeout, and where the seconds are recorded.

        Raises:
            Overloaded: the queue is full, or its rows will take longer than the queue timeout. A call that is larger
                than the queue is accepted when the queue is empty.
            BackendFailed: the queue was closed.
        """
        future: Future[list[Any]] = Future()
        if not payloads:
            future.set_result([])
            return future
        call = Call(future, [None] * len(payloads), len(payloads), timings, time.monotonic())
        with self._changed:
            self._require_space(sum(lengths), wait, timings)
            call.since = time.monotonic()
            # longest first, so that a call by itself is computed in batches that shrink
            order = sorted(range(len(payloads)), key=lambda place: -lengths[place])
            self._rows.add(
                kind,
                [
                    Row(payloads[place], lengths[place], call, place, self._arrived + count, rows)
                    for count, place in enumerate(order)
                ],
            )
            self._arrived += len(order)
            if self._thread is None:
                self._start()
            self._changed.notify_all()
        return future

    def forget(self) -> None:
        """Forget how fast batches were computed, and which kinds: another runtime computes from now on."""
        with self._changed:
            self._computed.clear()
            self._tokens_per_s, self._runtime = None, self._runtime + 1

    def close(self) -> None:
        """Accept nothing more, finish what is queued, and return when that is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        until = time.monotonic() + CLOSE_S
        while thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(0.5 if self._restart is not None else None)
            if self._restart is not None and time.monotonic() > until:
                break  # it hangs, and a server has to shut down
            thread = self._thread  # another one may have taken over

    def _require_space(self, tokens: int, wait: bool, timings: Timings | None) -> None:
        """Return once the queue has space for a call, or raise; the lock is held.

        A request whose first rows were accepted is not refused for its next ones: the queued rows may be its own.
        """
        admitted = timings is not None and timings.admitted
        while not (self._closed or admitted) and self._rows.tokens and self._rows.tokens + tokens > self._max_tokens:
            if self._rows.remove_cancelled():
                continue
            if not wait:
                raise self._full(self.seconds(self._rows.tokens))
            self._changed.wait()
        if self._closed:
            raise BackendFailed("this model was closed")
        if timings is None or admitted:
            return
        if not wait and timings.queue_timeout_s is not None and self._expected() > timings.queue_timeout_s:
            self._rows.remove_cancelled()
            if (expected := self._expected()) > timings.queue_timeout_s:
                raise self._full(expected)
        timings.admitted = not wait

    def _expected(self) -> float:
        return self.seconds(self._rows.tokens)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._rows = QueuedRows()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._running: tuple[float, Hashable, list[Row]] | None = None

    def _start(self, *, restarted: bool = False) -> None:
        thread = threading.Thread(target=self._work, args=(restarted,), name="rehead-batches", daemon=True)
        thread.start()  # it waits for the lock, which is held here
        self._thread = thread
        if self._restart is not None:
            threading.Thread(target=self._watch, args=(thread,), name="rehead-watch", daemon=True).start()

    def _work(self, restarted: bool) -> None:
        """Compute batches until the queue is idle, closed, or another thread has taken over."""
        thread = threading.current_thread()
        if self._restart is not None:
            _lower_priority()
        if restarted and not self._restarted():
            return
        while True:
            with self._changed:
                while not self._rows.by_kind:
                    if (self._closed or not self._changed.wait(IDLE_S)) and not self._rows.by_kind:
                        if self._thread is thread:
                            self._thread = None
                        return
                now = time.monotonic()
                timed_out = self._rows.remove_timed_out(now)
                batch: list[Row] = []
                if self._rows.by_kind:
                    kind, batch = self._rows.take(self._batch_tokens, self._padded)
                    self._running = (now, self._family(kind), batch)
                self._changed.notify_all()
            for row in timed_out:
                row.call.fail(QueueTimeout("timed out while waiting in the queue", hint="try again in a moment"))
            if batch:
                self._compute(kind, batch)
            with self._changed:
                if self._thread is not thread:
                    return
                self._running = None

    def _restarted(self) -> bool:
        """Call `restart`; return whether this thread is still the queue's."""
        with self._changed:
            self._running = (time.monotonic(), None, [])
            self._computed.clear()
        try:
            if self._restart is not None:
                self._restart()
        except Exception as error:
            self._fail_all(BackendFailed(f"the model had to be reloaded, and that failed ({error})"))
        with self._changed:
            if self._thread is not threading.current_thread():
                return False
            self._running = None
        return True

    def _compute(self, kind: Hashable, batch: list[Row]) -> None:
        """Compute a batch; after an error its halves, until the row at fault fails alone."""
        batch = [row for row in batch if not row.call.future.done()]
        if not batch:
            return
        begin, runtime = time.monotonic(), self._runtime
        try:
            results = self._run(kind, [row.payload for row in batch])
        except Exception as error:  # whatever it is, it is raised in the caller, and this thread continues
            if len(batch) == 1:
                batch[0].call.fail(error)
                return
            half = len(batch) // 2
            self._compute(kind, batch[:half])
            self._compute(kind, batch[half:])
            return
        self._record(kind, batch, begin, time.monotonic() - begin, runtime)
        for row, result in zip(batch, results, strict=True):
            row.call.put(row.place, result)

    def _record(self, kind: Hashable, batch: list[Row], begin: float, seconds: float, runtime: int) -> None:
        if threading.current_thread() is not self._thread:
            return  # an abandoned thread
        tokens, end = sum(row.length for row in batch), begin + seconds
        if runtime == self._runtime:
            self._computed.add(self._family(kind))
            # between batches that follow each other, the time in between is part of how long queued rows wait
            rate = tokens / max(end - max(self._ended, begin - seconds), 1e-6)
            self._tokens_per_s = rate if self._tokens_per_s is None else 0.8 * self._tokens_per_s + 0.2 * rate
        self._ended = end
        for call in {id(row.call): row.call for row in batch}.values():
            if call.timings is not None:
                call.timings.waiting_s = max(call.timings.waiting_s, begin - call.since)
                call.timings.computing_s += seconds
        self._on_batch(Batch(len(batch), tokens, seconds))

    def _full(self, expected: float) -> Overloaded:
        return Overloaded(
            f"the queue of this model is full ({self._rows.tokens} tokens)",
            hint="try again in a moment",
            retry_after_s=max(1.0, expected),
        )

    def _watch(self, thread: threading.Thread) -> None:
        """Start another thread when this one hangs."""
        _lower_priority()  # so that it measures what the other thread gets
        last, spent, checked = None, 0.0, time.monotonic()
        while thread.is_alive():
            time.sleep(HANG_S / 10)
            share = processor_share() if last is not None else 1.0
            with self._changed:
                if self._thread is not thread:
                    return
                now = time.monotonic()
                passed, checked = now - checked, now
                if self._running is not last or last is None:
                    last, spent = self._running, 0.0
                    continue
                spent += passed * share
                begin, family, batch = last
                allowed = FIRST_BATCH_S
                if batch and self._tokens_per_s is not None and family in self._computed:
                    allowed = HANG_S + HANG_RATIO * sum(row.length for row in batch) / self._tokens_per_s
                if spent <= allowed and now - begin <= BUSY_RATIO * max(allowed, FIRST_BATCH_S):
                    continue
                self._running = None
                self._start(restarted=True)
            for row in batch:
                row.call.fail(BackendFailed("the model hung on this request and is being reloaded"))
            return

    def _fail_all(self, error: BackendFailed) -> None:
        with self._changed:
            queued = [row for rows in self._rows.by_kind.values() for row in rows]
            self._rows = QueuedRows()
            self._changed.notify_all()
        for row in queued:
            row.call.fail(error)


def _lower_priority() -> None:
    """Let a server's other threads run first: to respond takes little time, computing takes what is left."""
    if hasattr(os, "setpriority"):  # not on Windows
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + NICENESS)


def _after_fork() -> None:
    for queue in list(_QUEUES):
        queue._reset()


# a forked process has neither the queue's thread nor the thread that may hold its lock; nothing else is changed there
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
