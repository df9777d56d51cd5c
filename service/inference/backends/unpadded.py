"""Sequences end to end without padding, by attention of variable length: a batch costs the tokens it holds.

The shared-text mask becomes two attentions, merged by their weights. In the last layer only the first tokens are
computed past keys and values.
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
"""Maximum tokens of sequences for which batched matrix products are faster than the kernel."""


class Tokens(NamedTuple):
    """`[N]` tokens of several sequences: `positions` and `types` as the model's embeddings take them."""

    ids: Tensor
    positions: Tensor
    types: Tensor | None


class Bounds(NamedTuple):
    """Boundaries of sequences `[B + 1]` int32, the length of the longest, and the total length."""

    edges: Tensor
    longest: int
    total: int


class Attend(Protocol):
    """Attention within sequences end to end."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, of_queries: Bounds, of_keys: Bounds
    ) -> tuple[Tensor, Tensor]:
        """Return attention outputs `[N, heads, D]` and the log-sum-exp of the scores `[N, heads]`."""


class Unpadded:
    """A model that reads sequences without padding; `of` returns None for models of other kinds."""

    def __init__(self, model: Any, layers: Sequence[Any], attend: Attend) -> None:
        self._model, self._body, self._attend = model, model.base_model, attend
        self._layers = [_Layer(layer) for layer in layers]
        before = getattr(self._body.embeddings, "padding_idx", None)
        self._first_position = 0 if before is None else int(before) + 1

    @classmethod
    def of(cls, model: Any, attend: Attend) -> Unpadded | None:
        """Return the model without padding, None if its layers or head are of another kind.

        Its numbers need a trial (`TorchBackend.without_padding`).
        """
        layers = layers_of(model)
        classifier = hasattr(model, "classifier") and hasattr(getattr(model, "base_model", None), "embeddings")
        return cls(model, layers, attend) if layers and classifier else None

    def rows(self, tokens: Tokens, bounds: Bounds) -> Tensor:
        """Return logits `[B, C]` of sequences, each of which attends to itself."""
        states = self._embedded(tokens)
        firsts = bounds.edges[:-1].long()
        *layers, last = self._layers
        for layer in layers:
            attended, _ = self._attend(*layer.heads(states), bounds, bounds)
            states = layer.after(attended, states)
        query, key, value = last.heads(states)
        attended, _ = self._attend(query[firsts], key, value, _single(bounds), bounds)
        return head(self._model, last.after(attended, states[firsts]))

    def labeled(
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
        """Return logits `[P, C]` of texts with labels under the shared-text mask, and the texts' mean states `[B, H]`.

        Args:
            texts: texts without the token that a sequence begins with.
            labels: that token and a hypothesis, for each label, text by text.
            of_labels: the tokens of each label.
            by_text: the tokens of all labels of a text.
            counts: the labels of a text.
        """
        states, keys_values = self._embedded(texts), []
        for number, layer in enumerate(self._layers):
            query, key, value = layer.heads(states)
            keys_values.append((key, value))
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
        for layer, (text_key, text_value) in zip(self._layers, keys_values, strict=True):
            query, key, value = layer.heads(states)
            queries, across = of_labels, by_text
            if layer is self._layers[-1]:  # the head reads the first tokens only
                query, states = query[firsts], states[firsts]
                queries, across = _single(of_labels), counts
            own, own_weight = within(query, key, value, queries, of_labels)
            of_text, text_weight = self._attend(query, text_key, text_value, across, of_texts)
            own_share = torch.sigmoid(own_weight - text_weight)[..., None].to(own.dtype)
            states = layer.after(torch.lerp(of_text, own, own_share), states)
        return head(self._model, states), means

    def _embedded(self, tokens: Tokens) -> Tensor:
        types = torch.zeros_like(tokens.ids) if tokens.types is None else tokens.types
        states = self._body.embeddings(
            input_ids=tokens.ids[None],
            token_type_ids=types[None],
            position_ids=tokens.positions[None] + self._first_position,
        )
        project = getattr(self._body, "embeddings_project", None)
        embedded: Tensor = project(states) if project is not None else states
        return embedded[0]


class _Layer:
    """A layer with one matrix product for query, key and value; the layer's weights become views of the joint one."""

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
        """Return query, key and value of states `[N, H]`, each `[N, heads, D]`."""
        joint = F.linear(states, self._weight, self._bias)
        query, key, value = joint.reshape(len(states), *self._shape).unbind(1)
        return query, key, value

    def after(self, attended: Tensor, states: Tensor) -> Tensor:
        """Return the layer's output for its input states `[N, H]` and attention output `[N, heads, D]`."""
        output: Tensor = self._layer.feed_forward_chunk(self._layer.attention.output(attended.flatten(1), states))
        return output


class _Short:
    """Attention within short sequences as batched products: a kernel for long ones computes nearly empty tiles."""

    def __init__(self, bounds: Bounds) -> None:
        begins, lengths = bounds.edges[:-1].long(), bounds.edges.diff().long()
        columns = torch.arange(bounds.longest, device=begins.device)
        tokens = torch.arange(bounds.total, device=begins.device)
        self._mask = columns < lengths[:, None]
        self._index = (begins[:, None] + columns).clamp(max=bounds.total - 1)
        owners = torch.repeat_interleave(lengths, output_size=bounds.total)
        self._places = owners * bounds.longest + tokens - begins[owners]

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, of_queries: Bounds, of_keys: Bounds
    ) -> tuple[Tensor, Tensor]:
        is_self = of_queries is of_keys
        query = query[self._index] if is_self else query[:, None]
        scores = torch.einsum("pqhd,pkhd->phqk", query, key[self._index]).float() * query.shape[-1] ** -0.5
        scores = scores.masked_fill(~self._mask[:, None, None], float("-inf"))
        output = torch.einsum("phqk,pkhd->pqhd", scores.softmax(dim=-1).to(value.dtype), value[self._index])
        output, weights = output.flatten(0, 1), scores.logsumexp(dim=-1).transpose(1, 2).flatten(0, 1)
        return (output[self._places], weights[self._places]) if is_self else (output, weights)


def flash_attention() -> Attend | None:
    """Return CUDA's attention of variable length for half precision, None if this torch or this GPU lacks it."""
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn
    except ImportError:
        return None
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return None
    heads_first = False
    auxiliary = AuxRequest(lse=True)

    def attend(query: Tensor, key: Tensor, value: Tensor, of_queries: Bounds, of_keys: Bounds) -> tuple[Tensor, Tensor]:
        output, weights = varlen_attn(
            query,
            key,
            value,
            of_queries.edges,
            of_keys.edges,
            of_queries.longest,
            of_keys.longest,
            return_aux=auxiliary,
        )
        return output, weights.transpose(0, 1) if heads_first else weights

    # a trial on a few tokens: whether the kernel exists, and which dimension of log-sum-exp is first (versions differ)
    trial = torch.linspace(-1, 1, 5 * 2 * 16, device="cuda").reshape(5, 2, 16).to(torch.bfloat16)
    bounds = Bounds(torch.tensor([0, 3, 5], device="cuda", dtype=torch.int32), 3, 5)
    expected = one_by_one(trial, trial, trial, bounds, bounds)
    try:
        heads_first = attend(trial, trial, trial, bounds, bounds)[1].shape == (2, 5)
        outputs = attend(trial, trial, trial, bounds, bounds)
    except (RuntimeError, TypeError):
        return None
    same = all(
        torch.allclose(output.float(), other.float(), 0.02, 0.02)
        for output, other in zip(outputs, expected, strict=True)
    )
    return attend if same else None


def one_by_one(query: Tensor, key: Tensor, value: Tensor, of_queries: Bounds, of_keys: Bounds) -> tuple[Tensor, Tensor]:
    """Compute the attention sequence by sequence, in any precision and on any device: the reference of kernels."""
    outputs, weights = [], []
    spans = (pairwise(bounds.edges.tolist()) for bounds in (of_queries, of_keys))
    for (begin, end), (first, last) in zip(*spans, strict=True):
        scores = torch.einsum("qhd,khd->qhk", query[begin:end], key[first:last]) * query.shape[-1] ** -0.5
        outputs.append(torch.einsum("qhk,khd->qhd", scores.softmax(dim=-1), value[first:last]))
        weights.append(scores.logsumexp(dim=-1))
    return torch.cat(outputs), torch.cat(weights)


def _single(bounds: Bounds) -> Bounds:
    """Return the bounds of as many sequences of one token each."""
    return Bounds(
        torch.arange(len(bounds.edges), device=bounds.edges.device, dtype=torch.int32), 1, len(bounds.edges) - 1
    )
