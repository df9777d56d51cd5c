"""The label cells of the training tables, grouped and counted by kind, so that no single cell decides for a column."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune.core.errors import DataError
from finetune.core.label_text import CODE, INVISIBLE, JOINER, number_of
from finetune.data.label_cells import flag_of, flag_row_of, is_broken, looks_structured, structure_of

Kind = Literal["word", "number", "code", "flags", "broken", "list", "dict", "list in text", "dict in text"]


@dataclass(frozen=True)
class LabelCells:
    """The label cells of one table `[N]`, none of them missing, with their row numbers from 1."""

    cells: Sequence[Any]
    numbers: Sequence[int]
    file: str
    column: str

    def error(self, position: int, sentence: str) -> DataError:
        """Return the error that names the row of the cell at this position."""
        return DataError(sentence, file=self.file, row=self.numbers[position], column=self.column)


@dataclass
class Entry:
    """Equal cells of a label column.

    Attributes:
        cell: the cell.
        value: the list or dict in it, or None.
        part, position: where the first of them is.
        count: number of rows with it.
    """

    cell: Any
    kind: Kind
    value: Any
    part: LabelCells
    position: int
    count: int = 0

    @property
    def row(self) -> int:
        """Row number of the first of these cells, from 1."""
        return self.part.numbers[self.position]

    @property
    def is_flags(self) -> bool:
        """Whether the list or dict holds zeros and ones only, as numbers, booleans or texts."""
        if isinstance(self.value, Mapping):
            return all(item is None or flag_of(item) is not None for item in self.value.values())
        return all(flag_of(item) is not None for item in self.value)

    @property
    def ones(self) -> int:
        """Number of ones in the list or dict."""
        items = self.value.values() if isinstance(self.value, Mapping) else self.value
        return sum(flag_of(item) or 0 for item in items)

    def error(self, sentence: str) -> DataError:
        """Return the error that names the row of the first of these cells."""
        return self.part.error(self.position, sentence)


class Survey:
    """The distinct label cells of the training tables, with their counts."""

    def __init__(self, parts: Sequence[LabelCells]) -> None:
        self.parts = parts
        self.entries: list[Entry] = []
        self.rows = sum(len(part.cells) for part in parts)
        known: dict[Any, Entry] = {}
        for part in parts:
            for position, cell in enumerate(part.cells):
                key: Any = cell if isinstance(cell, str) else (type(cell), cell)
                try:
                    entry = known.get(key)
                except TypeError:  # a list, which cannot be a key
                    entry = key = None
                if entry is None:
                    entry = _entry(cell, part, position)
                    self.entries.append(entry)
                    if key is not None:
                        known[key] = entry
                entry.count += 1

    def of(self, *kinds: Kind) -> list[Entry]:
        """Return the entries of these kinds, by first occurrence."""
        return [entry for entry in self.entries if entry.kind in kinds]

    def count(self, *kinds: Kind) -> int:
        """Return the number of rows with cells of these kinds."""
        return sum(entry.count for entry in self.of(*kinds))

    def texts(self) -> Iterator[Entry]:
        """Yield the entries that are texts."""
        return (entry for entry in self.entries if isinstance(entry.cell, str))

    def map(self, change: Callable[[Entry], None]) -> None:
        """Apply a change to every entry."""
        for entry in self.entries:
            change(entry)


def few(count: int, rows: int) -> bool:
    """Return whether these are at most 1 in 20 of all rows, which does not decide for the column."""
    return count * 20 <= rows


def rows_of(entries: Sequence[Entry]) -> int:
    """Return the number of rows with these entries."""
    return sum(entry.count for entry in entries)


def quoted(cell: Any, longest: int = 60) -> str:
    """Return a cell for a message, shortened and with invisible characters escaped."""
    text = ascii(cell) if _has_unseen(str(cell)) else repr(cell)
    return text if len(text) <= longest else text[: longest - 4] + " ..."


def _has_unseen(text: str) -> bool:
    return bool(INVISIBLE.search(text) or JOINER.search(text) or any(c.isspace() and c != " " for c in text))


def _entry(cell: Any, part: LabelCells, position: int) -> Entry:
    if isinstance(cell, str):
        if looks_structured(cell):
            value = structure_of(cell)
            if value is not None:
                return Entry(cell, "list in text" if isinstance(value, list) else "dict in text", value, part, position)
        return Entry(cell, _kind(cell), None, part, position)
    value = structure_of(cell)
    if value is not None:
        return Entry(cell, "list" if isinstance(value, list) else "dict", value, part, position)
    if isinstance(cell, bytes):
        try:
            return _entry(cell.decode(), part, position)
        except UnicodeDecodeError as error:
            raise part.error(position, f"{quoted(cell)} is not UTF-8 text") from error
    return Entry(cell, "word" if number_of(cell) is None else "number", None, part, position)


def _kind(text: str) -> Kind:
    if number_of(text) is not None:
        return "number"
    if is_broken(text):
        return "broken"
    if flag_row_of(text) is not None:
        return "flags"
    stripped = text.strip()
    return "code" if CODE.match(stripped) and stripped.lstrip("+-").isdigit() else "word"
