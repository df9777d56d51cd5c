"""Models and token ids with which a wrong mask or position would show."""

from __future__ import annotations

from typing import Any

import numpy as np
from checkpoints import tiny_family

from finetune.core.attention_mask import HYPOTHESIS, LEADING
from finetune.core.tokenization import Encoded

READ_ONCE = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


def tried(family: str) -> Any:
    """A family with weights large enough that positions and masks show, and RoBERTa's padding id where it counts."""
    import torch

    model = tiny_family(family, layers=3, positions=60, pad_token_id=1 if "bert" in family[1:] else 0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embeddings" not in name:
                weight.mul_(6.0)
    return model


def made(rng: Any, lengths: Any, segment: int, leading: int) -> list[Encoded]:
    """Token ids of so many sequences, with or without what a sequence begins with."""
    found = []
    for length in lengths:
        ids = [2] * leading + rng.integers(5, 50, length).tolist() + [3]
        segments = [LEADING] * leading + [segment] * (length + 1)
        types = [int(segment == HYPOTHESIS)] * len(ids)
        found.append(Encoded(np.array(ids), np.array(types), np.array(segments), False))
    return found
