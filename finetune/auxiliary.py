"""Training terms beside the loss; the table AUXILIARY closes the file.

Knows: terms of the form `(states [B, L, H], inputs, *, knobs) -> Tensor [B]`, made once per run from the base.
Does not know: when the trainer calls them, or how they are reduced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.attention import HYPOTHESIS, PADDING, TEXT

Term = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


def mean_of_text(states: Tensor, segments: Tensor) -> Tensor:
    """Mean of the text's last states, its [SEP] included: `[B, L, H]`, `[B, L]` -> `[B, H]`."""
    chosen = (segments == TEXT).unsqueeze(-1).to(states.dtype)
    return (states * chosen).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)


def keep_embedding(body: nn.Module, *, weight: float = 3.0) -> Term:
    """weight * (1 - cosine): the text's mean state stays near the base's mean embedding of the same text."""
    frozen = copy.deepcopy(body).eval().requires_grad_(False)

    def term(states: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        segments = inputs["segments"]
        # the base reads the text alone, as it was trained to: [CLS] text [SEP]
        alone = (segments != HYPOTHESIS) & (segments != PADDING)
        longest = int(alone.sum(dim=1).max())
        ids, mask = inputs["input_ids"][:, :longest], alone[:, :longest]
        with torch.no_grad():
            base_states = frozen.to(ids.device)(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        chosen = mask.unsqueeze(-1).to(base_states.dtype)
        target = (base_states * chosen).sum(dim=1) / chosen.sum(dim=1)
        return weight * (1 - F.cosine_similarity(mean_of_text(states, segments).float(), target.float(), dim=-1))

    return term


AUXILIARY: dict[str, Callable[..., Term]] = {
    "keep_embedding": keep_embedding,
}
