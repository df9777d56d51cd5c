"""Labelled rows to (text, hypothesis, entailment or contradiction) rows, for training zero-shot models.

Knows: templates, how a label is spelled out, which labels a text contradicts.
Does not know: files or tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from finetune.config.data import RecastConfig
from finetune.core.errors import DataError

ENTAILMENT, CONTRADICTION = "entailment", "contradiction"


def spelled_out(label: str) -> str:
    """A label name as words: `book_flight` and `BookFlight` both become `book flight`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label)
    return " ".join(re.split(r"[_\-\s/]+", apart)).strip().lower()


def recast(
    texts: Sequence[str], values: Sequence[Any], config: RecastConfig, *, seed: int
) -> list[tuple[int, str, str]]:
    """(index of the text, hypothesis, entailment | contradiction) rows: each text with one of its own labels and
    `config.negatives` of the others.

    Raises:
        DataError: fewer than two labels, so that nothing can be contradicted.
    """
    chance = random.Random(seed)
    own = [list(value) if isinstance(value, list | tuple) else [str(value)] for value in values]
    every = sorted({label for labels in own for label in labels})
    if len(every) < 2:
        raise DataError("recasting needs at least two labels")
    rows: list[tuple[int, str, str]] = []
    for index, labels in enumerate(own[: len(texts)]):
        if not labels:
            continue
        others = [label for label in every if label not in labels]
        wrong = chance.sample(others, min(config.negatives, len(others)))
        for label, verdict in [(chance.choice(labels), ENTAILMENT), *((other, CONTRADICTION) for other in wrong)]:
            words = config.names.get(label, spelled_out(label))
            rows.append((index, chance.choice(config.templates).replace("{}", words), verdict))
    return rows
