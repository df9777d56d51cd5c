"""Candidate labels in their template, tokenized once for all texts and cached between calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from finetune.core.fork_safety import Lock
from finetune.core.tokenization import Encoded, TextEncoder
from service.errors import BadRequest
from service.inference import zero_shot
from service.inference.backends.packing import Packed, packed

MIN_TEXT_TOKENS = 8
"""Tokens of the model's length that a hypothesis must leave for the text."""

CACHED_SETS = 256
CACHED_TOKENS = 2**18
"""Maximum label sets in the cache, and tokens of all of them together."""

TOKENS_PER_PACK = 8192
"""Maximum tokens of labels that are computed with a text at once; more labels are split into packs."""


@dataclass(frozen=True)
class LabelSet:
    """Labels of a request, or the phrases for them: their sentences, and the tokens that follow a text."""

    labels: tuple[str, ...]
    sentences: tuple[str, ...]
    ends: tuple[Encoded, ...]
    leading: Encoded

    @property
    def longest(self) -> int:
        """Return the tokens of the longest hypothesis."""
        return max(map(len, self.ends))

    @property
    def tokens(self) -> int:
        """Return the tokens of all hypotheses."""
        return sum(map(len, self.ends))

    @cached_property
    def packs(self) -> list[Packed]:
        """Return all labels, in order, in packs of at most `TOKENS_PER_PACK`."""
        return list(self._packs())

    def pack(self, numbers: Sequence[int]) -> Packed:
        """Return the pack of some of the labels, by number."""
        return packed([self.ends[number] for number in numbers], self.leading)

    def _packs(self) -> Iterator[Packed]:
        part: list[int] = []
        size = 0
        for number, end in enumerate(self.ends):
            if part and size + len(end) + 1 > TOKENS_PER_PACK:
                yield self.pack(part)
                part, size = [], 0
            part.append(number)
            size += len(end) + 1
        yield self.pack(part)


class LabelSets:
    """The label sets of one model; thread-safe."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._cache: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], LabelSet] = OrderedDict()
        self._tokens = 0
        self._lock = Lock()

    def get(self, labels: tuple[str, ...], template: str) -> LabelSet:
        """Return the labels in their template.

        Raises:
            BadRequest: a label leaves too few tokens for a text.
        """
        return self.of_sentences(labels, tuple(zero_shot.fill(template, label) for label in labels))

    def of_sentences(self, labels: tuple[str, ...], sentences: tuple[str, ...]) -> LabelSet:
        """Return the labels with these hypotheses, one for each; raise as `get` does."""
        key = (labels, sentences)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        label_set = self._build(labels, sentences)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = label_set
                self._tokens += label_set.tokens
            while self._cache and (len(self._cache) > CACHED_SETS or self._tokens > CACHED_TOKENS):
                _, oldest = self._cache.popitem(last=False)
                self._tokens -= oldest.tokens
        return label_set

    def _build(self, labels: tuple[str, ...], sentences: tuple[str, ...]) -> LabelSet:
        ends = tuple(self._encoder.hypotheses(sentences))
        longest = self._encoder.max_length
        for label, end in zip(labels, ends, strict=True):
            if end.truncated or len(end) > longest - MIN_TEXT_TOKENS:
                raise BadRequest(
                    f"the label {label[:40]!r} in its template has {len(end)} tokens or more, and this model "
                    f"reads {longest} with the text: shorten it"
                )
        leading = self._encoder.before_hypotheses([""], max(map(len, ends)))[0].part(0, 1)
        return LabelSet(labels, sentences, ends, leading)
