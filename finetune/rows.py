"""Checked rows, and what is done to them as a whole: joined, rid of repeats and of texts that contradict themselves.

Knows: what makes two rows the same; every drop is counted.
Does not know: columns, files, how rows are set aside (splits.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.errors import DataError


@dataclass(frozen=True)
class Rows:
    """Checked rows: `values` are label names, lists of names or numbers; `numbers` are 1-based rows of `source`;
    `groups` say what belongs together (an author, a document), where a column was named for it."""

    texts: list[str]
    pairs: list[str] | None
    values: list[Any]
    numbers: list[int]
    source: str
    groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, chosen: Sequence[int]) -> Rows:
        """The rows at these positions, in this order."""
        return Rows(
            [self.texts[index] for index in chosen],
            [self.pairs[index] for index in chosen] if self.pairs is not None else None,
            [self.values[index] for index in chosen],
            [self.numbers[index] for index in chosen],
            self.source,
            [self.groups[index] for index in chosen] if self.groups is not None else None,
        )

    def identities(self) -> list[tuple[str, str]]:
        """What makes two rows the same text."""
        pairs = self.pairs if self.pairs is not None else [""] * len(self)
        return [(text.strip(), pair.strip()) for text, pair in zip(self.texts, pairs, strict=True)]


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of several tables, one after the other.

    Raises:
        DataError: pairs in some tables and single texts in others.
    """
    if not parts:
        return Rows([], None, [], [], "")
    if len({part.pairs is None for part in parts}) > 1:
        raise DataError("some tables have pairs of texts and others single texts", file=parts[0].source)
    pairs = [pair for part in parts for pair in part.pairs or ()] if parts[0].pairs is not None else None
    return Rows(
        [text for part in parts for text in part.texts],
        pairs,
        [value for part in parts for value in part.values],
        [number for part in parts for number in part.numbers],
        " + ".join(dict.fromkeys(part.source for part in parts)),
        [group for part in parts for group in part.groups or ()] if parts[0].groups is not None else None,
    )


def once(rows: Rows, counts: Counter[str], name: str) -> Rows:
    """The rows without exact repeats of text and label; `counts[name]` grows by how many went."""
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for index, (key, value) in enumerate(zip(rows.identities(), rows.values, strict=True)):
        whole = (*key, _comparable(value))
        if whole not in seen:
            seen.add(whole)
            kept.append(index)
    counts[name] += len(rows) - len(kept)
    return rows.take(kept)


def contradicted(*tables: Rows) -> set[tuple[str, str]]:
    """The texts that carry different labels anywhere in these tables."""
    seen: defaultdict[tuple[str, str], set[Any]] = defaultdict(set)
    for rows in tables:
        for key, value in zip(rows.identities(), rows.values, strict=True):
            seen[key].add(_comparable(value))
    return {key for key, values in seen.items() if len(values) > 1}


def without(rows: Rows, keys: set[tuple[str, str]], counts: Counter[str], name: str) -> Rows:
    """The rows whose text is none of these; `counts[name]` grows by how many went."""
    kept = [index for index, key in enumerate(rows.identities()) if key not in keys]
    counts[name] += len(rows) - len(kept)
    return rows.take(kept)


def _comparable(value: Any) -> Any:
    return tuple(sorted(value)) if isinstance(value, list) else value
