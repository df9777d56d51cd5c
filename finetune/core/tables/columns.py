"""Column names: without invisible characters, matched with the names that a person types, detected when obvious."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

TEXT_NAMES = (
    *("text", "sentence", "review", "content", "body", "comment", "message", "tweet", "utterance", "document"),
    *("description", "title", "headline", "question", "query", "input", "inputs"),
)
"""Names of columns that obviously hold the text, the most likely first."""

LABEL_NAMES = (
    *("label", "labels", "class", "category", "categories", "target", "sentiment", "intent", "emotion", "topic"),
    *("tag", "tags", "rating", "stars", "score", "y"),
)
"""Names of columns that obviously hold the label, the most likely first."""


@lru_cache(maxsize=4096)
def clean_name(name: str) -> str:
    """Return a name without blanks at its ends and without invisible characters (byte order mark, zero-width)."""
    if name.isascii() and name.isprintable():
        return name.strip()
    visible = (letter for letter in name if letter.isspace() or unicodedata.category(letter) not in ("Cf", "Cc"))
    return unicodedata.normalize("NFC", " ".join("".join(visible).split()))


def matching_column(name: str, columns: Sequence[str]) -> str | None:
    """Return the column of this name, ignoring blanks and invisible characters, or, in a table without a header, of
    this number; None if there is none."""
    if name in columns:
        return name
    if name.isdecimal() and 1 <= int(name) <= len(columns) and columns[int(name) - 1] == f"column_{int(name)}":
        return columns[int(name) - 1]
    return next((column for column in columns if clean_name(column) == clean_name(name)), None)


def by_clean_name(columns: Iterable[str]) -> dict[str, str]:
    """Return clean names in lower case -> the columns' own names; of columns that are equal so, the first."""
    names: dict[str, str] = {}
    for column in columns:
        names.setdefault(clean_name(column).lower(), column)
    return names


def obvious_column(names: Sequence[str], columns: Iterable[str], without: Collection[str | None] = ()) -> str | None:
    """Return the column with the first of `names` that there is, ignoring case; None if there is none."""
    known = by_clean_name(columns)
    return next((known[name] for name in names if name in known and known[name] not in without), None)


def is_header(row: Mapping[str, Any], columns: Sequence[str]) -> bool:
    """Return whether a row repeats the names of these columns, as in files that were joined with their headers."""
    cased = len(columns) == 1  # one word may well be a text
    return all(
        isinstance(cell := row.get(column), str) and (cell == column or _same_name(cell, column, cased=cased))
        for column in columns
    )


def is_misplaced_header(text: Any, label: Any, text_column: str, label_column: str, columns: Sequence[str]) -> bool:
    """Return whether the text and the label of a row are names of columns, with at least one in the wrong place."""
    if not isinstance(text, str) or not isinstance(label, str):
        return False
    if not (_same_name(text, label_column) or _same_name(label, text_column)):
        return False
    return text != label and all(any(_same_name(cell, column) for column in columns) for cell in (text, label))


def twins_warned_of(read: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return a warning for each column whose name equals that of a read one but for case and invisible characters."""
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
