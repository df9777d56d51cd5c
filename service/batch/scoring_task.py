"""What a table is scored for: the labels and thresholds, and the identity by which an interrupted run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from finetune.core.model_folder import CLASSIFIER, TOKENIZER_FILES, ModelFolder
from finetune.core.windows import Window
from service.errors import BadRequest
from service.inference import hierarchy, zero_shot
from service.inference.cache_folder import hash_of
from service.inference.engine import Engine
from service.schema import NO_SETS, Answer, ZeroShotRequest

FORMAT = 1
"""Raised when the same table and model would be written differently, so that older runs are not resumed."""

CHUNK_ROWS = 4096
"""Texts in a chunk; in zero-shot classification, texts times labels."""

QUESTION = ("multi_label", "hypothesis_template", "scorer", "attention", "shortlist")
"""Fields of a question, beside its labels, that decide the scores."""


@dataclass(frozen=True)
class ScoringTask:
    """What the rows of a table are scored for.

    Attributes:
        labels: names of the scores.
        task: what an answer means: `multiclass`, `multi_label`, `regression` and so on.
        identity: everything that decides the scores beside the table, as JSON; a run resumes only where it is equal.
        thresholds: scores from which a label is predicted, by label; 0.5 for a label without one.
        chunk_rows: rows in a chunk.
        text_columns: columns whose joined texts the model was trained on; empty for a model of one column.
        languages: languages that the model was trained for, of which a table of others is warned; empty if unknown.
        abstain: whether a column holds the prediction set.
        max_characters: characters that a text may have; a longer one gets an error in its row. None: any number.
    """

    labels: tuple[str, ...]
    task: str
    identity: Any
    thresholds: dict[str, float] = field(default_factory=dict)
    chunk_rows: int = CHUNK_ROWS
    max_characters: int | None = None
    abstain: bool = False
    text_columns: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


def scoring_task(
    engine: Engine,
    question: ZeroShotRequest | None,
    batch_size: int | None = None,
    *,
    abstain: bool = False,
    window: Window | None = None,
) -> ScoringTask:
    """Return the task of scoring a table with the model's own labels, or with those of a question.

    Raises:
        BadRequest: `abstain` for a model without prediction sets, or with the labels of a question; a tree of labels
            that cannot be used.
    """
    if abstain:
        require_sets(engine.folder, question)
    folder, backend = engine.folder, engine.backend
    settings = folder.settings
    versions = [version(package) for package in ("torch", "tokenizers", "numpy")]
    identity = [FORMAT, model_hash(folder), backend.name, backend.precision, batch_size, versions]
    window = window or engine.window
    identity += [] if window is None else [window.to_json()]
    identity += ["abstain"] if abstain else []
    of_folder: dict[str, Any] = {"text_columns": settings.text_columns, "languages": settings.languages}
    if question is None:
        names = tuple(folder.labels.names)
        return ScoringTask(names, settings.task, identity, thresholds_of(engine), abstain=abstain, **of_folder)
    labels = zero_shot.parse_labels(question.labels)
    if hierarchy.is_tree(question):
        hierarchy.tree_of(question)  # raises before any row is scored
    identity += question_identity(question)
    task = "multi_label" if question.multi_label else "multiclass"
    chunk_rows = max(64, CHUNK_ROWS // len(labels))
    return ScoringTask(labels, task, identity, chunk_rows=chunk_rows, **of_folder)


def model_hash(folder: ModelFolder) -> str:
    """Return a hash of the files that decide a model's scores: weights, configuration, tokenizer."""
    files = [*sorted(folder.path.glob("model*.safetensors")), folder.path / "config.json"]
    patterns = (CLASSIFIER, *TOKENIZER_FILES)
    files += sorted({file for pattern in patterns for file in folder.path.glob(pattern) if file.is_file()})
    return hash_of(files)


def question_identity(question: ZeroShotRequest) -> list[Any]:
    """Return everything of a question that decides the scores, as JSON."""
    labels = zero_shot.parse_labels(question.labels)
    identity: list[Any] = [[list(labels), *(getattr(question, name) for name in QUESTION), *_described(question)]]
    return identity + ([question.profile.to_json()] if question.profile is not None else [])


def require_sets(folder: ModelFolder, question: ZeroShotRequest | None = None) -> None:
    """Raise for a model without prediction sets, and for candidate labels, which have none.

    Raises:
        BadRequest: says how to get them.
    """
    if question is not None:
        raise BadRequest("prediction sets are for a model's own labels, and these are candidate labels")
    if folder.settings.prediction_sets is None:
        raise BadRequest(NO_SETS)


def predicted_labels(answer: Answer, thresholds: Mapping[str, float]) -> list[str]:
    """Return the labels whose score reaches their threshold, 0.5 for a label without one."""
    return [item.label for item in answer.predictions if item.score >= thresholds.get(item.label, 0.5)]


def thresholds_of(engine: Engine) -> dict[str, float]:
    """Return the scores from which a model's own labels are predicted, by label, where its folder records them."""
    return dict(zip(engine.folder.labels.names, engine.folder.settings.thresholds or (), strict=False))


def _described(question: ZeroShotRequest) -> list[Any]:
    """Return the other fields of a question, as JSON, where they differ from the defaults."""
    plain = ZeroShotRequest(())
    fields = [question.keep_identifiers, question.beam, question.window and question.window.to_json()]
    texts = [[name, text.description, list(text.phrasings), list(text.examples)] for name, text in question.texts]
    return [fields, texts] if texts or fields != [plain.keep_identifiers, plain.beam, None] else []
