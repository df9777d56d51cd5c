"""Drift: how far texts that a model reads now differ from those that it was validated on.

Four quantities are compared: predicted labels, top scores, lengths in tokens, and rates of unknown tokens. Each is
counted in bins, and compared by the population stability index, the sum of (q - p) log(q / p) over the bins. Its
sampling noise comes from permutations of the rows of both sides: given the counts of both together, those of one side
follow a multivariate hypergeometric distribution. No text is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.errors import CheckpointError
from finetune.core.labels import LabelSpace
from finetune.core.tokenization import Encoded, PreparedInputs

FORMAT = 1
BINS = 10
UNKNOWN_EDGES = (1e-9, 0.01, 0.05, 0.2)
"""Rates of unknown tokens that divide its bins: none, up to 1%, 5%, 20%, and more."""

PERMUTATIONS = 1999
ALARM_INDEX, ALARM_P = 0.1, 0.001
"""A quantity alarms from this index on, if so large a one has at most this probability without drift."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """What is compared, for each row.

    Attributes:
        labels: predicted labels; empty for a regression.
        top_scores: their scores, or the predicted values of a regression `[N]`.
        lengths: tokens `[N]`.
        unknown: rates of unknown tokens `[N]`; None for a tokenizer that knows every character.
    """

    labels: tuple[str, ...]
    top_scores: npt.NDArray[Any]
    lengths: npt.NDArray[Any]
    unknown: npt.NDArray[Any] | None

    @classmethod
    def of(
        cls, scores: npt.NDArray[Any], names: Sequence[str], rows: Sequence[Encoded], unknown_id: int | None
    ) -> Measured:
        """Return what is compared of texts.

        Args:
            scores: `[N, C]`, or `[N]` or `[N, 1]` for a regression.
            names: label names; empty for a regression.
            rows: tokens of the texts.
        """
        values = np.asarray(scores, dtype=np.float64)
        lengths = np.array([len(row) for row in rows])
        unknown = None
        if unknown_id is not None:
            unknown = np.array([np.mean(row.ids == unknown_id) if len(row) else 0.0 for row in rows])
        if not names:
            return cls((), values.reshape(-1), lengths, unknown)
        best = values.argmax(axis=1)
        return cls(tuple(names[place] for place in best), values.max(axis=1), lengths, unknown)


@dataclass(frozen=True)
class Histogram:
    """Counts of rows by label, or by `edges`: bin i holds values from edge i-1 up to, and without, edge i."""

    names: tuple[str, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def count(self, values: Sequence[Any] | npt.NDArray[Any]) -> Counts:
        """Return how many values fall into each bin."""
        if self.names:
            places = {name: place for place, name in enumerate(self.names)}
            bins = np.array([places[value] for value in values], dtype=np.int64)
            return np.bincount(bins, minlength=len(self.names))
        bins = np.searchsorted(np.asarray(self.edges), np.asarray(values, dtype=np.float64), side="right")
        return np.bincount(bins, minlength=len(self.edges) + 1)


@dataclass(frozen=True)
class Shift:
    """How one quantity differs.

    Attributes:
        index: the population stability index.
        noise: the index that 1 of 20 tables without drift exceeds.
        p_value: how often permuted rows have an index as large.
    """

    quantity: str
    index: float
    noise: float
    p_value: float

    @property
    def is_alarm(self) -> bool:
        """Whether the shift is large, and no sampling noise."""
        return self.index >= ALARM_INDEX and self.p_value <= ALARM_P


def reference_of(
    labels: LabelSpace, scores: npt.NDArray[Any], rows: Sequence[Encoded], tokenizer: PreparedInputs
) -> dict[str, Any]:
    """Return the content of drift_reference.json for validation rows: their scores `[N, C]` and tokens."""
    names = () if labels.task == "regression" else labels.names
    return reference(Measured.of(scores, names, rows, unknown_id(tokenizer)), names)


def reference(measured: Measured, names: Sequence[str]) -> dict[str, Any]:
    """Return the content of drift_reference.json: the histograms of validation rows."""
    histograms = {
        "top_score": _by_quantile(measured.top_scores),
        "length": _by_quantile(measured.lengths),
    }
    if names:
        empty = Histogram(tuple(names), (), ())
        histograms = {"labels": _filled(empty, measured.labels)} | histograms
    if measured.unknown is not None:
        histograms["unknown_tokens"] = _filled(Histogram((), UNKNOWN_EDGES, ()), measured.unknown)
    quantities = {
        name: ({"names": list(own.names)} if own.names else {"edges": list(own.edges)}) | {"counts": list(own.counts)}
        for name, own in histograms.items()
    }
    return {"format": FORMAT, "rows": len(measured.lengths), "quantities": quantities}


def shifts(content: Mapping[str, Any], measured: Measured, *, seed: int = 0) -> list[Shift]:
    """Return the shift of each quantity between the rows of a reference and others.

    Raises:
        CheckpointError: the reference has another format, or other labels.
    """
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"drift_reference.json has format {content.get('format')!r}, not {FORMAT}: upgrade rehead"
        )
    values: dict[str, Any] = {
        "labels": measured.labels,
        "top_score": measured.top_scores,
        "length": measured.lengths,
        "unknown_tokens": measured.unknown,
    }
    chance = np.random.default_rng(seed)
    shifts_of_quantities = []
    for name, stored in content["quantities"].items():
        if values.get(name) is None:
            continue
        histogram = Histogram(
            tuple(stored.get("names", ())), tuple(stored.get("edges", ())), tuple(map(int, stored["counts"]))
        )
        shifts_of_quantities.append(_shift(name, np.array(histogram.counts), histogram.count(values[name]), chance))
    return shifts_of_quantities


def stability_index(expected: npt.NDArray[Any], counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the population stability index of counts `[..., B]`; half a row is added to each bin."""
    p, q = (
        (side + 0.5) / (side.sum(axis=-1, keepdims=True) + 0.5 * side.shape[-1])
        for side in map(np.asarray, (expected, counts))
    )
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))


def unknown_id(tokenizer: PreparedInputs) -> int | None:
    """Return the id of the unknown token; None where the tokenizer has none."""
    model = json.loads(tokenizer.rust.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    token = model.get("unk_token")
    return tokenizer.rust.token_to_id(token) if token else None


def _shift(name: str, expected: Counts, counts: Counts, chance: np.random.Generator) -> Shift:
    index = float(stability_index(expected, counts))
    pooled = expected + counts
    drawn = chance.multivariate_hypergeometric(pooled, int(counts.sum()), size=PERMUTATIONS, method="marginals")
    indices = stability_index(pooled - drawn, drawn)
    p_value = (1 + int((indices >= index).sum())) / (1 + PERMUTATIONS)
    return Shift(name, index, float(np.quantile(indices, 0.95)), p_value)


def _by_quantile(values: npt.NDArray[Any]) -> Histogram:
    """Return a histogram with equally many rows in each bin, as far as equal values allow."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])) if len(values) else np.zeros(0)
    return _filled(Histogram((), tuple(map(float, edges)), ()), values)


def _filled(histogram: Histogram, values: Any) -> Histogram:
    return Histogram(histogram.names, histogram.edges, tuple(map(int, histogram.count(values))))
