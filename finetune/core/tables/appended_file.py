"""Output in a text format: rows are appended to a file that can be cut back to any mark and continued."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.core.tables.text_file import packing_of

BLOCK_BYTES = 1 << 20

Encode = Callable[[Sequence[Mapping[str, Any]], bool], str]


class AppendedFile:
    """Implements `TableWriter` for formats in which a table is the text of its chunks, one after the other.

    Args:
        out: the output; until it is finished, a file of this name with `.` before and `.partial` behind is written.
        encode: returns the text of some rows; its second argument says whether they are the first of the file.
        ends: the text behind the last row, and that of a file without rows.

    An output with the suffix of a compression is packed once it is complete: as one stream, since some readers stop at
    the end of the first.
    """

    def __init__(self, out: Path, encode: Encode, ends: tuple[str, str] = ("", "")) -> None:
        self._out, self._partial = out, out.with_name(f".{out.name}.partial")
        self._packed = out.with_name(f".{out.name}.packed")
        self._encode, self._ends = encode, ends
        # unbuffered: on a full disk, nothing is left in a buffer that would fail again when the file is closed
        self._stream: io.FileIO | None = None

    def resume(self, mark: dict[str, Any]) -> None:
        """See `TableWriter`."""
        stream = io.FileIO(self._partial, "r+")
        if stream.seek(0, os.SEEK_END) < mark["bytes"]:
            stream.close()
            raise FileNotFoundError(f"{self._partial} is shorter than it was")
        stream.seek(mark["bytes"])
        stream.truncate()
        self._stream = stream

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `TableWriter`."""
        if self._stream is None:
            self._stream = io.FileIO(self._partial, "w")
        self._append(self._encode(rows, self._stream.tell() == 0))

    def mark(self) -> dict[str, Any]:
        """See `TableWriter`."""
        if self._stream is None:
            raise ValueError("nothing was written")
        os.fsync(self._stream.fileno())
        return {"bytes": self._stream.tell()}

    def size(self) -> int:
        """See `TableWriter`."""
        return self._partial.stat().st_size if self._partial.exists() else 0

    def finish(self) -> None:
        """See `TableWriter`."""
        if self._stream is not None:
            self._append(self._ends[self._stream.tell() == 0])
        self.close()
        packing = packing_of(self._out)
        if packing is None:
            self._partial.replace(self._out)
        else:
            self._pack(packing)
            self._packed.replace(self._out)
            self._partial.unlink()

    def discard(self) -> None:
        """See `TableWriter`."""
        self.close()
        for file in (self._partial, self._packed):
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """See `TableWriter`."""
        if self._stream is not None:
            self._stream.close()

    def _append(self, text: str) -> None:
        if self._stream is None:
            raise ValueError("nothing was written")
        rest = memoryview(text.encode("utf-8", errors="replace"))
        while rest:
            rest = rest[self._stream.write(rest) :]

    def _pack(self, packing: str) -> None:
        import pyarrow

        try:
            with (
                self._partial.open("rb") as plain,
                pyarrow.output_stream(str(self._packed), compression=packing) as out,
            ):
                while block := plain.read(BLOCK_BYTES):
                    out.write(block)
        except OSError:
            self._packed.unlink(missing_ok=True)  # on a full disk it would take the space that the next attempt needs
            raise
