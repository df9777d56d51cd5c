"""Gradio's queue (6.31) with bounds on what it keeps: calls that wait, and answers that nobody collects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import gradio as gr
import gradio.queueing
from gradio.server_messages import ProcessCompletedMessage, ProcessGeneratingMessage
from gradio.utils import LRUCache

from service.server.shares import Shares

SESSION_BYTES, ALL_BYTES = 8_000_000, 64_000_000
"""Bytes of answers that are kept for one session, and for all of them."""

QUEUED_BYTES = 64_000_000
"""Bytes of the bodies of calls that wait or run."""

UNCOLLECTED_S = 120.0
"""Seconds after which a session without a listener is dropped, with its calls."""

SWEEP_S = 5.0
OBJECT_BYTES = 80
"""Bytes of an empty Python object, roughly."""

UNCOLLECTED = "the answers of this page were not collected, so that no more are kept: reload the page"
CLIENT, BODY_BYTES = "rehead.page_client", "rehead.page_bytes"
"""Scope keys: who sent a call of the page, and the bytes of its body."""


class Messages(asyncio.Queue[Any]):
    """The messages for one session; an answer that exceeds a bound is replaced by an error."""

    def __init__(self, has_space: Callable[[int], bool]) -> None:
        super().__init__()
        self.bytes = self._listeners = 0
        self._heard = time.monotonic()
        self._has_space = has_space
        self._incomplete: set[str | None] = set()

    def put_nowait(self, item: Any) -> None:
        """Add a message, or what replaces it."""
        size = size_of(item.output) if hasattr(item, "output") else 0
        completed = isinstance(item, ProcessCompletedMessage)
        if item.event_id in self._incomplete or self.bytes + size > SESSION_BYTES or not self._has_space(size):
            if isinstance(item, ProcessGeneratingMessage):
                self._incomplete.add(item.event_id)  # what follows is a difference to this one
                return
            if completed:
                item = ProcessCompletedMessage(
                    output={"error": UNCOLLECTED}, success=False, title="Error", event_id=item.event_id
                )
        if completed:
            self._incomplete.discard(item.event_id)
        super().put_nowait(item)

    def _put(self, item: Any) -> None:
        size = OBJECT_BYTES + (size_of(item.output) if hasattr(item, "output") else 0)
        self.bytes += size
        super()._put((item, size))

    def _get(self) -> Any:
        item, size = super()._get()
        self.bytes -= size
        return item

    async def get(self) -> Any:
        """Return the next message, and record that somebody listens."""
        self._listeners += 1
        try:
            return await super().get()
        finally:
            self._listeners -= 1
            self._heard = time.monotonic()

    @property
    def has_listener(self) -> bool:
        """Whether somebody waits for the next message."""
        return self._listeners > 0

    def is_forgotten(self, now: float) -> bool:
        """Return whether nobody has listened for `UNCOLLECTED_S`."""
        return not self._listeners and now - self._heard > UNCOLLECTED_S


class Sessions(LRUCache[str, Messages]):  # type: ignore[misc]  # pyproject skips gradio's types
    """The messages by session; what is stored under a session becomes a `Messages`."""

    def __setitem__(self, session: str, messages: Any) -> None:
        if len(self) >= self.max_size and session not in self:
            self.drop_oldest()
        super().__setitem__(session, Messages(self.has_space))

    def has_space(self, size: int) -> bool:
        """Return whether an answer fits, after the oldest ones without a listener were dropped."""
        while sum(messages.bytes for messages in self.values()) + size > ALL_BYTES:
            if not self.drop_oldest():
                return False
        return True

    def drop_oldest(self) -> bool:
        """Drop the oldest session without a listener; return whether there was one."""
        oldest = next((name for name, messages in self.items() if not messages.has_listener), None)
        if oldest is not None:
            del self[oldest]
        return oldest is not None


class PageQueue(gradio.queueing.Queue):  # type: ignore[misc]  # pyproject skips gradio's types
    """The queue of the page's calls.

    Args:
        queue: the queue that Gradio made, whose settings are taken over.

    Raises:
        RuntimeError: this release of Gradio keeps its messages in another way.
    """

    def __init__(self, queue: gradio.queueing.Queue) -> None:
        private = ("pending_messages_per_session", "pending_event_ids_session", "event_queue_per_concurrency_id")
        if not all(hasattr(queue, name) for name in private):
            raise RuntimeError(f"gradio {gr.__version__} has no {' or '.join(private)}: use gradio 6.31")
        self.__dict__.update(queue.__dict__)
        self.pending_messages_per_session = Sessions(queue.pending_messages_per_session.max_size)
        self.ANALYTICS_MAX_EVENTS = 1
        self._swept = time.monotonic()

    def send_message(self, event: Any, event_message: Any) -> None:
        """Add a message for the client of a call, unless its session was dropped."""
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)

    def compute_analytics_summary(self, records: Any) -> Any:
        """Compute nothing: Gradio makes a data frame of its last calls after each call, for a page that is refused."""
        return self.cached_event_analytics_summary

    async def push(self, body: Any, request: Any, username: str | None) -> tuple[bool, Any, Any]:
        """Add a call; refuse it where its client, or all together, have too many waiting."""
        await self.drop_forgotten()
        calls, sizes = Shares(self.max_size or 1), Shares(QUEUED_BYTES)
        for event in self._events():
            client = event.request.scope.get(CLIENT, "-")
            calls.take(client)
            sizes.take(client, event.request.scope.get(BODY_BYTES, 0))
        client, size = request.scope.get(CLIENT, "-"), request.scope.get(BODY_BYTES, 0)
        if not (calls.fits(client) and sizes.fits(client, size)):
            return False, "too many calls of this page wait: try again in a moment", "queue_full"
        result: tuple[bool, Any, Any] = await super().push(body, request, username)
        return result

    async def drop_forgotten(self, *, at_once: bool = False) -> None:
        """Drop sessions that nobody listens to, and their calls; looks every `SWEEP_S` seconds."""
        now = time.monotonic()
        if now - self._swept < SWEEP_S and not at_once:
            return
        self._swept, sessions = now, self.pending_messages_per_session
        for name in [name for name, messages in sessions.items() if messages.is_forgotten(now)]:
            sessions.pop(name, None)
        for name in [name for name in self.pending_event_ids_session if name not in sessions]:
            await self.clean_events(session_hash=name)
            self.pending_event_ids_session.pop(name, None)

    def _events(self) -> list[Any]:
        """Return the calls that wait or run."""
        waiting = [event for queue in self.event_queue_per_concurrency_id.values() for event in queue.queue]
        return waiting + [event for job in self.active_jobs if job for event in job]


def size_of(content: Any) -> int:
    """Return the bytes of a JSON value in memory, roughly; a string that it holds several times counts each time."""
    size, stack = 0, [content]
    while stack:
        item = stack.pop()
        size += OBJECT_BYTES
        if isinstance(item, str | bytes):
            size += len(item)
        elif isinstance(item, dict):
            stack += item
            stack += item.values()
        elif isinstance(item, list | tuple):
            stack += item
    return size
