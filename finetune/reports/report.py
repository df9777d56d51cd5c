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
from finetune.reports import plots
from finetune.training.gradient_monitor import GradientSnapshot

ERRORS = "errors.csv"
ROW_NUMBERS = "`row` counts the data rows of `file` from 1; the header is not counted"
"""What the row numbers in errors.csv mean."""

NEAR_DUPLICATES = "near_duplicates.csv"
LOOKS = "gradients.jsonl"


@dataclass(frozen=True)
class Lengths:
    """Tokens of each training row as it is trained on, where rows are cut, and the share that is."""

    counts: list[int]
    limit: int
    cut: float


def write(
    report: Path,
    labels: LabelSpace,
    measured: ScoredSplit,
    lengths: Lengths,
    history: list[dict[str, Any]],
    looks: Sequence[GradientSnapshot],
    *,
    error_rows: int,
    with_plots: bool,
) -> list[str]:
    """Write a run's plots, its looks at the gradients, and the errors on its validation split, into the new folder
    `report`.

    Returns:
        The names of the plots, in the order in which a card shows them; none without `with_plots`.
    """
    report.mkdir()
    if looks:
        lines = [json.dumps(look.to_json()) + "\n" for look in looks]
        (report / LOOKS).write_text("".join(lines), encoding="utf-8")
    write_errors(report, labels, measured, error_rows)
    if not with_plots:
        return []
    plots.training_curve(history, report / "training_curve.png")
    plots.learning_rate(history, report / "learning_rate.png")
    plots.lengths(lengths.counts, lengths.limit, lengths.cut, report / "lengths.png")
    gradients = ["gradients.png"] if looks else []
    if looks:
        plots.gradients(looks, report / gradients[0])
    return ["training_curve.png", "learning_rate.png", "lengths.png", *gradients, *draw(report, labels, measured)]


def write_errors(report: Path, labels: LabelSpace, measured: ScoredSplit, count: int) -> None:
    """Write the table of `errors`, if there are any."""
    wrong = errors(labels, measured, count)
    if wrong:
        write_table(report / ERRORS, wrong)


def evaluation_json(source: str, found: Evaluation) -> dict[str, Any]:
    """An evaluation in the shape of metrics.json, with `by` beside it."""
    by = {"by": {name: part(scored) for name, scored in found.by.items()}} if found.by else {}
    return {"split": source} | part(found.measured.scored) | {"data": found.counts} | by


def write_evaluation(folder: Path, labels: LabelSpace, measured: ScoredSplit, content: dict[str, Any]) -> None:
    """Write metrics.json, the pictures and the table of errors of an evaluation into a new folder."""
    folder.mkdir(parents=True)
    write_json(folder / METRICS, content)
    draw(folder, labels, measured)
    write_errors(folder, labels, measured, DEFAULT_ERROR_ROWS)


def errors_sentence(report: Path) -> str:
    """Return what the table of errors in a report holds; empty where there is none."""
    if not (report / ERRORS).is_file():
        return ""
    return (
        f"`report/{ERRORS}` lists the validation rows that the model got most wrong and those it was least sure of, "
        f"with all columns of the table; {ROW_NUMBERS}."
    )


def write_near_duplicates(report: Path, pairs: list[dict[str, Any]]) -> None:
    """Write the table of texts that nearly repeat one another, if there are any."""
    if pairs:
        write_table(report / NEAR_DUPLICATES, pairs)


def draw(report: Path, labels: LabelSpace, measured: ScoredSplit) -> list[str]:
    """Draw one split's pictures into the folder `report`; returns their names."""
    references = labels.encode(measured.rows.values)
    predictions = decide(measured.scores, labels.task, measured.thresholds)
    drawn = []
    if labels.task in ("binary", "multiclass"):
        plots.confusion_matrix(labels, references, predictions, report / "confusion_matrix.png")
        drawn += ["confusion_matrix.png"]
    if labels.task == "regression":
        plots.residuals(predictions, references, report / "residuals.png")
        drawn += ["residuals.png"]
        wrong, what = np.abs(predictions - references), "mean absolute error"
    else:
        references = references.astype(int)
        plots.reliability(measured.scores, references, report / "reliability.png")
        plots.precision_recall(labels, measured.scores, references, report / "precision_recall.png")
        drawn += ["reliability.png", "precision_recall.png"]
        wrong = predictions != references
        wrong, what = (wrong.mean(axis=1), "share of wrong decisions") if wrong.ndim == 2 else (wrong, "share wrong")
    plots.length_and_error(measured.lengths, measured.unit, wrong, what, report / "length_and_error.png")
    return [*drawn, "length_and_error.png"]


def errors(labels: LabelSpace, measured: ScoredSplit, count: int) -> list[dict[str, Any]]:
    """Up to `count` rows that the model got most wrong, and up to `count` that it was least sure of, each with all
    columns of its table. ROW_NUMBERS says what `row` counts.

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
    chosen = [(kind, index) for kind, places in (("worst", worst), ("uncertain", unsure)) for index in places]
    found = [_error(labels, measured, predictions, index, kind) for kind, index in chosen]
    return _beside(found, [measured.rows.origin.cells(index) for _, index in chosen] if measured.rows.origin else [])


def _beside(rows: list[dict[str, Any]], origins: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows with the cells of all columns of their tables; a column whose name is taken, and whose cells are not the
    same, has `(table)` behind it."""
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
    """A cell as a CSV file has it."""
    if isinstance(cell, str | int | float) or cell is None:
        return "" if cell is None else cell
    return json.dumps(cell, ensure_ascii=False, default=str) if isinstance(cell, list | dict | tuple) else str(cell)


def _error(labels: LabelSpace, measured: ScoredSplit, predictions: Any, index: int, kind: str) -> dict[str, Any]:
    rows, scores = measured.rows, measured.scores[index]
    pair = {"text_pair": rows.pairs[index]} if rows.pairs is not None else {}
    if labels.task == "regression":
        said, score = f"{predictions[index]:.6g}", ""
    elif labels.task == "multi_label":
        chosen = [name for name, held in zip(labels.names, predictions[index], strict=True) if held]
        said, score = "|".join(chosen), f"{scores.max():.4f}"
    else:
        said, score = labels.names[int(predictions[index])], f"{scores.max():.4f}"
    value = rows.values[index]
    label = "|".join(value) if isinstance(value, list) else str(value)
    found = {"kind": kind, "row": rows.numbers[index], "text": rows.texts[index]} | pair
    return found | {"label": label, "prediction": said, "score": score}


def metrics_json(
    measured: Mapping[str, ScoredSplit], counts: Mapping[str, int], chosen_by: str, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of metrics.json: the validation split, and under `tests` the splits that were only reported on.

    Args:
        chosen_by: the metric that chose the checkpoint.
        notes: what is said of the run (`Verdict.to_json`).
    """
    content = {"split": "validation"} | part(measured["validation"].scored) | {"data": dict(counts)}
    content |= {"chosen_by": chosen_by, "intervals": INTERVALS, "notes": dict(notes)}
    tests = {
        name: {"split": name} | part(one.scored) | _origin(name, one.rows)
        for name, one in measured.items()
        if name != "validation"
    }
    return content | {"tests": tests}


def beaten_by_tfidf(labels: LabelSpace, scored: Scored, advice: str = "") -> str | None:
    """A sentence where TF-IDF does better than the model in the task's headline metric, else None.

    Args:
        advice: what may help, after a colon.
    """
    headline = METRICS_OF_TASK[labels.task][0]
    value, plain = scored.metrics.get(headline, {}).get("value"), scored.tfidf.get(headline)
    if value is None or plain is None or plain <= value:
        return None
    return (
        f"TF-IDF with a linear model does better on the same rows ({headline} {figure(plain)}, this model "
        f"{figure(value)}){advice}"
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
    return {"row_numbers": rows.numbers} if name.endswith("_holdout") else {}
