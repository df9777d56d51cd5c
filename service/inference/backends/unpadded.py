"""Sequences end to end, without padding: what a body of BERT's kind computes where attention of variable length is had.

Knows: layers of BERT's kind, the shared-text mask as two attentions that are merged by their weights, CUDA's kernel.
Does not know: arrays, padding, templates, scorers, batches.

A batch costs the tokens it holds, whatever their lengths. Of the last layer only the first tokens are computed past
keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.modeling.cls_only_last_layer import layers_of
from service.inference.backends.one_pass import head

SHORT = 32
"""Tokens of a sequence up to which small products side by side are faster than the kernel."""


class Tokens(NamedTuple):
    """`[N]` tokens of several sequences: `positions` and `types` as the model's embeddings take them."""

    ids: Tensor
    positions: Tensor
    types: Tensor | None


class Bounds(NamedTuple):
    """Where sequences begin and end: `[B + 1]` int32, the length of the longest, and of all together."""

    edges: Tensor
    longest: int
    total: int


class Attend(Protocol):
    """Attention within sequences that lie end to end."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, of_queries: Bounds, of_keys: Bounds
    ) -> tuple[Tensor, Tensor]:
        """What the queries attend to `[N, heads, D]`, and the logarithms of the sums of their weights `[N, heads]`."""


class Unpadded:
    """A model read that way; `of` says whether it can be."""

    def __init__(self, model: Any, layers: Sequence[Any], attend: Attend) -> None:
        self._model, self._body, self._attend = model, model.base_model, attend
        self._layers = [_Layer(layer) for layer in layers]
        before = getattr(self._body.embeddings, "padding_idx", None)
        self._first_position = 0 if before is None else int(before) + 1

    @classmethod
    def of(cls, model: Any, attend: Attend) -> Unpadded | None:
        """The model read without padding; None where its layers or its head are of another kind."""
        layers = layers_of(model)
        classifier = hasattr(model, "classifier") and hasattr(getattr(model, "base_model", None), "embeddings")
        return cls(model, layers, attend) if layers and classifier else None

    def rows(self, tokens: Tokens, bounds: Bounds) -> Tensor:
        """Logits `[B, C]` of sequences, each of whose tokens sees all of its own."""
        states = self._embedded(tokens)
        firsts = bounds.edges[:-1].long()
        *layers, last = self._layers
        for layer in layers:
            attended, _ = self._attend(*layer.heads(states), bounds, bounds)
            states = layer.after(attended, states)
        query, key, value = last.heads(states)
        attended, _ = self._attend(query[firsts], key, value, _single(bounds), bounds)
        return head(self._model, last.after(attended, states[firsts]))

    def labelled(
        self,
        texts: Tokens,
        of_texts: Bounds,
        labels: Tokens,
        of_labels: Bounds,
        by_text: Bounds,
        counts: Bounds,
        *,
        embeddings: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits `[P, C]` of texts with their labels under the shared-text mask, and the texts' mean states `[B, H]`.

        Args:
            texts: texts without the token that a sequence begins with.
            labels: that token and a hypothesis, for each label, text by text.
            of_labels: the tokens of each label.
            by_text: the tokens of all labels of a text.
            counts: the labels of a text.
        """
        states, kept = self._embedded(texts), []
        for number, layer in enumerate(self._layers):
            query, key, value = layer.heads(states)
            kept.append((key, value))
            if number + 1 == len(self._layers) and not embeddings:
                break
            states = layer.after(self._attend(query, key, value, of_texts, of_texts)[0], states)
        means = None
        if embeddings:
            lengths = of_texts.edges.diff().long()
            means = torch.segment_reduce(states.float(), "mean", lengths=lengths, axis=0)
        states = self._embedded(labels)
        firsts = of_labels.edges[:-1].long()
        within = _Short(of_labels) if of_labels.longest <= SHORT else self._attend
        for layer, (text_key, text_value) in zip(self._layers, kept, strict=True):
            query, key, value = layer.heads(states)
            asking, across = of_labels, by_text
            if layer is self._layers[-1]:  # nothing but the first tokens is read after the last layer
                query, states = query[firsts], states[firsts]
                asking, across = _single(of_labels), counts
            own, own_weight = within(query, key, value, asking, of_labels)
            of_text, text_weight = self._attend(query, text_key, text_value, across, of_texts)
            share = torch.sigmoid(own_weight - text_weight)[..., None].to(own.dtype)
            states = layer.after(torch.lerp(of_text, own, share), states)
        return head(self._model, states), means

    def _embedded(self, tokens: Tokens) -> Tensor:
        types = torch.zeros_like(tokens.ids) if tokens.types is None else tokens.types
        states = self._body.embeddings(
            input_ids=tokens.ids[None],
            token_type_ids=types[None],
            position_ids=tokens.positions[None] + self._first_position,
        )
        project = getattr(self._body, "embeddings_project", None)
        found: Tensor = project(states) if project is not None else states
        return found[0]


class _Layer:
    """A layer whose query, key and value are one product: its own weights become parts of the joint one."""

    def __init__(self, layer: Any) -> None:
        self._layer, own = layer, layer.attention.self
        parts = (own.query, own.key, own.value)
        with torch.no_grad():
            self._weight = torch.cat([part.weight for part in parts])
            self._bias = torch.cat([part.bias for part in parts])
            for part, weight, bias in zip(parts, self._weight.chunk(3), self._bias.chunk(3), strict=True):
                part.weight.data, part.bias.data = weight, bias
        self._shape = (3, own.num_attention_heads, own.attention_head_size)

    def heads(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of `[N, H]`, each `[N, heads, D]`."""
        joint = F.linear(states, self._weight, self._bias)
        query, key, value = joint.reshape(len(states), *self._shape).unbind(1)
        return query, key, value

    def after(self, attended: Tensor, states: Tensor) -> Tensor:
        """What the layer makes of states `[N, H]` and of what they attended to `[N, heads, D]`."""
        found: Tensor = self._layer.feed_forward_chunk(self._layer.attention.output(attended.flatten(1), states))
        return found


class _Short:
    """Attention within short sequences, as small products side by side: a kernel made for long ones computes tiles that
    are nearly empty."""

    def __init__(self, bounds: Bounds) -> None:
        begins, lengths = bounds.edges[:-1].long(), bounds.edges.diff().long()
        columns = torch.arange(bounds.longest, device=begins.device)
        tokens = torch.arange(bounds.total, device=begins.device)
        self._held = columns < lengths[:, None]
        self._index = (begins[:, None] + columns).clamp(max=bounds.total - 1)
        owners = torch.repeat_interleave(lengths, output_size=bounds.total)
        self._places = owners * bounds.longest + tokens - begins[owners]

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, of_queries: Bounds, of_keys: Bounds
    ) -> tuple[Tensor, Tensor]:
        every = of_queries is of_keys
        query = query[self._index] if every else query[:, None]
        scores = torch.einsum("pqhd,pkhd->phqk", query, key[self._index]).float() * query.shape[-1] ** -0.5
        scores = scores.masked_fill(~self._held[:, None, None], float("-inf"))
        found = torch.einsum("phqk,pkhd->pqhd", scores.softmax(dim=-1).to(value.dtype), value[self._index])
        found, weights = found.flatten(0, 1), scores.logsumexp(dim=-1).transpose(1, 2).flatten(0, 1)
        return (found[self._places], weights[self._places]) if every else (found, weights)


def flash_attention() -> Attend | None:
    """CUDA's attention of variable length, where this torch and this card have it; for half precision."""
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn
    except ImportError:
        return None
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return None
    heads_first = False
    wanted = AuxRequest(lse=True)

    def attend(query: Tensor, key: Tensor, value: Tensor, of_queries: Bounds, of_keys: Bounds) -> tuple[Tensor, Tensor]:
        found, weights = varlen_attn(
            query, key, value, of_queries.edges, of_keys.edges, of_queries.longest, of_keys.longest, return_aux=wanted
        )
        return found, weights.transpose(0, 1) if heads_first else weights

    # a few tokens, to see that the kernel is there, and which dimension of the logarithms comes first: versions differ
    trial = torch.linspace(-1, 1, 5 * 2 * 16, device="cuda").reshape(5, 2, 16).to(torch.bfloat16)
    bounds = Bounds(torch.tensor([0, 3, 5], device="cuda", dtype=torch.int32), 3, 5)
    expected = one_by_one(trial, trial, trial, bounds, bounds)
    try:
        heads_first = attend(trial, trial, trial, bounds, bounds)[1].shape == (2, 5)
        found = attend(trial, trial, trial, bounds, bounds)
    except (RuntimeError, TypeError):
        return None
    same = all(
        torch.allclose(one.float(), other.float(), 0.02, 0.02) for one, other in zip(found, expected, strict=True)
    )
    return attend if same else None


def one_by_one(query: Tensor, key: Tensor, value: Tensor, of_queries: Bounds, of_keys: Bounds) -> tuple[Tensor, Tensor]:
    """The same attention, sequence by sequence, in any precision and on any device: what a kernel is held against."""
    found, weights = [], []
    spans = (pairwise(bounds.edges.tolist()) for bounds in (of_queries, of_keys))
    for (begin, end), (first, last) in zip(*spans, strict=True):
        scores = torch.einsum("qhd,khd->qhk", query[begin:end], key[first:last]) * query.shape[-1] ** -0.5
        found.append(torch.einsum("qhk,khd->qhd", scores.softmax(dim=-1), value[first:last]))
        weights.append(scores.logsumexp(dim=-1))
    return torch.cat(found), torch.cat(weights)


def _single(bounds: Bounds) -> Bounds:
    """Bounds of sequences of one token each, as many as there are."""
    return Bounds(
        torch.arange(len(bounds.edges), device=bounds.edges.device, dtype=torch.int32), 1, len(bounds.edges) - 1
    )
