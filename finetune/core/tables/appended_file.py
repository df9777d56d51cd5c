"""Output in a text format: rows are appended to a file that can be cut back to any mark and continued."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Encode = Callable[[Sequence[Mapping[str, Any]], bool], str]


class AppendedFile:
    """Implements `TableWriter` for formats in which a table is the text of its chunks, one after the other.

    Args:
        out: the output; until it is finished, a file of this name with `.` before and `.partial` behind is written.
        encode: returns the text of some rows; its second argument says whether they are the first of the file.
    """

    def __init__(self, out: Path, encode: Encode) -> None:
        self._out, self._partial, self._encode = out, out.with_name(f".{out.name}.partial"), encode
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
        is_first = self._stream is None
        text = self._encode(rows, is_first)
        if self._stream is None:
            self._stream = io.FileIO(self._partial, "w")
        rest = memoryview(text.encode("utf-8", errors="replace"))
        while rest:
            rest = rest[self._stream.write(rest) :]

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
        self.close()
        self._partial.replace(self._out)

    def discard(self) -> None:
        """See `TableWriter`."""
        self.close()
        self._partial.unlink(missing_ok=True)

    def close(self) -> None:
        """See `TableWriter`."""
        if self._stream is not None:
            self._stream.close()
