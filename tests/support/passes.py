"""Models and token ids for which a wrong mask or position changes the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from checkpoints import tiny_family

from finetune.core.attention_mask import HYPOTHESIS, LEADING
from finetune.core.tokenization import Encoded

ONE_PASS_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


def sensitive_model(family: str) -> Any:
    """Return a model of a family, with weights so large that positions and masks matter, and RoBERTa's padding id."""
    import torch

    model = tiny_family(family, layers=3, positions=60, pad_token_id=1 if "bert" in family[1:] else 0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embeddings" not in name:
                weight.mul_(6.0)
    return model


def random_sequences(rng: Any, lengths: Any, segment: int, leading: int) -> list[Encoded]:
    """Return random sequences of these lengths, with `leading` tokens of the segment LEADING before each."""
    sequences = []
    for length in lengths:
        ids = [2] * leading + rng.integers(5, 50, length).tolist() + [3]
        segments = [LEADING] * leading + [segment] * (length + 1)
        types = [int(segment == HYPOTHESIS)] * len(ids)
        sequences.append(Encoded(np.array(ids), np.array(types), np.array(segments), False))
    return sequences
