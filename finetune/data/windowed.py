"""Rows whose texts are read in windows: a row for each window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from finetune.core.errors import ConfigError
from finetune.core.tables.arrow_file import ROWS_AT_ONCE, ArrowFile, Cells
from finetune.core.tokenization import TextEncoder, without_surrogates
from finetune.core.windows import Window, spans
from finetune.data.rows import Rows


def in_windows(rows: Rows, encoder: TextEncoder, window: Window) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Return a row for each window of each text, and the position in `rows` that each is from `[M]`.

    The windows of a text share its weight, so that a text counts the same however long it is. Their texts lie on disk.

    Raises:
        ConfigError: as `check_window`.
    """
    check_window(encoder, window)
    texts, owners = _cut(rows, encoder, window)
    repeated = replace(rows.take(owners.tolist()), texts=texts)
    if len(owners) == len(rows):
        return repeated, owners
    weights = np.ones(len(rows)) if rows.weights is None else np.asarray(rows.weights)
    counts = np.bincount(owners, minlength=len(rows))
    return replace(repeated, weights=(weights / counts)[owners].tolist()), owners


def check_window(encoder: TextEncoder, window: Window) -> None:
    """Raise ConfigError where a window is longer than the model reads."""
    if window.tokens > encoder.longest_text:
        raise ConfigError(
            f"window.tokens={window.tokens} is more than the {encoder.longest_text} tokens that are read beside "
            f"special ones (data.max_length={encoder.max_length}): use fewer"
        )


def _cut(rows: Rows, encoder: TextEncoder, window: Window) -> tuple[Cells, npt.NDArray[np.int64]]:
    import pyarrow

    owners: list[int] = []

    def pieces(start: int) -> Iterator[str]:
        for place, text in enumerate(rows.texts[start : start + ROWS_AT_ONCE], start):
            whole = without_surrogates(text)
            parts = spans(whole, encoder.prepared, window)
            for begin, end in parts[:1] if window.aggregate == "first" else parts:
                owners.append(place)
                yield whole[begin:end]

    with ArrowFile() as file:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            file.add(pyarrow.record_batch([pyarrow.array(pieces(start), pyarrow.large_string())], ["text"]))
        batches = file.batches()
    return Cells([batch.column("text") for batch in batches]), np.array(owners, dtype=np.int64)
