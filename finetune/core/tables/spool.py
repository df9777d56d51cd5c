"""Tables too large for memory: record batches in a temporary Arrow file, and their cells read where they lie.

Knows: Arrow's file format, memory maps, how a row's position leads to its batch.
Does not know: what a column means, or where the rows came from.

The files lie where Python puts temporary files (TMPDIR) and are gone with the last thing that reads them.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow

Decode = Callable[[Any], Any]

ROWS_AT_ONCE = 2_000
"""Rows in one record batch, and rows that are decoded at a time."""


class Spool:
    """Takes record batches of one schema, and gives them back mapped from disk, also after its `with` is left."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._writer: Any = None

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()  # a map keeps its bytes

    def add(self, batch: pyarrow.RecordBatch) -> None:
        """Write one batch to disk."""
        import pyarrow

        if self._writer is None:
            self._writer = pyarrow.ipc.new_file(self._file, batch.schema)
        self._writer.write_batch(batch)

    def batches(self) -> list[pyarrow.RecordBatch]:
        """All that was added; the spool takes nothing after this."""
        import pyarrow

        if self._writer is None:
            return []
        self._writer.close()
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pyarrow.ipc.open_file(pyarrow.py_buffer(mapped))
        return [reader.get_batch(index) for index in range(reader.num_record_batches)]


class OnDisk(Sequence[Any]):
    """Elements that are decoded a few thousand at a time; equal to any sequence of equal elements. A subclass says how
    many there are (`__len__`) and how some are read."""

    def read(self, places: range) -> list[Any]:
        """The elements at these places, in this order."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.read(range(len(self))[index])
        place = range(len(self))[index]  # counts from the end, and refuses what is not there
        return self.read(range(place, place + 1))[0]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self[start : start + ROWS_AT_ONCE]

    def __eq__(self, other: object) -> bool:
        alike = isinstance(other, Sequence) and len(other) == len(self)
        return alike and all(one == two for one, two in zip(self, other, strict=True))  # type: ignore[call-overload]

    __hash__ = None  # type: ignore[assignment]


class Cells(OnDisk):
    """One column's cells, or some of them, decoded when they are asked for.

    Args:
        arrays: the column's Arrow arrays, one a batch.
        decodes: for each array what is applied to its values; None leaves them as Arrow gives them.
        chosen: positions in the column, in order; None for all.
    """

    def __init__(
        self,
        arrays: Sequence[Any],
        decodes: Sequence[Decode | None] | None = None,
        chosen: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._arrays, self._decodes = arrays, decodes or [None] * len(arrays)
        self._starts = np.cumsum([0, *map(len, arrays)])
        self._chosen = np.arange(self._starts[-1]) if chosen is None else chosen

    @classmethod
    def joined(cls, parts: Sequence[Cells]) -> Cells:
        """The cells of several columns, one after the other."""
        offsets = np.cumsum([0, *(part._starts[-1] for part in parts)])
        return cls(
            [array for part in parts for array in part._arrays],
            [decode for part in parts for decode in part._decodes],
            np.concatenate([part._chosen + offset for part, offset in zip(parts, offsets, strict=False)]),
        )

    def __len__(self) -> int:
        return len(self._chosen)

    def take(self, chosen: Sequence[int] | npt.NDArray[np.int64]) -> Cells:
        """The cells at these positions, in this order, still on disk."""
        return Cells(self._arrays, self._decodes, self._chosen[np.asarray(chosen, dtype=np.int64)])

    def decoded(self, decode: Decode) -> Cells:
        """The same cells with `decode` applied to each."""
        return Cells(self._arrays, [_then(before, decode) for before in self._decodes], self._chosen)

    def read(self, places: range) -> list[Any]:
        """See `OnDisk.read`."""
        positions = self._chosen[np.arange(places.start, places.stop, places.step)]
        batches = np.searchsorted(self._starts, positions, side="right") - 1
        found: list[Any] = []
        # runs of neighbours in one batch are decoded together; kept rows are nearly always in file order
        edges = [0, *(np.flatnonzero(np.diff(batches)) + 1).tolist(), len(positions)]
        for start, end in pairwise(edges):
            if start < end:
                batch = batches[start]
                values = self._arrays[batch].take(positions[start:end] - self._starts[batch]).to_pylist()
                decode = self._decodes[batch]
                found += values if decode is None else map(decode, values)
        return found


class Records(OnDisk):
    """Rows of a spooled table as dicts, decoded when they are asked for.

    Args:
        columns: the cells of each column.
        whole: the rows as dicts, where they are kept so: they are then decoded once and not once a column.
    """

    def __init__(self, columns: Mapping[str, Cells], whole: Cells | None = None) -> None:
        self._columns, self._whole = dict(columns), whole

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """The rows of several tables of the same columns, one after the other."""
        return cls({name: Cells.joined([part.column(name) for part in parts]) for name in parts[0]._columns})

    def column(self, name: str) -> Cells:
        """The cells of one column."""
        return self._columns[name]

    def read(self, places: range) -> list[dict[str, Any]]:
        """See `OnDisk.read`."""
        if self._whole is not None:
            return [{name: row.get(name) for name in self._columns} for row in self._whole.read(places)]
        values = [cells.read(places) for cells in self._columns.values()]
        return [dict(zip(self._columns, row, strict=True)) for row in zip(*values, strict=True)]


def chosen(cells: Sequence[Any], positions: Sequence[int]) -> Sequence[Any]:
    """The cells at these positions, wherever they lie."""
    return cells.take(positions) if isinstance(cells, Cells) else [cells[index] for index in positions]


def _then(before: Decode | None, decode: Decode) -> Decode:
    return decode if before is None else lambda value: decode(before(value))
