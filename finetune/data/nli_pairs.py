"""Recast labeled rows as (text, hypothesis, entailment or contradiction) rows, to train zero-shot models."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from finetune.config.data import RecastConfig
from finetune.core.errors import DataError
from finetune.core.hypothesis import fill

ENTAILMENT, CONTRADICTION = "entailment", "contradiction"


def spelled_out(label: str) -> str:
    """Return a label name as words: `book_flight` and `BookFlight` both become `book flight`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label)
    return " ".join(re.split(r"[_\-\s/]+", apart)).strip().lower()


def recast(
    texts: Sequence[str], values: Sequence[Any], config: RecastConfig, *, seed: int
) -> list[tuple[int, str, str]]:
    """Return rows (index of the text, hypothesis, entailment or contradiction).

    Each text gets a hypothesis about one of its labels, and `config.negatives` about other labels.

    Raises:
        DataError: fewer than two labels, so that there is nothing to contradict.
    """
    chance = random.Random(seed)
    own = [list(value) if isinstance(value, list | tuple) else [str(value)] for value in values]
    all_labels = sorted({label for labels in own for label in labels})
    if len(all_labels) < 2:
        raise DataError("recast needs at least two labels")
    rows: list[tuple[int, str, str]] = []
    for index, labels in enumerate(own[: len(texts)]):
        if not labels:
            continue
        others = [label for label in all_labels if label not in labels]
        wrong = chance.sample(others, min(config.negatives, len(others)))
        for label, verdict in [(chance.choice(labels), ENTAILMENT), *((other, CONTRADICTION) for other in wrong)]:
            words = config.names.get(label, spelled_out(label))
            rows.append((index, fill(chance.choice(config.templates), words), verdict))
    return rows
