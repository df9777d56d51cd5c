"""Size limits of one request: bytes, JSON elements, texts, characters, labels, tokens. Nothing here counts requests."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from fastapi import Request

from finetune.core.tokenization import without_surrogates
from service.errors import BadRequest, EmptyInput, TooLarge, UnsupportedMediaType
from service.inference.label_parsing import Labels, labels_of
from service.schema import TextInput, Work
from service.server.bodies import Bodies
from service.server.request_record import RECORD
from service.settings import ServeSettings


class RequestLimits:
    """The limits of a server's settings; each method returns what it checked.

    Attributes:
        bodies: reads the bodies of requests.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self.bodies = Bodies(settings.max_body_bytes)

    async def json(self, request: Request) -> Any:
        """Return the parsed JSON body of a request.

        Raises:
            UnsupportedMediaType: the content type is not JSON, which a foreign web page cannot send without a CORS
                preflight.
            BodyTooLarge, TooLarge: more bytes, or a longer list or object, than a request may hold.
            BadRequest: the body is not JSON.
            RequestTimeout, Overloaded: the body did not arrive in time, or too many are arriving.
        """
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise UnsupportedMediaType(
                f"unsupported content type {content_type[:60]!r}",
                hint="send JSON with the header Content-Type: application/json",
            )
        record = request.scope.get(RECORD)
        raw = await self.bodies.read(request.scope, request.receive, "-" if record is None else record.client)
        try:
            content = json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the request body is not JSON ({error})") from error
        self._check_lengths(content)
        return content

    def inputs(self, items: Sequence[Any], *, any_length: bool = False) -> list[TextInput]:
        """Return texts and pairs, lone surrogates replaced.

        Args:
            any_length: accept texts of any length: the client asked to truncate them. The tokenizer then reads no more
                of them than of others.

        Raises:
            EmptyInput, BadRequest: there is none, or an item is not a text.
            TooLarge: too many, or one that is too long; before anything is tokenized.
        """
        if not items:
            raise EmptyInput("inputs is an empty list: send at least one text")
        if len(items) > self._settings.max_texts:
            raise TooLarge(f"inputs holds {len(items)} texts, and a request may hold {self._settings.max_texts}")
        inputs = []
        for number, item in enumerate(map(TextInput.of, items), 1):
            for text in (item.text, item.pair or ""):
                if len(text) > self._settings.max_characters and not any_length:
                    limit = self._settings.max_characters
                    raise TooLarge(f"text {number} has {len(text)} characters, and a text may have {limit}")
            pair = None if item.pair is None else without_surrogates(item.pair)
            inputs.append(TextInput(without_surrogates(item.text), pair))
        return inputs

    def labels(self, labels: Any) -> tuple[str, ...]:
        """Return the names of candidate labels without descriptions; raise as `described_labels` does."""
        return self.described_labels(labels).names

    def described_labels(self, labels: Any) -> Labels:
        """Return candidate labels, as `labels_of` reads them, lone surrogates replaced.

        Raises:
            BadRequest: there is none, or one is not a label.
            TooLarge: too many, counting descriptions, phrasings and examples, or one that is too long; before anything
                else is done with them.
        """
        is_list = isinstance(labels, list | tuple | dict)
        self.check_label_count(labels.count(",") + 1 if isinstance(labels, str) else len(labels) if is_list else 1)
        parsed = labels_of(labels)
        self.check_label_count(len(parsed.names) + len(parsed.words))
        for word in (*parsed.names, *parsed.words):
            if len(word) > self._settings.max_characters:
                limit = self._settings.max_characters
                raise TooLarge(f"a label has {len(word)} characters, and a label may have {limit}")
        return parsed.map(without_surrogates)

    def check_label_count(self, count: int) -> None:
        """Raise TooLarge for more labels than a request may hold in all its questions."""
        if count > self._settings.max_labels:
            raise TooLarge(f"there are {count} candidate_labels, and a request may hold {self._settings.max_labels}")

    def work(self) -> Work:
        """Return the budget of one request: tokens, and seconds in the queue."""
        return Work(self._settings.max_tokens, self._settings.queue_seconds)

    def _check_lengths(self, content: Any) -> None:
        """Refuse lists and objects longer than any useful one: validating each wrong element would cost minutes."""
        limit = max(self._settings.max_texts, self._settings.max_labels) + 1
        stack = [content]
        while stack:
            item = stack.pop()
            if isinstance(item, dict | list):
                if len(item) > limit:
                    kind = "a list" if isinstance(item, list) else "an object"
                    raise TooLarge(f"the request body holds {kind} of {len(item)} items, and the limit is {limit - 1}")
                stack += item.values() if isinstance(item, dict) else item


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value
