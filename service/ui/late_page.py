"""The page of a server that answers already: gradio takes seconds to import, and the API need not wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

Mounted = tuple[ASGIApp, AbstractAsyncContextManager[Any]]
Mount = Callable[[], Coroutine[Any, Any, Mounted]]


class LatePage:
    """ASGI app; passes requests to the API at once, and all others to the page as soon as it is there.

    Args:
        app: the app with the routes of the API.
        inner: what handles them.
        mount: adds the page to the app, in a thread with a loop of its own; returns `inner` behind the page's
            restrictions, and the context that is open for as long as the page is shown.
        report: receives the error where there can be no page; requests for it are then answered with this error.
    """

    def __init__(self, app: Any, inner: ASGIApp, mount: Mount, report: Callable[[Exception], None]) -> None:
        self._inner, self._mount, self._report = inner, mount, report
        self._routes = list(app.router.routes)
        self._page: ASGIApp | None = None
        self._error: Exception | None = None
        self._decided = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if self._page is None and scope["type"] != "lifespan" and not self._is_of_api(scope):
            await self.ready()
            if self._error is not None:
                raise self._error
        await (self._page or self._inner)(scope, receive, send)

    async def ready(self) -> None:
        """Return once the page is there, or cannot be."""
        await self._decided.wait()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the page in the background, and close it at the end."""
        closing = asyncio.Event()
        task = asyncio.ensure_future(self._show(closing))
        try:
            yield
        finally:
            closing.set()
            await task

    async def _show(self, closing: asyncio.Event) -> None:
        try:
            # Gradio makes a loop, which nothing closes, in a thread that has none
            page, context = await run_in_threadpool(asyncio.run, self._mount())
            async with context:
                self._page = page
                self._decided.set()
                await closing.wait()
        except Exception as error:  # such as another release of gradio: the API goes on
            self._error, self._page = error, None
            self._decided.set()
            self._report(error)

    def _is_of_api(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self._routes)
