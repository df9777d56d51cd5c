"""What every way in asks alike, HTTP and page: is it within the limits, and what does the model say, counted.

Knows: limits, the engine's async face, what is counted of an answer, how far a whole table gives way to others.
Does not know: any wire dialect, pages.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from finetune.core.model_folder import AttentionMode
from finetune.core.tables.options import TableOptions
from finetune.core.tokenization import without_surrogates
from service.batch.score_table import Progress, ScoringResult, score_table, scorer
from service.batch.scoring_task import scoring_task
from service.errors import BadRequest, TooLarge, late_after
from service.inference import zero_shot
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import Answer, Function, TextInput, Work, ZeroShotQuestion
from service.server.explain import Word, explain
from service.server.telemetry import Telemetry
from service.settings import ServeSettings

T = TypeVar("T")

ROWS_OF_A_TABLE = 64
CHARACTERS_AT_ONCE = 8000
"""Characters of a table, times labels, that wait for the model together: whoever asks meanwhile waits for them."""

THREADS_ASIDE = 6
"""Threads of what takes longer than an answer: these must never take those that answers need."""


class Desk:
    """The models of a server, as strangers may use them."""

    def __init__(self, store: ModelStore[Engine], settings: ServeSettings, telemetry: Telemetry) -> None:
        self.store, self.settings, self.telemetry = store, settings, telemetry
        self._aside = ThreadPoolExecutor(THREADS_ASIDE, "rehead-aside")

    def inputs(self, given: Sequence[Any]) -> list[TextInput]:
        """Texts and pairs, lone surrogates replaced.

        Raises:
            BadRequest: none, or what is no text.
            TooLarge: too many, or one that is too long; before anything is tokenized.
        """
        if not given:
            raise BadRequest("inputs is an empty list: send at least one text")
        if len(given) > self.settings.max_texts:
            raise TooLarge(f"inputs holds {len(given)} texts, and a request may hold {self.settings.max_texts}")
        found = []
        for number, item in enumerate(map(TextInput.of, given), 1):
            for text in (item.text, item.pair or ""):
                if len(text) > self.settings.max_characters:
                    raise TooLarge(
                        f"text {number} has {len(text)} characters, and a text may have {self.settings.max_characters}"
                    )
            pair = None if item.pair is None else without_surrogates(item.pair)
            found.append(TextInput(without_surrogates(item.text), pair))
        return found

    def labels(self, given: Any) -> tuple[str, ...]:
        """Labels of a caller's own, as a list or with commas between them, lone surrogates replaced.

        Raises:
            BadRequest: none, or what is no label.
            TooLarge: too many, or too long a one; before anything else is done with them.
        """
        many = given.count(",") + 1 if isinstance(given, str) else len(given) if isinstance(given, list | tuple) else 1
        self.count_labels(many)
        found = zero_shot.parse_labels(given)
        for label in found:
            if len(label) > self.settings.max_characters:
                raise TooLarge(f"a label has {len(label)} characters, and it may have {self.settings.max_characters}")
        return tuple(map(without_surrogates, found))

    def count_labels(self, many: int) -> None:
        """Refuse more labels than a request may hold, in all its questions.

        Raises:
            TooLarge.
        """
        if many > self.settings.max_labels:
            raise TooLarge(f"there are {many} candidate_labels, and a request may hold {self.settings.max_labels}")

    def work(self) -> Work:
        """What a request may take."""
        return Work(self.settings.max_tokens, self.settings.queue_seconds)

    async def classify(
        self,
        engine: Engine,
        inputs: list[TextInput],
        work: Work,
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
    ) -> list[Answer]:
        """Scores of the model's own labels; raises as `Engine.aclassify` does."""
        answers = await engine.aclassify(inputs, function=function, attention=attention, work=work)
        self.telemetry.answers(engine.folder.path.name, answers, own_labels=engine.folder.labels.names)
        return answers

    async def zero_shot(
        self, engine: Engine, texts: list[str], question: ZeroShotQuestion | list[ZeroShotQuestion], work: Work
    ) -> list[Answer]:
        """Scores of a caller's labels; raises as `Engine.azero_shot` does."""
        answers = await engine.azero_shot(texts, question, work=work)
        self.telemetry.answers(engine.folder.path.name, answers, own_labels=None)
        return answers

    async def explain(self, engine: Engine, item: TextInput, label: str) -> list[Word]:
        """What each word of a text adds to the score of a label; raises as `Engine.aclassify` does."""
        loop, left = asyncio.get_running_loop(), threading.Event()

        def scores(texts: list[str]) -> list[float]:
            if left.is_set():
                raise late_after(self.settings.request_seconds)
            inputs = [TextInput(text, item.pair) for text in texts]
            # not counted with the answers: nobody asked for these
            call = engine.aclassify(inputs, work=self.work())
            answers = asyncio.run_coroutine_threadsafe(call, loop).result(self.settings.request_seconds)
            return [answer.scores[answer.labels.index(label)] for answer in answers]

        try:
            return await self.aside(explain, item.text, scores)
        finally:
            left.set()

    async def aside(self, work: Callable[..., T], *arguments: Any) -> T:
        """The outcome of what takes long, from a thread that no answer needs."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, work, *arguments)

    def score_table(
        self,
        engine: Engine,
        question: ZeroShotQuestion | None,
        table: Path,
        out: Path,
        *,
        text: str,
        all_scores: bool,
        progress: Progress,
        options: TableOptions | None = None,
    ) -> ScoringResult:
        """A table's rows with their scores, as `files.score` writes them, a few rows at a time.

        Raises:
            BadRequest, DataError: a table or a column that cannot be used.
        """
        answers = scorer(engine, question)
        room = CHARACTERS_AT_ONCE // (len(question.labels) if question is not None else 1)

        def in_pieces(inputs: list[TextInput]) -> list[Answer]:
            return [answer for piece in _pieces(inputs, room) for answer in answers(piece)]

        few = replace(
            scoring_task(engine, question), chunk_rows=ROWS_OF_A_TABLE, max_characters=self.settings.max_characters
        )
        return score_table(
            table, out, in_pieces, few, text=text, all_scores=all_scores, progress=progress, options=options
        )

    async def counted(self, engine: Engine, work: Work, asked: Coroutine[Any, Any, T]) -> T:
        """The outcome of a call that no guard has counted in.

        Raises:
            Overloaded: the model is too busy.
            Late: it took longer than a request may.
        """
        settings = self.settings
        try:
            engine.enter(settings.queue_seconds, settings.max_concurrent)
        except BaseException:
            asked.close()
            raise
        try:
            return await asyncio.wait_for(asked, settings.request_seconds)
        except TimeoutError as error:
            raise late_after(settings.request_seconds) from error
        finally:
            engine.leave(work)


def _pieces(inputs: list[TextInput], room: int) -> Iterator[list[TextInput]]:
    """The inputs in their order, so many characters at a time; at least one."""
    piece: list[TextInput] = []
    taken = 0
    for item in inputs:
        if piece and taken + len(item.text) > room:
            yield piece
            piece, taken = [], 0
        piece.append(item)
        taken += len(item.text)
    if piece:
        yield piece
