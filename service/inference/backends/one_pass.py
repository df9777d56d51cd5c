"""Many labels from one pass over a text: every hypothesis attends to the keys and values of the text.

The shared-text mask (text sees text; [CLS] and hypothesis see all) makes this exact for layers like BERT's. T tokens of
text and L hypotheses of h tokens cost T + L * (h + 1) tokens, where pairs cost L * (T + h + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.modeling.cls_only_last_layer import layers_of

HIDDEN = torch.finfo(torch.bfloat16).min
"""Added to attention scores of masked tokens: finite in every precision."""


class OnePass(nn.Module):
    """A model that reads a text once for all labels; `of` returns None for models of other kinds."""

    def __init__(self, model: Any, layers: Sequence[Any], *, embeddings: bool = True) -> None:
        super().__init__()
        self._embeddings = embeddings
        self._model, self._body = model, model.base_model
        self._layers = list(layers)
        # RoBERTa and its kin count positions from the padding id on
        before = getattr(self._body.embeddings, "padding_idx", None)
        self._first_position = 0 if before is None else int(before) + 1

    def without_embeddings(self) -> OnePass:
        """Return the same without the texts' embeddings, for scorers that do not use them."""
        return OnePass(self._model, self._layers, embeddings=False).eval()

    @classmethod
    def of(cls, model: Any) -> OnePass | None:
        """Return the model as one pass, None if its layers or head are of another kind; its numbers need a trial."""
        layers = layers_of(model)
        classifier = hasattr(model, "classifier") and hasattr(getattr(model, "base_model", None), "embeddings")
        return cls(model, layers).eval() if layers and classifier else None

    def forward(
        self,
        text_ids: Tensor,
        lengths: Tensor,
        ids: Tensor,
        steps: Tensor,
        owners: Tensor,
        text_of: Tensor,
        starts: Tensor,
        text_types: Tensor | None = None,
        types: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return logits `[P, C]` of each text with its hypotheses, and the texts' mean states `[B, H]`, float32.

        Args:
            text_ids: the parts of pairs up to the hypothesis `[B, T]`, padded; `lengths` `[B]` without padding.
            ids: hypotheses in rows `[N, S]`; steps, owners, text_of, starts: see `packing`.
        """
        # 1. the text without its [CLS], which sees the hypothesis and so belongs to each label
        places = torch.arange(1, text_ids.shape[1], device=text_ids.device)
        visible = places[None] < lengths[:, None]
        positions = places[None].expand(text_ids.shape[0], -1)
        states = self._embedded(text_ids[:, 1:], text_types[:, 1:] if text_types is not None else None, positions)
        of_text = ((~visible).to(states.dtype) * HIDDEN)[:, None, None]
        keys_values = []
        for number, layer in enumerate(self._layers):
            query, key, value = _heads(layer, states)
            keys_values.append((key, value))
            if number + 1 == len(self._layers) and not self._embeddings:
                break
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=of_text)
            states = _after(layer, attended.transpose(1, 2).flatten(2), states)
        weights = visible[..., None].to(states.dtype)
        means = ((states * weights).sum(dim=1) / weights.sum(dim=1),) if self._embeddings else ()
        # 2. rows of labels: each token sees its own label's tokens, and the text
        rows, width = ids.shape
        behind = torch.where(steps < 0, torch.zeros_like(steps), lengths.index_select(0, text_of)[:, None] + steps)
        states = self._embedded(ids, types, behind)
        others = (owners[:, :, None] != owners[:, None, :]).to(states.dtype) * HIDDEN
        before = of_text.index_select(0, text_of).expand(-1, 1, width, -1)
        mask = torch.cat([before, others[:, None]], dim=-1)
        for number, (layer, (text_key, text_value)) in enumerate(zip(self._layers, keys_values, strict=True)):
            query, key, value = _heads(layer, states)
            key = torch.cat([text_key.index_select(0, text_of), key], dim=2)
            value = torch.cat([text_value.index_select(0, text_of), value], dim=2)
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
            if number + 1 == len(self._layers):  # the head reads [CLS] only
                attended = attended.reshape(rows * width, -1).index_select(0, starts)
                states = states.reshape(rows * width, -1).index_select(0, starts)
            states = _after(layer, attended, states)
        return (head(self._model, states), *(mean.float() for mean in means))

    def _embedded(self, ids: Tensor, types: Tensor | None, positions: Tensor) -> Tensor:
        types = torch.zeros_like(ids) if types is None else types
        states = self._body.embeddings(
            input_ids=ids, token_type_ids=types, position_ids=positions + self._first_position
        )
        project = getattr(self._body, "embeddings_project", None)
        embedded: Tensor = project(states) if project is not None else states
        return embedded


def head(model: Any, states: Tensor) -> Tensor:
    """Return logits `[N, C]` from the first tokens' states `[N, H]`."""
    pooler = getattr(model.base_model, "pooler", None)
    states = states[:, None]
    logits: Tensor = model.classifier(pooler(states) if pooler is not None else states)
    return logits.float()


def _heads(layer: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of states `[B, L, H]`, each `[B, heads, L, D]`."""
    own = layer.attention.self
    projected = (linear(states) for linear in (own.query, own.key, own.value))
    query, key, value = (
        part.reshape(part.shape[0], -1, own.num_attention_heads, own.attention_head_size).transpose(1, 2)
        for part in projected
    )
    return query, key, value


def _after(layer: Any, attended: Tensor, states: Tensor) -> Tensor:
    """Return a layer's output for its input states and attention output."""
    output: Tensor = layer.feed_forward_chunk(layer.attention.output(attended, states))
    return output
