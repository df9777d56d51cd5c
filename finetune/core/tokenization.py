"""Tokenization and padding, the same for training and serving; the results are numpy arrays.

Special tokens inside a text are read as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from finetune.core.attention_mask import HYPOTHESIS, LEADING, PADDING, TEXT
from finetune.core.errors import CheckpointError, DataError
from finetune.core.fork_safety import Lock

CHARACTERS_PER_TOKEN = 40
"""Texts are cut at this many characters per token of `max_length` before tokenization: 10 MB would take seconds."""

DEFAULT_MAX_LENGTH = 512
Truncation = Literal["longest_first", "only_first"]


Ids = npt.NDArray[np.integer[Any]]
"""One value for each token of a sequence `[L]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One text or one pair as tokens.

    Attributes:
        ids, type_ids: inputs of the model `[L]`.
        segments: the part of the sequence that each token belongs to `[L]`, as in attention_mask.py.
        truncated: whether the text was cut.
    """

    ids: Ids
    type_ids: Ids
    segments: Ids
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, begin: int, end: int | None) -> Encoded:
        """Return the tokens from `begin` to `end`."""
        return Encoded(self.ids[begin:end], self.type_ids[begin:end], self.segments[begin:end], self.truncated)

    def followed_by(self, other: Encoded) -> Encoded:
        """Return these tokens, followed by those of `other`."""
        return Encoded(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.type_ids, other.type_ids]),
            np.concatenate([self.segments, other.segments]),
            self.truncated or other.truncated,
        )


@dataclass(eq=False)
class PreparedInputs:
    """A tokenizer of the library `tokenizers`, with what transformers adds to it.

    It can be saved to a file and used without transformers, whose import is the slowest part of a start.

    Attributes:
        rust: the tokenizer; its truncation and padding are set for each call, during which `lock` is held.
        longest: its `model_max_length`.
        side: where texts are cut, left or right.
        leading: whether a sequence begins with a special token, such as [CLS].
        typed: whether a single text has type ids other than 0.
    """

    rust: Tokenizer
    pad_id: int
    has_type_ids: bool
    longest: int
    side: str
    lock: Lock = field(default_factory=Lock)
    leading: bool = field(init=False)
    typed: bool = field(init=False)

    def __post_init__(self) -> None:
        self.rust.encode_special_tokens = True  # "[SEP]" in a text is text
        probe = self.rust.encode("a")
        self.leading, self.typed = probe.sequence_ids[0] is None, any(probe.type_ids)

    @classmethod
    def of(cls, tokenizer: Any) -> PreparedInputs:
        """Return the prepared form of a fast tokenizer of transformers."""
        return cls(
            tokenizer.backend_tokenizer,
            int(tokenizer.pad_token_id or 0),
            "token_type_ids" in tokenizer.model_input_names,
            int(tokenizer.model_max_length),
            tokenizer.truncation_side,
        )

    @classmethod
    def read(cls, file: Path) -> PreparedInputs:
        """Return the tokenizer that `write` saved.

        Raises:
            OSError, ValueError: there is no such file, or it is not such a tokenizer.
        """
        content = json.loads(file.read_text(encoding="utf-8"))
        try:
            return cls(Tokenizer.from_str(content.pop("tokenizer")), **content)
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"{file} is not a saved tokenizer ({error})") from error

    def write(self, file: Path) -> None:
        """Save it to a JSON file."""
        facts = {name: getattr(self, name) for name in ("pad_id", "has_type_ids", "longest", "side")}
        file.write_text(json.dumps({"tokenizer": self.rust.to_str(), **facts}), encoding="utf-8")


class TextEncoder:
    """The tokenizer of one model: texts to tokens, and tokens to padded arrays.

    Args:
        tokenizer: a fast tokenizer of transformers, or a prepared one.
        max_length: maximum number of tokens in a sequence, special tokens included.
        truncation: the side of a pair that is cut when it is too long; `only_first` never cuts the second text.
    """

    def __init__(self, tokenizer: Any, max_length: int, truncation: Truncation = "longest_first") -> None:
        if not isinstance(tokenizer, PreparedInputs) and not tokenizer.is_fast:
            raise CheckpointError(_slow(tokenizer))
        self.tokenizer = tokenizer
        self.prepared = tokenizer if isinstance(tokenizer, PreparedInputs) else PreparedInputs.of(tokenizer)
        self.max_length = max_length
        self.truncation = truncation
        self.pad_id, self.has_type_ids = self.prepared.pad_id, self.prepared.has_type_ids
        # segments and type ids of single texts, made once
        self._alone = np.full(max_length, TEXT, dtype=np.int64)
        if self.prepared.leading:
            self._alone[:1] = LEADING
        self._no_types = None if self.prepared.typed else np.zeros(max_length, dtype=np.int64)

    @classmethod
    def load(
        cls,
        source: str | Path,
        config: Mapping[str, Any],
        *,
        max_length: int | None = None,
        truncation: Truncation = "longest_first",
        prepared: PreparedInputs | None = None,
    ) -> TextEncoder:
        """Return the encoder of a model folder or a Hub id.

        Args:
            config: content of its config.json.
            prepared: its saved tokenizer; nothing is read then.

        Raises:
            CheckpointError: the tokenizer cannot be loaded or is not a fast one, or `max_length` is beyond the model's.
        """
        tokenizer = _load(source) if prepared is None else prepared
        if not isinstance(tokenizer, PreparedInputs) and not tokenizer.is_fast:
            raise CheckpointError(f"{source}: {_slow(tokenizer)}")
        longest = tokenizer.longest if isinstance(tokenizer, PreparedInputs) else int(tokenizer.model_max_length)
        limit = longest_input(config, longest)
        if max_length is not None and max_length > limit:
            raise CheckpointError(f"{source} reads at most {limit} tokens, and max_length is {max_length}: lower it")
        encoder = cls(tokenizer, max_length or min(limit, DEFAULT_MAX_LENGTH), truncation)
        _check(source, encoder.prepared)
        return encoder

    @property
    def longest_text(self) -> int:
        """Maximum number of tokens of a single text, special tokens not counted."""
        return int(self.max_length - self.prepared.rust.num_special_tokens_to_add(False))

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Encoded]:
        """Return one `Encoded` for each text, or for each pair of a text and its item in `pairs`.

        Raises:
            DataError: an item that is not a string; names its row.
        """
        if not texts:
            return []
        first, cut_first = self._clean(texts)
        second, cut_second = self._clean(pairs) if pairs is not None else (None, [False] * len(texts))
        try:
            encodings = self._tokenize(first, second, self.truncation)
        except Exception as error:  # tokenizers raises bare Exception when the side that stays whole is too long alone
            if self.truncation == "longest_first" or "Truncation error" not in str(error):
                raise
            if len(first) > 1:  # encode row by row; how a row is cut must not depend on the rows beside it
                return [row for text, pair in zip(texts, pairs or (), strict=True) for row in self([text], [pair])]
            encodings = self._tokenize(first, second, "longest_first")
        rows: list[Encoded] = []
        for index, encoding in enumerate(encodings):
            ids = np.array(encoding.ids, dtype=np.int64)
            truncated = cut_first[index] or cut_second[index] or bool(encoding.overflowing)
            if second is None and self._no_types is not None:
                types, segments = self._no_types[: len(ids)], self._alone[: len(ids)]
            else:
                types = np.array(encoding.type_ids, dtype=np.int64)
                segments = _segments(encoding.sequence_ids)
            rows.append(Encoded(ids, types, segments, truncated))
        return rows

    def hypotheses(self, sentences: Sequence[str]) -> list[Encoded]:
        """Return the tokens of a pair after those of its text, for each second text, which is never cut."""
        encoder = TextEncoder(self.prepared, self.max_length, "only_first")
        begin = len(encoder([""], [""])[0]) - 1
        return [row.part(begin, None) for row in encoder([""] * len(sentences), sentences)]

    def before_hypotheses(self, texts: Sequence[str], longest: int) -> list[Encoded]:
        """Return the tokens of a pair before those of its hypothesis, for each text.

        Args:
            longest: tokens of the longest hypothesis, for which texts are cut.
        """
        # a pair with an empty hypothesis ends with one token of the hypothesis
        encoder = TextEncoder(self.prepared, self.max_length - longest + 1, "only_first")
        return [row.part(0, -1) for row in encoder(texts, [""] * len(texts))]

    def pad(self, rows: Sequence[Encoded]) -> dict[str, npt.NDArray[np.int64]]:
        """Return model inputs and `segments`, each `[B, L]`, padded on the right to the longest row."""
        longest = max(len(row) for row in rows)
        shape = (len(rows), longest)
        arrays = {
            "input_ids": np.full(shape, self.pad_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "segments": np.full(shape, PADDING, dtype=np.int64),
        }
        if self.has_type_ids:
            arrays["token_type_ids"] = np.zeros(shape, dtype=np.int64)
        occupied = np.arange(longest) < np.array([len(row) for row in rows])[:, None]
        arrays["attention_mask"][occupied] = 1
        arrays["input_ids"][occupied] = np.concatenate([row.ids for row in rows])
        arrays["segments"][occupied] = np.concatenate([row.segments for row in rows])
        if self.has_type_ids:
            arrays["token_type_ids"][occupied] = np.concatenate([row.type_ids for row in rows])
        return arrays

    def _tokenize(self, first: list[str], second: list[str] | None, truncation: Truncation) -> list[Encoding]:
        rust = self.prepared.rust
        with self.prepared.lock:
            rust.no_padding()
            rust.enable_truncation(self.max_length, strategy=truncation, direction=self.prepared.side)
            return rust.encode_batch_fast(first if second is None else list(zip(first, second, strict=True)))

    def _clean(self, texts: Sequence[str]) -> tuple[list[str], list[bool]]:
        limit = self.max_length * CHARACTERS_PER_TOKEN
        cleaned, cut = [], []
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"a text must be a string, not {type(text).__name__}", row=row + 1)
            cut.append(len(text) > limit)
            cleaned.append(without_surrogates(text[:limit]))
        return cleaned, cut


def without_surrogates(text: str) -> str:
    """Return the text with lone surrogates, which no tokenizer accepts, replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def longest_input(config: Mapping[str, Any], longest: int) -> int:
    """Return the maximum number of tokens of a model, special tokens included.

    Args:
        config: content of its config.json.
        longest: `model_max_length` of its tokenizer.
    """
    config = config.get("encoder") or config  # of a model with a head of ours
    limits = [longest]
    positions = config.get("max_position_embeddings")
    if positions:
        # RoBERTa and models derived from it number positions from the padding id + 1
        shifted = str(config.get("model_type", "")) in (
            "roberta",
            "xlm-roberta",
            "camembert",
            "xlm-roberta-xl",
            "mpnet",
        )
        limits.append(int(positions) - (int(config.get("pad_token_id") or 0) + 1 if shifted else 0))
    return min(limits)


def _load(source: str | Path) -> Any:
    from transformers import AutoTokenizer

    try:
        # split_special_tokens is saved with the tokenizer: plain transformers then reads "[SEP]" as text as well
        return AutoTokenizer.from_pretrained(str(source), split_special_tokens=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception, and a slow tokenizer whatever its own code does
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        here = Path(source)
        is_missing = here.is_dir() and not (here / "tokenizer.json").is_file()
        hint = f"; there is no tokenizer.json in {source}: choose a model that has one" if is_missing else ""
        raise CheckpointError(f"{source}: its tokenizer cannot be loaded ({first}){hint}") from error


def _check(source: str | Path, prepared: PreparedInputs) -> None:
    """Raise `CheckpointError` for a vocabulary of special tokens only, as transformers makes when files are missing."""
    special = sum(token.special for token in prepared.rust.get_added_tokens_decoder().values())
    if prepared.rust.get_vocab_size() <= special:
        raise CheckpointError(
            f"{source}: its tokenizer has an empty vocabulary, since tokenizer.json is missing: copy the folder again"
        )


def _slow(tokenizer: Any) -> str:
    """Return the message for a tokenizer that runs in Python only."""
    return (
        f"its tokenizer ({type(tokenizer).__name__}) has no tokenizer.json and runs in Python only, which is not "
        "supported: choose a model with a tokenizer.json"
    )


def _segments(sequence_ids: list[int | None]) -> npt.NDArray[np.int64]:
    """Return the segments of a sequence; the separator after a text belongs to it, even if the text is empty."""
    segments = np.full(len(sequence_ids), TEXT, dtype=np.int64)
    if sequence_ids[0] is None:
        segments[0] = LEADING
    if 1 in sequence_ids:
        segments[sequence_ids.index(1) :] = HYPOTHESIS
    return segments
