"""From logits to answers, as a model's folder says: scores, the predicted one of two labels, prediction sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.model_folder import ClassifierSettings
from finetune.core.scores import Activation, Floats, activate, decide, in_sets
from service.schema import Answer, Function

ACTIVATIONS: dict[Function, Activation] = {"softmax": "softmax", "sigmoid": "sigmoid", "none": "linear"}


def answers_of(scores: Floats, names: Sequence[str], truncated: Sequence[bool]) -> list[Answer]:
    """Return an answer for each row of scores `[N, C]`."""
    labels = tuple(names)
    return [Answer(labels, tuple(row), cut) for row, cut in zip(scores.tolist(), truncated, strict=True)]


def classified(
    logits: npt.NDArray[np.float32],
    names: Sequence[str],
    truncated: Sequence[bool],
    settings: ClassifierSettings,
    function: Function,
) -> list[Answer]:
    """Return an answer for each row of a classifier's logits `[N, C]`.

    Args:
        function: what turns logits into the scores of the answers; labels are decided by the model's own.
    """
    own = scores = settings.scores(logits)
    applied = ACTIVATIONS.get(function, settings.activation)
    # `none` of a regression is what the model gives, without bounds; `sigmoid` of a multi-label model is calibrated
    if function != "default" and (applied == "linear" or applied != settings.activation):
        scores = activate(logits, applied, temperature=settings.temperature)
    return decided_by(answers_of(scores, names, truncated), own, settings)


def decides(settings: ClassifierSettings) -> bool:
    """Return whether a model decides by more than the highest score: a threshold of two labels, or prediction sets."""
    return (settings.task == "binary" and settings.thresholds is not None) or settings.prediction_sets is not None


def decided_by(answers: list[Answer], own: Floats, settings: ClassifierSettings) -> list[Answer]:
    """Return answers with the predicted one of two labels, and prediction sets, of a model's own scores `[N, C]`."""
    is_binary, sets = settings.task == "binary" and settings.thresholds is not None, settings.prediction_sets
    if not answers or not decides(settings):
        return answers
    decided: Sequence[Any] = [None] * len(answers)
    members: Sequence[Any] = [None] * len(answers)
    if is_binary:
        decided = decide(own, settings.task, settings.thresholds).tolist()
    if sets is not None:
        members = [tuple(np.flatnonzero(row).tolist()) for row in in_sets(own, sets)]
    rows = zip(answers, decided, members, strict=True)
    return [replace(answer, decided=place, members=places) for answer, place, places in rows]
