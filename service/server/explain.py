"""Word importance: how much each word of a text adds to the score of a label.

Occlusion (Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2014): each word is left out in
turn. It needs no gradients, so it holds for every runtime. Weights are differences of log-odds, since a score near 1
hardly moves.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.errors import request_timeout
from service.inference.engine import Engine
from service.schema import TextInput, Work
from service.server.admission import Admission

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")
"""A word: what stands between blanks; in a script without blanks, one character."""

MAX_WORDS = 128
BATCH = 32
"""Texts that are scored in one call."""

EPSILON = 1e-6
"""Distance from 0 and 1 that scores are clipped to before their log-odds are taken."""

Scores = Callable[[list[str]], Sequence[float]]


@dataclass(frozen=True)
class Word:
    """A word at `text[begin:end]`, the label's score `without` it, and its `weight`: what it adds to the log-odds."""

    begin: int
    end: int
    without: float
    weight: float


async def explain(admission: Admission, engine: Engine, item: TextInput, label: str) -> list[Word]:
    """Return the importance of each word of a text for a label; raises as `Admission.run` does."""
    loop, cancelled = asyncio.get_running_loop(), threading.Event()
    deadline_s = admission.settings.request_seconds

    def scores(texts: list[str]) -> list[float]:
        if cancelled.is_set():
            raise request_timeout(deadline_s)
        inputs = [TextInput(text, item.pair) for text in texts]
        # straight to the engine: these answers are no predictions, so they are in no metric
        call = engine.aclassify(inputs, work=admission.limits.work())
        answers = asyncio.run_coroutine_threadsafe(call, loop).result(deadline_s)
        return [answer.scores[answer.labels.index(label)] for answer in answers]

    async def importance(*, work: Work) -> list[Word]:
        try:
            return await admission.background(word_importance, item.text, scores)
        finally:
            cancelled.set()

    return await admission.run(engine, importance)


def word_importance(text: str, scores: Scores) -> list[Word]:
    """Return what each word adds to the score of a label; of a long text, its first `MAX_WORDS` words.

    Args:
        scores: returns the label's score of each text, for at most `BATCH` texts.
    """
    import torch
    from captum.attr import FeatureAblation

    places = [match.span() for match in WORD.finditer(text)][:MAX_WORDS]
    if not places:
        return []
    scored: dict[bytes, float] = {}

    def log_odds(masks: Any) -> Any:
        rows = masks.numpy().astype(bool)
        values = np.asarray(scores([_masked(text, places, row) for row in rows]), dtype=np.float64)
        scored.update((row.tobytes(), float(value)) for row, value in zip(rows, values, strict=True))
        clipped = np.clip(values, EPSILON, 1 - EPSILON)
        return torch.from_numpy(np.log(clipped / (1 - clipped)))

    ones = torch.ones((1, len(places)))
    weights = FeatureAblation(log_odds).attribute(ones, perturbations_per_eval=BATCH)[0].tolist()
    words = []
    for number, ((begin, end), weight) in enumerate(zip(places, weights, strict=True)):
        mask = np.ones(len(places), dtype=bool)
        mask[number] = False
        words.append(Word(begin, end, scored[mask.tobytes()], weight))
    return words


def _masked(text: str, places: list[tuple[int, int]], mask: Any) -> str:
    """Return the text without the words where the mask is False."""
    parts, at = [], 0
    for (begin, end), stays in zip(places, mask, strict=True):
        parts.append(text[at : end if stays else begin])
        at = end
    return "".join([*parts, text[at:]])
