"""The server: store, routes and page in one FastAPI app, and the process that runs it.

Knows: what belongs to a server, in which order it starts and stops, how errors leave it.
Does not know: any wire dialect, and what the page looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import gradio
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from finetune.core.errors import FinetuneError
from finetune.core.model_folder import ModelFolder
from service.errors import BackendFailed, BadRequest, ServiceError
from service.inference.engine import Engine
from service.inference.model_store import ModelStore, describe
from service.server.desk import Desk
from service.server.feedback import Feedback
from service.server.guard import ApiKeys, Guard, check_exposure
from service.server.routes import docs, error_responses, health, huggingface, login, metrics, systemone, tei, vllm
from service.server.routes.classification import RequestRunner
from service.server.telemetry import Telemetry, quiet_libraries
from service.server.training_jobs import Jobs
from service.settings import RuntimeSettings, ServeSettings
from service.ui import build as page
from service.ui import theme
from service.ui.restrictions import FORM_BYTES, GradioRestrictions, closed, sweeping, without_tracebacks

Say = Callable[[str], None]
ACCEPTED_AT_ONCE = 32
DRAIN_S = 0.5
"""Seconds in which a server that is told to end says so to whoever asks, before it listens no more."""
KEEP_ALIVE_S = 30
"""Seconds that an idle connection is kept; longer than most clients keep theirs, so that these close first."""


def create_app(settings: ServeSettings, *, say: Say = lambda line: None, log: Say | None = None) -> FastAPI:
    """The app: models load when it starts; `say` hears what was loaded, `log` each line of the log.

    Raises:
        ModelNotFound: the default model is not served, or nothing is.
        BadRequest: keys that cannot be used, a server that would be open to a network, a folder that is not there.
        CheckpointError: a base to train from that leads nowhere.
    """
    keys = ApiKeys.read(settings)
    check_exposure(settings, keys)
    runtime = RuntimeSettings.from_environment(backend=settings.backend, precision=settings.precision)
    telemetry = Telemetry(log)
    store = ModelStore(settings.models, partial(_load, runtime, telemetry, say), default=settings.default)
    store.pin_default()
    if settings.tables is not None and not settings.tables.is_dir():
        raise BadRequest(f"there is no folder {settings.tables}: --tables names one of tables that the page offers")
    jobs = Jobs(settings.models, settings.bases) if settings.allow_training else None
    feedback = Feedback(settings.feedback, settings.max_feedback_rows) if settings.feedback is not None else None

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(_preload, store, say)
        gc.collect()
        gc.freeze()  # what is loaded now stays: looking through it for cycles would hold every thread up
        swept = asyncio.ensure_future(sweeping())
        yield
        swept.cancel()
        if jobs is not None:
            await run_in_threadpool(jobs.close)
        for name in store.loaded():
            await run_in_threadpool(store.get(name).close)

    app = _Guarded(title="rehead", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.store = store
    desk = Desk(store, settings, telemetry)
    door = RequestRunner(desk)

    def draining() -> bool:
        return bool(getattr(app.state, "draining", False))

    routers = (
        *(dialect.build(door) for dialect in DIALECTS),
        health.build(store, draining),
        metrics.build(telemetry),
        docs.build(app),
        login.build(keys),
    )
    for router in routers:
        app.include_router(router)
    own = frozenset(route.path for router in routers for route in router.routes if isinstance(route, APIRoute))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
        )
    app.gate = GradioRestrictions(
        app.open,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        refusal=error_responses.response,
    )
    app.guard = Guard(
        app.unguarded,
        settings=settings,
        keys=keys,
        telemetry=telemetry,
        refusal=error_responses.response,
        routes=own,
        draining=draining,
        enter=door.enter,
    )
    for kind, handler in ERROR_HANDLERS.items():
        app.add_exception_handler(kind, handler)
    _mount_page(app, desk, page.build(desk, has_key=bool(keys), jobs=jobs, feedback=feedback))
    return app


def serve(settings: ServeSettings, *, say: Say) -> None:
    """Run the server until it is told to stop; `say` hears the address once it answers.

    Raises:
        BadRequest: the address cannot be listened on, or a setting that cannot be used.
        ModelNotFound, BackendFailed: there is nothing to serve.
    """
    with _listen(settings.host, settings.port) as listener:
        app = create_app(settings, say=say)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=round(settings.request_seconds),
            timeout_keep_alive=KEEP_ALIVE_S,
            server_header=False,
            lifespan="on",
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        quiet_libraries()  # after the configuration, which sets levels of its own
        # uvicorn sends itself the signal again once it has stopped: to be told to end is no failure
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # libuv takes one new connection of a socket in each turn of its loop: under load, thousands would wait for long
        with contextlib.ExitStack() as others:
            sockets = [listener, *(others.enter_context(listener.dup()) for _ in range(ACCEPTED_AT_ONCE - 1))]
            _Server(config, say, app).run(sockets=sockets)


def _load(runtime: RuntimeSettings, telemetry: Telemetry, say: Say, folder: ModelFolder) -> Engine:
    name = folder.path.name
    engine = Engine.load(
        folder, runtime, log=say, on_batch=partial(telemetry.batch, name), on_reload=partial(telemetry.restarted, name)
    )
    telemetry.loaded(name, lambda: engine.queued_tokens)
    return engine


def _mount_page(app: FastAPI, desk: Desk, blocks: gradio.Blocks) -> None:
    """The page at `/`, behind the routes that the app has already."""
    without_tracebacks(partial(desk.telemetry.crash, "page"))
    gradio.mount_gradio_app(
        app,
        closed(blocks),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        app_kwargs={"max_body_size": desk.settings.max_upload_bytes + FORM_BYTES},  # the gate holds others to less
        max_file_size=desk.settings.max_upload_bytes,
        mcp_server=desk.settings.mcp,
        theme=theme.theme(),
        css=theme.CSS,
    )


class _Guarded(FastAPI):
    """The app behind its guard, which stands before all middleware: under load, most it does is refuse."""

    guard: Guard
    gate: GradioRestrictions

    async def unguarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What a request meets that the guard let through."""
        await self.gate(scope, receive, send)

    async def open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app itself."""
        await super().__call__(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request."""
        await self.guard(scope, receive, send)


class _Server(uvicorn.Server):  # type: ignore[misc]  # pyproject skips uvicorn's types
    def __init__(self, config: uvicorn.Config, say: Say, app: FastAPI) -> None:
        super().__init__(config)
        self._say, self._app = say, app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
            scheme = "https" if self.config.is_ssl else "http"
            rooms = "page at /, API at /models/NAME, its description at /docs"
            self._say(f"rehead answers at {scheme}://{shown}:{port}   ({rooms})")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # new requests are refused from here on; those under way end, and streams of open pages are cut off
        self._app.state.draining = True
        await asyncio.sleep(DRAIN_S)
        await super().shutdown(sockets)


def _preload(store: ModelStore[Engine], say: Say) -> None:
    for name, problem in store.preload():
        if problem is not None:
            say(f"skipped {name}: {problem}")
            continue
        engine = store.get(name)
        entry = describe(name, engine.folder)
        labels = "any labels you name" if entry["task"] == "zero-shot" else ", ".join(entry["labels"][:8])
        runtime = f"{engine.backend.name} in {engine.backend.precision}"
        say(f"loaded {name}: {entry['task']}, {labels}")
        say(f"    by {engine.backend.why or runtime}")
    if not store.loaded():
        raise BackendFailed("none of the models can be loaded")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_failure:
            listener = on_failure.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            on_failure.pop_all()  # from here on the caller closes it
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadRequest(f"port {port} of {host} is in use: choose another with --port") from error
        raise BadRequest(f"cannot listen on {host}:{port} ({error.strerror or error})") from error
    return listener


async def _service_error(request: Request, error: Any) -> Response:
    return error_responses.response(request.scope, error)


async def _finetune_error(request: Request, error: Any) -> Response:
    # a served folder went bad; no caller can mend that
    return error_responses.response(request.scope, BackendFailed(str(error)))


async def _http_error(request: Request, error: Any) -> Response:
    failed = ServiceError(str(error.detail))
    failed.status, failed.code, failed.headers = error.status_code, "http", dict(error.headers or {})
    return error_responses.response(request.scope, failed)


async def _invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    return error_responses.response(
        request.scope, BadRequest(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
    )


async def _crash(request: Request, error: Any) -> Response:
    # the guard writes down where; what the error says stays here, for it may hold what a caller sent
    failed = ServiceError(f"the server failed ({type(error).__name__}); its log says more")
    failed.code = "crash"
    return error_responses.response(request.scope, failed)


DIALECTS = (huggingface, tei, vllm, systemone)

ERROR_HANDLERS: dict[Any, Any] = {
    ServiceError: _service_error,
    FinetuneError: _finetune_error,
    HTTPException: _http_error,
    RequestValidationError: _invalid,
    Exception: _crash,
}
