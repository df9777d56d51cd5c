"""The formats Excel (.xlsx) and Excel 97 (.xls, read only). Every cell is read as text, by the rules of excel_cells.py.

A workbook cannot be appended to: rows that are written lie in parts beside the output until the last one is there.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.core.errors import DataError, MissingExtra
from finetune.core.tables import excel_cells
from finetune.core.tables.cell_types import as_json, encodable
from finetune.core.tables.dialect import distinct_names
from finetune.core.tables.options import TableOptions
from finetune.core.tables.parted_file import PartedFile
from finetune.core.tables.table import Row, TableStream, check_column_count
from finetune.core.tables.table_format import TableFormat, TableWriter

if TYPE_CHECKING:
    import pyarrow

MAX_MEMORY_BYTES = 2 * 2**30
"""Address space of the process that reads a workbook: enough for a full sheet of several columns."""

MAX_UNPACKED_BYTES = 2 * 2**30
"""Bytes that the parts of a workbook may have once unpacked."""

MAX_ROWS, MAX_COLUMNS, MAX_CELL_CHARACTERS = 1_048_576, 16_384, 32_767
"""What a sheet, and one of its cells, can hold."""

MADE = datetime(2000, 1, 1)
"""Time at which every workbook says it was made, so that the same rows are the same bytes."""

EXACT = 2**53
"""Whole numbers below this are exact in a sheet; larger ones are written as text."""


def stream(file: Path, chunk_rows: int, options: TableOptions) -> TableStream:
    """Return the rows of a sheet that are not blank, in chunks; the first of them names the columns.

    Raises:
        DataError: no workbook, no such sheet, or more than `MAX_MEMORY_BYTES` to read it.
        MissingExtra: python-calamine is not installed.
    """
    import pyarrow

    _check_readable(file)
    lines = _printed(file, options.sheet or "")
    about = json.loads(next(lines))
    first = next(lines, None)
    if first is None or (options.header and about["rows"] < 2):
        lines.close()
        raise DataError(f"the table has no rows (sheet {about['sheet']!r})", file=str(file))
    check_column_count(about["width"], file)
    columns = [f"column_{n + 1}" for n in range(about["width"])]
    if options.header:
        columns = distinct_names(json.loads(first))
    count, rows_read = about["rows"] - options.header, [0]

    def chunks() -> Iterator[list[Row]]:
        texts = lines if options.header else chain([first], lines)
        while chunk := [dict(zip(columns, json.loads(line), strict=True)) for line in islice(texts, chunk_rows)]:
            rows_read[0] += len(chunk)
            yield chunk
        if rows_read[0] != count:
            raise _unread(file)

    warnings: tuple[str, ...] = ()
    if about["others"] and options.sheet is None:
        others = ", ".join(map(repr, about["others"][:5]))
        warnings = (f"the workbook has other sheets ({others}), and {about['sheet']!r} is read: --sheet names another",)
    types = dict.fromkeys(columns, pyarrow.string())
    return TableStream(str(file), types, chunks(), lambda: rows_read[0] / count, f"sheet {about['sheet']!r}", warnings)


def sheet_names(file: Path) -> list[str]:
    """Return the names of the sheets that are shown, in order; the first is read where none is named.

    Raises:
        DataError: no workbook, or more than `MAX_MEMORY_BYTES` to read it.
        MissingExtra: python-calamine is not installed.
    """
    _check_readable(file)
    lines = _printed(file, "", "names")
    names: list[str] = json.loads(next(lines))["sheets"]
    lines.close()
    return names


def writer(out: Path, types: Mapping[str, pyarrow.DataType], *, escape_formulas: bool) -> TableWriter:
    """Return a writer of a workbook with one sheet; texts stay texts, so that no cell is ever computed.

    Raises:
        MissingExtra: XlsxWriter is not installed.
    """
    if find_spec("xlsxwriter") is None:
        raise MissingExtra("writing .xlsx needs XlsxWriter: pip install 'rehead[excel]'")
    if len(types) > MAX_COLUMNS:
        raise DataError(f"{len(types)} columns; a sheet holds {MAX_COLUMNS}. Write .csv or .parquet", file=str(out))
    return _Workbook(out, types, _join)


class _Workbook(PartedFile):
    """A `PartedFile` that refuses what a sheet cannot hold, before it is written."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `TableWriter`.

        Raises:
            DataError: a cell has too many characters, or there are too many rows.
        """
        for row in rows:
            for name, value in row.items():
                if isinstance(value, str | list | dict) and len(_shown(value)) > MAX_CELL_CHARACTERS:
                    raise DataError(
                        f"a cell of {len(_shown(value))} characters; Excel's hold {MAX_CELL_CHARACTERS}. Write .csv or "
                        ".parquet",
                        file=str(self.out),
                        column=name,
                    )
        if self.rows + len(rows) >= MAX_ROWS:
            reason = f"more than {MAX_ROWS - 1} rows, which is what a sheet holds: write .csv or .parquet"
            raise DataError(reason, file=str(self.out))
        super().write(rows)


def _join(file: Path, schema: pyarrow.Schema, parts: Iterator[pyarrow.Table]) -> None:
    import xlsxwriter

    try:
        _write_workbook(file, schema, parts)
    except xlsxwriter.exceptions.FileCreateError as error:  # holds the system's error, on a full disk for example
        raise error.args[0] from error


def _write_workbook(file: Path, schema: pyarrow.Schema, parts: Iterator[pyarrow.Table]) -> None:
    import xlsxwriter

    options = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(str(file), {**options, "constant_memory": True}) as workbook:
        workbook.set_properties({"created": MADE})
        sheet = workbook.add_worksheet()
        rows = chain([schema.names], (row.values() for part in parts for row in part.to_pylist()))
        for number, row in enumerate(rows):
            for place, value in enumerate(row):
                if value is not None:
                    _write_cell(sheet, number, place, value)


def _write_cell(sheet: Any, row: int, column: int, value: Any) -> None:
    if isinstance(value, bool):
        sheet.write_boolean(row, column, value)
    elif isinstance(value, int | float) and math.isfinite(value) and abs(value) < EXACT:
        sheet.write_number(row, column, value)
    else:
        sheet.write_string(row, column, _shown(value))


def _shown(value: Any) -> str:
    return encodable(as_json(value) if isinstance(value, list | dict) else str(value))


def _check_readable(file: Path) -> None:
    """Raise `MissingExtra` without python-calamine, and `DataError` for a workbook whose parts would unpack to more
    than `MAX_UNPACKED_BYTES`."""
    if find_spec("python_calamine") is None:
        raise MissingExtra(f"reading {file.suffix.lower()} needs python-calamine: pip install 'rehead[excel]'")
    if not zipfile.is_zipfile(file):
        return  # an .xls file is not packed
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"not a readable Excel workbook ({error})", file=str(file)) from error
    if size > MAX_UNPACKED_BYTES:
        raise DataError(
            f"the workbook has {size} bytes once unpacked; at most {MAX_UNPACKED_BYTES} are accepted. Save the sheet "
            "as CSV UTF-8",
            file=str(file),
        )


def _printed(file: Path, sheet: str, *names: str) -> Generator[str, None, None]:
    """Yield the lines that `excel_cells` prints about a sheet; its process ends with this iterator.

    Raises:
        DataError: the sheet cannot be read.
    """
    # -P: the folder of the program is not searched for modules
    command = [sys.executable, "-P", excel_cells.__file__, str(file.resolve()), sheet, str(MAX_MEMORY_BYTES), *names]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as process:
        try:
            first = next(process.stdout or iter(()), None)
            if first is None:
                raise _unread(file)
            if "error" in (about := json.loads(first)):
                raise DataError(about["error"], file=str(file))
            yield first
            yield from process.stdout or ()
        finally:
            process.kill()


def _unread(file: Path) -> DataError:
    return DataError(
        f"the workbook cannot be read in {MAX_MEMORY_BYTES // 2**30} GiB of memory, or is damaged: save the sheet as "
        "CSV UTF-8",
        file=str(file),
    )


EXCEL = TableFormat("Excel", stream, writer=writer, options=frozenset({"header", "sheet"}), writer_needs="xlsxwriter")
EXCEL_97 = TableFormat("Excel 97", stream, options=frozenset({"header", "sheet"}))
