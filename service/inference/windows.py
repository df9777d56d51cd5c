"""Answers for long texts from those for their windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np

from finetune.core import windows as core_windows
from finetune.core.model_folder import ClassifierSettings
from finetune.core.tokenization import PreparedInputs, TextEncoder, without_surrogates
from finetune.core.windows import Span, Window, spans
from service.errors import BadRequest
from service.inference import hierarchy
from service.inference.decisions import decided_by
from service.inference.hierarchy import Flat
from service.inference.steps import Steps
from service.schema import Answer, TextInput, ZeroShotRequest

Whole = Callable[[Sequence[TextInput]], Steps[list[Answer]]]
Call = Callable[[list[str], list[int]], Steps[list[Answer]]]
"""The steps to answers for texts, and which of the original texts each is from."""


class Reader:
    """Reads texts in windows with a model's tokenizer.

    Args:
        sums_to_one: whether the scores of a model's own labels are probabilities of which one is true.
        settings: of a model whose own labels are decided by its scores; None for others.
        requested: whether the request asks for windows; else its pairs are read whole.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        sums_to_one: bool = False,
        settings: ClassifierSettings | None = None,
        *,
        requested: bool = False,
    ) -> None:
        self._tokenizer, self._longest = encoder.prepared, encoder.longest_text
        self._sums_to_one, self._settings, self._requested = sums_to_one, settings, requested

    def inputs(self, inputs: Sequence[TextInput], window: Window, whole: Whole) -> Steps[list[Answer]]:
        """Return the steps to an answer for each text, in windows, and for each pair, whole.

        Raises:
            BadRequest: a window is longer than the model reads, or windows of pairs are requested.
        """
        if self._requested and any(item.pair is not None for item in inputs):
            raise BadRequest("window does not go with pairs of texts: leave it out")

        def call(pieces: list[str], owners: list[int]) -> Steps[list[Answer]]:
            return whole([TextInput(piece, inputs[row].pair) for piece, row in zip(pieces, owners, strict=True)])

        windows = [window if item.pair is None else None for item in inputs]
        sums = [self._sums_to_one] * len(inputs)
        answers = yield from self._answered([item.text for item in inputs], windows, call, sums)
        if self._settings is None:
            return answers
        own = np.array([answer.scores for answer in answers])
        return decided_by(answers, own, self._settings)

    def requests(
        self, texts: Sequence[str], requests: Sequence[ZeroShotRequest], windows: Sequence[Window | None], flat: Flat
    ) -> Steps[list[Answer]]:
        """Return the steps to an answer for each text, by the labels of its request."""

        def call(pieces: list[str], owners: list[int]) -> Steps[list[Answer]]:
            return hierarchy.scored(pieces, [requests[row] for row in owners], flat)

        sums = [not request.multi_label and len(request.labels) > 1 for request in requests]
        return (yield from self._answered(texts, windows, call, sums))

    def _answered(
        self, texts: Sequence[str], windows: Sequence[Window | None], call: Call, sums_to_one: Sequence[bool]
    ) -> Steps[list[Answer]]:
        for window in dict.fromkeys(windows):
            self._check(window)
        texts = [
            text if window is None else without_surrogates(text) for text, window in zip(texts, windows, strict=True)
        ]
        parts = yield partial(_cut, texts, windows, self._tokenizer)
        pieces = [texts[row][begin:end] for row, own in enumerate(parts) for begin, end in own]
        answers = iter((yield from call(pieces, [row for row, own in enumerate(parts) for _ in own])))
        result = []
        for own, window, sums in zip(parts, windows, sums_to_one, strict=True):
            mine = list(islice(answers, len(own)))
            result.append(mine[0] if window is None else aggregated(mine, own, window, sums_to_one=sums))
        return result

    def _check(self, window: Window | None) -> None:
        if window is not None and window.tokens > self._longest:
            raise BadRequest(
                f"a window has {window.tokens} tokens, and this model reads {self._longest} beside special tokens: "
                "use fewer"
            )


def aggregated(answers: Sequence[Answer], parts: Sequence[Span], window: Window, *, sums_to_one: bool) -> Answer:
    """Return the answer for a text, with the window that decided: the one with the highest score of its best label.

    Scores are aggregated as they are returned: probabilities, unless logits were requested.
    """
    if window.aggregate == "first":
        return replace(answers[0], window=parts[0])
    scores = np.array([answer.scores for answer in answers])
    values = core_windows.aggregated(scores, window.aggregate, sums_to_one=sums_to_one)
    decisive = int(scores[:, values.argmax()].argmax())
    truncated = any(answer.truncated for answer in answers)
    return replace(answers[0], scores=tuple(values.tolist()), truncated=truncated, window=parts[decisive])


def _cut(texts: Sequence[str], windows: Sequence[Window | None], tokenizer: PreparedInputs) -> list[list[Span]]:
    parts = []
    for text, window in zip(texts, windows, strict=True):
        own = [(0, len(text))] if window is None else spans(text, tokenizer, window)
        parts.append(own[:1] if window is not None and window.aggregate == "first" else own)
    return parts
