"""Many labels from one pass over a text: its keys and values are kept, and every label's hypothesis attends to them.

Knows: layers of BERT's kind, the shared-text mask (text sees text; [CLS] and hypothesis see all), absolute positions.
Does not know: templates, scorers, batches.

T tokens of text and L hypotheses of h tokens cost T + L * (h + 1) tokens, where pairs one by one cost L * (T + h + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.attention import PADDING, TEXT
from finetune.encoding import Encoded
from finetune.first_token import layers_of

TOKENS_AT_ONCE = 8192
"""Tokens of hypotheses, each with its [CLS], that are computed together."""

Inputs = Mapping[str, npt.NDArray[np.int64]]


class OnePass:
    """A model read that way; `of` says whether it can be."""

    def __init__(self, model: Any, layers: Sequence[Any]) -> None:
        self._model, self._layers, self._body = model, layers, model.base_model
        # RoBERTa and its kin count positions from the padding id on
        before = getattr(self._body.embeddings, "padding_idx", None)
        self._first_position = 0 if before is None else int(before) + 1

    @classmethod
    def of(cls, model: Any) -> OnePass | None:
        """The model as one that reads a text once, or None where its layers or embeddings are of another kind."""
        layers = layers_of(model)
        classifier = hasattr(model, "classifier") and hasattr(getattr(model, "base_model", None), "embeddings")
        return cls(model, layers) if layers and classifier else None

    @torch.inference_mode()
    def __call__(
        self, texts: Inputs, hypotheses: Sequence[Encoded], *, embeddings: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Logits `[B, L, C]` of every text with every hypothesis, and where asked the texts' mean states `[B, H]`.

        Args:
            texts: the parts of pairs up to the hypothesis, as `TextEncoder.pad` gives them.
            hypotheses: the parts of pairs from there on.
        """
        device = self._model.device
        arrays = {name: torch.from_numpy(array).to(device) for name, array in texts.items()}
        lengths = (arrays["segments"] != PADDING).sum(dim=1)
        kept, states = self._read(arrays, embeddings)
        visible = arrays["segments"][:, None, None, 1:] == TEXT
        mask = torch.zeros(visible.shape, device=device).masked_fill_(~visible, torch.finfo(torch.float32).min)
        own = {name: tensor.to(device) for name, tensor in self._own(texts, hypotheses).items()}
        each = len(lengths) * own["ids"].shape[1]
        at_once = max(1, TOKENS_AT_ONCE // each)
        parts = [
            self._weigh(kept, mask, lengths, {name: one[start : start + at_once] for name, one in own.items()})
            for start in range(0, len(hypotheses), at_once)
        ]
        means = None
        if states is not None:
            weights = visible.squeeze(1).transpose(1, 2).to(states.dtype)
            means = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        return torch.cat(parts, dim=1), means

    def _read(self, arrays: Mapping[str, Tensor], embeddings: bool) -> tuple[list[tuple[Tensor, Tensor]], Any]:
        """Keys and values `[B, heads, T, D]` of each layer for the text without [CLS], and its last states."""
        ids = arrays["input_ids"][:, 1:]
        positions = self._first_position + torch.arange(1, ids.shape[1] + 1, device=ids.device)
        types = arrays["token_type_ids"][:, 1:] if "token_type_ids" in arrays else None
        states = self._embedded(ids, types, positions.expand_as(ids))
        visible = (arrays["segments"][:, 1:] == TEXT)[:, None, None]
        kept = []
        for number, layer in enumerate(self._layers):
            key, value = _heads(layer, "key", states), _heads(layer, "value", states)
            kept.append((key, value))
            if number + 1 < len(self._layers) or embeddings:
                query = _heads(layer, "query", states)
                states = _after(layer, F.scaled_dot_product_attention(query, key, value, attn_mask=visible), states)
        return kept, states if embeddings else None

    def _own(self, texts: Inputs, hypotheses: Sequence[Encoded]) -> dict[str, Tensor]:
        """[CLS] and hypothesis `[L, M]`, padded: ids, types, and which of them there are."""
        shape = (len(hypotheses), 1 + max(len(row) for row in hypotheses))
        ids, types = (np.zeros(shape, dtype=np.int64) for _ in range(2))
        there = np.zeros(shape, dtype=np.bool_)
        ids[:, 0], there[:, 0] = texts["input_ids"][0, 0], True
        if "token_type_ids" in texts:
            types[:, 0] = texts["token_type_ids"][0, 0]
        for row, hypothesis in enumerate(hypotheses):
            end = 1 + len(hypothesis)
            ids[row, 1:end], there[row, 1:end] = hypothesis.ids, True
            if "token_type_ids" in texts:
                types[row, 1:end] = hypothesis.type_ids
        found = {"ids": ids, "there": there} | ({"types": types} if "token_type_ids" in texts else {})
        return {name: torch.from_numpy(array) for name, array in found.items()}

    def _weigh(
        self,
        kept: Sequence[tuple[Tensor, Tensor]],
        text_mask: Tensor,
        lengths: Tensor,
        own: Mapping[str, Tensor],
    ) -> Tensor:
        """Logits `[B, L, C]` of some hypotheses with every text."""
        texts, (labels, tokens) = len(lengths), own["ids"].shape
        pairs = texts * labels

        def for_each(one: Tensor) -> Tensor:
            return one.expand(texts, labels, tokens).reshape(pairs, tokens)

        after = lengths[:, None, None] + torch.arange(tokens - 1, device=lengths.device)  # where hypotheses stand
        positions = F.pad(after, (1, 0)) + self._first_position
        states = self._embedded(
            for_each(own["ids"]), for_each(own["types"]) if "types" in own else None, for_each(positions)
        )
        hidden = ~for_each(own["there"])[:, None, None]
        for number, (layer, (key, value)) in enumerate(zip(self._layers, kept, strict=True)):
            last = number + 1 == len(self._layers)
            asking = states[:, :1] if last else states  # nothing but [CLS] is read after the last layer
            query = _heads(layer, "query", asking) * layer.attention.self.scaling
            heads, width, many = query.shape[1], query.shape[3], query.shape[2]
            # all hypotheses of a text ask its keys together: [B, heads, L * M, D]
            together = query.view(texts, labels, heads, many, width).transpose(1, 2).reshape(texts, heads, -1, width)
            of_text = torch.matmul(together, key.transpose(2, 3)) + text_mask
            of_own = torch.matmul(query, _heads(layer, "key", states).transpose(2, 3))
            of_own = of_own.masked_fill(hidden, torch.finfo(of_own.dtype).min)
            length = key.shape[2]
            of_text = of_text.view(texts, heads, labels, many, length).transpose(1, 2).reshape(pairs, heads, many, -1)
            weights = F.softmax(torch.cat([of_text, of_own], dim=-1), dim=-1)
            to_text = weights[..., :length].reshape(texts, labels, heads, many, length).transpose(1, 2)
            found = torch.matmul(to_text.reshape(texts, heads, -1, length), value)
            found = found.view(texts, heads, labels, many, width).transpose(1, 2).reshape(query.shape)
            found = found + torch.matmul(weights[..., length:], _heads(layer, "value", states))
            states = _after(layer, found, asking)
        return self._head(states).view(texts, labels, -1)

    def _embedded(self, ids: Tensor, types: Tensor | None, positions: Tensor) -> Tensor:
        states = self._body.embeddings(input_ids=ids, token_type_ids=types, position_ids=positions)
        project = getattr(self._body, "embeddings_project", None)
        found: Tensor = project(states) if project is not None else states
        return found

    def _head(self, states: Tensor) -> Tensor:
        pooler = getattr(self._body, "pooler", None)
        found: Tensor = self._model.classifier(pooler(states) if pooler is not None else states)
        return found


def _heads(layer: Any, which: str, states: Tensor) -> Tensor:
    """`[B, L, H]` to `[B, heads, L, D]`, through the layer's query, key or value."""
    own = layer.attention.self
    made: Tensor = getattr(own, which)(states)
    return made.view(len(states), -1, own.num_attention_heads, own.attention_head_size).transpose(1, 2)


def _after(layer: Any, attended: Tensor, states: Tensor) -> Tensor:
    """What a layer makes of what its heads found: `[B, heads, L, D]` to `[B, L, H]`."""
    merged = attended.transpose(1, 2).reshape(states.shape[0], states.shape[1], -1)
    found: Tensor = layer.feed_forward_chunk(layer.attention.output(merged, states))
    return found
