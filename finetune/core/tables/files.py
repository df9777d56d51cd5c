"""Tables of text on disk: read a piece at a time into a spool, written whole, by suffix.

Knows: CSV, TSV, JSON Lines and Parquet, their encodings and separators; text stays text ("NA", "00123").
Does not know: which column is what.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.core.errors import DataError
from finetune.core.tables import separated
from finetune.core.tables.class_names import Decode, features_of_parquet, names_by
from finetune.core.tables.options import TableOptions
from finetune.core.tables.spool import ROWS_AT_ONCE, Cells, Records, Spool
from finetune.core.tables.text_encoding import encoding_of


@dataclass(frozen=True)
class Table:
    """Rows as dicts, with the column names in file order.

    Attributes:
        note: what was detected about the file (encoding, separator), in a few words.
        warnings: sentences about content that may have been misread.
    """

    columns: list[str]
    rows: Sequence[dict[str, Any]]
    name: str
    note: str | None = None
    warnings: tuple[str, ...] = ()

    def column(self, name: str) -> Sequence[Any]:
        """The cells of one column, None where a row has none."""
        return self.rows.column(name) if isinstance(self.rows, Records) else [row.get(name) for row in self.rows]


def read_table(path: str | Path, options: TableOptions | None = None) -> Table:
    """The table in a file, read by its suffix.

    Args:
        options: encoding, separator and header where they are not to be detected.

    Raises:
        DataError: the file is missing, empty, of an unknown kind or damaged, or its encoding is not certain.
    """
    file, options = Path(path), options or TableOptions()
    if file.suffix.lower() not in READERS:
        raise DataError(f"unknown kind of table: use one of {', '.join(READERS)}", file=str(file))
    if not file.is_file():
        raise DataError("there is no such file", file=str(file))
    if file.stat().st_size == 0:
        raise DataError("the file is empty", file=str(file))
    options.check_suits(file)
    table = READERS[file.suffix.lower()](file, options)
    if not table.rows:
        raise DataError("the table has no rows", file=str(file))
    return table


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows that share their keys, by suffix; lists become JSON in CSV and TSV.

    Raises:
        DataError: an unknown suffix.
    """
    file = Path(path)
    if file.suffix.lower() not in WRITERS:
        raise DataError(f"unknown kind of table: use one of {', '.join(WRITERS)}", file=str(file))
    WRITERS[file.suffix.lower()](file, [dict(row) for row in rows])


def _read_separated(file: Path, options: TableOptions) -> Table:
    import pyarrow

    dialect = separated.dialect_of(file, options)
    with Spool() as spool, file.open("rb") as stream:
        for rows in separated.batches(stream, dialect, ROWS_AT_ONCE):
            cells = [pyarrow.array(column, pyarrow.string()) for column in zip(*rows, strict=True)]
            spool.add(pyarrow.RecordBatch.from_arrays(cells, dialect.columns))
        return replace(_spooled(spool, dialect.columns, file, dialect.note), warnings=dialect.warnings)


def _plain(array: Any) -> Any:
    """An Arrow array of a kind that the spool can store and take rows of."""
    import pyarrow

    if isinstance(array, pyarrow.DictionaryArray):
        return array.dictionary_decode()  # each batch may bring a dictionary of its own, which the spool cannot replace
    if pyarrow.types.is_string_view(array.type):
        return array.cast(pyarrow.large_string())
    return array.cast(pyarrow.large_binary()) if pyarrow.types.is_binary_view(array.type) else array


def distinct_columns(columns: list[str], name: str) -> list[str]:
    """Return the column names of a table in which each stands once.

    Raises:
        DataError: two columns of one name.
    """
    twice = next((column for column, count in Counter(columns).items() if count > 1), None)
    if twice is not None:
        raise DataError("several columns have this name: rename or drop all but one", file=name, column=twice)
    return columns


def _spooled(
    spool: Spool,
    columns: list[str],
    file: Path,
    note: str | None = None,
    decodes: Mapping[str, Decode | None] | None = None,
) -> Table:
    batches = spool.batches()
    cells = {name: Cells([batch.column(index) for batch in batches]) for index, name in enumerate(columns)}
    cells |= {name: cells[name].decoded(decode) for name, decode in (decodes or {}).items() if decode is not None}
    return Table(columns, Records(cells), str(file), note)


def _read_jsonl(file: Path, options: TableOptions) -> Table:
    import pyarrow

    encoding, said = encoding_of(file, options.encoding)
    columns: dict[str, None] = {}
    with Spool() as spool, file.open(encoding=encoding, newline="\n") as stream:
        objects = _objects(stream, file, columns)
        while lines := list(islice(objects, ROWS_AT_ONCE)):
            spool.add(pyarrow.record_batch([lines], ["line"]))
        # a column may hold numbers in one row and lists in another: Arrow keeps the lines as they were
        whole = Cells([batch.column(0) for batch in spool.batches()]).decoded(json.loads)
    cells = {name: whole.decoded(partial(_member, name)) for name in columns}
    return Table(list(columns), Records(cells, whole), str(file), said)


def _objects(lines: Iterable[str], file: Path, columns: dict[str, None]) -> Iterator[str]:
    """The lines that hold a JSON object; their keys are added to `columns`."""
    for number, line in enumerate(lines, start=1):
        line = line.lstrip("\ufeff")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"this line is not JSON ({error})", file=str(file), row=number) from error
        if not isinstance(row, dict):
            raise DataError("each line should be a JSON object", file=str(file), row=number)
        columns |= dict.fromkeys(row)
        yield line


def _member(name: str, row: dict[str, Any]) -> Any:
    return row.get(name)


def _read_parquet(file: Path, options: TableOptions) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        with Spool() as spool, pyarrow.parquet.ParquetFile(file) as stream:
            columns = distinct_columns(list(stream.schema_arrow.names), str(file))
            features = features_of_parquet(stream.schema_arrow.metadata)
            for batch in stream.iter_batches(ROWS_AT_ONCE):
                spool.add(pyarrow.RecordBatch.from_arrays(list(map(_plain, batch.columns)), columns))
            decodes = {name: names_by(features.get(name)) for name in columns}
            return _spooled(spool, columns, file, decodes=decodes)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file ({' '.join(str(error).split())})", file=str(file)) from error


def _write_separated(file: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with file.open("w", newline="", encoding="utf-8") as stream:
        separator = "\t" if file.suffix.lower() == ".tsv" else ","
        writer = csv.DictWriter(stream, list(rows[0]) if rows else [], delimiter=separator)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _write_jsonl(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


READERS: dict[str, Callable[[Path, TableOptions], Table]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}

WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    ".csv": _write_separated,
    ".tsv": _write_separated,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}

SUFFIXES = tuple(READERS)
