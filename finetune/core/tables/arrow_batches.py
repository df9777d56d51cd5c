"""Record batches of files that anyone may have written: their rows in chunks, and limits on what they unpack to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.core.errors import DataError
from finetune.core.tables.table import Row

if TYPE_CHECKING:
    import pyarrow

MAX_UNPACKED_BYTES = 2 * 2**30
"""Bytes that a batch of rows, or the texts of one chunk, may have once unpacked: a small file can hold any number."""


def types_of(schema: pyarrow.Schema) -> dict[str, pyarrow.DataType]:
    """Return the type of each column once its cells are written out."""
    return {name: _plain(kind) for name, kind in zip(schema.names, schema.types, strict=True)}


def storable(array: pyarrow.Array) -> pyarrow.Array:
    """Return an array of a type that an `ArrowFile` can store and take rows of."""
    import pyarrow

    if isinstance(array, pyarrow.DictionaryArray):
        return array.dictionary_decode()  # each batch may have its own dictionary, which the file format cannot replace
    if pyarrow.types.is_string_view(array.type):
        return array.cast(pyarrow.large_string())
    return array.cast(pyarrow.large_binary()) if pyarrow.types.is_binary_view(array.type) else array


def chunks_of(batches: Iterable[pyarrow.RecordBatch], chunk_rows: int, file: Path) -> Iterator[list[Row]]:
    """Yield the rows of batches of any length in chunks.

    Raises:
        DataError: rows whose texts, each written out, would not fit into memory.
    """
    rows: list[Row] = []
    for batch in batches:
        for start in range(0, batch.num_rows, chunk_rows):
            part = batch.slice(start, chunk_rows)
            check_size(part, file)
            rows += part.to_pylist()
            while len(rows) >= chunk_rows:
                yield rows[:chunk_rows]
                rows = rows[chunk_rows:]
    if rows:
        yield rows


def check_size(batch: pyarrow.RecordBatch, file: Path) -> None:
    """Raise `DataError` for rows whose texts, each written out, would not fit into memory."""
    import pyarrow
    import pyarrow.compute

    for column in batch.columns:
        if isinstance(column, pyarrow.DictionaryArray) and pyarrow.types.is_string(column.type.value_type):
            lengths = pyarrow.compute.binary_length(column.dictionary).take(column.indices)
        elif pyarrow.types.is_string_view(column.type):
            lengths = pyarrow.compute.binary_length(column)
        else:
            continue
        size = pyarrow.compute.sum(lengths).as_py() or 0
        if size > MAX_UNPACKED_BYTES:
            raise DataError(
                f"{batch.num_rows} rows of this file hold {size} bytes of text; at most {MAX_UNPACKED_BYTES} are "
                "accepted",
                file=str(file),
            )


def check_types(schema: pyarrow.Schema, file: Path) -> None:
    """Raise `DataError` for columns of lists or structs of values that are stored once and repeated: their size is not
    known before they are written out."""
    for field in schema:
        inner = [child for child in _with_children(field.type) if child is not field.type]
        repeated = [kind for kind in inner if _is_repeated(kind)] + [field.type] * _is_run_end_encoded(field.type)
        if repeated:
            raise DataError(
                f"columns of type {field.type} are not read: cast it to plain text or numbers",
                file=str(file),
                column=field.name,
            )


def _plain(kind: pyarrow.DataType) -> pyarrow.DataType:
    import pyarrow

    if pyarrow.types.is_dictionary(kind):
        return kind.value_type
    return pyarrow.string() if pyarrow.types.is_string_view(kind) else kind


def _with_children(kind: pyarrow.DataType) -> Iterator[pyarrow.DataType]:
    yield kind
    if _is_nested(kind):
        for number in range(kind.num_fields):
            yield from _with_children(kind.field(number).type)


def _is_nested(kind: pyarrow.DataType) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_nested(kind))


def _is_run_end_encoded(kind: pyarrow.DataType) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_run_end_encoded(kind))


def _is_repeated(kind: pyarrow.DataType) -> bool:
    import pyarrow

    kinds = pyarrow.types
    return bool(kinds.is_dictionary(kind) or kinds.is_string_view(kind) or kinds.is_binary_view(kind))
