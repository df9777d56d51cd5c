"""The bodies of the page's calls: Gradio (6.31) checks little of them, and answers 500 without a sentence."""

from __future__ import annotations

import json
import re
from typing import Any

import gradio as gr
from starlette.types import Message, Receive

from service.errors import BadRequest, ServiceError, TooLarge
from service.ui.upload_folder import is_upload

FILE_KEYS = frozenset({"path", "url", "size", "orig_name", "mime_type", "is_stream", "meta"})
MAX_VALUES = 20_000
"""Values of one body: a value of two bytes takes up to a hundred in memory."""

CALLS = ("call/", "run/", "queue/join")
MCP = "mcp"
MCP_CALLS = re.compile(
    r"initialize|ping|notifications/.*|logging/setLevel|tools/(list|call)|(resources|resources/templates|prompts)/list"
)
"""Methods of the Model Context Protocol that are answered: for others Gradio (6.31) sends requests to a URL that it
makes of the first client's Host header."""

SESSION = r"[\w-]{1,64}"


class PageCalls:
    """The functions of the page, by number and by name."""

    def __init__(self, blocks: gr.Blocks) -> None:
        self._inputs = {
            number: (len(function.inputs), sum(not block.skip_api for block in function.inputs))
            for number, function in blocks.fns.items()
        }
        self._unqueued = {number for number, function in blocks.fns.items() if function.queue is False}
        self._numbers: dict[str, int] = {str(function.api_name): number for number, function in blocks.fns.items()}

    def check(self, route: str, body: bytes) -> None:
        """Check the body of a POST to a route of Gradio, such as `queue/join`.

        Raises:
            BadRequest: it is no JSON, no call of a function that there is, or names a file that is no upload.
            TooLarge: it holds more than `MAX_VALUES` values.
        """
        try:
            content = json.loads(body) if body else None
        except (ValueError, RecursionError) as error:
            raise BadRequest("the request body is not JSON") from error
        _check_values(content)
        if route == MCP or route.startswith(f"{MCP}/"):
            for message in content if isinstance(content, list) else [content]:
                _check_mcp(message)
        if route.startswith(CALLS):
            if not isinstance(content, dict):
                raise BadRequest("the request body is not an object")
            if not route.startswith("call/v2/"):
                self._check_call(route.rstrip("/"), content)
            else:
                self._number(route.rstrip("/").removeprefix("call/v2/"))

    def _check_call(self, route: str, content: dict[str, Any]) -> None:
        session, data = content.get("session_hash"), content.get("data")
        if not (session is None or (isinstance(session, str) and re.fullmatch(SESSION, session, re.ASCII))):
            raise BadRequest("session_hash consists of up to 64 letters, digits, - and _")
        if route == "queue/join" or content.get("fn_index") is not None:
            number = content.get("fn_index")
        else:
            number = self._number(route.partition("/")[2])
        if type(number) is not int or number not in self._inputs:
            raise BadRequest("fn_index is not the number of a function of this page: reload it")
        if route.startswith("run/") and number not in self._unqueued:
            return  # Gradio refuses it: calls have to be queued
        if not isinstance(data, list) or len(data) not in self._inputs[number]:
            raise BadRequest(f"data is not a list of the {self._inputs[number][-1]} arguments of this function")

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            raise BadRequest(f"there is no function {name[:40]!r} on this page")
        return self._numbers[name]


def _check_mcp(message: Any) -> None:
    """Refuse what is no message of the Model Context Protocol, or calls a method that is not answered."""
    if not isinstance(message, dict):
        raise BadRequest("a message of the Model Context Protocol is a JSON object")
    method = message.get("method")
    if method is not None and not (isinstance(method, str) and MCP_CALLS.fullmatch(method)):
        raise BadRequest("this method of the Model Context Protocol is not offered: this server has tools only")


def _check_values(content: Any) -> None:
    """Refuse too many values, and an object that Gradio would take for a file, unless it is an upload of its page."""
    stack, values = [content], 0
    while stack:
        item = stack.pop()
        if not isinstance(item, dict | list):
            continue
        values += len(item)
        if values > MAX_VALUES:
            raise TooLarge(f"the request body holds more than {MAX_VALUES} values, which is the limit")
        if isinstance(item, list):
            stack += item
        elif "path" not in item and "_type" not in item:
            stack += item.values()
        elif not (set(item) <= FILE_KEYS and is_upload(item.get("path")) and not item.get("is_stream")):
            raise BadRequest("the file is not an upload to this server: upload it first")


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that returns a body, then what follows."""
    done = False

    async def replay() -> Message:
        nonlocal done
        if done:
            return await receive()
        done = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def without_traceback(message: Message) -> ServiceError | None:
    """Return the error to answer in place of Gradio's plain `Internal Server Error`, None for any other answer."""
    if message["type"] != "http.response.start" or message["status"] != 500:
        return None
    kind = dict(message.get("headers", [])).get(b"content-type", b"")
    return None if kind.startswith(b"application/json") else BadRequest("the arguments do not fit this function")
