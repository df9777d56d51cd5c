"""Models as callables, with the results of transformers' pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from finetune.core.model_folder import AttentionMode
from finetune.core.tables.joined_texts import with_joined_columns, with_joined_text
from service.errors import BadRequest
from service.inference.engine import Engine
from service.inference.model_store import resolve
from service.loaded_model import LoadedModel, engine_of, scores_of, texts_of
from service.pipeline_shapes import (
    ClassifierOptions,
    LabelScore,
    LoadOptions,
    ModelName,
    Rows,
    answers_of,
    best_of,
    columns_of,
    in_set,
    is_columns,
    ranked,
    rows_of,
    without_iterator,
)
from service.schema import NO_SETS, Function, TextInput, checked_window
from service.settings import BackendName, PrecisionName
from service.zero_shot_pipeline import ZeroShotClassifier

__all__ = ["Classifier", "ZeroShotClassifier", "load"]
UNSET: Any = object()


class Classifier(LoadedModel):
    """A fine-tuned model: texts (or pairs) in, labels and scores out.

    Args:
        model: a path, a served name, or a Hub id.
        models_dir: the folder of served names; the models that ship come after it.
        batch_size: maximum rows of a batch; by default what suits the runtime.
        backend, precision: the runtime (see `RuntimeSettings`); by default from the environment, else the fastest on
            this machine, which is measured the first time.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; by default from the environment, else `auto`.

    Raises:
        CheckpointError: the name leads to no usable folder.
        ConfigError: this machine has no such device.
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
        device: str | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.engine = engine or engine_of(
            resolve(model, models_dir), backend=backend, precision=precision, device=device
        )
        self.batch_size = batch_size

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, in the order of the model's outputs."""
        return self.folder.labels.names

    @property
    def classes_(self) -> npt.NDArray[Any]:
        """The label names in the order of `predict_proba`, as scikit-learn has them."""
        return np.array(self.labels)

    def predict_proba(self, texts: Any) -> npt.NDArray[np.float64]:
        """Return probabilities `[N, labels]` of texts (or pairs), in the order of `classes_`.

        Raises:
            BadRequest: an input is no text, or the model predicts a number.
        """
        if self.folder.labels.task == "regression":
            raise BadRequest(f"{self.folder.path.name} predicts a number and has no probabilities: call it instead")
        joins = self.folder.settings.text_columns
        inputs = [TextInput.of(with_joined_text(text, joins)) for text in texts_of(texts)]
        return scores_of(self.engine.classify(inputs, batch_size=self.batch_size), len(self.labels))

    def predict_sets(self, texts: Any) -> list[list[str]]:
        """Return the labels in the prediction set of each text (or pair), best first; an empty list is none of these.

        Raises:
            BadRequest: an input is no text, or the model has no prediction sets.
        """
        sets: list[list[LabelScore]] = self(texts_of(texts), abstain=True)
        return [[item["label"] for item in members] for members in sets]

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
        abstain: bool = False,
        window: Any = None,
    ) -> Any:
        """Return labels and scores, in the shape that transformers' text-classification pipeline returns.

        Args:
            inputs: a string, a dict with `text` and `text_pair` (or the columns that the model joins), or any iterable
                of these; or columns, a dict whose `text` is a list, as `Dataset.map(..., batched=True)` passes it.
            top_k: number of labels for each text; None for all. Without it, only the best.
            function_to_apply: `softmax`, `sigmoid`, `none`, or the activation of the model's task (the default).
            attention: `ordinary` or `shared_text`; by default what the model's folder records.
            abstain: return the labels of the prediction set, which may be none, as `top_k` would return them.
            truncation: must be True, for compatibility: texts longer than the model reads are always truncated.
            window: read long texts in windows: tokens, or a dict with `tokens`, `overlap` and `aggregate`; each result
                then has the characters of the window that decided. By default as the model's folder records.

        Returns:
            As transformers does: for a collection, a list with `{"label", "score"}` for each text, or with `top_k`
            a list of lists, best first; for an iterator, an iterator of these; for a string a list; for a dict one;
            for columns new ones, `label` and `score`, with `predicted_` before a name that is taken.

        Raises:
            BadRequest: an input or argument is invalid.
        """
        if not (top_k is UNSET or top_k is None or (isinstance(top_k, int) and top_k >= 1)):
            raise BadRequest(f"top_k must be a whole number from 1, or None for all labels, not {top_k!r}")
        if abstain and top_k is not UNSET:
            raise BadRequest("abstain returns the labels of the prediction set: leave out top_k")
        if abstain and self.folder.settings.prediction_sets is None:
            raise BadRequest(NO_SETS)
        if truncation is not True:
            raise BadRequest("truncation cannot be turned off: a text longer than the model reads is always truncated")

        def answer(rows: list[Any]) -> list[Any]:
            answers = self.engine.classify(
                [TextInput.of(with_joined_text(row, self.folder.settings.text_columns)) for row in rows],
                function=function_to_apply or "default",
                attention=attention,
                window=checked_window(window),
                batch_size=self.batch_size if batch_size is None else batch_size,
            )
            if abstain:
                return [in_set(item) for item in answers]
            return [best_of(item) if top_k is UNSET else ranked(item, top_k) for item in answers]

        inputs = with_joined_columns(inputs, self.folder.settings.text_columns)
        if is_columns(inputs):
            return columns_of(inputs, answer(rows_of(inputs)), ("label", "score"))
        if isinstance(inputs, str | Mapping):
            result = answer([inputs])[0]
            return [result] if isinstance(inputs, str) and top_k is UNSET and not abstain else result
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
    device: str | None = None,
) -> Classifier | ZeroShotClassifier:
    """Return the model of that name: a `ZeroShotClassifier` for an NLI model, else a `Classifier`.

    Args:
        model: a path, a served name, or a Hub id, tried in that order.
        batch_size, backend, precision, device: as in `Classifier`.

    Raises:
        CheckpointError: the name leads to no usable folder.
        BackendFailed: the weights are not a classifier's.
    """
    folder = resolve(model, models_dir)
    engine = engine_of(folder, backend=backend, precision=precision, device=device)
    if folder.is_zero_shot:
        return ZeroShotClassifier(engine=engine, batch_size=batch_size)
    return Classifier(engine=engine, batch_size=batch_size)
