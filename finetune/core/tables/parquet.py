"""The format Parquet. Column types are kept; `ClassLabel` columns of `datasets` are read as their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.core.errors import DataError
from finetune.core.tables.arrow_batches import MAX_UNPACKED_BYTES, chunks_of, storable, types_of
from finetune.core.tables.arrow_file import ROWS_AT_ONCE, ArrowFile
from finetune.core.tables.class_names import features_of_parquet, names_by
from finetune.core.tables.options import TableOptions
from finetune.core.tables.parted_file import PartedFile
from finetune.core.tables.table import Row, Table, TableStream, check_column_count, distinct_columns
from finetune.core.tables.table_format import TableFormat, TableWriter

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet


def read(file: Path, options: TableOptions) -> Table:
    """Return the whole table."""
    import pyarrow
    import pyarrow.parquet

    with _damage_reported(file), ArrowFile() as arrow, pyarrow.parquet.ParquetFile(file) as source:
        columns = distinct_columns(list(source.schema_arrow.names), str(file))
        features = features_of_parquet(source.schema_arrow.metadata)
        for batch in source.iter_batches(ROWS_AT_ONCE):
            arrow.add(pyarrow.RecordBatch.from_arrays(list(map(storable, batch.columns)), columns))
        decodes = {name: names_by(features.get(name)) for name in columns}
        return Table(columns, arrow.records(columns, decodes), str(file))


def stream(file: Path, chunk_rows: int, options: TableOptions) -> TableStream:
    """Return the table in chunks of rows."""
    source, schema = _opened(file)
    row_count = source.metadata.num_rows
    rows_read = [0]

    def chunks() -> Iterator[list[Row]]:
        with _damage_reported(file), source:
            for rows in chunks_of(source.iter_batches(chunk_rows), chunk_rows, file):
                rows_read[0] += len(rows)
                yield rows

    return TableStream(str(file), types_of(schema), chunks(), lambda: rows_read[0] / row_count)


def writer(out: Path, types: Mapping[str, pyarrow.DataType], *, escape_formulas: bool) -> TableWriter:
    """Return a writer that keeps the types of the columns."""
    return PartedFile(out, types, _join)


def _join(file: Path, schema: pyarrow.Schema, parts: Iterator[pyarrow.Table]) -> None:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(file, schema) as joined:
        for part in parts:
            joined.write_table(part)


@contextmanager
def _damage_reported(file: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file ({' '.join(str(error).split())})", file=str(file)) from error


def _opened(file: Path) -> tuple[pyarrow.parquet.ParquetFile, pyarrow.Schema]:
    """Return the open file and its schema, after checking that its rows fit into memory a chunk at a time."""
    import pyarrow
    import pyarrow.parquet

    with _damage_reported(file):
        with pyarrow.parquet.ParquetFile(file) as plain:
            schema = plain.schema_arrow
            distinct_columns(list(schema.names), str(file))
        texts = [name for name, kind in zip(schema.names, schema.types, strict=True) if pyarrow.types.is_string(kind)]
        # a long text repeated a million times takes no space in a file: as a dictionary, it takes none in memory either
        source = pyarrow.parquet.ParquetFile(file, read_dictionary=texts)
        metadata = source.metadata
        largest = max((metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)), default=0)
    if largest > MAX_UNPACKED_BYTES:
        raise DataError(
            f"a row group of this file has {largest} bytes once unpacked; at most {MAX_UNPACKED_BYTES} are accepted. "
            "Write the file with smaller row groups",
            file=str(file),
        )
    if not metadata.num_rows:
        raise DataError("the table has no rows", file=str(file))
    check_column_count(len(schema.names), file)
    return source, schema


PARQUET = TableFormat("Parquet", stream, read, writer)
