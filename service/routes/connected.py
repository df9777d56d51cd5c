"""Work for a caller who may go away, and who waits only so long.

Knows: how a server learns that a connection was closed.
Does not know: any wire dialect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from service.errors import BadRequest, Late

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T], *, within_s: float) -> T:
    """The outcome of the work, which is cancelled as soon as the caller has gone or the time is over.

    Args:
        request: one whose body was read to its end.

    Raises:
        BadRequest: the caller has gone; nobody reads this answer.
        Late: the time is over.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED, timeout=within_s)
        if task.done():
            return task.result()
        if leaving.done():
            raise BadRequest("the client left before its answer was ready")
        raise Late(f"this took longer than the {within_s:g} s that a request may take", hint="ask for less at once")
    finally:
        for one in (task, leaving):
            one.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
