"""Initializers of the new head's weights; the table INITIALIZERS closes the file.

The distributions are those of Keras's initializers of the same names. Each fills a weight `[fan_out, fan_in]` in place
from torch's global generator: seed it first. The body is never changed; biases are zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

TRUNCATED_AT = 2.0
"""Standard deviations at which a normal distribution is truncated."""

TRUNCATED_STDDEV = 0.87962566103423978
"""Standard deviation of the standard normal distribution truncated there."""


def zeros(weight: Tensor) -> None:
    """0: a hidden layer of zeros learns nothing, since all its units stay identical"""
    nn.init.zeros_(weight)


def ones(weight: Tensor) -> None:
    """1: all units of a layer stay identical"""
    nn.init.ones_(weight)


def constant(weight: Tensor, *, value: float = 0.05) -> None:
    """One value: all units of a layer stay identical"""
    nn.init.constant_(weight, value)


def random_normal(weight: Tensor, *, mean: float = 0.0, stddev: float = 0.05) -> None:
    """Normal with this mean and standard deviation"""
    nn.init.normal_(weight, mean, stddev)


def random_uniform(weight: Tensor, *, low: float = -0.05, high: float = 0.05) -> None:
    """Uniform between two bounds"""
    nn.init.uniform_(weight, low, high)


def truncated_normal(weight: Tensor, *, mean: float = 0.0, stddev: float = 0.05) -> None:
    """Normal, truncated at two standard deviations"""
    nn.init.trunc_normal_(weight, mean, stddev, mean - TRUNCATED_AT * stddev, mean + TRUNCATED_AT * stddev)


def glorot_normal(weight: Tensor) -> None:
    """Truncated normal, variance 2 / (fan_in + fan_out): for tanh, sigmoid, softmax"""
    _truncated(weight, 2 / sum(weight.shape))


def glorot_uniform(weight: Tensor) -> None:
    """Uniform within sqrt(6 / (fan_in + fan_out)): for tanh, sigmoid, softmax"""
    _within(weight, 6 / sum(weight.shape))


def he_normal(weight: Tensor) -> None:
    """Truncated normal, variance 2 / fan_in: for ReLU and its variants"""
    _truncated(weight, 2 / weight.shape[1])


def he_uniform(weight: Tensor) -> None:
    """Uniform within sqrt(6 / fan_in): for ReLU and its variants"""
    _within(weight, 6 / weight.shape[1])


def lecun_normal(weight: Tensor) -> None:
    """Truncated normal, variance 1 / fan_in"""
    _truncated(weight, 1 / weight.shape[1])


def orthogonal(weight: Tensor, *, gain: float = 1.0) -> None:
    """A random orthogonal matrix: preserves norms, forward and backward"""
    nn.init.orthogonal_(weight, gain)


def _truncated(weight: Tensor, variance: float) -> None:
    stddev = math.sqrt(variance) / TRUNCATED_STDDEV
    nn.init.trunc_normal_(weight, 0.0, stddev, -TRUNCATED_AT * stddev, TRUNCATED_AT * stddev)


def _within(weight: Tensor, square: float) -> None:
    nn.init.uniform_(weight, -math.sqrt(square), math.sqrt(square))


def initialize(head: nn.Module, fill: Callable[[Tensor], None]) -> None:
    """Initialize every weight matrix of a head with `fill`, and every bias with zeros."""
    with torch.no_grad():
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                fill(layer.weight)
                if layer.bias is not None:
                    layer.bias.zero_()


INITIALIZERS: dict[str, Callable[..., None]] = {
    "zeros": zeros,
    "ones": ones,
    "constant": constant,
    "random_normal": random_normal,
    "random_uniform": random_uniform,
    "truncated_normal": truncated_normal,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
}
