"""The format JSON Lines: one JSON object a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.core.errors import DataError
from finetune.core.tables.appended_file import AppendedFile
from finetune.core.tables.arrow_file import ROWS_AT_ONCE, ArrowFile, Cells, Records
from finetune.core.tables.cell_types import as_json, type_of_kinds
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Row, Table, TableStream, check_column_count
from finetune.core.tables.table_format import TableFormat, TableWriter
from finetune.core.tables.text_encoding import encoding_of

if TYPE_CHECKING:
    import pyarrow

MAX_LINE_CHARACTERS = 64 * 2**20
"""Characters that a line may have."""


def read(file: Path, options: TableOptions) -> Table:
    """Return the whole table; its columns are the keys of all rows, in the order of their first use."""
    import pyarrow

    encoding, note = encoding_of(file, options.encoding)
    columns: dict[str, None] = {}

    def lines() -> Iterator[str]:
        for line, row in _objects(file, encoding, [0]):
            columns.update(dict.fromkeys(row))
            yield line

    with ArrowFile() as arrow:
        remaining = lines()
        while batch := list(islice(remaining, ROWS_AT_ONCE)):
            arrow.add(pyarrow.record_batch([batch], ["line"]))
        # a column may hold numbers in one row and lists in another, so Arrow keeps the lines as they were
        rows = Cells([batch.column(0) for batch in arrow.batches()]).decoded(json.loads)
    cells = {name: rows.decoded(partial(_member, name)) for name in columns}
    return Table(list(columns), Records(cells, rows), str(file), note)


def stream(file: Path, chunk_rows: int, options: TableOptions) -> TableStream:
    """Return the table in chunks of rows, after one pass over the file that finds columns, types and damaged lines."""
    encoding, note = encoding_of(file, options.encoding)
    kinds: dict[str, set[type]] = {}
    size, position = file.stat().st_size, [0]
    for _, row in _objects(file, encoding, position):
        for key, value in row.items():
            is_large = type(value) is int and not -(2**63) <= value < 2**63
            kinds.setdefault(key, set()).add(str if is_large else type(value))
        check_column_count(len(kinds), file)
    if not kinds:
        raise DataError("the table has no rows", file=str(file))
    position[0] = 0

    def chunks() -> Iterator[list[Row]]:
        rows = (row for _, row in _objects(file, encoding, position))
        while chunk := list(islice(rows, chunk_rows)):
            yield chunk

    types = {name: type_of_kinds(of_column) for name, of_column in kinds.items()}
    return TableStream(str(file), types, chunks(), lambda: min(1.0, position[0] / size), note)


def writer(out: Path, types: Mapping[str, pyarrow.DataType], *, escape_formulas: bool) -> TableWriter:
    """Return a writer; rows are written with the keys that they have."""

    def encode(rows: Sequence[Mapping[str, Any]], is_first: bool) -> str:
        return "".join(f"{as_json(row)}\n" for row in rows)

    return AppendedFile(out, encode)


def _objects(file: Path, encoding: str, position: list[int]) -> Iterator[tuple[str, Row]]:
    """Yield each line that is not blank, and its object; `position[0]` follows the bytes that were read.

    Raises:
        DataError: a line that is too long, is not JSON, or holds something other than an object; names the line.
    """
    with file.open("rb") as raw, io.TextIOWrapper(raw, encoding=encoding, newline="\n") as lines:
        number = 0
        while line := lines.readline(MAX_LINE_CHARACTERS):
            number += 1
            position[0] = raw.tell()
            if len(line) == MAX_LINE_CHARACTERS:
                raise DataError(f"the line has more than {MAX_LINE_CHARACTERS} characters", file=str(file), row=number)
            line = line.lstrip("\ufeff")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"this line is not JSON ({error})", file=str(file), row=number) from error
            if not isinstance(row, dict):
                raise DataError("each line should be a JSON object", file=str(file), row=number)
            yield line, row


def _member(name: str, row: Row) -> Any:
    return row.get(name)


JSON_LINES = TableFormat("JSON Lines", stream, read, writer, frozenset({"encoding"}))
