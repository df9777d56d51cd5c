"""The weights of rows: read from a column, checked, and scaled for the loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.errors import DataError
from finetune.core.label_text import is_missing
from finetune.core.tables.arrow_file import take_cells
from finetune.core.tables.columns import matching_column
from finetune.core.tables.table import Table
from finetune.data.rows import Rows


def row_weights(table: Table, name: str | None, numbers: Sequence[int]) -> list[float] | None:
    """Return the weights of these rows of a table; None where no column is named, or the table does not have it.

    Args:
        numbers: of the rows, from 1.

    Raises:
        DataError: a cell is no finite number of at least 0; names its row.
    """
    column = matching_column(name, table.columns) if name is not None else None
    if column is None:
        return None
    cells = take_cells(table.column(column), [number - 1 for number in numbers])
    return [_weight(cell, table.name, number, column) for number, cell in zip(numbers, cells, strict=True)]


def scaled_weights(rows: Rows) -> npt.NDArray[np.float32] | None:
    """Return the weights `[N]` of rows divided by their mean, so that only their ratios matter; None without weights.

    Raises:
        DataError: all weights are 0.
    """
    if rows.weights is None:
        return None
    weights = np.asarray(rows.weights, dtype=np.float64)
    _require_a_weight(rows)
    return np.asarray(weights / weights.mean(), dtype=np.float32)


def without_zero_weights(rows: Rows, counts: Counter[str]) -> Rows:
    """Return the rows whose weight is above 0; the number of others is added to `counts["zero_weights"]`.

    Raises:
        DataError: all weights are 0.
    """
    if rows.weights is None:
        return rows
    _require_a_weight(rows)
    places = np.flatnonzero(rows.weights)
    counts["zero_weights"] += len(rows) - len(places)
    return rows.take(places.tolist())


def _require_a_weight(rows: Rows) -> None:
    if not any(rows.weights or ()):
        raise DataError(f"the weights of all {len(rows)} rows are 0 (--weight): give some a weight", file=rows.source)


def _weight(cell: Any, file: str, row: int, column: str) -> float:
    try:
        weight = float(cell) if not (isinstance(cell, bool) or is_missing(cell)) else math.nan
    except (TypeError, ValueError):
        weight = math.nan
    if not math.isfinite(weight) or weight < 0:
        raise DataError(
            f"the weight {cell!r} should be a finite number of at least 0, with a decimal point (--weight)",
            file=file,
            row=row,
            column=column,
        )
    return weight
