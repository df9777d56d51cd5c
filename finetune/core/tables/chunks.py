"""Tables of any size, a chunk of rows at a time; memory does not grow with the table.

Knows: CSV, TSV, JSON Lines and Parquet as tables.py reads them, how far into a file a reader is.
Does not know: which column is what.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from finetune.core.errors import DataError
from finetune.core.tables import separated
from finetune.core.tables.files import distinct_columns
from finetune.core.tables.options import TableOptions
from finetune.core.tables.text_encoding import encoding_of

if TYPE_CHECKING:
    import pyarrow

LONGEST_LINE = 64 * 2**20
"""Characters of a line of JSON, at most."""

MOST_IN_MEMORY = 2 * 2**30
"""Bytes that a row group of a Parquet file may have once it is unpacked: a small file can hold any number."""

MOST_COLUMNS = 2000
"""Columns a table may have: pandas takes the square of their number where their names are the same."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Chunks:
    """A table, chunk by chunk.

    Attributes:
        columns: names in file order; of JSON Lines, every key that some row has.
        kinds: what each column holds, as an Arrow type.
        parts: lists of rows, to be gone through once.
        read: the share of the file that was read, 0 to 1.
        note: what was found out about the file.
        warnings: sentences about content that may have been misread.
    """

    name: str
    columns: list[str]
    kinds: dict[str, pyarrow.DataType]
    parts: Iterator[list[Row]]
    read: Callable[[], float]
    note: str | None = None
    warnings: tuple[str, ...] = ()


def chunks(path: str | Path, rows: int, options: TableOptions | None = None) -> Chunks:
    """The table in a file, in chunks of so many rows (the last may be shorter).

    Args:
        options: encoding, separator and header where they are not to be detected.

    Raises:
        DataError: no such file, or not a regular one, empty, of an unknown kind or damaged; some damage is found only
            where it lies.
    """
    file, options = Path(path), options or TableOptions()
    if file.suffix.lower() not in READERS:
        raise DataError(f"unknown kind of table: use one of {', '.join(READERS)}", file=str(file))
    try:
        found = file.stat()
    except OSError as error:
        raise DataError("there is no such file", file=str(file)) from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError("this is no regular file", file=str(file))
    if found.st_size == 0:
        raise DataError("the file is empty", file=str(file))
    options.check_suits(file)
    return READERS[file.suffix.lower()](file, rows, options)


def _separated(file: Path, rows: int, options: TableOptions) -> Chunks:
    import pyarrow

    dialect = separated.dialect_of(file, options)
    columns = dialect.columns
    _check_columns(len(columns), file)
    size, raw = file.stat().st_size, file.open("rb")
    batches = separated.batches(raw, dialect, rows)
    first = next(batches, None)
    if first is None:
        raw.close()
        raise DataError("the table has no rows", file=str(file))

    def parts() -> Iterator[list[Row]]:
        with raw:
            for batch in chain([first], batches):
                yield [dict(zip(columns, row, strict=True)) for row in batch]

    def read() -> float:
        return 1.0 if raw.closed else raw.tell() / size

    kinds = dict.fromkeys(columns, pyarrow.string())
    return Chunks(str(file), columns, kinds, parts(), read, dialect.note, dialect.warnings)


def _jsonl(file: Path, rows: int, options: TableOptions) -> Chunks:
    encoding, said = encoding_of(file, options.encoding)
    kinds: dict[str, set[type]] = {}
    size, place = file.stat().st_size, [0]
    for row in _objects(file, encoding, place):  # a line that is no JSON is found before any work is done
        for key, value in row.items():
            large = type(value) is int and not -(2**63) <= value < 2**63
            kinds.setdefault(key, set()).add(str if large else type(value))
        _check_columns(len(kinds), file)
    if not kinds:
        raise DataError("the table has no rows", file=str(file))
    place[0] = 0

    def parts() -> Iterator[list[Row]]:
        objects = _objects(file, encoding, place)
        while part := list(islice(objects, rows)):
            yield part

    found = {name: _arrow_type(one) for name, one in kinds.items()}
    return Chunks(str(file), list(found), found, parts(), lambda: min(1.0, place[0] / size), said)


def _objects(file: Path, encoding: str, place: list[int]) -> Iterator[Row]:
    with file.open("rb") as raw, _text(raw, encoding) as lines:
        number = 0
        while line := lines.readline(LONGEST_LINE):
            number += 1
            place[0] = raw.tell()
            if len(line) == LONGEST_LINE:
                raise DataError(f"a line of more than {LONGEST_LINE} characters", file=str(file), row=number)
            line = line.lstrip("\ufeff")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"this line is not JSON ({error})", file=str(file), row=number) from error
            if not isinstance(row, dict):
                raise DataError("each line should be a JSON object", file=str(file), row=number)
            yield row


def _text(raw: IO[bytes], encoding: str) -> IO[str]:
    import io

    return io.TextIOWrapper(raw, encoding=encoding, newline="\n")


def _arrow_type(kinds: set[type]) -> pyarrow.DataType:
    """A column's type; what holds several kinds, or lists, is JSON in a text."""
    import pyarrow

    present = kinds - {type(None)}
    if present == {bool}:
        return pyarrow.bool_()
    if present == {int}:
        return pyarrow.int64()
    return pyarrow.float64() if present and present <= {int, float} else pyarrow.string()


def _parquet(file: Path, rows: int, options: TableOptions) -> Chunks:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as closed:
            plain = closed.schema_arrow
            distinct_columns(list(plain.names), str(file))
        texts = [name for name, kind in zip(plain.names, plain.types, strict=True) if pyarrow.types.is_string(kind)]
        # one long text said a million times takes no place in a file: as a dictionary, it takes none in memory either
        source = pyarrow.parquet.ParquetFile(file, read_dictionary=texts)
        metadata = source.metadata
        largest = max((metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)), default=0)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file ({' '.join(str(error).split())})", file=str(file)) from error
    if largest > MOST_IN_MEMORY:
        raise DataError(
            f"a row group of this file has {largest} bytes once it is unpacked, and {MOST_IN_MEMORY} are the most",
            file=str(file),
        )
    if not metadata.num_rows:
        raise DataError("the table has no rows", file=str(file))
    _check_columns(len(plain.names), file)
    schema, done = plain, [0]

    def parts() -> Iterator[list[Row]]:
        part: list[Row] = []
        try:
            with source:
                for batch in source.iter_batches(rows):
                    _check_size(batch, file)
                    part += batch.to_pylist()  # batches end where row groups do
                    while len(part) >= rows:
                        done[0] += rows
                        yield part[:rows]
                        part = part[rows:]
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"not a readable Parquet file ({' '.join(str(error).split())})", file=str(file)) from error
        if part:
            done[0] += len(part)
            yield part

    kinds = {
        name: kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        for name, kind in zip(schema.names, schema.types, strict=True)
    }
    return Chunks(str(file), list(schema.names), kinds, parts(), lambda: done[0] / metadata.num_rows)


def _check_columns(many: int, file: Path) -> None:
    if many > MOST_COLUMNS:
        raise DataError(f"the table has {many} columns, and {MOST_COLUMNS} are the most", file=str(file))


def _check_size(batch: pyarrow.RecordBatch, file: Path) -> None:
    """Refuse rows whose texts, each written out, would not go into memory."""
    import pyarrow
    import pyarrow.compute

    for column in batch.columns:
        if isinstance(column, pyarrow.DictionaryArray) and pyarrow.types.is_string(column.type.value_type):
            lengths = pyarrow.compute.binary_length(column.dictionary)
            size = pyarrow.compute.sum(lengths.take(column.indices)).as_py() or 0
            if size > MOST_IN_MEMORY:
                raise DataError(f"{batch.num_rows} rows of this file hold {size} bytes of text", file=str(file))


READERS: dict[str, Callable[[Path, int, TableOptions], Chunks]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
