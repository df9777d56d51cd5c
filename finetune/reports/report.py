"""The files that a finished run writes for people: metrics.json, plots, the table of errors.

plots.py draws the plots; model_card.py writes the model card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config.training import DEFAULT_ERROR_ROWS
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import METRICS, write_json
from finetune.core.number_format import figure
from finetune.core.scores import decide
from finetune.core.tables.files import write_table
from finetune.data.rows import Rows
from finetune.evaluation.evaluate import Evaluation, ScoredSplit
from finetune.evaluation.intervals import INTERVALS, Scored
from finetune.evaluation.metrics import METRICS_OF_TASK
from finetune.evaluation.score_fitting import ScoreReport
from finetune.reports import plots
from finetune.training.gradient_monitor import GradientSnapshot

ERRORS = "errors.csv"
ROW_NUMBERS = "`row` counts the data rows of `file` from 1; the header is not counted"
"""Explanation of the row numbers in errors.csv."""

NEAR_DUPLICATES = "near_duplicates.csv"
GRADIENTS = "gradients.jsonl"


@dataclass(frozen=True)
class Lengths:
    """Lengths of the training rows.

    Attributes:
        counts: tokens of each row.
        limit: most tokens of a row.
        truncated: proportion of rows that are truncated to it.
    """

    counts: list[int]
    limit: int
    truncated: float


def write(
    report: Path,
    labels: LabelSpace,
    measured: ScoredSplit,
    lengths: Lengths,
    history: list[dict[str, Any]],
    snapshots: Sequence[GradientSnapshot],
    *,
    error_rows: int,
    with_plots: bool,
    fitted: ScoreReport | None = None,
) -> list[str]:
    """Write a run's plots, its gradient snapshots and the errors on its validation split into the new folder `report`.

    Returns:
        The file names of the plots, in the order of the model card; none without `with_plots`.
    """
    report.mkdir()
    if snapshots:
        lines = [json.dumps(snapshot.to_json()) + "\n" for snapshot in snapshots]
        (report / GRADIENTS).write_text("".join(lines), encoding="utf-8")
    write_errors(report, labels, measured, error_rows)
    if not with_plots:
        return []
    plots.training_curve(history, report / "training_curve.png")
    plots.learning_rate(history, report / "learning_rate.png")
    plots.lengths(lengths.counts, lengths.limit, lengths.truncated, report / "lengths.png")
    gradients = ["gradients.png"] if snapshots else []
    if snapshots:
        plots.gradients(snapshots, report / gradients[0])
    return [
        "training_curve.png",
        "learning_rate.png",
        "lengths.png",
        *gradients,
        *draw(report, labels, measured, fitted),
    ]


def write_errors(report: Path, labels: LabelSpace, measured: ScoredSplit, count: int) -> None:
    """Write the table of `errors`, if there are any."""
    wrong = errors(labels, measured, count)
    if wrong:
        write_table(report / ERRORS, wrong)


def evaluation_json(source: str, evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation in the format of metrics.json, with the metrics by a column under `by`."""
    weight = {"weight": evaluation.weight} if evaluation.weight is not None else {}
    by = {"by": {name: part(scored) for name, scored in evaluation.by.items()}} if evaluation.by else {}
    return {"split": source} | weight | part(evaluation.measured.scored) | {"data": evaluation.counts} | by


def write_evaluation(folder: Path, labels: LabelSpace, measured: ScoredSplit, content: dict[str, Any]) -> None:
    """Write metrics.json, the plots and the table of errors of an evaluation into a new folder."""
    folder.mkdir(parents=True)
    write_json(folder / METRICS, content)
    draw(folder, labels, measured)
    write_errors(folder, labels, measured, DEFAULT_ERROR_ROWS)


def errors_sentence(report: Path) -> str:
    """Return a description of the table of errors in a report; empty where there is none."""
    if not (report / ERRORS).is_file():
        return ""
    return (
        f"`report/{ERRORS}` lists the validation rows that the model got most wrong and those it was least sure of, "
        f"with all columns of the table; {ROW_NUMBERS}."
    )


def write_near_duplicates(report: Path, pairs: list[dict[str, Any]]) -> None:
    """Write the table of near-duplicate texts, if there are any."""
    if pairs:
        write_table(report / NEAR_DUPLICATES, pairs)


def draw(report: Path, labels: LabelSpace, measured: ScoredSplit, fitted: ScoreReport | None = None) -> list[str]:
    """Draw the plots of one split into the folder `report`, and return their file names.

    Args:
        fitted: what was fitted on the split; its held-out rows are then those of the reliability plot.
    """
    references = labels.encode(measured.rows.values)
    predictions = decide(measured.scores, labels.task, measured.thresholds)
    drawn = []
    if labels.task in ("binary", "multiclass"):
        plots.confusion_matrix(labels, references, predictions, report / "confusion_matrix.png")
        drawn += ["confusion_matrix.png"]
    if labels.task == "regression":
        plots.residuals(predictions, references, report / "residuals.png")
        drawn += ["residuals.png"]
        errors, ylabel = np.abs(predictions - references), "mean absolute error"
    else:
        references = references.astype(int)
        held_out = fitted.held_out if fitted is not None else None
        if held_out is not None:
            truth = held_out.targets.astype(int)
            plots.reliability(held_out.after, truth, report / "reliability.png", before=held_out.before)
        else:
            plots.reliability(measured.scores, references, report / "reliability.png")
        plots.precision_recall(labels, measured.scores, references, report / "precision_recall.png")
        drawn += ["reliability.png", "precision_recall.png"]
        wrong = predictions != references
        multi_label = wrong.ndim == 2
        errors = wrong.mean(axis=1) if multi_label else wrong
        ylabel = "proportion of wrong decisions" if multi_label else "proportion wrong"
    plots.length_and_error(measured.lengths, measured.unit, errors, ylabel, report / "length_and_error.png")
    return [*drawn, "length_and_error.png"]


def errors(labels: LabelSpace, measured: ScoredSplit, count: int) -> list[dict[str, Any]]:
    """Return up to `count` rows with the worst errors and up to `count` uncertain rows, each with all columns of its
    table.

    ROW_NUMBERS explains `row`. Worst: wrong answers with the highest score, the largest wrong score or missed label,
    the largest residual. Uncertain: the smallest margin of the best label, or the score nearest to its threshold; none
    for regression.
    """
    references = labels.encode(measured.rows.values)
    scores, predictions = measured.scores, decide(measured.scores, labels.task, measured.thresholds)
    if labels.task == "regression":
        badness = np.abs(predictions - references)
        margin = None
    elif labels.task == "multi_label":
        badness = np.where(predictions != references.astype(bool), np.abs(scores - references), 0).max(axis=1)
        bound = 0.5 if measured.thresholds is None else np.asarray(measured.thresholds)
        margin = np.abs(scores - bound).min(axis=1)
    else:
        ordered = np.sort(scores, axis=1)
        badness = np.where(predictions != references, ordered[:, -1], 0)
        margin = ordered[:, -1] - ordered[:, -2]
    worst = [int(index) for index in np.argsort(-badness, kind="stable")[:count] if badness[index] > 0]
    uncertain = [] if margin is None else [int(index) for index in np.argsort(margin, kind="stable")[:count]]
    listed = [(kind, index) for kind, indices in (("worst", worst), ("uncertain", uncertain)) for index in indices]
    rows = [_error(labels, measured, predictions, index, kind) for kind, index in listed]
    return _beside(rows, [measured.rows.origin.cells(index) for _, index in listed] if measured.rows.origin else [])


def _beside(rows: list[dict[str, Any]], origins: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows with the cells of all columns of their tables; `(table)` is appended to the name of a column that
    is taken and holds other cells."""
    columns = list(dict.fromkeys(name for _, cells in origins for name in cells))
    cells_of = {name: [_shown(cells.get(name)) for _, cells in origins] for name in columns}
    if origins:
        cells_of = {"file": [file for file, _ in origins]} | {
            f"{name} (table)" if name == "file" else name: cells for name, cells in cells_of.items()
        }
    for name, cells in cells_of.items():
        taken = bool(rows) and name in rows[0]
        if taken and all(str(row[name]) == str(cell) for row, cell in zip(rows, cells, strict=True)):
            continue
        for row, cell in zip(rows, cells, strict=True):
            row[f"{name} (table)" if taken else name] = cell
    return rows


def _shown(cell: Any) -> Any:
    """Return a cell as it is written to a CSV file."""
    if isinstance(cell, str | int | float) or cell is None:
        return "" if cell is None else cell
    return json.dumps(cell, ensure_ascii=False, default=str) if isinstance(cell, list | dict | tuple) else str(cell)


def _error(labels: LabelSpace, measured: ScoredSplit, predictions: Any, index: int, kind: str) -> dict[str, Any]:
    rows, scores = measured.rows, measured.scores[index]
    pair = {"text_pair": rows.pairs[index]} if rows.pairs is not None else {}
    if labels.task == "regression":
        prediction, score = f"{predictions[index]:.6g}", ""
    elif labels.task == "multi_label":
        names = [name for name, holds in zip(labels.names, predictions[index], strict=True) if holds]
        prediction, score = "|".join(names), f"{scores.max():.4f}"
    else:
        prediction, score = labels.names[int(predictions[index])], f"{scores.max():.4f}"
    value = rows.values[index]
    label = "|".join(value) if isinstance(value, list) else str(value)
    row = {"kind": kind, "row": rows.numbers[index], "text": rows.texts[index]} | pair
    return row | {"label": label, "prediction": prediction, "score": score}


def metrics_json(
    measured: Mapping[str, ScoredSplit], counts: Mapping[str, int], chosen_by: str, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of metrics.json: the validation split, and the test splits under `tests`.

    Args:
        chosen_by: the metric that chose the checkpoint.
        notes: warnings and notes about the run (`Verdict.to_json`).
    """
    content = {"split": "validation"} | part(measured["validation"].scored) | {"data": dict(counts)}
    content |= {"chosen_by": chosen_by, "intervals": INTERVALS, "notes": dict(notes)}
    tests = {
        name: {"split": name} | part(split.scored) | _origin(name, split.rows)
        for name, split in measured.items()
        if name != "validation"
    }
    return content | {"tests": tests}


def beaten_by_tfidf(labels: LabelSpace, scored: Scored, advice: str = "") -> str | None:
    """Return a sentence if TF-IDF is better than the model in the task's headline metric, else None.

    Args:
        advice: a suggestion that ends the sentence.
    """
    headline = METRICS_OF_TASK[labels.task][0]
    value, plain = scored.metrics.get(headline, {}).get("value"), scored.tfidf.get(headline)
    if value is None or plain is None or plain <= value:
        return None
    return (
        f"TF-IDF with a linear model is better on the same rows ({headline} {figure(plain)}, this model "
        f"{figure(value)}){advice}"
    )


def part(scored: Scored) -> dict[str, Any]:
    """Return one split's metrics in the format of metrics.json."""
    return {
        "rows": scored.rows,
        "metrics": scored.metrics,
        "baseline": scored.baseline,
        "tfidf": scored.tfidf,
        "per_class": scored.per_class,
    }


def _origin(name: str, rows: Rows) -> dict[str, Any]:
    # the rows of a holdout are listed, so that anyone can check that they were not trained on
    return {"row_numbers": rows.numbers} if name.endswith("_holdout") else {}
