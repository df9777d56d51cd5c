"""Terms that are added to the loss; the table AUXILIARY closes the file.

Each entry returns, for the body and the tokenizer of a run, a term `(states [B, L, H], inputs) -> Tensor [B]`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.core.attention_mask import HYPOTHESIS, LEADING, PADDING, TEXT

Term = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


def mean_of_text(states: Tensor, segments: Tensor) -> Tensor:
    """Return the mean `[B, H]` of the text's last states `[B, L, H]`, including its [SEP]; `segments` is `[B, L]`."""
    weights = (segments == TEXT).unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def keep_embedding(
    body: nn.Module, tokenizer: Any, *, weight: float = 3.0, of_hypotheses: bool = False, prefix: str = ""
) -> Term:
    """weight * (1 - cosine): keeps the text's mean state near the base's mean embedding of the same text.

    With `of_hypotheses` the same holds for the hypothesis, encoded alone as a text, and the two terms are averaged: a
    zero-shot model embeds label sentences that way, and they differ from the texts it was trained on. With `prefix` the
    base reads it before each text, as E5 models were trained to (`query: `), and the model learns to do without. Where
    the tokenizer repeats its first token (recipes/multilingual_trim.py), the base reads it once.
    """
    before = tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []
    repeated = max(0, tokenizer.backend_tokenizer.encode("a").sequence_ids.index(0) - 1)
    frozen = copy.deepcopy(body).eval().requires_grad_(False)

    def distance(states: Tensor, ids: Tensor, segments: Tensor) -> Tensor:
        mask = segments != PADDING
        base_ids, mask = ids[:, repeated:], mask[:, repeated:]
        if before:
            added = ids.new_tensor(before).expand(len(ids), -1)
            base_ids = torch.cat([base_ids[:, :1], added, base_ids[:, 1:]], dim=1)
            mask = torch.cat([mask[:, :1].expand(-1, 1 + len(before)), mask[:, 1:]], dim=1)
        with torch.no_grad():
            base_states = frozen.to(ids.device)(input_ids=base_ids, attention_mask=mask.long()).last_hidden_state
        weights = mask.unsqueeze(-1).to(base_states.dtype)
        target = (base_states * weights).sum(dim=1) / weights.sum(dim=1)
        return 1 - F.cosine_similarity(mean_of_text(states, segments).float(), target.float(), dim=-1)

    def term(states: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        # the base encodes the text alone, as in its own training: [CLS] text [SEP]
        ids, segments = _alone(inputs, TEXT, repeated)
        loss = distance(states[:, : ids.shape[1]], ids, segments)
        if of_hypotheses:
            ids, segments = _alone(inputs, HYPOTHESIS, repeated)
            # under the shared mask, text tokens attend to the text only; this mask gives them the same states
            mask = (segments == TEXT).long()
            loss = (loss + distance(body(input_ids=ids, attention_mask=mask).last_hidden_state, ids, segments)) / 2
        return weight * loss

    return term


def _alone(inputs: Mapping[str, Tensor], part: int, repeated: int) -> tuple[Tensor, Tensor]:
    """Return `[CLS] part [SEP]` of each row as ids and segments `[B, L]`, with the part marked as text.

    Args:
        repeated: how many special tokens stand between [CLS] and the text; they belong to each part.
    """
    own = torch.where(inputs["segments"] == part, TEXT, inputs["segments"])
    own[:, 1 : 1 + repeated] = TEXT
    keep = (inputs["segments"] == LEADING) | (inputs["segments"] == part)
    keep[:, 1 : 1 + repeated] = True
    longest = int(keep.sum(dim=1).max())
    # a stable sort moves these tokens to the front, in order
    order = keep.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    return inputs["input_ids"].gather(1, order), torch.where(keep, own, PADDING).gather(1, order)


AUXILIARY: dict[str, Callable[..., Term]] = {
    "keep_embedding": keep_embedding,
}
