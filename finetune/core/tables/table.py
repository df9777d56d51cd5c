"""What every table format gives: a whole table, or a stream of its rows; and the limits that hold for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.core.errors import DataError
from finetune.core.tables.arrow_file import Records

if TYPE_CHECKING:
    import pyarrow

MAX_COLUMNS = 2000
"""Columns that a streamed table may have: every row is a dict, and every column a cell of the output."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows as dicts, with the column names in file order.

    Attributes:
        name: the file's path, or what stands for it in messages.
        note: what was detected about the file (encoding, separator), in a few words.
        warnings: sentences about content that may have been misread.
    """

    columns: list[str]
    rows: Sequence[Row]
    name: str
    note: str | None = None
    warnings: tuple[str, ...] = ()

    def column(self, name: str) -> Sequence[Any]:
        """Return the cells of one column, None where a row has none."""
        return self.rows.column(name) if isinstance(self.rows, Records) else [row.get(name) for row in self.rows]


@dataclass(frozen=True)
class TableStream:
    """A table, a chunk of rows at a time; memory does not grow with the table.

    Attributes:
        name: the file's path.
        types: Arrow type of each column, in file order; of JSON Lines, of every key that some row has.
        chunks: lists of rows, to be iterated once.
        fraction_read: returns how much of the file has been read, 0 to 1.
        note, warnings: see `Table`.
    """

    name: str
    types: dict[str, pyarrow.DataType]
    chunks: Iterator[list[Row]]
    fraction_read: Callable[[], float]
    note: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Return the column names in file order."""
        return list(self.types)


def distinct_columns(columns: list[str], name: str) -> list[str]:
    """Return the column names of a table after checking that each occurs once.

    Raises:
        DataError: two columns have the same name.
    """
    repeated = next((column for column, count in Counter(columns).items() if count > 1), None)
    if repeated is not None:
        raise DataError("several columns have this name: rename or drop all but one", file=name, column=repeated)
    return columns


def check_column_count(count: int, file: Path) -> None:
    """Raise `DataError` for a table of more than `MAX_COLUMNS` columns."""
    if count > MAX_COLUMNS:
        raise DataError(
            f"the table has {count} columns; at most {MAX_COLUMNS} are accepted. Drop the columns that you do not need",
            file=str(file),
        )
