"""Table files by path: read whole, streamed or written in the format of their suffix."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune.core.errors import DataError
from finetune.core.tables.arrow_file import ROWS_AT_ONCE, ArrowFile
from finetune.core.tables.cell_types import fitted, type_of_values
from finetune.core.tables.formats import FORMATS, OUTPUT_SUFFIXES, SUFFIXES, listed
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Table, TableStream
from finetune.core.tables.table_format import TableFormat, TableWriter
from finetune.core.tables.text_file import suffix_of

OPTION_FLAGS = {"encoding": "--encoding", "separator": "--separator", "header": "--no-header", "sheet": "--sheet"}


def read_table(path: str | Path, options: TableOptions | None = None, suffixes: Collection[str] = SUFFIXES) -> Table:
    """Return the table in a file; its rows lie in a temporary file and are decoded when they are used.

    Args:
        options: encoding, separator and header where they are not to be detected.
        suffixes: those that are accepted.

    Raises:
        DataError: the file is missing, empty, of an unknown format or damaged, or its encoding is not certain.
    """
    file, options = Path(path), options or TableOptions()
    table_format = _checked_format(file, options, suffixes)
    if table_format.read is not None:
        table = table_format.read(file, options)
    else:
        table = _read_stream(table_format.stream(file, ROWS_AT_ONCE, options))
    if not table.rows:
        raise DataError("the table has no rows", file=str(file))
    return table


def stream_table(
    path: str | Path, chunk_rows: int, options: TableOptions | None = None, suffixes: Collection[str] = SUFFIXES
) -> TableStream:
    """Return the table in a file, in chunks of `chunk_rows` rows (the last may be shorter).

    Args:
        options, suffixes: see `read_table`.

    Raises:
        DataError: as `read_table`; some damage is found only when its chunk is read.
    """
    file, options = Path(path), options or TableOptions()
    return _checked_format(file, options, suffixes).stream(file, chunk_rows, options)


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to a file that appears once it is complete; lists become JSON in CSV and TSV.

    Raises:
        DataError: an unknown suffix.
    """
    content = list(rows)
    names = dict.fromkeys(name for row in content for name in row)
    types = {name: type_of_values([row.get(name) for row in content]) for name in names}
    writer = open_writer(Path(path), types)
    try:
        writer.write(content)
        writer.finish()
    except BaseException:
        writer.discard()
        raise


def open_writer(out: Path, types: Mapping[str, Any], *, escape_formulas: bool = False) -> TableWriter:
    """Return a writer in the format of the output's suffix.

    Args:
        types, escape_formulas: see `table_format.OpenWriter`.

    Raises:
        DataError: an unknown suffix.
    """
    suffix = suffix_of(out)
    writer = FORMATS[suffix].writer if suffix in OUTPUT_SUFFIXES else None
    if writer is None:
        raise DataError(f"unknown table format {suffix!r}: use one of {listed(OUTPUT_SUFFIXES)}", file=str(out))
    return writer(out, types, escape_formulas=escape_formulas)


def _checked_format(file: Path, options: TableOptions, suffixes: Collection[str]) -> TableFormat:
    suffix = suffix_of(file)
    if suffix not in suffixes:
        raise DataError(f"unknown table format {suffix!r}: use one of {listed(suffixes)}", file=str(file))
    try:
        status = file.stat()
    except OSError as error:
        raise DataError("there is no such file", file=str(file)) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError("this is not a regular file", file=str(file))
    if status.st_size == 0:
        raise DataError("the file is empty", file=str(file))
    table_format = FORMATS[suffix]
    for option in options.named():
        if option not in table_format.options:
            accepted = [other for other, kind in FORMATS.items() if option in kind.options]
            raise DataError(
                f"{OPTION_FLAGS[option]} is for {listed(accepted)} files, and this is a {suffix} file: leave it out",
                file=str(file),
            )
    return table_format


def _read_stream(stream: TableStream) -> Table:
    import pyarrow

    schema = pyarrow.schema([*stream.types.items()])
    with ArrowFile() as arrow:
        for rows in stream.chunks:
            cells = [
                pyarrow.array([fitted(row.get(field.name), field.type) for row in rows], field.type) for field in schema
            ]
            arrow.add(pyarrow.record_batch(cells, schema=schema))
        return Table(stream.columns, arrow.records(stream.columns), stream.name, stream.note, stream.warnings)
