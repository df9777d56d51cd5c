"""Checked rows, and what is done to them as a whole: joined, rid of repeats and of texts that contradict themselves.

Knows: what makes two rows the same; every drop is counted.
Does not know: columns, files, how rows are set aside (splits.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.errors import DataError
from finetune.core.tables.arrow_file import Cells, take_cells
from finetune.core.tables.table import Table

Identities = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Origin:
    """The tables that rows came from, and the place of each row in them: `places [N, 2]` are positions in `tables` and
    in the table, from 0. Cells are read when they are asked for."""

    tables: tuple[Table, ...]
    places: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: Table, positions: Sequence[int]) -> Origin:
        """The origin of these rows of one table."""
        return cls((table,), np.stack([np.zeros(len(positions), np.int64), np.asarray(positions, np.int64)], axis=1))

    @classmethod
    def joined(cls, parts: Sequence[Origin], rows: int) -> Origin | None:
        """The origin of several tables' rows, one after the other; None where that of some of the `rows` is unknown."""
        if not parts or sum(len(part.places) for part in parts) != rows:
            return None
        before = np.cumsum([0, *(len(part.tables) for part in parts)])
        places = [part.places + np.array([first, 0]) for part, first in zip(parts, before, strict=False)]
        return cls(tuple(table for part in parts for table in part.tables), np.concatenate(places))

    def take(self, positions: Sequence[int]) -> Origin:
        """The origin of the rows at these positions, in this order."""
        return Origin(self.tables, self.places[np.asarray(positions, dtype=np.int64)])

    def cells(self, position: int) -> tuple[str, dict[str, Any]]:
        """The name of a row's table, and its cell in each of the table's columns."""
        which, place = self.places[position].tolist()
        table = self.tables[which]
        row = table.rows[place]
        return table.name, {name: row.get(name) for name in table.columns}


@dataclass(frozen=True)
class Rows:
    """Checked rows: `values` are label names, lists of names or numbers; `numbers` are 1-based rows of `source`;
    `groups` say what belongs together (an author, a document), where a column was named for it; `origin` leads to the
    other cells of each row."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    values: list[Any]
    numbers: list[int]
    source: str
    groups: list[str] | None = None
    origin: Origin | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, positions: Sequence[int]) -> Rows:
        """The rows at these positions, in this order."""
        taken = Rows(
            take_cells(self.texts, positions),
            take_cells(self.pairs, positions) if self.pairs is not None else None,
            [self.values[index] for index in positions],
            [self.numbers[index] for index in positions],
            self.source,
            [self.groups[index] for index in positions] if self.groups is not None else None,
            self.origin.take(positions) if self.origin is not None else None,
        )
        if "identities" in self.__dict__:  # hashed already: the texts need not be read once more
            taken.__dict__["identities"] = self.identities[np.asarray(positions, dtype=np.int64)]
        return taken

    @cached_property
    def identities(self) -> Identities:
        """What makes two rows the same text, `[N]`: a hash of 64 bits, since a large table's texts stay on disk."""
        pairs: Iterable[str] = self.pairs if self.pairs is not None else repeat("")
        both = (_hash(text.strip(), pair.strip()) for text, pair in zip(self.texts, pairs, strict=False))
        return np.fromiter(both, np.uint64, len(self))


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of several tables, one after the other.

    Raises:
        DataError: pairs in some tables and single texts in others.
    """
    if not parts:
        return Rows([], None, [], [], "")
    if len({part.pairs is None for part in parts}) > 1:
        raise DataError("some tables have pairs of texts and others single texts", file=parts[0].source)
    if len(parts) == 1:
        return parts[0]
    pairs = _one_after_another([part.pairs or () for part in parts]) if parts[0].pairs is not None else None
    return Rows(
        _one_after_another([part.texts for part in parts]),
        pairs,
        [value for part in parts for value in part.values],
        [number for part in parts for number in part.numbers],
        " + ".join(dict.fromkeys(part.source for part in parts)),
        [group for part in parts for group in part.groups or ()] if parts[0].groups is not None else None,
        Origin.joined([part.origin for part in parts if part.origin is not None], sum(map(len, parts))),
    )


def once(rows: Rows, counts: Counter[str], name: str) -> Rows:
    """The rows without exact repeats of text and label; `counts[name]` grows by how many went."""
    _, first = np.unique(_with_values(rows), axis=0, return_index=True)
    counts[name] += len(rows) - len(first)
    return rows.take(np.sort(first).tolist())


def contradicted(*tables: Rows) -> Identities:
    """The texts that carry different labels anywhere in these tables."""
    whole = np.unique(np.concatenate([_with_values(rows) for rows in tables]), axis=0)
    found, often = np.unique(whole[:, 0], return_counts=True)
    return found[often > 1]


def without(rows: Rows, keys: Identities, counts: Counter[str], name: str) -> Rows:
    """The rows whose text is none of these; `counts[name]` grows by how many went."""
    kept = np.flatnonzero(~np.isin(rows.identities, keys))
    counts[name] += len(rows) - len(kept)
    return rows.take(kept.tolist())


def _with_values(rows: Rows) -> Identities:
    values = (_hash(str(_comparable(value))) for value in rows.values)
    return np.stack([rows.identities, np.fromiter(values, np.uint64, len(rows))], axis=1)


def _hash(*parts: str) -> int:
    # two of a hundred million texts share 64 bits by chance once in 4,000 such tables
    whole = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "little")


def _one_after_another(columns: Sequence[Sequence[str]]) -> Sequence[str]:
    on_disk = [column for column in columns if isinstance(column, Cells)]
    if len(on_disk) == len(columns):
        return Cells.joined(on_disk)
    return list(chain.from_iterable(columns))


def _comparable(value: Any) -> Any:
    return tuple(sorted(value)) if isinstance(value, list) else value
