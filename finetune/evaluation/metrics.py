"""Metrics of scikit-learn and SciPy as `evaluate.Metric` modules that need no network; the tables METRICS and
SCORE_METRICS hold them.

Predictions are ids `[N]`, zeros and ones `[N, C]`, or numbers `[N]`, as `scores.decide` returns; scores are `[N, C]`,
as `scores.activate` returns.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.errors import ConfigError
from finetune.core.stripped_docstrings import allow_stripped_docstrings
from finetune.core.task import Task

Array = npt.NDArray[Any]
CALIBRATION_BINS = 10
"""Equal bins of scores in the calibration error and the reliability plot."""


def accuracy(predictions: Array, references: Array) -> float:
    """Proportion of correct rows."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def macro_f1(predictions: Array, references: Array) -> float:
    """Mean of the labels' F1, each label weighted equally."""
    return _f1(predictions, references, "macro")


def micro_f1(predictions: Array, references: Array) -> float:
    """F1 over all decisions, each weighted equally."""
    return _f1(predictions, references, "micro")


def weighted_f1(predictions: Array, references: Array) -> float:
    """Mean of the labels' F1, weighted by their rows."""
    return _f1(predictions, references, "weighted")


def samples_f1(predictions: Array, references: Array) -> float:
    """Mean of the rows' F1 over their sets of labels."""
    return _f1(predictions, references, "samples")


def balanced_accuracy(predictions: Array, references: Array) -> float:
    """Mean of the labels' recall, over the labels that occur."""
    from sklearn.metrics import recall_score

    # balanced_accuracy_score returns the same number, and warns where a predicted label does not occur
    return float(recall_score(references, predictions, labels=np.unique(references), average="macro", zero_division=0))


def mcc(predictions: Array, references: Array) -> float:
    """Matthews correlation of predictions and labels: 1 all correct, 0 no better than chance or one label only."""
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
    """Proportion of variance explained; 0 where fewer than two rows or no variance make it undefined."""
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
    """Probability that a row with a label scores higher on it than a row without, averaged over the labels that
    occur."""
    from sklearn.metrics import roc_auc_score

    truth = one_hot(scores, references)
    if scores.shape[1] == 2 and references.ndim == 1:
        scores, truth = scores[:, 1:], truth[:, 1:]  # the other label is complementary
    defined = np.flatnonzero(truth.min(axis=0) != truth.max(axis=0))
    if not len(defined):
        return float("nan")
    return float(roc_auc_score(truth[:, defined], scores[:, defined], average="macro"))


def log_loss(scores: Array, references: Array) -> float:
    """Mean negative logarithm of the score of the true label; for multi-label, of every label's decision."""
    from sklearn import metrics

    if references.ndim == 2:
        return float(
            np.mean([metrics.log_loss(references[:, c], scores[:, c], labels=[0, 1]) for c in range(scores.shape[1])])
        )
    normalized = scores / scores.sum(axis=1, keepdims=True)
    return float(metrics.log_loss(references, normalized, labels=list(range(scores.shape[1]))))


def brier(scores: Array, references: Array) -> float:
    """Brier score: mean squared distance of scores from 1 for the true label and 0 for others, added up over labels;
    with two labels, of the second label alone, and for multi-label the mean over labels."""
    squares = (scores - one_hot(scores, references)) ** 2
    if references.ndim == 2:
        return float(squares.mean())
    return float(squares.sum(axis=1).mean()) / (2 if scores.shape[1] == 2 else 1)


def calibration_error(scores: Array, references: Array) -> float:
    """Expected calibration error: distance between score and proportion of correct answers, over 10 equal bins."""
    from sklearn.calibration import calibration_curve

    confidence, correct = confidences(scores, references)
    observed, expected = calibration_curve(correct, confidence, n_bins=CALIBRATION_BINS)
    # the curve skips empty bins, and puts a score on an edge into the lower bin
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    rows = np.bincount(np.searchsorted(edges, confidence))
    return float(np.average(np.abs(observed - expected), weights=rows[rows > 0]))


def mean_average_precision(scores: Array, references: Array) -> float:
    """Mean of the labels' average precision, over the labels that occur."""
    from sklearn.metrics import average_precision_score

    truth = one_hot(scores, references)
    present = np.flatnonzero(truth.any(axis=0))
    if not len(present):
        return float("nan")
    return float(average_precision_score(truth[:, present], scores[:, present], average="macro"))


def confidences(scores: Array, references: Array) -> tuple[Array, Array]:
    """Return the score of each answer and whether it was correct: of the best label, or of every label for
    multi-label."""
    if references.ndim == 2:
        return scores.ravel(), references.ravel().astype(bool)
    return scores.max(axis=1), scores.argmax(axis=1) == references


def one_hot(scores: Array, references: Array) -> Array:
    """Return the references as zeros and ones `[N, C]`."""
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
"""Metrics of decisions. `accuracy` is subset accuracy for multi-label: all labels of a row are correct."""

SCORE_METRICS: dict[str, Callable[[Array, Array], float]] = {
    "roc_auc": roc_auc,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
    "brier": brier,
    "mean_average_precision": mean_average_precision,
}
"""Metrics of scores `[N, C]`."""

METRICS_OF_TASK: dict[Task, tuple[str, ...]] = {
    "binary": ("accuracy", "macro_f1"),
    "multiclass": ("accuracy", "macro_f1"),
    "multi_label": ("micro_f1", "macro_f1"),
    "regression": ("r2", "spearman", "mse"),
}
"""Metrics of each evaluation of a run; the first one chooses the best checkpoint by default."""

_SINGLE = ("balanced_accuracy", "weighted_f1", "micro_f1", "mcc", "roc_auc", "log_loss", "calibration_error", "brier")
REPORT_OF_TASK: dict[Task, tuple[str, ...]] = {
    "binary": (*METRICS_OF_TASK["binary"], *_SINGLE),
    "multiclass": (*METRICS_OF_TASK["multiclass"], *_SINGLE),
    "multi_label": (
        *METRICS_OF_TASK["multi_label"],
        *("samples_f1", "weighted_f1", "accuracy", "mean_average_precision"),
        *("roc_auc", "log_loss", "calibration_error", "brier"),
    ),
    "regression": (*METRICS_OF_TASK["regression"], "pearson", "mae", "msle"),
}
"""Metrics of a report, the headline metric first."""

LOSS = "loss"
"""The mean loss of the validation rows, which the Trainer computes at each evaluation."""

LOWER_IS_BETTER = (LOSS, "mse", "msle", "mae", "log_loss", "calibration_error", "brier")

NUMBERS = ("mse", "msle", "mae", "r2", "pearson", "spearman")
UNFIT: dict[Task, tuple[str, ...]] = {
    **dict.fromkeys(("binary", "multiclass"), ("samples_f1",)),
    "multi_label": ("balanced_accuracy", "mcc", *NUMBERS),
    "regression": tuple(name for name in (*METRICS, *SCORE_METRICS) if name not in NUMBERS),
}
"""Metrics that cannot be computed for a task; those of NUMBERS also take the ids of single labels."""


def best_by(name: str | None, task: Task) -> str:
    """Return the metric that chooses the best checkpoint: `name`, or the task's headline metric where it is None.

    Raises:
        ConfigError: an unknown metric, or one for other tasks; lists those that fit.
    """
    fitting = (*REPORT_OF_TASK[task], LOSS)
    if name is None or name in fitting:
        return name or fitting[0]
    close = difflib.get_close_matches(name, fitting, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    known = name in METRICS or name in SCORE_METRICS
    wrong = f"{name!r} does not fit task {task.replace('_', '-')}" if known else f"there is no metric {name!r}"
    raise ConfigError(f"checkpoint.best_by: {wrong}. {hint}Choose one of {', '.join(fitting)}")


def load_metric(name: str, task: Task) -> Any:
    """Return the `evaluate.Metric` of that name: one of the tables here, or any other that `evaluate.load` finds.

    Raises:
        ConfigError: there is neither.
    """
    import evaluate

    allow_stripped_docstrings("evaluate")
    if name in METRICS or name in SCORE_METRICS:
        return _module(name, task)
    try:
        return evaluate.load(name)
    except Exception as error:  # evaluate raises FileNotFoundError, ConnectionError, ImportError and more
        known = ", ".join((*METRICS, *SCORE_METRICS))
        raise ConfigError(
            f"metrics: {name!r} is not built in, and evaluate.load cannot load it. Choose one of {known}"
        ) from error


def compute(names: Sequence[str], task: Task, predictions: Array, references: Array) -> dict[str, float]:
    """Return metric -> value of predictions; a module that returns several values adds all of them."""
    values: dict[str, float] = {}
    for name in names:
        result = load_metric(name, task).compute(predictions=predictions.tolist(), references=references.tolist())
        values |= {key: float(value) for key, value in (result or {}).items() if np.ndim(value) == 0}
    return values


def measured(names: Sequence[str], predictions: Array, references: Array, scores: Array) -> dict[str, float]:
    """Return metric -> value; metrics that are undefined on these rows are left out."""
    values = {
        name: METRICS[name](predictions, references) if name in METRICS else SCORE_METRICS[name](scores, references)
        for name in names
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _module(name: str, task: Task) -> Any:
    import datasets
    import evaluate

    kind = datasets.Value("float64" if task == "regression" else "int64")
    feature = datasets.Sequence(kind) if task == "multi_label" else kind
    predicted = datasets.Sequence(datasets.Value("float64")) if name in SCORE_METRICS else feature
    function: Callable[[Array, Array], float] = METRICS.get(name) or SCORE_METRICS[name]

    class TableMetric(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> Any:
            features = datasets.Features({"predictions": predicted, "references": feature})
            return evaluate.MetricInfo(
                description=(function.__doc__ or "").strip(), citation="", inputs_description="", features=features
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return {name: function(np.asarray(predictions), np.asarray(references))}

    return TableMetric(keep_in_memory=True)
