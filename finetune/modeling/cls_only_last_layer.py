"""A body's last layer computed for the first token alone, where the head reads nothing else.

Keys and values are needed of all tokens; queries, output and feed-forward part of the first only: five sixths of the
layer's matrix products are saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finetune.modeling.fast_paths import agree, log_off, model_type_of, trial_logits

NAME = "the last layer for the first token alone"

BERT_LAYERS = frozenset(
    ("bert", "camembert", "data2vec-text", "electra", "ernie", "roberta", "roc_bert", "xlm-roberta")
)
"""Model types whose layers compute what BERT's do."""


@contextmanager
def first_token_only(model: Any, *, wanted: bool = True, tried: bool = False) -> Iterator[bool]:
    """Make the last layer return `[B, 1, H]`, its state of the first token, until the context ends.

    Args:
        wanted: False changes nothing.
        tried: the model is known to give the same logits this way, so that the trial is left out.

    Yields:
        Whether it is on. It is off for layers that are not BERT's, for a head that reads more than the first token, and
        where the trial gives other logits.
    """
    layers = layers_of(model) if wanted else []
    layer = layers[-1] if layers else None
    if layer is None or not (tried or _reads_first_token_only(model, layer)):
        yield False
        return
    expected = None if tried else trial_logits(model)
    layer.forward = partial(_forward, layer)
    try:
        reason = "" if expected is None else _difference(model, expected)
        if reason:
            del layer.forward
            log_off(NAME, model_type_of(model), reason)
        yield not reason
    finally:
        vars(layer).pop("forward", None)


def _difference(model: Any, expected: Tensor) -> str:
    """Return why a model does not give the expected logits; empty where it does."""
    try:
        return "" if agree(trial_logits(model), expected) else "the logits differ from those of the ordinary layer"
    except Exception as error:  # whatever another release of transformers changed, the ordinary layer is still there
        return f"the trial failed with {type(error).__name__}: {error}"


def _reads_first_token_only(model: Any, layer: Any) -> bool:
    """Return whether logits stay finite where the last states of all other tokens are NaN."""

    def spoil(module: Any, inputs: Any, states: Any) -> Any:
        if not isinstance(states, Tensor) or states.dim() != 3:
            raise TypeError("a layer of another kind")
        first = torch.arange(states.shape[1], device=states.device) == 0
        return states.masked_fill(~first[:, None], float("nan"))

    hook = layer.register_forward_hook(spoil)
    try:
        return bool(torch.isfinite(trial_logits(model)).all())
    except TypeError:
        return False
    finally:
        hook.remove()


def layers_of(model: Any) -> list[Any]:
    """Return the body's layers, from the lowest up, where the model's type has BERT's layers; else an empty list."""
    model_type = model_type_of(model)
    stacks = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = max(stacks, key=len, default=[])
    if model_type in BERT_LAYERS and all(_has_parts(layer) for layer in layers):
        return layers
    log_off(NAME, model_type, "its layers are not BERT's")
    return []


def _has_parts(layer: Any) -> bool:
    """Return whether a layer has the parts that `_forward` reads."""
    own = getattr(getattr(layer, "attention", None), "self", None)
    names = ("query", "key", "value", "num_attention_heads", "attention_head_size", "scaling", "dropout")
    return all(hasattr(own, name) for name in names) and hasattr(layer, "feed_forward_chunk")


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
    output: Tensor = layer.feed_forward_chunk(layer.attention.output(states.reshape(rows, 1, -1), first))
    return output
