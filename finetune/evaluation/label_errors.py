"""Likely label errors: rows whose label disagrees with scores from models that have not seen them.

Confident learning (Northcutt, Jiang and Chuang, 2021), by cleanlab: a row is listed where the estimated joint
distribution of given and true labels leaves no place for its label.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.errors import DataError, MissingExtra
from finetune.core.labels import LabelSpace, SoftLabels
from finetune.core.tables.files import write_table
from finetune.data.rows import Rows

LABEL_ERRORS = "label_errors.csv"
INSTALL = "pip install 'rehead[review]'"
FEWEST_ROWS = 20


@dataclass(frozen=True)
class LabelError:
    """A row whose label is likely wrong.

    Attributes:
        place: of the row, from 0.
        given, suggested: label names.
        score_given, score_suggested: their scores.
    """

    place: int
    given: str
    suggested: str
    score_given: float
    score_suggested: float


def is_available() -> bool:
    """Return whether cleanlab is installed."""
    return find_spec("cleanlab") is not None


def applies_to(labels: LabelSpace, rows: int) -> bool:
    """Return whether label errors can be estimated: one label for each of enough rows."""
    return labels.task in ("binary", "multiclass") and labels.nli is None and rows >= FEWEST_ROWS


def label_errors(labels: LabelSpace, scores: npt.NDArray[Any], values: Any) -> list[LabelError]:
    """Return rows whose label is likely wrong, the likeliest first.

    Args:
        scores: `[N, C]` probabilities from models that have not seen these rows.
        values: the given labels `[N]`; the likeliest of soft labels counts.

    Raises:
        MissingExtra: cleanlab is not installed.
        DataError: the task is multi-label or a regression, or there are too few rows.
    """
    if not is_available():
        raise MissingExtra(f"likely label errors are found with cleanlab: {INSTALL}")
    if not applies_to(labels, len(values)):
        raise DataError(
            f"label errors are estimated for one label in each of {FEWEST_ROWS} rows or more, and these are "
            f"{len(values)} rows of task {labels.task}"
        )
    from cleanlab.filter import find_label_issues

    given = labels.encode(values)
    probabilities = np.clip(np.asarray(scores, dtype=np.float64), 1e-12, None)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    # cleanlab needs rows of each label up to the highest: labels without any are left out
    present = np.unique(given)
    if len(present) < 2:
        return []
    dense = probabilities[:, present] / probabilities[:, present].sum(axis=1, keepdims=True)
    with warnings.catch_warnings():
        # a label with very few rows has none pruned, which is what is wanted
        warnings.filterwarnings("ignore", message="May not flag all label issues", category=UserWarning)
        places = find_label_issues(
            np.searchsorted(present, given), dense, return_indices_ranked_by="self_confidence", n_jobs=1
        )
    best = probabilities.argmax(axis=1)
    return [
        LabelError(
            int(place),
            labels.names[given[place]],
            labels.names[best[place]],
            float(probabilities[place, given[place]]),
            float(probabilities[place, best[place]]),
        )
        for place in places
        if best[place] != given[place]
    ]


def records(errors: list[LabelError], rows: Rows) -> Iterator[dict[str, Any]]:
    """Yield a table row for each error: where it stands, its labels with their scores, and its text."""
    for error in errors:
        file = rows.origin.cells(error.place)[0] if rows.origin is not None else rows.source
        yield {
            "file": file,
            "row": rows.numbers[error.place],
            "label": error.given,
            "suggested": error.suggested,
            "score_label": error.score_given,
            "score_suggested": error.score_suggested,
            "text": rows.texts[error.place],
        }


def write(folder: Path, labels: LabelSpace, scores: npt.NDArray[Any], rows: Rows) -> str | None:
    """Write label_errors.csv into a folder, and return a sentence about it; None where it does not apply.

    Soft labels state a doubt, so that a score which differs from the likeliest one is no error.
    """
    if not applies_to(labels, len(rows)) or any(isinstance(value, SoftLabels) for value in rows.values):
        return None
    if not is_available():
        return f"likely label errors were not looked for: {INSTALL}"
    errors = label_errors(labels, scores, rows.values)
    if not errors:
        return None
    write_table(folder / LABEL_ERRORS, records(errors, rows))
    return f"{len(errors)} of {len(rows)} rows are likely labeled wrong: see {LABEL_ERRORS}"
