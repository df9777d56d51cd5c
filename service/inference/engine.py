"""One loaded model as a question-answering machine: request -> tokens -> batches -> logits -> scores.

Knows: what to compute once, which function and mask a request asks for.
Does not know: names of models, HTTP, files, the runtime behind the backend.

A text's scores depend on that text and the question alone, never on what else is in the call, or in another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.labels import NliRoles, shown
from finetune.core.model_folder import AttentionMode, ModelFolder, Scorer, ZeroShotSettings
from finetune.core.scores import Activation, Floats, activate
from finetune.core.tokenization import TextEncoder
from service.errors import BadRequest
from service.inference import zero_shot
from service.inference.backends import selection
from service.inference.backends.base import Backend
from service.inference.backends.selection import Say
from service.inference.batch_queue import Batch
from service.inference.cached_tokenizer import encoder_of
from service.inference.label_sets import LabelSets
from service.inference.model_runner import Found, ModelRunner, Rows, Terms
from service.inference.steps import Quick, Steps, afinish, finish
from service.inference.zero_shot_scorer import Evidence, LabelEmbeddings, Started, ZeroShotScorer
from service.schema import ATTENTION_MODES, FUNCTIONS, Answer, Function, TextInput, Work, ZeroShotQuestion, one_of
from service.settings import RuntimeSettings

ROWS_AT_ONCE = 4096
BATCHES_AT_ONCE = 4
"""Rows that are tokenized and queued together, or so many batches of them; bounds memory for long inputs."""

QUICK_CHARACTERS = 2000
"""Characters of texts, or of labels, that are tokenized where a caller awaits, without another thread."""

PARTS_AT_ONCE = 2
"""Parts of a call that are under way together: while one is computed, the next is tokenized."""

ACTIVATIONS: dict[Function, Activation] = {"softmax": "softmax", "sigmoid": "sigmoid", "none": "linear"}


class Engine:
    """Answers questions with one model; safe to use from many threads and event loops, which share its batches."""

    def __init__(
        self,
        folder: ModelFolder,
        encoder: TextEncoder,
        backend: Backend,
        *,
        renewed: Callable[[], Backend] | None = None,
        seen: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.folder = folder
        self._worker = ModelRunner(encoder, backend, folder.path.name, renewed=renewed, seen=seen)
        self._rows_at_once = max(ROWS_AT_ONCE, BATCHES_AT_ONCE * backend.batch.rows)
        self._label_sets = LabelSets(encoder)
        self._label_embeddings = LabelEmbeddings(self._worker)

    @classmethod
    def load(
        cls,
        folder: ModelFolder,
        settings: RuntimeSettings | None = None,
        *,
        say: Say = lambda line: None,
        seen: Callable[[Batch], None] | None = None,
        restarted: Callable[[], None] | None = None,
    ) -> Engine:
        """The engine of a checked folder.

        Args:
            settings: the runtime; default is what the environment says, and else the fastest on this machine.
            say: hears of a trial while it is held; `backend.why` says what came of it.
            seen: hears of every batch that was computed.
            restarted: for servers: where a call of the model never comes back, the model is loaded anew, and this hears
                of it. Without it, a call may take any time.

        Raises:
            CheckpointError: its tokenizer cannot be loaded.
            BackendFailed: its weights cannot, or not with these settings.
        """
        settings = settings or RuntimeSettings.from_environment()

        def renewed() -> Backend:
            found = selection.load(folder, settings, say)
            if restarted is not None:
                restarted()
            return found

        return cls(
            folder,
            encoder_of(folder, settings.cache),
            selection.load(folder, settings, say),
            renewed=renewed if restarted is not None else None,
            seen=seen or (lambda batch: None),
        )

    @property
    def backend(self) -> Backend:
        """The runtime that computes."""
        return self._worker.backend

    @property
    def max_length(self) -> int:
        """Tokens that the model reads of a text, special tokens included."""
        return self._worker.encoder.max_length

    @property
    def waiting(self) -> int:
        """Tokens that wait for the model."""
        return self._worker.waiting

    def expected_seconds(self, tokens: float | None = None) -> float:
        """Return the seconds that `tokens` will take, or those that wait; 0 before the first batch."""
        return self._worker.seconds(tokens)

    def close(self) -> None:
        """Finish what waits, take nothing more, and let go of the model."""
        self._worker.close()

    def classify(
        self,
        inputs: Sequence[TextInput],
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
        batch_size: int | None = None,
        apart: bool = False,
    ) -> list[Answer]:
        """One answer a text (or pair), in order, with the scores of the model's own labels.

        Args:
            function: what turns logits into scores; `default` follows the model's task.
            attention: default is what the folder records, ordinary where it records nothing.
            batch_size: rows computed together, at most; default is what suits the runtime.
            apart: share no batch with another call, so that the same call gives the same bits.

        Raises:
            BadRequest: an unknown function or attention, or one that this model has not got.
            BackendFailed: the model answered with something that is not a number.
        """
        return finish(self._classifying(inputs, function, attention, Terms(batch_size, True, Work(), apart)))

    async def aclassify(
        self,
        inputs: Sequence[TextInput],
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
        batch_size: int | None = None,
        wait: bool = False,
        work: Work | None = None,
    ) -> list[Answer]:
        """What `classify` gives, while the event loop goes on; what waits is skipped once it is cancelled.

        Args:
            wait: wait for room in the queue, instead of being refused.
            work: what the call may take; it is written there what it took.

        Raises:
            Overloaded, TooLarge: beside what `classify` raises: too much waits already, or more than it may take.
        """
        terms = Terms(batch_size, wait, work or Work())
        return await afinish(self._classifying(inputs, function, attention, terms))

    def zero_shot(
        self,
        texts: Sequence[str],
        question: ZeroShotQuestion | Sequence[ZeroShotQuestion],
        *,
        batch_size: int | None = None,
        apart: bool = False,
    ) -> list[Answer]:
        """One answer a text, in order, with the scores of the question's labels.

        Args:
            question: one for all texts, or one for each.
            apart: as in `classify`.

        Raises:
            BadRequest: not an NLI model, or labels, template, scorer, attention or a text that cannot be used.
            BackendFailed: the model answered with something that is not a number.
        """
        return finish(self._zero_shot(texts, question, Terms(batch_size, True, Work(), apart)))

    async def azero_shot(
        self,
        texts: Sequence[str],
        question: ZeroShotQuestion | Sequence[ZeroShotQuestion],
        *,
        batch_size: int | None = None,
        wait: bool = False,
        work: Work | None = None,
    ) -> list[Answer]:
        """What `zero_shot` gives, as `aclassify` gives what `classify` does."""
        return await afinish(self._zero_shot(texts, question, Terms(batch_size, wait, work or Work())))

    def scores(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
    ) -> Floats:
        """Scores `[N, C]` of texts (or pairs) in the order of the model's labels; raises as `classify` does."""
        seconds = pairs if pairs is not None else [None] * len(texts)
        inputs = [TextInput(text, pair) for text, pair in zip(texts, seconds, strict=True)]
        answers = self.classify(inputs, function=function, attention=attention)
        found = np.array([answer.scores for answer in answers], dtype=np.float64)
        return found.reshape(-1, len(self.folder.labels.names))

    def weigh(
        self, texts: Sequence[str], labels: Sequence[str], template: str, scorer: Scorer, attention: AttentionMode
    ) -> Evidence:
        """What the model has to say about every text and label in its template, as far as the scorer needs it."""
        question = ZeroShotQuestion(tuple(labels), False, template, scorer, attention)
        weigher = self._weigher(question, Terms(None, True, Work()))
        started = weigher.start(texts)
        return finish(weigher.evidence([future.result() for future in started.futures], started.known))

    def _classifying(
        self,
        inputs: Sequence[TextInput],
        function: Function,
        attention: AttentionMode | None,
        terms: Terms,
    ) -> Steps[list[Answer]]:
        one_of("function_to_apply", function, FUNCTIONS)
        zero = self.folder.settings.zero_shot
        kind = Rows(self._attention(attention or (zero.attention if zero is not None else "ordinary")), False)
        distinct = list(dict.fromkeys(inputs))
        answers: dict[TextInput, Answer] = {}

        def start(part: Sequence[TextInput]) -> Started:
            seconds = [item.pair for item in part if item.pair is not None]
            with terms.work.tokenizing():
                rows = self._worker.encoder([item.text for item in part], seconds or None)
            future = self._worker.rows(kind, rows, terms)
            return Started([future], (part, [row.truncated for row in rows]))

        def finished(found: list[list[Found]], known: Any) -> Steps[None]:
            part, cut = known
            scores = self._activate(np.stack([one.logits for one in found[0]]), function)
            answers.update(zip(part, _answers(scores, self.folder.labels.names, cut), strict=True))
            yield from ()

        alone, pairs = ([item for item in distinct if (item.pair is not None) == paired] for paired in (False, True))
        parts = [part for group in (alone, pairs) for part in _parts(group, self._rows_at_once)]
        sizes = [sum(len(item.text) + len(item.pair or "") for item in part) for part in parts]
        work = zip(parts, sizes, strict=True)
        yield from _overlapping([(_quick(partial(start, part), size), finished) for part, size in work])
        return [answers[item] for item in inputs]

    def _zero_shot(
        self,
        texts: Sequence[str],
        question: ZeroShotQuestion | Sequence[ZeroShotQuestion],
        terms: Terms,
    ) -> Steps[list[Answer]]:
        nli_model(self.folder)
        questions = [question] * len(texts) if isinstance(question, ZeroShotQuestion) else list(question)
        if len(questions) != len(texts):
            raise BadRequest(f"there are {len(texts)} texts and {len(questions)} questions: give one for each, or one")
        # a list of labels and a tuple of them are the same question
        different = {id(one): one for one in questions}
        known = {key: replace(one, labels=zero_shot.parse_labels(one.labels)) for key, one in different.items()}
        asked = [known[id(one)] for one in questions]
        _check_texts(texts)
        groups: dict[ZeroShotQuestion, dict[str, Answer | None]] = {}
        for text, one in zip(texts, asked, strict=True):
            groups.setdefault(one, {})[text] = None
        work = []
        for one, group in groups.items():
            weigher = yield _quick(partial(self._weigher, one, terms), sum(map(len, one.labels)))
            for part in _parts(list(group), max(1, self._rows_at_once // len(one.labels))):

                def finished(
                    found: list[list[Found]],
                    known: Any,
                    weigher: ZeroShotScorer = weigher,
                    part: Sequence[str] = part,
                    group: dict[str, Answer | None] = group,
                ) -> Steps[None]:
                    scores, cut = yield from weigher.finish(found, known)
                    group.update(zip(part, _answers(scores, weigher.labels.labels, cut), strict=True))

                work.append((_quick(partial(weigher.start, part), sum(map(len, part))), finished))
        yield from _overlapping(work)
        return [answer for text, one in zip(texts, asked, strict=True) if (answer := groups[one][text]) is not None]

    def _weigher(self, question: ZeroShotQuestion, terms: Terms) -> ZeroShotScorer:
        nli = nli_model(self.folder)
        attention = self._attention(question.attention or nli[1].attention, question.scorer or nli[1].scorer)
        return ZeroShotScorer(
            self._worker,
            self._label_sets,
            self._label_embeddings,
            nli,
            question,
            attention,
            terms,
        )

    def _attention(self, attention: AttentionMode, scorer: Scorer = "nli") -> AttentionMode:
        one_of("attention", attention, ATTENTION_MODES)
        if not self.backend.shared_text and (attention == "shared_text" or scorer != "nli"):
            wanted = f"scorer {scorer}" if scorer != "nli" else "attention shared_text"
            family = self.folder.config.get("model_type")
            raise BadRequest(
                f"{wanted} is not available for models of the family {family}", hint="use ordinary with scorer nli"
            )
        return attention

    def _activate(self, logits: npt.NDArray[np.float32], function: Function) -> Floats:
        settings = self.folder.settings
        if function in ACTIVATIONS:
            return activate(logits, ACTIVATIONS[function], temperature=settings.temperature)
        return activate(logits, settings.activation, temperature=settings.temperature, target=settings.target)


def nli_model(folder: ModelFolder) -> tuple[NliRoles, ZeroShotSettings]:
    """What makes a model fit for labels of a caller's own.

    Raises:
        BadRequest: its labels do not include entailment and contradiction.
    """
    roles, settings = folder.labels.nli, folder.settings.zero_shot
    if roles is None or settings is None:
        raise BadRequest(
            f"{folder.path.name} cannot classify by labels of your own: that takes an NLI model with labels "
            f"named entailment and contradiction, and its labels are {shown(folder.labels.names)}"
        )
    return roles, settings


def _overlapping(
    work: Sequence[tuple[Callable[[], Started], Callable[[list[list[Found]], Any], Steps[None]]]],
) -> Steps[None]:
    """Start each part and finish it, a few under way together; what nobody waits for any more is cancelled."""
    under_way: deque[tuple[Started, Callable[[list[list[Found]], Any], Steps[None]]]] = deque()

    def finish_first() -> Steps[None]:
        started, finished = under_way[0]
        found = []
        for future in started.futures:
            found.append((yield future))
        under_way.popleft()
        yield from finished(found, started.known)

    try:
        for start, finished in work:
            under_way.append(((yield start), finished))
            if len(under_way) == PARTS_AT_ONCE:
                yield from finish_first()
        while under_way:
            yield from finish_first()
    finally:
        for started, _ in under_way:
            for future in started.futures:
                future.cancel()


def _quick(call: Callable[[], Any], characters: int) -> Callable[[], Any]:
    return Quick(call) if characters <= QUICK_CHARACTERS else call


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _check_texts(texts: Sequence[Any]) -> None:
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise BadRequest(f"text {number} must be a string, and it is {type(text).__name__}")
        if not text:
            raise BadRequest(f"text {number} of {len(texts)} is empty" if len(texts) > 1 else "the text is empty")


def _answers(scores: Floats, names: Sequence[str], truncated: Sequence[bool]) -> list[Answer]:
    labels = tuple(names)
    return [Answer(labels, tuple(row), cut) for row, cut in zip(scores.tolist(), truncated, strict=True)]
