"""A review from its arguments: the table, the model, the answers, and what runs beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from finetune.core.model_folder import ModelFolder
from finetune.core.tables.files import write_table
from service.errors import BadRequest
from service.inference.engine import Engine
from service.review import measures, retraining, scoring
from service.review.answers import Answer, AnswersFile, decided
from service.review.leases import Leases
from service.review.retraining import Retraining, RetrainingPlan
from service.review.session import Plan, ReviewSession, ScoredRows
from service.review.strategies import TEACHER_MISSING
from service.review.table import ReviewTable

CHECKING = "label_errors"
LEASES = "leases.json"


@dataclass(frozen=True)
class Given:
    """The model under review.

    Attributes:
        engine: returns the loaded model, and releases it where nothing else uses it.
    """

    name: str
    folder: ModelFolder
    engine: Callable[[], Any]
    device: str = "auto"
    models_dir: str = "models"


@dataclass(frozen=True)
class Retrain:
    """What a person sets about retraining; see `RetrainingPlan`."""

    out: Path | None
    every: int = 25
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Review:
    """A review under way.

    Attributes:
        retraining: None where labels of a table are checked.
    """

    session: ReviewSession
    retraining: Retraining | None

    @property
    def points(self) -> list[measures.Point]:
        """Return the held-out curve."""
        if self.retraining is None:
            return []
        return measures.curve(self.retraining.rounds(), self.session.answers.current())

    def close(self) -> None:
        """End what runs in the background."""
        if self.retraining is not None:
            self.retraining.close()


def begin(
    table: ReviewTable,
    answers: Path,
    plan: Plan,
    model: Given | None,
    retrain: Retrain,
    *,
    teacher: str | None = None,
) -> Review:
    """Return a review of a table; rows are scored unless an earlier call has stored their scores.

    Args:
        answers: the file that answers are appended to.
        model: None for the strategy `label_errors`, which reads the labels of the table.

    Raises:
        BadRequest, FinetuneError: table, model, answers and settings do not go together.
    """
    file, work = AnswersFile(answers), retraining.work_folder(answers)
    file.check(table)
    if plan.strategy != CHECKING:
        if model is None:
            raise BadRequest(
                f"the strategy {plan.strategy} orders rows by the scores of a model: name one with --model"
            )
        if plan.strategy == "disagreement" and teacher is None:
            raise BadRequest(TEACHER_MISSING)
        scoring.check_model(model.folder, model.name)
        if retrain.out is not None:
            retraining.check_out(retrain.out.resolve(), model.folder.path, work)
    work.mkdir(parents=True, exist_ok=True)
    leases = Leases(work / LEASES)
    if model is None or plan.strategy == CHECKING:
        scored, issues = scoring.likely_errors(table, plan.seed)
        return Review(ReviewSession(table, file, leases, scored, plan, issues=issues), None)
    identity = identity_of(model.folder)
    stored = retraining.stored_scores(work, identity, table.hashes)
    session = ReviewSession(
        table,
        file,
        leases,
        stored or _scored(table, model, work, identity),
        plan,
        embed=scoring.embedder(model.folder.path, table.texts, model.device),
        teach=None if teacher is None else _teacher(table, model, teacher),
    )
    settings = RetrainingPlan(
        model.folder.path.resolve(),
        identity,
        None if retrain.out is None else retrain.out.resolve(),
        retrain.every,
        model.models_dir,
        model.device,
        plan.seed,
        retrain.settings or {},
    )
    return Review(session, Retraining(session, work, settings))


def identity_of(folder: ModelFolder) -> str:
    """Return what tells a model folder from another one, or from its next version."""
    files = sorted(file for file in folder.path.iterdir() if file.is_file())
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return f"{folder.path.name} {blake2b(repr(state).encode(), digest_size=8).hexdigest()}"


@contextmanager
def loaded(folder: ModelFolder, device: str | None) -> Iterator[Engine]:
    """Load the engine of a folder, and release it at the end."""
    from service.settings import RuntimeSettings

    engine = Engine.load(folder, RuntimeSettings.from_environment(device=device))
    try:
        yield engine
    finally:
        engine.close()


def write_labeled(file: Path, answers: AnswersFile, checked: ReviewTable | None = None) -> int:
    """Write the table that `rehead finetune` reads, in the format of the file's suffix; return its rows.

    Held-out rows are not in it, and neither are rows that no label fits or whose reviewers disagree.

    Args:
        checked: the table whose labels were checked; all its rows are written, with the labels that people corrected.

    Raises:
        BadRequest: there is nothing to write.
        DataError: an unknown suffix.
    """
    by_row = decided(answers.current())
    if checked is None:
        rows = [
            {"text": answer.text, "label": answer.label, "row": answer.row}
            for answer in by_row.values()
            if answer.label is not None and not answer.held_out
        ]
    else:
        rows = _corrected(checked, by_row)
    if not rows:
        raise BadRequest(f"{answers.file.name} has no label to train on yet: answer some rows first")
    write_table(file, rows)
    return len(rows)


def _corrected(table: ReviewTable, by_row: Mapping[str, Answer]) -> list[dict[str, Any]]:
    rows = []
    for name, text, number, label in zip(
        table.hashes, table.texts, table.numbers.tolist(), table.labels or (), strict=True
    ):
        answer = by_row.get(name)
        if answer is None or answer.label is not None:
            rows.append({"text": text, "label": label if answer is None else answer.label, "row": number})
    return rows


def corrections(table: ReviewTable, answers: AnswersFile) -> tuple[int, int]:
    """Return how many labels of a table people confirmed, and how many they changed or found to fit no label."""
    by_row = decided(answers.current())
    given = dict(zip(table.hashes, table.labels or (), strict=True))
    confirmed = sum(answer.label == given.get(name) for name, answer in by_row.items())
    return confirmed, len(by_row) - confirmed


def _scored(table: ReviewTable, model: Given, work: Path, identity: str) -> ScoredRows:
    with model.engine() as engine:
        scored = scoring.score(engine, model.name, table.texts)
    retraining.store_scores(work, identity, table.hashes, scored)
    return scored


def _teacher(table: ReviewTable, model: Given, teacher: str) -> Any:
    names = model.folder.labels.names
    return scoring.teacher_scores(teacher, names, table.texts, model.models_dir, model.device)
