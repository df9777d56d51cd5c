"""What of gradio strangers may reach: the routes that the page uses, with bodies that name no file and no address.

Knows: gradio's routes, how it hands files on, where it prints tracebacks (gradio 6.31).
Does not know: tabs, keys (the guard does).

Mounted into another app, gradio does not check the paths of files that a client names, and fetches addresses for it:
a caller could read any file that the server can. Nothing on this page takes a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr
import gradio.queueing
import gradio.route_utils
import gradio.routes
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequest, Forbidden, ServiceError, TooLarge

PREFIX = "/gradio_api/"
USED = (
    *("queue/join", "queue/data", "call/", "run/", "heartbeat/", "startup-events", "info", "openapi.json", "reset"),
    *("cancel", "app_id", "file=", "mcp"),
)
"""Routes under the prefix, by how they begin."""

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
"""Older addresses of gradio's routes outside the prefix, and those that nothing here needs."""

EVENTS_WAITING, SESSIONS = 256, 200


def closed(page: gr.Blocks) -> gr.Blocks:
    """The page with gradio's own checks on, its queue bounded, and little kept of its callers."""
    page.queue(max_size=EVENTS_WAITING)
    page.has_launched = True  # only then are paths of files checked (gradio/processing_utils.py)
    page.state_session_capacity = SESSIONS
    return page


def without_tracebacks(crashed: Callable[[BaseException], None]) -> None:
    """Have gradio tell us of errors, in place of printing them with whatever they quote of a caller."""
    import sys

    def told() -> None:
        error = sys.exc_info()[1]
        if error is not None:
            crashed(error)

    for module in (gradio.queueing, gradio.routes, gradio.route_utils):
        module.traceback = SimpleNamespace(print_exc=told)  # type: ignore[attr-defined]


class Gate:
    """ASGI: the app, with what of gradio is not to be reached refused."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, refusal: Callable[[Scope, ServiceError], ASGIApp]) -> None:
        self._app, self._max_body_bytes, self._refusal = app, max_body_bytes, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or refuse it."""
        path: str = scope.get("path", "")
        try:
            if path.startswith(PREFIX):
                rest = path[len(PREFIX) :]
                if not rest.startswith(USED) or "://" in rest or rest.startswith("file=http"):
                    raise Forbidden("this route of gradio is closed here")
                if scope.get("method") == "POST":
                    receive = await self._checked(receive)
            elif path.startswith(REFUSED):
                raise Forbidden("this route of gradio is closed here")
        except ServiceError as error:
            await self._refusal(scope, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _checked(self, receive: Receive) -> Receive:
        """The request's body again, once it is known to be small and to name no file."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise TooLarge(f"the body has more than {self._max_body_bytes} bytes, which is the limit")
            if not message.get("more_body", False):
                break
        try:
            content = json.loads(body) if body else None
        except (ValueError, RecursionError) as error:
            raise BadRequest("the body is not JSON") from error
        if _names_a_file(content):
            raise BadRequest("nothing on this page takes a file")
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again


def _names_a_file(content: Any) -> bool:
    """Whether there is an object that gradio would take for a file."""
    left = [content]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if "path" in one or "_type" in one:
                return True
            left += one.values()
        elif isinstance(one, list):
            left += one
    return False
