"""Windows of long texts: overlapping parts that a model reads one by one, cut between words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from finetune.core.scores import Floats

if TYPE_CHECKING:
    from finetune.core.tokenization import PreparedInputs

Aggregate = Literal["max", "mean", "first"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
FEWEST_TOKENS = 8

Span = tuple[int, int]
"""Characters of a window: the first, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Window:
    """How long texts are read.

    Attributes:
        tokens: most tokens of a window, without special ones; 0 for no windows.
        overlap: tokens that a window shares with the one before it.
        aggregate: how the scores of windows become those of the text: the highest of each label, their mean, or those
            of the first window.
    """

    tokens: int = 256
    overlap: int = 64
    aggregate: Aggregate = "mean"

    @property
    def is_on(self) -> bool:
        """Whether texts are read in windows."""
        return self.tokens > 0

    def to_json(self) -> dict[str, Any]:
        """Return the window as JSON has it."""
        return {"tokens": self.tokens, "overlap": self.overlap, "aggregate": self.aggregate}


OFF = Window(0, 0, "first")


def window_of(value: Any) -> Window | None:
    """Return the window that a user describes; None for None.

    Args:
        value: `tokens`, the name `off`, a dict with `tokens`, `overlap` (a quarter of them if left out) and
            `aggregate`, or the same as text: `tokens=256,overlap=64,aggregate=max`.

    Raises:
        ValueError: it is none of these, or a number is out of range.
    """
    if value is None or isinstance(value, Window):
        return value
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"tokens": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"a window is a number of tokens, `off`, or {_SHAPE}, not {value!r}")
    unknown = [key for key in value if key not in ("tokens", "overlap", "aggregate")]
    if unknown:
        raise ValueError(f"a window has no {unknown[0]!r}: write {_SHAPE}")
    tokens = value.get("tokens", 256)
    if tokens == 0 and not isinstance(tokens, bool):
        return OFF
    overlap = value.get("overlap")
    aggregate = value.get("aggregate", "mean")
    if not _is_whole(tokens) or tokens < FEWEST_TOKENS:
        raise ValueError(f"tokens of a window must be a whole number from {FEWEST_TOKENS}, not {tokens!r}")
    overlap = tokens // 4 if overlap is None else overlap
    if not _is_whole(overlap) or not 0 <= overlap <= tokens // 2:
        raise ValueError(f"overlap of a window must be 0 to half of its {tokens} tokens, not {overlap!r}")
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate of a window must be one of {', '.join(AGGREGATES)}, not {aggregate!r}")
    return Window(tokens, overlap, aggregate)


def aggregated(scores: Floats, aggregate: Aggregate, *, sums_to_one: bool) -> Floats:
    """Return the scores of a text `[C]` from those of its windows `[W, C]`.

    Args:
        sums_to_one: whether they are probabilities of which one label is true.
    """
    values: Floats = scores[0]
    if aggregate == "first":
        return values
    values = scores.max(axis=0) if aggregate == "max" else scores.mean(axis=0)
    total = float(values.sum()) if sums_to_one else 1.0
    return values / total


def spans(text: str, tokenizer: PreparedInputs, window: Window) -> list[Span]:
    """Return the characters of each window of a text, in order; together they hold all of it.

    A window begins and ends between words, unless a word is longer than half a window.
    """
    with tokenizer.lock:
        tokenizer.rust.no_truncation()
        tokenizer.rust.no_padding()
        encoding = tokenizer.rust.encode(text, add_special_tokens=False)
    count, words, offsets = len(encoding.ids), encoding.word_ids, encoding.offsets
    if count <= window.tokens:
        return [(0, len(text))]
    token_ranges: list[tuple[int, int]] = []
    begin = 0
    while True:
        end = min(begin + window.tokens, count)
        if end < count:
            end = _word_begin(words, end, begin + window.tokens // 2)
        token_ranges.append((begin, end))
        if end == count:
            break
        begin = _word_begin(words, end - window.overlap, begin + 1)
    characters = [(offsets[first][0], offsets[last - 1][1]) for first, last in token_ranges]
    return [
        (0 if place == 0 else first, len(text) if place == len(characters) - 1 else last)
        for place, (first, last) in enumerate(characters)
    ]


_SHAPE = "{tokens: 256, overlap: 64, aggregate: mean}"


def _word_begin(words: list[int | None], place: int, lowest: int) -> int:
    """Return the place of the first token of the word at `place`; `place` itself if that is before `lowest`."""
    begin = place
    while begin > lowest and words[begin] is not None and words[begin] == words[begin - 1]:
        begin -= 1
    return begin if words[begin] is None or words[begin] != words[begin - 1] else place


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _parsed(text: str) -> dict[str, Any]:
    if text.strip().lower() == "off":
        return OFF.to_json()
    content: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key, value = (key, value) if equals else ("tokens", key)
        if key in content:
            raise ValueError(f"{key} of a window is there twice")
        content[key] = int(value) if value.isdecimal() else value
    return content
