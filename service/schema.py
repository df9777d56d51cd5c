"""Requests and answers: the same objects behind HTTP, the web UI, the command line and Python."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from finetune.core.language import other_language
from finetune.core.model_folder import AttentionMode, Scorer
from service.errors import BadRequest, TooLarge

Function = Literal["default", "softmax", "sigmoid", "none"]
FUNCTIONS: tuple[Function, ...] = get_args(Function)
"""Functions that can be applied to logits; `default` is the activation of the model's task."""

SCORERS: tuple[Scorer, ...] = get_args(Scorer)
ATTENTION_MODES: tuple[AttentionMode, ...] = get_args(AttentionMode)

LANGUAGES_READ = 16


@dataclass(frozen=True, slots=True)
class TextInput:
    """One text to classify, or a pair of texts."""

    text: str
    pair: str | None = None

    @classmethod
    def of(cls, value: Any) -> TextInput:
        """Return the input in a string, or in a mapping with `text` and optionally `text_pair`.

        Raises:
            BadRequest: the value is neither.
        """
        if isinstance(value, str):
            return cls(value)
        accepted = 'a text must be a string, or {"text": ..., "text_pair": ...}'
        if not isinstance(value, Mapping):
            raise BadRequest(f"{accepted}, not {type(value).__name__}")
        unknown = sorted(str(key) for key in value if key not in ("text", "text_pair"))
        if unknown:
            raise BadRequest(f"unknown key {unknown[0]!r} in a text: {accepted}")
        text, pair = value.get("text"), value.get("text_pair")
        if not isinstance(text, str) or not (pair is None or isinstance(pair, str)):
            raise BadRequest(accepted)
        return cls(text, pair)


@dataclass(frozen=True, slots=True)
class ZeroShotRequest:
    """Candidate labels and how to score them. None stands for what the model's folder records."""

    labels: tuple[str, ...]
    multi_label: bool = False
    hypothesis_template: str | None = None
    scorer: Scorer | None = None
    attention: AttentionMode | None = None
    shortlist: int | None = None
    """Run the model on this number of labels only, those nearest to the text by embedding; the others score 0."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A label and its score: a probability, or the value itself for regression."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Labels of one text and their scores, in the order of the model or the request.

    Attributes:
        truncated: whether the text is longer than the model reads.
        language: ISO 639-1 code of the text's language if the model was not trained for it, else None.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    truncated: bool
    language: str | None = None

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """Every label with its score, best first."""
        order = sorted(range(len(self.scores)), key=lambda place: -self.scores[place])
        return tuple(Prediction(self.labels[place], self.scores[place]) for place in order)

    @property
    def remarks(self) -> dict[str, Any]:
        """`truncated` and `language` where they say something, as an answer in JSON has them."""
        language = {} if self.language is None else {"language": self.language}
        return ({"truncated": True} if self.truncated else {}) | language

    @property
    def best(self) -> Prediction:
        """The label with the highest score."""
        place = max(range(len(self.scores)), key=self.scores.__getitem__)
        return Prediction(self.labels[place], self.scores[place])


def with_languages(answers: Sequence[Answer], texts: Iterable[str], known: Collection[str]) -> list[Answer]:
    """Return the answers with the language of each text that is surely in none of the `known` ones.

    Of many texts the first `LANGUAGES_READ` are read, so that this costs no call much time.
    """
    read = list(answers[:LANGUAGES_READ])
    found = [other_language(text, known) for text, _ in zip(texts, read, strict=False)]
    marked = [replace(answer, language=name) if name else answer for answer, name in zip(read, found, strict=True)]
    return [*marked, *answers[LANGUAGES_READ:]]


@dataclass(slots=True, eq=False)
class Work:
    """Limits of a call, and its cost, which is recorded while it is computed.

    max_tokens: maximum tokens of its texts and labels together; None for no limit.
    queue_timeout_s: maximum seconds in the queue; None for no limit.
    admitted: whether the queue has accepted its first rows; its later ones are then accepted too.
    tokens: tokens so far.
    tokenizing_s, waiting_s, computing_s: seconds; `waiting_s` of the row that was queued longest, `computing_s` of all
        batches with a row of the call.
    """

    max_tokens: int | None = None
    queue_timeout_s: float | None = None
    admitted: bool = False
    tokens: int = 0
    tokenizing_s: float = 0.0
    waiting_s: float = 0.0
    computing_s: float = 0.0

    @contextmanager
    def tokenizing(self) -> Iterator[None]:
        """Add the seconds that this lasts to `tokenizing_s`."""
        begin = time.perf_counter()
        yield
        self.tokenizing_s += time.perf_counter() - begin

    def take(self, tokens: int) -> None:
        """Count tokens before they are queued.

        Raises:
            TooLarge: the call exceeds `max_tokens`.
        """
        if self.max_tokens is not None and self.tokens + tokens > self.max_tokens:
            raise TooLarge(
                f"the texts and labels of this request have {self.tokens + tokens} tokens or more, and the limit is "
                f"{self.max_tokens}",
                hint="send fewer or shorter texts, or fewer labels, at once",
            )
        self.tokens += tokens


def one_of(field: str, value: Any, accepted: Collection[Any]) -> Any:
    """Return the value if it is accepted.

    Raises:
        BadRequest: it is not; the message names the field and the accepted values.
    """
    if value not in accepted:
        raise BadRequest(f"{field} {value!r} is unknown: use one of {', '.join(accepted)}")
    return value


def free_names(fresh: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Return the name of each new column beside the columns `taken`: its own, or with `predicted_` before it."""
    names: dict[str, str] = {}
    for column in fresh:
        name = column
        while name in taken or name in names.values():
            name = f"predicted_{name}"
        names[column] = name
    return names
