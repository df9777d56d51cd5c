"""The format JSON Lines: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.core.errors import DataError
from finetune.core.tables.appended_file import AppendedFile
from finetune.core.tables.cell_types import as_json
from finetune.core.tables.json_rows import read_objects, stream_objects
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Row, Table, TableStream
from finetune.core.tables.table_format import TableFormat, TableWriter
from finetune.core.tables.text_encoding import encoding_of
from finetune.core.tables.text_file import TextFile

if TYPE_CHECKING:
    import pyarrow

MAX_LINE_CHARACTERS = 64 * 2**20
"""Characters that a line may have."""


def read(file: Path, options: TableOptions) -> Table:
    """Return the whole table; its columns are the keys of all rows, in the order of their first use."""
    source = TextFile(file)
    encoding, note = encoding_of(source, options.encoding)
    return read_objects(source, partial(_objects, source, encoding), note)


def stream(file: Path, chunk_rows: int, options: TableOptions) -> TableStream:
    """Return the table in chunks of rows, after one pass over the file that finds columns, types and damaged lines."""
    source = TextFile(file)
    encoding, note = encoding_of(source, options.encoding)
    return stream_objects(source, partial(_objects, source, encoding), note, chunk_rows)


def writer(out: Path, types: Mapping[str, pyarrow.DataType], *, escape_formulas: bool) -> TableWriter:
    """Return a writer; rows are written with the keys that they have."""

    def encode(rows: Sequence[Mapping[str, Any]], is_first: bool) -> str:
        return "".join(f"{as_json(row)}\n" for row in rows)

    return AppendedFile(out, encode)


def _objects(file: TextFile, encoding: str, fraction: list[float]) -> Iterator[tuple[str, Row]]:
    """Yield each line that is not blank, and its object.

    Raises:
        DataError: a line that is too long, is not JSON, or holds something other than an object; names the line.
    """
    with file.opened(encoding, newline="\n") as lines:
        number = 0
        while line := lines.readline(MAX_LINE_CHARACTERS):
            number += 1
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
            fraction[0] = file.fraction(lines.buffer)
            yield line, row
    fraction[0] = 1.0


JSON_LINES = TableFormat("JSON Lines", stream, read, writer, frozenset({"encoding"}))
