"""Requests and answers: the same objects behind HTTP, the page, the command line and Python.

Knows: what a text to classify, a zero-shot question and an answer consist of.
Does not know: how an answer is computed, or how any door spells it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from finetune.core.model_folder import AttentionMode, Scorer
from service.errors import BadRequest, TooLarge

Function = Literal["default", "softmax", "sigmoid", "none"]
FUNCTIONS: tuple[Function, ...] = get_args(Function)
"""What may be applied to logits; `default` is what the model's task wants."""

SCORERS: tuple[Scorer, ...] = get_args(Scorer)
ATTENTION_MODES: tuple[AttentionMode, ...] = get_args(AttentionMode)


@dataclass(frozen=True, slots=True)
class TextInput:
    """One text to classify, or a pair of texts."""

    text: str
    pair: str | None = None

    @classmethod
    def of(cls, value: Any) -> TextInput:
        """What a caller gave: a string, or a mapping with `text` and perhaps `text_pair`.

        Raises:
            BadRequest: it is neither.
        """
        if isinstance(value, str):
            return cls(value)
        accepted = 'a text is a string, or {"text": ..., "text_pair": ...}'
        if not isinstance(value, Mapping):
            raise BadRequest(f"{accepted}, and this is {type(value).__name__}")
        unknown = sorted(str(key) for key in value if key not in ("text", "text_pair"))
        if unknown:
            raise BadRequest(f"unknown key {unknown[0]!r} in a text: {accepted}")
        text, pair = value.get("text"), value.get("text_pair")
        if not isinstance(text, str) or not (pair is None or isinstance(pair, str)):
            raise BadRequest(accepted)
        return cls(text, pair)


@dataclass(frozen=True, slots=True)
class ZeroShotRequest:
    """Which labels to weigh, and how. None means: as the model's folder records it."""

    labels: tuple[str, ...]
    multi_label: bool = False
    hypothesis_template: str | None = None
    scorer: Scorer | None = None
    attention: AttentionMode | None = None
    shortlist: int | None = None
    """Give the full weight to so many labels, those whose embedding is nearest to the text's; the others score 0."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A label and its score: a probability, or the value itself for regression."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Labels of one text and their scores, in the order of the model or the question; `truncated` when the model could
    not read the whole text."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    truncated: bool

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """Every label with its score, best first."""
        order = sorted(range(len(self.scores)), key=lambda place: -self.scores[place])
        return tuple(Prediction(self.labels[place], self.scores[place]) for place in order)

    @property
    def best(self) -> Prediction:
        """The label with the highest score."""
        place = max(range(len(self.scores)), key=self.scores.__getitem__)
        return Prediction(self.labels[place], self.scores[place])


@dataclass(slots=True, eq=False)
class Work:
    """What a call may take, and what it took: filled in while it is answered.

    max_tokens: tokens that its texts and labels may have together; None for any number.
    patience_s: seconds that it may wait in the queue; None for any time.
    tokens: what they have.
    tokenizing_s, waiting_s, computing_s: seconds; waiting is that of the item that waited longest, and computing that
        of the batches it shared.
    """

    max_tokens: int | None = None
    patience_s: float | None = None
    tokens: int = 0
    tokenizing_s: float = 0.0
    waiting_s: float = 0.0
    computing_s: float = 0.0

    @contextmanager
    def tokenizing(self) -> Iterator[None]:
        """Count the seconds of this."""
        begin = time.perf_counter()
        yield
        self.tokenizing_s += time.perf_counter() - begin

    def take(self, tokens: int) -> None:
        """Count tokens that are about to be computed.

        Raises:
            TooLarge: they are more than the call may take.
        """
        if self.max_tokens is not None and self.tokens + tokens > self.max_tokens:
            raise TooLarge(
                f"the texts and labels of this request have {self.tokens + tokens} tokens or more, and a request may "
                f"have {self.max_tokens}",
                hint="send fewer or shorter texts, or fewer labels, at once",
            )
        self.tokens += tokens


def one_of(field: str, value: Any, accepted: Collection[Any]) -> Any:
    """The value, where it is one of those accepted.

    Raises:
        BadRequest: it is not; names the field and what is accepted.
    """
    if value not in accepted:
        raise BadRequest(f"{field} {value!r} is unknown: use one of {', '.join(accepted)}")
    return value


def free_names(fresh: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """New column -> the name it gets beside the columns `taken`: its own, or with `predicted_` before it."""
    names: dict[str, str] = {}
    for column in fresh:
        name = column
        while name in taken or name in names.values():
            name = f"predicted_{name}"
        names[column] = name
    return names
