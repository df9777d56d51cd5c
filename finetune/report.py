"""What a finished run leaves for people: metrics.json, pictures, the table of errors, the model card.

Knows: which of them each task wants, and where they lie in the model folder.
Does not know: how anything was computed, how a picture is drawn (pictures.py) or a card laid out (card.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune import pictures
from finetune.bootstrap import Scored
from finetune.gradients import Look
from finetune.labels import LabelSpace
from finetune.metrics import METRICS_OF_TASK
from finetune.rows import Rows
from finetune.scores import decide
from finetune.tables import write_table

ERRORS = "errors.csv"
NEAR_DUPLICATES = "near_duplicates.csv"
LOOKS = "gradients.jsonl"


@dataclass(frozen=True)
class Measured:
    """One split as the model answers it: metrics, scores `[N, C]`, the rows, the length of each in `unit`s, and for
    several labels the score from which each holds."""

    scored: Scored
    scores: Any
    rows: Rows
    lengths: list[int]
    unit: str = "tokens"
    thresholds: Sequence[float] | None = None


@dataclass(frozen=True)
class Lengths:
    """Tokens of each training row as it is trained on, where rows are cut, and the share that is."""

    counts: list[int]
    limit: int
    cut: float


def write(
    report: Path,
    labels: LabelSpace,
    measured: Measured,
    lengths: Lengths,
    history: list[dict[str, Any]],
    looks: Sequence[Look],
    *,
    error_rows: int,
) -> list[str]:
    """Write a run's pictures, its looks at the gradients, and the errors on its validation split, into the new folder
    `report`.

    Returns:
        The names of the pictures, in the order in which a card shows them.
    """
    report.mkdir()
    pictures.training_curve(history, report / "training_curve.png")
    pictures.learning_rate(history, report / "learning_rate.png")
    pictures.lengths(lengths.counts, lengths.limit, lengths.cut, report / "lengths.png")
    gradients = ["gradients.png"] if looks else []
    if looks:
        pictures.gradients(looks, report / gradients[0])
        lines = [json.dumps(look.to_json()) + "\n" for look in looks]
        (report / LOOKS).write_text("".join(lines), encoding="utf-8")
    drawn = [*gradients, *draw(report, labels, measured)]
    write_errors(report, labels, measured, error_rows)
    return ["training_curve.png", "learning_rate.png", "lengths.png", *drawn]


def write_errors(report: Path, labels: LabelSpace, measured: Measured, count: int) -> None:
    """Write the table of `errors`, if there are any."""
    wrong = errors(labels, measured, count)
    if wrong:
        write_table(report / ERRORS, wrong)


def write_near_duplicates(report: Path, pairs: list[dict[str, Any]]) -> None:
    """Write the table of texts that nearly repeat one another, if there are any."""
    if pairs:
        write_table(report / NEAR_DUPLICATES, pairs)


def draw(report: Path, labels: LabelSpace, measured: Measured) -> list[str]:
    """Draw one split's pictures into the folder `report`; returns their names."""
    references = labels.encode(measured.rows.values)
    predictions = decide(measured.scores, labels.task, measured.thresholds)
    drawn = []
    if labels.task in ("binary", "multiclass"):
        pictures.confusion_matrix(labels, references, predictions, report / "confusion_matrix.png")
        drawn += ["confusion_matrix.png"]
    if labels.task == "regression":
        pictures.residuals(predictions, references, report / "residuals.png")
        drawn += ["residuals.png"]
        wrong, what = np.abs(predictions - references), "mean absolute error"
    else:
        references = references.astype(int)
        pictures.reliability(measured.scores, references, report / "reliability.png")
        pictures.precision_recall(labels, measured.scores, references, report / "precision_recall.png")
        drawn += ["reliability.png", "precision_recall.png"]
        wrong = predictions != references
        wrong, what = (wrong.mean(axis=1), "share of wrong decisions") if wrong.ndim == 2 else (wrong, "share wrong")
    pictures.length_and_error(measured.lengths, measured.unit, wrong, what, report / "length_and_error.png")
    return [*drawn, "length_and_error.png"]


def errors(labels: LabelSpace, measured: Measured, count: int) -> list[dict[str, Any]]:
    """Up to `count` rows that the model got most wrong, and up to `count` that it was least sure of.

    Worst: wrong answers with the highest score, the largest wrong score or missed label, the largest residual.
    Most uncertain: the smallest lead of the best label, or the score nearest to one half; none for a number.
    """
    references = labels.encode(measured.rows.values)
    scores, predictions = measured.scores, decide(measured.scores, labels.task, measured.thresholds)
    if labels.task == "regression":
        badness = np.abs(predictions - references)
        doubt = None
    elif labels.task == "multi_label":
        badness = np.where(predictions != references.astype(bool), np.abs(scores - references), 0).max(axis=1)
        bound = 0.5 if measured.thresholds is None else np.asarray(measured.thresholds)
        doubt = np.abs(scores - bound).min(axis=1)
    else:
        ordered = np.sort(scores, axis=1)
        badness = np.where(predictions != references, ordered[:, -1], 0)
        doubt = ordered[:, -1] - ordered[:, -2]
    worst = [int(index) for index in np.argsort(-badness, kind="stable")[:count] if badness[index] > 0]
    unsure = [] if doubt is None else [int(index) for index in np.argsort(doubt, kind="stable")[:count]]
    return [
        _error(labels, measured, predictions, index, kind)
        for kind, chosen in (("worst", worst), ("uncertain", unsure))
        for index in chosen
    ]


def _error(labels: LabelSpace, measured: Measured, predictions: Any, index: int, kind: str) -> dict[str, Any]:
    rows, scores = measured.rows, measured.scores[index]
    pair = {"text_pair": rows.pairs[index]} if rows.pairs is not None else {}
    if labels.task == "regression":
        said, score = f"{predictions[index]:.4f}", ""
    elif labels.task == "multi_label":
        chosen = [name for name, held in zip(labels.names, predictions[index], strict=True) if held]
        said, score = "|".join(chosen), f"{scores.max():.4f}"
    else:
        said, score = labels.names[int(predictions[index])], f"{scores.max():.4f}"
    value = rows.values[index]
    label = "|".join(value) if isinstance(value, list) else str(value)
    found = {"kind": kind, "row": rows.numbers[index], "text": rows.texts[index]} | pair
    return found | {"label": label, "prediction": said, "score": score}


def metrics_json(measured: Mapping[str, Measured], counts: Mapping[str, int]) -> dict[str, Any]:
    """The content of metrics.json: the validation split, and under `tests` the splits that were only reported on."""
    content = {"split": "validation"} | part(measured["validation"].scored) | {"data": dict(counts)}
    tests = {
        name: {"split": name} | part(one.scored) | _origin(name, one.rows)
        for name, one in measured.items()
        if name != "validation"
    }
    return content | {"tests": tests}


def beaten_by_tfidf(labels: LabelSpace, scored: Scored) -> str | None:
    """A sentence where TF-IDF does better than the model in the task's headline metric, else None."""
    headline = METRICS_OF_TASK[labels.task][0]
    value, plain = scored.metrics.get(headline, {}).get("value"), scored.tfidf.get(headline)
    if value is None or plain is None or plain <= value:
        return None
    return (
        f"TF-IDF with a linear model does better on the same rows ({headline} {plain:.3f}, this model "
        f"{value:.3f}): train longer (--epochs), or with a higher learning rate (--lr)"
    )


def part(scored: Scored) -> dict[str, Any]:
    """One split's figures as metrics.json has them."""
    return {
        "rows": scored.rows,
        "metrics": scored.metrics,
        "baseline": scored.baseline,
        "tfidf": scored.tfidf,
        "per_class": scored.per_class,
    }


def _origin(name: str, rows: Rows) -> dict[str, Any]:
    # rows drawn out of a training table are named one by one, so that anyone can check that they were kept out
    return {"row_numbers": rows.numbers} if name.endswith("_kept_out") else {}
