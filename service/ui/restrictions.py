"""What untrusted clients may reach of Gradio: the routes of the page, with bodies that name no file but an upload.

Mounted into another app, Gradio (6.31) does not check the paths of files that a client names, and fetches URLs for it:
a client could read any file that the server can read. Gradio's own checks are switched on as well, behind these.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import gradio as gr
import gradio.queueing
import gradio.route_utils
import gradio.routes
from gradio.state_holder import SessionState
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Forbidden, MethodNotAllowed, ServiceError, TooLarge
from service.server.admission import Admission
from service.server.request_record import RECORD, RequestRecord
from service.ui import upload_folder
from service.ui.page_calls import PageCalls, replayed, without_traceback
from service.ui.page_queue import BODY_BYTES, CLIENT, PageQueue

PREFIX = "/gradio_api/"
UPLOAD = "upload"
ALLOWED = (
    *("queue/join", "queue/data", "call/", "run/", "heartbeat/", "startup-events", "info", "openapi.json", "reset"),
    *("cancel", "app_id", "file=", "upload_progress"),
)
"""Beginnings of the allowed routes under the prefix."""

MCP_ROUTES = frozenset({"mcp", "mcp/", "mcp/http", "mcp/http/"})
"""Routes of the Model Context Protocol. Of others, Gradio (6.31) has an older transport, whose sessions nothing bounds,
and a page that quotes the path of the request in a script."""

REFUSED = (
    "/proxy=",
    "/file=",
    "/upload",
    "/stream",
    "/monitoring",
    "/vibe",
    "/deep_link",
    "/component_server",
    "/dev/",
)
"""Routes outside the prefix: older paths of Gradio, and those that this page does not need."""

FORM_BYTES = 64_000
"""Bytes of a form beside the uploaded file."""

MAX_EVENTS, MAX_SESSIONS, EVENTS_AT_ONCE = 256, 200, 40


def restrict(page: gr.Blocks) -> gr.Blocks:
    """Return the page with Gradio's own checks on, and its queue and session store bounded."""
    page.queue(api_open=False, max_size=MAX_EVENTS, default_concurrency_limit=EVENTS_AT_ONCE)
    page._queue = PageQueue(page._queue)
    _keep_no_values()
    page.has_launched = True  # only then does Gradio check paths of files (gradio/processing_utils.py)
    page.state_session_capacity = MAX_SESSIONS
    return page


def _keep_no_values() -> None:
    """Have Gradio not keep what each session entered and was shown: only deep links, which are refused, need it.

    Raises:
        RuntimeError: this release of Gradio keeps values in another way.
    """
    if not hasattr(SessionState, "_update_value_in_config"):
        raise RuntimeError(f"SessionState of gradio {gr.__version__} has no _update_value_in_config: use gradio 6.31")
    SessionState._update_value_in_config = lambda state, key, value: None


class QuietTraceback(ModuleType):
    """The `traceback` module, except that `print_exc` reports the exception in place of printing it."""

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        super().__init__("traceback")
        self._report = report

    def print_exc(self, *arguments: Any, **named: Any) -> None:
        """Report the exception that is being handled."""
        error = sys.exc_info()[1]
        if error is not None:
            self._report(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(traceback, name)


def replace_traceback_printing(report: Callable[[BaseException], None]) -> None:
    """Have Gradio report exceptions in place of printing them: a traceback quotes what a client sent.

    Raises:
        RuntimeError: this release of Gradio prints tracebacks in another way.
    """
    for module in (gradio.queueing, gradio.routes, gradio.route_utils):
        if not isinstance(getattr(module, "traceback", None), ModuleType):
            raise RuntimeError(
                f"{module.__name__} of gradio {gr.__version__} does not import traceback: use gradio 6.31"
            )
        module.traceback = QuietTraceback(report)  # type: ignore[attr-defined]


def client_of(scope: Scope) -> str:
    """Return who sent a request."""
    record: RequestRecord | None = scope.get(RECORD)
    return "-" if record is None else record.client


def _check_mcp_route(route: str, scope: Scope) -> None:
    """Refuse a request that carries no message: tools send nothing by themselves, so a GET would wait for ever.

    Raises:
        Forbidden: the route is none of `MCP_ROUTES`.
        MethodNotAllowed: the method is not POST; for a GET, clients take it to mean that there is no stream.
    """
    if route not in MCP_ROUTES:
        raise Forbidden("of the Model Context Protocol, this server has streamable HTTP only, at /gradio_api/mcp/")
    if scope.get("method") not in ("POST", "OPTIONS"):
        raise MethodNotAllowed("a client of the Model Context Protocol sends its messages here by POST", allow="POST")


class GradioRestrictions:
    """ASGI middleware; refuses the routes and bodies of Gradio that the page does not use."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        calls: PageCalls,
        refusal: Callable[[Scope, ServiceError], ASGIApp],
    ) -> None:
        self._app, self._admission, self._calls, self._refusal = app, admission, calls, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        path: str = scope.get("path", "")
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            if path.startswith(PREFIX):
                rest = path[len(PREFIX) :]
                if rest.startswith("mcp"):
                    _check_mcp_route(rest, scope)
                elif not (rest == UPLOAD or rest.startswith(ALLOWED)) or "://" in rest or rest.startswith("file=http"):
                    raise Forbidden("this route of Gradio is disabled")
                if rest == UPLOAD:
                    await self._upload(scope, receive, noted)
                    return
                if scope.get("method") == "POST":
                    await self._call(rest, scope, receive, noted)
                    return
            elif path.startswith(REFUSED):
                raise Forbidden("this route of Gradio is disabled")
        except ServiceError as error:
            if begun:
                raise  # RequestMiddleware logs it, and the connection ends
            await self._refusal(scope, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._admission.settings.max_upload_bytes
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > limit + FORM_BYTES:
            raise TooLarge(f"the file has more than {limit} bytes, which is the limit")
        async with self._admission.upload(client_of(scope), upload_folder.clean_up):
            await self._app(scope, receive, send)

    async def _call(self, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a call whose body is complete and names nothing but functions of the page and uploads."""
        client = client_of(scope)
        body = await self._admission.limits.bodies.read(scope, receive, client)
        self._calls.check(route, body)
        scope[CLIENT], scope[BODY_BYTES] = client, len(body)
        refused: list[ServiceError] = []

        async def with_sentence(message: Message) -> None:
            if not refused and (error := without_traceback(message)) is not None:
                refused.append(error)
                await self._refusal(scope, error)(scope, receive, send)
            elif not refused:
                await send(message)

        try:
            await self._app(scope, replayed(body, receive), with_sentence)
        except Exception as error:  # Starlette raises it again after its plain answer
            if not refused:
                raise
            record: RequestRecord = scope[RECORD]
            self._admission.telemetry.crash(record.request_id, error)
            record.error_code = refused[0].code
