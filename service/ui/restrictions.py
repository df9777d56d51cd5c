"""What untrusted clients may reach of Gradio: the routes of the page, with bodies that name no file but an upload.

Mounted into another app, Gradio (6.31) does not check the paths of files that a client names, and fetches URLs for it:
a client could read any file that the server can read. Gradio's own checks are switched on as well, behind these.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import gradio.queueing
import gradio.route_utils
import gradio.routes
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequest, BodyTooLarge, Forbidden, ServiceError, TooLarge
from service.server.admission import UPLOAD_LIFETIME_S, Admission

PREFIX = "/gradio_api/"
UPLOAD = "upload"
ALLOWED = (
    *("queue/join", "queue/data", "call/", "run/", "heartbeat/", "startup-events", "info", "openapi.json", "reset"),
    *("cancel", "app_id", "file=", "mcp", "upload_progress"),
)
"""Beginnings of the allowed routes under the prefix."""

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

FILE_KEYS = frozenset({"path", "url", "size", "orig_name", "mime_type", "is_stream", "meta"})
BLOCK_BYTES = 4096
FORM_BYTES = 64_000
"""Bytes of a form beside the uploaded file."""

MAX_EVENTS, MAX_SESSIONS, EVENTS_AT_ONCE = 256, 200, 40
CLEANUP_INTERVAL_S = 300


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    created = tempfile.TemporaryDirectory(prefix="rehead-page-", dir=os.environ.get("GRADIO_TEMP_DIR") or None)
    os.environ["GRADIO_TEMP_DIR"] = created.name  # Gradio has no other option (gradio/utils.py, get_upload_folder)
    return created


def delete_folder() -> None:
    """Delete the folder of uploads and downloads; the next call of `folder` makes another."""
    _folder().cleanup()
    _folder.cache_clear()


def folder() -> Path:
    """Return the folder of uploads and downloads, which is this process's own and deleted with it."""
    return Path(_folder().name).resolve()


def new_folder(content: bytes | None = None) -> Path:
    """Return a folder in it for one file, with an unguessable name: the hash of the content, or a random one."""
    path = folder() / (secrets.token_hex(32) if content is None else hashlib.sha256(content).hexdigest())
    path.mkdir(exist_ok=content is not None)
    return path


def clean_up() -> int:
    """Delete expired files and return the bytes that are left."""
    for child in folder().iterdir():
        with suppress(OSError):  # another thread may delete it first
            if time.time() - child.stat().st_mtime <= UPLOAD_LIFETIME_S:
                continue
            if child.is_dir():
                shutil.rmtree(child, ignore_errors=True)
            else:
                child.unlink()  # a part of an upload that was never completed
    return used_bytes(folder())


def used_bytes(path: Path) -> int:
    """Return the bytes that a folder uses; a file uses one block at least."""
    size = 0
    for file in path.rglob("*"):
        with suppress(OSError):
            size += max(BLOCK_BYTES, file.stat().st_size)
    return size


async def delete_old_files() -> None:
    """Delete expired files until cancelled."""
    while True:
        await asyncio.sleep(CLEANUP_INTERVAL_S)
        await asyncio.to_thread(clean_up)


def restrict(page: gr.Blocks) -> gr.Blocks:
    """Return the page with Gradio's own checks on, and its queue and session store bounded."""
    page.queue(api_open=False, max_size=MAX_EVENTS, default_concurrency_limit=EVENTS_AT_ONCE)
    page.has_launched = True  # only then does Gradio check paths of files (gradio/processing_utils.py)
    page.state_session_capacity = MAX_SESSIONS
    return page


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


class GradioRestrictions:
    """ASGI middleware; refuses the routes and bodies of Gradio that the page does not use."""

    def __init__(
        self, app: ASGIApp, *, admission: Admission, refusal: Callable[[Scope, ServiceError], ASGIApp]
    ) -> None:
        self._app, self._admission, self._refusal = app, admission, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        path: str = scope.get("path", "")
        try:
            if path.startswith(PREFIX):
                rest = path[len(PREFIX) :]
                if not (rest == UPLOAD or rest.startswith(ALLOWED)) or "://" in rest or rest.startswith("file=http"):
                    raise Forbidden("this route of Gradio is disabled")
                if rest == UPLOAD:
                    await self._upload(scope, receive, send)
                    return
                if scope.get("method") == "POST":
                    receive = await self._checked(receive)
            elif path.startswith(REFUSED):
                raise Forbidden("this route of Gradio is disabled")
        except ServiceError as error:
            await self._refusal(scope, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._admission.settings.max_upload_bytes
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > limit + FORM_BYTES:
            raise TooLarge(f"the file has more than {limit} bytes, which is the limit")
        async with self._admission.upload(clean_up):
            await self._app(scope, receive, send)

    async def _checked(self, receive: Receive) -> Receive:
        """Read the body, check its size and the files it names, and return a `receive` that replays it."""
        body, limit = b"", self._admission.settings.max_body_bytes
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            if len(body) > limit:
                raise BodyTooLarge(f"the request body has more than {limit} bytes, which is the limit")
            if not message.get("more_body", False):
                break
        try:
            content = json.loads(body) if body else None
        except (ValueError, RecursionError) as error:
            raise BadRequest("the request body is not JSON") from error
        _check_files(content)
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay


def _check_files(content: Any) -> None:
    """Raise BadRequest for an object that Gradio would take for a file, unless it is an upload as its page names it."""
    stack = [content]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if "path" not in item and "_type" not in item:
                stack += item.values()
            elif not (set(item) <= FILE_KEYS and _is_upload(item.get("path")) and not item.get("is_stream")):
                raise BadRequest("the file is not an upload to this server: upload it first")
        elif isinstance(item, list):
            stack += item


def _is_upload(path: Any) -> bool:
    """Return whether it is the path of an upload; its folder's name, a hash of its content, cannot be guessed."""
    if not isinstance(path, str):
        return False
    file = Path(path)
    inside = file.parent.parent == folder() and re.fullmatch(r"[0-9a-f]{64}", file.parent.name) is not None
    return inside and "\0" not in path and file.name not in ("..", ".") and file.is_file() and not file.is_symlink()
