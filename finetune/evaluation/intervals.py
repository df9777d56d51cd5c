"""Metrics of a split with 95% intervals, paired differences of two models, and the majority (or mean) baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace
from finetune.evaluation.metrics import METRICS, REPORT_OF_TASK, SCORE_METRICS, Array, compute, measured
from finetune.evaluation.resampled_metrics import Resampled, draws_of, resampled, weighted

RESAMPLES = 1000
"""Bootstrap resamples for each 95% interval."""

INTERVALS = (
    f"Wilson's for accuracy; for the other metrics the bias-corrected and accelerated bootstrap of {RESAMPLES} "
    "resamples, or Wilson's bound for the number of rows where all resamples are equal (a perfect score)"
)
"""How the 95% intervals are computed, for reports."""

Z = 1.959964
"""Standard deviations on either side of the mean that contain 95% of a normal distribution."""

MOST_LEFT_OUT = 500
"""Most rows for which the interval is corrected for skew by the jackknife."""

UNIT, SIGNED = (0.0, 1.0), (-1.0, 1.0)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("accuracy", "macro_f1", "micro_f1", "weighted_f1", "samples_f1", "balanced_accuracy"), UNIT),
    **dict.fromkeys(("roc_auc", "calibration_error", "mean_average_precision"), UNIT),
    "brier": (0.0, 2.0),
    **dict.fromkeys(("mcc", "pearson", "spearman"), SIGNED),
    "r2": (-math.inf, 1.0),
    **dict.fromkeys(("mse", "mae", "msle", "log_loss"), (0.0, math.inf)),
}
"""The least and the largest value of each metric."""

BY_LABEL = ("macro_f1", "balanced_accuracy", "roc_auc", "mean_average_precision")
"""Metrics that weight every label equally, however few rows it has."""


@dataclass(frozen=True)
class Scored:
    """The metrics of one split, in the format of metrics.json."""

    rows: int
    metrics: dict[str, dict[str, float]]
    baseline: dict[str, float]
    per_class: dict[str, dict[str, float]]
    tfidf: dict[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Return metric -> value."""
        return {name: entry["value"] for name, entry in self.metrics.items()}


def score(
    labels: LabelSpace,
    predictions: Array,
    references: Array,
    scores: Array,
    *,
    train_targets: Array,
    extra: Sequence[str] = (),
    weights: Array | None = None,
) -> Scored:
    """Return the metrics of the task's report with 95% intervals (see INTERVALS), and the majority (or mean) baseline.

    A metric that is undefined on these rows (ROC-AUC of a single label) is left out. With weights all intervals are
    those of the bootstrap, which draws rows whatever their weight.

    Args:
        scores: `[N, C]`, from which `predictions` were decided.
        train_targets: targets of the training rows, which define the baseline.
        extra: further metric names, for `evaluate.load`.
        weights: of the rows `[N]`, above 0; a row of weight 2 counts as two.

    Raises:
        ConfigError: weights with a metric of `evaluate.load`.
    """
    task = labels.task
    if weights is not None and np.ptp(weights) == 0:
        weights = None
    own = [*REPORT_OF_TASK[task], *(name for name in extra if name in METRICS or name in SCORE_METRICS)]
    loaded = [name for name in extra if name not in own]
    if loaded and weights is not None:
        raise ConfigError(
            f"metric {loaded[0]!r} of evaluate.load cannot be weighted: leave out --weight, or this metric"
        )
    values = weighted(own, predictions, references, scores, weights)
    constant = baseline_of(labels, train_targets, references, weights if train_targets is references else None)
    baseline = {name: value for name, value in weighted(own, *constant, weights).items() if name in values}
    intervals = _intervals(values, (predictions, references, scores), baseline, weights)
    metrics = {name: {"value": value} | intervals[name] for name, value in values.items()}
    metrics |= {name: {"value": value} for name, value in compute(loaded, task, predictions, references).items()}
    return Scored(len(references), metrics, baseline, _per_class(labels, predictions, references, weights))


def _intervals(
    values: Mapping[str, float],
    answers: tuple[Array, Array, Array],
    scales: Mapping[str, float],
    weights: Array | None,
) -> dict[str, dict[str, float]]:
    """Return the 95% interval of each metric.

    Args:
        values: metric -> value.
        answers: predictions, references, scores.
        scales: metric -> the baseline's value.
    """
    rows = len(answers[1])
    intervals, of_metric = {}, {}
    for name, value in values.items():
        if weights is None and is_proportion(name, answers[1]):
            intervals[name] = wilson(round(value * rows), rows)
        else:
            of_metric[name] = _with_weights(resampled(name, *answers), weights)
    drawn = _distributions(of_metric, rows)
    for name, function in of_metric.items():
        unseen = _unseen(name, answers[1], weights)
        widest = unseen * (abs(scales.get(name, values[name])) if RANGES[name][1] == math.inf else 1.0)
        size = abs(values[name]) if RANGES[name][1] == math.inf else 1.0
        left_out = _left_out(function, rows)
        intervals[name] = _bias_corrected(values[name], drawn[name], left_out, widest, RANGES[name], size)
    return {name: dict(zip(("low", "high"), intervals[name], strict=True)) for name in values}


def _with_weights(function: Resampled, weights: Array | None) -> Resampled:
    return function if weights is None else lambda draws: function(draws * weights)


def is_proportion(name: str, references: Array) -> bool:
    """Return whether a metric is the proportion of correct rows, whose interval is Wilson's."""
    return name == "accuracy" or (name == "micro_f1" and references.ndim == 1)


def wilson(correct: int, rows: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a proportion: for 33 of 33 rows, 0.896 to 1."""
    from scipy.stats import binomtest

    interval = binomtest(correct, rows).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _unseen(name: str, references: Array, weights: Array | None = None) -> float:
    """Return the proportion of errors that Wilson's bound allows where there was none: Z^2 / (rows + Z^2).

    For the metrics of BY_LABEL it is the mean of the bounds for the labels' rows. Weighted rows count as their
    effective number (Kish): the square of the sum of the weights, over the sum of their squares.
    """
    weights = np.ones(len(references)) if weights is None else weights
    if name not in BY_LABEL:
        return float(Z**2 / (weights.sum() ** 2 / (weights**2).sum() + Z**2))
    held = references if references.ndim == 2 else references[:, None] == np.unique(references)
    held = held[:, held.any(axis=0)].astype(float)
    counts = (weights @ held) ** 2 / (weights**2 @ held)
    return float(np.mean(Z**2 / (counts + Z**2))) if len(counts) else 1.0


def _distributions(of_metric: Mapping[str, Resampled], rows: int) -> dict[str, Array]:
    """Return metric -> its values over the resamples; all metrics use the same resamples."""
    drawn: dict[str, list[Array]] = {name: [] for name in of_metric}
    for draws in draws_of(rows, RESAMPLES) if of_metric else ():
        for name, function in of_metric.items():
            drawn[name].append(function(draws))
    return {name: np.concatenate(values) for name, values in drawn.items()}


def _left_out(function: Resampled, rows: int) -> Array:
    """Return the metric with each row left out in turn, `[N]`; empty above MOST_LEFT_OUT rows, where it hardly
    matters."""
    return function(np.ones((rows, rows)) - np.eye(rows)) if 2 < rows <= MOST_LEFT_OUT else np.empty(0)


def _bias_corrected(
    value: float, drawn: Array, left_out: Array, widest: float, bounds: tuple[float, float], size: float
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated (BCa) 95% interval of a metric (Efron, 1987).

    Args:
        drawn: its values over the resamples; where (nearly) all are equal, the interval extends `widest` on either side
            of the value.
        left_out: its values with each row left out; without them there is no acceleration.
        bounds: the least and the largest possible value.
        size: the magnitude of the values; much smaller differences are rounding.
    """
    from scipy.stats import norm

    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    low = high = value
    if len(drawn) and np.ptp(drawn) > 1e-12 * size:
        below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
        shift = norm.ppf(np.clip(below, 1 / (len(drawn) + 1), len(drawn) / (len(drawn) + 1)))
        away = left_out.mean() - left_out if len(left_out) else np.zeros(1)
        bend = float((away**3).sum() / (6 * (away**2).sum() ** 1.5)) if away.any() else 0.0
        ends = shift + norm.ppf([0.025, 0.975])
        low, high = np.quantile(drawn, norm.cdf(shift + ends / np.maximum(1 - bend * ends, 0.1)))
    # nearly all may be equal, as a perfect MCC is in all resamples with two labels
    if high - low <= 1e-12 * size:
        low, high = value - widest, value + widest
    low, high = max(low, bounds[0]), min(high, bounds[1])
    return float(min(low, value)), float(max(high, value))


def difference(
    name: str, first: tuple[Array, Array], second: tuple[Array, Array], references: Array
) -> dict[str, float] | None:
    """Return the difference `second` - `first` of a metric, with a paired, bias-corrected 95% bootstrap interval: every
    resample has the same rows for both. None where the metric is undefined.

    Args:
        first, second: the predictions and scores `[N, C]` of two models on the same rows.
    """
    before, after = (
        measured([name], predictions, references, scores).get(name, float("nan"))
        for predictions, scores in (first, second)
    )
    if not np.isfinite(after - before):
        return None
    if all(np.array_equal(mine, theirs) for mine, theirs in zip(first, second, strict=True)):
        return {"value": 0.0, "low": 0.0, "high": 0.0}
    low, high = _bias_corrected(
        after - before,
        gaps(name, first, second, references),
        np.empty(0),
        _unseen(name, references) * (max(abs(before), abs(after)) if RANGES[name][1] == math.inf else 1.0),
        (-math.inf, math.inf),
        max(abs(before), abs(after)),
    )
    return {"value": after - before, "low": low, "high": high}


def resampled_values(name: str, predictions: Array, references: Array, scores: Array) -> Array:
    """Return a metric's values over the resamples, `[RESAMPLES]`."""
    return _distributions({name: resampled(name, predictions, references, scores)}, len(references))[name]


def gaps(name: str, first: tuple[Array, Array], second: tuple[Array, Array], references: Array) -> Array:
    """Return the differences `second` - `first` of a metric over the resamples, `[RESAMPLES]`."""
    both = [resampled(name, predictions, references, scores) for predictions, scores in (first, second)]
    return np.concatenate([both[1](draws) - both[0](draws) for draws in draws_of(len(references), RESAMPLES)])


def baseline_of(
    labels: LabelSpace, targets: Array, references: Array, weights: Array | None = None
) -> tuple[Array, Array, Array]:
    """Return predictions, references and scores of answering every row with the class proportions (or the mean) of the
    training targets, which may have weights `[N]`."""
    rows = len(references)
    if labels.task == "regression":
        constant = np.full(rows, float(np.average(targets, weights=weights)))
        return constant, references, constant[:, None]
    if labels.task == "multi_label":
        proportions = np.tile(np.average(targets, axis=0, weights=weights), (rows, 1))
        return (proportions >= 0.5).astype(int), references, proportions
    counts = np.bincount(targets.astype(int), weights, minlength=len(labels))
    return np.full(rows, int(counts.argmax())), references, np.tile(counts / counts.sum(), (rows, 1))


def _per_class(
    labels: LabelSpace, predictions: Array, references: Array, weights: Array | None
) -> dict[str, dict[str, float]]:
    """Return label -> precision, recall, F1 and its number of rows."""
    if labels.task == "regression":
        return {}
    from sklearn.metrics import precision_recall_fscore_support

    ids = list(range(len(labels)))
    table = precision_recall_fscore_support(
        references, predictions, labels=ids, average=None, zero_division=0, sample_weight=weights
    )
    rows = references.sum(axis=0) if references.ndim == 2 else np.bincount(references.astype(int), minlength=len(ids))
    return {
        name: {
            "precision": float(table[0][index]),
            "recall": float(table[1][index]),
            "f1": float(table[2][index]),
            "support": int(rows[index]),
        }
        for index, name in enumerate(labels.names)
    }
