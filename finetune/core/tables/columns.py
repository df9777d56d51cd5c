"""Column names: cleaned of what nobody sees, matched with what a person asked for, found when they are obvious."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

TEXT_NAMES = (
    *("text", "sentence", "review", "content", "body", "comment", "message", "tweet", "utterance", "document"),
    *("description", "title", "headline", "question", "query", "input", "inputs"),
)
"""Columns that obviously hold the text, in the order in which they are looked for."""

LABEL_NAMES = (
    *("label", "labels", "class", "category", "categories", "target", "sentiment", "intent", "emotion", "topic"),
    *("tag", "tags", "rating", "stars", "score", "y"),
)
"""Columns that obviously hold the label, in the order in which they are looked for."""


@lru_cache(maxsize=4096)
def clean_name(name: str) -> str:
    """A name without the blanks at its ends and the characters that have no shape (byte order mark, zero-width)."""
    if name.isascii() and name.isprintable():
        return name.strip()
    visible = (one for one in name if one.isspace() or unicodedata.category(one) not in ("Cf", "Cc"))
    return unicodedata.normalize("NFC", " ".join("".join(visible).split()))


def matching_column(name: str, columns: Sequence[str]) -> str | None:
    """The column that `name` means: of this very name, of the same name but for blanks and invisible characters, or,
    where a table has no header, of this number; None where there is none."""
    if name in columns:
        return name
    if name.isdecimal() and 1 <= int(name) <= len(columns) and columns[int(name) - 1] == f"column_{int(name)}":
        return columns[int(name) - 1]
    return next((column for column in columns if clean_name(column) == clean_name(name)), None)


def by_clean_name(columns: Iterable[str]) -> dict[str, str]:
    """Name without blanks, invisible characters and capitals -> the column's own name; the first of equal ones."""
    found: dict[str, str] = {}
    for column in columns:
        found.setdefault(clean_name(column).lower(), column)
    return found


def obvious_column(names: Sequence[str], columns: Iterable[str], without: Collection[str | None] = ()) -> str | None:
    """The first column that one of `names` says, in the order of `names`; None where there is none."""
    known = by_clean_name(columns)
    return next((known[name] for name in names if name in known and known[name] not in without), None)


def is_header(row: Mapping[str, Any], columns: Sequence[str]) -> bool:
    """Whether a row repeats the names of these columns, as in files that were joined with their headers."""
    cased = len(columns) == 1  # one word may well be a text
    return all(
        isinstance(cell := row.get(column), str) and (cell == column or _same_name(cell, column, cased=cased))
        for column in columns
    )


def is_misplaced_header(text: Any, label: Any, text_column: str, label_column: str, columns: Sequence[str]) -> bool:
    """Whether the text and the label of a row are names of columns, one of them in the place of the other."""
    if not isinstance(text, str) or not isinstance(label, str):
        return False
    if not (_same_name(text, label_column) or _same_name(label, text_column)):
        return False
    return text != label and all(any(_same_name(cell, column) for column in columns) for cell in (text, label))


def twins_warned_of(read: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return a warning for each column whose name differs from one that is read in blanks, unseen marks or case."""
    return [
        f"the columns {name!r} and {other!r} differ only in case, blanks or invisible characters, and {name!r} is read"
        for name in read
        for other in columns
        if other not in read and _same_name(other, name)
    ]


def _same_name(cell: str, column: str, *, cased: bool = False) -> bool:
    if len(cell) > len(column) + 16:
        return False
    cell, column = clean_name(cell), clean_name(column)
    return cell == column or (not cased and cell.lower() == column.lower())
