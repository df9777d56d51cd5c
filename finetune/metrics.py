"""Metrics as `evaluate.Metric` modules that need no network; METRICS and SCORE_METRICS say which there are.

Knows: which scikit-learn or SciPy function computes each, for which tasks, with bootstrap intervals and a baseline.
Does not know: models. Predictions are ids `[N]`, zeros and ones `[N, C]`, or numbers `[N]`, as `scores.decide` gives;
scores are `[N, C]`, as `scores.activate` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.errors import ConfigError
from finetune.labels import LabelSpace, Task

Array = npt.NDArray[Any]
CALIBRATION_BINS = 10
RESAMPLES = 200
"""Bootstrap resamples behind each 95% interval."""


def accuracy(predictions: Array, references: Array) -> float:
    """Share of rows that are right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def macro_f1(predictions: Array, references: Array) -> float:
    """Mean of the labels' F1, each label counting the same."""
    return _f1(predictions, references, "macro")


def micro_f1(predictions: Array, references: Array) -> float:
    """F1 over all decisions, each counting the same."""
    return _f1(predictions, references, "micro")


def weighted_f1(predictions: Array, references: Array) -> float:
    """Mean of the labels' F1, each weighing as many rows as it has."""
    return _f1(predictions, references, "weighted")


def samples_f1(predictions: Array, references: Array) -> float:
    """Mean of the rows' F1 over their sets of labels."""
    return _f1(predictions, references, "samples")


def balanced_accuracy(predictions: Array, references: Array) -> float:
    """Mean of the labels' recall, over the labels that occur."""
    from sklearn.metrics import recall_score

    # balanced_accuracy_score is the same figure, and warns where a predicted label does not occur
    return float(recall_score(references, predictions, labels=np.unique(references), average="macro", zero_division=0))


def mcc(predictions: Array, references: Array) -> float:
    """Matthews correlation of predictions and labels: 1 all right, 0 no better than chance or one label only."""
    from sklearn.metrics import matthews_corrcoef

    if len({*references.tolist(), *predictions.tolist()}) < 2:
        return 0.0
    return float(matthews_corrcoef(references, predictions))


def _f1(predictions: Array, references: Array, average: str) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average=average, zero_division=0))


def mse(predictions: Array, references: Array) -> float:
    """Mean squared error."""
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(references, predictions))


def msle(predictions: Array, references: Array) -> float:
    """Mean squared error of log(1 + y); undefined (NaN) where a number is at or below -1."""
    from sklearn.metrics import mean_squared_log_error

    if min(predictions.min(), references.min()) <= -1:
        return float("nan")
    return float(mean_squared_log_error(references, predictions))


def mae(predictions: Array, references: Array) -> float:
    """Mean absolute error."""
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(references, predictions))


def r2(predictions: Array, references: Array) -> float:
    """Share of variance explained; 0 where fewer than two rows or no variance make it undefined."""
    from sklearn.metrics import r2_score

    return float(r2_score(references, predictions)) if len(set(references.tolist())) > 1 else 0.0


def spearman(predictions: Array, references: Array) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    from scipy.stats import spearmanr

    if len(set(references.tolist())) < 2 or len(set(predictions.tolist())) < 2:
        return 0.0
    return float(spearmanr(references, predictions).statistic)


def pearson(predictions: Array, references: Array) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    from scipy.stats import pearsonr

    if len(set(references.tolist())) < 2 or len(set(predictions.tolist())) < 2:
        return 0.0
    return float(pearsonr(references, predictions).statistic)


def roc_auc(scores: Array, references: Array) -> float:
    """Chance that a row of a label scores higher on it than a row of none, meaned over the labels that occur."""
    from sklearn.metrics import roc_auc_score

    truth = _one_hot(scores, references)
    if scores.shape[1] == 2 and references.ndim == 1:
        scores, truth = scores[:, 1:], truth[:, 1:]  # the other label is its mirror image
    defined = np.flatnonzero(truth.min(axis=0) != truth.max(axis=0))
    if not len(defined):
        return float("nan")
    return float(roc_auc_score(truth[:, defined], scores[:, defined], average="macro"))


def log_loss(scores: Array, references: Array) -> float:
    """Mean negative logarithm of the score of what is right; of every label's decision for multi-label."""
    from sklearn import metrics

    if references.ndim == 2:
        return float(
            np.mean([metrics.log_loss(references[:, c], scores[:, c], labels=[0, 1]) for c in range(scores.shape[1])])
        )
    shares = scores / scores.sum(axis=1, keepdims=True)
    return float(metrics.log_loss(references, shares, labels=list(range(scores.shape[1]))))


def calibration_error(scores: Array, references: Array) -> float:
    """Expected calibration error: how far the share of right answers lies from the score, over 10 equal bins."""
    from sklearn.calibration import calibration_curve

    confidence, right = confidences(scores, references)
    observed, expected = calibration_curve(right, confidence, n_bins=CALIBRATION_BINS)
    # the curve leaves empty bins out, and puts a score that lies on an edge into the lower bin
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    rows = np.bincount(np.searchsorted(edges, confidence))
    return float(np.average(np.abs(observed - expected), weights=rows[rows > 0]))


def mean_average_precision(scores: Array, references: Array) -> float:
    """Mean of the labels' average precision, over the labels that occur."""
    from sklearn.metrics import average_precision_score

    truth = _one_hot(scores, references)
    present = np.flatnonzero(truth.any(axis=0))
    if not len(present):
        return float("nan")
    return float(average_precision_score(truth[:, present], scores[:, present], average="macro"))


def confidences(scores: Array, references: Array) -> tuple[Array, Array]:
    """The score of each answer, and whether it was right: of the best label, or of every label for multi-label."""
    if references.ndim == 2:
        return scores.ravel(), references.ravel().astype(bool)
    return scores.max(axis=1), scores.argmax(axis=1) == references


def _one_hot(scores: Array, references: Array) -> Array:
    return references if references.ndim == 2 else np.eye(scores.shape[1], dtype=int)[references]


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "weighted_f1": weighted_f1,
    "samples_f1": samples_f1,
    "balanced_accuracy": balanced_accuracy,
    "mcc": mcc,
    "mse": mse,
    "msle": msle,
    "mae": mae,
    "r2": r2,
    "pearson": pearson,
    "spearman": spearman,
}
"""Metrics of decisions. `accuracy` is subset accuracy for multi-label: every label of a row is right."""

SCORE_METRICS: dict[str, Callable[[Array, Array], float]] = {
    "roc_auc": roc_auc,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
    "mean_average_precision": mean_average_precision,
}
"""Metrics of scores `[N, C]`."""

METRICS_OF_TASK: dict[Task, tuple[str, ...]] = {
    "binary": ("accuracy", "macro_f1"),
    "multiclass": ("accuracy", "macro_f1"),
    "multi_label": ("micro_f1", "macro_f1"),
    "regression": ("r2", "spearman", "mse"),
}
"""What is computed at each evaluation of a run; the first is the one the best checkpoint is chosen by."""

_SINGLE = ("balanced_accuracy", "weighted_f1", "micro_f1", "mcc", "roc_auc", "log_loss", "calibration_error")
REPORT_OF_TASK: dict[Task, tuple[str, ...]] = {
    "binary": (*METRICS_OF_TASK["binary"], *_SINGLE),
    "multiclass": (*METRICS_OF_TASK["multiclass"], *_SINGLE),
    "multi_label": (
        *METRICS_OF_TASK["multi_label"],
        *("samples_f1", "weighted_f1", "accuracy", "mean_average_precision"),
        *("roc_auc", "log_loss", "calibration_error"),
    ),
    "regression": (*METRICS_OF_TASK["regression"], "pearson", "mae", "msle"),
}
"""What a report holds, the headline first."""

LOWER_IS_BETTER = ("mse", "msle", "mae", "log_loss", "calibration_error")


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


def load_metric(name: str, task: Task) -> Any:
    """The `evaluate.Metric` of that name: ours, or any other that `evaluate.load` finds.

    Raises:
        ConfigError: neither is to be had.
    """
    import evaluate

    if name in METRICS or name in SCORE_METRICS:
        return _module(name, task)
    try:
        return evaluate.load(name)
    except Exception as error:  # evaluate raises FileNotFoundError, ConnectionError, ImportError and more
        ours = ", ".join((*METRICS, *SCORE_METRICS))
        raise ConfigError(f"metric {name!r} is none of ours ({ours}), and evaluate.load cannot get it here") from error


def compute(names: Sequence[str], task: Task, predictions: Array, references: Array) -> dict[str, float]:
    """Metric -> value for one set of predictions; a module that gives several values adds all of them."""
    found: dict[str, float] = {}
    for name in names:
        result = load_metric(name, task).compute(predictions=predictions.tolist(), references=references.tolist())
        found |= {key: float(value) for key, value in (result or {}).items() if np.ndim(value) == 0}
    return found


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


def measured(names: Sequence[str], predictions: Array, references: Array, scores: Array) -> dict[str, float]:
    """Metric -> value; metrics that are undefined on these rows are left out."""
    found = {
        name: METRICS[name](predictions, references) if name in METRICS else SCORE_METRICS[name](scores, references)
        for name in names
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}


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


def _module(name: str, task: Task) -> Any:
    import datasets
    import evaluate

    kind = datasets.Value("float64" if task == "regression" else "int64")
    feature = datasets.Sequence(kind) if task == "multi_label" else kind
    given = datasets.Sequence(datasets.Value("float64")) if name in SCORE_METRICS else feature
    function: Callable[[Array, Array], float] = METRICS.get(name) or SCORE_METRICS[name]

    class TableMetric(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> Any:
            features = datasets.Features({"predictions": given, "references": feature})
            return evaluate.MetricInfo(
                description=(function.__doc__ or "").strip(), citation="", inputs_description="", features=features
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return {name: function(np.asarray(predictions), np.asarray(references))}

    return TableMetric(keep_in_memory=True)
