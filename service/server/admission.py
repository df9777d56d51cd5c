"""Admission: the only place that counts requests in and out.

It counts the requests of each model, of each key in a minute, uploads and tables that are being scored, and refuses
what would exceed a limit. A route asks it for an engine (`engine`), then for answers (`classify`, `zero_shot`, `run`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi import Request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from finetune.core.model_folder import AttentionMode
from finetune.core.windows import Window
from service.errors import Overloaded, RateLimited, ShuttingDown, request_timeout
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import Answer, Function, TextInput, Work, ZeroShotRequest, with_languages
from service.server.client_connection import while_connected
from service.server.limits import RequestLimits
from service.server.request_record import RequestRecord, record_of
from service.server.shares import RATIO, Shares, fits
from service.server.telemetry import Telemetry
from service.settings import ServeSettings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MODEL_PREFIX, DEFAULT_PATHS = "/models/", frozenset({"/", "/predict"})
PROBES = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
"""Paths that are answered while the server shuts down."""

QUEUE_SHARE = 0.5
"""Share of `queue_seconds` that running requests may take: the tokens of requests that arrive together are not known
yet when they are counted."""

SMOOTHING = 0.05
"""Weight of the newest request in the moving average of tokens per request."""

BACKGROUND_THREADS = 6
"""Threads for work that takes longer than an answer, such as tables and explanations, apart from those of answers."""

PAGE = "page"
"""The client of requests that the web UI makes for its users; its own queue divides its places among them."""

TABLES_AT_ONCE, UPLOADS_STORED = 2, 20
"""Tables scored together, and uploads of the largest size that fit into the upload folder."""

UPLOAD_LIFETIME_S = 3600
SETTLE_POLL_S = 0.5
CLOCK_S = 1.0
"""Seconds that the clock may be set back without effect on the rate limit, the only limit that uses it."""


@dataclass(slots=True)
class ModelLoad:
    """The running requests of one model, in all and by client, and the moving average of the tokens of its requests."""

    running: int = 0
    by_client: Counter[str] = field(default_factory=Counter)
    tokens_per_request: float = 0.0


class Call(Protocol[T_co]):
    """Work on an engine within a budget."""

    def __call__(self, *, work: Work) -> Coroutine[Any, Any, T_co]:
        """Return the coroutine of the work."""


class Admission:
    """The models of a server as untrusted clients may use them, over HTTP and on the page.

    Attributes:
        limits: size limits of one request.
        draining: set once the server shuts down; from then on only probes are answered.
        requests: requests that were let through, and are not answered yet.
        loads: running requests by engine.
        uploads: uploads under way.
    """

    def __init__(self, store: ModelStore[Engine], settings: ServeSettings, telemetry: Telemetry) -> None:
        self.store, self.settings, self.telemetry = store, settings, telemetry
        self.limits = RequestLimits(settings)
        self.draining, self.requests = False, 0
        self.loads: defaultdict[Engine, ModelLoad] = defaultdict(ModelLoad)
        self.uploads, self._tables = Shares(UPLOADS_STORED), 0
        self._per_minute = (
            RateLimitItemPerMinute(settings.requests_per_minute) if settings.requests_per_minute else None
        )
        self._limiter, self._counted = MovingWindowRateLimiter(MemoryStorage()), 0.0
        self._background = ThreadPoolExecutor(BACKGROUND_THREADS, "rehead-background")

    def close(self) -> None:
        """Cancel background work that has not begun, and wait for the rest."""
        self._background.shutdown(cancel_futures=True)

    # models

    def settle(self) -> None:
        """Return once the models that are served from the start are loaded.

        Raises:
            ShuttingDown: the server stops before.
        """
        while not self.store.settle(SETTLE_POLL_S):
            if self.draining:
                raise ShuttingDown("the server is shutting down")

    async def engine(self, request: Request, name: str | None = None) -> Engine:
        """Return the engine of a served name, or of the default model, and count the request in.

        Call it once the body of the request is there: a body that never comes must not take a place.

        Raises:
            ModelNotFound: the name is not served.
            Overloaded: the request would wait longer than `queue_seconds`.
        """
        name = name if name is not None else self.store.default_name
        engine = self.store.loaded_as(name)
        if engine is None:
            engine = await run_in_threadpool(self.store.get, name)
        record = record_of(request)
        record.model = name
        if record.engine is None:
            self._enter(engine, record.client)
            record.engine = engine
        return engine

    def check_by_path(self, scope: Scope, record: RequestRecord) -> None:
        """Refuse a request by its path and client alone, before its body is read: the cheapest place.

        Raises:
            Overloaded: the model is at capacity, or its client has its share of the places.
        """
        path = scope.get("path", "")
        if scope.get("method") != "POST" or not (path.startswith(MODEL_PREFIX) or path in DEFAULT_PATHS):
            return
        name = path[len(MODEL_PREFIX) :] if path.startswith(MODEL_PREFIX) else self.store.default_name
        engine = self.store.loaded_as(name)
        if engine is not None:
            record.model = name
            self._check_capacity(engine, record.client)

    def leave(self, record: RequestRecord) -> None:
        """Count a request out, wherever it was counted in."""
        if record.engine is not None:
            self._leave(record.engine, record.client, record.work)
            record.engine = None

    async def classify(
        self,
        engine: Engine,
        inputs: list[TextInput],
        *,
        request: Request | None = None,
        function: Function = "default",
        attention: AttentionMode | None = None,
        max_length: int | None = None,
        window: Window | None = None,
    ) -> list[Answer]:
        """Return scores of the model's own labels; raises as `run` and `Engine.aclassify` do."""
        options: dict[str, Any] = {"function": function, "attention": attention, "max_length": max_length}
        call = partial(engine.aclassify, inputs, **options, window=window)
        answers = await self.run(engine, call, request=request)
        self.telemetry.answers(engine.folder.path.name, answers, own_labels=engine.folder.labels.names)
        return with_languages(answers, (item.text for item in inputs), engine.folder.settings.languages)

    async def zero_shot(
        self,
        engine: Engine,
        texts: list[str],
        question: ZeroShotRequest | list[ZeroShotRequest],
        *,
        request: Request | None = None,
    ) -> list[Answer]:
        """Return scores of a client's labels; raises as `run` and `Engine.azero_shot` do."""
        answers = await self.run(engine, partial(engine.azero_shot, texts, question), request=request)
        self.telemetry.answers(engine.folder.path.name, answers, own_labels=None)
        return with_languages(answers, texts, engine.folder.settings.languages)

    async def run(self, engine: Engine, call: Call[T], *, request: Request | None = None) -> T:
        """Return the result of a call of an engine, cancelled after `request_seconds`.

        Args:
            request: the HTTP request behind the call, counted in by `engine`; the call is cancelled when its client
                disconnects. Without it the call is counted in and out here.

        Raises:
            Overloaded: the model is at capacity.
            RequestTimeout: the call took longer than `request_seconds`.
        """
        work, seconds = self.limits.work(), self.settings.request_seconds
        if request is not None:
            record_of(request).work = work
            return await while_connected(request, call(work=work), within_s=seconds)
        self._enter(engine, PAGE)
        try:
            return await asyncio.wait_for(call(work=work), seconds)
        except TimeoutError as error:
            raise request_timeout(seconds) from error
        finally:
            self._leave(engine, PAGE, work)

    def _enter(self, engine: Engine, client: str) -> None:
        self._check_capacity(engine, client)
        load = self.loads[engine]
        load.running += 1
        load.by_client[client] += 1

    def _check_capacity(self, engine: Engine, client: str) -> None:
        load, settings = self.loads[engine], self.settings
        if not load.running:
            return  # a request never waits for itself
        expected_s = max(engine.expected_seconds(load.running * load.tokens_per_request), engine.expected_seconds())
        places, left_s = settings.max_concurrent - load.running, settings.queue_seconds * QUEUE_SHARE - expected_s
        held = load.by_client.get(client, 0)
        if places <= 0 or left_s < 0:
            problem = f"the model is at capacity, with {load.running} requests running"
        elif held and not (fits(held, places) and expected_s * held / load.running <= RATIO * left_s):
            problem = f"this client has its share of the model's capacity, with {held} requests running"
        else:
            return
        raise Overloaded(problem, hint="try again in a moment", retry_after_s=max(1.0, expected_s))

    def _leave(self, engine: Engine, client: str, work: Work | None) -> None:
        load = self.loads[engine]
        load.running -= 1
        load.by_client[client] -= 1
        if not load.by_client[client]:
            del load.by_client[client]
        if work is not None and work.tokens:
            load.tokens_per_request += SMOOTHING * (work.tokens - load.tokens_per_request)

    # keys and shutdown

    def check_accepting(self, path: str) -> None:
        """Raise ShuttingDown while the server drains, except for probes."""
        if self.draining and path not in PROBES:
            raise ShuttingDown("the server is shutting down", hint="send the request again in a moment")

    def count_minute(self, client: str) -> dict[str, str]:
        """Count a request of a client (a key's name or an address) in this minute, and return its RateLimit headers.

        Raises:
            RateLimited: the client sent more than `requests_per_minute`.
        """
        limit = self._per_minute
        if limit is None:
            return {}
        now, before = time.time(), self._counted
        self._counted = now
        if now < before - CLOCK_S:  # the clock was set back: what was counted would lie in the future
            self._limiter.storage.reset()
        passed = self._limiter.hit(limit, client)
        stats = self._limiter.get_window_stats(limit, client)
        left_s = max(1, round(stats.reset_time - time.time()))
        headers = {
            "RateLimit": f'"requests";r={stats.remaining};t={left_s}',
            "RateLimit-Policy": f'"requests";q={limit.amount};w=60',
        }
        if not passed:
            error = RateLimited(
                f"rate limit of {limit.amount} requests a minute exceeded",
                hint=f"try again in {left_s} s",
                retry_after_s=left_s,
            )
            error.headers = headers
            raise error
        return headers

    # uploads, tables, background work

    @asynccontextmanager
    async def upload(self, client: str, used_bytes: Callable[[], int]) -> AsyncIterator[None]:
        """Count an upload while it arrives; `used_bytes` returns the size of the upload folder.

        Raises:
            Overloaded: the client has its share of the uploads, or the folder could not hold all that are under way.
        """
        if not self.uploads.fits(client):
            raise Overloaded(
                f"{int(self.uploads.used)} uploads are under way", hint="try again in a moment", retry_after_s=1.0
            )
        self.uploads.take(client)
        try:
            self.check_storage(await asyncio.to_thread(used_bytes), files=int(self.uploads.used))
            yield
        finally:
            self.uploads.give_back(client)

    def check_storage(self, used_bytes: int, *, files: int) -> None:
        """Raise Overloaded where files of the largest size do not fit into the upload folder."""
        limit = self.settings.max_upload_bytes
        if used_bytes + files * limit > UPLOADS_STORED * limit:
            raise Overloaded("upload storage is full", hint="try again in an hour", retry_after_s=UPLOAD_LIFETIME_S)

    @contextmanager
    def table(self) -> Iterator[None]:
        """Count a table while it is scored.

        Raises:
            Overloaded: other tables are being scored.
        """
        if self._tables >= TABLES_AT_ONCE:
            raise Overloaded("other tables are being scored", hint="try again in a moment")
        self._tables += 1
        try:
            yield
        finally:
            self._tables -= 1

    async def background(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return the result of long work, run in a thread that no answer needs."""
        return await asyncio.get_running_loop().run_in_executor(self._background, work, *arguments)
