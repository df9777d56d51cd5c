"""What every request passes before it reaches a route: who asks, from where, how often, whether the server stops.

Knows: request ids, Host and Origin, keys and sessions, requests a minute, draining; it counts and logs what came out.
Does not know: bodies, any wire dialect (it is told how a refusal looks), what a route does.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import itertools
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, Self
from urllib.parse import urlsplit

from fastapi import Request, Response
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequest, Forbidden, Overloaded, RateLimited, ServiceError, ShuttingDown, Unauthorized
from service.schema import Work
from service.server.telemetry import Telemetry
from service.settings import ServeSettings

CALL = "rehead.call"
_PROCESS, _NUMBERS = secrets.token_hex(8), itertools.count()
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/login"})
"""Paths that need no key: what probes ask, and where a key is given."""

PROBES = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
"""Paths that are answered while the server stops."""

STREAMS = ("/gradio_api/heartbeat", "/gradio_api/queue/data")
"""Answers of the page that stay open for as long as it is shown."""

STREAM_LOOK_S = 0.5
SESSION = "rehead_session"
SHORTEST_KEY = 16
ENVIRONMENT = "REHEAD_API_KEYS"


@dataclass(slots=True, eq=False)
class Call:
    """A request under way, as far as it is counted and logged."""

    identity: str
    key: str = "-"
    model: str = "-"
    reason: str = ""
    work: Work | None = None
    engine: Any = None
    """The engine that the call is counted in at."""

    since: float = field(default_factory=time.perf_counter)


def call_of(request: Request) -> Call:
    """The record of a request, for routes to fill in."""
    found: Call = request.scope[CALL]
    return found


def new_identity() -> str:
    """A name for a request that brings none."""
    return f"{_PROCESS}{next(_NUMBERS):016x}"


class ApiKeys:
    """Keys by name; none at all where the server is open."""

    def __init__(self, named: dict[str, str]) -> None:
        self._digests = {name: _digest(key) for name, key in named.items()}
        self._secret = secrets.token_bytes(32)

    def __bool__(self) -> bool:
        return bool(self._digests)

    @classmethod
    def read(cls, settings: ServeSettings) -> Self:
        """The keys of the settings' file and of REHEAD_API_KEYS.

        Raises:
            BadRequest: a file that cannot be read, or a key that is too short.
        """
        lines: list[tuple[str, str]] = []
        if settings.api_key_file is not None:
            try:
                content = settings.api_key_file.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise BadRequest(f"{settings.api_key_file}: the keys cannot be read ({error})") from error
            lines += [(f"{settings.api_key_file}, line {n}", line) for n, line in enumerate(content.splitlines(), 1)]
        given = os.environ.get(ENVIRONMENT, "")
        lines += [(f"{ENVIRONMENT}, key {n}", part) for n, part in enumerate(given.split(","), 1)]
        named: dict[str, str] = {}
        for where, line in lines:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            # what follows a key's own "=" at its end is no key
            parts = re.fullmatch(r"([^=]+?)\s*=\s*([^\s=].*)", line.strip())
            name, key = parts.groups() if parts else (f"key{len(named) + 1}", line.strip())
            if len(key) < SHORTEST_KEY:
                raise BadRequest(
                    f"{where}: a key needs {SHORTEST_KEY} characters or more", hint="openssl rand -hex 32 makes one"
                )
            if not re.fullmatch(r"[\w.-]{1,64}", name) or name in named:
                raise BadRequest(f"{where}: the name {name[:64]!r} is taken, or not of letters, digits, . _ and -")
            named[name] = key
        if settings.api_key_file is not None and not named:
            raise BadRequest(f"{settings.api_key_file} holds no key", hint="openssl rand -hex 32 makes one")
        return cls(named)

    def name_of(self, key: str) -> str | None:
        """The name of a key, or None; takes as long for one as for another."""
        digest, found = _digest(key), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def session(self, name: str) -> str:
        """What a browser keeps once it has shown a key; good until the server stops."""
        return f"{name}:{self._signed(name)}"

    def name_of_session(self, cookie: str) -> str | None:
        """The name of the key that a session was opened with, or None."""
        name, _, signature = cookie.rpartition(":")
        right = hmac.compare_digest(signature.encode(), self._signed(name).encode())
        return name if right and name in self._digests else None

    def _signed(self, name: str) -> str:
        return hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware.

    Args:
        refusal: how a refusal looks at a path.
        routes: the paths of the API's own routes, as they are counted; all others are the page's.
        draining: whether the server is about to stop.
        enter: counts a request in at an engine; raises Overloaded for one that would wait too long, for this is the
            cheapest place to say so.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServeSettings,
        keys: ApiKeys,
        telemetry: Telemetry,
        refusal: Callable[[Scope, ServiceError], Response],
        routes: frozenset[str],
        draining: Callable[[], bool],
        enter: Callable[[Scope, Call], None],
    ) -> None:
        self._app, self._settings, self._keys, self._telemetry = app, settings, keys, telemetry
        self._refusal, self._routes = refusal, routes
        self._draining, self._enter = draining, enter
        self._limit = RateLimitItemPerMinute(settings.requests_per_minute) if settings.requests_per_minute else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._any_host = bool(keys) and not settings.allowed_hosts
        self._hosts = LOOPBACK_NAMES | {_bracketed(settings.host).lower(), *map(str.lower, settings.allowed_hosts)}
        self._any_address = settings.no_auth and not is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it; count and log what came out."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id")
        plain = given and re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII)
        call = scope[CALL] = Call(given if given and plain else new_identity())
        try:
            self._enter(scope, call)
        except ServiceError as error:
            await self._too_busy(scope, receive, send, error)
            return
        code = 0
        more: dict[str, str] = {}

        async def marked(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                MutableHeaders(scope=message).update({"X-Request-Id": call.identity, **more})
            await send(message)

        try:
            try:
                self._check_place(headers)
                call.key = self._who(scope, headers)
                more |= self._count(scope, call)
            except ServiceError as error:
                call.reason = error.code
                more |= self._shared_with(headers)
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008})
                    return
                await self._refused(scope, headers, error)(scope, receive, marked)
                return
            if scope.get("path", "").startswith(STREAMS):
                await self._while_open(self._app(scope, receive, marked))
            else:
                await self._app(scope, receive, marked)
        except Exception as error:  # the page's routes come without handlers of ours
            self._telemetry.crash(call.identity, error)
            call.reason = "crash"
            if not code and scope["type"] == "http":
                failed = ServiceError(f"the server failed ({type(error).__name__}); its log says more")
                await self._refusal(scope, failed)(scope, receive, marked)
        finally:
            if call.engine is not None:
                call.engine.leave(call.work)
            if scope["type"] == "http":
                self._noted(scope, call, code)

    async def _too_busy(self, scope: Scope, receive: Receive, send: Send, error: ServiceError) -> None:
        """Refuse with as little work as can be: it is done thousands of times a second."""
        call = scope[CALL]
        answer = self._refusal(scope, error)
        answer.headers.update({"X-Request-Id": call.identity, **self._shared_with(Headers(scope=scope))})
        await answer(scope, receive, send)
        self._noted(scope, call, answer.status_code)

    def _shared_with(self, headers: Headers) -> dict[str, str]:
        """Headers that let the scripts of an allowed page read a refusal, which comes from before the app's own."""
        origin = headers.get("origin")
        allowed = origin is not None and origin in self._settings.cors_origins
        return {"Access-Control-Allow-Origin": str(origin), "Vary": "Origin"} if allowed else {}

    async def _while_open(self, stream: Any) -> None:
        """A stream, until it ends or the server stops."""
        task = asyncio.ensure_future(stream)
        try:
            while not task.done() and not self._draining():
                await asyncio.wait({task}, timeout=STREAM_LOOK_S)
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _check_place(self, headers: Headers) -> None:
        """Another name than the server's own is a page that had its name point here; another origin a foreign page."""
        host = headers.get("host", "")
        name = re.sub(r":\d+$", "", host).lower()
        if not (self._any_host or name in self._hosts or (self._any_address and _is_address(name))):
            raise Forbidden(
                f"this server is not asked as {name[:100]!r}", hint="--allowed-hosts names what it is called"
            )
        origin = headers.get("origin")
        if origin is None or origin in self._settings.cors_origins:
            return
        try:
            foreign = urlsplit(origin).netloc.lower() != host.lower()
        except ValueError:
            foreign = True
        if foreign:
            raise Forbidden(
                f"pages of {origin[:100]!r} may not ask this server", hint="--cors-origins names those that may"
            )

    def _who(self, scope: Scope, headers: Headers) -> str:
        """The name of the key; `-` where none is needed."""
        if scope["path"] in OPEN_PATHS or not self._keys or scope.get("method") == "OPTIONS":
            return "-"
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        name = self._keys.name_of(key) if key else None
        if name is None and not key:
            cookies: SimpleCookie = SimpleCookie()
            with suppress(CookieError):
                cookies.load(headers.get("cookie", ""))
            if SESSION in cookies:
                name = self._keys.name_of_session(cookies[SESSION].value)
        if name is None:
            what = "this key does not open the server" if key else "this server wants a key"
            raise Unauthorized(what, hint="send it as Authorization: Bearer KEY")
        return name

    def _count(self, scope: Scope, call: Call) -> dict[str, str]:
        """Headers that say how much is left.

        Raises:
            RateLimited, ShuttingDown.
        """
        if self._draining() and scope["path"] not in PROBES:
            raise ShuttingDown("this server is about to stop", hint="ask another one, or again in a moment")
        if self._limit is None or scope.get("method") != "POST":
            return {}
        who = call.key if call.key != "-" else f"address {(scope.get('client') or ('-',))[0]}"
        passed = self._limiter.hit(self._limit, who)
        stats = self._limiter.get_window_stats(self._limit, who)
        left_s = max(1, round(stats.reset_time - time.time()))
        told = {
            "RateLimit": f'"requests";r={stats.remaining};t={left_s}',
            "RateLimit-Policy": f'"requests";q={self._limit.amount};w=60',
        }
        if not passed:
            error = RateLimited(
                f"a key may send {self._limit.amount} requests a minute, and these are more",
                hint=f"try again in {left_s} s",
                retry_after_s=left_s,
            )
            error.headers = told
            raise error
        return told

    def _refused(self, scope: Scope, headers: Headers, error: ServiceError) -> Response:
        wants_page = scope.get("method") == "GET" and "text/html" in headers.get("accept", "")
        if type(error) is Unauthorized and wants_page:
            return RedirectResponse("/login", 303)
        return self._refusal(scope, error)

    def _noted(self, scope: Scope, call: Call, code: int) -> None:
        path = getattr(scope.get("route"), "path", "")
        known = path if path in self._routes else "-" if code in (404, 429) else "page"
        self._telemetry.request(
            identity=call.identity,
            key=call.key,
            route=known if scope["path"] not in OPEN_PATHS else scope["path"],
            model=call.model,
            code=code or 499,  # the caller went away before its answer
            seconds=time.perf_counter() - call.since,
            reason=call.reason,
            work=call.work,
        )


def headers_of(error: ServiceError) -> dict[str, str]:
    """What an error says in headers, whatever its dialect."""
    found = dict(error.headers)
    if isinstance(error, Overloaded):
        found["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, ShuttingDown):
        found |= {"Retry-After": "5", "Connection": "close"}
    if type(error) is Unauthorized:
        found["WWW-Authenticate"] = "Bearer"
    return found


def check_exposure(settings: ServeSettings, keys: ApiKeys) -> None:
    """Refuse to be open to a network.

    Raises:
        BadRequest: another address than loopback, no key, and nobody said that this is meant.
    """
    if not is_loopback(settings.host) and not keys and not settings.no_auth:
        raise BadRequest(
            f"whoever reaches {settings.host} could use this server: give a key with --api-key-file FILE or "
            f"{ENVIRONMENT}, or say --no-auth"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
