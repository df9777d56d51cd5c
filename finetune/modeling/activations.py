"""Activations of a head's hidden layers, and which of their units are silent; the table ACTIVATIONS closes the file."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

SATURATED = 0.01
"""Distance from either end of its range, relative to the range, at which a sigmoid or tanh is saturated."""


def linear() -> nn.Module:
    """z, unchanged"""
    return nn.Identity()


def sigmoid() -> nn.Module:
    """1 / (1 + exp(-z)): between 0 and 1; its gradient is at most 1/4, so gradients vanish in deep stacks"""
    return nn.Sigmoid()


def softmax() -> nn.Module:
    """exp(z) / sum exp(z) over the units of the layer"""
    return nn.Softmax(dim=-1)


def tanh() -> nn.Module:
    """(exp(z) - exp(-z)) / (exp(z) + exp(-z)): between -1 and 1, around 0"""
    return nn.Tanh()


def relu() -> nn.Module:
    """max(0, z): passes gradients unchanged; a unit that is always below 0 is dead"""
    return nn.ReLU()


def gelu() -> nn.Module:
    """z times the normal distribution's Phi(z), as in BERT"""
    return nn.GELU()


def silu() -> nn.Module:
    """z sigmoid(z), smooth and cheap"""
    return nn.SiLU()


def leaky_relu(*, slope: float = 0.01) -> nn.Module:
    """z above 0 and slope z below, so that no unit dies"""
    return nn.LeakyReLU(slope)


def softplus() -> nn.Module:
    """log(1 + exp(z)): a smooth max(0, z)"""
    return nn.Softplus()


def silent(module: nn.Module, outputs: Tensor) -> Tensor | None:
    """Return which units `[H]` pass no gradient for any row of `outputs [B, H]`: dead (ReLU) or saturated (sigmoid,
    tanh).

    None for an activation whose units cannot be silent.
    """
    if isinstance(module, nn.ReLU):
        return (outputs <= 0).all(dim=0)
    if isinstance(module, nn.Tanh):
        return (outputs.abs() > 1 - 2 * SATURATED).all(dim=0)
    if isinstance(module, nn.Sigmoid):
        return torch.logical_or(outputs < SATURATED, outputs > 1 - SATURATED).all(dim=0)
    return None


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "linear": linear,
    "sigmoid": sigmoid,
    "softmax": softmax,
    "tanh": tanh,
    "relu": relu,
    "gelu": gelu,
    "silu": silu,
    "leaky_relu": leaky_relu,
    "softplus": softplus,
}
