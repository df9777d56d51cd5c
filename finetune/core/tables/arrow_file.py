"""Tables too large for memory: record batches in a temporary Arrow file, and their cells decoded when they are used.

The files lie in Python's temporary folder (TMPDIR) and disappear with the last object that reads them.
docs/decisions.md compares them with the `datasets` library.
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


class ArrowFile:
    """Takes record batches of one schema, and returns them mapped from disk, also after its `with` block has ended."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._writer: Any = None

    def __enter__(self) -> ArrowFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()  # a memory map keeps its bytes

    def add(self, batch: pyarrow.RecordBatch) -> None:
        """Write one batch to disk."""
        import pyarrow

        if self._writer is None:
            self._writer = pyarrow.ipc.new_file(self._file, batch.schema)
        self._writer.write_batch(batch)

    def batches(self) -> list[pyarrow.RecordBatch]:
        """Return all batches that were added; nothing can be added after this."""
        import pyarrow

        if self._writer is None:
            return []
        self._writer.close()
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pyarrow.ipc.open_file(pyarrow.py_buffer(mapped))
        return [reader.get_batch(index) for index in range(reader.num_record_batches)]

    def records(self, columns: Sequence[str], decodes: Mapping[str, Decode | None] | None = None) -> Records:
        """Return all rows that were added; nothing can be added after this.

        Args:
            columns: names of the columns, in the order of the batches.
            decodes: by column, what its cells are passed through.
        """
        batches = self.batches()
        cells = {name: Cells([batch.column(index) for batch in batches]) for index, name in enumerate(columns)}
        cells |= {name: cells[name].decoded(decode) for name, decode in (decodes or {}).items() if decode is not None}
        return Records(cells)


class LazySequence(Sequence[Any]):
    """Elements that are decoded a few thousand at a time; equal to any sequence of equal elements.

    A subclass defines `__len__` and `read`.
    """

    def read(self, positions: range) -> list[Any]:
        """Return the elements at these positions, in this order."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.read(range(len(self))[index])
        position = range(len(self))[index]  # resolves negative indices, and raises IndexError
        return self.read(range(position, position + 1))[0]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self[start : start + ROWS_AT_ONCE]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(own == others for own, others in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class Cells(LazySequence):
    """The cells of one column, or some of them.

    Args:
        arrays: the column's Arrow arrays, one for each batch.
        decodes: for each array, what its values are passed through; None leaves them as Arrow returns them.
        positions: positions in the column, in order; None for all.
    """

    def __init__(
        self,
        arrays: Sequence[Any],
        decodes: Sequence[Decode | None] | None = None,
        positions: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._arrays, self._decodes = arrays, decodes or [None] * len(arrays)
        self._starts = np.cumsum([0, *map(len, arrays)])
        self._positions = np.arange(self._starts[-1]) if positions is None else positions

    @classmethod
    def joined(cls, parts: Sequence[Cells]) -> Cells:
        """Return the cells of several columns, one after the other."""
        offsets = np.cumsum([0, *(part._starts[-1] for part in parts)])
        return cls(
            [array for part in parts for array in part._arrays],
            [decode for part in parts for decode in part._decodes],
            np.concatenate([part._positions + offset for part, offset in zip(parts, offsets, strict=False)]),
        )

    def __len__(self) -> int:
        return len(self._positions)

    def take(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Cells:
        """Return the cells at these positions, in this order, still on disk."""
        return Cells(self._arrays, self._decodes, self._positions[np.asarray(positions, dtype=np.int64)])

    def decoded(self, decode: Decode) -> Cells:
        """Return the same cells with `decode` applied to each."""
        return Cells(self._arrays, [_then(before, decode) for before in self._decodes], self._positions)

    def read(self, positions: range) -> list[Any]:
        """See `LazySequence.read`."""
        places = self._positions[np.arange(positions.start, positions.stop, positions.step)]
        batches = np.searchsorted(self._starts, places, side="right") - 1
        cells: list[Any] = []
        # runs of neighbors in one batch are decoded together; rows are nearly always in file order
        edges = [0, *(np.flatnonzero(np.diff(batches)) + 1).tolist(), len(places)]
        for start, end in pairwise(edges):
            if start < end:
                batch = batches[start]
                values = self._arrays[batch].take(places[start:end] - self._starts[batch]).to_pylist()
                decode = self._decodes[batch]
                cells += values if decode is None else map(decode, values)
        return cells


class Records(LazySequence):
    """Rows as dicts.

    Args:
        columns: the cells of each column.
        rows: the rows as dicts, where they are stored so: they are then decoded once and not once a column.
    """

    def __init__(self, columns: Mapping[str, Cells], rows: Cells | None = None) -> None:
        self._columns, self._rows = dict(columns), rows

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """Return the rows of several tables of the same columns, one after the other."""
        return cls({name: Cells.joined([part.column(name) for part in parts]) for name in parts[0]._columns})

    def column(self, name: str) -> Cells:
        """Return the cells of one column."""
        return self._columns[name]

    def read(self, positions: range) -> list[dict[str, Any]]:
        """See `LazySequence.read`."""
        if self._rows is not None:
            return [{name: row.get(name) for name in self._columns} for row in self._rows.read(positions)]
        values = [cells.read(positions) for cells in self._columns.values()]
        return [dict(zip(self._columns, row, strict=True)) for row in zip(*values, strict=True)]


def take_cells(cells: Sequence[Any], positions: Sequence[int]) -> Sequence[Any]:
    """Return the cells at these positions, on disk or in memory as they were."""
    return cells.take(positions) if isinstance(cells, Cells) else [cells[index] for index in positions]


def _then(before: Decode | None, decode: Decode) -> Decode:
    return decode if before is None else lambda value: decode(before(value))
