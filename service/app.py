"""The server: store, routes and page in one FastAPI app, and the process that runs it.

Knows: what belongs to a server, in which order it starts and stops, how errors leave it.
Does not know: any wire dialect, and what the page looks like.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import gradio
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finetune.errors import FinetuneError
from service.engine import Engine
from service.errors import BackendFailed, BadRequest, ServiceError
from service.routes import docs, health, huggingface
from service.settings import RuntimeSettings, ServeSettings
from service.store import ModelStore, describe
from service.ui import build as page

Say = Callable[[str], None]
REQUEST_ID = "rehead.request_id"
STOP_WITHIN_S = 2
"""Seconds that open connections get when the server stops; a page keeps one open for as long as it is shown."""


def create_app(settings: ServeSettings, *, say: Say = lambda line: None) -> FastAPI:
    """The app: models load when it starts; `say` hears what was loaded.

    Raises:
        ModelNotFound: the default model is not served, or nothing is.
    """
    runtime = RuntimeSettings.from_environment(backend=settings.backend, precision=settings.precision)
    load = partial(Engine.load, settings=runtime, say=say)
    store = ModelStore(settings.models, load, default=settings.default)
    store.folder_path(store.default_name)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(_preload, store, say)
        yield
        for name in store.loaded():
            await run_in_threadpool(store.get(name).close)

    app = FastAPI(title="rehead", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(RequestId)
    for router in (huggingface.build(store, settings), health.build(store), docs.build(app)):
        app.include_router(router)
    for kind, handler in ERROR_HANDLERS.items():
        app.add_exception_handler(kind, handler)
    _mount_page(app, store, settings)
    return app


def serve(settings: ServeSettings, *, say: Say) -> None:
    """Run the server until it is told to stop; `say` hears the address once it answers.

    Raises:
        BadRequest: the address cannot be listened on.
        ModelNotFound, BackendFailed: there is nothing to serve.
    """
    with _listen(settings.host, settings.port) as listener:
        app = create_app(settings, say=say)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=STOP_WITHIN_S, server_header=False, lifespan="on"
        )
        _Server(config, say).run(sockets=[listener])


def _mount_page(app: FastAPI, store: ModelStore[Engine], settings: ServeSettings) -> None:
    """The page at `/`, behind the routes that the app has already."""
    gradio.mount_gradio_app(
        app,
        page.build(store, settings),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        app_kwargs={"max_body_size": settings.max_body_bytes},
        max_file_size=settings.max_body_bytes,
        theme=page.theme(),
        css=page.CSS,
    )


class RequestId:
    """ASGI middleware: every answer carries `X-Request-Id`, the caller's own where it is a plain one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and mark its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        identity = given if re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII) else uuid.uuid4().hex

        scope[REQUEST_ID] = identity  # for the answer to a crash, which is made outside of this middleware

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = identity
            await send(message)

        await self._app(scope, receive, marked)


class _Server(uvicorn.Server):  # type: ignore[misc]  # pyproject skips uvicorn's types
    def __init__(self, config: uvicorn.Config, say: Say) -> None:
        super().__init__(config)
        self._say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
            self._say(
                f"rehead answers at http://{shown}:{port}   (page at /, API at /models/NAME, its description at /docs)"
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # streams of open pages are cut off now, and uvicorn would log a traceback for each
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
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


def _failure(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    one_line = " ".join(message.split()).encode("latin-1", "replace").decode("latin-1")
    clean = message.encode("utf-8", "replace").decode("utf-8")
    return JSONResponse({"error": clean}, status, headers=(headers or {}) | {"X-Error-Message": one_line[:500]})


async def _service_error(request: Request, error: Any) -> JSONResponse:
    return _failure(error.status, str(error))


async def _finetune_error(request: Request, error: Any) -> JSONResponse:
    return _failure(500, str(error))  # a served folder went bad; no caller can mend that


async def _http_error(request: Request, error: Any) -> JSONResponse:
    return _failure(error.status_code, str(error.detail), dict(error.headers or {}))


async def _invalid(request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    return _failure(400, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")


async def _crash(request: Request, error: Any) -> JSONResponse:
    identity = {"X-Request-Id": request.scope[REQUEST_ID]} if REQUEST_ID in request.scope else None
    return _failure(500, f"the server failed ({type(error).__name__}); its log says more", identity)


ERROR_HANDLERS: dict[Any, Any] = {
    ServiceError: _service_error,
    FinetuneError: _finetune_error,
    HTTPException: _http_error,
    RequestValidationError: _invalid,
    Exception: _crash,
}
