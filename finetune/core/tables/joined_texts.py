"""Texts that are joined from several columns: one rule for training, evaluation, scoring and serving."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.core.errors import DataError
from finetune.core.label_text import is_missing
from finetune.core.tables.arrow_file import ROWS_AT_ONCE, ArrowFile, Cells
from finetune.core.tables.columns import matching_column

if TYPE_CHECKING:
    from finetune.core.tables.table import Table

SEPARATOR = "\n"
"""What stands between two parts of a text."""


def joined(parts: Iterable[Any]) -> str:
    """Return the parts of a text one after the other, with `SEPARATOR` between them; missing and blank parts are left
    out, with their separator."""
    return SEPARATOR.join(_text(part) for part in parts if not is_missing(part))


def joined_cells(table: Table, columns: Sequence[str], check: Callable[..., None]) -> Cells:
    """Return the joined text of each row of a table; the texts lie in a temporary file.

    Args:
        check: raises for a cell that is no text, from the cell and its `file`, `row` and `column`.
    """
    import pyarrow

    cells = [table.column(name) for name in columns]
    with ArrowFile() as arrow:
        for start in range(0, len(table.rows), ROWS_AT_ONCE):
            parts = [column[start : start + ROWS_AT_ONCE] for column in cells]
            for name, part in zip(columns, parts, strict=True):
                for number, cell in enumerate(part, start=start + 1):
                    check(cell, file=table.name, row=number, column=name)
            texts = [joined(row).encode("utf-8", "surrogatepass") for row in zip(*parts, strict=True)]
            arrow.add(pyarrow.record_batch([pyarrow.array(texts, pyarrow.large_binary())], ["text"]))
        batches = [batch.column(0) for batch in arrow.batches()]
    return Cells(batches).decoded(lambda text: text.decode("utf-8", "surrogatepass"))


def recorded_columns(recorded: Sequence[str], columns: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the columns of a table whose texts a model was trained on, joined; empty if the table has none of them.

    Args:
        recorded: names of the columns in the training table; empty for a model of one column.
        name: the table's name, for errors.

    Raises:
        DataError: the table has some of them and not all.
    """
    places = {column: matching_column(column, columns) for column in recorded}
    missing = [column for column, place in places.items() if place is None]
    if missing and len(missing) < len(recorded):
        raise DataError(
            f"the model was trained on the joined texts of {', '.join(map(repr, recorded))}, and there is no column "
            f"{missing[0]!r}: add it, or name the columns to read with --text",
            file=name,
        )
    return () if missing else tuple(str(place) for place in places.values())


def with_joined_text(row: Any, recorded: Sequence[str]) -> Any:
    """Return a dict of the recorded columns as one with their joined text as `text`; anything else unchanged."""
    if not recorded or not isinstance(row, Mapping) or "text" in row or not all(name in row for name in recorded):
        return row
    for name in recorded:
        if isinstance(row[name], list | tuple | dict):
            raise DataError(f"{name!r} holds a {type(row[name]).__name__}, and should be a text", file="the input")
    rest = {name: value for name, value in row.items() if name not in recorded}
    return rest | {"text": joined(row[name] for name in recorded)}


def with_joined_columns(columns: Any, recorded: Sequence[str]) -> Any:
    """Return columns with the recorded ones as one column `text` of their joined texts; anything else unchanged.

    Raises:
        DataError: the recorded columns differ in length.
    """
    if not recorded or not isinstance(columns, Mapping) or "text" in columns or not set(recorded) <= set(columns):
        return columns
    parts = [columns[name] for name in recorded]
    if not all(isinstance(part, Collection) and not isinstance(part, str | bytes | Mapping) for part in parts):
        return columns
    if len({len(part) for part in parts}) > 1:
        raise DataError(f"the columns {', '.join(recorded)} differ in length", file="the input")
    rest = {name: value for name, value in columns.items() if name not in recorded}
    return rest | {"text": [joined(row) for row in zip(*parts, strict=True)]}


def _text(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)
