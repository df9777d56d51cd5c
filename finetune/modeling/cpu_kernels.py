"""Faster versions of what torch does slowly while it trains on a CPU: dropout, attention of short texts.

What is computed stays the same; figures are in docs/decisions.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.modeling.fast_paths import agree, log_off, model_type_of, trial_logits

STEPS = 2**16
"""Dropout's probability is a multiple of one over this: torch draws a float for each value, FastDropout 16 bits."""

NAME = "fast attention on the CPU"
FAST_EAGER = "fast_eager"
"""Name of `fast_eager` in transformers' AttentionInterface."""

BERT_ATTENTION = frozenset(
    {
        *("albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "gte"),
        *("jina_embeddings_v3", "mobilebert", "nomic_bert", "roberta", "roberta-prelayernorm", "roc_bert"),
        *("xlm-roberta", "xlm-roberta-xl"),
    }
)
"""Model types whose eager attention computes what BERT's does, of those that train on texts."""


class FastDropout(nn.Dropout):
    """torch's Dropout, about four times as fast on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Return what `nn.Dropout.forward` returns."""
        if not self.training or self.inplace or input.device.type != "cpu":
            return super().forward(input)
        return fast_dropout(input, self.p)


def fast_dropout(values: Tensor, p: float) -> Tensor:
    """Return the values of a CPU tensor, each zero with probability `p`, the others divided by 1 - p."""
    below = round(p * STEPS)
    if below in (0, STEPS):
        return F.dropout(values, p)
    dropped: Tensor = _Dropout.apply(values, below)  # type: ignore[no-untyped-call]
    return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, below: int) -> Tensor:
        count = values.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        mask = bits.view(torch.int16)[:count].view(values.shape) >= below - STEPS // 2
        ctx.save_for_backward(mask)
        ctx.scale = STEPS / (STEPS - below)
        return torch.where(mask, values, 0.0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return torch.where(mask, gradients[0], 0.0).mul_(ctx.scale), None


def use_fast_dropout(model: nn.Module) -> None:
    """Make every plain Dropout of a model a FastDropout."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout


def fast_eager(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[Tensor, Tensor]:
    """Return states `[B, L, H, D]` and weights of BERT's eager attention with fast dropout; heads are `[B, H, L,
    D]`."""
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1).to(value.dtype)
    if module.training and dropout:
        weights = fast_dropout(weights, dropout)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def eager_attention_for(model: Any) -> str:
    """Return the name of the fastest eager attention for a model on the CPU: ours where the model's type has BERT's
    attention and gives the same logits with ours, else transformers' own."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    model_type = model_type_of(model)
    if model_type not in BERT_ATTENTION:
        log_off(NAME, model_type, "its attention is not BERT's")
        return "eager"
    AttentionInterface.register(FAST_EAGER, fast_eager)
    AttentionMaskInterface.register(FAST_EAGER, eager_mask)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        expected = trial_logits(model)
        model.set_attn_implementation(FAST_EAGER)
        reason = "" if agree(trial_logits(model), expected) else "its logits differ from those of ordinary attention"
    except Exception as error:  # whatever another release of transformers changed, training goes on without it
        reason = f"the trial failed with {type(error).__name__}: {error}"
    finally:
        model.set_attn_implementation(before)
    if reason:
        log_off(NAME, model_type, reason)
    return "eager" if reason else FAST_EAGER
