"""The column of a table that holds the texts, and what is wrong with a cell of it.

Knows: the names of such columns, cells that hold no text.
Does not know: files, models.
"""

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
    """The texts of a table, from the columns named, or from the one that is obviously meant.

    Args:
        hint: what to do about a cell that holds no text.

    Raises:
        BadRequest: no such column, none that is obvious, or a cell that holds no text; names the row.
    """
    column = column_of(table.name, table.columns, text)
    if text_pair is not None:
        text_pair = column_of(table.name, table.columns, text_pair)
    repeated = next((n for n, row in enumerate(table.rows, start=1) if is_header(row, table.columns)), None)
    if repeated is not None:
        raise BadRequest(f"{table.name}, row {repeated}: {REPEATED_HEADER}: take it out", hint=hint)
    texts = _texts(table, column, hint, blank=False)
    pairs = _texts(table, text_pair, hint, blank=True) if text_pair is not None else repeat(None)
    return list(map(TextInput, texts, pairs))


def column_of(name: str, columns: list[str], asked: str | None) -> str:
    """The column that is asked for, or the one that obviously holds the texts; `name` is the table's.

    Raises:
        BadRequest: there is none.
    """
    if asked is not None:
        column = matching_column(asked, columns)
        if column is None:
            raise BadRequest(f"{name} has no column {asked!r}: it has {shown(columns)}")
        return column
    column = obvious_column(TEXT_NAMES, columns) or (columns[0] if len(columns) == 1 else None)
    if column is not None:
        return column
    raise BadRequest(f"{name}: name the column that holds the text with --text; it has {shown(columns)}")


def problem_of(row: Mapping[str, Any], column: str, text_pair: str | None, longest: int | None) -> str:
    """What is wrong with a row's texts, in words; empty where nothing is.

    Args:
        longest: characters that a text may have; None for any number.
    """
    if is_header(row, [*row]):
        return REPEATED_HEADER
    for name in (column, text_pair):
        if name is None:
            continue
        found = cell_problem(row.get(name), blank=name != column)
        if found:
            return f"column {name}: {found}"
        length = len(row[name])
        if longest is not None and length > longest:
            return f"column {name}: the text has {length} characters, and it may have {longest}"
    return ""


def cell_problem(cell: Any, *, blank: bool) -> str:
    """What is wrong with a cell, in words; empty where it is a text.

    Args:
        blank: whether a text may be blank, as the second of a pair may.
    """
    if not isinstance(cell, str):
        return f"a text is wanted, and this is {'empty' if cell is None else type(cell).__name__}"
    return "" if blank or cell.translate(NO_WIDTH).strip() else "the text is empty"


def _texts(table: Table, column: str, hint: str, *, blank: bool) -> Iterator[str]:
    for number, cell in enumerate(table.column(column), start=1):
        found = cell_problem(cell, blank=blank)
        if found:
            raise BadRequest(f"{table.name}, row {number}, column {column!r}: {found}", hint=hint)
        yield cell
