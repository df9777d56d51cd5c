"""The reviews of a server: reviewers of the same table and model share one, and its answers file."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from finetune.core import file_lock
from finetune.core.model_folder import served
from finetune.core.tables.options import TableOptions
from service.errors import BadRequest, Overloaded
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.review import retraining
from service.review.review import CHECKING, Given, Retrain, Review, begin
from service.review.session import Plan
from service.review.table import review_table

FOLDER, ANSWERS = ".review", "answers.jsonl"
"""Folder of reviews inside the folder of models; a leading dot is not allowed in a model's name."""

MOST_OPEN, MOST_STORED = 4, 100
"""Reviews whose texts and scores are in memory, and those whose answers are stored."""

MOST_ROWS_ASKED = 5000


@dataclass(frozen=True)
class Request:
    """What a reviewer chose on the page.

    Attributes:
        text: columns of the text.
        label: the column whose labels are checked, for the strategy `label_errors`.
        teacher: a served name, for the strategy `disagreement`.
    """

    table: Path
    text: tuple[str, ...]
    options: TableOptions
    model: str | None
    plan: Plan
    label: str | None = None
    teacher: str | None = None


class SharedReviews:
    """The reviews under way, by key; thread-safe.

    Args:
        store: the served models.
        models: their folder.
        device: on which models are retrained.
        max_characters: of a text.
    """

    def __init__(self, store: ModelStore[Engine], models: Path, device: str, max_characters: int) -> None:
        self._store, self._models, self._device, self._max_characters = store, models, device, max_characters
        self._folder = models / FOLDER
        self._open: OrderedDict[str, tuple[Request, Review]] = OrderedDict()
        self._lock, self._beginning = threading.Lock(), threading.Lock()

    def begin(self, request: Request) -> str:
        """Begin a review, or join the one of this table and model; return its key.

        With other settings than those it runs with, it goes on with these, for all its reviewers.

        Raises:
            BadRequest, FinetuneError: the table or the model cannot be reviewed.
            Overloaded: another review is being prepared, or the server stores no more of them.
        """
        if not 1 <= request.plan.rows <= MOST_ROWS_ASKED:
            raise BadRequest(f"the rows to answer are a number from 1 to {MOST_ROWS_ASKED}")
        key = self._key(request)
        if self._is_open(key, request):
            return key
        if not self._beginning.acquire(blocking=False):
            raise Overloaded("another review is being prepared", hint="try again in a moment")
        try:
            if self._is_open(key, request):
                return key
            folder = self._folder / key
            if not folder.is_dir() and len(self.stored()) >= MOST_STORED:
                raise Overloaded(
                    f"this server stores {MOST_STORED} reviews, which is the limit",
                    hint=f"its operator can move old ones out of {FOLDER} in the folder of models",
                )
            review = self._begun(request, folder)
        finally:
            self._beginning.release()
        with self._lock:
            replaced = [self._open.pop(key)] if key in self._open else []
            self._open[key] = request, review
            while len(self._open) > MOST_OPEN:
                replaced.append(self._open.popitem(last=False)[1])
        for _, other in replaced:
            other.close()
        return key

    def get(self, key: str | None) -> Review:
        """Return a review under way.

        Raises:
            BadRequest: it is none, or was closed in favor of others; its answers are kept.
        """
        with self._lock:
            if key is None or key not in self._open:
                raise BadRequest("no review is open here: press Start, which continues with all answers so far")
            self._open.move_to_end(key)
            return self._open[key][1]

    def stored(self) -> list[Path]:
        """Return the folders of all reviews."""
        return sorted(self._folder.iterdir()) if self._folder.is_dir() else []

    def publish(self, key: str | None, name: str) -> None:
        """Copy the latest retrained model of a review to the served models.

        Raises:
            BadRequest: there is no retrained model, or the name is invalid or taken.
            Overloaded: a retraining is writing it.
        """
        review = self.get(key)
        if review.retraining is None or not (review.retraining.model / "config.json").is_file():
            raise BadRequest("no model has been retrained yet: it is after enough answers")
        if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", name, re.ASCII):
            raise BadRequest("a model's name consists of up to 64 letters, digits, - and _")
        if name in served(self._models) or (self._models / name).exists():
            raise BadRequest(f"there is a model {name!r} already: choose another name")
        folder = review.retraining.model
        try:
            with file_lock.held(folder.with_name(retraining.LOCK)):
                retraining.copy_model(folder, self._models / name)
        except BlockingIOError as error:
            raise Overloaded("a model is being retrained", hint="save it once it is ready") from error

    def close(self) -> None:
        """End what runs in the background."""
        with self._lock:
            for _, review in self._open.values():
                review.close()
            self._open.clear()

    def _is_open(self, key: str, request: Request) -> bool:
        with self._lock:
            return key in self._open and _settings(self._open[key][0]) == _settings(request)

    def _begun(self, request: Request, folder: Path) -> Review:
        given: Given | None = None
        recorded: tuple[str, ...] = ()
        if request.plan.strategy != CHECKING:
            if request.model is None:
                raise BadRequest("select a model")
            checked = self._store.folder(request.model)
            engine: Callable[[], Engine] = lambda: self._store.get(str(request.model))  # noqa: E731
            given = Given(request.model, checked, lambda: nullcontext(engine()), self._device, str(self._models))
            recorded = checked.settings.text_columns
        columns: Sequence[str] = () if given is not None and set(request.text) <= set(recorded) else request.text
        table = review_table(
            request.table,
            columns,
            request.options,
            label=request.label,
            recorded=recorded,
            max_characters=self._max_characters,
            seed=request.plan.seed,
        )
        teacher = None if request.teacher is None else str(self._store.folder_path(request.teacher))
        is_new = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return begin(table, folder / ANSWERS, request.plan, given, Retrain(None), teacher=teacher)
        except BaseException:
            if is_new:
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def _key(self, request: Request) -> str:
        with request.table.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        what = CHECKING if request.plan.strategy == CHECKING else "model"
        parts = (content, *request.text, request.options, what, request.model, request.label)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _settings(request: Request) -> tuple[Plan, str | None]:
    return request.plan, request.teacher
