"""Poolings: from a text's token states to one vector; the table POOLINGS closes the file.

Each entry returns, for a width H, a module `(states of each layer, each [B, L, H]; mask [B, L]) -> [B, H]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Pooling(nn.Module):
    """Pools the last layer's states with a function `(states [B, L, H], mask [B, L]) -> [B, H]`."""

    every_layer = False
    """Whether `forward` takes the states of all layers instead of the last only."""

    def __init__(self, pool: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._pool = pool

    def forward(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Return `[B, H]` from the states of the layers, the last layer last."""
        pooled: Tensor = self._pool(states[-1], mask)
        return pooled


class FirstAndLast(Pooling):
    """Mean of the first and the last layer's states."""

    every_layer = True

    def __init__(self) -> None:
        super().__init__(_mean)

    def forward(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Return `[B, H]` from the states of the layers, the embeddings first."""
        return _mean((states[0] + states[-1]) / 2, mask)


class Attention(Pooling):
    """Tokens weighted by a learned score, softmax over the text."""

    def __init__(self, width: int) -> None:
        super().__init__(self._weighted)
        self.score = nn.Linear(width, 1)

    def _weighted(self, states: Tensor, mask: Tensor) -> Tensor:
        scores = self.score(states)[..., 0].masked_fill(~mask, torch.finfo(states.dtype).min)
        pooled: Tensor = (scores.softmax(dim=1)[..., None] * states).sum(dim=1)
        return pooled


def cls(width: int) -> Pooling:
    """The state of the first token, [CLS]"""
    return Pooling(lambda states, mask: states[:, 0])


def mean(width: int) -> Pooling:
    """The mean over the text's tokens"""
    return Pooling(_mean)


def max_(width: int) -> Pooling:
    """The largest value of each unit over the text's tokens"""
    return Pooling(lambda states, mask: states.masked_fill(~mask[..., None], torch.finfo(states.dtype).min).amax(dim=1))


def first_last_mean(width: int) -> Pooling:
    """The mean over tokens of the first and last layers' states"""
    return FirstAndLast()


def attention(width: int) -> Pooling:
    """The mean over tokens, weighted by a learned score"""
    return Attention(width)


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


POOLINGS: dict[str, Callable[[int], Pooling]] = {
    "cls": cls,
    "mean": mean,
    "max": max_,
    "first_last_mean": first_last_mean,
    "attention": attention,
}
