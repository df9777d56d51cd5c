"""Requests and answers: the same objects behind HTTP, the web UI, the command line and Python."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

from finetune.core.language import other_language
from finetune.core.model_folder import AttentionMode, ModelFolder, Scorer
from finetune.core.scores import Floats
from finetune.core.windows import Window, window_of
from service.errors import BadRequest, TooLarge

Function = Literal["default", "softmax", "sigmoid", "none"]
FUNCTIONS: tuple[Function, ...] = get_args(Function)
"""Functions that can be applied to logits; `default` is the activation of the model's task."""

SCORERS: tuple[Scorer, ...] = get_args(Scorer)
ATTENTION_MODES: tuple[AttentionMode, ...] = get_args(AttentionMode)

LANGUAGES_READ = 16

DEFAULT_BEAM = 3

NONE_OF_THESE = "none of these"
"""An empty prediction set, in words."""

NO_SETS = (
    "this model has no prediction sets: train it with --set coverage=0.9, or fit them with rehead calibrate "
    "MODEL FILE --coverage 0.9 -o OUT"
)


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


class ScoreProfile(Protocol):
    """What a request needs of a profile (service/inference/profile.py)."""

    def applied(self, request: ZeroShotRequest, folder: ModelFolder) -> ZeroShotRequest:
        """Return the request for this profile; raise `BadRequest` where they do not fit."""

    def scores(self, scores: Floats, labels: tuple[str, ...]) -> Floats:
        """Return scores `[N, L]` with the profile."""

    def to_json(self) -> dict[str, Any]:
        """Return its content."""


@dataclass(frozen=True, slots=True)
class LabelText:
    """What describes a label beside its name: a sentence or phrase, other phrasings of it, and example texts."""

    description: str = ""
    phrasings: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


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
    profile: ScoreProfile | None = None
    """What is known of these labels with this model."""
    texts: tuple[tuple[str, LabelText], ...] = ()
    """The labels that are described, by name or by path in a tree."""
    keep_identifiers: bool = False
    """Read labels such as `book_flight` as they are, instead of as words."""
    beam: int = DEFAULT_BEAM
    """Labels of each level of a tree whose labels below are scored; the others score 0. 0: labels are no tree."""
    window: Window | None = None


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
        decided: place of the predicted label where a threshold decides between two labels; else None.
        members: places of the labels in the prediction set; None where the model has none.
        window: characters of the window that decided, first and after the last, where texts are read in windows.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    truncated: bool
    language: str | None = None
    decided: int | None = None
    members: tuple[int, ...] | None = None
    window: tuple[int, int] | None = None

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """Every label with its score, the predicted one first, then by score."""
        order = sorted(range(len(self.scores)), key=lambda place: (place != self.decided, -self.scores[place]))
        return tuple(Prediction(self.labels[place], self.scores[place]) for place in order)

    @property
    def remarks(self) -> dict[str, Any]:
        """`truncated`, `language` and `window` where they say something, as an answer in JSON has them."""
        language = {} if self.language is None else {"language": self.language}
        window = {} if self.window is None else {"window": {"start": self.window[0], "end": self.window[1]}}
        return ({"truncated": True} if self.truncated else {}) | language | window

    @property
    def best(self) -> Prediction:
        """The predicted label: that with the highest score, unless a threshold decides between two."""
        place = self.decided if self.decided is not None else max(range(len(self.scores)), key=self.scores.__getitem__)
        return Prediction(self.labels[place], self.scores[place])

    @property
    def prediction_set(self) -> tuple[Prediction, ...]:
        """The labels of the prediction set, best first; empty where no score is high enough.

        Raises:
            BadRequest: the model has no prediction sets.
        """
        if self.members is None:
            raise BadRequest(NO_SETS)
        order = sorted(self.members, key=lambda place: -self.scores[place])
        return tuple(Prediction(self.labels[place], self.scores[place]) for place in order)


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


def checked_window(value: Any) -> Window | None:
    """Return the window that a request describes, as `window_of` reads it.

    Raises:
        BadRequest: it is none.
    """
    try:
        return window_of(value)
    except ValueError as error:
        raise BadRequest(f"window: {error}") from error


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
