"""ASGI middleware in front of everything: request ids, host and origin checks, authentication, admission, logging."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import re
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Forbidden, ServiceError, Unauthorized
from service.server.admission import Admission
from service.server.auth import ApiKeys, is_loopback
from service.server.proxy import without_prefix
from service.server.request_record import RECORD, RequestRecord
from service.settings import ServeSettings

PUBLIC_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/login"})
"""Paths that need no key: probes, and the form that takes a key."""

STREAMS = ("/gradio_api/heartbeat", "/gradio_api/queue/data")
"""Responses of the page that stay open for as long as it is shown."""

STREAM_POLL_S = 0.5
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PROCESS, _NUMBERS = secrets.token_hex(8), itertools.count()


class RequestMiddleware:
    """ASGI middleware; refuses a request before the app spends anything on it.

    Args:
        refusal: returns the response for an error, in the dialect of the path.
        routes: paths of the API's own routes, for metrics; all others count as the page's.
        has_login: a browser without a key is sent to the login form; without one it is refused as other clients are.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        keys: ApiKeys,
        refusal: Callable[[Scope, ServiceError], Response],
        routes: frozenset[str],
        has_login: bool = True,
    ) -> None:
        self._app, self._admission, self._keys = app, admission, keys
        self._refusal, self._routes, self._has_login = refusal, routes, has_login
        self._settings, self._telemetry = admission.settings, admission.telemetry
        self._hosts = HostCheck(admission.settings, has_keys=bool(keys))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it; log what it was answered with."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = scope[RECORD] = RequestRecord(_request_id(headers))
        record.client = f"address {_address(scope)}"
        try:
            self._admission.check_by_path(scope, record)
        except ServiceError as error:
            await self._at_capacity(scope, receive, send, error)
            return
        status = 0
        more: dict[str, str] = {}

        async def tracked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({"X-Request-Id": record.request_id, **more})
            await send(message)

        try:
            try:
                more |= self._admit(scope, headers, record)
            except ServiceError as error:
                record.error_code = error.code
                more |= self._cors(headers)
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008})
                    return
                await self._refused(scope, headers, error)(scope, receive, tracked)
                return
            self._admission.requests += 1
            try:
                if scope.get("path", "").startswith(STREAMS):
                    await self._until_shutdown(self._app(scope, receive, tracked))
                else:
                    await self._app(scope, receive, tracked)
            finally:
                self._admission.requests -= 1
        except Exception as error:  # the page's routes have no exception handlers of ours
            self._telemetry.crash(record.request_id, error)
            record.error_code = "crash"
            if not status and scope["type"] == "http":
                failed = ServiceError(f"internal server error ({type(error).__name__}); see the server's log")
                await self._refusal(scope, failed)(scope, receive, tracked)
        finally:
            self._admission.leave(record)
            if scope["type"] == "http":
                self._log(scope, record, status)

    def _admit(self, scope: Scope, headers: Headers, record: RequestRecord) -> dict[str, str]:
        """Check host, origin, key, shutdown and rate limit; return headers for the response."""
        self._hosts.check(headers)
        path = scope["path"]
        needs_key = self._keys and path not in PUBLIC_PATHS and scope.get("method") != "OPTIONS"
        if needs_key:
            record.key_name = record.client = self._keys.authenticate(headers)
        self._admission.check_accepting(path)
        if scope.get("method") != "POST":
            return {}
        if needs_key:
            self._admission.check_by_path(scope, record)
        return self._admission.count_minute(record.client)

    async def _at_capacity(self, scope: Scope, receive: Receive, send: Send, error: ServiceError) -> None:
        """Refuse with as little work as possible: under load this happens thousands of times a second."""
        record = scope[RECORD]
        response = self._refusal(scope, error)
        response.headers.update({"X-Request-Id": record.request_id, **self._cors(Headers(scope=scope))})
        await response(scope, receive, send)
        self._log(scope, record, response.status_code)

    def _cors(self, headers: Headers) -> dict[str, str]:
        """Return headers that let an allowed origin read a refusal, which bypasses the app's CORS middleware."""
        origin = headers.get("origin")
        allowed = origin is not None and origin in self._settings.cors_origins
        return {"Access-Control-Allow-Origin": str(origin), "Vary": "Origin"} if allowed else {}

    async def _until_shutdown(self, stream: Any) -> None:
        """Run a streaming response until it ends or the server shuts down."""
        task = asyncio.ensure_future(stream)
        try:
            while not task.done() and not self._admission.draining:
                await asyncio.wait({task}, timeout=STREAM_POLL_S)
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _refused(self, scope: Scope, headers: Headers, error: ServiceError) -> Response:
        wants_page = scope.get("method") == "GET" and "text/html" in headers.get("accept", "")
        if type(error) is Unauthorized and wants_page and self._has_login:
            return RedirectResponse(f"{scope.get('root_path', '')}/login", 303)
        return self._refusal(scope, error)

    def _log(self, scope: Scope, record: RequestRecord, status: int) -> None:
        own = without_prefix(scope)
        path = getattr(scope.get("route"), "path", "")
        route = path if path in self._routes else "-" if status in (404, 429) else "page"
        self._telemetry.request(
            request_id=record.request_id,
            key=record.key_name,
            address=_address(scope),
            route=own if own in PUBLIC_PATHS else route,
            model=record.model,
            code=status or 499,  # the client disconnected before its answer
            seconds=time.perf_counter() - record.started,
            reason=record.error_code,
            work=record.work,
        )


class HostCheck:
    """The host names and origins that may send requests.

    A foreign `Host` is a web page whose name was pointed at this server (DNS rebinding); a foreign `Origin` is a page
    of another site.
    """

    def __init__(self, settings: ServeSettings, *, has_keys: bool) -> None:
        self._any_host = has_keys and not settings.allowed_hosts
        self._hosts = LOOPBACK_NAMES | {_bracketed(settings.host).lower(), *map(str.lower, settings.allowed_hosts)}
        self._any_address = settings.no_auth and not is_loopback(settings.host)
        self._origins = settings.cors_origins

    def check(self, headers: Headers) -> None:
        """Raise Forbidden for a host name or an origin that is not allowed."""
        host = headers.get("host", "")
        name = re.sub(r":\d+$", "", host).lower()
        if not (self._any_host or name in self._hosts or (self._any_address and _is_address(name))):
            raise Forbidden(f"host {name[:100]!r} is not allowed", hint="allow it with --allowed-hosts")
        origin = headers.get("origin")
        if origin is None or origin in self._origins:
            return
        try:
            foreign = urlsplit(origin).netloc.lower() != host.lower()
        except ValueError:
            foreign = True
        if foreign:
            raise Forbidden(f"origin {origin[:100]!r} is not allowed", hint="allow it with --cors-origins")


def _request_id(headers: Headers) -> str:
    """Return the client's request id where it is plain, else a new one."""
    sent = headers.get("x-request-id")
    plain = sent and re.fullmatch(r"[\w.:-]{1,128}", sent, re.ASCII)
    return sent if sent and plain else f"{_PROCESS}{next(_NUMBERS):016x}"


def _address(scope: Scope) -> str:
    """Return the address of the client: that of the connection, or what a trusted proxy says."""
    return str((scope.get("client") or ("-",))[0])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
