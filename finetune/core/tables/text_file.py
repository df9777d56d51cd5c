"""Text tables as bytes: a file as it is, or one in gzip or zstd, unpacked while it is read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

from finetune.core.errors import DataError

PACKINGS = {".gz": "gzip", ".zst": "zstd"}
"""Last suffix of a packed file -> its compression, as pyarrow calls it."""

FIRST_BYTES = {"gzip": b"\x1f\x8b", "zstd": b"(\xb5/\xfd"}

MAX_RATIO, UNCHECKED_BYTES = 100, 64 * 2**20
"""Times its own size that a file may have once unpacked, from a size on; texts are packed to a third or a tenth."""


def packing_of(path: Path) -> str | None:
    """Return the compression that a file's name stands for; None for a plain file."""
    return PACKINGS.get(path.suffix.lower())


def suffix_of(path: str | Path) -> str:
    """Return the suffix of a file in lower case; of a packed one with that of its content, as in `.csv.gz`."""
    file = Path(path)
    inner = Path(file.stem).suffix.lower() if packing_of(file) is not None else ""
    return inner + file.suffix.lower()


def stem_of(path: str | Path) -> str:
    """Return a file's name without what `suffix_of` returns."""
    file = Path(path)
    return Path(file.stem).stem if packing_of(file) is not None else file.stem


class TextFile:
    """A file of text, packed or not.

    Attributes:
        path: the file on disk.
        suffix: the suffix of the text, in lower case and without that of the compression.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        packed = path.suffix.lower() if packing_of(path) is not None else ""
        self.suffix = suffix_of(path).removesuffix(packed)

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> IO[bytes]:
        """Return the bytes of the text from its beginning.

        Raises:
            DataError: a packed file is not what its name says, is damaged, or has more bytes than are accepted; also
                while it is read.
        """
        packing = packing_of(self.path)
        return self.path.open("rb") if packing is None else io.BufferedReader(_Unpacked(self.path, packing), 1 << 18)

    def opened(self, encoding: str, newline: str = "") -> io.TextIOWrapper:
        """Return the text from its beginning, with its line ends as they are."""
        return io.TextIOWrapper(self.open(), encoding=encoding, newline=newline)

    def fraction(self, stream: Any) -> float:
        """Return how much of the file has been read, 0 to 1, by a stream that `open` returned."""
        if stream.closed:
            return 1.0
        is_packed = packing_of(self.path) is not None
        position = stream.raw.position() if is_packed else stream.tell()
        return min(1.0, float(position) / max(1, self.path.stat().st_size))


class _Unpacked(io.RawIOBase):
    """The content of a packed file; memory does not grow with it."""

    def __init__(self, path: Path, packing: str) -> None:
        import pyarrow

        self._path, self._packing, self._count = path, packing, 0
        with path.open("rb") as file:
            head = file.read(4)
        if not head.startswith(FIRST_BYTES[packing]):
            raise DataError(f"not {packing}-compressed, as its name says: rename it to {path.stem}", file=str(path))
        self._source = pyarrow.OSFile(str(path))
        self._stream = pyarrow.CompressedInputStream(self._source, packing)
        self._limit = max(UNCHECKED_BYTES, MAX_RATIO * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._stream.read(len(buffer))
        except (OSError, ValueError) as error:  # pyarrow's exceptions are among these
            message = " ".join(str(error).split())[:200]
            reason = f"the {self._packing} file is damaged or incomplete ({message})"
            raise DataError(reason, file=str(self._path)) from error
        self._count += len(block)
        if self._count > self._limit:
            raise DataError(
                f"the file unpacks to more than {MAX_RATIO} times its size, as texts do not: unpack it and look at it",
                file=str(self._path),
            )
        buffer[: len(block)] = block
        return len(block)

    def position(self) -> int:
        """Return how many packed bytes have been read."""
        return int(self._source.tell())

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._source.close()
        super().close()
