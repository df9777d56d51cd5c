"""ASGI middleware inside the HTTP proxy of Ray Serve: what it answers itself takes the shape of this server's errors.

Ray (2.60) answers a request whose replica died with 500 and no body of ours, one to no application with 404, and
one that finds its queue full with plain text. It reads bodies of any size, and obeys headers of clients that set
timeouts and pick replicas. Ray loads `middlewares` where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Overloaded, RequestTimeout, ServiceError, ShuttingDown
from service.server.request_record import RECORD, RequestRecord
from service.server.routes import error_responses
from service.settings import ServeSettings

IMPORT_PATH = "service.server.ray_proxy.middlewares"
OWN_PATHS = "/-/"
"""Paths that Ray's proxy answers by itself: its health, and the list of applications."""

REQUEST_ID, PLAIN_ID = b"x-request-id", rb"[A-Za-z0-9_.:-]{1,128}"
DIRECTIONS = frozenset(
    (b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve-multiplexed-model-id", b"x-session-id")
)
"""Headers of clients that Ray's proxy would obey, with hyphens for underscores."""


def middlewares() -> list[Middleware]:
    """Return the middleware for Ray's proxy; REHEAD_MAX_BODY_BYTES sets the limit of bodies."""
    return [Middleware(RayProxyMiddleware, max_body_bytes=ServeSettings.from_environment(engine="ray").max_body_bytes)]


class RayProxyMiddleware:
    """Bounds bodies, drops directions to Ray, and answers 503 and 429 as this server does.

    Args:
        max_body_bytes: no more than this, and one part, of a body is read; the replica refuses what is longer.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app, self._max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to Ray."""
        if scope["type"] == "websocket":  # the API has none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http" or scope["path"].startswith(OWN_PATHS):
            await self._app(scope, receive, send)
            return
        scope["headers"] = [pair for pair in scope["headers"] if _passes(*pair)]
        responses = _Responses(scope, receive, send)
        await self._app(scope, self._bounded(receive), responses)
        if not responses.started:
            await responses.refuse(500, Headers(scope=scope))

    def _bounded(self, receive: Receive) -> Receive:
        read = 0

        async def bounded() -> Message:
            nonlocal read
            if read > self._max_body_bytes:
                await asyncio.Event().wait()  # until the answer of the replica, which refuses the body
            message = await receive()
            read += len(message.get("body", b""))
            return message

        return bounded


class _Responses:
    """Sends what a replica answers, and an error of ours in place of one of Ray's."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.started = self._replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] != "http.response.start":
            if not self._replaced:
                await self._send(message)
            return
        self.started = True
        headers = Headers(raw=list(message["headers"]))
        # replicas answer errors in JSON
        self._replaced = message["status"] >= 400 and headers.get("content-type", "").startswith("text/plain")
        if self._replaced:
            await self.refuse(message["status"], headers)
        else:
            await self._send({**message, "headers": _with_one_id(message["headers"])})

    async def refuse(self, status: int, headers: Headers) -> None:
        """Answer in place of Ray, which answered with this status."""
        record = RequestRecord(headers.get("x-request-id", "-"))
        response = error_responses.response({**self._scope, RECORD: record}, _error(status))
        response.headers["X-Request-Id"] = record.request_id
        await response(self._scope, self._receive, self._send)


def _passes(name: bytes, value: bytes) -> bool:
    """Return whether a header of a request is passed on; Ray makes a request id where none is."""
    if name == REQUEST_ID:
        return re.fullmatch(PLAIN_ID, value) is not None
    return name.replace(b"_", b"-") not in DIRECTIONS


def _error(status: int) -> ServiceError:
    if status == 429:
        return Overloaded("every replica is at capacity", hint="try again in a moment")
    if status == 408:
        return RequestTimeout("no replica answered the request in time", hint="send it again in a moment")
    if status in (404, 503):
        return ShuttingDown("no replica is running", hint="send the request again in a moment")
    return ShuttingDown("the replica that ran this request ended", hint="send the request again in a moment")


def _with_one_id(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return the headers with one request id: the replica sends it, and Ray appends it again."""
    first = next((value for name, value in headers if name.lower() == REQUEST_ID), None)
    kept = [(name, value) for name, value in headers if name.lower() != REQUEST_ID]
    return kept if first is None else [*kept, (REQUEST_ID, first)]
