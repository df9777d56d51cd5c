"""Output in a format whose files cannot be continued once they are closed: a Parquet file for each chunk, joined at the
end."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.core.tables.cell_types import fitted

if TYPE_CHECKING:
    import pyarrow


class PartedFile:
    """Implements `TableWriter`.

    Attributes:
        rows: rows written so far.

    Args:
        out: the output; until it is finished, its parts lie in a folder of this name with `.` before and `.partial`
            behind.
        types: Arrow type of each column, in order.
        join: writes the tables of all parts, one after the other, to a file.
    """

    def __init__(
        self,
        out: Path,
        types: Mapping[str, pyarrow.DataType],
        join: Callable[[Path, pyarrow.Schema, Iterator[pyarrow.Table]], None],
    ) -> None:
        import pyarrow

        self.out, self._schema, self._join = out, pyarrow.schema([*types.items()]), join
        self._folder, self._count = out.with_name(f".{out.name}.partial"), 0
        self.rows = 0

    def resume(self, mark: dict[str, Any]) -> None:
        """See `TableWriter`."""
        for number in range(mark["parts"]):
            if not self._part(number).is_file():
                raise FileNotFoundError(f"{self._part(number)} is missing")
        self._count, self.rows = mark["parts"], mark["rows"]

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `TableWriter`."""
        import pyarrow
        import pyarrow.parquet

        self._folder.mkdir(exist_ok=True)
        cells = [
            pyarrow.array([fitted(row.get(field.name), field.type) for row in rows], field.type)
            for field in self._schema
        ]
        packed = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(cells, schema=self._schema), packed)
        rest = memoryview(packed.getvalue())
        with io.FileIO(self._part(self._count), "w") as file:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        self._count, self.rows = self._count + 1, self.rows + len(rows)

    def mark(self) -> dict[str, Any]:
        """See `TableWriter`."""
        return {"parts": self._count, "rows": self.rows}

    def size(self) -> int:
        """See `TableWriter`."""
        return sum(part.stat().st_size for part in self._folder.glob("*.parquet"))

    def finish(self) -> None:
        """See `TableWriter`."""
        import pyarrow.parquet

        joined = self._folder / "joined"
        try:
            parts = (pyarrow.parquet.read_table(self._part(number)) for number in range(self._count))
            self._join(joined, self._schema, parts)
        except OSError:
            joined.unlink(missing_ok=True)  # on a full disk it would take the space that the next attempt needs
            raise
        joined.replace(self.out)
        self.discard()

    def discard(self) -> None:
        """See `TableWriter`."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """See `TableWriter`."""

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"
