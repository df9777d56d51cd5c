"""The text columns of a table to be scored: which they are, and which of their cells cannot be scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

from finetune.core.labels import shown
from finetune.core.tables.columns import TEXT_NAMES, is_header, matching_column, obvious_column
from finetune.core.tables.table import Table
from service.errors import BadRequest
from service.inference.zero_shot import NO_WIDTH
from service.schema import TextInput

REPEATED_HEADER = "this row repeats the header"


def texts_of(table: Table, text: str | None = None, text_pair: str | None = None, *, hint: str = "") -> list[TextInput]:
    """Return the texts of a table, from the named columns or from the column that obviously holds them.

    Args:
        hint: what to do about a cell that holds no text.

    Raises:
        BadRequest: there is no such column, none is obvious, or a cell holds no text; names the row.
    """
    column = column_of(table.name, table.columns, text)
    if text_pair is not None:
        text_pair = column_of(table.name, table.columns, text_pair)
    number = next((n for n, row in enumerate(table.rows, start=1) if is_header(row, table.columns)), None)
    if number is not None:
        raise BadRequest(f"{table.name}, row {number}: {REPEATED_HEADER}: delete it", hint=hint)
    texts = _texts(table, column, hint, blank=False)
    pairs = _texts(table, text_pair, hint, blank=True) if text_pair is not None else repeat(None)
    return list(map(TextInput, texts, pairs))


def column_of(table: str, columns: list[str], name: str | None) -> str:
    """Return the column of that name, or, for None, the column that obviously holds the texts.

    Args:
        table: the table's name, for errors.

    Raises:
        BadRequest: there is no such column.
    """
    if name is not None:
        column = matching_column(name, columns)
        if column is None:
            raise BadRequest(f"{table} has no column {name!r}: it has {shown(columns)}")
        return column
    column = obvious_column(TEXT_NAMES, columns) or (columns[0] if len(columns) == 1 else None)
    if column is not None:
        return column
    raise BadRequest(f"{table}: name the column that holds the text with --text; it has {shown(columns)}")


def problem_of(row: Mapping[str, Any], column: str, text_pair: str | None, max_characters: int | None) -> str:
    """Return why a row cannot be scored, in words; empty if it can be.

    Args:
        max_characters: characters that a text may have; None for any number.
    """
    if is_header(row, [*row]):
        return REPEATED_HEADER
    for name in (column, text_pair):
        if name is None:
            continue
        problem = cell_problem(row.get(name), blank=name != column)
        if problem:
            return f"column {name}: {problem}"
        length = len(row[name])
        if max_characters is not None and length > max_characters:
            return f"column {name}: the text has {length} characters; at most {max_characters} are accepted"
    return ""


def cell_problem(cell: Any, *, blank: bool) -> str:
    """Return why a cell is no text to score, in words; empty if it is one.

    Args:
        blank: whether a blank text is accepted, as for the second text of a pair.
    """
    if cell is None:
        return "the cell is empty"
    if not isinstance(cell, str):
        return f"the cell holds {type(cell).__name__}, not text"
    return "" if blank or cell.translate(NO_WIDTH).strip() else "the text is empty"


def _texts(table: Table, column: str, hint: str, *, blank: bool) -> Iterator[str]:
    for number, cell in enumerate(table.column(column), start=1):
        problem = cell_problem(cell, blank=blank)
        if problem:
            raise BadRequest(f"{table.name}, row {number}, column {column!r}: {problem}", hint=hint)
        yield cell
