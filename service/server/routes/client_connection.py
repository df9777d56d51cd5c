"""Work for a caller who may go away, and who waits only so long.

Knows: how a server learns that a connection was closed.
Does not know: any wire dialect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from service.errors import BadRequest, request_timeout

T = TypeVar("T")
AT_ONCE_S = 0.02
"""What takes no longer than this needs nobody to look whether its caller is still there."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T], *, within_s: float) -> T:
    """The outcome of the work, which is cancelled as soon as the caller has gone or the time is over.

    Args:
        request: one whose body was read to its end.

    Raises:
        BadRequest: the caller has gone; nobody reads this answer.
        RequestTimeout: the time is over.
    """
    task = asyncio.ensure_future(work)
    leaving: asyncio.Task[None] | None = None
    begin = time.monotonic()
    try:
        await asyncio.wait({task}, timeout=min(AT_ONCE_S, within_s))
        if not task.done():
            leaving = asyncio.ensure_future(_gone(request))
            left = within_s - (time.monotonic() - begin)
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED, timeout=max(0.0, left))
        if task.done():
            return task.result()
        if leaving is not None and leaving.done():
            raise BadRequest("the client left before its answer was ready")
        raise request_timeout(within_s)
    finally:
        waiting = [one for one in (task, leaving) if one is not None and not one.done()]
        for one in waiting:
            one.cancel()
        if waiting:
            await asyncio.gather(*waiting, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
