"""Checked rows, and operations on them: join tables, drop duplicates and conflicting labels, with counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
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
    """The tables that rows came from, for their other cells, which are read on request.

    Attributes:
        places: position in `tables`, and position in that table, of each row, from 0 `[N, 2]`.
    """

    tables: tuple[Table, ...]
    places: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: Table, positions: Sequence[int]) -> Origin:
        """Return the origin of these rows of one table."""
        return cls((table,), np.stack([np.zeros(len(positions), np.int64), np.asarray(positions, np.int64)], axis=1))

    @classmethod
    def concatenated(cls, parts: Sequence[Origin], rows: int) -> Origin | None:
        """Return the origin of concatenated rows; None if that of some of the `rows` is unknown."""
        if not parts or sum(len(part.places) for part in parts) != rows:
            return None
        before = np.cumsum([0, *(len(part.tables) for part in parts)])
        places = [part.places + np.array([first, 0]) for part, first in zip(parts, before, strict=False)]
        return cls(tuple(table for part in parts for table in part.tables), np.concatenate(places))

    def take(self, positions: Sequence[int]) -> Origin:
        """Return the origin of the rows at these positions, in this order."""
        return Origin(self.tables, self.places[np.asarray(positions, dtype=np.int64)])

    def cells(self, position: int) -> tuple[str, dict[str, Any]]:
        """Return the name of a row's table, and its cells by column."""
        index, place = self.places[position].tolist()
        table = self.tables[index]
        row = table.rows[place]
        return table.name, {name: row.get(name) for name in table.columns}


@dataclass(frozen=True)
class Rows:
    """Checked rows.

    Attributes:
        pairs: second texts, or None for single texts.
        values: label values: names, lists of names, `SoftLabels`, or numbers.
        numbers: rows in `source`, from 1.
        groups: group of each row (an author, a document), if `data.group` is set.
        weights: weight of each row in the loss, if `data.weight` is set.
        origin: the other cells of each row.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    values: list[Any]
    numbers: list[int]
    source: str
    groups: list[str] | None = None
    weights: list[float] | None = None
    origin: Origin | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, positions: Sequence[int]) -> Rows:
        """Return the rows at these positions, in this order."""
        taken = Rows(
            take_cells(self.texts, positions),
            take_cells(self.pairs, positions) if self.pairs is not None else None,
            [self.values[index] for index in positions],
            [self.numbers[index] for index in positions],
            self.source,
            [self.groups[index] for index in positions] if self.groups is not None else None,
            [self.weights[index] for index in positions] if self.weights is not None else None,
            self.origin.take(positions) if self.origin is not None else None,
        )
        if "identities" in self.__dict__:  # computed already: do not read the texts again
            taken.__dict__["identities"] = self.identities[np.asarray(positions, dtype=np.int64)]
        return taken

    @cached_property
    def identities(self) -> Identities:
        """Hash of each row's texts `[N]`; 64 bits, since the texts of a large table stay on disk."""
        pairs: Iterable[str] = self.pairs if self.pairs is not None else repeat("")
        both = (_hash(text.strip(), pair.strip()) for text, pair in zip(self.texts, pairs, strict=False))
        return np.fromiter(both, np.uint64, len(self))


def concatenated(parts: Sequence[Rows]) -> Rows:
    """Return the concatenated rows of several tables.

    Raises:
        DataError: pairs in some tables and single texts in others.
    """
    if not parts:
        return Rows([], None, [], [], "")
    if len({part.pairs is None for part in parts}) > 1:
        raise DataError(
            "some tables have pairs of texts and others single texts: give all of them a --text-pair column, or none",
            file=parts[0].source,
        )
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
        _weights_of(parts),
        Origin.concatenated([part.origin for part in parts if part.origin is not None], sum(map(len, parts))),
    )


def without_duplicates(rows: Rows, counts: Counter[str], name: str) -> Rows:
    """Return the rows without duplicates of text and label, whose number is added to `counts[name]`; of the weights of
    equal rows, the largest is kept."""
    _, first, same = np.unique(_with_values(rows), axis=0, return_index=True, return_inverse=True)
    counts[name] += len(rows) - len(first)
    order = np.argsort(first)
    taken = rows.take(first[order].tolist())
    if rows.weights is None:
        return taken
    largest = np.zeros(len(first))
    np.maximum.at(largest, same.reshape(-1), rows.weights)
    return replace(taken, weights=largest[order].tolist())


def conflicting_texts(*tables: Rows) -> Identities:
    """Return the identities of texts with different labels in these tables."""
    whole = np.unique(np.concatenate([_with_values(rows) for rows in tables]), axis=0)
    texts, label_counts = np.unique(whole[:, 0], return_counts=True)
    return texts[label_counts > 1]


def without_texts(rows: Rows, keys: Identities, counts: Counter[str], name: str) -> Rows:
    """Return the rows without those texts, whose number is added to `counts[name]`."""
    places = np.flatnonzero(~np.isin(rows.identities, keys))
    counts[name] += len(rows) - len(places)
    return rows.take(places.tolist())


def _with_values(rows: Rows) -> Identities:
    values = (_hash(str(_comparable(value))) for value in rows.values)
    return np.stack([rows.identities, np.fromiter(values, np.uint64, len(rows))], axis=1)


def _hash(*parts: str) -> int:
    # of 4,000 tables with 100 million texts each, one has two texts with the same 64 bits by chance
    whole = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "little")


def _one_after_another(columns: Sequence[Sequence[str]]) -> Sequence[str]:
    on_disk = [column for column in columns if isinstance(column, Cells)]
    if len(on_disk) == len(columns):
        return Cells.joined(on_disk)
    return list(chain.from_iterable(columns))


def _weights_of(parts: Sequence[Rows]) -> list[float] | None:
    """Return the weights of concatenated rows, 1 in a table that has none; None if no table has any."""
    if all(part.weights is None for part in parts):
        return None
    return [weight for part in parts for weight in part.weights or [1.0] * len(part)]


def _comparable(value: Any) -> Any:
    return tuple(sorted(value)) if isinstance(value, list) else value
