"""Standardization of regression targets, so that training does not depend on their scale.

A model is trained on (y - mean) / std of the training rows. The inverse is then folded into its output layer, so that
the saved model predicts on the original scale, in plain transformers too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BFLOAT16_STEP = 2.0**-9
"""Largest relative rounding error of bfloat16: half the distance of neighboring numbers over their size."""

FLOAT32_STEP = 2.0**-24
"""Largest relative rounding error of float32, in which models are saved."""

MOST_ROUNDING, TOO_MUCH_ROUNDING = 0.01, 0.1
"""Rounding errors of a prediction in standard deviations of the targets: the largest harmless one, and the largest that
is accepted."""


@dataclass(frozen=True)
class TargetScale:
    """The scale of regression targets.

    Attributes:
        mean, std: of the training targets; `std` is 1 if all are equal.
        low, high: smallest and largest training target.
        bounds: lowest and highest prediction (`data.bounds`); None for no bound.
    """

    mean: float
    std: float
    low: float
    high: float
    bounds: tuple[float | None, float | None] = (None, None)

    @classmethod
    def fit(cls, values: Sequence[float], bounds: tuple[float | None, float | None] | None = None) -> TargetScale:
        """Return the scale of training targets `[N]`."""
        numbers = np.asarray(values, dtype=np.float64)
        mean, std = float(numbers.mean()), float(numbers.std())
        # the rounded mean of equal numbers may differ from them
        constant = std <= abs(mean) * 1e-12
        return cls(mean, 1.0 if constant else std, float(numbers.min()), float(numbers.max()), bounds or (None, None))

    def standardize(self, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return standardized targets `[N]`, on which the loss is computed."""
        return np.asarray((np.asarray(values, dtype=np.float64) - self.mean) / self.std, dtype=np.float32)

    def restore(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return standardized targets or logits on the original scale."""
        return np.asarray(values, dtype=np.float64) * self.std + self.mean

    @property
    def softplus_logit_of_mean(self) -> float:
        """Return the standardized logit z for which std * softplus(z + mean / std) is the mean."""
        return math.log(-math.expm1(-max(self.mean / self.std, 1e-6)))

    def clip(self, predictions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return predictions clipped to the bounds."""
        if self.bounds == (None, None):
            return predictions
        return np.asarray(np.clip(predictions, *self.bounds))

    @property
    def survives_bfloat16(self) -> bool:
        """Whether bfloat16, with three digits, is precise enough for these targets."""
        return max(abs(self.low), abs(self.high)) * BFLOAT16_STEP <= MOST_ROUNDING * self.std

    @property
    def survives_float32(self) -> bool:
        """Whether float32, with seven digits, is precise enough for these targets; always, if all are equal."""
        error = max(abs(self.low), abs(self.high)) * FLOAT32_STEP
        return self.low == self.high or error <= TOO_MUCH_ROUNDING * self.std

    def to_json(self) -> dict[str, Any]:
        """Return the content of `target` in classifier.json."""
        return {
            "mean": self.mean,
            "std": self.std,
            "low": self.low,
            "high": self.high,
            "bounds": list(self.bounds),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> TargetScale:
        """Return the scale that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the content is not a scale.
        """
        low, high = stored.get("bounds") or (None, None)
        bounds = tuple(None if bound is None else float(bound) for bound in (low, high))
        numbers = {key: float(stored[key]) for key in ("mean", "std", "low", "high")}
        return cls(**numbers, bounds=bounds)  # type: ignore[arg-type]

    def __str__(self) -> str:
        spread = f"mean {self.mean:.6g}, standard deviation {self.std:.6g}"
        text = f"targets of the training rows: from {self.low:.6g} to {self.high:.6g}, {spread}"
        low, high = self.bounds
        if low is None and high is None:
            return text
        sides = [f"at least {low:.6g}"] if low is not None else []
        sides += [f"at most {high:.6g}"] if high is not None else []
        return f"{text}; predictions are clipped to {' and '.join(sides)}"
