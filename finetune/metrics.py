"""Metrics as `evaluate.Metric` modules that need no network; the table METRICS says which there are.

Knows: which scikit-learn or SciPy function computes each, for which tasks, with bootstrap intervals and a baseline.
Does not know: models. Predictions are ids `[N]`, zeros and ones `[N, C]`, or numbers `[N]`, as `scores.decide` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.errors import ConfigError
from finetune.labels import LabelSpace, Task

Array = npt.NDArray[Any]
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


def _f1(predictions: Array, references: Array, average: str) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average=average, zero_division=0))


def mse(predictions: Array, references: Array) -> float:
    """Mean squared error."""
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(references, predictions))


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


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "mse": mse,
    "r2": r2,
    "spearman": spearman,
}

METRICS_OF_TASK: dict[Task, tuple[str, ...]] = {
    "binary": ("accuracy", "macro_f1"),
    "multiclass": ("accuracy", "macro_f1"),
    "multi_label": ("micro_f1", "macro_f1"),
    "regression": ("r2", "spearman", "mse"),
}
"""What is always reported; the first is the one the best checkpoint is chosen by."""


@dataclass(frozen=True)
class Scored:
    """The metrics of one split, shaped as metrics.json has them."""

    rows: int
    metrics: dict[str, dict[str, float]]
    baseline: dict[str, float]
    per_class: dict[str, dict[str, float]]

    def values(self) -> dict[str, float]:
        """Metric -> value."""
        return {name: entry["value"] for name, entry in self.metrics.items()}


def load_metric(name: str, task: Task) -> Any:
    """The `evaluate.Metric` of that name: ours, or any other that `evaluate.load` finds.

    Raises:
        ConfigError: neither is to be had.
    """
    import evaluate

    if name in METRICS:
        return _module(name, task)
    try:
        return evaluate.load(name)
    except Exception as error:  # evaluate raises FileNotFoundError, ConnectionError, ImportError and more
        raise ConfigError(
            f"metric {name!r} is none of ours ({', '.join(METRICS)}), and evaluate.load cannot get it here"
        ) from error


def compute(names: Sequence[str], task: Task, predictions: Array, references: Array) -> dict[str, float]:
    """Metric -> value for one set of predictions; a module that gives several values adds all of them."""
    found: dict[str, float] = {}
    for name in names:
        result = load_metric(name, task).compute(predictions=predictions.tolist(), references=references.tolist())
        found |= {key: float(value) for key, value in (result or {}).items() if np.ndim(value) == 0}
    return found


def score(
    labels: LabelSpace, predictions: Array, references: Array, *, train_targets: Array, extra: Sequence[str] = ()
) -> Scored:
    """Every metric of the task with its 95% bootstrap interval, beside the majority (or mean) baseline.

    Args:
        train_targets: targets of the training rows, from which the baseline is taken.
        extra: further metric names, for `evaluate.load`.
    """
    names = METRICS_OF_TASK[labels.task]
    values = compute((*names, *extra), labels.task, predictions, references)
    metrics = {
        name: {"value": value} | (_interval(METRICS[name], predictions, references) if name in METRICS else {})
        for name, value in values.items()
    }
    constant = _baseline(labels.task, train_targets, len(references))
    baseline = {name: METRICS[name](constant, references) for name in names}
    return Scored(len(references), metrics, baseline, _per_class(labels, predictions, references))


def _interval(metric: Callable[[Array, Array], float], predictions: Array, references: Array) -> dict[str, float]:
    from scipy.stats import bootstrap

    rows = np.arange(len(references))
    if len(rows) < 2:
        value = metric(predictions, references)
        return {"low": value, "high": value}
    found = bootstrap(
        (rows,),
        lambda chosen: metric(predictions[chosen], references[chosen]),
        n_resamples=RESAMPLES,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return {"low": float(found.low), "high": float(found.high)}


def _baseline(task: Task, targets: Array, rows: int) -> Array:
    if task == "regression":
        return np.full(rows, float(np.mean(targets)))
    if task == "multi_label":
        return np.repeat((targets.mean(axis=0) >= 0.5)[None, :], rows, axis=0).astype(int)
    return np.full(rows, int(np.bincount(targets.astype(int)).argmax()))


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
    function = METRICS[name]

    class TableMetric(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> Any:
            features = datasets.Features({"predictions": feature, "references": feature})
            return evaluate.MetricInfo(
                description=(function.__doc__ or "").strip(), citation="", inputs_description="", features=features
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return {name: function(np.asarray(predictions), np.asarray(references))}

    return TableMetric(keep_in_memory=True)
