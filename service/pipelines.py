"""The Python door: models as callables, shaped like the pipelines of transformers.

Knows: names, what a caller may pass, the shapes that transformers' own pipelines return.
Does not know: tokens, batches, how scores come about.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from os import PathLike
from typing import Any

from finetune.core.model_folder import AttentionMode, ModelFolder, Scorer
from service.errors import BadRequest
from service.inference import zero_shot
from service.inference.engine import Engine, nli_model
from service.inference.model_store import resolve
from service.schema import Answer, Function, TextInput, ZeroShotQuestion, free_names
from service.settings import BackendName, PrecisionName, RuntimeSettings

STREAMED_AT_ONCE = 256
"""Texts taken from an iterator at a time."""

UNSET: Any = object()
ModelName = str | PathLike[str]


class Classifier:
    """A fine-tuned model: texts (or pairs) in, labels and scores out.

    Args:
        model: a path, a served name, or a Hub id.
        models_dir: the folder of served names; the models that ship come after it.
        batch_size: rows computed together at most; default is what suits the runtime.
        backend, precision: what it is computed with (see `RuntimeSettings`); default is what the environment says,
            else the fastest on this machine, which is measured the first time.

    Raises:
        CheckpointError: the name leads to no usable folder.
        BackendFailed: its weights are not a classifier's, or what is asked for cannot be had.
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
        """Labels and scores, in the shape that transformers' text-classification pipeline returns.

        Args:
            inputs: a string, a dict with `text` and `text_pair`, or any iterable of these; or columns, a dict whose
                `text` is a list, as `datasets.Dataset.map(classifier, batched=True)` passes it.
            top_k: how many labels to give for each text; None for all. Without it, only the best.
            function_to_apply: `softmax`, `sigmoid`, `none`, or what the model's task wants (the default).
            attention: `ordinary` or `shared_text`; default is what the model's folder records.
            truncation: there for callers of transformers' pipeline; texts longer than the model reads are always cut.

        Returns:
            As transformers does: for a collection, a list with `{"label", "score"}` for each text, or with `top_k`
            a list of lists, best first; for an iterator, an iterator of these; for a string a list; for a dict one;
            for columns new ones, `label` and `score`, with `predicted_` before a name that is taken.

        Raises:
            BadRequest: an input or argument that cannot be used.
        """
        if not (top_k is UNSET or top_k is None or (isinstance(top_k, int) and top_k >= 1)):
            raise BadRequest(f"top_k must be a whole number from 1, or None for all labels, and it is {top_k!r}")

        if truncation is not True:
            raise BadRequest("truncation cannot be turned off: a text longer than the model reads is always cut")

        def answer(part: list[Any]) -> list[Any]:
            answers = self.engine.classify(
                [TextInput.of(item) for item in part],
                function=function_to_apply or "default",
                attention=attention,
                batch_size=self.batch_size if batch_size is None else batch_size,
            )
            return [_best(one) if top_k is UNSET else _ranked(one, top_k) for one in answers]

        if _is_columns(inputs):
            texts, pairs = inputs["text"], inputs.get("text_pair")
            rows = [{"text": text} for text in texts] if pairs is None else _paired(texts, pairs)
            return _columns(inputs, answer(rows), ("label", "score"))
        if isinstance(inputs, str | Mapping):
            result = answer([inputs])[0]
            return [result] if isinstance(inputs, str) and top_k is UNSET else result
        return _over(inputs, answer)

    async def aclassify(self, inputs: Any, **options: Any) -> Any:
        """What a call with the same arguments gives, worked out in another thread while the event loop goes on.

        An iterator is read to its end first: the answer is a list.
        """
        return await asyncio.to_thread(self, _read(inputs), **options)


class ZeroShotClassifier:
    """An NLI model: texts and labels of your own in, scores out.

    Args:
        model: a path, a served name, or a Hub id of an NLI model.
        hypothesis_template: the sentence a label is put into; default is what the model's folder records.
        multi_label: whether several labels may hold at once.
        scorer: `nli`, `embedding` or `both`; default is what the folder records.
        attention: `ordinary` or `shared_text`; default is what the folder records.
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
            nli_model(folder)  # refuses before any weights are loaded
            engine = _engine(folder, backend, precision)
        self.engine = engine
        self.hypothesis_template = hypothesis_template
        self.multi_label, self.batch_size = multi_label, batch_size
        self.scorer, self.attention = scorer, attention

    @property
    def folder(self) -> ModelFolder:
        """The model's folder: its settings and metrics."""
        return self.engine.folder

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
        """Labels and scores, in the shape that transformers' zero-shot-classification pipeline returns.

        Args:
            sequences: a string, any iterable of strings, or columns: a dict whose `text` is a list.
            candidate_labels: a list of names, or one string with commas between them; for a collection of sequences
                also a list of lists of names, one for each sequence.
            shortlist: for very many labels: weigh only so many of them, those nearest to the text by embedding; the
                others score 0.

        Returns:
            `{"sequence", "labels", "scores"}`, best first, for a string; a list of these for a collection;
            an iterator of these for an iterator; new columns `labels` and `scores` for columns.

        Raises:
            BadRequest: a text, label, template or argument that cannot be used.
        """
        settled: dict[str, Any] = {
            "multi_label": self.multi_label if multi_label is None else multi_label,
            "hypothesis_template": self.hypothesis_template if hypothesis_template is None else hypothesis_template,
            "scorer": scorer or self.scorer,
            "attention": attention or self.attention,
            "shortlist": shortlist,
        }
        own = _own_labels(candidate_labels)
        if own and isinstance(sequences, str | Iterator):
            raise BadRequest("a list of labels for each sequence goes with a list of sequences")
        question = (
            [ZeroShotQuestion(zero_shot.parse_labels(labels), **settled) for labels in candidate_labels]
            if own
            else ZeroShotQuestion(zero_shot.parse_labels(candidate_labels), **settled)
        )

        def answer(part: list[Any]) -> list[Any]:
            answers = self.engine.zero_shot(
                part, question, batch_size=self.batch_size if batch_size is None else batch_size
            )
            return [_sequence(text, one) for text, one in zip(part, answers, strict=True)]

        if _is_columns(sequences):
            return _columns(sequences, answer(list(sequences["text"])), ("labels", "scores"))
        if isinstance(sequences, Mapping):
            raise BadRequest(
                "a sequence is a string; a dict is taken for columns, and its `text` must be a list of strings"
            )
        return answer([sequences])[0] if isinstance(sequences, str) else _over(sequences, answer)

    async def aclassify(self, sequences: Any, candidate_labels: Any, **options: Any) -> Any:
        """What a call with the same arguments gives, worked out in another thread while the event loop goes on.

        An iterator is read to its end first: the answer is a list.
        """
        return await asyncio.to_thread(self, _read(sequences), candidate_labels, **options)


def load(
    model: ModelName,
    *,
    models_dir: ModelName | None = "models",
    batch_size: int | None = None,
    backend: BackendName | None = None,
    precision: PrecisionName | None = None,
) -> Classifier | ZeroShotClassifier:
    """The model of that name: a `ZeroShotClassifier` for an NLI model, else a `Classifier`.

    Args:
        model: a path, a served name, or a Hub id, tried in that order.
        batch_size, backend, precision: as in `Classifier`.

    Raises:
        CheckpointError: the name leads to no usable folder.
        BackendFailed: its weights are not a classifier's.
    """
    folder = resolve(model, models_dir)
    engine = _engine(folder, backend, precision)
    if folder.is_zero_shot:
        return ZeroShotClassifier(engine=engine, batch_size=batch_size)
    return Classifier(engine=engine, batch_size=batch_size)


def _engine(folder: ModelFolder, backend: BackendName | None, precision: PrecisionName | None) -> Engine:
    settings = RuntimeSettings.from_environment(backend=backend, precision=precision)
    return Engine.load(folder, settings, say=logging.getLogger("rehead").info)


def _over(inputs: Any, answer: Callable[[list[Any]], list[Any]]) -> list[Any] | Iterator[Any]:
    """A list for a collection; for an iterator, an iterator that reads ahead a little."""
    if isinstance(inputs, Iterable):
        return answer(list(inputs)) if isinstance(inputs, Sized) else _stream(iter(inputs), answer)
    if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):  # a torch Dataset
        return answer([inputs[index] for index in range(len(inputs))])
    raise BadRequest(f"inputs are a string or an iterable of strings, not {type(inputs).__name__}")


def _own_labels(labels: Any) -> bool:
    """Whether each sequence has labels of its own."""
    return isinstance(labels, Sequence) and bool(labels) and all(isinstance(one, list | tuple) for one in labels)


def _is_columns(inputs: Any) -> bool:
    if not isinstance(inputs, Mapping):
        return False
    texts = inputs.get("text")
    return isinstance(texts, Collection) and not isinstance(texts, str | Mapping)


def _paired(texts: Any, pairs: Any) -> list[dict[str, Any]]:
    if isinstance(pairs, str) or len(texts) != len(pairs):
        many = "one string" if isinstance(pairs, str) else str(len(pairs))
        raise BadRequest(f"there are {len(texts)} values of text and {many} of text_pair")
    return [{"text": text, "text_pair": pair} for text, pair in zip(texts, pairs, strict=True)]


def _columns(given: Mapping[str, Any], answers: list[Any], keys: tuple[str, ...]) -> dict[str, list[Any]]:
    names = free_names(keys, given)
    return {
        names[key]: [[one[key] for one in each] if isinstance(each, list) else each[key] for each in answers]
        for key in keys
    }


def _read(inputs: Any) -> Any:
    return list(inputs) if isinstance(inputs, Iterator) else inputs


def _stream(inputs: Iterator[Any], answer: Callable[[list[Any]], list[Any]]) -> Iterator[Any]:
    while part := list(islice(inputs, STREAMED_AT_ONCE)):
        yield from answer(part)


def _best(answer: Answer) -> dict[str, Any]:
    return {"label": answer.best.label, "score": answer.best.score}


def _ranked(answer: Answer, top_k: int | None) -> list[dict[str, Any]]:
    return [{"label": one.label, "score": one.score} for one in answer.predictions[:top_k]]


def _sequence(text: str, answer: Answer) -> dict[str, Any]:
    return {
        "sequence": text,
        "labels": [one.label for one in answer.predictions],
        "scores": [one.score for one in answer.predictions],
    }
