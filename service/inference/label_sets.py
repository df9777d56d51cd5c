"""Labels in their template, prepared once for all texts: tokens, and rows of them.

Knows: how long a hypothesis may be, what is remembered between calls.
Does not know: texts, scores.
"""

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

ROOM_FOR_TEXT = 8
"""Tokens a hypothesis must leave for the text."""

REMEMBERED = 256
REMEMBERED_TOKENS = 2**18
"""Label sets that are kept between calls, and tokens of all of them together."""

TOKENS_PER_PACK = 8192
"""Tokens of labels that are computed with a text at once; more labels are several packs."""


@dataclass(frozen=True)
class LabelSet:
    """Labels of one question: their sentences, and the tokens that come after a text."""

    labels: tuple[str, ...]
    sentences: tuple[str, ...]
    ends: tuple[Encoded, ...]
    leading: Encoded

    @property
    def longest(self) -> int:
        """Tokens of the longest hypothesis."""
        return max(map(len, self.ends))

    @property
    def tokens(self) -> int:
        """Tokens of all hypotheses."""
        return sum(map(len, self.ends))

    @cached_property
    def packs(self) -> list[Packed]:
        """All labels, in order, in packs of bounded size."""
        return list(self._packs())

    def pack(self, chosen: Sequence[int]) -> Packed:
        """Some of the labels, by number."""
        return packed([self.ends[number] for number in chosen], self.leading)

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
    """The label sets of one model; safe to use from many threads."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._found: OrderedDict[tuple[tuple[str, ...], str], LabelSet] = OrderedDict()
        self._tokens = 0
        self._lock = Lock()

    def get(self, labels: tuple[str, ...], template: str) -> LabelSet:
        """The labels in their template.

        Raises:
            BadRequest: a label that leaves no room for a text.
        """
        key = (labels, template)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        made = self._made(labels, template)
        with self._lock:
            if key not in self._found:
                self._found[key] = made
                self._tokens += made.tokens
            while self._found and (len(self._found) > REMEMBERED or self._tokens > REMEMBERED_TOKENS):
                _, oldest = self._found.popitem(last=False)
                self._tokens -= oldest.tokens
        return made

    def _made(self, labels: tuple[str, ...], template: str) -> LabelSet:
        sentences = tuple(zero_shot.fill(template, label) for label in labels)
        ends = tuple(self._encoder.hypotheses(sentences))
        longest = self._encoder.max_length
        for label, end in zip(labels, ends, strict=True):
            if end.truncated or len(end) > longest - ROOM_FOR_TEXT:
                raise BadRequest(
                    f"the label {label[:40]!r} in its template takes {len(end)} tokens or more, and this model reads "
                    f"{longest} with the text: shorten it"
                )
        leading = self._encoder.before_hypotheses([""], max(map(len, ends)))[0].part(0, 1)
        return LabelSet(labels, sentences, ends, leading)
