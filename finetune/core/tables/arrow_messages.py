"""The sizes that the record batches of an Arrow file have once unpacked, read from its metadata before anything is
unpacked: pyarrow reserves and fills whatever a file asks for.

The layout of the metadata is that of the Arrow columnar format (Message.fbs, File.fbs), in FlatBuffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_MAGIC = b"ARROW1"
DICTIONARY_BATCH, RECORD_BATCH = 2, 3
HEADER_TYPE, HEADER = 1, 2
"""Positions of fields in a Message."""

BUFFERS, COMPRESSION, DATA = 2, 3, 1
"""Positions of fields in a RecordBatch, and of its RecordBatch in a DictionaryBatch."""

FOOTER_DICTIONARIES, FOOTER_BATCHES, BLOCK_BYTES, BUFFER_BYTES = 2, 3, 24, 16


def unpacked_sizes(file: Path) -> Iterator[int]:
    """Yield the bytes of each dictionary and record batch of a file or stream once unpacked.

    Raises:
        pyarrow.ArrowException, OSError, struct.error, IndexError: the file is damaged.
    """
    import pyarrow

    with pyarrow.memory_map(str(file)) as source:
        if source.read(len(FILE_MAGIC)) == FILE_MAGIC:
            for offset in _block_offsets(source):
                source.seek(offset)
                yield _unpacked_size(pyarrow.ipc.read_message(source))
            return
        source.seek(0)
        for message in pyarrow.ipc.MessageReader.open_stream(source):
            if message.type != "schema":
                yield _unpacked_size(message)


def _block_offsets(source: Any) -> Iterator[int]:
    size, tail = source.size(), struct.calcsize("<i") + len(FILE_MAGIC)
    source.seek(size - tail)
    (length,) = struct.unpack_from("<i", source.read(tail))
    source.seek(max(0, size - tail - max(0, length)))
    footer = memoryview(source.read(length))
    root = _target(footer, 0)
    for name in (FOOTER_DICTIONARIES, FOOTER_BATCHES):
        start, count = _vector(footer, root, name)
        for number in range(count):
            yield struct.unpack_from("<q", footer, start + BLOCK_BYTES * number)[0]


def _unpacked_size(message: Any) -> int:
    metadata, body = memoryview(message.metadata), message.body
    root = _target(metadata, 0)
    kind, header = _field(metadata, root, HEADER_TYPE), _field(metadata, root, HEADER)
    if kind is None or header is None or body is None or metadata[kind] not in (DICTIONARY_BATCH, RECORD_BATCH):
        return 0
    batch = _target(metadata, header)
    if metadata[kind] == DICTIONARY_BATCH:
        batch = _target(metadata, _field(metadata, batch, DATA) or 0)
    if _field(metadata, batch, COMPRESSION) is None:
        return int(body.size)
    size, content = 0, memoryview(body)
    start, count = _vector(metadata, batch, BUFFERS)
    for number in range(count):
        offset, length = struct.unpack_from("<qq", metadata, start + BUFFER_BYTES * number)
        if length:
            (unpacked,) = struct.unpack_from("<q", content, offset)
            size += length if unpacked == -1 else unpacked  # -1: this buffer is not compressed
    return size


def _target(buffer: memoryview, place: int) -> int:
    """Return the position that the offset at a position points to."""
    return int(place + struct.unpack_from("<I", buffer, place)[0])


def _field(buffer: memoryview, table: int, index: int) -> int | None:
    """Return the position of a table's field; None where it is left out."""
    fields = table - struct.unpack_from("<i", buffer, table)[0]
    place = 4 + 2 * index
    if place >= struct.unpack_from("<H", buffer, fields)[0]:
        return None
    offset = struct.unpack_from("<H", buffer, fields + place)[0]
    return table + offset if offset else None


def _vector(buffer: memoryview, table: int, index: int) -> tuple[int, int]:
    """Return where the elements of a table's vector begin, and how many there are."""
    field = _field(buffer, table, index)
    if field is None:
        return 0, 0
    start = _target(buffer, field)
    return start + 4, struct.unpack_from("<I", buffer, start)[0]
