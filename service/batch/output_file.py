"""An output that is being written: what may not be overwritten, its lock, how far an earlier run came, a full disk.

Knows: the files beside an output, and when they go.
Does not know: what is written (files.py), file formats (sinks.py).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from finetune.core.disk_space import FULL
from finetune.core.file_lock import held
from finetune.core.model_folder import write_json
from finetune.core.tables.formats import OUTPUT_SUFFIXES
from finetune.core.tables.table_format import TableWriter
from service.errors import BadRequest, ServiceError


class DiskFull(ServiceError):
    """A file could not grow while it was written."""

    code = "disk_full"
    status = 507


def check_place(out: Path, table: Path) -> None:
    """Refuse an output that cannot be written, whoever writes beside it.

    Raises:
        BadRequest: unknown suffix, no such folder, a folder, or the input itself.
    """
    if out.suffix.lower() not in OUTPUT_SUFFIXES:
        raise BadRequest(f"{out}: the output's suffix must be one of {', '.join(OUTPUT_SUFFIXES)}")
    if not out.parent.is_dir():
        raise BadRequest(f"{out}: there is no folder {out.parent}")
    if out.is_dir():
        raise BadRequest(f"{out} is a folder: name a file")
    if out.exists() and out.samefile(table):
        raise BadRequest(f"{out} is the input itself: name another file")


def check_output(out: Path, table: Path, *, overwrite: bool) -> None:
    """Refuse an output that would cost somebody a file, before any work is done.

    Raises:
        BadRequest: unknown suffix, no such folder, the input itself, or a file that exists.
    """
    check_place(out, table)
    if out.exists() and not overwrite:
        raise BadRequest(f"{out} exists already: name another file, or pass --overwrite to replace it")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of an output. It ends with the process, however that ends, and its file goes last of all.

    Raises:
        BadRequest: another run holds it, or the folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(out))
        except BlockingIOError as error:
            raise BadRequest(f"another run is writing {out}: wait for it, or name another file") from error
        except OSError as error:
            raise BadRequest(f"{out}: its folder cannot be written ({error.strerror})") from error
        yield


class Unfinished:
    """What is known of a run that was not finished, in a file beside its output.

    Args:
        identity: all that decides the content of the output, as JSON; a run goes on only where it is the same.
    """

    def __init__(self, out: Path, identity: Any) -> None:
        self._file = out.with_name(f".{out.name}.progress.json")
        self._fresh = self._file.with_name(f"{self._file.name}.new")
        self._identity = json.loads(json.dumps(identity))

    def resume(self, writer: TableWriter) -> tuple[int, int]:
        """Rows and errors of an earlier run with the same table and question, if there was one."""
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            if found["identity"] == self._identity:
                writer.resume(found["mark"])
                return int(found["rows"]), int(found["errors"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing that can be gone on with
        writer.discard()
        return 0, 0

    def keep(self, rows: int, errors: int, mark: dict[str, Any]) -> None:
        """Record that so many rows are done; what was recorded before stays where this fails."""
        content = {"identity": self._identity, "rows": rows, "errors": errors, "mark": mark}
        try:
            write_json(self._fresh, content)
            self._fresh.replace(self._file)
        except OSError:
            self._fresh.unlink(missing_ok=True)
            raise

    def forget(self) -> None:
        """Remove the file."""
        self._file.unlink(missing_ok=True)


def is_no_room(error: OSError) -> bool:
    """Whether an error says that a file could not grow."""
    return _number(error) in FULL


def disk_full(error: OSError, out: Path, rows: int, share: float, size: int) -> DiskFull:
    """Return the error for an output that could not grow.

    Args:
        rows: that are done and kept.
        share: how much of the table they are, 0 to 1.
        size: bytes that they take.
    """
    # parts of a Parquet file that are all there are joined, which takes their room once more
    more = round(size * (1 - share) / share) if 0 < share < 1 else size if share else None
    needed = f"about {more} more bytes are needed, and " if more is not None and rows else ""
    number = _number(error)
    limit = " or raise the limit of file sizes (ulimit -f)" if number == errno.EFBIG else ""
    then = (
        f"the {rows} rows that are done are kept, and the same command goes on from there"
        if rows
        else "then run the same command again"
    )
    return DiskFull(
        f"{out} could not be written ({os.strerror(number)}): {needed}{shutil.disk_usage(out.parent).free} bytes are "
        f"free; make room{limit}; {then}"
    )


def _number(error: OSError) -> int:
    """The number of a system's error; pyarrow puts it into its words only."""
    match = re.search(r"\[errno (\d+)\]", str(error), re.IGNORECASE)
    return error.errno or (int(match[1]) if match else 0)
