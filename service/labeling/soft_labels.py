"""Refined soft labels of a whole corpus, and the rows and table that the student is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.errors import DataError
from finetune.core.registry import pick
from finetune.core.scores import Floats, softmax
from service.labeling import refine
from service.labeling.config import DistillConfig
from service.labeling.corpus import SAMPLE_ROWS
from service.labeling.refine import Sample
from service.labeling.scored_corpus import ScoredTexts

TEXT = "text"
FEWEST_ROWS = 4


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels of a corpus.

    Attributes:
        refined: (logits `[N, L]`, embeddings `[N, H]` of each model) -> soft labels of further texts.
        soft: `[N, L]` float32; of several labels, a probability for each.
        chosen: places of the rows that the student is trained on.
        refinement: name of the refinement, the one that `auto` took where it was asked for.
    """

    refined: Callable[[npt.NDArray[Any], Sequence[npt.NDArray[Any]]], Floats]
    soft: npt.NDArray[np.float32]
    chosen: npt.NDArray[np.int64]
    refinement: str


def soft_labels_of(config: DistillConfig, scored: ScoredTexts) -> SoftLabels:
    """Return the refined labels of a corpus, and the rows to train on.

    Raises:
        ConfigError: an unknown refinement or option.
        DataError: all texts have one label.
    """
    table = refine.MULTI_LABEL if config.multi_label else refine.REFINEMENTS
    fit = pick(table, config.refinement.name, config.refinement.options, what="refinement")
    chance = np.random.default_rng(config.seed)
    places = np.flatnonzero(scored.answered)
    if len(places) > SAMPLE_ROWS:
        places = np.sort(chance.choice(places, SAMPLE_ROWS, replace=False))
    logits, parts = scored.parts(places)
    if not config.multi_label and np.ptp(logits, axis=0).max() == 0:  # no refinement finds what no score shows
        _require_two(config, logits)
    together = side_by_side(parts, scored.weights)
    fitted = fit(Sample(logits, together(parts), priors_of(config), config.none_of_these))

    def refined(logits: npt.NDArray[Any], parts: Sequence[npt.NDArray[Any]]) -> Floats:
        return fitted(logits, together(parts))

    soft = np.zeros(scored.logits.shape, dtype=np.float32)
    for rows in scored.chunks():
        soft[rows] = refined(*scored.parts(rows))
    chosen = _chosen(config, scored, soft, chance)
    if not config.multi_label:
        _require_two(config, soft[chosen])
    return SoftLabels(refined, soft, chosen, fitted.name)


def side_by_side(
    sample: Sequence[npt.NDArray[Any]], weights: Sequence[float]
) -> Callable[[Sequence[npt.NDArray[Any]]], npt.NDArray[Any] | None]:
    """Return what lays the embeddings of several models side by side: each less the mean of the sample's,
    scaled to the length of its weight; None where there are none."""
    means = [part.mean(axis=0) for part in sample]

    def together(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
        units = [weight * refine.unit(part - mean) for weight, part, mean in zip(weights, parts, means, strict=True)]
        return np.concatenate(units, axis=1) if units else None

    return together


def _require_two(config: DistillConfig, scores: npt.NDArray[Any]) -> None:
    """Raise DataError if the best label of all rows of scores `[N, L]` is the same."""
    best = np.unique(scores.argmax(axis=1))
    if len(best) < 2:
        name = config.names[int(best[0])] if len(best) else "no label"
        raise DataError(
            f"all texts were given the label {name!r}, so that there is nothing to learn: check the labels, describe "
            "them in other words (descriptions), or try another refinement"
        )


def priors_of(config: DistillConfig) -> Floats | None:
    """Return the configured proportions of the labels `[L]`, None to estimate them."""
    count = len(config.names)
    if config.priors == "uniform":
        return np.full(count, 1 / count)
    if isinstance(config.priors, dict):
        values = np.array([config.priors[name] for name in config.names], dtype=np.float64)
        return np.asarray(values / values.sum())
    return None


def _chosen(
    config: DistillConfig, scored: ScoredTexts, soft: npt.NDArray[Any], chance: np.random.Generator
) -> npt.NDArray[np.int64]:
    places = np.flatnonzero(scored.answered)
    if config.multi_label:
        certainty = np.abs(soft[places] - 0.5).min(axis=1)
        order = np.argsort(-certainty, kind="stable")
        chosen = np.sort(places[order[: int(np.ceil(config.keep * len(places)))]])
    else:
        chosen = places[refine.confident(soft[places], config.keep)]
    if len(chosen) > config.student_rows:
        chosen = np.sort(chance.choice(chosen, config.student_rows, replace=False))
    return chosen


def write_training_table(
    file: Path, config: DistillConfig, texts: Sequence[str], labels: SoftLabels
) -> tuple[str, tuple[str, ...]]:
    """Write the rows to train on as Parquet, and return the names of the text column and of the label columns."""
    import pyarrow
    import pyarrow.parquet

    column = TEXT
    while column in config.names:
        column = f"{column}_"
    rows = labels.soft[labels.chosen].astype(np.float64)
    if config.multi_label:
        values: npt.NDArray[Any] = (rows >= 0.5).astype(np.int64)
    else:
        values = softmax(np.log(np.maximum(rows, 1e-6)) / config.temperature)
    fields = {column: pyarrow.array([_encodable(texts[place]) for place in labels.chosen.tolist()], pyarrow.string())}
    fields |= {name: pyarrow.array(values[:, place]) for place, name in enumerate(config.names)}
    pyarrow.parquet.write_table(pyarrow.table(fields), file)
    return column, config.names


def _encodable(text: str) -> str:
    """Return a text without lone surrogates, which Parquet cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
