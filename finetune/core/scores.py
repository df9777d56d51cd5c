"""Logits to scores, in numpy: every number a user sees passes through here.

Knows: stable softmax, sigmoid and softplus, temperature, thresholds.
Does not know: models, label names, tensors.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

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
    """Probabilities along `axis`, finite for any finite logits (the maximum is subtracted first)."""
    values = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(values - values.max(axis=axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=axis, keepdims=True))


def log_softmax(logits: npt.ArrayLike, axis: int = -1) -> Floats:
    """Logarithms of `softmax`, without going through values that round to zero."""
    values = np.asarray(logits, dtype=np.float64)
    shifted = values - values.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def sigmoid(logits: npt.ArrayLike) -> Floats:
    """1 / (1 + exp(-z)) elementwise, without overflow for large negative z."""
    values = np.asarray(logits, dtype=np.float64)
    decay = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0 / (1.0 + decay), decay / (1.0 + decay))


def activate(
    logits: npt.ArrayLike, activation: Activation, *, temperature: float = 1.0, target: TargetScale | None = None
) -> Floats:
    """Scores of the same shape as `logits` `[B, C]`.

    Args:
        temperature: divides the logits of labels first.
        target: of regression: the unit of `softplus` is its standard deviation, and predictions are clipped to its
            bounds.
    """
    if activation in ("linear", "softplus"):
        values = np.asarray(logits, dtype=np.float64)
        if activation == "softplus":
            unit = target.std if target is not None else 1.0
            values = np.asarray(unit * np.logaddexp(values / unit, 0.0))
        return target.clip(values) if target is not None else values
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return softmax(scaled) if activation == "softmax" else sigmoid(scaled)


def decide(scores: Floats, task: str, thresholds: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
    """What the scores say.

    Ids `[B]` for one label of many, booleans `[B, C]` for multi-label, values `[B]` for regression;
    `thresholds` (one a label, default 0.5) matter for multi-label only.
    """
    if task == "regression":
        return np.asarray(scores[:, 0])
    if task == "multi_label":
        return np.asarray(scores >= (0.5 if thresholds is None else np.asarray(thresholds, dtype=np.float64)))
    return np.asarray(scores.argmax(axis=-1))
