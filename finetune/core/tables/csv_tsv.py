"""The formats CSV and TSV. How a file is read (separator, quotes, header) is found in dialect.py."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.core.errors import DataError
from finetune.core.tables import dialect as dialects
from finetune.core.tables.appended_file import AppendedFile
from finetune.core.tables.arrow_file import ROWS_AT_ONCE, ArrowFile
from finetune.core.tables.cell_types import as_json, encodable
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Row, Table, TableStream, check_column_count
from finetune.core.tables.table_format import TableFormat, TableWriter
from finetune.core.tables.text_file import TextFile

if TYPE_CHECKING:
    import pyarrow


def read(file: Path, options: TableOptions) -> Table:
    """Return the whole table; every cell is text ("NA", "00123")."""
    import pyarrow

    source = TextFile(file)
    dialect = dialects.dialect_of(source, options)
    with ArrowFile() as arrow, source.open() as stream:
        for rows in dialects.batches(stream, dialect, ROWS_AT_ONCE):
            cells = [pyarrow.array(column, pyarrow.string()) for column in zip(*rows, strict=True)]
            arrow.add(pyarrow.RecordBatch.from_arrays(cells, dialect.columns))
        table = Table(dialect.columns, arrow.records(dialect.columns), str(file), dialect.note)
    return replace(table, warnings=dialect.warnings)


def stream(file: Path, chunk_rows: int, options: TableOptions) -> TableStream:
    """Return the table in chunks of rows; every cell is text."""
    import pyarrow

    source = TextFile(file)
    dialect = dialects.dialect_of(source, options)
    columns = dialect.columns
    check_column_count(len(columns), file)
    raw = source.open()
    batches = dialects.batches(raw, dialect, chunk_rows)
    first = next(batches, None)
    if first is None:
        raw.close()
        raise DataError("the table has no rows", file=str(file))

    def chunks() -> Iterator[list[Row]]:
        with raw:
            for batch in chain([first], batches):
                yield [dict(zip(columns, row, strict=True)) for row in batch]

    types = dict.fromkeys(columns, pyarrow.string())
    return TableStream(str(file), types, chunks(), lambda: source.fraction(raw), dialect.note, dialect.warnings)


def writer(out: Path, types: Mapping[str, pyarrow.DataType], *, escape_formulas: bool) -> TableWriter:
    """Return a writer; lists and dicts become JSON, None an empty cell."""
    columns, separator = list(types), dialects.default_separator(TextFile(out))

    def encode(rows: Sequence[Mapping[str, Any]], is_first: bool) -> str:
        text = io.StringIO(newline="")
        lines = csv.writer(text, delimiter=separator)
        if is_first:
            lines.writerow([_cell(name, escape_formulas) for name in columns])
        lines.writerows([_cell(row.get(name), escape_formulas) for name in columns] for row in rows)
        return text.getvalue()

    return AppendedFile(out, encode)


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet would compute a cell instead of showing it; a number is no formula."""
    return text[:1] in ("=", "+", "-", "@", "\t", "\r") and not re.fullmatch(r"[+-]?\d[\d., ]*([eE][+-]?\d+)?%?", text)


def _cell(value: Any, escape_formulas: bool) -> str:
    text = encodable("" if value is None else as_json(value) if isinstance(value, list | dict) else str(value))
    return f"'{text}" if escape_formulas and is_formula(text) else text


CSV_TSV = TableFormat("CSV", stream, read, writer, frozenset({"encoding", "separator", "header"}))
