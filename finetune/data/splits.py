"""Split training rows into training and validation, stratified and with whole groups."""

from __future__ import annotations

from collections import Counter
from typing import Any

from finetune.core.errors import DataError
from finetune.core.labels import LabelSpace
from finetune.core.target_scale import TargetScale
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
    merged = _merged(strata, folds)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    train, validation = next(iter(splitter.split(merged, merged, groups)))
    if not len(train) or not len(validation):
        raise DataError(
            "the groups are too few or too uneven to validate on some: name a --group column with more values, or "
            "give a validation table",
            file=rows.source,
        )
    return rows.take(list(map(int, train))), rows.take(list(map(int, validation)))


def folds_of(rows: Rows, folds: int, labels: LabelSpace, seed: int) -> list[list[int]]:
    """Return the positions of the rows of each fold, every row in exactly one.

    All folds have the same proportions of strata. With groups, no group is in two, and the sizes are approximate.

    Raises:
        DataError: fewer rows or groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    groups = rows.groups
    count = len(rows) if groups is None else len(set(groups))
    if count < folds:
        what = "rows" if groups is None else "groups"
        raise DataError(f"{folds} folds need as many {what}, and there are {count}: lower --folds", file=rows.source)
    merged = _merged(strata_of(rows, labels), folds)
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    parts = kind(folds, shuffle=True, random_state=seed).split(merged, merged, groups)
    positions = [[int(place) for place in part] for _, part in parts]
    if not all(positions):
        raise DataError(f"the groups are too uneven for {folds} folds: lower --folds", file=rows.source)
    return positions


def _merged(strata: list[Any], folds: int) -> list[str]:
    """Return strata with those of fewer rows than folds, of which scikit-learn warns, counted as the largest one."""
    sizes = Counter(strata)
    largest = sizes.most_common(1)[0][0]
    return [str(stratum) if sizes[stratum] >= folds else str(largest) for stratum in strata]


def target_scale_of(rows: Rows, bounds: tuple[float | None, float | None] | None) -> TargetScale:
    """Return the scale of the targets of a regression.

    Raises:
        DataError: a target is outside `bounds`; names its row.
    """
    low, high = bounds or (None, None)
    for number, value in zip(rows.numbers, rows.values, strict=True):
        if (low is not None and value < low) or (high is not None and value > high):
            raise DataError(
                f"the number {value:g} is outside data.bounds ({low}, {high}): correct it, or widen the bounds",
                file=rows.source,
                row=number,
            )
    return TargetScale.fit(rows.values, bounds)


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
