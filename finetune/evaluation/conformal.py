"""Split conformal prediction: sets of labels that hold the true one with a stated probability.

The conformity score is that of LAC (Sadinle, Lei and Wasserman, 2019): a label is in the set of a text if its score is
at least that of the k-th lowest true label among n labeled rows, k = floor((n + 1) * (1 - coverage)). These are the
smallest sets with that coverage on average over texts; a label by itself may be covered less, which the report shows.
It holds for new texts like those rows, and only if no row helped to train the model; a test compares it with MAPIE.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from finetune.core.calibration import PredictionSets
from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.scores import Floats
from finetune.evaluation.calibration import FEWEST_ROWS
from finetune.evaluation.intervals import wilson


def check_coverage(coverage: float | None, labels: LabelSpace) -> None:
    """Raise for a coverage that does not suit the labels.

    Raises:
        ConfigError: it is not between 0 and 1, or the task has no single label for each text.
    """
    if coverage is None:
        return
    if not 0 < coverage < 1:
        raise ConfigError(f"coverage is {coverage}: give a proportion between 0 and 1, for example 0.9")
    if labels.nli is not None or labels.task not in ("binary", "multiclass"):
        task = "zero-shot" if labels.nli is not None else labels.task.replace("_", "-")
        advice = ": use thresholds with a stated recall" if labels.task == "multi_label" else ": leave it out"
        raise ConfigError(f"coverage is for models with one label for each text, and this one is {task}{advice}")


def fewest_rows(coverage: float) -> int:
    """Return the rows from which sets with this coverage can be formed."""
    return max(FEWEST_ROWS, math.ceil(round(1 / (1 - coverage), 9)) - 1)


def prediction_sets(coverage: float, scores: Floats, targets: Any) -> PredictionSets:
    """Return the sets fitted on scores `[N, C]` and true labels `[N]`; below `fewest_rows` they hold all labels."""
    true = np.sort(scores[np.arange(len(targets)), targets])
    place = math.floor(round((len(true) + 1) * (1 - coverage), 9))
    return PredictionSets(coverage, float(true[place - 1]) if place else 0.0, len(true))


def coverage_of(labels: LabelSpace, members: Any, targets: Any) -> dict[str, Any]:
    """Return how often sets hold the true label, for all rows and those of each label, and how large they are.

    Args:
        members: which labels are in the set of each row, `[N, C]`.
        targets: `[N]`.
    """
    covered, sizes = members[np.arange(len(targets)), targets], members.sum(axis=1)
    by_label = {
        name: _proportion(covered[targets == place])
        for place, name in enumerate(labels.names)
        if (targets == place).any()
    }
    kinds = {"none": sizes == 0, "one": sizes == 1, "several": sizes > 1}
    return {
        "coverage": _proportion(covered),
        "mean_size": float(sizes.mean()),
        "texts_with_labels": {kind: float(rows.mean()) for kind, rows in kinds.items()},
        "correct_of_one_label": _proportion(covered[sizes == 1]) if (sizes == 1).any() else None,
        "labels": by_label,
    }


def _proportion(right: Any) -> dict[str, float]:
    low, high = wilson(int(right.sum()), len(right))
    return {"value": float(right.mean()), "low": low, "high": high, "rows": len(right)}
