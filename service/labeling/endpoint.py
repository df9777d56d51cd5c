"""A teacher behind an OpenAI-compatible address: one request for each text, answered with one of the labels.

The key is read from the environment, and is neither recorded nor printed.
"""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from service.errors import BadRequest, ServiceError
from service.labeling.config import DistillConfig
from service.labeling.score_cache import ScoredText

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 6
"""Requests for one text before the run ends."""

LONGEST_WAIT_S = 120.0
"""Most seconds before a repeated request, whatever the endpoint asks for."""

PARALLEL = 4
CHARACTERS_PER_TOKEN = 4
SECONDS_PER_REQUEST = 1.0
"""What a request is taken to last in the estimate, before the first one was sent."""

CERTAIN = 0.9
"""Probability of the label that the endpoint names; the others share the rest."""

MAX_CHARACTERS = 8000
"""Characters of a text that are sent."""

KEY_VARIABLE = "OPENAI_API_KEY"


class EndpointFailed(ServiceError):
    """The teacher's address refused a request, or did not answer."""

    status = 502
    code = "endpoint_failed"
    exit_code = 1


@dataclass
class EndpointTeacher:
    """Chat completions at `url`/chat/completions.

    Attributes:
        sent: requests sent by this object, repeated ones included.
        unparsed: answers that were none of the labels.
    """

    config: DistillConfig
    url: str
    model: str
    key: str | None = field(repr=False)
    sleep: Callable[[float], None] = time.sleep
    base: str | None = None
    sent: int = 0
    unparsed: int = 0

    def __post_init__(self) -> None:
        import httpx

        self.name = f"{self.model} at {_without_secrets(self.url)}"
        self._labels = self.config.names
        self._prompt = prompt(self.config)
        self.identity = ["endpoint", self.url, self.model, self._prompt, self.config.multi_label]
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(120.0, connect=15.0))
        self._lock = Lock()

    def announce(self, texts: int, characters: int) -> str:
        """See `Teacher`; an estimate, since no request was sent yet."""
        tokens = (texts * len(self._prompt) + min(characters, texts * MAX_CHARACTERS)) // CHARACTERS_PER_TOKEN
        minutes = texts * SECONDS_PER_REQUEST / PARALLEL / 60
        limit = f"; --max-requests is {self.config.max_requests:,}" if self.config.max_requests else ""
        return (
            f"{self.name}: {texts:,} requests, about {tokens:,} tokens sent and {texts * 4:,} received, about "
            f"{minutes:.0f} minutes at {SECONDS_PER_REQUEST:g} s a request, {PARALLEL} at once{limit}"
        )

    def __call__(self, texts: list[str]) -> list[ScoredText]:
        """See `Teacher`.

        Raises:
            EndpointFailed: the endpoint refused, or `max_requests` is used up; answers so far are in the cache.
        """
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self._one, texts))

    def close(self) -> None:
        """See `Teacher`."""
        self._client.close()

    def _one(self, text: str) -> ScoredText:
        content = {
            "model": self.model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": self._prompt},
                {"role": "user", "content": text[:MAX_CHARACTERS]},
            ],
        }
        answer = self._answer(content)
        places = parsed(answer, self._labels, multi_label=self.config.multi_label)
        if places is None:
            with self._lock:
                self.unparsed += 1
            return ScoredText(None, float("nan"), None)
        return self._scored(places)

    def _scored(self, places: Sequence[int]) -> ScoredText:
        count = len(self._labels)
        if self.config.multi_label:
            odds = float(np.log(CERTAIN / (1 - CERTAIN)))
            return ScoredText(
                np.array([odds if place in places else -odds for place in range(count)], np.float32), np.nan, None
            )
        scores = np.full(count, (1 - CERTAIN) / (count - 1))
        scores[places[0]] = CERTAIN
        if not self.config.none_of_these:
            return ScoredText(np.log(scores).astype(np.float32), float("nan"), None)
        fit = 1 - float(scores[-1])  # of the labels themselves
        return ScoredText(np.log(scores[:-1] / scores[:-1].sum()).astype(np.float32), fit, None)

    def _answer(self, content: dict[str, Any]) -> str:
        """Return the text of the first choice, after as many attempts as it takes, `ATTEMPTS` at most."""
        import httpx

        address = f"{self.url.rstrip('/')}/chat/completions"
        reason = ""
        for attempt in range(ATTEMPTS):
            self._count_request()
            try:
                response = self._client.post(address, json=content)
            except httpx.TransportError as error:
                reason, wait = f"cannot be reached ({type(error).__name__})", None
            else:
                if response.status_code == 200:
                    return _content_of(response, self.name)
                reason, wait = (
                    f"answered {response.status_code}: {_said(response)}",
                    response.headers.get("retry-after"),
                )
                if response.status_code not in (408, 409, 425, 429) and response.status_code < 500:
                    break
            if attempt + 1 < ATTEMPTS:
                self.sleep(seconds_to_wait(wait, attempt))
        raise EndpointFailed(f"the teacher {self.name} {reason}", hint="the same command continues from the cache")

    def _count_request(self) -> None:
        with self._lock:
            limit = self.config.max_requests
            if limit is not None and self.sent >= limit:
                raise EndpointFailed(
                    f"--max-requests {limit} is used up", hint="the same command continues from the cache"
                )
            self.sent += 1


def endpoint(
    config: DistillConfig, *, url: str = "", model: str = "", key_variable: str = KEY_VARIABLE
) -> EndpointTeacher:
    """A chat model behind an OpenAI-compatible address; its key is read from the variable `key_variable`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest(f"the teacher's address {url!r} should read like https://host/v1")
    if parts.username or parts.password or parts.query:
        raise BadRequest(f"the teacher's address should hold no key: put it into the variable {key_variable}")
    if not model:
        raise BadRequest("an endpoint needs the name of its model: pass --teacher-model NAME")
    return EndpointTeacher(config, url, model, os.environ.get(key_variable))


def prompt(config: DistillConfig) -> str:
    """Return the instruction that goes before every text."""
    lines = [
        f"- {label}" + (f": {config.descriptions[label]}" if label in config.descriptions else "")
        for label in config.names
    ]
    answer = (
        "Answer with every label that applies, each on a line of its own, or with the word none."
        if config.multi_label
        else "Answer with exactly one of these labels and nothing else."
    )
    return "\n".join(["Classify the text of the user. The labels are:", *lines, answer])


def parsed(answer: str, labels: Sequence[str], *, multi_label: bool) -> list[int] | None:
    """Return the places of the labels in an answer, None where it is anything else.

    Case, blanks, and quotes, bullets or a period around a label do not matter.
    """
    places = {_plain(label): place for place, label in enumerate(labels)}
    lines = [_plain(line) for line in answer.splitlines() if line.strip()]
    if multi_label and lines == ["none"] and "none" not in places:
        return []
    if not lines or not all(line in places for line in lines) or (not multi_label and len(lines) != 1):
        return None
    return [places[line] for line in dict.fromkeys(lines)]


def seconds_to_wait(retry_after: str | None, attempt: int) -> float:
    """Return the seconds before the next attempt: what the header says (seconds or a date), else 1, 2, 4 ..."""
    seconds = 2.0**attempt
    if retry_after is not None:
        try:
            seconds = float(retry_after)
        except ValueError:
            with suppress(TypeError, ValueError):
                seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    return min(max(seconds, 0.0), LONGEST_WAIT_S) if seconds == seconds else LONGEST_WAIT_S


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" \t-*•\"'`.").casefold()


def _content_of(response: httpx.Response, name: str) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EndpointFailed(f"{name} is no OpenAI-compatible endpoint: its answer holds no message") from error
    return content if isinstance(content, str) else ""


def _said(response: httpx.Response) -> str:
    """Return what an error response says, shortened."""
    return " ".join(response.text.split())[:200] or response.reason_phrase


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
