"""Warnings about the labels of the training rows; nothing is changed or dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from finetune.core.label_text import natural_key, number_of
from finetune.core.labels import LabelSpace, names_in, shown
from finetune.data.label_inference import SEPARATORS
from finetune.data.label_survey import quoted

FEW_ROWS = 4
"""A label with at most this many rows is reported: it may have none in validation, or none in training."""

RARE_FRACTION = 0.05
"""Multi-label training is reported if half of the labels have a smaller fraction of the rows than this."""

ID_FRACTION, ID_ROWS = 0.5, 20
"""Labels look like ids if there are at least ID_ROWS rows, and more than ID_FRACTION times as many labels as rows."""

RATING_WORDS = ("rating", "stars", "star", "score", "grade", "rank", "level")


def label_warnings(values: Sequence[Any], labels: LabelSpace, column: str, *, task_given: bool) -> list[str]:
    """Return a sentence for each thing that may be wrong with these label values.

    Args:
        values: the label values of all training rows.
        task_given: whether the task was set, which settles the warnings about other readings.
    """
    if labels.task == "regression":
        return [] if task_given else _number_warnings(values, column)
    counts = Counter(name for value in values for name in names_in(value))
    sentences = _alike(counts) + (_unseparated(counts, column) if labels.task == "multi_label" else [])
    if not task_given and labels.task != "multi_label":
        sentences += _tags(counts, column) + _ratings(counts, column) + _ids(counts, len(values), column)
    return (
        sentences + _few(counts, labels) + (_rare(counts, labels, len(values)) if labels.task == "multi_label" else [])
    )


def _number_warnings(values: Sequence[Any], column: str) -> list[str]:
    distinct = set(values)
    if any(value != int(value) for value in distinct):
        return []
    ids = "; they look like ids of rows, since no two are equal" if len(distinct) == len(values) >= ID_ROWS else ""
    return [
        f"column {column!r} holds whole numbers with {len(distinct)} different values, and is read as numbers (--task "
        f"regression); for names or codes pass --task multiclass{ids}"
    ]


def _alike(counts: Counter[str]) -> list[str]:
    groups: dict[Any, list[str]] = {}
    for name in sorted(counts, key=natural_key):
        groups.setdefault(name.casefold(), []).append(name)
        if number_of(name) is not None:
            groups.setdefault(Decimal(name.replace("\u2212", "-")), []).append(name)
    return [
        "labels that differ only in "
        + ("case" if isinstance(key, str) else "how a number is spelled")
        + " stay separate: "
        + ", ".join(f"{quoted(name)} in {counts[name]} rows" for name in names)
        for key, names in groups.items()
        if len(names) > 1
    ]


def _tags(counts: Counter[str], column: str) -> list[str]:
    for mark in SEPARATORS:
        parts: Counter[str] = Counter()
        marked = [name for name in counts if mark in name]
        for name in counts:
            parts.update({part.strip() for part in name.split(mark) if part.strip()})
        shared = [part for part, count in parts.items() if count > 1]
        if marked and shared:
            return [
                f"column {column!r} looks like several labels in one cell, separated by {mark!r} ({quoted(marked[0])} "
                f"and others have {shown(shared, 3)} in common), and each combination is read as one label: for "
                "multi-label pass --task multi-label, to keep the combinations --task multiclass"
            ]
    return []


def _unseparated(counts: Counter[str], column: str) -> list[str]:
    """Return a warning about labels such as `joy, love` beside the labels `joy` and `love`."""
    for mark in SEPARATORS:
        names = [name for name in counts if mark in name and all(part.strip() in counts for part in name.split(mark))]
        if names:
            return [
                f"column {column!r} has labels such as {quoted(names[0])} in {counts[names[0]]} rows, whose parts are "
                f"labels themselves: if {mark!r} separates labels there, use one separator in all rows, or lists"
            ]
    return []


def _ratings(counts: Counter[str], column: str) -> list[str]:
    numbers = sorted(number_of(name) or 0.0 for name in counts if number_of(name) is not None)
    if not len(counts) == len(numbers) >= 3 or any(number != int(number) for number in numbers):
        return []
    rated = any(word in column.lower() for word in RATING_WORDS)
    if not rated and not (numbers[0] == 1 and numbers[-1] <= 10):
        return []
    return [
        f"column {column!r} holds whole numbers from {numbers[0]:g} to {numbers[-1]:g}, and is read as names without "
        "an order (--task multiclass); for ratings, whose order matters, pass --task regression"
    ]


def _ids(counts: Counter[str], rows: int, column: str) -> list[str]:
    if rows < ID_ROWS or len(counts) <= ID_FRACTION * rows:
        return []
    return [
        f"column {column!r} has {len(counts)} different labels in {rows} rows, which looks like ids or free text: name "
        "the label column with --label, or pass --task multiclass if this is right"
    ]


def _few(counts: Counter[str], labels: LabelSpace) -> list[str]:
    few = [name for name in labels.names if counts[name] <= FEW_ROWS]
    if not few:
        return []
    listed = shown([f"{quoted(name)} ({counts[name]})" for name in few])
    return [f"labels with {FEW_ROWS} training rows or fewer, which can hardly be learned or measured: {listed}"]


def _rare(counts: Counter[str], labels: LabelSpace, rows: int) -> list[str]:
    rare = [name for name in labels.names if counts[name] < RARE_FRACTION * rows]
    if len(rare) * 2 < len(labels.names):
        return []
    return [
        f"{len(rare)} of {len(labels.names)} labels apply to fewer than {RARE_FRACTION:.0%} of the rows, so that "
        "training may learn to predict none of them: --set class_weights=balanced gives them more weight"
    ]
