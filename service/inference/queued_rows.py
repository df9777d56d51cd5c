"""The rows that wait for a model, by kind and length, and which of them make up the next batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

MAX_LENGTH_RATIO = 2
"""The longest row of a padded batch over the shortest: padding is computed like everything else."""


class Timings(Protocol):
    """The queue timeout of a request in seconds, None for none, and where its seconds are recorded.

    `admitted` is set once its first rows are queued: a request never waits for itself.
    """

    queue_timeout_s: float | None
    admitted: bool
    waiting_s: float
    computing_s: float


@dataclass(eq=False, slots=True)
class Call:
    """The future of a call's rows, and the results so far; `since` is when they were queued."""

    future: Future[list[Any]]
    results: list[Any]
    missing: int
    timings: Timings | None
    since: float

    def put(self, place: int, result: Any) -> None:
        """Record a row's result; the last one resolves the future."""
        self.results[place] = result
        self.missing -= 1
        if self.missing == 0 and not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_result(self.results)

    def has_timed_out(self, now: float) -> bool:
        """Return whether the request's first rows have been queued for longer than its queue timeout."""
        if self.timings is None or self.timings.queue_timeout_s is None or self.timings.computing_s:
            return False
        return now - self.since > self.timings.queue_timeout_s

    def fail(self, error: BaseException) -> None:
        """Raise an error in whoever awaits the future."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(eq=False, slots=True)
class Row:
    """A row of a call; `arrived` numbers rows in order of arrival, `max_rows` bounds its batch."""

    payload: Any
    length: int
    call: Call
    place: int
    arrived: int
    max_rows: int


@dataclass(eq=False)
class QueuedRows:
    """Rows by kind, sorted by length; `tokens` is the length of all of them. Not thread-safe."""

    by_kind: dict[Hashable, list[Row]] = field(default_factory=dict)
    tokens: int = 0

    def add(self, kind: Hashable, rows: list[Row]) -> None:
        """Add rows of a kind."""
        queued = self.by_kind.setdefault(kind, [])
        queued += rows
        queued.sort(key=lambda row: (row.length, -row.arrived))  # of equals, the older one goes first
        self.tokens += sum(row.length for row in rows)

    def remove_cancelled(self) -> list[Row]:
        """Remove and return the rows whose call was cancelled or has failed."""
        return self._remove(lambda row: row.call.future.done())

    def remove_timed_out(self, now: float) -> list[Row]:
        """Remove and return the rows that exceeded their call's queue timeout."""
        return self._remove(lambda row: row.call.has_timed_out(now))

    def take(self, batch_tokens: int, padded: bool) -> tuple[Hashable, list[Row]]:
        """Remove and return the next batch and its kind: the oldest row, and others of its kind.

        Args:
            batch_tokens: maximum tokens of the batch, padding included where it is padded.
            padded: whether rows are padded to the longest, so that only rows of similar length share a batch.
        """
        kind, oldest = min(
            ((kind, min(rows, key=lambda row: row.arrived)) for kind, rows in self.by_kind.items()),
            key=lambda pair: pair[1].arrived,
        )
        queued = self.by_kind[kind]
        begin = next(place for place, row in enumerate(queued) if row is oldest)
        end, max_rows, tokens = begin + 1, oldest.max_rows, oldest.length

        def fits(place: int) -> bool:
            count, row = end - begin + 1, queued[place]
            shortest, longest = queued[min(begin, place)].length, queued[max(end - 1, place)].length
            if padded and (count * longest > batch_tokens or longest > MAX_LENGTH_RATIO * shortest):
                return False
            return count <= min(max_rows, row.max_rows) and tokens + row.length <= batch_tokens

        while begin > 0 and fits(begin - 1):
            begin -= 1
            max_rows, tokens = min(max_rows, queued[begin].max_rows), tokens + queued[begin].length
        while end < len(queued) and fits(end):
            max_rows, tokens = min(max_rows, queued[end].max_rows), tokens + queued[end].length
            end += 1
        batch = queued[begin:end]
        self._replace(kind, queued[:begin] + queued[end:])
        self.tokens -= sum(row.length for row in batch)
        return kind, batch

    def _remove(self, matches: Callable[[Row], bool]) -> list[Row]:
        removed: list[Row] = []
        for kind, queued in list(self.by_kind.items()):
            gone = [row for row in queued if matches(row)]
            if gone:
                removed += gone
                left = {id(row) for row in gone}
                self._replace(kind, [row for row in queued if id(row) not in left])
        self.tokens -= sum(row.length for row in removed)
        return removed

    def _replace(self, kind: Hashable, queued: list[Row]) -> None:
        if queued:
            self.by_kind[kind] = queued
        else:
            del self.by_kind[kind]
