"""Split training rows into training and validation, stratified and with whole groups."""

from __future__ import annotations

from collections import Counter
from typing import Any

from finetune.core.errors import DataError
from finetune.core.labels import LabelSpace
from finetune.data.rows import Rows


def split(rows: Rows, size: float | int, labels: LabelSpace, seed: int) -> tuple[Rows, Rows]:
    """Return rows to train on and rows to validate on.

    Both have the same proportions of strata. With groups, no group is in both, and the size is approximate.

    Args:
        size: of validation, as a fraction below 1 or a number of rows.

    Raises:
        DataError: too few rows or groups.
    """
    from sklearn.model_selection import train_test_split

    count = int(size) if size >= 1 else max(1, round(size * len(rows)))
    if count >= len(rows):
        raise DataError(
            f"validation would take {count} of {len(rows)} rows: add rows, or lower data.validation_size",
            file=rows.source,
        )
    strata = strata_of(rows, labels)
    if rows.groups is not None:
        return _by_group(rows, rows.groups, strata, count, seed)
    sizes = Counter(strata)
    # a row that is alone in its stratum cannot be split and stays in training
    divisible = [index for index, stratum in enumerate(strata) if sizes[stratum] > 1]
    kinds = len({strata[index] for index in divisible})
    stratify = [strata[index] for index in divisible] if kinds <= count <= len(divisible) - kinds else None
    source = divisible if count < len(divisible) else list(range(len(rows)))
    validation = set(
        train_test_split(
            source, test_size=count, random_state=seed, stratify=stratify if source is divisible else None
        )[1]
    )
    train = [index for index in range(len(rows)) if index not in validation]
    return rows.take(train), rows.take(sorted(validation))


def _by_group(rows: Rows, groups: list[str], strata: list[Any], count: int, seed: int) -> tuple[Rows, Rows]:
    from sklearn.model_selection import StratifiedGroupKFold

    folds = max(2, round(len(rows) / count))
    group_count = len(set(groups))
    if group_count < 2:
        raise DataError(
            f"all rows are in one group, {groups[0]!r}, so that none can be validated on: remove --group",
            file=rows.source,
        )
    folds = min(folds, group_count)
    sizes = Counter(strata)
    largest = sizes.most_common(1)[0][0]
    # StratifiedGroupKFold warns of strata with fewer rows than folds: they count as the largest one
    merged = [str(stratum) if sizes[stratum] >= folds else str(largest) for stratum in strata]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    train, validation = next(iter(splitter.split(merged, merged, groups)))
    if not len(train) or not len(validation):
        raise DataError(
            "the groups are too few or too uneven to validate on some: name a --group column with more values, or "
            "give a validation table",
            file=rows.source,
        )
    return rows.take(list(map(int, train))), rows.take(list(map(int, validation)))


def strata_of(rows: Rows, labels: LabelSpace) -> list[Any]:
    """Return the stratum of each row: its label, its rarest label for multi-label, the decile of its target."""
    if labels.task == "regression":
        import numpy as np

        edges = np.quantile(rows.values, np.linspace(0, 1, 11)[1:-1])
        return [int(bucket) for bucket in np.digitize(rows.values, edges)]
    if labels.task == "multi_label":
        counts = Counter(name for value in rows.values for name in value)
        return [min(value, key=lambda name: counts[name], default="") for value in rows.values]
    return [str(value) for value in rows.values]
