"""The text columns of a table to be scored: which they are, and which of their cells cannot be scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from finetune.core.labels import shown
from finetune.core.tables.columns import TEXT_NAMES, is_header, matching_column, obvious_column
from finetune.core.tables.joined_texts import joined, recorded_columns
from finetune.core.tables.table import Table
from service.errors import BadRequest
from service.inference.zero_shot import NO_WIDTH
from service.schema import TextInput

REPEATED_HEADER = "this row repeats the header"
EMPTY_TEXT = "the text is empty"

TextColumn = str | Sequence[str] | None
"""The column of the texts, several whose texts are joined, or None to find it."""


def texts_of(
    table: Table, text: TextColumn = None, text_pair: str | None = None, *, hint: str = "", recorded: Sequence[str] = ()
) -> list[TextInput]:
    """Return the texts of a table, from the named columns or from the column that obviously holds them.

    Args:
        hint: what to do about a cell that holds no text.
        recorded: see `text_columns_of`.

    Raises:
        BadRequest: there is no such column, none is obvious, or a cell holds no text; names the row.
    """
    columns = text_columns_of(table.name, table.columns, text, recorded)
    if text_pair is not None:
        text_pair = column_of(table.name, table.columns, text_pair)
    number = next((n for n, row in enumerate(table.rows, start=1) if is_header(row, table.columns)), None)
    if number is not None:
        raise BadRequest(f"{table.name}, row {number}: {REPEATED_HEADER}: delete it", hint=hint)
    texts = _joined(table, columns, hint) if len(columns) > 1 else _texts(table, columns[0], hint, blank=False)
    pairs = _texts(table, text_pair, hint, blank=True) if text_pair is not None else repeat(None)
    return list(map(TextInput, texts, pairs))


def text_columns_of(
    table: str, columns: list[str], text: TextColumn = None, recorded: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the column of the texts, or the columns whose texts are joined.

    Args:
        table: the table's name, for errors.
        text: names of them; without any, the recorded ones or the column that obviously holds the texts.
        recorded: columns whose joined texts the model was trained on; empty for a model of one column.

    Raises:
        BadRequest: there is no such column.
        DataError: the table has some of the recorded columns and not all.
    """
    names = [text] if isinstance(text, str) else list(text or ())
    if names:
        return tuple(dict.fromkeys(column_of(table, columns, name) for name in names))
    return recorded_columns(recorded, columns, table) or (column_of(table, columns, None),)


def text_of(row: Mapping[str, Any], columns: Sequence[str]) -> Any:
    """Return the text of a row: of its column, or the joined texts of several."""
    return row[columns[0]] if len(columns) == 1 else joined(row.get(name) for name in columns)


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


def problem_of(
    row: Mapping[str, Any], columns: Sequence[str], text_pair: str | None, max_characters: int | None
) -> str:
    """Return why a row cannot be scored, in words; empty if it can be.

    Args:
        max_characters: characters that a text may have; None for any number.
    """
    if is_header(row, [*row]):
        return REPEATED_HEADER
    is_joined = len(columns) > 1
    for name in (*columns, *((text_pair,) if text_pair is not None else ())):
        cell = row.get(name)
        if is_joined and name != text_pair and not isinstance(cell, list | dict | bytes):
            continue  # numbers and dates are joined as text, missing cells are left out
        problem = cell_problem(cell, blank=name == text_pair)
        if problem:
            return f"column {name}: {problem}"
    if is_joined and not text_of(row, columns):
        return f"columns {', '.join(columns)}: {EMPTY_TEXT}"
    for name, text in ((columns[0], text_of(row, columns)), (text_pair, row[text_pair] if text_pair else "")):
        if max_characters is not None and len(text) > max_characters:
            return f"column {name}: the text has {len(text)} characters; at most {max_characters} are accepted"
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
    return "" if blank or cell.translate(NO_WIDTH).strip() else EMPTY_TEXT


def _joined(table: Table, columns: Sequence[str], hint: str) -> Iterator[str]:
    for number, row in enumerate(table.rows, start=1):
        problem = problem_of(row, columns, None, None)
        if problem:
            raise BadRequest(f"{table.name}, row {number}, {problem}", hint=hint)
        yield str(text_of(row, columns))


def _texts(table: Table, column: str, hint: str, *, blank: bool) -> Iterator[str]:
    for number, cell in enumerate(table.column(column), start=1):
        problem = cell_problem(cell, blank=blank)
        if problem:
            raise BadRequest(f"{table.name}, row {number}, column {column!r}: {problem}", hint=hint)
        yield cell
