"""Skip rows of a table: filters of its source, repeated headers, and missing texts and labels; count them by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from finetune.config.data import Source
from finetune.core.errors import DataError
from finetune.core.label_text import is_missing
from finetune.core.tables.columns import is_header, is_misplaced_header
from finetune.core.tables.table import Table
from finetune.data.sources import Columns, column_named
from finetune.data.text_cells import check_text


def usable_rows(
    source: Source, table: Table, columns: Columns, texts: Sequence[Any], counts: Counter[str]
) -> list[int]:
    """Return the numbers, from 1, of the rows that have a text and a label and pass the filters of their source.

    Args:
        texts: of all rows.
        counts: grows by the number of skipped rows, by reason.

    Raises:
        DataError: no usable row, or a cell that is not a text.
    """
    filters = {name: table.column(column_named(name, table, "drop, keep")) for name in (*source.drop, *source.keep)}
    numbers = []
    counts["rows_read"] += len(table.rows)
    labels: Iterable[Any] = table.column(columns.label)
    if columns.several:
        labels = zip(*columns.labels_of(table), strict=True)
    pairs = table.column(columns.text_pair) if columns.text_pair is not None else texts
    filtered: Iterable[dict[str, Any]] = repeat({})
    if filters:
        filtered = (dict(zip(filters, row, strict=True)) for row in zip(*filters.values(), strict=True))
    for number, (text, pair, label, row) in enumerate(zip(texts, pairs, labels, filtered, strict=False), start=1):
        if _is_left_out(row, source):
            counts["left_out"] += 1
        elif _repeats_header(text, label, columns):
            counts["repeated_headers"] += 1
        elif is_missing(text) or is_missing(pair):
            counts["empty_texts"] += 1
        elif all(map(is_missing, label)) if columns.several else is_missing(label):
            counts["empty_labels"] += 1
        else:
            check_text(text, file=table.name, row=number, column=columns.text)
            check_text(pair, file=table.name, row=number, column=columns.text_pair or columns.text)
            _check_header(text, label, columns, table, number)
            numbers.append(number)
    if not numbers:
        labels = columns.labels_of(table)
        if all(is_missing(cell) for cells in labels for cell in cells):
            column = columns.label if not columns.several else None
            raise DataError(f"none of the {len(table.rows)} rows has a label", file=table.name, column=column)
        raise DataError("no row has both a text and a label", file=table.name)
    return numbers


def _repeats_header(text: Any, label: Any, columns: Columns) -> bool:
    cells = label if columns.several else (label,)
    names = columns.several or (columns.label,)
    return is_header({columns.text: text, **dict(zip(names, cells, strict=False))}, (columns.text, *names))


def _check_header(text: Any, label: Any, columns: Columns, table: Table, number: int) -> None:
    """Raise `DataError` for a row that names the columns in another order."""
    if not columns.several and is_misplaced_header(text, label, columns.text, columns.label, table.columns):
        raise DataError(
            f"this row names the columns in another order ({text!r} under {columns.text!r}, {label!r} under "
            f"{columns.label!r}), as in joined files with different columns: write all rows in one order",
            file=table.name,
            row=number,
        )


def _is_left_out(row: dict[str, Any], source: Source) -> bool:
    dropped = any(str(row.get(name)) in values for name, values in source.drop.items())
    return dropped or any(str(row.get(name)) not in values for name, values in source.keep.items())
