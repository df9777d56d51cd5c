"""Warnings and notes about a finished run: whether it learned anything, and what its scores were measured on.

The command line, the model card, metrics.json and the web UI show the same sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.config.training import TrainConfig
from finetune.core.labels import LabelSpace, shown
from finetune.core.number_format import figure
from finetune.evaluation.evaluate import ScoredSplit, decided
from finetune.evaluation.intervals import baseline_of, gaps, resampled_values
from finetune.evaluation.metrics import METRICS_OF_TASK
from finetune.reports.report import beaten_by_tfidf

FEW_ROWS = 30
"""Validation rows below which no significance is computed, and the metrics alone decide."""

SIGNIFICANCE = 0.05
"""Most bootstrap resamples in which a significant gain over the baseline may vanish."""

FAR_FROM_USUAL = 3
"""Ratio to the usual learning rate, or its inverse, beyond which another rate is suggested."""

SGD_FASTER = 100
"""Ratio of the usual learning rate of stochastic gradient descent to that of Adam."""

METRIC_OF_LOSS = {
    "mean_squared_logarithmic_error": "msle",
    "mean_absolute_error": "mae",
    "huber": "mae",
    "log_cosh": "mae",
}
"""Loss -> the metric that it lowers, if that is not R2: on skewed numbers a model may trade R2 for it."""


@dataclass(frozen=True)
class Verdict:
    """Sentences about a finished run, each empty where it does not apply.

    Attributes:
        untrained: the model does no better than the majority (or mean) baseline.
        beaten: TF-IDF is better.
        chosen: the checkpoint was chosen on the validation rows, so that their scores are optimistic.
    """

    untrained: str = ""
    beaten: str = ""
    chosen: str = ""

    @property
    def warnings(self) -> list[str]:
        """Return the warnings, the gravest first."""
        return [sentence for sentence in (self.untrained, self.beaten) if sentence]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return all sentences, the gravest first."""
        return (*self.warnings, *([self.chosen] if self.chosen else []))

    def to_json(self) -> dict[str, Any]:
        """Return the entries of metrics.json: null where a sentence is empty."""
        return {"untrained": self.untrained or None, "beaten": self.beaten or None, "chosen": self.chosen or None}


def verdict_of(
    config: TrainConfig,
    labels: LabelSpace,
    measured: Mapping[str, ScoredSplit],
    train_targets: Any,
    *,
    chosen_by: str,
    evaluations: int,
    usual_lr: float,
) -> Verdict:
    """Return the warnings and notes about a run.

    Args:
        measured: results by split, `validation` among them.
        train_targets: targets of the training rows, which define the baseline.
        chosen_by: the metric that chose the checkpoint.
        evaluations: how many checkpoints there were to choose from.
        usual_lr: the learning rate that suits the base.
    """
    validation = measured["validation"]
    advice = advice_of(config, usual_lr)
    untrained = ""
    own = METRIC_OF_LOSS.get(config.loss.name) if config.loss is not None else None
    if not _has_learned(labels, validation, train_targets, own):
        headline = METRICS_OF_TASK[labels.task][0]
        figures = f"{headline} {figure(validation.scored.metrics[headline]['value'])}, "
        figures += f"baseline {figure(validation.scored.baseline[headline])}"
        rare = "" if labels.task == "regression" else _of_rare_labels(config, labels, train_targets)
        untrained = (
            f"the model is untrained: on the {_rows(len(validation.rows))} it is no better than "
            f"{_baseline_name(labels, train_targets)} ({figures}). Train {advice}{rare}"
        )
    beaten = beaten_by_tfidf(labels, validation.scored, "" if untrained else f": train {advice}")
    return Verdict(untrained, beaten or "", _chosen(measured, chosen_by, evaluations))


def advice_of(config: TrainConfig, usual_lr: float) -> str:
    """Return a suggestion for a run that learned too little; never a higher learning rate where it is high already."""
    if config.few_shot is not None:
        return "on more rows"
    usual = usual_lr * (SGD_FASTER if config.optim.optimizer.name == "sgd" else 1)
    lr = config.optim.lr or usual
    if lr > FAR_FROM_USUAL * usual:
        return f"with a lower learning rate (--lr {usual:.2g} suits this base)"
    if lr < usual / FAR_FROM_USUAL:
        return f"with a higher learning rate (--lr {usual:.2g} suits this base), or longer (--epochs)"
    return "longer (--epochs), or on more rows"


def _has_learned(labels: LabelSpace, measured: ScoredSplit, train_targets: Any, own: str | None) -> bool:
    """Return whether the headline metric is significantly better than the baseline, or the answers separate the labels.

    Args:
        own: of regression, the metric that the loss lowers, if that is not R2.
    """
    headline = METRICS_OF_TASK[labels.task][0]
    scored = measured.scored
    if headline not in scored.metrics or headline not in scored.baseline:
        return True
    value, plain = scored.metrics[headline]["value"], scored.baseline[headline]
    encoded = labels.encode(measured.rows.values)
    predictions, references = decided(measured.scores, encoded, labels.task, measured.thresholds)
    if (value == plain == 1.0) or (labels.task == "regression" and np.ptp(references) == 0):
        return True  # there is nothing to learn
    constant = baseline_of(labels, train_targets, references)
    model, baseline = (predictions, measured.scores), (constant[0], constant[2])

    def is_above(metric: str, gain: float) -> bool:
        if gain <= 0 or len(references) < FEW_ROWS:
            return gain > 0
        return bool(np.nanquantile(gaps(metric, baseline, model, references), SIGNIFICANCE) > 0)

    if is_above(headline, value - plain):
        return True
    if labels.task == "multi_label":
        return is_above("macro_f1", scored.metrics["macro_f1"]["value"] - scored.baseline["macro_f1"])
    if labels.task == "regression" and (own not in scored.metrics or own not in scored.baseline):
        return False
    if own is not None and scored.metrics[own]["value"] >= scored.baseline[own]:
        return False
    # a useful model may lose rows of the most frequent label to the others, and another constant easily beats the mean
    # of skewed numbers, so that association decides
    association = "spearman" if labels.task == "regression" else "mcc"
    drawn = resampled_values(association, predictions, references, measured.scores)
    return bool(np.nanquantile(drawn, SIGNIFICANCE) > 0)


def _rows(count: int) -> str:
    return f"{count} validation rows" if count > 1 else "one validation row"


def _baseline_name(labels: LabelSpace, train_targets: Any) -> str:
    if labels.task == "regression":
        return "always answering the mean of the training rows"
    if labels.task == "multi_label":
        proportions = train_targets.mean(axis=0)
        usual = [name for name, proportion in zip(labels.names, proportions, strict=True) if proportion >= 0.5]
        return f"always answering {shown(usual)}" if usual else "never predicting a label"
    counts = np.bincount(np.asarray(train_targets, dtype=int), minlength=len(labels))
    return f"always answering {labels.names[int(counts.argmax())]!r}"


def _of_rare_labels(config: TrainConfig, labels: LabelSpace, train_targets: Any) -> str:
    """Return a suggestion if some labels are rare, else an empty string."""
    if labels.task == "multi_label":
        rare = train_targets.mean(axis=0).min() < 0.2
    else:
        counts = np.bincount(np.asarray(train_targets, dtype=int), minlength=len(labels))
        rare = counts.max() / len(train_targets) > 1.5 / len(labels)
    if not rare or config.class_weights != "none":
        return ""
    return "; for rare labels, --set class_weights=balanced"


def _chosen(measured: Mapping[str, ScoredSplit], chosen_by: str, evaluations: int) -> str:
    if evaluations < 2:
        return ""
    sentence = (
        f"the best of {evaluations} checkpoints was chosen on the validation rows (by {chosen_by}), so that their "
        "scores are somewhat optimistic: "
    )
    tests = [name for name in measured if name != "validation"]
    if tests:
        return f"{sentence}those of {shown(tests)} are not"
    return f"{sentence}measure on other rows with --set data.test.NAME=FILE, or with rehead evaluate"
