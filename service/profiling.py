"""Make a zero-shot profile: from texts without labels, or from some with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core.labels import shown
from finetune.core.scores import Floats, log_softmax
from finetune.core.tables.files import read_table
from finetune.core.tables.formats import FORMATS
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Table
from finetune.data.tables_in_memory import splits_in_memory
from service.batch.text_columns import column_of, texts_of
from service.errors import BadRequest
from service.inference import zero_shot
from service.inference.profile import LOWEST, ZeroShotProfile, identity_of, profiled
from service.schema import ZeroShotRequest
from service.zero_shot_pipeline import ZeroShotClassifier

FEWEST_TEXTS = 50
"""Texts below which their mean scores say little about the labels."""

FEWEST_LABELED = 20
"""Labeled texts below which nothing is fitted on them."""

STEPS, CLOSE = 500, 1e-9
STRENGTH = 0.75
"""Factor of the biases where the priors are not given and may be wrong; chosen on trec and snips."""

PENALTY = 0.1
"""Weight of the squared distance of fitted biases from those without labels, in rows."""


@dataclass(frozen=True)
class Priors:
    """Proportions of the labels `[L]`; None for even ones, or for those estimated from the texts."""

    values: Any = None
    estimated: bool = False


def make_profile(
    model: str | PathLike[str] | ZeroShotClassifier,
    texts: Any,
    labels: Any,
    *,
    out: str | PathLike[str] | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    templates: Sequence[str] = (),
    priors: str | Mapping[str, float] = "uniform",
    models_dir: str | PathLike[str] | None = "models",
    device: str | None = None,
) -> ZeroShotProfile:
    """Return a profile of labels, made from texts like those that will be classified.

    Without labels, each label gets the bias with which its mean score over the texts is its prior, or STRENGTH times
    that where the priors are not given. With a column `label`, biases, a temperature and the best of several templates
    are fitted on the labeled rows.

    Args:
        model: a path, a served name, or a Hub id of an NLI model, or what `load` returned.
        texts: a list of strings, a table file, a pandas or polars frame, or a list of dicts.
        labels: the candidate labels, as `ZeroShotClassifier` takes them.
        out: the file to write.
        text, label: columns of a table; empty cells of `label` are texts without a label.
        templates: hypothesis templates; of several the best on labeled texts is chosen. By default the model's own.
        priors: `uniform`, `estimated` (from the texts), or label -> proportion.

    Raises:
        BadRequest: too few texts, an unknown label (names its row), priors that do not fit the labels, or several
            templates without labeled texts.
    """
    classifier = (
        model
        if isinstance(model, ZeroShotClassifier)
        else ZeroShotClassifier(model, models_dir=models_dir, device=device)
    )
    names = zero_shot.parse_labels(labels)
    if len(names) < 2:
        raise BadRequest("a profile compares labels: give two or more")
    rows, truth = _rows(texts, names, text, label)
    labeled = np.flatnonzero(truth >= 0)
    if len(rows) < FEWEST_TEXTS and len(labeled) < FEWEST_LABELED:
        raise BadRequest(
            f"a profile takes {FEWEST_TEXTS} texts, or {FEWEST_LABELED} with labels, and there are {len(rows)}, "
            f"{len(labeled)} of them with a label"
        )
    if len(templates) > 1 and len(labeled) < FEWEST_LABELED:
        raise BadRequest(
            f"the best of several templates is chosen on {FEWEST_LABELED} labeled texts: name one, or --label"
        )
    wanted = _priors(priors, names)
    best: tuple[float, ZeroShotProfile] | None = None
    for template in templates or (None,):
        scores = _scores(classifier, rows, names, template)
        loss, biases, temperature, found = _fitted(scores, truth, wanted)
        profile = _profile(classifier, names, template, biases, temperature, found, (len(rows), len(labeled)))
        if best is None or loss < best[0]:
            best = loss, profile
    assert best is not None  # there is one template or more
    if out is not None:
        best[1].write(out)
    return best[1]


def biases_of(scores: Floats, priors: Any) -> Floats:
    """Return the biases `[L]` with which the mean score of each label over the rows `[N, L]` is its prior."""
    logs, biases = np.log(np.maximum(scores, LOWEST)), np.zeros(scores.shape[1])
    for _ in range(STEPS):
        means = np.exp(log_softmax(logs + biases)).mean(axis=0)
        step = np.log(priors) - np.log(np.maximum(means, LOWEST))
        biases = biases + step
        if np.abs(step).max() < CLOSE:
            break
    return np.asarray(biases - biases.mean())


def estimated_priors(scores: Floats) -> Floats:
    """Return proportions of the labels, halfway between those of the scores with even biases and even ones."""
    count = scores.shape[1]
    even = profiled(scores, biases_of(scores, np.full(count, 1 / count)), 1.0)
    shares = np.bincount(even.argmax(axis=1), minlength=count) + 1.0
    return np.asarray((shares / shares.sum() + 1 / count) / 2)


def _fitted(scores: Floats, truth: Any, wanted: Priors) -> tuple[float, Floats, float, Floats]:
    """Return the log loss of the labeled rows (0 without any), and biases, temperature and priors."""
    priors = wanted.values
    if priors is None:
        priors = estimated_priors(scores) if wanted.estimated else np.full(scores.shape[1], 1 / scores.shape[1])
    biases = biases_of(scores, priors) * (1.0 if wanted.values is not None else STRENGTH)
    labeled = np.flatnonzero(truth >= 0)
    if len(labeled) < FEWEST_LABELED:
        return 0.0, biases, 1.0, priors
    from scipy.optimize import minimize

    logs, targets = np.log(np.maximum(scores[labeled], LOWEST)), truth[labeled]

    def loss(values: Any) -> float:
        rows = log_softmax((logs + values[1:]) / np.exp(values[0]))
        penalty = PENALTY * float(((values[1:] - biases) ** 2).sum()) / len(targets)
        return -float(rows[np.arange(len(targets)), targets].mean()) + penalty

    found = minimize(
        loss, np.concatenate([[0.0], biases]), method="L-BFGS-B", bounds=[(-3, 3), *[(None, None)] * len(biases)]
    )
    return float(found.fun), np.asarray(found.x[1:]), float(np.exp(found.x[0])), priors


def _profile(
    classifier: ZeroShotClassifier,
    names: tuple[str, ...],
    template: str | None,
    biases: Floats,
    temperature: float,
    priors: Floats,
    counts: tuple[int, int],
) -> ZeroShotProfile:
    folder, recorded = classifier.folder, classifier.folder.settings.zero_shot
    assert recorded is not None  # a ZeroShotClassifier has an NLI model
    return ZeroShotProfile(
        folder.path.name,
        identity_of(folder),
        names,
        tuple(biases.tolist()),
        tuple(np.asarray(priors, dtype=float).tolist()),
        template or classifier.hypothesis_template or recorded.hypothesis_template,
        classifier.scorer or recorded.scorer,
        classifier.attention or recorded.attention,
        temperature,
        *counts,
    )


def _scores(
    classifier: ZeroShotClassifier, rows: Sequence[str], names: tuple[str, ...], template: str | None
) -> Floats:
    """Return scores `[N, L]` without any profile."""
    answers = classifier.engine.zero_shot(
        rows,
        ZeroShotRequest(
            names,
            hypothesis_template=template or classifier.hypothesis_template,
            scorer=classifier.scorer,
            attention=classifier.attention,
        ),
        batch_size=classifier.batch_size,
    )
    return np.array([answer.scores for answer in answers])


def _rows(texts: Any, names: tuple[str, ...], text: Any, label: str | None) -> tuple[list[str], Any]:
    """Return the texts, and the number of each one's label, -1 without any."""
    if (
        not isinstance(texts, str | PathLike)
        and isinstance(texts, Sequence)
        and all(isinstance(row, str) for row in texts)
    ):
        if label is not None:
            raise BadRequest("these are texts without columns, and there is a column of labels named: pass a table")
        return list(texts), np.full(len(texts), -1)
    table: Table = (
        read_table(Path(texts), TableOptions(), FORMATS)
        if isinstance(texts, str | PathLike)
        else splits_in_memory(texts, "texts")["train"]
    )
    rows = [item.text for item in texts_of(table, text)]
    if label is None:
        return rows, np.full(len(rows), -1)
    places = {name: place for place, name in enumerate(names)}
    truth = []
    for number, cell in enumerate(table.column(column_of(table.name, table.columns, label)), start=1):
        name = str(cell).strip() if cell is not None else ""
        if name and name not in places:
            raise BadRequest(f"{table.name}, row {number}: the label {name!r} is none of {shown(names)}")
        truth.append(places[name] if name else -1)
    return rows, np.array(truth)


def _priors(priors: str | Mapping[str, float], names: tuple[str, ...]) -> Priors:
    """Return the priors that were asked for.

    Raises:
        BadRequest: an unknown word, other labels, or a proportion that is not above 0.
    """
    if isinstance(priors, str):
        if priors not in ("uniform", "estimated"):
            raise BadRequest(f"priors {priors!r}: give uniform, estimated, or a proportion for each label")
        return Priors(None, priors == "estimated")
    if set(priors) != set(names):
        raise BadRequest(f"priors are for {shown(list(priors))}, and the labels are {shown(names)}: give one for each")
    values = np.array([float(priors[name]) for name in names])
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise BadRequest("a prior must be above 0; a label that cannot occur is left out of the labels")
    return Priors(values / values.sum())
