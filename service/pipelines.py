"""Models as callables, with the results of transformers' pipelines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Unpack, overload

from finetune.core.model_folder import AttentionMode, ModelFolder, Scorer
from finetune.core.tables.joined_texts import with_joined_text
from service.errors import BadRequest
from service.inference import zero_shot
from service.inference.engine import Engine
from service.inference.model_store import resolve
from service.inference.zero_shot_scorer import nli_model
from service.pipeline_shapes import (
    ClassifierOptions,
    LabelScore,
    LoadOptions,
    ModelName,
    Rows,
    ZeroShotOptions,
    ZeroShotResult,
    answers_of,
    best_of,
    columns_of,
    is_columns,
    is_list_of_label_lists,
    ranked,
    rows_of,
    without_iterator,
    zero_shot_result,
)
from service.schema import Function, TextInput, ZeroShotRequest
from service.settings import BackendName, PrecisionName, RuntimeSettings

UNSET: Any = object()


class Classifier:
    """A fine-tuned model: texts (or pairs) in, labels and scores out.

    Args:
        model: a path, a served name, or a Hub id.
        models_dir: the folder of served names; the models that ship come after it.
        batch_size: maximum rows of a batch; by default what suits the runtime.
        backend, precision: the runtime (see `RuntimeSettings`); by default from the environment, else the fastest on
            this machine, which is measured the first time.

    Raises:
        CheckpointError: the name leads to no usable folder.
        BackendFailed: the weights are not a classifier's, or the backend or precision is not available.
    """

    task = "text-classification"
    """The task, by transformers' name for it."""

    def __init__(
        self,
        model: ModelName = "sentiment",
        *,
        models_dir: ModelName | None = "models",
        batch_size: int | None = None,
        backend: BackendName | None = None,
        precision: PrecisionName | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.engine = engine or _engine(resolve(model, models_dir), backend, precision)
        self.batch_size = batch_size

    @property
    def folder(self) -> ModelFolder:
        """The model's folder: labels, task, metrics."""
        return self.engine.folder

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, in the order of the model's outputs."""
        return self.folder.labels.names

    @overload
    def __call__(
        self, inputs: str, *, top_k: int | None = ..., **options: Unpack[ClassifierOptions]
    ) -> list[LabelScore]: ...
    @overload
    def __call__(self, inputs: Mapping[str, str], **options: Unpack[ClassifierOptions]) -> LabelScore: ...
    @overload
    def __call__(
        self, inputs: Mapping[str, str], *, top_k: int | None, **options: Unpack[ClassifierOptions]
    ) -> list[LabelScore]: ...
    @overload
    def __call__(
        self, inputs: Mapping[str, Rows], *, top_k: int | None = ..., **options: Unpack[ClassifierOptions]
    ) -> dict[str, list[Any]]: ...
    @overload
    def __call__(self, inputs: Rows, **options: Unpack[ClassifierOptions]) -> list[LabelScore]: ...
    @overload
    def __call__(
        self, inputs: Rows, *, top_k: int | None, **options: Unpack[ClassifierOptions]
    ) -> list[list[LabelScore]]: ...
    @overload
    def __call__(self, inputs: Iterator[Any], **options: Unpack[ClassifierOptions]) -> Iterator[LabelScore]: ...
    @overload
    def __call__(
        self, inputs: Iterator[Any], *, top_k: int | None, **options: Unpack[ClassifierOptions]
    ) -> Iterator[list[LabelScore]]: ...
    @overload
    def __call__(self, inputs: Any, *, top_k: int | None = ..., **options: Unpack[ClassifierOptions]) -> Any: ...
    def __call__(
        self,
        inputs: Any,
        *,
        top_k: Any = UNSET,
        function_to_apply: Function | None = None,
        batch_size: int | None = None,
        attention: AttentionMode | None = None,
        truncation: bool = True,
    ) -> Any:
        """Return labels and scores, in the shape that transformers' text-classification pipeline returns.

        Args:
            inputs: a string, a dict with `text` and `text_pair` (or the columns that the model joins), or any iterable
                of these; or columns, a dict whose `text` is a list, as `Dataset.map(..., batched=True)` passes it.
            top_k: number of labels for each text; None for all. Without it, only the best.
            function_to_apply: `softmax`, `sigmoid`, `none`, or the activation of the model's task (the default).
            attention: `ordinary` or `shared_text`; by default what the model's folder records.
            truncation: must be True, for compatibility: texts longer than the model reads are always truncated.

        Returns:
            As transformers does: for a collection, a list with `{"label", "score"}` for each text, or with `top_k`
            a list of lists, best first; for an iterator, an iterator of these; for a string a list; for a dict one;
            for columns new ones, `label` and `score`, with `predicted_` before a name that is taken.

        Raises:
            BadRequest: an input or argument is invalid.
        """
        if not (top_k is UNSET or top_k is None or (isinstance(top_k, int) and top_k >= 1)):
            raise BadRequest(f"top_k must be a whole number from 1, or None for all labels, not {top_k!r}")
        if truncation is not True:
            raise BadRequest("truncation cannot be turned off: a text longer than the model reads is always truncated")

        def answer(rows: list[Any]) -> list[Any]:
            answers = self.engine.classify(
                [TextInput.of(with_joined_text(row, self.folder.settings.text_columns)) for row in rows],
                function=function_to_apply or "default",
                attention=attention,
                batch_size=self.batch_size if batch_size is None else batch_size,
            )
            return [best_of(item) if top_k is UNSET else ranked(item, top_k) for item in answers]

        if is_columns(inputs):
            return columns_of(inputs, answer(rows_of(inputs)), ("label", "score"))
        if isinstance(inputs, str | Mapping):
            result = answer([inputs])[0]
            return [result] if isinstance(inputs, str) and top_k is UNSET else result
        return answers_of(inputs, answer)

    @overload
    async def aclassify(
        self, inputs: str, *, top_k: int | None = ..., **options: Unpack[ClassifierOptions]
    ) -> list[LabelScore]: ...
    @overload
    async def aclassify(
        self, inputs: Rows | Iterator[Any], **options: Unpack[ClassifierOptions]
    ) -> list[LabelScore]: ...
    @overload
    async def aclassify(
        self, inputs: Rows | Iterator[Any], *, top_k: int | None, **options: Unpack[ClassifierOptions]
    ) -> list[list[LabelScore]]: ...
    @overload
    async def aclassify(self, inputs: Any, *, top_k: int | None = ..., **options: Unpack[ClassifierOptions]) -> Any: ...
    async def aclassify(self, inputs: Any, **options: Any) -> Any:
        """Return what a call with the same arguments returns, computed in another thread.

        An iterator is read to its end first, and the result is a list.
        """
        rows = without_iterator(inputs)
        return await asyncio.to_thread(lambda: self(rows, **options))


class ZeroShotClassifier:
    """An NLI model: texts and candidate labels in, scores out.

    Args:
        model: a path, a served name, or a Hub id of an NLI model.
        hypothesis_template: the sentence that a label is inserted into; by default what the model's folder records.
        multi_label: whether several labels may be true at once.
        scorer: `nli`, `embedding` or `both`; by default what the folder records.
        attention: `ordinary` or `shared_text`; by default what the folder records.
        models_dir, batch_size, backend, precision: as in `Classifier`.

    Raises:
        BadRequest: the model has no labels named entailment and contradiction.
    """

    task = "zero-shot-classification"
    """The task, by transformers' name for it."""

    def __init__(
        self,
        model: ModelName = "topics",
        *,
        models_dir: ModelName | None = "models",
        hypothesis_template: str | None = None,
        multi_label: bool = False,
        scorer: Scorer | None = None,
        attention: AttentionMode | None = None,
        batch_size: int | None = None,
        backend: BackendName | None = None,
        precision: PrecisionName | None = None,
        engine: Engine | None = None,
    ) -> None:
        if engine is None:
            folder = resolve(model, models_dir)
            nli_model(folder)  # raises before any weights are loaded
            engine = _engine(folder, backend, precision)
        self.engine = engine
        self.hypothesis_template = hypothesis_template
        self.multi_label, self.batch_size = multi_label, batch_size
        self.scorer, self.attention = scorer, attention

    @property
    def folder(self) -> ModelFolder:
        """The model's folder: its settings and metrics."""
        return self.engine.folder

    @overload
    def __call__(self, sequences: str, candidate_labels: Any, **options: Unpack[ZeroShotOptions]) -> ZeroShotResult: ...
    @overload
    def __call__(
        self, sequences: Rows, candidate_labels: Any, **options: Unpack[ZeroShotOptions]
    ) -> list[ZeroShotResult]: ...
    @overload
    def __call__(
        self, sequences: Mapping[str, Any], candidate_labels: Any, **options: Unpack[ZeroShotOptions]
    ) -> dict[str, list[Any]]: ...
    @overload
    def __call__(
        self, sequences: Iterator[str], candidate_labels: Any, **options: Unpack[ZeroShotOptions]
    ) -> Iterator[ZeroShotResult]: ...
    @overload
    def __call__(self, sequences: Any, candidate_labels: Any, **options: Unpack[ZeroShotOptions]) -> Any: ...
    def __call__(
        self,
        sequences: Any,
        candidate_labels: Any,
        *,
        multi_label: bool | None = None,
        hypothesis_template: str | None = None,
        scorer: Scorer | None = None,
        attention: AttentionMode | None = None,
        shortlist: int | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Return labels and scores, in the shape that transformers' zero-shot-classification pipeline returns.

        Args:
            sequences: a string, any iterable of strings, or columns: a dict whose `text` is a list.
            candidate_labels: a list of names, or one string with commas between them; for a collection of sequences
                also a list of lists of names, one for each sequence.
            shortlist: for very many labels: run the model on this number of labels only, those nearest to the text by
                embedding; the others score 0.

        Returns:
            `{"sequence", "labels", "scores"}`, best first, for a string; a list of these for a collection;
            an iterator of these for an iterator; new columns `labels` and `scores` for columns.

        Raises:
            BadRequest: a text, label, template or argument is invalid.
        """
        options: dict[str, Any] = {
            "multi_label": self.multi_label if multi_label is None else multi_label,
            "hypothesis_template": self.hypothesis_template if hypothesis_template is None else hypothesis_template,
            "scorer": scorer or self.scorer,
            "attention": attention or self.attention,
            "shortlist": shortlist,
        }
        request: ZeroShotRequest | list[ZeroShotRequest]
        if is_list_of_label_lists(candidate_labels):
            if isinstance(sequences, str | Iterator):
                raise BadRequest("a list of labels for each sequence needs a list of sequences")
            request = [ZeroShotRequest(zero_shot.parse_labels(labels), **options) for labels in candidate_labels]
        else:
            request = ZeroShotRequest(zero_shot.parse_labels(candidate_labels), **options)
        max_rows = self.batch_size if batch_size is None else batch_size

        def answer(texts: list[Any]) -> list[Any]:
            answers = self.engine.zero_shot(texts, request, batch_size=max_rows)
            return [zero_shot_result(text, item) for text, item in zip(texts, answers, strict=True)]

        if is_columns(sequences):
            return columns_of(sequences, answer(list(sequences["text"])), ("labels", "scores"))
        if isinstance(sequences, Mapping):
            raise BadRequest("a sequence must be a string; in a dict of columns, `text` must be a list of strings")
        return answer([sequences])[0] if isinstance(sequences, str) else answers_of(sequences, answer)

    @overload
    async def aclassify(
        self, sequences: str, candidate_labels: Any, **options: Unpack[ZeroShotOptions]
    ) -> ZeroShotResult: ...
    @overload
    async def aclassify(
        self, sequences: Rows | Iterator[str], candidate_labels: Any, **options: Unpack[ZeroShotOptions]
    ) -> list[ZeroShotResult]: ...
    @overload
    async def aclassify(self, sequences: Any, candidate_labels: Any, **options: Unpack[ZeroShotOptions]) -> Any: ...
    async def aclassify(self, sequences: Any, candidate_labels: Any, **options: Any) -> Any:
        """Return what a call with the same arguments returns, computed in another thread.

        An iterator is read to its end first, and the result is a list.
        """
        rows = without_iterator(sequences)
        return await asyncio.to_thread(lambda: self(rows, candidate_labels, **options))


@overload
def load(model: Literal["sentiment"], **options: Unpack[LoadOptions]) -> Classifier: ...
@overload
def load(model: Literal["topics"], **options: Unpack[LoadOptions]) -> ZeroShotClassifier: ...
@overload
def load(model: ModelName, **options: Unpack[LoadOptions]) -> Classifier | ZeroShotClassifier: ...
def load(
    model: ModelName,
    *,
    models_dir: ModelName | None = "models",
    batch_size: int | None = None,
    backend: BackendName | None = None,
    precision: PrecisionName | None = None,
) -> Classifier | ZeroShotClassifier:
    """Return the model of that name: a `ZeroShotClassifier` for an NLI model, else a `Classifier`.

    Args:
        model: a path, a served name, or a Hub id, tried in that order.
        batch_size, backend, precision: as in `Classifier`.

    Raises:
        CheckpointError: the name leads to no usable folder.
        BackendFailed: the weights are not a classifier's.
    """
    folder = resolve(model, models_dir)
    engine = _engine(folder, backend, precision)
    if folder.is_zero_shot:
        return ZeroShotClassifier(engine=engine, batch_size=batch_size)
    return Classifier(engine=engine, batch_size=batch_size)


def _engine(folder: ModelFolder, backend: BackendName | None, precision: PrecisionName | None) -> Engine:
    settings = RuntimeSettings.from_environment(backend=backend, precision=precision)
    return Engine.load(folder, settings, log=logging.getLogger("rehead").info)
