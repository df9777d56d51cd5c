"""A bounded queue in front of one worker, which computes what waits in batches of like length.

Knows: costs, budgets, order of arrival, callers who went away or waited too long, batches that fail or never end.
Does not know: text, labels, models.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from service.errors import BackendFailed, QueueTimeout, Overloaded

IDLE_S = 1.0
"""Seconds without work after which the worker's thread ends; the next item starts another."""

LONGER_AT_MOST = 2
"""The longest item of a batch over the shortest: padding is computed like everything else."""

NICER = 6
STUCK_S, STUCK_TIMES = 3.0, 8.0
"""Seconds, and times what its tokens took so far, after which a batch is taken for one that never ends."""

FIRST_S = 120.0
"""Seconds after which a first batch is, or a model that is loaded anew."""

CLOSED_WITHIN_S = 20.0
"""Seconds that what waits gets when a server stops."""

_BATCHERS: weakref.WeakSet[BatchQueue] = weakref.WeakSet()


class Took(Protocol):
    """Where a caller wants it written how long things took; `patience_s` is how long its items may wait."""

    patience_s: float | None
    waiting_s: float
    computing_s: float


class Batch(NamedTuple):
    """What became of a batch, for whoever counts them."""

    items: int
    tokens: int
    seconds: float


@dataclass(eq=False, slots=True)
class _Job:
    """The items of one call."""

    future: Future[list[Any]]
    results: list[Any]
    missing: int
    took: Took | None
    since: float

    def put(self, place: int, result: Any) -> None:
        self.results[place] = result
        self.missing -= 1
        if self.missing == 0 and not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_result(self.results)

    def is_late(self, now: float) -> bool:
        return self.took is not None and self.took.patience_s is not None and now - self.since > self.took.patience_s

    def fail(self, error: BaseException) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(eq=False, slots=True)
class _Item:
    payload: Any
    length: int
    job: _Job
    place: int
    arrived: int
    rows: int


@dataclass(eq=False)
class _Queue:
    """What waits, by kind and then by length."""

    of_kind: dict[Hashable, list[_Item]] = field(default_factory=dict)
    tokens: int = 0

    def add(self, kind: Hashable, items: list[_Item]) -> None:
        waiting = self.of_kind.setdefault(kind, [])
        waiting += items
        waiting.sort(key=lambda item: (item.length, -item.arrived))  # of equals, the older one goes first
        self.tokens += sum(item.length for item in items)

    def without_leavers(self) -> list[_Item]:
        """Take out what nobody waits for any more."""
        gone: list[_Item] = []
        for kind, waiting in list(self.of_kind.items()):
            kept = [item for item in waiting if not item.job.future.done()]
            if len(kept) < len(waiting):
                gone += [item for item in waiting if item.job.future.done()]
                self._put_back(kind, kept)
        self.tokens -= sum(item.length for item in gone)
        return gone

    def without_late(self, now: float) -> list[_Item]:
        """Take out what has waited longer than its caller's patience."""
        late: list[_Item] = []
        for kind, waiting in list(self.of_kind.items()):
            if any(item.job.is_late(now) for item in waiting):
                late += [item for item in waiting if item.job.is_late(now)]
                self._put_back(kind, [item for item in waiting if not item.job.is_late(now)])
        self.tokens -= sum(item.length for item in late)
        return late

    def take(self, budget: int, padded: bool) -> tuple[Hashable, list[_Item]]:
        """A batch with the item that has waited longest, and others of its kind, of like length where that counts."""
        kind, oldest = min(
            ((kind, min(waiting, key=lambda item: item.arrived)) for kind, waiting in self.of_kind.items()),
            key=lambda pair: pair[1].arrived,
        )
        waiting = self.of_kind[kind]
        begin = next(place for place, item in enumerate(waiting) if item is oldest)
        end, rows, tokens = begin + 1, oldest.rows, oldest.length

        def joins(other: int) -> bool:
            count, item = end - begin + 1, waiting[other]
            shortest, longest = waiting[min(begin, other)].length, waiting[max(end - 1, other)].length
            if padded and (count * longest > budget or longest > LONGER_AT_MOST * shortest):
                return False
            return count <= min(rows, item.rows) and tokens + item.length <= budget

        while begin > 0 and joins(begin - 1):
            begin -= 1
            rows, tokens = min(rows, waiting[begin].rows), tokens + waiting[begin].length
        while end < len(waiting) and joins(end):
            rows, tokens = min(rows, waiting[end].rows), tokens + waiting[end].length
            end += 1
        batch = waiting[begin:end]
        self._put_back(kind, waiting[:begin] + waiting[end:])
        self.tokens -= sum(item.length for item in batch)
        return kind, batch

    def _put_back(self, kind: Hashable, waiting: list[_Item]) -> None:
        if waiting:
            self.of_kind[kind] = waiting
        else:
            del self.of_kind[kind]


class BatchQueue:
    """Items in, results out, from any number of threads.

    Args:
        run: gets a kind and the payloads of a batch, and gives a result for each; it is called from one thread.
        budget: tokens of a batch at most; a single item may be longer.
        room: tokens that may wait.
        padded: a batch costs its longest item times its items, as opposed to the tokens it holds.
        renew: called before anything else is run where a batch never came back: its thread is left alone, and another
            one goes on. Without it, a batch may take any time.
        seen: hears of every batch that was computed.
    """

    def __init__(
        self,
        run: Callable[[Any, list[Any]], Sequence[Any]],
        *,
        budget: int,
        room: int,
        padded: bool = True,
        renew: Callable[[], None] | None = None,
        seen: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self._run, self._budget, self._room, self._padded = run, budget, room, padded
        self._renew, self._seen = renew, seen
        self._per_s: float | None = None  # tokens, smoothed
        self._ended = 0.0
        self._arrived = 0
        self._begin()
        _BATCHERS.add(self)

    @property
    def waiting(self) -> int:
        """Tokens that wait."""
        return self._queue.tokens

    def seconds(self, tokens: float) -> float:
        """What so many tokens will take; 0 where nothing was computed so far."""
        return tokens / self._per_s if self._per_s else 0.0

    def submit(
        self,
        kind: Hashable,
        payloads: Sequence[Any],
        lengths: Sequence[int],
        *,
        rows: int,
        wait: bool = False,
        took: Took | None = None,
    ) -> Future[list[Any]]:
        """The results of the payloads, in their order. Cancel the future to have what still waits skipped.

        Args:
            kind: only items of a kind share a batch.
            lengths: tokens of each.
            rows: items of a batch, at most.
            wait: block until there is room, instead of refusing.
            took: hears how long things took, and says how long the items may wait.

        Raises:
            Overloaded: there is no room, or what waits already will take longer than the items may wait. Items larger
                than all the room are taken when nothing waits.
            BackendFailed: the batcher was closed.
        """
        future: Future[list[Any]] = Future()
        if not payloads:
            future.set_result([])
            return future
        job = _Job(future, [None] * len(payloads), len(payloads), took, time.monotonic())
        cost = sum(lengths)
        with self._changed:
            while not self._closed and self._queue.tokens and self._queue.tokens + cost > self._room:
                if self._queue.without_leavers():
                    continue
                if not wait:
                    raise self._full(self.seconds(self._queue.tokens))
                self._changed.wait()
            if self._closed:
                raise BackendFailed("this model was closed")
            if not wait and took is not None and took.patience_s is not None:
                expected = self.seconds(self._queue.tokens)
                if expected > took.patience_s:
                    raise self._full(expected)
            job.since = time.monotonic()
            # longest first, so that a call by itself is computed in batches that shrink
            order = sorted(range(len(payloads)), key=lambda place: -lengths[place])
            items = [
                _Item(payloads[place], lengths[place], job, place, self._arrived + count, rows)
                for count, place in enumerate(order)
            ]
            self._arrived += len(items)
            self._queue.add(kind, items)
            if self._thread is None:
                self._start()
            self._changed.notify_all()
        return future

    def close(self) -> None:
        """Take nothing more, finish what waits, and return when that is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        until = time.monotonic() + CLOSED_WITHIN_S
        while thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(0.5 if self._renew is not None else None)
            if self._renew is not None and time.monotonic() > until:
                break  # it hangs, and a server has to end
            thread = self._thread  # another one may have taken over

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._queue = _Queue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._now: tuple[float, list[_Item]] | None = None

    def _start(self, *, renewed: bool = False) -> None:
        thread = threading.Thread(target=self._work, args=(renewed,), name="rehead-batcher", daemon=True)
        thread.start()  # it waits for the lock, which is held here
        self._thread = thread
        if self._renew is not None:
            threading.Thread(target=self._watch, args=(thread,), name="rehead-watch", daemon=True).start()

    def _work(self, renewed: bool) -> None:
        me = threading.current_thread()
        if self._renew is not None:
            _give_way()
        if renewed and self._renew is not None:
            with self._changed:
                self._now = (time.monotonic(), [])
            try:
                self._renew()
            except Exception as error:
                self._fail_all(BackendFailed(f"the model had to be started anew, and that failed ({error})"))
            with self._changed:
                if self._thread is not me:
                    return
                self._now = None
        while True:
            with self._changed:
                while not self._queue.of_kind:
                    if (self._closed or not self._changed.wait(IDLE_S)) and not self._queue.of_kind:
                        if self._thread is me:
                            self._thread = None
                        return
                now = time.monotonic()
                late = self._queue.without_late(now)
                batch: list[_Item] = []
                if self._queue.of_kind:
                    kind, batch = self._queue.take(self._budget, self._padded)
                    self._now = (now, batch)
                self._changed.notify_all()
            for item in late:
                item.job.fail(QueueTimeout("it waited longer than a request may, and the model did not see it"))
            if batch:
                self._compute(kind, batch)
            with self._changed:
                if self._thread is not me:
                    return  # it took so long that another thread has gone on
                self._now = None

    def _compute(self, kind: Hashable, batch: list[_Item]) -> None:
        """Results of a batch; where it fails, of its halves, until the offender fails alone."""
        batch = [item for item in batch if not item.job.future.done()]
        if not batch:
            return
        begin = time.monotonic()
        try:
            results = self._run(kind, [item.payload for item in batch])
        except Exception as error:  # whatever it is, it belongs to the caller, and the worker goes on
            if len(batch) == 1:
                batch[0].job.fail(error)
                return
            half = len(batch) // 2
            self._compute(kind, batch[:half])
            self._compute(kind, batch[half:])
            return
        self._note(batch, begin, time.monotonic() - begin)
        for item, result in zip(batch, results, strict=True):
            item.job.put(item.place, result)

    def _note(self, batch: list[_Item], begin: float, seconds: float) -> None:
        if threading.current_thread() is not self._thread:
            return  # what a thread that was given up says comes too late
        tokens, end = sum(item.length for item in batch), begin + seconds
        # where one batch follows another, what lies between them is part of how long those that wait will wait
        now = tokens / max(end - max(self._ended, begin - seconds), 1e-6)
        self._per_s = now if self._per_s is None else 0.8 * self._per_s + 0.2 * now
        self._ended = end
        for job in {id(item.job): item.job for item in batch}.values():
            if job.took is not None:
                job.took.waiting_s = max(job.took.waiting_s, begin - job.since)
                job.took.computing_s += seconds
        self._seen(Batch(len(batch), tokens, seconds))

    def _full(self, expected: float) -> Overloaded:
        return Overloaded(
            f"{self._queue.tokens} tokens wait for this model already, which is as much as it takes on",
            hint="try again in a moment",
            retry_after_s=max(1.0, expected),
        )

    def _watch(self, thread: threading.Thread) -> None:
        """Have another thread go on where this one is stuck."""
        while thread.is_alive():
            time.sleep(STUCK_S / 10)
            with self._changed:
                if self._thread is not thread:
                    return
                now = self._now
                if now is None:
                    continue
                begin, batch = now
                allowed = FIRST_S
                if batch and self._per_s is not None:
                    allowed = STUCK_S + STUCK_TIMES * sum(item.length for item in batch) / self._per_s
                if time.monotonic() - begin <= allowed:
                    continue
                self._now = None
                self._start(renewed=True)
            for item in batch:
                item.job.fail(BackendFailed("the model did not come back from this request, and is started anew"))
            return

    def _fail_all(self, error: BackendFailed) -> None:
        with self._changed:
            waiting = [item for items in self._queue.of_kind.values() for item in items]
            self._queue = _Queue()
            self._changed.notify_all()
        for item in waiting:
            item.job.fail(error)


def _give_way() -> None:
    """A server's other threads go first on a processor they share: answering takes little, computing what is left."""
    if hasattr(os, "setpriority"):  # not on Windows
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + NICER)


def _after_fork() -> None:
    for batcher in list(_BATCHERS):
        batcher._begin()  # its thread, and the one that may have held its lock, are not in this process


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
