"""What validation rows add to a classifier, as classifier.json holds it: calibration of each label, prediction sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PlattScaling:
    """Platt's calibration of each label: the score is sigmoid(slope * logit + offset); both `[C]`."""

    slopes: tuple[float, ...]
    offsets: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of classifier.json."""
        return {"slopes": list(self.slopes), "offsets": list(self.offsets)}


@dataclass(frozen=True)
class IsotonicScaling:
    """Isotonic calibration of each label: the score is read from a rising line through knots (logit, score).

    Between knots it is linear, before the first and after the last one it is constant.
    A label without knots keeps the sigmoid of its logit.
    """

    knots: tuple[tuple[tuple[float, float], ...], ...]

    def to_json(self) -> list[list[list[float]]]:
        """Return the entry of classifier.json."""
        return [[list(knot) for knot in knots] for knots in self.knots]


LabelScaling = PlattScaling | IsotonicScaling


@dataclass(frozen=True)
class PredictionSets:
    """Split conformal prediction: the set of a text holds the labels whose score is at least `lowest_score`.

    Attributes:
        coverage: proportion of new texts, like those it was fitted on, whose set holds the true label.
        rows: rows that it was fitted on.
    """

    coverage: float
    lowest_score: float
    rows: int


def calibration_json(scaling: LabelScaling | None, sets: PredictionSets | None) -> dict[str, Any]:
    """Return the entries of classifier.json, which has none for what is None."""
    content: dict[str, Any] = {}
    if scaling is not None:
        content["platt" if isinstance(scaling, PlattScaling) else "isotonic"] = scaling.to_json()
    return content if sets is None else content | {"prediction_sets": vars(sets)}


def scaling_of(stored: Mapping[str, Any], count: int) -> LabelScaling | None:
    """Return the calibration of each label in the content of classifier.json; None where it has none.

    Raises:
        ValueError, KeyError, TypeError: it does not fit `count` labels.
    """
    if (platt := stored.get("platt")) is not None:
        scaling: LabelScaling = PlattScaling(tuple(map(float, platt["slopes"])), tuple(map(float, platt["offsets"])))
        sizes = {len(platt["slopes"]), len(platt["offsets"])}
    elif (isotonic := stored.get("isotonic")) is not None:
        scaling = IsotonicScaling(tuple(tuple((float(x), float(y)) for x, y in knots) for knots in isotonic))
        sizes = {len(isotonic)}
    else:
        return None
    if sizes != {count}:
        raise ValueError(f"its calibration is for {max(sizes)} labels, and the model has {count}")
    return scaling


def prediction_sets_of(stored: Mapping[str, Any]) -> PredictionSets | None:
    """Return the prediction sets in the content of classifier.json; None where it has none."""
    entry = stored.get("prediction_sets")
    if entry is None:
        return None
    return PredictionSets(float(entry["coverage"]), float(entry["lowest_score"]), int(entry["rows"]))
