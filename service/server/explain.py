"""Which words decided: what becomes of a label's score where a word is left out.

Knows: what a word is, how captum asks for texts without some of them.
Does not know: models; it is handed a function from texts to scores.

Occlusion: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (2014). It needs no gradients, so it
is true of whatever runtime answers. Taken of log-odds, for a score near 1 hardly moves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ONE_SIGN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{ONE_SIGN}]|[^\s{ONE_SIGN}]+")
"""What stands between blanks; where a script sets none, a sign."""

MOST_WORDS = 128
AT_ONCE = 32
"""Texts that are asked for together."""

SURE = 1e-6

Scores = Callable[[list[str]], Sequence[float]]


@dataclass(frozen=True)
class Word:
    """A word at `text[begin:end]`, the label's score `without` it, and its `weight`: what it adds to the log-odds."""

    begin: int
    end: int
    without: float
    weight: float


def explain(text: str, scores: Scores) -> list[Word]:
    """What each word adds to the score of a label; of a long text, its first `MOST_WORDS` words.

    Args:
        scores: gives the label's score of each text, at most `AT_ONCE` of them.
    """
    import torch
    from captum.attr import FeatureAblation

    places = [found.span() for found in WORD.finditer(text)][:MOST_WORDS]
    if not places:
        return []
    found: dict[bytes, float] = {}

    def log_odds(kept: Any) -> Any:
        rows = kept.numpy().astype(bool)
        values = np.asarray(scores([_without(text, places, row) for row in rows]), dtype=np.float64)
        found.update((row.tobytes(), float(value)) for row, value in zip(rows, values, strict=True))
        sure = np.clip(values, SURE, 1 - SURE)
        return torch.from_numpy(np.log(sure / (1 - sure)))

    ones = torch.ones((1, len(places)))
    weights = FeatureAblation(log_odds).attribute(ones, perturbations_per_eval=AT_ONCE)[0].tolist()
    words = []
    for number, ((begin, end), weight) in enumerate(zip(places, weights, strict=True)):
        kept = np.ones(len(places), dtype=bool)
        kept[number] = False
        words.append(Word(begin, end, found[kept.tobytes()], weight))
    return words


def _without(text: str, places: list[tuple[int, int]], kept: Any) -> str:
    """The text without the words that are not kept."""
    parts, at = [], 0
    for (begin, end), stays in zip(places, kept, strict=True):
        parts.append(text[at : end if stays else begin])
        at = end
    return "".join([*parts, text[at:]])
