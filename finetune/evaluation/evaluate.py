"""How a model's scores on labelled rows become figures, for a run's own splits and for any other table.

Knows: the way from a table over scores and decisions to metrics, whole and by a column.
Does not know: where scores come from, or how a metric is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.config.data import DataConfig
from finetune.core.labels import LabelSpace, Task
from finetune.core.scores import decide
from finetune.data.load import load_rows
from finetune.data.rows import Rows
from finetune.evaluation.baseline import cross_validated_tfidf_scores
from finetune.evaluation.intervals import Scored, difference, score
from finetune.evaluation.metrics import METRICS_OF_TASK, measured


@dataclass(frozen=True)
class ScoredSplit:
    """One split as the model answers it: metrics, scores `[N, C]`, the rows, the length of each in `unit`s, and for
    several labels the score from which each holds."""

    scored: Scored
    scores: Any
    rows: Rows
    lengths: list[int]
    unit: str = "tokens"
    thresholds: Sequence[float] | None = None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: the rows as the model answers them, the counts of the data, the figures by a column."""

    measured: ScoredSplit
    counts: dict[str, int]
    by: dict[str, Scored]


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
) -> Evaluation:
    """The metrics of a model on labelled rows, and the counts of what was read and dropped.

    The baseline gives the commonest label (or the mean) of these rows themselves; beside it stands TF-IDF with logistic
    regression, cross-validated on them.

    Args:
        predict: `(texts, pairs or None) -> scores [N, C]`, as `scores.activate` gives them.
        rows: a path, or an in-memory table as in `train`.
        columns: which column is what, where it is not obvious.
        thresholds: one a label, for multi-label.
        extra: further metrics by name.
        by: a column; the metrics are given for each of its values too.
        tfidf: whether to measure TF-IDF.

    Raises:
        DataError: no usable rows, or labels that are none of the model's; says where.
    """
    # the column of `by` travels as the rows' group
    columns = (columns or DataConfig()).model_copy(update={"group": by})
    checked, counts = load_rows(rows, columns, labels)
    scores = np.asarray(predict(checked.texts, checked.pairs))
    plain = cross_validated_tfidf_scores(labels, checked, seed=0) if tfidf and labels.nli is None else None

    def measure(chosen: list[int]) -> ScoredSplit:
        some = checked.take(chosen)
        scored = scored_rows(labels, scores[chosen], some, None, thresholds=thresholds, extra=extra)
        if plain is not None:
            scored = beside_tfidf(labels, scored, plain[chosen], some)
        # without the model's tokenizer a text's length is counted in words
        lengths = [len(text.split()) for text in some.texts]
        return ScoredSplit(scored, scores[chosen], some, lengths, "words", thresholds)

    members: dict[str, list[int]] = {}
    for index, group in enumerate(checked.groups or ()):
        members.setdefault(group, []).append(index)
    parts = {group: measure(members[group]).scored for group in sorted(members)}
    return Evaluation(measure(list(range(len(checked)))), counts | {"rows": len(checked)}, parts)


def differences(labels: LabelSpace, one: ScoredSplit, other: ScoredSplit) -> dict[str, dict[str, float]]:
    """Metric -> by how much `other` differs from `one` on the same rows, with a paired 95% bootstrap interval."""
    references = labels.encode(one.rows.values)
    answers = []
    for each in (one, other):
        predictions, truth = decided(each.scores, references, labels.task, each.thresholds)
        answers.append((predictions, each.scores))
    found = {name: difference(name, answers[0], answers[1], truth) for name in METRICS_OF_TASK[labels.task]}
    return {name: gap for name, gap in found.items() if gap is not None}


def beside_tfidf(labels: LabelSpace, scored: Scored, scores: Any, rows: Rows) -> Scored:
    """`scored` with the metrics of TF-IDF's scores of the same rows."""
    answers = decided(scores, labels.encode(rows.values), labels.task)
    return replace(scored, tfidf=measured(tuple(scored.baseline), *answers, scores))


def scored_rows(
    labels: LabelSpace,
    scores: Any,
    rows: Rows,
    train_targets: Any,
    *,
    thresholds: Sequence[float] | None = None,
    extra: Sequence[str] = (),
) -> Scored:
    """The metrics of `scores [N, C]` on these rows.

    Args:
        train_targets: targets whose shares make the baseline; None takes the rows' own.
    """
    predictions, references = decided(scores, labels.encode(rows.values), labels.task, thresholds)
    known = references if train_targets is None else train_targets
    return score(labels, predictions, references, np.asarray(scores), train_targets=known, extra=extra)


def decided(scores: Any, references: Any, task: Task, thresholds: Sequence[float] | None = None) -> tuple[Any, Any]:
    """Predictions and references as the metrics take them: multi-label decisions as zeros and ones."""
    predictions = decide(scores, task, thresholds)
    if task == "multi_label":
        return predictions.astype(int), references.astype(int)
    return predictions, references
