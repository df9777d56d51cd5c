"""The tokenized texts of a split in an Arrow file on disk, so that they need not fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.tables.arrow_file import ROWS_AT_ONCE, ArrowFile, LazySequence
from finetune.core.tokenization import Encoded, TextEncoder

FIELDS = ("ids", "type_ids", "segments")


class Tokens(LazySequence):
    """Tokenized rows, memory-mapped.

    Attributes:
        lengths: number of tokens of each row `[N]`.
        truncated: whether each row was truncated `[N]`.
    """

    def __init__(self, texts: Sequence[str], pairs: Sequence[str] | None, encoder: TextEncoder) -> None:
        import pyarrow

        lengths: list[npt.NDArray[np.int64]] = []
        truncated: list[npt.NDArray[np.bool_]] = []
        with ArrowFile() as file:
            for start in range(0, len(texts), ROWS_AT_ONCE):
                end = start + ROWS_AT_ONCE
                rows = encoder(texts[start:end], pairs[start:end] if pairs is not None else None)
                lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
                truncated.append(np.array([row.truncated for row in rows], dtype=np.bool_))
                file.add(pyarrow.record_batch([_column(rows, field) for field in FIELDS], list(FIELDS)))
            batches = file.batches()
        self.lengths = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)
        self.truncated = np.concatenate(truncated) if truncated else np.zeros(0, dtype=np.bool_)
        # the rows of a batch are concatenated: the lengths give the offset of each
        self._flat = [[batch.column(field).flatten().to_numpy() for field in FIELDS] for batch in batches]
        self._begins = [np.cumsum(of) - of for of in lengths]

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, positions: range) -> list[Encoded]:
        """See `LazySequence.read`."""
        return [self._row(position) for position in positions]

    def vocabulary(self) -> npt.NDArray[np.int64]:
        """Return the distinct token ids in these rows, sorted."""
        ids_by_batch = [np.unique(ids) for ids, *_ in self._flat]
        return np.unique(np.concatenate(ids_by_batch)).astype(np.int64) if ids_by_batch else np.zeros(0, dtype=np.int64)

    def add_to(self, digest: Any) -> None:
        """Update a hash of hashlib with all tokens, in the order of the rows."""
        digest.update(self.lengths.tobytes())
        for ids, type_ids, segments in self._flat:
            for flat in (ids, type_ids, segments):
                digest.update(np.ascontiguousarray(flat).data)

    def _row(self, place: int) -> Encoded:
        batch, row = divmod(place, ROWS_AT_ONCE)
        begin = self._begins[batch][row]
        ids, type_ids, segments = (flat[begin : begin + self.lengths[place]] for flat in self._flat[batch])
        return Encoded(ids, type_ids, segments, bool(self.truncated[place]))


def _column(rows: Sequence[Encoded], field: str) -> Any:
    import pyarrow

    kind = pyarrow.int32() if field == "ids" else pyarrow.int8()
    return pyarrow.array([getattr(row, field) for row in rows], pyarrow.list_(kind))
