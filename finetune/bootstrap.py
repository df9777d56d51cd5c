"""Every metric of a split, with bootstrap intervals, beside the answer of who knows only the labels' shares.

Knows: how intervals and paired differences are drawn, and the baseline.
Does not know: formulas (metrics.py), models, the report's pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune.labels import LabelSpace
from finetune.metrics import METRICS, REPORT_OF_TASK, SCORE_METRICS, Array, compute, measured

RESAMPLES = 200
"""Bootstrap resamples behind each 95% interval."""


@dataclass(frozen=True)
class Scored:
    """The metrics of one split, shaped as metrics.json has them."""

    rows: int
    metrics: dict[str, dict[str, float]]
    baseline: dict[str, float]
    per_class: dict[str, dict[str, float]]
    tfidf: dict[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Metric -> value."""
        return {name: entry["value"] for name, entry in self.metrics.items()}


def score(
    labels: LabelSpace,
    predictions: Array,
    references: Array,
    scores: Array,
    *,
    train_targets: Array,
    extra: Sequence[str] = (),
) -> Scored:
    """Every metric of the task's report with its 95% bootstrap interval, beside the majority (or mean) baseline.

    A metric that is undefined on these rows (ROC-AUC of a single label) is left out.

    Args:
        scores: `[N, C]`, from which `predictions` were decided.
        train_targets: targets of the training rows, from which the baseline is taken.
        extra: further metric names, for `evaluate.load`.
    """
    task = labels.task
    ours = [*REPORT_OF_TASK[task], *(name for name in extra if name in METRICS or name in SCORE_METRICS)]
    values = measured(ours, predictions, references, scores)
    intervals = _intervals(list(values), predictions, references, scores)
    metrics = {name: {"value": value} | intervals[name] for name, value in values.items()}
    others = compute([name for name in extra if name not in ours], task, predictions, references)
    metrics |= {name: {"value": value} for name, value in others.items()}
    constant = _baseline(labels, train_targets, references)
    baseline = {name: value for name, value in measured(ours, *constant).items() if name in values}
    return Scored(len(references), metrics, baseline, _per_class(labels, predictions, references))


def _intervals(
    names: Sequence[str], predictions: Array, references: Array, scores: Array
) -> dict[str, dict[str, float]]:
    chance = np.random.default_rng(0)
    rows = len(references)
    drawn: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(RESAMPLES):
        chosen = chance.integers(0, rows, rows)
        for name, value in measured(names, predictions[chosen], references[chosen], scores[chosen]).items():
            drawn[name].append(value)
    return {
        name: dict(zip(("low", "high"), map(float, np.percentile(values, [2.5, 97.5])), strict=True)) if values else {}
        for name, values in drawn.items()
    }


def difference(
    name: str, one: tuple[Array, Array], other: tuple[Array, Array], references: Array
) -> dict[str, float] | None:
    """By how much `other` differs from `one` in a metric, with a paired 95% bootstrap interval: both are drawn anew
    on the same rows each time. None where the metric is undefined.

    Args:
        one, other: the predictions and scores `[N, C]` of two models on the same rows.
    """

    def gap(chosen: Array) -> float:
        first, second = (
            measured([name], predictions[chosen], references[chosen], scores[chosen]).get(name, float("nan"))
            for predictions, scores in (one, other)
        )
        return second - first

    rows = len(references)
    value = gap(np.arange(rows))
    if not np.isfinite(value):
        return None
    chance = np.random.default_rng(0)
    drawn = [gap(chance.integers(0, rows, rows)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def _baseline(labels: LabelSpace, targets: Array, references: Array) -> tuple[Array, Array, Array]:
    """Predictions, references and scores of answering the training rows' shares (or mean) to every row."""
    rows = len(references)
    if labels.task == "regression":
        constant = np.full(rows, float(np.mean(targets)))
        return constant, references, constant[:, None]
    if labels.task == "multi_label":
        shares = np.tile(targets.mean(axis=0), (rows, 1))
        return (shares >= 0.5).astype(int), references, shares
    counts = np.bincount(targets.astype(int), minlength=len(labels))
    return np.full(rows, int(counts.argmax())), references, np.tile(counts / counts.sum(), (rows, 1))


def _per_class(labels: LabelSpace, predictions: Array, references: Array) -> dict[str, dict[str, float]]:
    if labels.task == "regression":
        return {}
    from sklearn.metrics import precision_recall_fscore_support

    ids = list(range(len(labels)))
    table = precision_recall_fscore_support(references, predictions, labels=ids, average=None, zero_division=0)
    return {
        name: {
            "precision": float(table[0][index]),
            "recall": float(table[1][index]),
            "f1": float(table[2][index]),
            "support": int(table[3][index]),
        }
        for index, name in enumerate(labels.names)
    }
