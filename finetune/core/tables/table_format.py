"""What a table format consists of: functions that stream and read its files, and a writer that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Table, TableStream

if TYPE_CHECKING:
    import pyarrow


class TableWriter(Protocol):
    """Writes a table a chunk at a time, beside the output; `finish` renames it into place.

    `mark` makes everything written so far permanent and returns, as JSON, what `resume` needs to continue from there in
    another process.
    """

    def resume(self, mark: dict[str, Any]) -> None:
        """Continue after the chunks that an earlier writer had marked.

        Raises:
            OSError: those chunks are not there any more.
        """

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a chunk; an empty one starts the file."""

    def mark(self) -> dict[str, Any]:
        """Return where the chunks so far end."""

    def size(self) -> int:
        """Return the bytes written so far."""

    def finish(self) -> None:
        """Put the output in place."""

    def discard(self) -> None:
        """Remove everything that was written."""

    def close(self) -> None:
        """Close open files; what was marked stays."""


class OpenWriter(Protocol):
    """Returns a writer for an output file; nothing is written yet."""

    def __call__(self, out: Path, types: Mapping[str, pyarrow.DataType], *, escape_formulas: bool) -> TableWriter:
        """Return the writer.

        Args:
            types: Arrow type of each column, in order; text formats use the names only.
            escape_formulas: prefix cells that a spreadsheet would run with a quote, in formats that spreadsheets open.
        """


@dataclass(frozen=True)
class TableFormat:
    """One kind of table file.

    Attributes:
        name: what the web UI calls it.
        stream: opens a file and returns its rows in chunks of that many.
        read: returns the whole table, its rows in a temporary Arrow file; by default the rows of `stream`, converted to
            its column types.
        writer: opens an output; None for a format that is only read.
        options: fields of `TableOptions` that its files can be read with.
        writer_needs: a module that the writer uses and that may not be installed; None if there is none.
        has_columns: False for a list of texts: it can be scored, and neither trained on nor written.
    """

    name: str
    stream: Callable[[Path, int, TableOptions], TableStream]
    read: Callable[[Path, TableOptions], Table] | None = None
    writer: OpenWriter | None = None
    options: frozenset[str] = frozenset()
    writer_needs: str | None = None
    has_columns: bool = True
