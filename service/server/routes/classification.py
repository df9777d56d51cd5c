"""What all dialects do alike: read a body, find the model, ask it for as long as the caller waits.

Knows: bodies, callers who leave, which model an address means.
Does not know: any wire dialect, limits (the desk does).
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from finetune.core.model_folder import AttentionMode
from service.errors import BadRequest, RequestTimeout, TooLarge, UnsupportedMediaType
from service.inference.engine import Engine
from service.schema import Answer, Function, TextInput, Work, ZeroShotRequest
from service.server.desk import Desk
from service.server.guard import Call, call_of
from service.server.routes.client_connection import while_connected

DEFAULT_PATHS = frozenset({"/", "/predict"})
BODY_S = 5.0
"""Seconds that a body may take to arrive: its request is counted in meanwhile."""


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


class RequestRunner:
    """The way from a request to the models."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.store, self.settings = desk, desk.store, desk.settings
        self.inputs, self.labels = desk.inputs, desk.labels

    async def engine(self, request: Request, name: str | None = None) -> Engine:
        """The engine of a served name, or of the default, with the call counted in there.

        Raises:
            ModelNotFound: the name is not served.
            Overloaded: it would wait longer than a request may.
        """
        name = name if name is not None else self.store.default_name
        engine = self.store.loaded_as(name)
        if engine is None:
            engine = await run_in_threadpool(self.store.get, name)
        call = call_of(request)
        call.model = name
        self._count_in(call, engine)
        return engine

    def enter(self, scope: Scope, call: Call) -> None:
        """Count a request in by its address alone.

        Raises:
            Overloaded: its model is too busy.
        """
        path = scope.get("path", "")
        if scope.get("method") != "POST" or not (path.startswith("/models/") or path in DEFAULT_PATHS):
            return
        name = path[len("/models/") :] if path.startswith("/models/") else self.store.default_name
        engine = self.store.loaded_as(name)
        if engine is not None:
            call.model = name
            self._count_in(call, engine)

    def _count_in(self, call: Call, engine: Engine) -> None:
        if call.engine is engine:
            return
        if call.engine is not None:
            call.engine.leave(None)
            call.engine = None
        engine.enter(self.settings.queue_seconds, self.settings.max_concurrent)
        call.engine = engine

    async def body(self, request: Request) -> Any:
        """The JSON of a request.

        Raises:
            UnsupportedMediaType: it is not said to be JSON, which a page of somebody else's could send unasked.
            TooLarge, BadRequest.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise UnsupportedMediaType(
                f"the body is said to be {kind[:60] or 'nothing in particular'}",
                hint="send JSON with the header Content-Type: application/json",
            )
        try:
            async with asyncio.timeout(BODY_S):
                raw = await self._raw(request)
        except TimeoutError as error:
            raise RequestTimeout(f"the body did not arrive within {BODY_S:g} s") from error
        try:
            content = json.loads(raw, parse_constant=_refused, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON ({error})") from error
        self._check_size(content)
        return content

    def _check_size(self, content: Any) -> None:
        """Lists and objects no longer than any that is of use: what describes each element that is wrong costs more."""
        most = max(self.settings.max_texts, self.settings.max_labels) + 1
        left = [content]
        while left:
            one = left.pop()
            if isinstance(one, dict | list):
                if len(one) > most:
                    kind = "list" if isinstance(one, list) else "object"
                    raise TooLarge(f"the body holds a {kind} of {len(one)}, and {most - 1} are the most")
                left += one.values() if isinstance(one, dict) else one

    async def classify(
        self,
        request: Request,
        engine: Engine,
        inputs: list[TextInput],
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
    ) -> list[Answer]:
        """Scores of the model's own labels."""
        work = self._work(request)
        asked = self.desk.classify(engine, inputs, work, function=function, attention=attention)
        return await self._within(request, asked)

    async def zero_shot(
        self, request: Request, engine: Engine, texts: list[str], question: ZeroShotRequest | list[ZeroShotRequest]
    ) -> list[Answer]:
        """Scores of a caller's labels."""
        return await self._within(request, self.desk.zero_shot(engine, texts, question, self._work(request)))

    def _work(self, request: Request) -> Work:
        work = call_of(request).work = self.desk.work()
        return work

    async def _within(self, request: Request, asked: Coroutine[Any, Any, list[Answer]]) -> list[Answer]:
        return await while_connected(request, asked, within_s=self.settings.request_seconds)

    async def _raw(self, request: Request) -> bytes:
        limit = self.settings.max_body_bytes
        too_large = TooLarge(f"the body has more than {limit} bytes, which is the limit")
        said = request.headers.get("content-length", "")
        if said.isdecimal() and int(said) > limit:
            raise too_large
        parts, size = [], 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
        except ClientDisconnect as error:
            raise BadRequest("the client left before its request was complete") from error
        return b"".join(parts)
