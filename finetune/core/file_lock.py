"""A lock file that is released when its process ends.

A crash leaves at most an empty, unlocked file, which the next holder reuses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def lock_file(out: Path) -> Path:
    """Return the lock file of the file or folder `out`."""
    return out.with_name(f".{out.name}.lock")


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the lock of a file or folder while it is written.

    Raises:
        BlockingIOError: another process, or another thread of this one, holds it.
        OSError: the lock file cannot be created.
    """
    file = lock_file(out)
    stream = _take(file)
    try:
        yield
    finally:
        if os.name == "nt":  # an open file cannot be removed there
            stream.close()
        # removed while it is held: a process that has opened the file meanwhile finds it deleted and opens a new one
        with suppress(OSError):
            file.unlink(missing_ok=True)
        stream.close()


def is_held(out: Path) -> bool:
    """Return whether the lock of `out` is held."""
    try:
        stream = lock_file(out).open("rb")
    except OSError:
        return False
    with stream:
        return not _lock(stream)


def _take(file: Path) -> IO[bytes]:
    while True:
        stream = file.open("ab")
        if not _lock(stream):
            stream.close()
            raise BlockingIOError(f"{file} is locked")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                return stream
        stream.close()  # its holder removed the file between opening and locking it


def _lock(stream: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:  # on Windows there is no lock
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
