"""Request bodies, read within a size, a time, and the memory for all of them that are arriving."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from service.errors import BadRequest, BodyTooLarge, Overloaded, RequestTimeout
from service.server.shares import Shares

BODY_TIMEOUT_S = 5.0
"""Seconds within which a body must arrive."""

ARRIVING_BYTES = 128_000_000
"""Bytes of bodies that are not complete yet."""


class Bodies:
    """Reads bodies of at most `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.arriving = Shares(ARRIVING_BYTES)

    async def read(self, scope: Scope, receive: Receive, client: str, max_bytes: int | None = None) -> bytes:
        """Return the body of a request.

        Args:
            client: who sends it; each may use a share of the memory.

        Raises:
            BodyTooLarge: it is larger than `max_bytes`.
            RequestTimeout: it did not arrive within `BODY_TIMEOUT_S`.
            Overloaded: the bodies that are arriving leave no memory for it.
            BadRequest: the client disconnected.
        """
        limit = self._max_bytes if max_bytes is None else max_bytes
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        taken = 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise BadRequest("client disconnected before its request was complete")
                    part = message.get("body", b"")
                    if taken + len(part) > limit:
                        raise _too_large(limit)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
                    if not self.arriving.fits(client, len(part)):
                        raise Overloaded("too many request bodies are arriving", hint="try again in a moment")
                    self.arriving.take(client, len(part))
                    taken += len(part)
        except TimeoutError as error:
            raise RequestTimeout(f"the request body did not arrive within {BODY_TIMEOUT_S:g} s") from error
        finally:
            if taken:
                self.arriving.give_back(client, taken)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body has more than {limit} bytes, which is the limit")
