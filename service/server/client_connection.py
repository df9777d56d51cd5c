"""Run work for a client that may disconnect, within a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from service.errors import BadRequest, request_timeout

T = TypeVar("T")
UNWATCHED_S = 0.02
"""Seconds before the connection is watched: most answers are ready earlier."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T], *, within_s: float) -> T:
    """Return the result of the work, which is cancelled once the client disconnects or the deadline passes.

    Args:
        request: its body must have been read to the end.

    Raises:
        BadRequest: the client disconnected; nobody reads this answer.
        RequestTimeout: the deadline passed.
    """
    task = asyncio.ensure_future(work)
    leaving: asyncio.Task[None] | None = None
    begin = time.monotonic()
    try:
        await asyncio.wait({task}, timeout=min(UNWATCHED_S, within_s))
        if not task.done():
            leaving = asyncio.ensure_future(_disconnect(request))
            left = within_s - (time.monotonic() - begin)
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED, timeout=max(0.0, left))
        if task.done():
            return task.result()
        if leaving is not None and leaving.done():
            raise BadRequest("client disconnected before its answer was ready")
        raise request_timeout(within_s)
    finally:
        pending = [future for future in (task, leaving) if future is not None and not future.done()]
        for future in pending:
            future.cancel()
        if pending:
            await asyncio.gather(*pending, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
