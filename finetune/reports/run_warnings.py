"""Warnings and notes about a finished run: whether it learned anything, and what its scores were measured on.

Every sentence is made here once, for the command line, the card, metrics.json and the web UI.
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
"""Validation rows below which chance cannot be told from learning, and the figures themselves decide."""

CHANCE = 0.05
"""A gain over the baseline that a bootstrap resample loses more often than this is chance."""

OFF = 3
"""Times above or below the usual learning rate from which another one is suggested."""

SGD_FASTER = 100
"""How many times the rate of Adam stochastic gradient descent takes."""


METRIC_OF_LOSS = {
    "mean_squared_logarithmic_error": "msle",
    "mean_absolute_error": "mae",
    "huber": "mae",
    "log_cosh": "mae",
}
"""Loss -> the metric that it lowers where that is not R2: a model may well give up R2 for it on skewed numbers."""


@dataclass(frozen=True)
class Verdict:
    """Sentences about a finished run, each empty where it does not apply.

    Attributes:
        untrained: the model does no better than the majority (or mean) baseline.
        beaten: TF-IDF does better.
        chosen: the validation rows chose the checkpoint, so that their scores are optimistic.
    """

    untrained: str = ""
    beaten: str = ""
    chosen: str = ""

    @property
    def warnings(self) -> list[str]:
        """What is wrong, the gravest first."""
        return [sentence for sentence in (self.untrained, self.beaten) if sentence]

    @property
    def notes(self) -> tuple[str, ...]:
        """All sentences, the gravest first."""
        return (*self.warnings, *([self.chosen] if self.chosen else []))

    def to_json(self) -> dict[str, Any]:
        """The entries of metrics.json: null where a sentence is empty."""
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
        measured: by split; `validation` is among them.
        train_targets: targets of the training rows, from which the baseline is taken.
        chosen_by: the metric that chose the checkpoint.
        evaluations: how many checkpoints it was chosen among.
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
            f"the model is untrained: on the {_rows(len(validation.rows))} it does no better than "
            f"{_baseline_name(labels, train_targets)} ({figures}). Train {advice}{rare}"
        )
    beaten = beaten_by_tfidf(labels, validation.scored, "" if untrained else f": train {advice}")
    return Verdict(untrained, beaten or "", _chosen(measured, chosen_by, evaluations))


def advice_of(config: TrainConfig, usual_lr: float) -> str:
    """Return what may help a run that learned too little; never a higher rate where it is high already."""
    usual = usual_lr * (SGD_FASTER if config.optim.optimizer.name == "sgd" else 1)
    lr = config.optim.lr or usual
    if lr > OFF * usual:
        return f"with a lower learning rate (--lr {usual:.2g} suits this base)"
    if lr < usual / OFF:
        return f"with a higher learning rate (--lr {usual:.2g} suits this base), or longer (--epochs)"
    return "longer (--epochs), or on more rows"


def _has_learned(labels: LabelSpace, measured: ScoredSplit, train_targets: Any, own: str | None) -> bool:
    """Whether the headline metric is above the baseline's, beyond chance, or the answers tell the labels apart.

    Args:
        own: the metric of numbers that the loss lowers, where that is another one.
    """
    headline = METRICS_OF_TASK[labels.task][0]
    scored = measured.scored
    if headline not in scored.metrics or headline not in scored.baseline:
        return True
    value, plain = scored.metrics[headline]["value"], scored.baseline[headline]
    encoded = labels.encode(measured.rows.values)
    predictions, references = decided(measured.scores, encoded, labels.task, measured.thresholds)
    if (value == plain == 1.0) or (labels.task == "regression" and np.ptp(references) == 0):
        return True  # nothing to tell apart
    constant = baseline_of(labels, train_targets, references)
    model, baseline = (predictions, measured.scores), (constant[0], constant[2])

    def is_above(metric: str, gain: float) -> bool:
        if gain <= 0 or len(references) < FEW_ROWS:
            return gain > 0
        return bool(np.nanquantile(gaps(metric, baseline, model, references), CHANCE) > 0)

    if is_above(headline, value - plain):
        return True
    if labels.task == "multi_label":
        return is_above("macro_f1", scored.metrics["macro_f1"]["value"] - scored.baseline["macro_f1"])
    if labels.task == "regression" and (own not in scored.metrics or own not in scored.baseline):
        return False
    if own is not None and scored.metrics[own]["value"] >= scored.baseline[own]:
        return False
    # a model may well give up rows of the commonest label for those of the others; and the mean of skewed numbers is
    # easily beaten by another constant, so that their order counts too
    association = "spearman" if labels.task == "regression" else "mcc"
    drawn = resampled_values(association, predictions, references, measured.scores)
    return bool(np.nanquantile(drawn, CHANCE) > 0)


def _rows(count: int) -> str:
    return f"{count} validation rows" if count > 1 else "one validation row"


def _baseline_name(labels: LabelSpace, train_targets: Any) -> str:
    if labels.task == "regression":
        return "always answering the mean of the training rows"
    if labels.task == "multi_label":
        usual = [name for name, share in zip(labels.names, train_targets.mean(axis=0), strict=True) if share >= 0.5]
        return f"always answering {shown(usual)}" if usual else "never giving a label"
    counts = np.bincount(np.asarray(train_targets, dtype=int), minlength=len(labels))
    return f"always answering {labels.names[int(counts.argmax())]!r}"


def _of_rare_labels(config: TrainConfig, labels: LabelSpace, train_targets: Any) -> str:
    """The setting that helps where some labels are rare."""
    if labels.task == "multi_label":
        shares = train_targets.mean(axis=0)
        rare = shares.min() < 0.2
    else:
        shares = np.bincount(np.asarray(train_targets, dtype=int), minlength=len(labels)) / len(train_targets)
        rare = shares.max() > 1.5 / len(labels)
    if not rare or config.class_weights != "none":
        return ""
    return "; where labels are rare, --set class_weights=balanced"


def _chosen(measured: Mapping[str, ScoredSplit], chosen_by: str, evaluations: int) -> str:
    if evaluations < 2:
        return ""
    sentence = (
        f"the validation rows chose the best of {evaluations} checkpoints (by {chosen_by}), so their scores are "
        "somewhat optimistic: "
    )
    tests = [name for name in measured if name != "validation"]
    if tests:
        return f"{sentence}those of {shown(tests)} are not, whose rows chose nothing"
    return f"{sentence}measure on other rows with --set data.test.NAME=FILE, or with rehead evaluate"
