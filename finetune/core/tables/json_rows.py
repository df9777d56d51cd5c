"""Tables of JSON objects, one a row, for the formats that differ only in what stands between the objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from finetune.core.errors import DataError
from finetune.core.tables.arrow_file import ROWS_AT_ONCE, ArrowFile, Cells, Records
from finetune.core.tables.cell_types import type_of_kinds
from finetune.core.tables.table import Row, Table, TableStream, check_column_count
from finetune.core.tables.text_file import TextFile

Objects = Callable[[list[float]], Iterator[tuple[str, Row]]]
"""Returns each object of a file, as it is written and as a dict; the first element of its argument is set to the
fraction of the file that has been read."""


def read_objects(file: TextFile, objects: Objects, note: str | None) -> Table:
    """Return the whole table; its columns are the keys of all rows, in the order of their first use."""
    import pyarrow

    columns: dict[str, None] = {}

    def texts() -> Iterator[str]:
        for text, row in objects([0.0]):
            columns.update(dict.fromkeys(row))
            yield text

    with ArrowFile() as arrow:
        remaining = texts()
        while batch := list(islice(remaining, ROWS_AT_ONCE)):
            arrow.add(pyarrow.record_batch([batch], ["object"]))
        # a column may hold numbers in one row and lists in another, so Arrow keeps the objects as they were written
        rows = Cells([batch.column(0) for batch in arrow.batches()]).decoded(json.loads)
    cells = {name: rows.decoded(partial(_member, name)) for name in columns}
    return Table(list(columns), Records(cells, rows), str(file), note)


def stream_objects(file: TextFile, objects: Objects, note: str | None, chunk_rows: int) -> TableStream:
    """Return the table in chunks of rows, after one pass over the file that finds columns, types and damage."""
    kinds: dict[str, set[type]] = {}
    for _, row in objects([0.0]):
        for key, value in row.items():
            is_large = type(value) is int and not -(2**63) <= value < 2**63
            kinds.setdefault(key, set()).add(str if is_large else type(value))
        check_column_count(len(kinds), file.path)
    if not kinds:
        raise DataError("the table has no rows", file=str(file))
    fraction = [0.0]

    def chunks() -> Iterator[list[Row]]:
        rows = (row for _, row in objects(fraction))
        while chunk := list(islice(rows, chunk_rows)):
            yield chunk

    types = {name: type_of_kinds(of_column) for name, of_column in kinds.items()}
    return TableStream(str(file), types, chunks(), lambda: fraction[0], note)


def _member(name: str, row: Row) -> Any:
    return row.get(name)
