"""A bounded queue in front of one worker, which computes what waits in batches of like length.

Knows: costs, budgets, order of arrival, callers who went away, batches that fail.
Does not know: text, labels, models.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from service.errors import BackendFailed, Overloaded

IDLE_S = 1.0
"""Seconds without work after which the worker's thread ends; the next item starts another."""

LONGER_AT_MOST = 2
"""The longest item of a batch over the shortest: padding is computed like everything else."""

_BATCHERS: weakref.WeakSet[Batcher] = weakref.WeakSet()


@dataclass(eq=False, slots=True)
class _Job:
    """The items of one call."""

    future: Future[list[Any]]
    results: list[Any]
    missing: int

    def put(self, place: int, result: Any) -> None:
        self.results[place] = result
        self.missing -= 1
        if self.missing == 0 and self.future.set_running_or_notify_cancel():
            self.future.set_result(self.results)

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


class Batcher:
    """Items in, results out, from any number of threads.

    Args:
        run: gets a kind and the payloads of a batch, and gives a result for each; it is called from one thread.
        budget: tokens of a batch at most; a single item may be longer.
        room: tokens that may wait.
        padded: a batch costs its longest item times its items, as opposed to the tokens it holds.
    """

    def __init__(
        self, run: Callable[[Any, list[Any]], Sequence[Any]], *, budget: int, room: int, padded: bool = True
    ) -> None:
        self._run, self._budget, self._room, self._padded = run, budget, room, padded
        self._thread: threading.Thread | None = None
        self._arrived = 0
        self._begin()
        _BATCHERS.add(self)

    def submit(
        self, kind: Hashable, payloads: Sequence[Any], lengths: Sequence[int], *, rows: int, wait: bool = False
    ) -> Future[list[Any]]:
        """The results of the payloads, in their order. Cancel the future to have what still waits skipped.

        Args:
            kind: only items of a kind share a batch.
            lengths: tokens of each.
            rows: items of a batch, at most.
            wait: block until there is room, instead of refusing.

        Raises:
            Overloaded: there is no room. Items larger than all the room are taken when nothing waits.
            BackendFailed: the batcher was closed.
        """
        future: Future[list[Any]] = Future()
        if not payloads:
            future.set_result([])
            return future
        job = _Job(future, [None] * len(payloads), len(payloads))
        cost = sum(lengths)
        with self._changed:
            while not self._closed and self._queue.tokens and self._queue.tokens + cost > self._room:
                if self._queue.without_leavers():
                    continue
                if not wait:
                    raise Overloaded(
                        f"{self._queue.tokens} tokens wait for this model already, and {self._room} may",
                        hint="try again in a moment",
                    )
                self._changed.wait()
            if self._closed:
                raise BackendFailed("this model was closed")
            # longest first, so that a call by itself is computed in batches that shrink
            order = sorted(range(len(payloads)), key=lambda place: -lengths[place])
            items = [
                _Item(payloads[place], lengths[place], job, place, self._arrived + count, rows)
                for count, place in enumerate(order)
            ]
            self._arrived += len(items)
            self._queue.add(kind, items)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rehead-batcher", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return future

    def close(self) -> None:
        """Take nothing more, finish what waits, and return when that is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._queue = _Queue()
        self._thread = None
        self._closed = False

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue.of_kind:
                    if (self._closed or not self._changed.wait(IDLE_S)) and not self._queue.of_kind:
                        self._thread = None
                        return
                kind, batch = self._queue.take(self._budget, self._padded)
                self._changed.notify_all()
            self._compute(kind, batch)

    def _compute(self, kind: Hashable, batch: list[_Item]) -> None:
        """Results of a batch; where it fails, of its halves, until the offender fails alone."""
        batch = [item for item in batch if not item.job.future.done()]
        if not batch:
            return
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
        for item, result in zip(batch, results, strict=True):
            item.job.put(item.place, result)


def _after_fork() -> None:
    for batcher in list(_BATCHERS):
        batcher._begin()  # its thread, and the one that may have held its lock, are not in this process


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
