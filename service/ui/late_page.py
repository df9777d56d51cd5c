"""The page of a server that answers already: gradio takes seconds to import, and the API need not wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import BackendFailed, ServiceError, ShuttingDown

Mounted = tuple[ASGIApp, AbstractAsyncContextManager[Any]]
Mount = Callable[[], Coroutine[Any, Any, Mounted]]
THREAD = "rehead-page"
POLL_S = 0.5


class LatePage:
    """ASGI app; passes requests to the API at once, and all others to the page as soon as it is there.

    Args:
        app: the app with the routes of the API.
        inner: what handles them.
        mount: adds the page to the app, in a thread with a loop of its own; returns `inner` behind the page's
            restrictions, and the context that is open for as long as the page is shown.
        refusal: returns the response for an error.
        report: receives the error where there can be no page; requests for it are then refused.
        is_draining: whether the server shuts down, and nobody should wait for the page.
    """

    def __init__(
        self,
        app: Any,
        inner: ASGIApp,
        mount: Mount,
        *,
        refusal: Callable[[Scope, ServiceError], ASGIApp],
        report: Callable[[Exception], None],
        is_draining: Callable[[], bool],
    ) -> None:
        self._inner, self._mount, self._refusal = inner, mount, refusal
        self._report, self._is_draining = report, is_draining
        self._routes = list(app.router.routes)
        self._page: ASGIApp | None = None
        self._problem = ""
        self._decided = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if self._page is None and scope["type"] != "lifespan" and not self._is_of_api(scope):
            await self.ready()
            error = self._error(scope)
            if error is not None:
                await self._refusal(scope, error)(scope, receive, send)
                return
        await (self._page or self._inner)(scope, receive, send)

    async def ready(self) -> None:
        """Return once the page is there, or will not be."""
        while not (self._decided.is_set() or self._is_draining()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._decided.wait(), POLL_S)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Build the page in a thread, and close it at the end; a page that is not there by then is given up."""
        loop, closing = asyncio.get_running_loop(), asyncio.Event()
        mounted: asyncio.Future[Mounted] = loop.create_future()
        # a daemon: gradio's import cannot be stopped, and a server that shuts down does not wait for it
        threading.Thread(target=self._build, args=(loop, mounted), name=THREAD, daemon=True).start()
        task = asyncio.ensure_future(self._show(mounted, closing))
        try:
            yield
        finally:
            closing.set()
            mounted.cancel()
            await task

    def _build(self, loop: asyncio.AbstractEventLoop, mounted: asyncio.Future[Mounted]) -> None:
        """Mount the page, and say so to the server's loop."""

        def tell(result: Mounted | None, error: Exception | None) -> None:
            if mounted.done():
                return
            if error is not None:
                mounted.set_exception(error)
            elif result is not None:
                mounted.set_result(result)

        result, error = None, None
        try:
            # Gradio makes a loop, which nothing closes, in a thread that has none
            result = asyncio.run(self._mount())
        except Exception as raised:  # such as another release of gradio
            error = raised
        with contextlib.suppress(RuntimeError):  # the server's loop is closed already
            loop.call_soon_threadsafe(tell, result, error)

    async def _show(self, mounted: asyncio.Future[Mounted], closing: asyncio.Event) -> None:
        try:
            page, context = await mounted
            async with context:
                self._page = page
                self._decided.set()
                await closing.wait()
        except asyncio.CancelledError:
            self._decided.set()
        except Exception as error:  # the API goes on
            self._page, self._problem = None, f"there is no web UI ({type(error).__name__}: {error})"
            self._decided.set()
            self._report(error)

    def _error(self, scope: Scope) -> ServiceError | None:
        """Return why a request is refused; None where the page, or the API, has an answer."""
        if self._page is not None:
            return None
        if self._is_draining():
            return ShuttingDown("the server is shutting down")
        return BackendFailed(f"{self._problem}; the API answers") if scope.get("path") == "/" else None

    def _is_of_api(self, scope: Scope) -> bool:
        """Return whether the API answers a request, if only with the methods that its path has, or as a preflight."""
        best = max((route.matches(scope)[0] for route in self._routes), key=lambda match: match.value)
        # the path of the page itself is also one of the API, by another method
        if best is Match.FULL or (best is Match.PARTIAL and scope.get("path") != "/"):
            return True
        return scope.get("method") == "OPTIONS" and "access-control-request-method" in Headers(scope=scope)
