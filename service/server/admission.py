"""Admission: the only place that counts requests in and out.

It counts the requests of each model, of each key in a minute, uploads and tables that are being scored, and refuses
what would exceed a limit. A route asks it for an engine (`engine`), then for answers (`classify`, `zero_shot`, `run`).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
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
from service.errors import Overloaded, RateLimited, ShuttingDown, request_timeout
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import Answer, Function, TextInput, Work, ZeroShotRequest
from service.server.client_connection import while_connected
from service.server.limits import RequestLimits
from service.server.telemetry import Telemetry
from service.settings import ServeSettings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

RECORD = "rehead.request"
"""The scope key of a request's record."""

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

TABLES_AT_ONCE, UPLOADS_STORED = 2, 20
"""Tables scored together, and uploads of the largest size that fit into the upload folder."""

UPLOAD_LIFETIME_S = 3600


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One HTTP request, as it is counted and logged; `error_code` is that of the error it was answered with."""

    request_id: str
    key_name: str = "-"
    model: str = "-"
    error_code: str = ""
    work: Work | None = None
    engine: Engine | None = None
    """The engine whose running requests include this one."""

    started: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class ModelLoad:
    """The running requests of one model, and the moving average of the tokens of its requests."""

    running: int = 0
    tokens_per_request: float = 0.0


class Call(Protocol[T_co]):
    """Work on an engine within a budget."""

    def __call__(self, *, work: Work) -> Coroutine[Any, Any, T_co]:
        """Return the coroutine of the work."""


def record_of(request: Request) -> RequestRecord:
    """Return the record of a request, for routes to fill in."""
    record: RequestRecord = request.scope[RECORD]
    return record


class Admission:
    """The models of a server as untrusted clients may use them, over HTTP and on the page.

    Attributes:
        limits: size limits of one request.
        draining: set once the server shuts down; from then on only probes are answered.
        loads: running requests by engine.
        uploads: uploads under way.
    """

    def __init__(self, store: ModelStore[Engine], settings: ServeSettings, telemetry: Telemetry) -> None:
        self.store, self.settings, self.telemetry = store, settings, telemetry
        self.limits = RequestLimits(settings)
        self.draining = False
        self.loads: defaultdict[Engine, ModelLoad] = defaultdict(ModelLoad)
        self.uploads, self._tables = 0, 0
        self._per_minute = (
            RateLimitItemPerMinute(settings.requests_per_minute) if settings.requests_per_minute else None
        )
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._background = ThreadPoolExecutor(BACKGROUND_THREADS, "rehead-background")

    def close(self) -> None:
        """Cancel background work that has not begun, and wait for the rest."""
        self._background.shutdown(cancel_futures=True)

    # models

    async def engine(self, request: Request, name: str | None = None) -> Engine:
        """Return the engine of a served name, or of the default model, and count the request in.

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
        self._count_in(record, engine)
        return engine

    def enter_by_path(self, scope: Scope, record: RequestRecord) -> None:
        """Count a request in by its path alone, before its body is read: the cheapest place to refuse it.

        Raises:
            Overloaded: the model is at capacity.
        """
        path = scope.get("path", "")
        if scope.get("method") != "POST" or not (path.startswith(MODEL_PREFIX) or path in DEFAULT_PATHS):
            return
        name = path[len(MODEL_PREFIX) :] if path.startswith(MODEL_PREFIX) else self.store.default_name
        engine = self.store.loaded_as(name)
        if engine is not None:
            record.model = name
            self._count_in(record, engine)

    def leave(self, record: RequestRecord) -> None:
        """Count a request out, wherever it was counted in."""
        if record.engine is not None:
            self._leave(record.engine, record.work)
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
    ) -> list[Answer]:
        """Return scores of the model's own labels; raises as `run` and `Engine.aclassify` do."""
        call = partial(engine.aclassify, inputs, function=function, attention=attention, max_length=max_length)
        answers = await self.run(engine, call, request=request)
        self.telemetry.answers(engine.folder.path.name, answers, own_labels=engine.folder.labels.names)
        return answers

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
        return answers

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
        self._enter(engine)
        try:
            return await asyncio.wait_for(call(work=work), seconds)
        except TimeoutError as error:
            raise request_timeout(seconds) from error
        finally:
            self._leave(engine, work)

    def _count_in(self, record: RequestRecord, engine: Engine) -> None:
        if record.engine is engine:
            return
        if record.engine is not None:  # counted in by its path, while its body names another model
            self._leave(record.engine, None)
            record.engine = None
        self._enter(engine)
        record.engine = engine

    def _enter(self, engine: Engine) -> None:
        load, settings = self.loads[engine], self.settings
        expected_s = max(engine.expected_seconds(load.running * load.tokens_per_request), engine.expected_seconds())
        too_slow = load.running and expected_s > settings.queue_seconds * QUEUE_SHARE
        if load.running >= settings.max_concurrent or too_slow:
            raise Overloaded(
                f"the model is at capacity, with {load.running} requests running",
                hint="try again in a moment",
                retry_after_s=max(1.0, expected_s),
            )
        load.running += 1

    def _leave(self, engine: Engine, work: Work | None) -> None:
        load = self.loads[engine]
        load.running -= 1
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
    async def upload(self, used_bytes: Callable[[], int]) -> AsyncIterator[None]:
        """Count an upload while it arrives; `used_bytes` returns the size of the upload folder.

        Raises:
            Overloaded: the upload folder could not hold all uploads under way.
        """
        self.uploads += 1
        try:
            self.check_storage(await asyncio.to_thread(used_bytes), files=self.uploads)
            yield
        finally:
            self.uploads -= 1

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
