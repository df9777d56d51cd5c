"""The one tokenizer rule, for training and serving alike.

Knows: special tokens inside a text stay text, lone surrogates, truncation, pairs, segments, padding.
Does not know: tables, labels, tensors (it gives numpy arrays).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finetune.attention import HYPOTHESIS, LEADING, PADDING, TEXT
from finetune.errors import CheckpointError, DataError
from finetune.forks import Lock

CHARACTERS_PER_TOKEN = 40
"""A text is cut at this many characters per token of `max_length` before it is tokenized: 10 MB would take seconds."""

DEFAULT_MAX_LENGTH = 512
_TOKENIZING = Lock()
"""A fast tokenizer changes its own settings while it works."""

Truncation = Literal["longest_first", "only_first"]


Ids = Any
"""A list of ints, or an array `[L]` of them where they lie on disk."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text, or one pair, as token ids; `segments` as in attention.py, `type_ids` as the model expects them."""

    ids: Ids
    type_ids: Ids
    segments: Ids
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, begin: int, end: int | None) -> Encoded:
        """The tokens from `begin` to `end`."""
        return Encoded(self.ids[begin:end], self.type_ids[begin:end], self.segments[begin:end], self.truncated)

    def followed_by(self, other: Encoded) -> Encoded:
        """These tokens (a text's, as lists), then those of `other`."""
        return Encoded(
            [*self.ids, *other.ids],
            [*self.type_ids, *other.type_ids],
            [*self.segments, *other.segments],
            self.truncated or other.truncated,
        )


class TextEncoder:
    """Texts to token ids and padded arrays, with one model's tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        max_length: tokens a sequence may have, special tokens included.
        truncation: which side of a pair is cut when it is too long; `only_first` keeps hypotheses whole.
    """

    def __init__(self, tokenizer: Any, max_length: int, truncation: Truncation = "longest_first") -> None:
        if not tokenizer.is_fast:
            raise CheckpointError("this base has no fast tokenizer (tokenizer.json): save it again with one")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.has_type_ids = "token_type_ids" in tokenizer.model_input_names

    @classmethod
    def load(
        cls,
        source: str | Path,
        config: Mapping[str, Any],
        *,
        max_length: int | None = None,
        truncation: Truncation = "longest_first",
    ) -> TextEncoder:
        """The encoder of a model folder or Hub id; `config` is the content of its config.json."""
        from transformers import AutoTokenizer

        try:
            # split_special_tokens is saved with the tokenizer: plain transformers then reads "[SEP]" as text as well
            tokenizer = AutoTokenizer.from_pretrained(str(source), split_special_tokens=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{source}: its tokenizer cannot be loaded ({first})") from error
        limit = longest_input(config, tokenizer)
        if max_length is not None and max_length > limit:
            raise CheckpointError(f"{source} reads at most {limit} tokens: lower max_length from {max_length}")
        return cls(tokenizer, max_length or min(limit, DEFAULT_MAX_LENGTH), truncation)

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Encoded]:
        """One `Encoded` a text, in order; with `pairs`, one for each (text, pair)."""
        if not texts:
            return []
        first, cut_first = self._clean(texts)
        second, cut_second = self._clean(pairs) if pairs is not None else (None, [False] * len(texts))
        found: list[Encoded] = []
        try:
            batch = self._tokenize(first, second, self.truncation)
        except Exception as error:  # tokenizers raises bare Exception when the side that stays whole is too long alone
            if self.truncation == "longest_first" or "Truncation error" not in str(error):
                raise
            if len(first) > 1:  # find the offender; how a row is cut must not depend on its neighbours
                return [row for one, two in zip(texts, pairs or (), strict=True) for row in self([one], [two])]
            batch = self._tokenize(first, second, "longest_first")
        for index, encoding in enumerate(batch.encodings):
            truncated = cut_first[index] or cut_second[index] or bool(encoding.overflowing)
            segments = _segments(encoding.sequence_ids)
            found.append(Encoded(encoding.ids, encoding.type_ids, segments, truncated))
        return found

    def hypotheses(self, sentences: Sequence[str]) -> list[Encoded]:
        """What a pair has from the text's end on, for each second half; whole, however long it is."""
        encoder = TextEncoder(self.tokenizer, self.max_length, "only_first")
        begin = len(encoder([""], [""])[0]) - 1
        return [row.part(begin, None) for row in encoder([""] * len(sentences), sentences)]

    def before_hypotheses(self, texts: Sequence[str], longest: int) -> list[Encoded]:
        """What a pair has up to the hypothesis, for each first half; cut so that one of `longest` tokens has room."""
        # with an empty hypothesis, a pair ends with one token that belongs to it
        encoder = TextEncoder(self.tokenizer, self.max_length - longest + 1, "only_first")
        return [row.part(0, -1) for row in encoder(texts, [""] * len(texts))]

    def pad(self, rows: Sequence[Encoded]) -> dict[str, npt.NDArray[np.int64]]:
        """Model inputs `[B, L]`, padded on the right to the longest row, with `segments` beside them."""
        longest = max(len(row) for row in rows)
        shape = (len(rows), longest)
        arrays = {
            "input_ids": np.full(shape, self.pad_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "segments": np.full(shape, PADDING, dtype=np.int64),
        }
        if self.has_type_ids:
            arrays["token_type_ids"] = np.zeros(shape, dtype=np.int64)
        for index, row in enumerate(rows):
            end = len(row)
            arrays["input_ids"][index, :end] = row.ids
            arrays["attention_mask"][index, :end] = 1
            arrays["segments"][index, :end] = row.segments
            if self.has_type_ids:
                arrays["token_type_ids"][index, :end] = row.type_ids
        return arrays

    def _tokenize(self, first: list[str], second: list[str] | None, truncation: Truncation) -> Any:
        with _TOKENIZING:
            return self.tokenizer(first, second, truncation=truncation, max_length=self.max_length)

    def _clean(self, texts: Sequence[str]) -> tuple[list[str], list[bool]]:
        limit = self.max_length * CHARACTERS_PER_TOKEN
        cleaned, cut = [], []
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"a text must be a string, and this is {type(text).__name__}", row=row + 1)
            cut.append(len(text) > limit)
            cleaned.append(without_surrogates(text[:limit]))
        return cleaned, cut


def without_surrogates(text: str) -> str:
    """The text with lone surrogates (which no tokenizer accepts) replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def longest_input(config: Mapping[str, Any], tokenizer: Any) -> int:
    """How many tokens the model can read at once, special tokens included."""
    config = config.get("encoder") or config  # a head of ours describes its body there
    limits = [int(tokenizer.model_max_length)]
    positions = config.get("max_position_embeddings")
    if positions:
        # RoBERTa and its kin start counting positions after the padding id
        shifted = str(config.get("model_type", "")) in (
            "roberta",
            "xlm-roberta",
            "camembert",
            "xlm-roberta-xl",
            "mpnet",
        )
        limits.append(int(positions) - (int(config.get("pad_token_id") or 0) + 1 if shifted else 0))
    return min(limits)


def _segments(sequence_ids: list[int | None]) -> list[int]:
    segments, current = [], LEADING
    for place, sequence in enumerate(sequence_ids):
        if sequence is not None:
            current = TEXT if sequence == 0 else HYPOTHESIS
        elif place and current == LEADING:
            current = TEXT  # the separator of a text without tokens
        segments.append(current)
    return segments
