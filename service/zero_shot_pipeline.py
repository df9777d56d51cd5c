"""Zero-shot models as callables, with the results of transformers' pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any, Unpack, overload

import numpy as np
import numpy.typing as npt

from finetune.core.model_folder import AttentionMode, Scorer
from service.errors import BadRequest
from service.inference.engine import Engine
from service.inference.label_parsing import labels_of
from service.inference.model_store import resolve
from service.inference.profile import ZeroShotProfile
from service.inference.zero_shot_scorer import nli_model
from service.loaded_model import LoadedModel, engine_of, scores_of, texts_of
from service.pipeline_shapes import (
    ModelName,
    Rows,
    ZeroShotOptions,
    ZeroShotResult,
    answers_of,
    columns_of,
    is_columns,
    is_list_of_label_lists,
    without_iterator,
    zero_shot_result,
)
from service.schema import DEFAULT_BEAM, ZeroShotRequest, checked_window
from service.settings import BackendName, PrecisionName


class ZeroShotClassifier(LoadedModel):
    """An NLI model: texts and candidate labels in, scores out.

    Args:
        model: a path, a served name, or a Hub id of an NLI model.
        hypothesis_template: the sentence that a label is inserted into; by default what the model's folder records.
        multi_label: whether several labels may be true at once.
        scorer: `nli`, `embedding` or `both`; by default what the folder records.
        profile: a profile, or the file of one (see `make_profile`); its labels are then those of calls without any.
        attention: `ordinary` or `shared_text`; by default what the folder records.
        keep_identifiers: whether labels such as `book_flight` are read as they are, instead of as words.
        beam: labels of each level of a tree whose labels below are scored.
        window: read long texts in windows: tokens, or a dict with `tokens`, `overlap` and `aggregate`.
        models_dir, batch_size, backend, precision, device: as in `Classifier`.

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
        keep_identifiers: bool = False,
        beam: int = DEFAULT_BEAM,
        window: Any = None,
        batch_size: int | None = None,
        backend: BackendName | None = None,
        precision: PrecisionName | None = None,
        device: str | None = None,
        profile: ZeroShotProfile | str | PathLike[str] | None = None,
        engine: Engine | None = None,
    ) -> None:
        if profile is not None and not isinstance(profile, ZeroShotProfile):
            profile = ZeroShotProfile.read(profile)
        self.profile = profile
        if engine is None:
            folder = resolve(model, models_dir)
            nli_model(folder)  # raises before any weights are loaded
            engine = engine_of(folder, backend=backend, precision=precision, device=device)
        self.engine = engine
        self.hypothesis_template = hypothesis_template
        self.multi_label, self.batch_size = multi_label, batch_size
        self.scorer, self.attention = scorer, attention
        self.keep_identifiers, self.beam, self.window = keep_identifiers, beam, checked_window(window)

    def predict_proba(self, texts: Any, candidate_labels: Any = None) -> npt.NDArray[np.float64]:
        """Return scores `[N, labels]` of texts, in the order of `candidate_labels`; other settings are the object's.

        Raises:
            BadRequest: a text or label is invalid.
        """
        labels = labels_of(self._labels(candidate_labels))
        request = ZeroShotRequest(
            labels.names,
            self.multi_label,
            self.hypothesis_template,
            self.scorer,
            self.attention,
            texts=labels.texts,
            keep_identifiers=self.keep_identifiers,
            beam=self.beam,
            window=self.window,
            profile=self.profile,
        )
        answers = self.engine.zero_shot(texts_of(texts), request, batch_size=self.batch_size)
        return scores_of(answers, len(request.labels))

    def _labels(self, candidate_labels: Any) -> Any:
        """Return the labels as they were given, or those of the profile."""
        return self.profile.labels if candidate_labels is None and self.profile is not None else candidate_labels

    @overload
    def __call__(
        self, sequences: str, candidate_labels: Any = ..., **options: Unpack[ZeroShotOptions]
    ) -> ZeroShotResult: ...
    @overload
    def __call__(
        self, sequences: Rows, candidate_labels: Any = ..., **options: Unpack[ZeroShotOptions]
    ) -> list[ZeroShotResult]: ...
    @overload
    def __call__(
        self, sequences: Mapping[str, Any], candidate_labels: Any = ..., **options: Unpack[ZeroShotOptions]
    ) -> dict[str, list[Any]]: ...
    @overload
    def __call__(
        self, sequences: Iterator[str], candidate_labels: Any = ..., **options: Unpack[ZeroShotOptions]
    ) -> Iterator[ZeroShotResult]: ...
    @overload
    def __call__(self, sequences: Any, candidate_labels: Any = ..., **options: Unpack[ZeroShotOptions]) -> Any: ...
    def __call__(
        self,
        sequences: Any,
        candidate_labels: Any = None,
        *,
        multi_label: bool | None = None,
        hypothesis_template: str | None = None,
        scorer: Scorer | None = None,
        attention: AttentionMode | None = None,
        shortlist: int | None = None,
        batch_size: int | None = None,
        keep_identifiers: bool | None = None,
        beam: int | None = None,
        window: Any = None,
    ) -> Any:
        """Return labels and scores, in the shape that transformers' zero-shot-classification pipeline returns.

        Args:
            sequences: a string, any iterable of strings, or columns: a dict whose `text` is a list.
            candidate_labels: a list of names, or one string with commas between them; for a collection of sequences
                also a list of lists of names, one for each sequence; by default those of the profile. Labels with
                descriptions are a dict of names to descriptions, or dicts with `name`, `description`, `phrasings`,
                `examples` and `children`.
            keep_identifiers, beam, window: as in `ZeroShotClassifier`.
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
            "keep_identifiers": self.keep_identifiers if keep_identifiers is None else keep_identifiers,
            "beam": self.beam if beam is None else beam,
            "window": checked_window(window) or self.window,
            "profile": self.profile,
        }
        request: ZeroShotRequest | list[ZeroShotRequest]
        if is_list_of_label_lists(candidate_labels):
            if isinstance(sequences, str | Iterator):
                raise BadRequest("a list of labels for each sequence needs a list of sequences")
            request = [_request(labels, options) for labels in candidate_labels]
        else:
            request = _request(self._labels(candidate_labels), options)
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
        self, sequences: str, candidate_labels: Any = ..., **options: Unpack[ZeroShotOptions]
    ) -> ZeroShotResult: ...
    @overload
    async def aclassify(
        self, sequences: Rows | Iterator[str], candidate_labels: Any = ..., **options: Unpack[ZeroShotOptions]
    ) -> list[ZeroShotResult]: ...
    @overload
    async def aclassify(
        self, sequences: Any, candidate_labels: Any = ..., **options: Unpack[ZeroShotOptions]
    ) -> Any: ...
    async def aclassify(self, sequences: Any, candidate_labels: Any = None, **options: Any) -> Any:
        """Return what a call with the same arguments returns, computed in another thread.

        An iterator is read to its end first, and the result is a list.
        """
        rows = without_iterator(sequences)
        return await asyncio.to_thread(lambda: self(rows, candidate_labels, **options))


def _request(labels: Any, options: dict[str, Any]) -> ZeroShotRequest:
    parsed = labels_of(labels)
    return ZeroShotRequest(parsed.names, texts=parsed.texts, **options)
