"""What of gradio strangers may reach: the routes that the page uses, with bodies that name no address and no file but
an upload.

Knows: gradio's routes, where it keeps uploads, how it hands files on, where it prints tracebacks (gradio 6.31).
Does not know: tabs, keys (the guard does).

Mounted into another app, gradio does not check the paths of files that a client names, and fetches addresses for it:
a caller could read any file that the server can. Its own checks are switched on, and stand behind this.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import gradio.queueing
import gradio.route_utils
import gradio.routes
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequest, Forbidden, Overloaded, ServiceError, TooLarge

PREFIX = "/gradio_api/"
UPLOAD = "upload"
USED = (
    *("queue/join", "queue/data", "call/", "run/", "heartbeat/", "startup-events", "info", "openapi.json", "reset"),
    *("cancel", "app_id", "file=", "mcp", "upload_progress"),
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

FILE_KEYS = frozenset({"path", "url", "size", "orig_name", "mime_type", "is_stream", "meta"})
BLOCK = 4096
FORM_BYTES = 64_000
"""What a form has beside the file in it."""

EVENTS_WAITING, SESSIONS, EVENTS_AT_ONCE = 256, 200, 40
UPLOADS_AT_ONCE = 20
"""Uploads of the largest size for which there is room; what is older than `KEPT_S` seconds is deleted."""

KEPT_S = 3600
SWEPT_EVERY_S = 300


@cache
def _own() -> tempfile.TemporaryDirectory[str]:
    found = tempfile.TemporaryDirectory(prefix="rehead-page-", dir=os.environ.get("GRADIO_TEMP_DIR") or None)
    os.environ["GRADIO_TEMP_DIR"] = found.name  # gradio asks nothing else (gradio/utils.py, get_upload_folder)
    return found


def folder() -> Path:
    """The folder of what is uploaded and handed out: this process's own, and gone with it."""
    return Path(_own().name).resolve()


def place(content: bytes | None = None) -> Path:
    """A new folder in it for one file, where nobody else finds it: by the file's content, or by chance."""
    found = folder() / (secrets.token_hex(32) if content is None else hashlib.sha256(content).hexdigest())
    found.mkdir(exist_ok=content is not None)
    return found


def sweep() -> int:
    """Delete what is old; the bytes that are left."""
    for child in folder().iterdir():
        with suppress(OSError):  # another thread deletes, too
            if time.time() - child.stat().st_mtime <= KEPT_S:
                continue
            if child.is_dir():
                shutil.rmtree(child, ignore_errors=True)
            else:
                child.unlink()  # a part of an upload that was never completed
    return taken(folder())


def taken(place: Path) -> int:
    """Bytes in a folder; a file takes a block at least."""
    found = 0
    for file in place.rglob("*"):
        with suppress(OSError):
            found += max(BLOCK, file.stat().st_size)
    return found


def closed(page: gr.Blocks) -> gr.Blocks:
    """The page with gradio's own checks on, its queue bounded, and little kept of its callers."""
    page.queue(api_open=False, max_size=EVENTS_WAITING, default_concurrency_limit=EVENTS_AT_ONCE)
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


def check_room(taken: int, more: int, size: int) -> None:
    """Refuse files for which there is no room.

    Args:
        taken: bytes that are taken.
        more: files that come.
        size: bytes each may have.

    Raises:
        Overloaded.
    """
    if taken + more * size > UPLOADS_AT_ONCE * size:
        raise Overloaded("there is no room for more files", hint="try again in an hour", retry_after_s=KEPT_S)


async def sweeping() -> None:
    """Sweep for as long as this is awaited."""
    while True:
        await asyncio.sleep(SWEPT_EVERY_S)
        await asyncio.to_thread(sweep)


class GradioRestrictions:
    """ASGI: the app, with what of gradio is not to be reached refused.

    Args:
        max_body_bytes: of every body but an upload's.
        max_upload_bytes: of an upload; `UPLOADS_AT_ONCE` of that size have room.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_upload_bytes: int,
        refusal: Callable[[Scope, ServiceError], ASGIApp],
    ) -> None:
        self._app, self._refusal = app, refusal
        self._max_body_bytes, self._max_upload_bytes = max_body_bytes, max_upload_bytes
        self._uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or refuse it."""
        path: str = scope.get("path", "")
        try:
            if path.startswith(PREFIX):
                rest = path[len(PREFIX) :]
                if not (rest == UPLOAD or rest.startswith(USED)) or "://" in rest or rest.startswith("file=http"):
                    raise Forbidden("this route of gradio is closed here")
                if rest == UPLOAD:
                    await self._upload(scope, receive, send)
                    return
                if scope.get("method") == "POST":
                    receive = await self._checked(receive)
            elif path.startswith(REFUSED):
                raise Forbidden("this route of gradio is closed here")
        except ServiceError as error:
            await self._refusal(scope, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is too large, and any upload while those of others take all the room, also those on their way."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_upload_bytes + FORM_BYTES:
            raise TooLarge(f"the file has more than {self._max_upload_bytes} bytes, which is the limit")
        self._uploading += 1
        try:
            check_room(await asyncio.to_thread(sweep), self._uploading, self._max_upload_bytes)
            await self._app(scope, receive, send)
        finally:
            self._uploading -= 1

    async def _checked(self, receive: Receive) -> Receive:
        """The request's body again, once it is known to be small and to name no file but uploads."""
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
        _check_files(content)
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again


def _check_files(content: Any) -> None:
    """Refuse an object that gradio would take for a file, unless it is an upload as gradio's page names it.

    Raises:
        BadRequest.
    """
    left = [content]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if "path" not in one and "_type" not in one:
                left += one.values()
            elif not (set(one) <= FILE_KEYS and _is_upload(one.get("path")) and not one.get("is_stream")):
                raise BadRequest("this is no file that was uploaded here")
        elif isinstance(one, list):
            left += one


def _is_upload(path: Any) -> bool:
    """Whether it is the path of an upload: its folder is named by its content's hash, which nobody else knows."""
    if not isinstance(path, str):
        return False
    place = Path(path)
    inside = place.parent.parent == folder() and re.fullmatch(r"[0-9a-f]{64}", place.parent.name) is not None
    return inside and "\0" not in path and place.name not in ("..", ".") and place.is_file() and not place.is_symlink()
