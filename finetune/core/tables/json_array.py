"""The format JSON: one list of objects, read an object at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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

BLOCK_CHARACTERS = 1 << 18
MAX_OBJECT_CHARACTERS = 64 * 2**20
"""Characters that one object may have."""

NO_LIST = "a .json table is one list of objects, [{...}, {...}]"
BLANKS = " \t\r\n\ufeff"


def read(file: Path, options: TableOptions) -> Table:
    """Return the whole table; its columns are the keys of all rows, in the order of their first use."""
    source = TextFile(file)
    encoding, note = encoding_of(source, options.encoding, has_lines=False)
    return read_objects(source, partial(_objects, source, encoding), note)


def stream(file: Path, chunk_rows: int, options: TableOptions) -> TableStream:
    """Return the table in chunks of rows, after one pass over the file that finds columns, types and damaged rows."""
    source = TextFile(file)
    encoding, note = encoding_of(source, options.encoding, has_lines=False)
    return stream_objects(source, partial(_objects, source, encoding), note, chunk_rows)


def writer(out: Path, types: Mapping[str, pyarrow.DataType], *, escape_formulas: bool) -> TableWriter:
    """Return a writer; rows are written with the keys that they have, one a line."""

    def encode(rows: Sequence[Mapping[str, Any]], is_first: bool) -> str:
        return "".join(f"{'[' if is_first and not number else ','}\n{as_json(row)}" for number, row in enumerate(rows))

    return AppendedFile(out, encode, ends=("\n]\n", "[]\n"))


def _objects(file: TextFile, encoding: str, fraction: list[float]) -> Iterator[tuple[str, Row]]:
    """Yield each object of the list as it is written, and as a dict.

    Raises:
        DataError: the file is no list, or an element is no object; names its row.
    """
    with file.opened(encoding) as stream:
        text = _Characters(stream)
        if (first := text.next()) != "[":
            hint = "with one object after the other, name it .jsonl" if first == "{" else "pandas: orient='records'"
            raise DataError(f"{NO_LIST}, and this file begins with {first!r}; {hint}", file=str(file))
        text.skip()
        number = 0
        while text.next() != "]" or number:
            number += 1
            if text.next() != "{":
                raise DataError(f"{NO_LIST}, and this element begins with {text.next()!r}", file=str(file), row=number)
            try:
                yield text.value()
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else error
                raise DataError(f"this element is not JSON ({reason})", file=str(file), row=number) from error
            fraction[0] = file.fraction(stream.buffer)
            after = text.next()
            if after == "]":
                break
            if after != ",":
                raise DataError(f"a comma should follow this element, not {after!r}", file=str(file), row=number)
            text.skip()
        text.skip()
        if text.next():
            raise DataError(f"the list ends before {text.next()!r}: {NO_LIST}", file=str(file))
    fraction[0] = 1.0


class _Characters:
    """The characters of a stream, with little more than one value of them in memory."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._text, self._place = stream, "", 0
        self._decoder = json.JSONDecoder()

    def next(self) -> str:
        """Return the next character that is not blank, without moving past it; empty at the end."""
        while True:
            while self._place < len(self._text):
                if self._text[self._place] not in BLANKS:
                    return self._text[self._place]
                self._place += 1
            if not self._more(BLOCK_CHARACTERS):
                return ""

    def skip(self) -> None:
        """Move past the character that `next` returned."""
        self._place += 1

    def value(self) -> tuple[str, Any]:
        """Return the next value as it is written and decoded, and move past it.

        Raises:
            ValueError: it is not JSON, is incomplete or has more than `MAX_OBJECT_CHARACTERS`.
        """
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except ValueError:
                rest = len(self._text) - self._place
                if rest >= MAX_OBJECT_CHARACTERS or not self._more(max(rest, BLOCK_CHARACTERS)):
                    raise
                continue
            text, self._place = self._text[self._place : end], end
            return text, value

    def _more(self, count: int) -> bool:
        more = self._stream.read(count)
        self._text, self._place = self._text[self._place :] + more, 0
        return bool(more)


JSON_ARRAY = TableFormat("JSON", stream, read, writer, frozenset({"encoding"}))
