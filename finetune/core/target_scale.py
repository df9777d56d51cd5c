"""Standardization of regression targets, so that numbers of any size train alike.

A model is trained on (y - mean) / std of the training rows. Afterwards the inverse is written into its output layer, so
that the saved model, also in plain transformers, gives numbers on the original scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BFLOAT16_STEP = 2.0**-9
"""Half the distance of neighboring bfloat16 numbers, over their size: the largest relative rounding error."""

FLOAT32_STEP = 2.0**-24
"""The same of float32, in which models are saved."""

MOST_ROUNDING, TOO_MUCH_ROUNDING = 0.01, 0.1
"""Rounding error of a prediction, in standard deviations of the targets: what does no harm, and what is refused."""


@dataclass(frozen=True)
class TargetScale:
    """The scale of regression targets.

    Attributes:
        mean, std: of the training rows; `std` is 1 where all are the same.
        low, high: the smallest and the largest target of the training rows.
        bounds: what predictions are clipped to, where the config gives it; None on a side that has no bound.
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
        # equal numbers may differ from their mean by its rounding
        constant = std <= abs(mean) * 1e-12
        return cls(mean, 1.0 if constant else std, float(numbers.min()), float(numbers.max()), bounds or (None, None))

    def standardize(self, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return targets `[N]` as the loss takes them."""
        return np.asarray((np.asarray(values, dtype=np.float64) - self.mean) / self.std, dtype=np.float32)

    def restore(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return standardized targets or logits on the original scale."""
        return np.asarray(values, dtype=np.float64) * self.std + self.mean

    @property
    def softplus_logit_of_mean(self) -> float:
        """The standardized logit z for which std * softplus(z + mean / std) is the mean."""
        return math.log(-math.expm1(-max(self.mean / self.std, 1e-6)))

    def clip(self, predictions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return predictions within the bounds."""
        if self.bounds == (None, None):
            return predictions
        return np.asarray(np.clip(predictions, *self.bounds))

    @property
    def survives_bfloat16(self) -> bool:
        """Whether a number of this size keeps what matters of it in bfloat16, which has three digits."""
        return max(abs(self.low), abs(self.high)) * BFLOAT16_STEP <= MOST_ROUNDING * self.std

    @property
    def survives_float32(self) -> bool:
        """Whether float32, which has seven digits, tells such numbers apart; where all are the same, none need be."""
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
            KeyError, TypeError, ValueError: the content is not such a scale.
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
