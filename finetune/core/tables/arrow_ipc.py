"""The format Arrow (.arrow, and .feather of version 2): record batches as a file or as a stream, as `datasets` saves
them. Column types are kept; `ClassLabel` columns are read as their names."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.core.errors import DataError
from finetune.core.tables.arrow_batches import MAX_UNPACKED_BYTES, check_types, chunks_of, storable, types_of
from finetune.core.tables.arrow_file import ROWS_AT_ONCE, ArrowFile
from finetune.core.tables.arrow_messages import FILE_MAGIC, unpacked_sizes
from finetune.core.tables.class_names import features_of_parquet, names_by
from finetune.core.tables.options import TableOptions
from finetune.core.tables.parted_file import PartedFile
from finetune.core.tables.table import Row, Table, TableStream, check_column_count, distinct_columns
from finetune.core.tables.table_format import TableFormat, TableWriter

if TYPE_CHECKING:
    import pyarrow

FEATHER_1 = b"FEA1"


def read(file: Path, options: TableOptions) -> Table:
    """Return the whole table."""
    import pyarrow

    schema = _checked_schema(file)
    columns = list(schema.names)
    features = features_of_parquet(schema.metadata)
    with _damage_reported(file), ArrowFile() as arrow:
        for batch, _ in _batches(file):
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                part = batch.slice(start, ROWS_AT_ONCE)
                arrow.add(pyarrow.RecordBatch.from_arrays(list(map(storable, part.columns)), columns))
        decodes = {name: names_by(features.get(name)) for name in columns}
        return Table(columns, arrow.records(columns, decodes), str(file))


def stream(file: Path, chunk_rows: int, options: TableOptions) -> TableStream:
    """Return the table in chunks of rows."""
    schema = _checked_schema(file)
    check_column_count(len(schema.names), file)
    with _damage_reported(file):
        if not any(batch.num_rows for batch, _ in _batches(file)):
            raise DataError("the table has no rows", file=str(file))
    fraction = [0.0]

    def batches() -> Iterator[pyarrow.RecordBatch]:
        for batch, fraction[0] in _batches(file):
            yield batch
        fraction[0] = 1.0

    def chunks() -> Iterator[list[Row]]:
        with _damage_reported(file):
            yield from chunks_of(batches(), chunk_rows, file)

    return TableStream(str(file), types_of(schema), chunks(), lambda: fraction[0])


def writer(out: Path, types: Mapping[str, pyarrow.DataType], *, escape_formulas: bool) -> TableWriter:
    """Return a writer that keeps the types of the columns."""
    return PartedFile(out, types, _join)


def _join(file: Path, schema: pyarrow.Schema, parts: Iterator[pyarrow.Table]) -> None:
    import pyarrow

    with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_file(out, schema) as joined:
        for part in parts:
            joined.write_table(part)


@contextmanager
def _damage_reported(file: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, EOFError, struct.error, IndexError) as error:
        raise DataError(f"not a readable Arrow file ({' '.join(str(error).split())})", file=str(file)) from error


def _checked_schema(file: Path) -> pyarrow.Schema:
    """Return the schema, after checking that the batches fit into memory one at a time.

    Raises:
        DataError: they do not, the file is damaged, or its columns cannot be read.
    """
    import pyarrow

    with file.open("rb") as start:
        if start.read(len(FEATHER_1)) == FEATHER_1:
            raise DataError("a Feather file of version 1: write it as version 2, or as .parquet", file=str(file))
    with _damage_reported(file):
        largest = max(unpacked_sizes(file), default=0)
        with pyarrow.memory_map(str(file)) as source:
            schema = _reader(source).schema
    if largest > MAX_UNPACKED_BYTES:
        raise DataError(
            f"a batch of this file has {largest} bytes once unpacked; at most {MAX_UNPACKED_BYTES} are accepted. "
            "Write the file with smaller batches",
            file=str(file),
        )
    distinct_columns(list(schema.names), str(file))
    check_types(schema, file)
    return schema


def _reader(source: pyarrow.NativeFile) -> pyarrow.RecordBatchFileReader | pyarrow.RecordBatchStreamReader:
    import pyarrow

    is_file = source.read(len(FILE_MAGIC)) == FILE_MAGIC
    source.seek(0)
    return pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)


def _batches(file: Path) -> Iterator[tuple[pyarrow.RecordBatch, float]]:
    """Yield each record batch, and the fraction of the file that has been read after it."""
    import pyarrow

    with pyarrow.memory_map(str(file)) as source:
        reader, size = _reader(source), source.size()
        if isinstance(reader, pyarrow.ipc.RecordBatchFileReader):
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number), (number + 1) / reader.num_record_batches
            return
        for batch in reader:
            yield batch, min(1.0, source.tell() / size)


ARROW = TableFormat("Arrow", stream, read, writer)
