"""Thresholds of labels from the scores of labeled rows; the table THRESHOLDS holds the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.config.choice import Choice
from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace, shown
from finetune.core.registry import pick
from finetune.core.scores import Floats
from finetune.evaluation.calibration import FEWEST_OF_LABEL

UNTUNED = 0.5
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Curve:
    """What each threshold of a label gives on the rows, `[T]` each, from the lowest threshold up.

    Attributes:
        hits: rows with the label that it predicts.
        predicted: all rows that it predicts.
        held: rows with the label.
    """

    thresholds: Floats
    hits: Array
    predicted: Array
    held: int

    @classmethod
    def of(cls, scores: Floats, held: Array) -> Curve:
        """Return the curve of one label's scores `[N]`; `held` says which rows have it."""
        from sklearn.metrics import precision_recall_curve

        _, recall, thresholds = precision_recall_curve(held, scores)
        predicted = len(scores) - np.searchsorted(np.sort(scores), thresholds)
        # halfway to the next lower score, so that a new text a little below the lowest row is decided as that row is
        below = np.concatenate([thresholds[:1], thresholds[:-1]])
        hits = np.rint(recall[:-1] * held.sum())
        return cls((thresholds + below) / 2, hits, predicted, int(held.sum()))


Threshold = tuple[float, str]
"""A threshold, and why it does not give the configured value; empty where it does."""


def f1(curve: Curve, *, label: str = "") -> Threshold:
    """Take the threshold with the highest F1 of each label; `label` is, of two labels, the one that it is for."""
    return float(curve.thresholds[int((2 * curve.hits / (curve.predicted + curve.held)).argmax())]), ""


def precision(curve: Curve, *, at_least: float = 0.9, label: str = "") -> Threshold:
    """Take the lowest threshold from which the precision is `at_least` this, also if one more row were wrong."""
    counted = np.flatnonzero(curve.predicted >= FEWEST_OF_LABEL)
    enough = counted[curve.hits[counted] >= at_least * (curve.predicted[counted] + 1)]
    if len(enough):
        return float(curve.thresholds[enough[0]]), ""
    values = curve.hits[counted] / curve.predicted[counted]
    best = counted[int(values.argmax())]
    return float(curve.thresholds[best]), _missed("precision", values.max(), at_least)


def recall(curve: Curve, *, at_least: float = 0.9, label: str = "") -> Threshold:
    """Take the highest threshold up to which the recall is `at_least` this, also if one more row were missed."""
    enough = np.flatnonzero(curve.hits >= at_least * (curve.held + 1))
    if len(enough):
        return float(curve.thresholds[enough[-1]]), ""
    return 0.0, f"cannot be sure of a recall of {at_least:g} with {curve.held} rows, and is always predicted"


def _missed(what: str, value: float, at_least: float) -> str:
    return f"does not surely reach a {what} of {at_least:g}: its threshold is that of the highest one, {value:.3f}"


THRESHOLDS: dict[str, Callable[..., Threshold]] = {"f1": f1, "precision": precision, "recall": recall}
"""Name -> function of the curve of one label."""


def check_thresholds(choice: Choice | None, labels: LabelSpace) -> None:
    """Raise for thresholds that do not suit the labels.

    Raises:
        ConfigError: an unknown rule or option, a proportion outside 0 to 1, an unknown label, or a task that has none.
    """
    if choice is None:
        return
    pick(THRESHOLDS, choice.name, choice.options, what="thresholds")
    at_least = choice.options.get("at_least", 0.9)
    if not 0 < at_least <= 1:
        raise ConfigError(f"thresholds.at_least is {at_least}: give a proportion above 0, up to 1")
    if labels.task not in ("multi_label", "binary") or labels.nli is not None:
        task = "zero-shot" if labels.nli is not None else labels.task
        raise ConfigError(
            f"thresholds are for two labels, or for several at once, and the task is {task}: leave it out"
        )
    label = choice.options.get("label", "")
    if label and labels.task != "binary":
        raise ConfigError("thresholds.label is for two labels; of several at once, each has its threshold")
    if label and label not in labels.names:
        raise ConfigError(f"thresholds.label: there is no label {label!r} (labels: {shown(labels.names)})")


def tuned(
    choice: Choice, labels: LabelSpace, scores: Floats, targets: Array
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the threshold of each label `[C]`, and notes about those that are not as configured.

    A label with fewer than FEWEST_OF_LABEL rows, or as few without it, keeps 0.5. With two labels, the threshold of one
    is 1 minus that of the other.

    Args:
        scores: `[N, C]`.
        targets: as `LabelSpace.encode` returns them.
    """
    rule = pick(THRESHOLDS, choice.name, choice.options, what="thresholds")
    thresholds, notes, few = np.full(len(labels), UNTUNED), [], []
    wanted = tuned_labels(choice, labels)
    for place in wanted:
        held = targets[:, place] > 0.5 if targets.ndim == 2 else targets == place
        if min(held.sum(), (~held).sum()) < FEWEST_OF_LABEL:
            few.append(labels.names[place])
            continue
        thresholds[place], note = rule(Curve.of(scores[:, place], held))
        notes += [f"{labels.names[place]} {note}"] if note else []
    if labels.task == "binary":
        thresholds[1 - wanted[0]] = 1 - thresholds[wanted[0]]
    if few:
        notes.append(
            f"{shown(few)}: fewer than {FEWEST_OF_LABEL} rows with or without it, so that its threshold is 0.5"
        )
    return tuple(thresholds.tolist()), tuple(notes)


def tuned_labels(choice: Choice, labels: LabelSpace) -> list[int]:
    """Return the places of the labels that get a threshold of their own: one of two, else all."""
    if labels.task != "binary":
        return list(range(len(labels)))
    label = choice.options.get("label", "")
    return [labels.names.index(label) if label else 1]
