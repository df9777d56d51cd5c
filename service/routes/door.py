"""What all dialects do alike: read a body, check what a request may hold, ask the engine, count the answers.

Knows: limits, bodies, the engine's async face.
Does not know: any wire dialect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from finetune.artifact import AttentionMode
from finetune.encoding import without_surrogates
from service.engine import Engine
from service.errors import BadRequest, Overloaded, TooLarge, WrongType
from service.guard import CALL, Call, call_of, new_identity
from service.routes.connected import while_connected
from service.schema import Answer, Function, TextInput, Work, ZeroShotQuestion
from service.settings import ServeSettings
from service.store import ModelStore
from service.telemetry import Telemetry


def _nothing(work: Work | None) -> None:
    """Counts nothing out."""


DEFAULT_PATHS = frozenset({"/", "/predict", "/v1/classify"})


class Door:
    """The way from a request to the models."""

    def __init__(self, store: ModelStore[Engine], settings: ServeSettings, telemetry: Telemetry) -> None:
        self.store, self.settings, self.telemetry = store, settings, telemetry

    async def engine(self, request: Request, name: str | None = None) -> Engine:
        """The engine of a served name, or of the default.

        Raises:
            ModelNotFound: the name is not served.
        """
        name = name if name is not None else self.store.default_name
        engine = self.store.loaded_as(name)
        if engine is None:
            engine = await run_in_threadpool(self.store.get, name)
        call_of(request).model = name
        return engine

    def enter(self, scope: Scope) -> Callable[[Work | None], None]:
        """Count a request in by its address alone, and give what counts it out.

        Raises:
            Overloaded: its model is too busy.
        """
        path = scope["path"]
        if scope.get("method") != "POST" or not (path.startswith("/models/") or path in DEFAULT_PATHS):
            return _nothing
        name = path[len("/models/") :] if path.startswith("/models/") else self.store.default_name
        engine = self.store.loaded_as(name)
        if engine is None:
            return _nothing
        try:
            engine.enter(self.settings.queue_seconds, self.settings.max_concurrent)
        except Overloaded:
            scope[CALL] = Call(new_identity(), model=name)
            raise
        return engine.leave

    async def body(self, request: Request) -> Any:
        """The JSON of a request.

        Raises:
            WrongType: it is not said to be JSON, which a page of somebody else's could send unasked.
            TooLarge, BadRequest.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise WrongType(
                f"the body is said to be {kind[:60] or 'nothing in particular'}",
                hint="send JSON with the header Content-Type: application/json",
            )
        raw = await self._raw(request)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON ({error})") from error

    def inputs(self, given: Sequence[Any]) -> list[TextInput]:
        """Texts and pairs of a request, lone surrogates replaced.

        Raises:
            BadRequest, TooLarge.
        """
        if not given:
            raise BadRequest("inputs is an empty list: send at least one text")
        if len(given) > self.settings.max_texts:
            raise TooLarge(f"inputs holds {len(given)} texts, and a request may hold {self.settings.max_texts}")
        found = []
        for number, item in enumerate(map(TextInput.of, given), 1):
            for text in (item.text, item.pair or ""):
                if len(text) > self.settings.max_characters:
                    raise TooLarge(
                        f"text {number} has {len(text)} characters, and a text may have {self.settings.max_characters}"
                    )
            pair = None if item.pair is None else without_surrogates(item.pair)
            found.append(TextInput(without_surrogates(item.text), pair))
        return found

    def labels(self, given: Sequence[str]) -> tuple[str, ...]:
        """Labels of a caller's own, lone surrogates replaced.

        Raises:
            TooLarge.
        """
        if len(given) > self.settings.max_labels:
            raise TooLarge(
                f"there are {len(given)} candidate_labels, and a request may hold {self.settings.max_labels}"
            )
        return tuple(map(without_surrogates, given))

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
        asked = engine.aclassify(inputs, function=function, attention=attention, work=work)
        answers = await self._within(request, asked)
        self.telemetry.answers(call_of(request).model, answers, own_labels=engine.folder.labels.names)
        return answers

    async def zero_shot(
        self, request: Request, engine: Engine, texts: list[str], question: ZeroShotQuestion | list[ZeroShotQuestion]
    ) -> list[Answer]:
        """Scores of a caller's labels."""
        answers = await self._within(request, engine.azero_shot(texts, question, work=self._work(request)))
        self.telemetry.answers(call_of(request).model, answers, own_labels=None)
        return answers

    def _work(self, request: Request) -> Work:
        work = Work(self.settings.max_tokens, self.settings.queue_seconds)
        call_of(request).work = work
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
