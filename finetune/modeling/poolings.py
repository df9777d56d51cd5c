"""How a text's token states become one vector, for heads of our own; the table POOLINGS closes the file.

Knows: modules `(states of each layer, each [B, L, H]; mask [B, L]) -> [B, H]`, made for a width H.
Does not know: heads, where states come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Pooling(nn.Module):
    """Reads the last layer's states by a function `(states [B, L, H], mask [B, L]) -> [B, H]`."""

    every_layer = False
    """Whether the states of all layers are wanted, not only of the last."""

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._read = read

    def forward(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """`[B, H]` from the states of the layers, last one last."""
        found: Tensor = self._read(states[-1], mask)
        return found


class FirstAndLast(Pooling):
    """Mean of the first and the last layer's states."""

    every_layer = True

    def __init__(self) -> None:
        super().__init__(_mean)

    def forward(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """`[B, H]` from the states of the layers, embeddings first."""
        return _mean((states[0] + states[-1]) / 2, mask)


class Attention(Pooling):
    """Tokens weighted by a learnt score, softmax over the text."""

    def __init__(self, width: int) -> None:
        super().__init__(self._weighted)
        self.score = nn.Linear(width, 1)

    def _weighted(self, states: Tensor, mask: Tensor) -> Tensor:
        scores = self.score(states)[..., 0].masked_fill(~mask, torch.finfo(states.dtype).min)
        found: Tensor = (scores.softmax(dim=1)[..., None] * states).sum(dim=1)
        return found


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
    """The mean over tokens, weighted by a learnt score"""
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
