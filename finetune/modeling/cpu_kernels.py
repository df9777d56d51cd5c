"""What torch does slowly while it trains on a CPU, done faster: dropout, attention of short texts.

Knows: the extension points of torch and transformers for these; what is computed stays the same.
Does not know: which model it serves, the Trainer.

Figures are in docs/decisions.md.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 2**16
"""Dropout's probability is rounded to one over this: torch draws a float for each value, here it is 16 bits."""

QUICK_EAGER = "quick_eager"
"""Name of `quick_eager` among transformers' attention functions."""


class QuickDropout(nn.Dropout):
    """torch's Dropout, some four times as fast on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Dropout.forward`."""
        if not self.training or self.inplace or input.device.type != "cpu":
            return super().forward(input)
        return dropped(input, self.p)


def dropped(values: Tensor, p: float) -> Tensor:
    """Values of a CPU tensor, each zero with probability `p`, the others divided by 1 - p."""
    below = round(p * STEPS)
    if below in (0, STEPS):
        return F.dropout(values, p)
    found: Tensor = _Dropped.apply(values, below)  # type: ignore[no-untyped-call]
    return found


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, below: int) -> Tensor:
        count = values.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = bits.view(torch.int16)[:count].view(values.shape) >= below - STEPS // 2
        ctx.save_for_backward(kept)
        ctx.scale = STEPS / (STEPS - below)
        return torch.where(kept, values, 0.0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return torch.where(kept, gradients[0], 0.0).mul_(ctx.scale), None


def drop_quickly(model: nn.Module) -> None:
    """Let every plain Dropout of a model be a quick one."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = QuickDropout


def quick_eager(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[Tensor, Tensor]:
    """BERT's eager attention with a quick dropout: heads `[B, H, L, D]` to states `[B, L, H, D]` and weights."""
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1).to(value.dtype)
    if module.training and dropout:
        weights = dropped(weights, dropout)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def eager_of(model: Any) -> str:
    """The name of the fastest eager attention for a model: ours where its family's is BERT's to the letter."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask
    from transformers.models.bert import modeling_bert

    own = {inspect.getmodule(type(module)) for module in model.modules()}
    functions: list[Any] = [vars(module).get("eager_attention_forward") for module in own if module is not None]
    functions = [function for function in functions if function is not None]
    plain = inspect.getsource(modeling_bert.eager_attention_forward)
    if not functions or any(inspect.getsource(function) != plain for function in functions):
        return "eager"
    AttentionInterface.register(QUICK_EAGER, quick_eager)
    AttentionMaskInterface.register(QUICK_EAGER, eager_mask)
    return QUICK_EAGER
