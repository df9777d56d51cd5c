"""One loaded model: texts in, answers out. A text's scores depend on that text and the request alone, never on what
else is in the call or in another call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from finetune.core.model_folder import AttentionMode, ModelFolder, Scorer
from finetune.core.scores import Floats
from finetune.core.tokenization import TextEncoder
from finetune.core.windows import Window
from service.errors import BadRequest
from service.inference import hierarchy, windows, zero_shot
from service.inference.backends import selection
from service.inference.backends.base import Backend
from service.inference.backends.selection import Log
from service.inference.batch_queue import Batch
from service.inference.cache_folder import state_of
from service.inference.cached_tokenizer import encoder_of
from service.inference.decisions import classified, decides
from service.inference.label_sets import LabelSets
from service.inference.model_runner import CallOptions, ModelRunner, RowOutput, SequenceKind
from service.inference.steps import (
    PARTS_AT_ONCE,
    Part,
    Steps,
    Submitted,
    afinish,
    finish,
    inline,
    overlapping,
    parts_of,
)
from service.inference.zero_shot_scorer import (
    LabelEmbeddings,
    RawScores,
    ZeroShotScorer,
    answers_by_labels,
    nli_model,
)
from service.schema import ATTENTION_MODES, FUNCTIONS, Answer, Function, TextInput, Work, ZeroShotRequest, one_of
from service.settings import RuntimeSettings

PART_ROWS = 4096
PART_BATCHES = 4
"""Rows that are tokenized and queued together, or this many batches of them; bounds memory for long inputs."""


class Engine:
    """Computes answers with one model; threads and event loops may call it at once, and share its batches.

    Attributes:
        window: how texts are read where a request does not say; by default what the folder records.
    """

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
        self.window = folder.settings.window
        self._runner = ModelRunner(encoder, backend, folder.path.name, reload=reload, on_batch=on_batch)
        self._part_rows = max(PART_ROWS, PART_BATCHES * backend.batch.rows)
        self._to_measure: Callable[[], Backend | None] | None = None
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
        measure_later: bool = False,
    ) -> Engine:
        """Return the engine of a checked folder.

        Args:
            settings: the runtime; by default from the environment, else the fastest on this machine.
            log: receives progress of a trial of backends; `backend.why` states its outcome.
            on_batch: called after every computed batch.
            on_reload: for servers: where a call of the model hangs, the model is loaded again, and this is called.
                Without it, a call may take any time.
            measure_later: where runtimes were not measured on this machine yet, compute with torch until `measure` is
                called.

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

        state = state_of(folder.path)
        provisional = selection.provisional(folder, settings) if measure_later else None
        engine = cls(
            folder,
            encoder_of(folder, settings.cache),
            provisional or selection.load(folder, settings, log),
            reload=reload if on_reload is not None else None,
            on_batch=on_batch or (lambda batch: None),
        )
        if provisional is not None:
            provisional.why = "torch in float32, until the runtimes are measured"
            engine._to_measure = partial(_measured, folder, settings, log, state)
        return engine

    def measure(self) -> None:
        """Measure the runtimes if that was put off, and compute with the fastest from then on.

        A folder whose files have changed meanwhile is another model, and is left alone.

        Raises:
            BackendFailed, CheckpointError: no runtime can be used.
        """
        measured, self._to_measure = self._to_measure, None
        if measured is not None and (backend := measured()) is not None:
            self._runner.replace(backend)

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
        window: Window | None = None,
        batch_size: int | None = None,
        apart: bool = False,
    ) -> list[Answer]:
        """Return an answer for each text (or pair), in order, with the scores of the model's own labels.

        Args:
            function: the function applied to logits; `default` is the activation of the model's task.
            attention: by default what the folder records, else ordinary.
            max_length: tokens after which texts are truncated, special tokens included; by default the model's own.
            window: how long texts are read, not pairs; by default what the folder records, else whole.
            batch_size: maximum rows of a batch; by default what suits the runtime.
            apart: share no batch with other calls, so that the same call returns the same bits.

        Raises:
            BadRequest: the function or attention is unknown, or they or `max_length` not available for this model.
            BackendFailed: the model failed or returned a value that is not a number.
        """
        options = CallOptions(batch_size, True, Work(), apart)
        return finish(self._classify(inputs, function, attention, max_length, window, options))

    async def aclassify(
        self,
        inputs: Sequence[TextInput],
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
        max_length: int | None = None,
        window: Window | None = None,
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
        return await afinish(self._classify(inputs, function, attention, max_length, window, options))

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
        request = ZeroShotRequest(tuple(labels), False, template, scorer, attention, keep_identifiers=True)
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
        window: Window | None,
        options: CallOptions,
    ) -> Steps[list[Answer]]:
        if window is not None and window.is_on and max_length is not None:
            raise BadRequest("window does not go with max_length: leave one of them out")
        whole = partial(self._whole, function=function, attention=attention, max_length=max_length, options=options)
        own = None if max_length is not None else self._window(window)
        if own is None:
            return (yield from whole(inputs))
        softmax = self.folder.settings.activation == "softmax" if function == "default" else function == "softmax"
        settings = self.folder.settings if function == "default" else None
        if settings is None and decides(self.folder.settings):
            raise BadRequest(
                "function_to_apply does not go with windows for a model with a threshold or prediction sets",
                hint="leave it out, or turn windows off",
            )
        reader = windows.Reader(self._runner.encoder, softmax, settings, requested=window is not None)
        return (yield from reader.inputs(inputs, own, whole))

    def _whole(
        self,
        inputs: Sequence[TextInput],
        *,
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
            logits = np.stack([row.logits for row in outputs[0]])
            results = classified(logits, self.folder.labels.names, truncated, self.folder.settings, function)
            answers.update(zip(part, results, strict=True))
            yield from ()

        single, pairs = ([item for item in distinct if (item.pair is not None) == paired] for paired in (False, True))
        parts: list[Part] = []
        for part in (part for group in (single, pairs) for part in parts_of(group, self._part_rows)):
            characters = sum(len(item.text) + len(item.pair or "") for item in part)
            parts.append((inline(partial(submit, part), characters), take))
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
        flat = partial(answers_by_labels, scorer_of=partial(self._scorer, options=options), rows=self._part_rows)
        own = [self._window(item.window) for item in requests]
        if not any(own):
            return (yield from hierarchy.scored(texts, requests, flat))
        return (yield from windows.Reader(self._runner.encoder).requests(texts, requests, own, flat))

    def _window(self, window: Window | None) -> Window | None:
        """Return how texts are read: as a request says, or else as the engine's own; None for whole texts."""
        window = window or self.window
        return window if window is not None and window.is_on else None

    def _scorer(self, request: ZeroShotRequest, options: CallOptions) -> ZeroShotScorer:
        nli = nli_model(self.folder)
        if request.profile is not None:
            request = request.profile.applied(request, self.folder)
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


def _measured(folder: ModelFolder, settings: RuntimeSettings, log: Log, state: object) -> Backend | None:
    """Return the fastest runtime for a folder that was loaded in this state; None where its files have changed."""
    if state_of(folder.path) == state:
        backend = selection.load(folder, settings, log)
        if state_of(folder.path) == state:
            return backend
        backend.close()
    log(f"{folder.path.name}: its files have changed since it was loaded, so its runtimes are not measured")
    return None
