"""Evaluation: from a model's scores on labeled rows to metrics, for all rows and by the values of a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.config.data import DataConfig
from finetune.core.errors import DataError
from finetune.core.labels import LabelSpace
from finetune.core.scores import decide
from finetune.core.task import Task
from finetune.data.load import load_rows
from finetune.data.rows import Rows
from finetune.evaluation.baseline import cross_validated_tfidf_scores
from finetune.evaluation.intervals import Scored, difference, score
from finetune.evaluation.metrics import METRICS_OF_TASK
from finetune.evaluation.resampled_metrics import weighted


@dataclass(frozen=True)
class ScoredSplit:
    """The result of a model on one split.

    Attributes:
        scored: metrics.
        scores: `[N, C]`.
        lengths: length of each row, in `unit`s.
        thresholds: of multi-label and two labels, the score from which each label holds; None takes 0.5.
    """

    scored: Scored
    scores: Any
    rows: Rows
    lengths: list[int]
    unit: str = "tokens"
    thresholds: Sequence[float] | None = None


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`: metrics of all rows, counts of rows, metrics by the values of a column, and the column
    of the rows' weights."""

    measured: ScoredSplit
    counts: dict[str, int]
    by: dict[str, Scored]
    weight: str | None = None


def evaluate(
    predict: Callable[[Sequence[str], Sequence[str] | None], Any],
    rows: Any,
    labels: LabelSpace,
    *,
    columns: DataConfig | None = None,
    thresholds: Sequence[float] | None = None,
    extra: Sequence[str] = (),
    by: str | None = None,
    tfidf: bool = True,
    text_columns: Sequence[str] = (),
) -> Evaluation:
    """Return the metrics of a model on labeled rows, and the counts of rows that were read and dropped.

    The baseline answers the most frequent label (or the mean) of these rows; a second one is TF-IDF with logistic
    regression, cross-validated on them. With `columns.weight` a row of weight 2 counts as two rows in metrics,
    baselines and the class proportions of the majority baseline; TF-IDF is trained on each row once.

    Args:
        predict: `(texts, pairs or None) -> scores [N, C]`, as `scores.activate` returns them.
        rows: a path, or an in-memory table as in `train`.
        columns: names of the columns, where they are not obvious.
        thresholds: of multi-label and two labels, one for each label.
        extra: further metrics by name.
        by: a column; metrics are also computed for each of its values.
        tfidf: whether to measure TF-IDF.
        text_columns: the columns whose joined texts the model was trained on, where it records several.

    Raises:
        DataError: no usable rows, or labels that the model does not have; names the row.
    """
    # the values of the column `by` are read as the rows' groups
    columns = (columns or DataConfig()).model_copy(update={"group": by})
    checked, counts = load_rows(rows, columns, labels, text_columns)
    scores = np.asarray(predict(checked.texts, checked.pairs))
    tfidf_scores = cross_validated_tfidf_scores(labels, checked, seed=0) if tfidf and labels.nli is None else None

    def measure(indices: list[int]) -> ScoredSplit:
        subset = checked.take(indices)
        weights = np.asarray(subset.weights, dtype=np.float64) if subset.weights is not None else None
        scored = scored_rows(labels, scores[indices], subset, None, thresholds=thresholds, extra=extra, weights=weights)
        if tfidf_scores is not None:
            scored = beside_tfidf(labels, scored, tfidf_scores[indices], subset, weights)
        # without the model's tokenizer, lengths are counted in words
        lengths = [len(text.split()) for text in subset.texts]
        return ScoredSplit(scored, scores[indices], subset, lengths, "words", thresholds)

    members: dict[str, list[int]] = {}
    for index, group in enumerate(checked.groups or ()):
        members.setdefault(group, []).append(index)
    parts = {group: measure(members[group]).scored for group in sorted(members)}
    whole = measure(list(range(len(checked))))
    return Evaluation(whole, counts | {"rows": len(checked)}, parts, columns.weight)


def differences(labels: LabelSpace, first: ScoredSplit, second: ScoredSplit) -> dict[str, dict[str, float]]:
    """Return metric -> difference `second` - `first` on the same rows, with a paired 95% bootstrap interval.

    Raises:
        DataError: the rows are not the same.
    """
    if first.rows.numbers != second.rows.numbers:
        raise DataError(
            "the models read different columns, in which other rows are empty or repeated, so that they cannot be "
            "compared row by row: name the columns for both with --text, or drop such rows",
            file=first.rows.source,
        )
    references = labels.encode(first.rows.values)
    answers = []
    for split in (first, second):
        predictions, truth = decided(split.scores, references, labels.task, split.thresholds)
        answers.append((predictions, split.scores))
    gaps = {name: difference(name, answers[0], answers[1], truth) for name in METRICS_OF_TASK[labels.task]}
    return {name: gap for name, gap in gaps.items() if gap is not None}


def beside_tfidf(labels: LabelSpace, scored: Scored, scores: Any, rows: Rows, weights: Any = None) -> Scored:
    """Return `scored` with the metrics of TF-IDF's scores of the same rows."""
    answers = decided(scores, labels.encode(rows.values), labels.task)
    return replace(scored, tfidf=weighted(tuple(scored.baseline), *answers, scores, weights))


def scored_rows(
    labels: LabelSpace,
    scores: Any,
    rows: Rows,
    train_targets: Any,
    *,
    thresholds: Sequence[float] | None = None,
    extra: Sequence[str] = (),
    weights: Any = None,
) -> Scored:
    """Return the metrics of `scores [N, C]` on these rows.

    Args:
        train_targets: targets whose class proportions make the baseline; None takes those of the rows.
        weights: of the rows `[N]`; None counts each row once.
    """
    predictions, references = decided(scores, labels.encode(rows.values), labels.task, thresholds)
    known = references if train_targets is None else train_targets
    return score(labels, predictions, references, np.asarray(scores), train_targets=known, extra=extra, weights=weights)


def decided(scores: Any, references: Any, task: Task, thresholds: Sequence[float] | None = None) -> tuple[Any, Any]:
    """Return predictions and references as the metrics take them: multi-label decisions as zeros and ones."""
    predictions = decide(scores, task, thresholds)
    if task == "multi_label":
        return predictions.astype(int), references.astype(int)
    return predictions, references
