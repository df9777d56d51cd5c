"""A body's last layer computed for the first token alone, where the head reads nothing else.

Knows: how a layer of BERT's kind is put together, and how to tell that a model gives the same logits this way.
Does not know: training, batches.

Keys and values are needed of all tokens, queries, output and feed-forward part of the first only: five sixths of the
layer's matrix products are saved.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4
"""Largest difference of a logit, over the largest logit, that float32 leaves between the two ways."""


@contextmanager
def first_token_only(model: Any, *, wanted: bool = True, tried: bool = False) -> Iterator[bool]:
    """While this lasts, the last layer gives `[B, 1, H]`, its state of the first token; gives whether it does.

    A model whose layers are not BERT's, or whose head reads more than the first token, stays as it is.

    Args:
        tried: it is known that the model gives the same logits this way.
    """
    layers = layers_of(model) if wanted else []
    layer = layers[-1] if layers else None
    if layer is None or not (tried or _reads_first_token_only(model, layer)):
        yield False
        return
    expected = None if tried else _logits_of_a_few(model)
    layer.forward = partial(_forward, layer)
    try:
        same = True
        if expected is not None:
            difference = (_logits_of_a_few(model) - expected).abs().max()
            same = bool(difference <= TOLERANCE * expected.abs().max().clamp(min=1))
        if not same:
            del layer.forward
        yield same
    finally:
        vars(layer).pop("forward", None)


def _reads_first_token_only(model: Any, layer: Any) -> bool:
    """Whether logits stay numbers where the last states of all other tokens are none."""

    def spoil(module: Any, inputs: Any, states: Any) -> Any:
        if not isinstance(states, Tensor) or states.dim() != 3:
            raise TypeError("a layer of another kind")
        first = torch.arange(states.shape[1], device=states.device) == 0
        return states.masked_fill(~first[:, None], float("nan"))

    hook = layer.register_forward_hook(spoil)
    try:
        return bool(torch.isfinite(_logits_of_a_few(model)).all())
    except TypeError:
        return False
    finally:
        hook.remove()


def layers_of(model: Any) -> list[Any]:
    """The body's layers, where each computes what BERT's does; else none."""
    from transformers.models.bert import modeling_bert as bert

    stacks = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = max(stacks, key=len, default=[])
    return layers if all(_is_berts(layer, bert) for layer in layers) else []


def _is_berts(layer: Any, bert: Any) -> bool:
    attention = getattr(layer, "attention", None)
    own = getattr(attention, "self", None)
    parts = ((layer, bert.BertLayer), (attention, bert.BertAttention), (own, bert.BertSelfAttention))
    return all(_forward_of(type(one)) == _forward_of(kind) for one, kind in parts)


def _forward_of(kind: type) -> Any:
    """What a class computes; families differ from BERT in comments at times."""
    forward = getattr(kind, "forward", None)
    code = getattr(inspect.unwrap(forward), "__code__", None) if forward is not None else None
    return code and (code.co_code, code.co_names, code.co_varnames)


def _logits_of_a_few(model: Any) -> Tensor:
    ids = torch.arange(10, device=model.device).reshape(2, 5)
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids, attention_mask=mask).logits.float()
    finally:
        model.train(training)
    return logits


def _forward(
    layer: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: None = None,
    encoder_attention_mask: None = None,
    cache: None = None,
    **rest: Any,
) -> Tensor:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.bert.modeling_bert import eager_attention_forward

    own = layer.attention.self
    rows, first = hidden_states.shape[0], hidden_states[:, :1]  # len() would be a constant to a tracer

    def heads(states: Tensor) -> Tensor:
        return states.view(rows, -1, own.num_attention_heads, own.attention_head_size).transpose(1, 2)

    attend = ALL_ATTENTION_FUNCTIONS.get_interface(own.config._attn_implementation, eager_attention_forward)
    states, _ = attend(
        own,
        heads(own.query(first)),
        heads(own.key(hidden_states)),
        heads(own.value(hidden_states)),
        attention_mask[:, :, :1] if attention_mask is not None else None,
        dropout=own.dropout.p if own.training else 0.0,
        scaling=own.scaling,
        **rest,
    )
    found: Tensor = layer.feed_forward_chunk(layer.attention.output(states.reshape(rows, 1, -1), first))
    return found
