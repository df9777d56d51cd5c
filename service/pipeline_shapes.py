"""What pipelines take and return: types of options and results; one input, a collection, an iterator, or columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from os import PathLike
from typing import Any, NotRequired, TypedDict

from finetune.core.model_folder import AttentionMode, Scorer
from service.errors import BadRequest
from service.schema import Answer, Function, free_names
from service.settings import BackendName, PrecisionName

STREAM_ROWS = 256
"""Rows read from an iterator at a time."""

ModelName = str | PathLike[str]
Rows = list[Any] | tuple[Any, ...]


class WindowSpan(TypedDict):
    """Characters of a window: the first, and the one after the last."""

    start: int
    end: int


class LabelScore(TypedDict):
    """A label and its score; `window` is the one that decided, where texts are read in windows."""

    label: str
    score: float
    window: NotRequired[WindowSpan]


class ZeroShotResult(TypedDict):
    """A text, the candidate labels with the best first, and their scores."""

    sequence: str
    labels: list[str]
    scores: list[float]
    window: NotRequired[WindowSpan]


class ClassifierOptions(TypedDict, total=False):
    """Keyword arguments of `Classifier` calls beside `top_k`."""

    function_to_apply: Function | None
    batch_size: int | None
    attention: AttentionMode | None
    truncation: bool
    window: Any
    abstain: bool


class ZeroShotOptions(TypedDict, total=False):
    """Keyword arguments of `ZeroShotClassifier` calls."""

    multi_label: bool | None
    hypothesis_template: str | None
    scorer: Scorer | None
    attention: AttentionMode | None
    shortlist: int | None
    batch_size: int | None
    keep_identifiers: bool | None
    beam: int | None
    window: Any


class LoadOptions(TypedDict, total=False):
    """Keyword arguments of `load`."""

    models_dir: ModelName | None
    batch_size: int | None
    backend: BackendName | None
    precision: PrecisionName | None
    device: str | None


def answers_of(inputs: Any, answer: Callable[[list[Any]], list[Any]]) -> list[Any] | Iterator[Any]:
    """Return a list of answers for a collection, and for an iterator an iterator that reads `STREAM_ROWS` ahead.

    Raises:
        BadRequest: the inputs are neither.
    """
    if isinstance(inputs, Iterable):
        return answer(list(inputs)) if isinstance(inputs, Sized) else _stream(iter(inputs), answer)
    if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):  # a torch Dataset
        return answer([inputs[index] for index in range(len(inputs))])
    raise BadRequest(f"inputs must be a string or an iterable of strings, not {type(inputs).__name__}")


def is_list_of_label_lists(labels: Any) -> bool:
    """Return whether candidate labels are given for each sequence."""
    return isinstance(labels, Sequence) and bool(labels) and all(isinstance(item, list | tuple) for item in labels)


def is_columns(inputs: Any) -> bool:
    """Return whether inputs are columns: a mapping whose `text` is a list."""
    if not isinstance(inputs, Mapping):
        return False
    texts = inputs.get("text")
    return isinstance(texts, Collection) and not isinstance(texts, str | Mapping)


def rows_of(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the columns `text` and, where there is one, `text_pair`.

    Raises:
        BadRequest: the columns differ in length.
    """
    texts, pairs = columns["text"], columns.get("text_pair")
    if pairs is None:
        return [{"text": text} for text in texts]
    if isinstance(pairs, str) or len(texts) != len(pairs):
        count = "one string" if isinstance(pairs, str) else f"{len(pairs)} values"
        raise BadRequest(f"text has {len(texts)} values and text_pair {count}: give both the same length")
    return [{"text": text, "text_pair": pair} for text, pair in zip(texts, pairs, strict=True)]


def columns_of(inputs: Mapping[str, Any], answers: list[Any], keys: tuple[str, ...]) -> dict[str, list[Any]]:
    """Return answers as new columns `keys`; a name that the inputs have already gets `predicted_` before it."""
    names = free_names(keys, inputs)
    return {
        names[key]: [[row[key] for row in item] if isinstance(item, list) else item[key] for item in answers]
        for key in keys
    }


def without_iterator(inputs: Any) -> Any:
    """Return an iterator's items as a list, and other inputs as they are."""
    return list(inputs) if isinstance(inputs, Iterator) else inputs


def best_of(answer: Answer) -> LabelScore:
    """Return the best label of an answer."""
    return _with_window({"label": answer.best.label, "score": answer.best.score}, answer)


def ranked(answer: Answer, top_k: int | None) -> list[LabelScore]:
    """Return the `top_k` best labels of an answer, best first; all for None."""
    return [_with_window({"label": item.label, "score": item.score}, answer) for item in answer.predictions[:top_k]]


def in_set(answer: Answer) -> list[LabelScore]:
    """Return the labels of an answer's prediction set, best first."""
    return [{"label": item.label, "score": item.score} for item in answer.prediction_set]


def zero_shot_result(text: str, answer: Answer) -> ZeroShotResult:
    """Return a zero-shot answer, best label first."""
    result: ZeroShotResult = {
        "sequence": text,
        "labels": [item.label for item in answer.predictions],
        "scores": [item.score for item in answer.predictions],
    }
    if answer.window is not None:
        result["window"] = {"start": answer.window[0], "end": answer.window[1]}
    return result


def _with_window(row: LabelScore, answer: Answer) -> LabelScore:
    if answer.window is not None:
        row["window"] = {"start": answer.window[0], "end": answer.window[1]}
    return row


def _stream(inputs: Iterator[Any], answer: Callable[[list[Any]], list[Any]]) -> Iterator[Any]:
    while part := list(islice(inputs, STREAM_ROWS)):
        yield from answer(part)
