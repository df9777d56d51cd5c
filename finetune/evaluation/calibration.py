"""Calibration of a classifier's scores on labeled rows; the table CALIBRATIONS holds the methods.

A training run fits it on its validation rows, which also chose the best checkpoint and may have stopped training early:
the logits of these rows are a little better than those of new ones, which hardly matters for a temperature (one number)
and more for the many numbers of `isotonic`. What a calibration gains is therefore measured on other rows
(score_fitting.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.calibration import IsotonicScaling, LabelScaling, PlattScaling
from finetune.core.errors import ConfigError
from finetune.core.labels import shown
from finetune.core.scores import Activation, Floats, activate, log_softmax
from finetune.core.task import Task

FEWEST_ROWS = 50
"""Rows below which nothing is fitted on them."""

FEWEST_ISOTONIC = 1000
"""Rows below which `isotonic` is not fitted; with fewer it learns the noise of single rows."""

FEWEST_OF_LABEL = 10
"""Rows with a label, and rows without it, below which that label gets no numbers of its own."""

TEMPERATURES = (0.05, 20.0)
"""The lowest and the highest temperature."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration; `notes` say what was left out, and why."""

    method: str
    temperature: float = 1.0
    scaling: LabelScaling | None = None
    notes: tuple[str, ...] = ()

    def scores(self, logits: Array, activation: Activation) -> Floats:
        """Return the scores of logits, both `[N, C]`."""
        return activate(logits, activation, temperature=self.temperature, scaling=self.scaling)


UNCALIBRATED = Calibration("none")


def none(logits: Array, targets: Array, names: Sequence[str]) -> Calibration:
    """Leave scores as the model gives them."""
    return UNCALIBRATED


def temperature(logits: Array, targets: Array, names: Sequence[str]) -> Calibration:
    """Divide all logits by one number, which changes no answer of a single-label model (Guo et al., 2017).

    It minimizes the log loss of the rows; a test compares it with scikit-learn's.
    """
    from scipy.optimize import minimize_scalar

    logits = np.asarray(logits, dtype=np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if targets.ndim == 2:
            return float(np.mean(np.logaddexp(0, scaled) - targets * scaled))
        return -float(np.mean(log_softmax(scaled)[np.arange(len(targets)), targets]))

    minimum = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return Calibration("temperature", float(np.exp(minimum.x)))


def platt(logits: Array, targets: Array, names: Sequence[str]) -> Calibration:
    """Fit a slope and an offset for each label by logistic regression (Platt, 1999); for several labels at once."""
    from sklearn.linear_model import LogisticRegression

    slopes, offsets, left_out = np.ones(len(names)), np.zeros(len(names)), []
    for label, (values, held) in _columns(logits, targets):
        if min(held.sum(), (~held).sum()) < FEWEST_OF_LABEL:
            left_out.append(names[label])
            continue
        # Platt's targets, just inside 0 and 1, as rows of both kinds with weights
        high, low = (held.sum() + 1) / (held.sum() + 2), 1 / ((~held).sum() + 2)
        goal = np.where(held, high, low)
        model = LogisticRegression(C=1e6, solver="newton-cholesky", max_iter=200)
        rows, kinds = np.concatenate([values, values])[:, None], np.repeat([1, 0], len(values))
        model.fit(rows, kinds, sample_weight=np.concatenate([goal, 1 - goal]))
        if model.coef_[0, 0] <= 0:  # higher logits would give lower scores
            left_out.append(names[label])
            continue
        slopes[label], offsets[label] = model.coef_[0, 0], model.intercept_[0]
    scaling = PlattScaling(tuple(slopes.tolist()), tuple(offsets.tolist()))
    return _of_labels("platt", scaling, left_out, len(names))


def isotonic(logits: Array, targets: Array, names: Sequence[str]) -> Calibration:
    """Fit a rising curve for each label, which needs 1,000 rows or more; for several labels at once."""
    from sklearn.isotonic import IsotonicRegression

    curves: list[tuple[tuple[float, float], ...]] = []
    left_out = []
    for label, (values, held) in _columns(logits, targets):
        if min(held.sum(), (~held).sum()) < FEWEST_OF_LABEL:
            left_out.append(names[label])
            curves.append(())
            continue
        edge = 1 / (len(values) + 2)  # no score is 0 or 1, which no number of rows can show
        model = IsotonicRegression(y_min=edge, y_max=1 - edge).fit(values, held.astype(float))
        knots = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)
        curves.append(tuple((float(f"{x:.7g}"), float(f"{y:.7g}")) for x, y in knots))
    return _of_labels("isotonic", IsotonicScaling(tuple(curves)), left_out, len(names))


CALIBRATIONS: dict[str, Callable[[Array, Array, Sequence[str]], Calibration]] = {
    "none": none,
    "temperature": temperature,
    "platt": platt,
    "isotonic": isotonic,
}
"""Name -> function of logits `[N, C]`, targets as `LabelSpace.encode` returns them, and the names of the labels."""

AUTO: dict[Task, str] = {
    "binary": "temperature",
    "multiclass": "temperature",
    "multi_label": "platt",
    "regression": "none",
}


def method_of(method: str, task: Task) -> str:
    """Return the method for a task; that of `auto` follows from it.

    Raises:
        ConfigError: there is no such method, or it does not fit the task.
    """
    if method != "auto" and method not in CALIBRATIONS:
        raise ConfigError(f"calibration {method!r} is unknown: choose one of auto, {', '.join(CALIBRATIONS)}")
    if method in ("auto", "none"):
        return AUTO[task] if method == "auto" else method
    if task == "regression":
        raise ConfigError(f"calibration {method} is for labels, and the task is regression: leave it out")
    if method in ("platt", "isotonic") and task != "multi_label":
        raise ConfigError(
            f"calibration {method} is for several labels at once, and could change which label of a {task} model is "
            "best: use temperature"
        )
    return method


def _columns(logits: Array, targets: Array) -> Any:
    columns = np.asarray(logits, dtype=np.float64).T
    return enumerate(zip(columns, targets.astype(bool).T, strict=True))


def _of_labels(method: str, scaling: LabelScaling, left_out: Sequence[str], count: int) -> Calibration:
    if len(left_out) == count:
        reason = f"no label has {FEWEST_OF_LABEL} rows with it and {FEWEST_OF_LABEL} without"
        return Calibration("none", notes=(reason,))
    kept = f"{shown(left_out)}: fewer than {FEWEST_OF_LABEL} rows, or no relation to the scores, which stay as they are"
    return Calibration(method, 1.0, scaling, (kept,) if left_out else ())
