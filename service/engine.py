"""One loaded model as a question-answering machine: request -> tokens -> batches -> logits -> scores.

Knows: what to compute once, how to batch, which mask and scorer a question asks for.
Does not know: names of models, HTTP, files, the runtime behind the backend.

A text's scores depend on that text and the question alone, never on what else is in the call.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.artifact import AttentionMode, ModelFolder, Scorer, ZeroShotSettings
from finetune.encoding import Encoded, TextEncoder
from finetune.labels import NliRoles, shown
from finetune.scores import Activation, Floats, activate
from service import zero_shot
from service.backends import choice
from service.backends.base import Backend, Outputs
from service.backends.choice import Say
from service.backends.packing import Packed, packed
from service.errors import BackendFailed, BadRequest
from service.schema import (
    ATTENTION_MODES,
    FUNCTIONS,
    SCORERS,
    Answer,
    Function,
    Prediction,
    TextInput,
    ZeroShotQuestion,
)
from service.settings import RuntimeSettings

TOKENS_PER_BATCH = 8192
"""Padded tokens of a batch at most: longest row times rows."""

ROWS_PER_BATCH = 64
ROWS_AT_ONCE = 4096
"""Rows that are tokenized and sorted by length together; bounds memory for long inputs."""

ROOM_FOR_TEXT = 8
"""Tokens a hypothesis must leave for the text."""

REMEMBERED_LABELS = 4096
ACTIVATIONS: dict[Function, Activation] = {"softmax": "softmax", "sigmoid": "sigmoid", "none": "linear"}


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Evidence:
    """NLI logits `[N, L, C]` and cosines `[N, L]` of texts and labels, and which texts were cut."""

    logits: npt.NDArray[np.float32] | None
    cosine: Floats | None
    truncated: list[bool]


class Engine:
    """Answers questions with one model; safe to use from many threads, which take turns batch by batch."""

    def __init__(self, folder: ModelFolder, tokenizer: Any, backend: Backend) -> None:
        self.folder = folder
        self._backend = backend
        self._lock = threading.Lock()
        _ENGINES.add(self)
        self._label_embeddings: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()
        self._encoder: TextEncoder = tokenizer

    @classmethod
    def load(
        cls, folder: ModelFolder, settings: RuntimeSettings | None = None, *, say: Say = lambda line: None
    ) -> Engine:
        """The engine of a checked folder.

        Args:
            settings: the runtime; default is what the environment says, and else the fastest on this machine.
            say: hears which runtime it is, and why.

        Raises:
            CheckpointError: its tokenizer cannot be loaded.
            BackendFailed: its weights cannot, or not with these settings.
        """
        encoder = TextEncoder.load(folder.path, folder.config, max_length=folder.settings.max_length)
        return cls(folder, encoder, choice.load(folder, settings or RuntimeSettings.from_environment(), say))

    def classify(
        self,
        inputs: Sequence[TextInput],
        *,
        function: Function = "default",
        attention: AttentionMode | None = None,
        batch_size: int = ROWS_PER_BATCH,
    ) -> list[Answer]:
        """One answer a text (or pair), in order, with the scores of the model's own labels.

        Args:
            function: what turns logits into scores; `default` follows the model's task.
            attention: default is what the folder records, ordinary where it records nothing.

        Raises:
            BadRequest: an unknown function or attention, or one that this model has not got.
            BackendFailed: the model answered with something that is not a number.
        """
        _one_of("function_to_apply", function, FUNCTIONS)
        settings = self.folder.settings
        recorded = settings.zero_shot.attention if settings.zero_shot is not None else "ordinary"
        mask = self._attention(attention or recorded)
        distinct = list(dict.fromkeys(inputs))
        answers: dict[TextInput, Answer] = {}
        for paired in (False, True):
            group = [item for item in distinct if (item.pair is not None) == paired]
            for part in _parts(group, ROWS_AT_ONCE):
                firsts = [item.text for item in part]
                seconds = [item.pair or "" for item in part] if paired else None
                rows = self._encode(self._encoder, firsts, seconds)
                scores = self._activate(self._run(rows, mask, batch_size=batch_size).logits, function)
                names = self.folder.labels.names
                answers.update(zip(part, _answers(scores, names, [row.truncated for row in rows]), strict=True))
        return [answers[item] for item in inputs]

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
        names = self.folder.labels.names
        found = [{one.label: one.score for one in answer.predictions} for answer in answers]
        return np.array([[scores[name] for name in names] for scores in found], dtype=np.float64).reshape(
            -1, len(names)
        )

    def zero_shot(
        self, texts: Sequence[str], question: ZeroShotQuestion, *, batch_size: int = ROWS_PER_BATCH
    ) -> list[Answer]:
        """One answer a text, in order, with the scores of the question's labels.

        Raises:
            BadRequest: not an NLI model, or labels, template, scorer, attention or a text that cannot be used.
            BackendFailed: the model answered with something that is not a number.
        """
        roles, settings = nli_model(self.folder)
        labels = zero_shot.parse_labels(question.labels)
        template = question.hypothesis_template
        template = zero_shot.check_template(settings.hypothesis_template if template is None else template)
        scorer = _one_of("scorer", question.scorer or settings.scorer, SCORERS)
        attention = self._attention(question.attention or settings.attention, scorer)
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise BadRequest(f"text {number} must be a string, and it is {type(text).__name__}")
            if not text:
                raise BadRequest(f"text {number} of {len(texts)} is empty" if len(texts) > 1 else "the text is empty")
        self._check_labels(labels, template)
        answers: dict[str, Answer] = {}
        for part in _parts(list(dict.fromkeys(texts)), max(1, ROWS_AT_ONCE // len(labels))):
            evidence = self.weigh(part, labels, template, scorer, attention, batch_size)
            scores = zero_shot.collapse(
                evidence.logits,
                evidence.cosine,
                roles=roles,
                scorer=scorer,
                mix=settings.mix,
                multi_label=question.multi_label,
            )
            answers.update(zip(part, _answers(scores, labels, evidence.truncated), strict=True))
        return [answers[text] for text in texts]

    def weigh(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        template: str,
        scorer: Scorer,
        attention: AttentionMode,
        batch_size: int = ROWS_PER_BATCH,
    ) -> Evidence:
        """What the model has to say about every text and label in its template, as far as the scorer needs it."""
        hypotheses = [zero_shot.fill(template, label) for label in labels]
        shape = (len(texts), len(hypotheses), -1)
        logits, means, cut = None, None, [False] * len(texts)
        if scorer != "embedding":
            with self._lock:  # a fast tokenizer changes its own settings while it works
                ends = self._encoder.hypotheses(hypotheses)
                rows = self._encoder.before_hypotheses(texts, max(map(len, ends)))
            cut = [row.truncated for row in rows]
            same_pass = scorer == "both" and attention == "shared_text"
            if attention == "shared_text" and self._backend.one_pass:
                outputs = self._run_labels(rows, packed(ends, rows[0].part(0, 1)), batch_size=batch_size)
                means = outputs.embeddings[:, None] if same_pass and outputs.embeddings is not None else None
            else:
                pairs = [row.followed_by(end) for row in rows for end in ends]
                outputs = self._run(pairs, attention, embeddings=same_pass, batch_size=batch_size)
                means = outputs.embeddings.reshape(shape) if outputs.embeddings is not None else None
            logits = outputs.logits.reshape(shape)
        if scorer == "nli":
            return Evidence(logits, None, cut)
        if means is None:
            rows = self._encode(self._encoder, texts)
            cut = [row.truncated for row in rows] if scorer == "embedding" else cut
            means = self._embed(rows, batch_size)[:, None]
        named: npt.NDArray[Any] = self._embed_labels(hypotheses, batch_size)
        settings = self.folder.settings.zero_shot
        if settings is not None and settings.label_embedding == "sentence_and_name":
            named = zero_shot.mean_direction(named, self._embed_labels(labels, batch_size))
        return Evidence(logits, zero_shot.cosines(means, named), cut)

    def _attention(self, attention: AttentionMode, scorer: Scorer = "nli") -> AttentionMode:
        _one_of("attention", attention, ATTENTION_MODES)
        if not self._backend.shared_text and (attention == "shared_text" or scorer != "nli"):
            wanted = f"scorer {scorer}" if scorer != "nli" else "attention shared_text"
            family = self.folder.config.get("model_type")
            raise BadRequest(
                f"{wanted} is not available for models of the family {family}", hint="use ordinary with scorer nli"
            )
        return attention

    def _check_labels(self, labels: Sequence[str], template: str) -> None:
        limit = self._encoder.max_length - ROOM_FOR_TEXT
        hypotheses = [zero_shot.fill(template, label) for label in labels]
        for label, row in zip(labels, self._encode(self._encoder, hypotheses), strict=True):
            if row.truncated or len(row) > limit:
                raise BadRequest(
                    f"the label {label[:40]!r} in its template takes {len(row)} tokens or more, and this model reads "
                    f"{self._encoder.max_length} with the text: shorten it"
                )

    def _embed(self, rows: Sequence[Encoded], batch_size: int) -> npt.NDArray[np.float32]:
        embeddings = self._run(rows, "shared_text", embeddings=True, batch_size=batch_size).embeddings
        if embeddings is None:
            raise BackendFailed(f"{self.folder.path.name}: the backend gave no embeddings")
        return embeddings

    def _embed_labels(self, sentences: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
        """Embeddings `[L, H]` of labels or their sentences, each encoded alone; remembered between calls."""
        found = {sentence: self._label_embeddings.get(sentence) for sentence in sentences}
        fresh = [sentence for sentence, embedding in found.items() if embedding is None]
        if fresh:
            computed = self._embed(self._encode(self._encoder, fresh), batch_size)
            with self._lock:
                for sentence, embedding in zip(fresh, computed, strict=True):
                    found[sentence] = self._label_embeddings[sentence] = embedding
                while len(self._label_embeddings) > REMEMBERED_LABELS:
                    self._label_embeddings.popitem(last=False)
        return np.stack([embedding for embedding in found.values() if embedding is not None])

    def _encode(
        self, encoder: TextEncoder, firsts: Sequence[str], seconds: Sequence[str] | None = None
    ) -> list[Encoded]:
        with self._lock:  # a fast tokenizer changes its own settings while it works
            return encoder(firsts, seconds)

    def _activate(self, logits: npt.NDArray[np.float32], function: Function) -> Floats:
        settings = self.folder.settings
        return activate(logits, ACTIVATIONS.get(function, settings.activation), temperature=settings.temperature)

    def _run(
        self, rows: Sequence[Encoded], attention: AttentionMode, *, embeddings: bool = False, batch_size: int
    ) -> Outputs:
        """Outputs of all rows, in their order, computed in batches of rows of like length."""
        parts: list[Outputs] = []
        order: list[int] = []
        for batch in _batches(rows, batch_size):
            inputs = self._encoder.pad([rows[index] for index in batch])
            with self._lock:
                parts.append(self._backend.run(inputs, attention=attention, embeddings=embeddings))
            order += batch
        return _together(parts, np.argsort(order), self.folder.path.name)

    def _run_labels(self, rows: Sequence[Encoded], labels: Packed, *, batch_size: int) -> Outputs:
        """Outputs of all texts with the same labels: logits `[N, L * C]`, in the order of the rows."""
        parts: list[Outputs] = []
        order: list[int] = []
        for batch in _batches(rows, min(batch_size, max(1, TOKENS_PER_BATCH // labels.tokens))):
            inputs = self._encoder.pad([rows[index] for index in batch])
            with self._lock:
                found = self._backend.run_labels(inputs, [labels] * len(batch))
            parts.append(Outputs(found.logits.reshape(len(batch), -1), found.embeddings))
            order += batch
        return _together(parts, np.argsort(order), self.folder.path.name)


def _together(parts: Sequence[Outputs], back: npt.NDArray[np.intp], name: str) -> Outputs:
    """Outputs of batches as those of all rows, put back in their order."""
    logits = np.concatenate([part.logits for part in parts])
    if not np.isfinite(logits).all():
        raise BackendFailed(f"{name} answered with something that is not a number")
    means = [part.embeddings for part in parts if part.embeddings is not None]
    return Outputs(logits[back], np.concatenate(means)[back] if means else None)


def _after_fork() -> None:
    for engine in list(_ENGINES):
        engine._lock = threading.Lock()  # the thread that may have held it is not in this process


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


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


def _batches(rows: Sequence[Encoded], batch_size: int) -> Iterator[list[int]]:
    """Positions of rows, longest first, in batches within the token budget."""
    if batch_size < 1:
        raise BadRequest(f"batch_size must be at least 1, and it is {batch_size}")
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    start = 0
    while start < len(order):
        longest = len(rows[order[start]])
        size = min(batch_size, max(1, TOKENS_PER_BATCH // longest))
        yield order[start : start + size]
        start += size


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _answers(scores: Floats, names: Sequence[str], truncated: Sequence[bool]) -> list[Answer]:
    found = []
    for row, cut in zip(scores, truncated, strict=True):
        best_first = np.argsort(-row, kind="stable")
        found.append(Answer(tuple(Prediction(names[index], float(row[index])) for index in best_first), cut))
    return found


def _one_of(field: str, value: Any, accepted: Sequence[Any]) -> Any:
    if value not in accepted:
        raise BadRequest(f"{field} {value!r} is unknown: use one of {', '.join(accepted)}")
    return value
