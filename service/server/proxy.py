"""ASGI middleware for a server behind a reverse proxy: a path prefix, and headers that trusted proxies set.

Behind it `path` is without the prefix, and `root_path` is the prefix. It must stand before every other middleware.
"""

from __future__ import annotations

import re
from collections.abc import Container

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.settings import PREFIX, ServeSettings

FORWARDED = (b"x-forwarded-", b"forwarded", b"x-gradio-server")
"""Beginnings of the headers that libraries behind this would believe from anybody."""


def trusted_addresses(settings: ServeSettings) -> Container[str]:
    """Return the addresses whose headers are believed, networks included."""
    addresses: Container[str] = ProxyHeadersMiddleware(_unused, list(settings.trusted_proxies)).trusted_hosts
    return addresses


async def _unused(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand in for an app where only the addresses of a middleware are wanted."""


class ProxyMiddleware:
    """Reads the prefix and the headers of a proxy.

    `X-Forwarded-For`, `-Proto` and `-Prefix` set the client's address, the scheme and the prefix where the connection
    comes from a trusted proxy; all such headers are removed then, and from every other client.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._root_path = app, settings.root_path
        self._proxies = ProxyHeadersMiddleware(self._cleaned, list(settings.trusted_proxies))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope["root_path"] = self._root_path
        if (scope.get("client") or ("",))[0] in self._proxies.trusted_hosts:
            prefix = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
            if re.fullmatch(PREFIX, prefix):
                scope["root_path"] = prefix
        await self._proxies(scope, receive, send)

    async def _cleaned(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = [pair for pair in scope["headers"] if not pair[0].startswith(FORWARDED)]
        path, prefix = scope["path"], self._root_path
        if prefix and path == prefix and scope.get("method") in ("GET", "HEAD"):
            # relative links of the page need the slash
            query = scope.get("query_string", b"").decode("latin-1")
            await RedirectResponse(f"{prefix}/{'?' if query else ''}{query}", 307)(scope, receive, send)
            return
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):  # a proxy that does not remove the prefix
            scope["path"] = path[len(prefix) :] or "/"
        await self._app(scope, receive, send)


def add_prefix(scope: Scope) -> None:
    """Put the prefix back into the path, as ASGI has it, for the app inside all middleware."""
    if "path" in scope:
        scope["path"] = scope.get("root_path", "") + scope["path"]


def without_prefix(scope: Scope) -> str:
    """Return the path of a request without the prefix, inside the middleware and inside the app."""
    path: str = scope["path"]
    prefix = scope.get("root_path", "")
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path
