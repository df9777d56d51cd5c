"""The scores, embeddings and label errors that a review starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.errors import DataError
from finetune.core.label_text import natural_key
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import ModelFolder
from finetune.core.scores import Floats, decide, softmax
from service.errors import BadRequest
from service.inference.engine import Engine
from service.review.session import ScoredRows
from service.review.strategies import Places
from service.review.table import ReviewTable

TEXTS_AT_ONCE = 64
"""Texts of one call of the model, so that a server answers requests in between."""

GIVEN = "TF-IDF"
"""The model of a review of labels: scored by the other rows, so that no row is scored by a model that has seen it."""


def check_model(folder: ModelFolder, name: str) -> None:
    """Raise BadRequest for a model that people cannot be asked about one label a text."""
    task = folder.labels.task
    if folder.is_zero_shot:
        raise BadRequest(
            f"{name} is a zero-shot model and has no labels of its own to review",
            hint="make a first model with rehead distill TEXTS --labels a,b,c, and review with that",
        )
    if task not in ("binary", "multiclass"):
        raise BadRequest(
            f"{name} is a model of task {task}, and a review asks for one label a text",
            hint="use a model with one label for each text",
        )


def score(engine: Engine, name: str, texts: Sequence[str]) -> ScoredRows:
    """Return the scores of a model with one label a text."""
    labels, settings = engine.folder.labels, engine.folder.settings
    parts = [engine.scores(list(texts[start : start + TEXTS_AT_ONCE])) for start in range(0, len(texts), TEXTS_AT_ONCE)]
    scores = np.concatenate(parts) if parts else np.zeros((0, len(labels)))
    predicted = decide(scores, labels.task, settings.thresholds)
    return ScoredRows(name, labels.names, scores, [labels.names[place] for place in predicted.tolist()])


def embedder(folder: Path, texts: Sequence[str], device: str = "auto") -> Callable[[Places], npt.NDArray[Any]]:
    """Return a function from places to the embeddings `[n, H]` of their texts by a model's encoder.

    The encoder is loaded with the first call; embeddings are kept.
    """
    known: dict[int, npt.NDArray[Any]] = {}
    loaded: list[Callable[[Sequence[str]], npt.NDArray[Any]]] = []

    def embed(places: Places) -> npt.NDArray[Any]:
        missing = [place for place in places.tolist() if place not in known]
        if missing:
            if not loaded:
                from finetune.bases import text_embedder

                loaded.append(text_embedder(str(folder), device=device.partition(":")[0]))
            vectors = loaded[0]([texts[place] for place in missing]).astype(np.float16)
            known.update(zip(missing, vectors, strict=True))
        return np.stack([known[place] for place in places.tolist()])

    return embed


def teacher_scores(
    teacher: str, names: Sequence[str], texts: Sequence[str], models_dir: str, device: str | None = None
) -> Callable[[Places], Floats]:
    """Return a function from places to a teacher's scores `[n, L]` for these labels.

    The teacher is loaded with the first call; scores are kept.
    """
    known: dict[int, Floats] = {}

    def teach(places: Places) -> Floats:
        missing = [place for place in places.tolist() if place not in known]
        if missing:
            from service.labeling import config as distillation
            from service.labeling.teacher import teacher_of

            settings: dict[str, Any] = {"texts": "the reviewed table", "out": "", "labels": tuple(names)}
            settings |= {"teacher": {"name": "model", "model": teacher}, "models_dir": models_dir, "device": device}
            loaded = teacher_of(distillation.build(settings))
            try:
                answers = loaded([texts[place] for place in missing])
            finally:
                loaded.close()
            for place, answer in zip(missing, answers, strict=True):
                uniform = np.full(len(names), 1 / len(names))
                known[place] = uniform if answer.logits is None else softmax(answer.logits)
        return np.stack([known[place] for place in places.tolist()])

    return teach


def likely_errors(table: ReviewTable, seed: int = 0) -> tuple[ScoredRows, Places]:
    """Return scores of a labeled table by TF-IDF of its other rows, and the places of likely label errors.

    Raises:
        MissingExtra: cleanlab is not installed.
        DataError, BadRequest: the table has too few rows or labels.
    """
    from finetune.data.rows import Rows
    from finetune.evaluation.baseline import cross_validated_tfidf_scores
    from finetune.evaluation.label_errors import label_errors

    if table.labels is None:
        raise BadRequest("the strategy label_errors reads the labels of the table: name their column with --label")
    names = tuple(sorted(set(table.labels), key=natural_key))
    if len(names) < 2:
        raise DataError(f"the label column holds {len(names)} label, and errors are found among two or more")
    labels = LabelSpace("binary" if len(names) == 2 else "multiclass", names)
    rows = Rows(table.texts, None, table.labels, table.numbers.tolist(), table.name)
    scores = cross_validated_tfidf_scores(labels, rows, seed=seed)
    if scores is None:
        raise DataError(f"{table.name} has too few rows or labels to score each row by the others")
    places = [error.place for error in label_errors(labels, scores, table.labels)]
    best = [names[place] for place in scores.argmax(axis=1).tolist()]
    return ScoredRows(GIVEN, names, scores, best), np.array(places, dtype=np.int64)
