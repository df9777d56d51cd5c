"""The output of a scoring run: what may not be overwritten, its lock, the saved progress of an interrupted run, and
errors of a full disk."""

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
from finetune.core.tables.formats import OUTPUT_SUFFIXES, listed
from finetune.core.tables.table_format import TableWriter
from finetune.core.tables.text_file import suffix_of
from service.errors import BadRequest, ServiceError


class DiskFull(ServiceError):
    """The disk was full, or a limit of file sizes reached, while a file was written."""

    code = "disk_full"
    status = 507


def check_path(out: Path, table: Path) -> None:
    """Raise `BadRequest` for an output that can never be written: an unknown suffix, a folder that does not exist, a
    folder itself, or the input."""
    if suffix_of(out) not in OUTPUT_SUFFIXES:
        raise BadRequest(f"{out}: the output's suffix must be one of {listed(OUTPUT_SUFFIXES)}")
    if not out.parent.is_dir():
        raise BadRequest(f"{out}: there is no folder {out.parent}: create it first")
    if out.is_dir():
        raise BadRequest(f"{out} is a folder: name a file")
    if out.exists() and out.samefile(table):
        raise BadRequest(f"{out} is the input itself: name another output file")


def check_output(out: Path, table: Path, *, overwrite: bool) -> None:
    """Raise `BadRequest` for an output that `check_path` refuses, or that exists and may not be replaced."""
    check_path(out, table)
    if out.exists() and not overwrite:
        raise BadRequest(f"{out} exists already: name another file, or pass --overwrite to replace it")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of an output. The system releases it when the process ends; its file is removed last.

    Raises:
        BadRequest: another run holds the lock, or the folder cannot be written to.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(out))
        except BlockingIOError as error:
            raise BadRequest(f"another run is writing {out}: wait for it, or name another file") from error
        except OSError as error:
            raise BadRequest(f"{out}: its folder cannot be written to ({error.strerror})") from error
        yield


class SavedProgress:
    """How far a run has come, in a file beside its output.

    Args:
        identity: everything that decides the content of the output, as JSON; a run resumes only where it is equal.
    """

    def __init__(self, out: Path, identity: Any) -> None:
        self._file = out.with_name(f".{out.name}.progress.json")
        self._new = self._file.with_name(f"{self._file.name}.new")
        self._identity = json.loads(json.dumps(identity))

    def resume(self, writer: TableWriter) -> tuple[int, int]:
        """Let the writer continue an earlier run of the same identity; return its rows and errors, 0 and 0 if none."""
        try:
            saved = json.loads(self._file.read_text(encoding="utf-8"))
            if saved["identity"] == self._identity:
                writer.resume(saved["mark"])
                return int(saved["rows"]), int(saved["errors"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # missing or damaged: the run starts from the first row
        writer.discard()
        return 0, 0

    def save(self, rows: int, errors: int, mark: dict[str, Any]) -> None:
        """Record how many rows are done; if this fails, the previous record stays."""
        content = {"identity": self._identity, "rows": rows, "errors": errors, "mark": mark}
        try:
            write_json(self._new, content)
            self._new.replace(self._file)
        except OSError:
            self._new.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove the file."""
        self._file.unlink(missing_ok=True)


def is_disk_full(error: OSError) -> bool:
    """Return whether an error means that a file could not grow."""
    return _number(error) in FULL


def disk_full(error: OSError, out: Path, rows: int, fraction: float, size: int) -> DiskFull:
    """Return the error for an output that could not grow.

    Args:
        rows: that are done and kept.
        fraction: of the table that they are, 0 to 1.
        size: bytes that they take.
    """
    # complete parts of a Parquet file are joined at the end, which takes their size once more
    more = round(size * (1 - fraction) / fraction) if 0 < fraction < 1 else size if fraction else None
    needed = f"about {more} more bytes are needed, and " if more is not None and rows else ""
    number = _number(error)
    limit = " or raise the limit of file sizes (ulimit -f)" if number == errno.EFBIG else ""
    then = (
        f"the {rows} rows that are done are kept, and the same command resumes after them"
        if rows
        else "then run the same command again"
    )
    return DiskFull(
        f"{out} could not be written ({os.strerror(number)}): {needed}{shutil.disk_usage(out.parent).free} bytes are "
        f"free. Free some space{limit}; {then}"
    )


def _number(error: OSError) -> int:
    """Return the number of a system error; pyarrow gives it in the message only."""
    match = re.search(r"\[errno (\d+)\]", str(error), re.IGNORECASE)
    return error.errno or (int(match[1]) if match else 0)
