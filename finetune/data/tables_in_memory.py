"""Read tables in memory: pandas and polars DataFrames, `datasets` and lists of dicts, alone or by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.core.errors import DataError
from finetune.core.labels import shown
from finetune.core.tables.arrow_file import Cells, Records
from finetune.core.tables.class_names import names_by
from finetune.core.tables.table import Table, distinct_columns

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def splits_in_memory(data: Any, name: str) -> dict[str, Table]:
    """Return the `train`, `validation` and `test` tables of data in memory; one without splits is `train`.

    Splits with other names are skipped, and listed in the note of the training table.

    Raises:
        DataError: no training split, two splits with one role, no rows, or an unsupported type.
    """
    if not isinstance(data, Mapping):
        return {"train": _table(data, name)}
    splits = {split: SPLIT_NAMES[split] for split in data if split in SPLIT_NAMES}  # DatasetDict is a dict as well
    if "train" not in splits.values():
        raise DataError(
            f"there is no split 'train' (there are: {shown(list(data))}): give a table as a DataFrame or a list of "
            "dicts; a dict has one table for each split",
            file=name,
        )
    for kind, count in Counter(splits.values()).items():
        if count > 1:
            same = [repr(split) for split in splits if splits[split] == kind]
            raise DataError(f"the splits {' and '.join(same)} are both read as {kind!r}: remove one", file=name)
    tables = {kind: _table(data[split], name) for split, kind in splits.items()}
    train = tables.pop("train")
    unused = [repr(str(split)) for split in data if split not in splits]
    if unused:
        train = replace(train, note=f"unused splits: {shown(unused)}")
    return {"train": train, **tables}


def _table(data: Any, name: str) -> Table:
    rows: Sequence[dict[str, Any]]
    if hasattr(data, "to_dict") and hasattr(data, "iloc") and hasattr(data, "columns"):  # pandas
        columns = distinct_columns([str(column) for column in data.columns], name)
        rows = [dict(zip(columns, row.values(), strict=True)) for row in data.to_dict(orient="records")]
    elif hasattr(data, "to_dicts") and hasattr(data, "columns"):  # polars
        columns, rows = list(data.columns), data.to_dicts()
    elif hasattr(data, "flatten_indices") and hasattr(data, "column_names"):  # datasets.Dataset
        columns, rows = list(data.column_names), _records_of(data)
    elif isinstance(data, list) and all(isinstance(row, Mapping) for row in data):
        rows = [dict(row) for row in data]
        columns = list(dict.fromkeys(key for row in rows for key in row))
    else:
        raise DataError(
            "a table should be a pandas or polars DataFrame, a datasets.Dataset or a list of dicts, "
            f"not {type(data).__name__}"
        )
    if not rows:
        raise DataError("the table has no rows", file=name)
    return Table(columns, rows, name)


def _records_of(dataset: Any) -> Records:
    """Return the rows of a `datasets.Dataset` without copying them; ids of a ClassLabel column become its names."""
    arrow = dataset.flatten_indices().with_format("arrow")[:]
    cells = {name: Cells(arrow.column(name).chunks) for name in dataset.column_names}
    for name, feature in dataset.features.to_dict().items():
        decode = names_by(feature)
        if decode is not None:
            cells[name] = cells[name].decoded(decode)
    return Records(cells)
