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

from finetune.core.attention_mask import HYPOTHESIS, LEADING, PADDING, TEXT

Term = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


def mean_of_text(states: Tensor, segments: Tensor) -> Tensor:
    """Mean of the text's last states, its [SEP] included: `[B, L, H]`, `[B, L]` -> `[B, H]`."""
    chosen = (segments == TEXT).unsqueeze(-1).to(states.dtype)
    return (states * chosen).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)


def keep_embedding(body: nn.Module, *, weight: float = 3.0, of_hypotheses: bool = False) -> Term:
    """weight * (1 - cosine): the text's mean state stays near the base's mean embedding of the same text.

    With `of_hypotheses` the hypothesis, read alone as if it were a text, is held to the same, and the two are averaged:
    a zero-shot model embeds label sentences that way, and they look like no text it was trained on.
    """
    frozen = copy.deepcopy(body).eval().requires_grad_(False)

    def distance(states: Tensor, ids: Tensor, segments: Tensor) -> Tensor:
        mask = segments != PADDING
        with torch.no_grad():
            base_states = frozen.to(ids.device)(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        chosen = mask.unsqueeze(-1).to(base_states.dtype)
        target = (base_states * chosen).sum(dim=1) / chosen.sum(dim=1)
        return 1 - F.cosine_similarity(mean_of_text(states, segments).float(), target.float(), dim=-1)

    def term(states: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        # the base reads the text alone, as it was trained to: [CLS] text [SEP]
        ids, segments = _alone(inputs, TEXT)
        lost = distance(states[:, : ids.shape[1]], ids, segments)
        if of_hypotheses:
            ids, segments = _alone(inputs, HYPOTHESIS)
            # text rows see text alone under the shared mask, and this mask gives them the same states
            seen = (segments == TEXT).long()
            lost = (lost + distance(body(input_ids=ids, attention_mask=seen).last_hidden_state, ids, segments)) / 2
        return weight * lost

    return term


def _alone(inputs: Mapping[str, Tensor], part: int) -> tuple[Tensor, Tensor]:
    """`[CLS] part [SEP]` of each row as ids and segments `[B, L]`, the part in the place of a text."""
    kept = (inputs["segments"] == LEADING) | (inputs["segments"] == part)
    longest = int(kept.sum(dim=1).max())
    # a stable sort moves what is kept to the front and leaves it in order
    order = kept.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    segments = torch.where(kept, inputs["segments"], PADDING).gather(1, order)
    return inputs["input_ids"].gather(1, order), torch.where(segments == part, TEXT, segments)


AUXILIARY: dict[str, Callable[..., Term]] = {
    "keep_embedding": keep_embedding,
}
