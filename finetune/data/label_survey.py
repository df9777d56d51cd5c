"""The cells of a label column, counted by what each of them looks like, so that no single cell decides for a column."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune.core.errors import DataError
from finetune.core.label_text import CODE, INVISIBLE, JOINER, number_of
from finetune.data.label_cells import flag_row_of, is_broken, looks_structured, structure_of

Kind = Literal["word", "number", "code", "flags", "broken", "list", "dict", "list in text", "dict in text"]


@dataclass(frozen=True)
class LabelCells:
    """The label cells of one table `[N]`, none of them missing, with their 1-based rows."""

    cells: Sequence[Any]
    numbers: Sequence[int]
    file: str
    column: str

    def error(self, position: int, sentence: str) -> DataError:
        """Return the error that names the row of the cell at this position."""
        return DataError(sentence, file=self.file, row=self.numbers[position], column=self.column)


@dataclass
class Entry:
    """Equal cells: what they look like, the list or dict in them, how many there are and where the first is."""

    cell: Any
    kind: Kind
    value: Any
    part: LabelCells
    position: int
    count: int = 0

    @property
    def row(self) -> int:
        """The 1-based row of the first such cell."""
        return self.part.numbers[self.position]

    def error(self, sentence: str) -> DataError:
        """Return the error that names the row of the first such cell."""
        return self.part.error(self.position, sentence)


class Survey:
    """The cells of the training tables, equal ones together."""

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
        """Return the entries of these kinds, in the order of their first rows."""
        return [entry for entry in self.entries if entry.kind in kinds]

    def count(self, *kinds: Kind) -> int:
        """Return how many rows hold cells of these kinds."""
        return sum(entry.count for entry in self.of(*kinds))

    def texts(self) -> Iterator[Entry]:
        """Yield the entries that are texts."""
        return (entry for entry in self.entries if isinstance(entry.cell, str))

    def map(self, change: Callable[[Entry], None]) -> None:
        """Apply a change to every entry."""
        for entry in self.entries:
            change(entry)


def few(count: int, rows: int) -> bool:
    """Return whether these rows are so few of all (up to 1 in 20) that they cannot decide for the column."""
    return count * 20 <= rows


def rows_of(entries: Sequence[Entry]) -> int:
    """Return how many rows hold these entries."""
    return sum(entry.count for entry in entries)


def quoted(cell: Any, longest: int = 60) -> str:
    """Return a cell as an error shows it: short, with invisible characters spelled out."""
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
