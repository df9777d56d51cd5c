"""Logits to scores to decisions, in numpy: every score that a user sees is computed here."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finetune.core.calibration import LabelScaling, PlattScaling, PredictionSets
from finetune.core.target_scale import TargetScale

Activation = Literal["softmax", "sigmoid", "linear", "softplus"]
Floats = npt.NDArray[np.float64]

ACTIVATION_OF_TASK: dict[str, Activation] = {
    "binary": "softmax",
    "multiclass": "softmax",
    "multi_label": "sigmoid",
    "regression": "linear",
}


def softmax(logits: npt.ArrayLike, axis: int = -1) -> Floats:
    """Return probabilities along `axis`, finite for any finite logits (the maximum is subtracted first)."""
    values = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(values - values.max(axis=axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=axis, keepdims=True))


def log_softmax(logits: npt.ArrayLike, axis: int = -1) -> Floats:
    """Return the logarithm of `softmax`, finite also where `softmax` rounds to 0."""
    values = np.asarray(logits, dtype=np.float64)
    shifted = values - values.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def sigmoid(logits: npt.ArrayLike) -> Floats:
    """Return 1 / (1 + exp(-z)) elementwise, without overflow for large negative z."""
    values = np.asarray(logits, dtype=np.float64)
    decay = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0 / (1.0 + decay), decay / (1.0 + decay))


def activate(
    logits: npt.ArrayLike,
    activation: Activation,
    *,
    temperature: float = 1.0,
    target: TargetScale | None = None,
    scaling: LabelScaling | None = None,
) -> Floats:
    """Return the scores of logits, both `[B, C]`.

    Args:
        temperature: divisor of the logits of a classifier.
        scaling: of multi-label, the calibration of each label, which takes the place of the sigmoid.
        target: scale of a regression; its standard deviation is the unit of `softplus`, and predictions are clipped to
            its bounds.
    """
    if activation in ("linear", "softplus"):
        values = np.asarray(logits, dtype=np.float64)
        if activation == "softplus":
            unit = target.std if target is not None else 1.0
            values = np.asarray(unit * np.logaddexp(values / unit, 0.0))
        return target.clip(values) if target is not None else values
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if scaling is not None and activation == "sigmoid":
        return _scaled(scaled, scaling)
    return softmax(scaled) if activation == "softmax" else sigmoid(scaled)


def _scaled(logits: Floats, scaling: LabelScaling) -> Floats:
    if isinstance(scaling, PlattScaling):
        return sigmoid(np.asarray(scaling.slopes) * logits + np.asarray(scaling.offsets))
    scores = sigmoid(logits)
    for label, knots in enumerate(scaling.knots):
        if knots:
            at, values = np.asarray(knots).T
            scores[:, label] = np.interp(logits[:, label], at, values)
    return scores


def decide(scores: Floats, task: str, thresholds: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
    """Return the predictions of scores `[B, C]`.

    Args:
        thresholds: lowest score of each label `[C]`; None takes 0.5. With two labels, that of the second one decides.

    Returns:
        Ids `[B]` for binary and multiclass, booleans `[B, C]` for multi-label, values `[B]` for regression.
    """
    if task == "regression":
        return np.asarray(scores[:, 0])
    if task == "multi_label":
        return np.asarray(scores >= (0.5 if thresholds is None else np.asarray(thresholds, dtype=np.float64)))
    if task == "binary" and thresholds is not None:
        return np.asarray(scores[:, 1] >= np.asarray(thresholds, dtype=np.float64)[1]).astype(np.int64)
    return np.asarray(scores.argmax(axis=-1))


def in_sets(scores: Floats, sets: PredictionSets) -> npt.NDArray[np.bool_]:
    """Return which labels are in the prediction set of each text, `[B, C]`; none of them where no score is high
    enough."""
    return np.asarray(scores >= sets.lowest_score)
