"""Limits of connections: how many, for how long without a complete request, and how large the head of a request.

uvicorn (0.54) waits for ever for the first request of a connection, and for the rest of one; its own limit of
connections refuses everybody once it is reached.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Container
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.server.shares import Shares

HEAD_S = 10.0
"""Seconds for the first line and the headers of a request, once its connection is open."""

HANDSHAKE_S = 10.0
"""Seconds for a TLS handshake; a connection counts as one only afterwards."""

BODY_S, BODY_SILENCE_S = 300.0, 10.0
"""Seconds for a body, as large as an upload may be, and seconds in which none of it arrives."""

STALL_S = 60.0
"""Seconds in which a client reads nothing of its answer."""

KEEP_ALIVE_S = 30
"""Seconds that an idle connection stays open; longer than in most clients, so that clients close first."""

FIRST_REQUEST_S = 1.0
"""Seconds in which a new connection is not preferred for closing: its request may be on the way."""

MAX_HEAD_BYTES = 64_000
SWEEP_S = 1.0
RESERVED_DESCRIPTORS = 256
"""Open files beside the connections: models, uploads, child processes, threads of the event loop."""

REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
NO_WEBSOCKETS = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connections:
    """The open connections of a server.

    Args:
        limit: how many there may be; each address may hold a share.
        proxies: addresses that hold the connections of many clients, and so any number.
    """

    def __init__(self, limit: int, proxies: Container[str] = ()) -> None:
        self._shares, self._proxies = Shares(limit), proxies
        self._open: dict[LimitedProtocol, str] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: LimitedProtocol) -> bool:
        """Count a connection in; where there are too many, the oldest one without a request is closed for it.

        Returns:
            Whether there was room.
        """
        address = connection.client[0] if connection.client else "-"
        full = self._shares.used >= self._shares.total
        if full or not (address in self._proxies or self._shares.fits(address)):
            may_replace = full and (address in self._proxies or self._shares.below_share(address))
            idle = self._oldest_idle(address) or (self._oldest_idle(None) if may_replace else None)
            if idle is None:
                return False
            self.remove(idle)
            idle.transport.abort()
        self._shares.take(address)
        self._open[connection] = address
        return True

    def remove(self, connection: LimitedProtocol) -> None:
        """Count a connection out."""
        address = self._open.pop(connection, None)
        if address is not None:
            self._shares.give_back(address)

    async def close_slow(self) -> None:
        """Close connections that exceed a time limit, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for connection in [connection for connection in self._open if connection.is_slow(now)]:
                connection.transport.abort()

    def _oldest_idle(self, address: str | None) -> LimitedProtocol | None:
        held = self._open.items()
        idle = [connection for connection, client in held if connection.is_idle and address in (None, client)]
        # a connection that never sent a request is closed first, unless it was accepted a moment ago
        recent = time.monotonic() - FIRST_REQUEST_S
        unused = (connection for connection in idle if not connection.requests and connection.since < recent)
        return next(unused, next(iter(idle), None))


class LimitedProtocol(HttpToolsProtocol):  # type: ignore[misc]  # pyproject skips uvicorn's types
    """A connection, as `Connections` needs to know it. It adds a clock to each event of a request, and no timer.

    Attributes:
        requests: complete requests so far.
    """

    connections_of_server: Connections
    client: tuple[str, int] | None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.requests = 0
        self._in_body, self._head_bytes = False, 0
        self._since = self._heard = self._moved = time.monotonic()
        self._unsent = 0
        self._cycles: list[Any] = []

    @property
    def is_idle(self) -> bool:
        """Whether no request is complete, none is being answered, and no part of an answer is left to send."""
        answered = self.cycle is None or self.cycle.response_complete
        return not self._in_body and answered and not self.transport.get_write_buffer_size()

    @property
    def since(self) -> float:
        """Time at which the present state began."""
        return self._since

    def is_slow(self, now: float) -> bool:
        """Return whether the connection exceeds a time limit."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent or not unsent:
            self._unsent, self._moved = unsent, now
        if now - self._moved > STALL_S:
            return True
        if self._in_body:
            silent = now - self._heard > BODY_SILENCE_S and not self.flow.read_paused
            return silent or now - self._since > BODY_S
        return self.is_idle and now - self._since > HEAD_S + (KEEP_ALIVE_S if self.requests else 0.0)

    def connection_made(self, transport: Any) -> None:
        """Count the connection in, or refuse it."""
        super().connection_made(transport)
        self.client = ipv4_of(self.client)
        if not self.connections_of_server.add(self):
            transport.write(REFUSED)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection out, and have none of its requests write to it any more."""
        self.connections_of_server.remove(self)
        # uvicorn (0.54) knows of the last pipelined request only, and uvloop raises RuntimeError for the others' writes
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, and close the connection once the head of a request is too large."""
        self._heard, before = time.monotonic(), self.requests
        super().data_received(data)
        self._head_bytes = 0 if self._in_body or self.requests != before else self._head_bytes + len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            if self.is_idle:
                self.transport.write(HEAD_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Begin with the body, or refuse a head that is too large and came in one read."""
        self._in_body, self._since = True, self._heard
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self.transport.write(HEAD_TOO_LARGE)
            self.transport.close()
            return
        super().on_headers_complete()
        if self.cycle is not None:
            self._cycles = [*(cycle for cycle in self._cycles if not cycle.response_complete), self.cycle]

    def on_message_complete(self) -> None:
        """End the request."""
        self._in_body, self._since = False, self._heard
        self.requests += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._since = time.monotonic()
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        """Refuse the upgrade: no route has a websocket, and uvicorn's protocol for them has no time limit."""
        self.transport.write(NO_WEBSOCKETS)
        self.transport.close()


def ipv4_of(client: tuple[str, int] | None) -> tuple[str, int] | None:
    """Return a client with an IPv4 address where a socket for both families has it inside one of IPv6."""
    mapped = "::ffff:"
    if client is None or not client[0].startswith(mapped) or "." not in client[0]:
        return client
    return client[0].removeprefix(mapped), client[1]


def protocol_of(connections: Connections) -> type[LimitedProtocol]:
    """Return the protocol class of the connections."""
    return type("Protocol", (LimitedProtocol,), {"connections_of_server": connections})


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of the kind that uvicorn chooses, in which a TLS handshake has `HANDSHAKE_S`; 60 s is the
    default of asyncio, and uvicorn has no option for it."""
    base = _loop_class()

    class Loop(base):  # type: ignore[misc, valid-type]
        async def create_server(self, *arguments: Any, **named: Any) -> Any:
            if named.get("ssl") is not None:
                named = {"ssl_handshake_timeout": HANDSHAKE_S, **named}
            return await super().create_server(*arguments, **named)

    loop: asyncio.AbstractEventLoop = Loop()
    return loop


def _loop_class() -> Any:
    with suppress(ImportError):
        import uvloop

        return uvloop.Loop
    if sys.platform == "win32":
        return asyncio.ProactorEventLoop
    return asyncio.SelectorEventLoop


def limit_of(wanted: int, say: Callable[[str], None]) -> int:
    """Raise the soft limit of descriptors as far as needed; return how many connections they suffice for."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft < needed:
            say(f"the limit of {soft} open files allows {max(1, soft - RESERVED_DESCRIPTORS)} connections")
            return max(1, soft - RESERVED_DESCRIPTORS)
    return wanted
