"""One loaded model: texts in, answers out. A text's scores depend on that text and the request alone, never on what
else is in the call or in another call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.model_folder import AttentionMode, ModelFolder, Scorer
from finetune.core.scores import Activation, Floats, activate
from finetune.core.tokenization import TextEncoder
from service.errors import BadRequest
from service.inference import zero_shot
from service.inference.backends import selection
from service.inference.backends.base import Backend
from service.inference.backends.selection import Log
from service.inference.batch_queue import Batch
from service.inference.cached_tokenizer import encoder_of
from service.inference.label_sets import LabelSets
from service.inference.model_runner import CallOptions, ModelRunner, RowOutput, SequenceKind
from service.inference.steps import Inline, Part, Steps, Submitted, afinish, finish, overlapping
from service.inference.zero_shot_scorer import LabelEmbeddings, RawScores, ZeroShotScorer, nli_model
from service.schema import ATTENTION_MODES, FUNCTIONS, Answer, Function, TextInput, Work, ZeroShotRequest, one_of
from service.settings import RuntimeSettings

PART_ROWS = 4096
PART_BATCHES = 4
"""Rows that are tokenized and queued together, or this many batches of them; bounds memory for long inputs."""

INLINE_CHARACTERS = 2000
"""Characters of texts, or of labels, that are tokenized on the event loop instead of in another thread."""

PARTS_AT_ONCE = 2
"""Parts of a call that are in progress together: while one is computed, the next is tokenized."""

ACTIVATIONS: dict[Function, Activation] = {"softmax": "softmax", "sigmoid": "sigmoid", "none": "linear"}


class Engine:
    """Computes answers with one model; threads and event loops may call it at once, and share its batches."""

    def __init__(
        self,
        folder: ModelFolder,
        encoder: TextEncoder,
        backend: Backend,
        *,
        reload: Callable[[], Backend] | None = None,
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.folder = folder
        self._runner = ModelRunner(encoder, backend, folder.path.name, reload=reload, on_batch=on_batch)
        self._part_rows = max(PART_ROWS, PART_BATCHES * backend.batch.rows)
        self._label_sets = LabelSets(encoder)
        self._label_embeddings = LabelEmbeddings(self._runner)

    @classmethod
    def load(
        cls,
        folder: ModelFolder,
        settings: RuntimeSettings | None = None,
        *,
        log: Log = lambda line: None,
        on_batch: Callable[[Batch], None] | None = None,
        on_reload: Callable[[], None] | None = None,
    ) -> Engine:
        """Return the engine of a checked folder.

        Args:
            settings: the runtime; by default from the environment, else the fastest on this machine.
            log: receives progress of a trial of backends; `backend.why` states its outcome.
            on_batch: called after every computed batch.
            on_reload: for servers: where a call of the model hangs, the model is loaded again, and this is called.
                Without it, a call may take any time.

        Raises:
            CheckpointError: the tokenizer cannot be loaded.
            BackendFailed: the weights cannot be loaded, or not with these settings.
        """
        settings = settings or RuntimeSettings.from_environment()

        def reload() -> Backend:
            backend = selection.load(folder, settings, log)
            if on_reload is not None:
                on_reload()
            return backend

        return cls(
            folder,
            encoder_of(folder, settings.cache),
            selection.load(folder, settings, log),
            reload=reload if on_reload is not None else None,
            on_batch=on_batch or (lambda batch: None),
        )

    @property
    def backend(self) -> Backend:
        """The runtime that computes."""
        return self._runner.backend

    @property
    def max_length(self) -> int:
        """Maximum tokens of a text, special tokens included."""
        return self._runner.encoder.max_length

    @property
    def queued_tokens(self) -> int:
        """Tokens in the queue."""
        return self._runner.queued_tokens

    def expected_seconds(self, tokens: float | None = None) -> float:
        """Return the seconds that `tokens` will take, or those in the queue; 0 before the first batch."""
        return self._runner.seconds(tokens)

    def close(self) -> None:
        """Finish what is queued, accept nothing more, and release the model."""
        self._runner.close()

    def classify(
        self,
        inputs: Sequence[TextInput],
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
        max_length: int | None = None,
        batch_size: int | None = None,
        apart: bool = False,
    ) -> list[Answer]:
        """Return an answer for each text (or pair), in order, with the scores of the model's own labels.

        Args:
            function: the function applied to logits; `default` is the activation of the model's task.
            attention: by default what the folder records, else ordinary.
            max_length: tokens after which texts are truncated, special tokens included; by default the model's own.
            batch_size: maximum rows of a batch; by default what suits the runtime.
            apart: share no batch with other calls, so that the same call returns the same bits.

        Raises:
            BadRequest: the function or attention is unknown, or they or `max_length` not available for this model.
            BackendFailed: the model failed or returned a value that is not a number.
        """
        options = CallOptions(batch_size, True, Work(), apart)
        return finish(self._classify(inputs, function, attention, max_length, options))

    async def aclassify(
        self,
        inputs: Sequence[TextInput],
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
        max_length: int | None = None,
        batch_size: int | None = None,
        wait: bool = False,
        work: Work | None = None,
    ) -> list[Answer]:
        """Return what `classify` returns, without blocking the event loop; cancel it to skip what is queued.

        Args:
            wait: wait until the queue has space, instead of raising.
            work: the call's limits, and where its cost is recorded.

        Raises:
            Overloaded, TooLarge: beside what `classify` raises: the queue is full, or the call exceeds its limits.
        """
        options = CallOptions(batch_size, wait, work or Work())
        return await afinish(self._classify(inputs, function, attention, max_length, options))

    def zero_shot(
        self,
        texts: Sequence[str],
        request: ZeroShotRequest | Sequence[ZeroShotRequest],
        *,
        batch_size: int | None = None,
        apart: bool = False,
    ) -> list[Answer]:
        """Return an answer for each text, in order, with the scores of the candidate labels.

        Args:
            request: one for all texts, or one for each.
            apart: as in `classify`.

        Raises:
            BadRequest: the model is no NLI model, or labels, template, scorer, attention or a text are invalid.
            BackendFailed: the model failed or returned a value that is not a number.
        """
        return finish(self._zero_shot(texts, request, CallOptions(batch_size, True, Work(), apart)))

    async def azero_shot(
        self,
        texts: Sequence[str],
        request: ZeroShotRequest | Sequence[ZeroShotRequest],
        *,
        batch_size: int | None = None,
        wait: bool = False,
        work: Work | None = None,
    ) -> list[Answer]:
        """Return what `zero_shot` returns, as `aclassify` does for `classify`."""
        return await afinish(self._zero_shot(texts, request, CallOptions(batch_size, wait, work or Work())))

    def scores(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
    ) -> Floats:
        """Return scores `[N, C]` of texts (or pairs) in the order of the model's labels; raise as `classify` does."""
        seconds = pairs if pairs is not None else [None] * len(texts)
        inputs = [TextInput(text, pair) for text, pair in zip(texts, seconds, strict=True)]
        answers = self.classify(inputs, function=function, attention=attention)
        scores = np.array([answer.scores for answer in answers], dtype=np.float64)
        return scores.reshape(-1, len(self.folder.labels.names))

    def raw_scores(
        self, texts: Sequence[str], labels: Sequence[str], template: str, scorer: Scorer, attention: AttentionMode
    ) -> RawScores:
        """Return logits and cosines of every text with every label in the template, as far as the scorer uses them."""
        request = ZeroShotRequest(tuple(labels), False, template, scorer, attention)
        zero_shot_scorer = self._scorer(request, CallOptions(None, True, Work()))
        submitted = zero_shot_scorer.submit(texts)
        outputs = [future.result() for future in submitted.futures]
        return finish(zero_shot_scorer.raw_scores(outputs, submitted.context))

    def _classify(
        self,
        inputs: Sequence[TextInput],
        function: Function,
        attention: AttentionMode | None,
        max_length: int | None,
        options: CallOptions,
    ) -> Steps[list[Answer]]:
        one_of("function_to_apply", function, FUNCTIONS)
        encoder = self._encoder(max_length)
        nli = self.folder.settings.zero_shot
        kind = SequenceKind(self._attention(attention or (nli.attention if nli is not None else "ordinary")), False)
        distinct = list(dict.fromkeys(inputs))
        answers: dict[TextInput, Answer] = {}

        def submit(part: Sequence[TextInput]) -> Submitted:
            pairs = [item.pair for item in part if item.pair is not None]
            with options.work.tokenizing():
                rows = encoder([item.text for item in part], pairs or None)
            future = self._runner.rows(kind, rows, options)
            return Submitted([future], (part, [row.truncated for row in rows]))

        def take(outputs: list[list[RowOutput]], context: Any) -> Steps[None]:
            part, truncated = context
            scores = self._activate(np.stack([row.logits for row in outputs[0]]), function)
            answers.update(zip(part, _answers(scores, self.folder.labels.names, truncated), strict=True))
            yield from ()

        single, pairs = ([item for item in distinct if (item.pair is not None) == paired] for paired in (False, True))
        parts: list[Part] = []
        for part in (part for group in (single, pairs) for part in _parts(group, self._part_rows)):
            characters = sum(len(item.text) + len(item.pair or "") for item in part)
            parts.append((_inline(partial(submit, part), characters), take))
        yield from overlapping(parts, PARTS_AT_ONCE)
        return [answers[item] for item in inputs]

    def _zero_shot(
        self,
        texts: Sequence[str],
        request: ZeroShotRequest | Sequence[ZeroShotRequest],
        options: CallOptions,
    ) -> Steps[list[Answer]]:
        nli_model(self.folder)
        requests = zero_shot.requests_of(request, texts)
        groups: dict[ZeroShotRequest, dict[str, Answer | None]] = {}
        for text, key in zip(texts, requests, strict=True):
            groups.setdefault(key, {})[text] = None
        parts: list[Part] = []
        for key, group in groups.items():
            scorer = yield _inline(partial(self._scorer, key, options), sum(map(len, key.labels)))
            for part in _parts(list(group), max(1, self._part_rows // len(key.labels))):
                take = partial(_take_scores, scorer, part, group)
                parts.append((_inline(partial(scorer.submit, part), sum(map(len, part))), take))
        yield from overlapping(parts, PARTS_AT_ONCE)
        return [answer for text, key in zip(texts, requests, strict=True) if (answer := groups[key][text]) is not None]

    def _scorer(self, request: ZeroShotRequest, options: CallOptions) -> ZeroShotScorer:
        nli = nli_model(self.folder)
        attention = self._attention(request.attention or nli[1].attention, request.scorer or nli[1].scorer)
        embeddings = self._label_embeddings
        return ZeroShotScorer(self._runner, self._label_sets, embeddings, nli, request, attention, options)

    def _encoder(self, max_length: int | None) -> TextEncoder:
        """Return the encoder that truncates at `max_length` tokens.

        Raises:
            BadRequest: the model reads fewer tokens, or the special tokens alone are as many.
        """
        encoder = self._runner.encoder
        if max_length is None:
            return encoder
        fewest = len(encoder([""], [""])[0]) + 1
        if not fewest <= max_length <= encoder.max_length:
            raise BadRequest(
                f"a maximum length of {max_length} tokens is not possible with {self.folder.path.name}: use "
                f"{fewest} to {encoder.max_length}, special tokens included"
            )
        return TextEncoder(encoder.prepared, max_length)

    def _attention(self, attention: AttentionMode, scorer: Scorer = "nli") -> AttentionMode:
        one_of("attention", attention, ATTENTION_MODES)
        if not self.backend.shared_text and (attention == "shared_text" or scorer != "nli"):
            option = f"scorer {scorer}" if scorer != "nli" else "attention shared_text"
            family = self.folder.config.get("model_type")
            raise BadRequest(
                f"{option} is not available for models of the family {family}", hint="use ordinary with scorer nli"
            )
        return attention

    def _activate(self, logits: npt.NDArray[np.float32], function: Function) -> Floats:
        settings = self.folder.settings
        if function in ACTIVATIONS:
            return activate(logits, ACTIVATIONS[function], temperature=settings.temperature)
        return activate(logits, settings.activation, temperature=settings.temperature, target=settings.target)


def _take_scores(
    scorer: ZeroShotScorer,
    part: Sequence[str],
    group: dict[str, Answer | None],
    outputs: list[list[RowOutput]],
    context: Any,
) -> Steps[None]:
    scores, truncated = yield from scorer.finish(outputs, context)
    group.update(zip(part, _answers(scores, scorer.labels.labels, truncated), strict=True))


def _inline(call: Callable[[], Any], characters: int) -> Callable[[], Any]:
    return Inline(call) if characters <= INLINE_CHARACTERS else call


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _answers(scores: Floats, names: Sequence[str], truncated: Sequence[bool]) -> list[Answer]:
    labels = tuple(names)
    return [Answer(labels, tuple(row), cut) for row, cut in zip(scores.tolist(), truncated, strict=True)]
