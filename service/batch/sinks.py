"""Where scored rows go, a chunk at a time: a file that can be gone on with after any chunk.

Knows: CSV, TSV, JSON Lines and Parquet; what a spreadsheet would run as a formula.
Does not know: where rows come from.

What is unfinished lies beside the output, under its name with a dot before it; the output appears by a rename.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow

Row = Mapping[str, Any]


class Sink(Protocol):
    """Takes rows; `mark` makes what was written last, and says in JSON what `resume` needs to know."""

    def resume(self, mark: dict[str, Any]) -> None:
        """Go on from a mark of an earlier run.

        Raises:
            OSError: what was written then is not there.
        """

    def write(self, rows: Sequence[Row]) -> None:
        """Add a chunk."""

    def mark(self) -> dict[str, Any]:
        """Where the chunks so far end."""

    def size(self) -> int:
        """Bytes that are written so far."""

    def finish(self) -> None:
        """Put the output in place."""

    def discard(self) -> None:
        """Leave nothing behind."""

    def close(self) -> None:
        """Let go of what is open; what is marked stays."""


class LinesSink:
    """CSV, TSV or JSON Lines.

    Args:
        columns: of CSV and TSV, in order.
        neutral: put a quote before cells that a spreadsheet would run.
    """

    def __init__(self, out: Path, columns: Sequence[str], *, neutral: bool) -> None:
        self._out, self._partial = out, out.with_name(f".{out.name}.partial")
        self._columns, self._neutral = list(columns), neutral
        self._is_json = out.suffix.lower() == ".jsonl"
        self._separator = "\t" if out.suffix.lower() == ".tsv" else ","
        # without a buffer: where the disk is full, nothing waits that would be written when the file is closed
        self._stream: io.FileIO | None = None

    def resume(self, mark: dict[str, Any]) -> None:
        """See `Sink`."""
        stream = io.FileIO(self._partial, "r+")
        if stream.seek(0, os.SEEK_END) < mark["bytes"]:
            stream.close()
            raise FileNotFoundError(f"{self._partial} is shorter than it was")
        stream.seek(mark["bytes"])
        stream.truncate()
        self._stream = stream

    def write(self, rows: Sequence[Row]) -> None:
        """See `Sink`."""
        text = io.StringIO(newline="")
        lines = csv.writer(text, delimiter=self._separator)
        if self._stream is None:
            self._stream = io.FileIO(self._partial, "w")
            if not self._is_json:
                lines.writerow(map(self._cell, self._columns))
        if self._is_json:
            text.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        else:
            lines.writerows([self._cell(row.get(column)) for column in self._columns] for row in rows)
        rest = memoryview(text.getvalue().encode("utf-8", errors="replace"))
        while rest:
            rest = rest[self._stream.write(rest) :]

    def mark(self) -> dict[str, Any]:
        """See `Sink`."""
        if self._stream is None:
            raise ValueError("nothing was written")
        os.fsync(self._stream.fileno())
        return {"bytes": self._stream.tell()}

    def size(self) -> int:
        """See `Sink`."""
        return self._partial.stat().st_size if self._partial.exists() else 0

    def finish(self) -> None:
        """See `Sink`."""
        self.close()
        self._partial.replace(self._out)

    def discard(self) -> None:
        """See `Sink`."""
        self.close()
        self._partial.unlink(missing_ok=True)

    def close(self) -> None:
        """See `Sink`."""
        if self._stream is not None:
            self._stream.close()

    def _cell(self, value: Any) -> str:
        if isinstance(value, list | dict):
            value = json.dumps(value, ensure_ascii=False, default=str)
        text = "" if value is None else str(value)
        # a lone surrogate of a JSON file cannot be written as UTF-8
        text = text.encode("utf-8", "replace").decode("utf-8")
        return f"'{text}" if self._neutral and is_formula(text) else text


class ParquetSink:
    """Parquet: a file for each chunk, joined at the end: one that is not closed cannot be gone on with."""

    def __init__(self, out: Path, schema: pyarrow.Schema) -> None:
        self._out, self._schema = out, schema
        self._parts, self._count = out.with_name(f".{out.name}.partial"), 0

    def resume(self, mark: dict[str, Any]) -> None:
        """See `Sink`."""
        for number in range(mark["parts"]):
            if not self._part(number).is_file():
                raise FileNotFoundError(f"{self._part(number)} is gone")
        self._count = mark["parts"]

    def write(self, rows: Sequence[Row]) -> None:
        """See `Sink`."""
        import pyarrow
        import pyarrow.parquet

        self._parts.mkdir(exist_ok=True)
        cells = [
            pyarrow.array([_fitting(row.get(field.name), field.type) for row in rows], field.type)
            for field in self._schema
        ]
        table = pyarrow.Table.from_arrays(cells, schema=self._schema)
        packed = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, packed)
        rest = memoryview(packed.getvalue())
        with io.FileIO(self._part(self._count), "w") as stream:
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        self._count += 1

    def mark(self) -> dict[str, Any]:
        """See `Sink`."""
        return {"parts": self._count}

    def size(self) -> int:
        """See `Sink`."""
        return sum(part.stat().st_size for part in self._parts.glob("*.parquet"))

    def finish(self) -> None:
        """See `Sink`."""
        import pyarrow.parquet

        joined = self._parts / "joined"
        try:
            with pyarrow.parquet.ParquetWriter(joined, self._schema) as writer:
                for number in range(self._count):
                    writer.write_table(pyarrow.parquet.read_table(self._part(number)))
        except OSError:
            joined.unlink(missing_ok=True)  # where the disk is full, it would take the room of another try
            raise
        joined.replace(self._out)
        self.discard()

    def discard(self) -> None:
        """See `Sink`."""
        shutil.rmtree(self._parts, ignore_errors=True)

    def close(self) -> None:
        """See `Sink`."""

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:06d}.parquet"


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would take a cell for something to compute; a number is none."""
    return text[:1] in ("=", "+", "-", "@", "\t", "\r") and not re.fullmatch(r"[+-]?\d[\d., ]*([eE][+-]?\d+)?%?", text)


def _fitting(value: Any, kind: pyarrow.DataType) -> Any:
    """A cell as its column's type takes it: what holds several kinds became text."""
    import pyarrow

    if value is None or not pyarrow.types.is_string(kind):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")
