"""The server: models, routes and page in one FastAPI app, and the process that runs it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from finetune.core.device import torch_device
from finetune.core.errors import FinetuneError
from finetune.core.model_folder import ModelFolder
from service.errors import BackendFailed, BadRequest, ServiceError
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import checked_window
from service.server.admission import Admission
from service.server.auth import ApiKeys, check_exposure
from service.server.connections import KEEP_ALIVE_S, Connections, limit_of, protocol_of
from service.server.feedback import Feedback
from service.server.middleware import RequestMiddleware
from service.server.preload import Preload
from service.server.proxy import ProxyMiddleware, add_prefix, trusted_addresses
from service.server.routes import docs, error_responses, health, huggingface, login, metrics, systemone, tei, vllm
from service.server.telemetry import Telemetry, quiet_libraries
from service.server.training_jobs import Jobs
from service.settings import RuntimeSettings, ServeSettings
from service.ui.late_page import LatePage, Mounted
from service.ui.upload_folder import delete_folder, delete_old_files

Say = Callable[[str], None]
MetricsPage = Callable[[], Awaitable[bytes]]
ACCEPTED_AT_ONCE = 32
DRAIN_S = 0.5
"""Seconds in which a server that shuts down answers new requests with 503, before it closes its sockets."""


def create_app(
    settings: ServeSettings,
    *,
    say: Say = lambda line: None,
    log: Say | None = None,
    page: bool = True,
    metrics_page: MetricsPage | None = None,
) -> FastAPI:
    """Return the app; the default model loads when it starts, the others right after.

    Args:
        say: receives progress lines, such as which models were loaded.
        log: receives each line of the log; default is standard error.
        page: whether the app has the web UI and its login; without it gradio is not imported.
        metrics_page: returns what `/metrics` answers; default is the metrics of this app alone.

    Raises:
        ModelNotFound: the default model is not served, or no model is.
        BadRequest: invalid keys, a server that would be open to a network, or a folder that does not exist.
        CheckpointError: a base to train from does not exist.
    """
    keys = ApiKeys.read(settings)
    check_exposure(settings, keys)
    runtime = RuntimeSettings.from_environment(
        backend=settings.backend, precision=settings.precision, device=settings.device
    )
    if runtime.device not in ("auto", "cpu"):
        torch_device(runtime.device)  # raises here where it is not available, and not once for each model
    telemetry = Telemetry(log)
    store: ModelStore[Engine] = ModelStore(
        settings.models,
        # a model that is asked for later is measured before its first answer
        lambda folder: _load(runtime, settings.window, telemetry, say, folder, measure_later=not store.is_settled),
        default=settings.default,
    )
    store.pin_default()
    if settings.tables is not None and not settings.tables.is_dir():
        raise BadRequest(f"there is no folder {settings.tables}: set --tables to a folder of tables")
    jobs = Jobs(settings.models, settings.bases, runtime.device) if settings.allow_training else None
    admission = Admission(store, settings, telemetry)
    lifespan = partial(_lifespan, admission=admission, jobs=jobs)
    app = _App(title="rehead", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.store, app.state.admission = store, admission
    app.state.preload = Preload(store, say, lambda: admission.draining)
    login_routes = (login.build(keys, admission.limits.bodies),) if page else ()
    paths = _add_routes(app, admission, metrics_page, *login_routes)
    inner: ASGIApp = app.inner
    if page:
        inner = app.page = _page(app, admission, has_key=bool(keys), jobs=jobs, say=say)
    app.outer = ProxyMiddleware(
        RequestMiddleware(
            inner, admission=admission, keys=keys, refusal=error_responses.response, routes=paths, has_login=page
        ),
        settings,
    )
    return app


def _page(app: _App, admission: Admission, *, has_key: bool, jobs: Jobs | None, say: Say) -> LatePage:
    """Return the page, which is built once the app has started."""
    settings = admission.settings
    feedback = Feedback(settings.feedback, settings.max_feedback_rows) if settings.feedback is not None else None

    async def mounted() -> Mounted:
        from service.ui.mount import mount  # gradio takes seconds to import, and replicas need none

        shown = mount(app, app.inner, admission, has_key=has_key, jobs=jobs, feedback=feedback)
        gc.freeze()
        return shown

    def report(error: Exception) -> None:
        admission.telemetry.crash("page", error)
        say(f"there is no web UI ({type(error).__name__}: {error}); the API answers")

    return LatePage(
        app,
        app.inner,
        mounted,
        refusal=error_responses.response,
        report=report,
        is_draining=lambda: admission.draining,
    )


@contextlib.asynccontextmanager
async def _lifespan(app: _App, *, admission: Admission, jobs: Jobs | None) -> AsyncIterator[None]:
    """Load the default model before the first request, and close all after the last."""
    store, preload = admission.store, app.state.preload
    await run_in_threadpool(preload.first)
    gc.collect()
    gc.freeze()  # loaded models stay: a collection that walks through them would stop every thread
    preload.start()
    if app.page is None:
        yield
    else:
        cleanup = asyncio.ensure_future(delete_old_files())
        async with app.page.opened():
            yield
        cleanup.cancel()
    await run_in_threadpool(preload.stop)
    if jobs is not None:
        await run_in_threadpool(jobs.close)
    await run_in_threadpool(admission.close)
    for name in store.loaded():
        await run_in_threadpool(store.get(name).close)


def _add_routes(
    app: FastAPI, admission: Admission, metrics_page: MetricsPage | None, *others: APIRouter
) -> frozenset[str]:
    """Add routes, error handlers and CORS; return the paths of the routes."""
    settings = admission.settings
    routers = (
        *(dialect.build(admission) for dialect in DIALECTS),
        health.build(admission),
        metrics.build(metrics_page or admission.telemetry.own_page),
        docs.build(app, has_page=bool(others)),
        *others,
    )
    for router in routers:
        app.include_router(router)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
        )
    for kind, handler in ERROR_HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return frozenset(route.path for router in routers for route in router.routes if isinstance(route, APIRoute))


def serve(settings: ServeSettings, *, say: Say) -> None:
    """Run the server until a signal stops it; `say` receives the address once it answers.

    Raises:
        BadRequest: the address cannot be bound, or a setting is invalid.
        ModelNotFound, BackendFailed: there is nothing to serve.
    """
    with listen(settings.host, settings.port) as listener:
        connections = Connections(limit_of(settings.max_connections, say), trusted_addresses(settings))
        app = create_app(settings, say=say)
        config = uvicorn.Config(
            app,
            http=protocol_of(connections),
            loop="service.server.connections:new_event_loop",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=round(settings.request_seconds),
            timeout_keep_alive=KEEP_ALIVE_S,
            server_header=False,
            proxy_headers=False,  # ProxyMiddleware reads them
            lifespan="on",
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        quiet_libraries()  # after the configuration, which sets levels of its own
        # uvicorn raises the signal again once it has stopped; a requested shutdown is no failure
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        hangup = getattr(signal, "SIGHUP", None)  # not on Windows
        if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:  # it is ignored under nohup
            signal.signal(hangup, lambda number, frame: signal.raise_signal(signal.SIGTERM))
        # libuv accepts one connection per socket in each turn of its loop: under load, thousands would wait
        with contextlib.ExitStack() as others:
            sockets = [listener, *(others.enter_context(listener.dup()) for _ in range(ACCEPTED_AT_ONCE - 1))]
            try:
                _Server(config, say, app, connections).run(sockets=sockets)
            finally:
                delete_folder()


def _load(
    runtime: RuntimeSettings,
    window: str | None,
    telemetry: Telemetry,
    say: Say,
    folder: ModelFolder,
    *,
    measure_later: bool,
) -> Engine:
    name = folder.path.name
    engine = Engine.load(
        folder,
        runtime,
        log=say,
        on_batch=partial(telemetry.batch, name),
        on_reload=partial(telemetry.restarted, name),
        measure_later=measure_later,
    )
    engine.window = checked_window(window) or engine.window
    telemetry.loaded(name, lambda: engine.queued_tokens)
    return engine


class _App(FastAPI):
    """The app inside `outer`, which runs before all middleware of FastAPI: under load, most requests end there."""

    outer: ASGIApp
    page: LatePage | None = None

    async def inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request that was let through."""
        add_prefix(scope)
        await super().__call__(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        await self.outer(scope, receive, send)


class _Server(uvicorn.Server):  # type: ignore[misc]  # pyproject skips uvicorn's types
    def __init__(self, config: uvicorn.Config, say: Say, app: FastAPI, connections: Connections) -> None:
        super().__init__(config)
        self._say, self._app, self._connections = say, app, connections

    async def main_loop(self) -> None:
        closing = asyncio.ensure_future(self._connections.close_slow())
        try:
            await super().main_loop()
        finally:
            closing.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
            scheme = "https" if self.config.is_ssl else "http"
            paths = "web UI at /, API at /models/NAME, API reference at /docs"
            root = self._app.state.admission.settings.root_path
            self._say(f"rehead answers at {scheme}://{shown}:{port}{root}   ({paths})")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # from here on new requests are refused; running ones end, and streams of open pages are closed
        self._app.state.admission.draining = True
        await asyncio.sleep(DRAIN_S)
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address; port 0 selects a free one.

    Raises:
        BadRequest: it cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_failure:
            listener = on_failure.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            on_failure.pop_all()  # the caller closes it
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadRequest(f"port {port} of {host} is in use: choose another with --port") from error
        raise BadRequest(f"cannot listen on {host}:{port} ({error.strerror or error})") from error
    return listener


async def _service_error(request: Request, error: Any) -> Response:
    return error_responses.response(request.scope, error)


async def _finetune_error(request: Request, error: Any) -> Response:
    # a served folder became invalid: not the client's fault
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
    # RequestMiddleware logs where it was raised; the message may quote what a client sent, so it is not returned
    failed = ServiceError(f"internal server error ({type(error).__name__}); see the server's log")
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
