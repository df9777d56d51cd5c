"""How rows are set aside for validation: stratified, by the seed, and whole groups at a time.

Knows: strata of each task; groups that must not be torn apart.
Does not know: where rows come from.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from finetune.core.errors import DataError
from finetune.core.labels import LabelSpace
from finetune.data.rows import Rows


def split(rows: Rows, size: float | int, labels: LabelSpace, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on, and `size` (a share or a number) of them to validate on.

    Strata keep their shares on both sides. With groups, none is on both, and the size is met as nearly as they allow.

    Raises:
        DataError: too few rows or groups.
    """
    from sklearn.model_selection import train_test_split

    count = int(size) if size >= 1 else max(1, round(size * len(rows)))
    if count >= len(rows):
        raise DataError(f"validation would take {count} of {len(rows)} rows: give more rows", file=rows.source)
    strata = strata_of(rows, labels)
    if rows.groups is not None:
        return _by_group(rows, rows.groups, strata, count, seed)
    often = Counter(strata)
    # rows whose stratum has no twin cannot be split and stay in training
    able = [index for index, stratum in enumerate(strata) if often[stratum] > 1]
    kinds = len({strata[index] for index in able})
    stratify = [strata[index] for index in able] if kinds <= count <= len(able) - kinds else None
    source = able if count < len(able) else list(range(len(rows)))
    chosen = train_test_split(
        source, test_size=count, random_state=seed, stratify=stratify if source is able else None
    )[1]
    held = set(chosen)
    return rows.take([index for index in range(len(rows)) if index not in held]), rows.take(sorted(held))


def _by_group(rows: Rows, groups: list[str], strata: list[Any], count: int, seed: int) -> tuple[Rows, Rows]:
    from sklearn.model_selection import StratifiedGroupKFold

    folds = max(2, round(len(rows) / count))
    known = len(set(groups))
    if known < 2:
        raise DataError(
            f"all rows belong to one group, {groups[0]!r}, so that none can be set aside: leave out --group",
            file=rows.source,
        )
    folds = min(folds, known)
    often = Counter(strata)
    common = often.most_common(1)[0][0]
    # a stratum with fewer rows than folds cannot be spread over them
    spread = [str(stratum) if often[stratum] >= folds else str(common) for stratum in strata]
    folded = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    train, held = next(iter(folded.split(spread, spread, groups)))
    if not len(train) or not len(held):
        raise DataError(
            "the groups are too few or too uneven to set some aside: give a --group with more values, or "
            "a validation table of your own",
            file=rows.source,
        )
    return rows.take(list(map(int, train))), rows.take(list(map(int, held)))


def strata_of(rows: Rows, labels: LabelSpace) -> list[Any]:
    """What is kept in proportion: the label, its rarest label for multi-label, the decile of a number."""
    if labels.task == "regression":
        import numpy as np

        edges = np.quantile(rows.values, np.linspace(0, 1, 11)[1:-1])
        return [int(bucket) for bucket in np.digitize(rows.values, edges)]
    if labels.task == "multi_label":
        often = Counter(name for value in rows.values for name in value)
        return [min(value, key=lambda name: often[name], default="") for value in rows.values]
    return [str(value) for value in rows.values]
