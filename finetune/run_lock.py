"""One run at a time for each output folder: a lock beside it that ends with the process.

A crash leaves at most an empty, unlocked file, which the next run takes over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from finetune.errors import ConfigError


def lock_file(out: Path) -> Path:
    """Return the file that a run holds locked while it makes the model folder `out`."""
    return out.with_name(f".{out.name}.lock")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of an output folder; missing parent folders are made, and removed again if they stay empty.

    Raises:
        ConfigError: another run holds it, or nothing can be written there.
    """
    missing = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stream = _take(out)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written: {error.strerror or error}. Name another folder with --out"
        ) from error
    try:
        yield
    finally:
        # removed while it is held: a run that opened this file meanwhile sees that it is gone, and opens a new one
        with suppress(OSError):
            lock_file(out).unlink(missing_ok=True)
        stream.close()
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()


def is_locked(out: Path) -> bool:
    """Return whether a run that makes `out` is under way, in this process or another."""
    try:
        stream = lock_file(out).open("rb")
    except OSError:
        return False
    with stream:
        return not _lock(stream)


def require_unlocked(out: Path) -> None:
    """Refuse an output folder that another run is making.

    Raises:
        ConfigError: it is under way.
    """
    if is_locked(out):
        raise ConfigError(
            f"another run is writing {out}: wait until it ends, stop it, or name another folder with --out"
        )


def _take(out: Path) -> IO[bytes]:
    file = lock_file(out)
    while True:
        stream = file.open("ab")
        if not _lock(stream):
            stream.close()
            require_unlocked(out)
            continue  # it has just ended
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                return stream
        stream.close()  # the run that held it removed the file in between


def _lock(stream: IO[bytes]) -> bool:
    """Lock an open file without waiting; False if somebody else has it."""
    try:
        import fcntl
    except ImportError:  # on Windows there is no lock
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
