"""References for losses, activations and initializers: Keras's of the same names, and definitions in float64.

Keras clips probabilities at its epsilon, 1e-7, and raises smaller label proportions to it. It runs here in float64 with
an epsilon too small to matter, so that the formula is what is compared.
"""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"  # read as keras is imported
os.environ.setdefault("KERAS_HOME", os.devnull)  # neither reads nor writes ~/.keras/keras.json

import keras
import numpy as np
import numpy.typing as npt
import torch
from keras import losses as of_keras
from scipy.special import xlogy
from scipy.stats import truncnorm
from torch import Tensor

Floats = npt.NDArray[np.float64]

EPSILON = 1e-12
BIG = 1e4
"""Logits that no float32 probability survives."""

OPTIONS: dict[str, list[dict[str, float]]] = {
    "huber": [{}, {"delta": 0.3}, {"delta": 5.0}],
    "sparse_categorical_crossentropy": [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.5}],
    "categorical_crossentropy": [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.5}],
    "binary_crossentropy": [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.5}],
    "focal": [{}, {"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 5.0}],
    "asymmetric": [
        {},
        {"gamma_pos": 0.0, "gamma_neg": 2.0, "clip": 0.0},
        {"gamma_pos": 2.0, "gamma_neg": 0.5, "clip": 0.2},
    ],
}
"""Option values to try for a loss; a loss that is not here has no options."""


def deviation(found: Any, expected: Any, *, floor: float) -> float:
    """The largest difference of two arrays of one shape, relative to what is expected or, below it, to `floor`."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"shapes differ: {found.shape} and {expected.shape}")
    return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), floor)))


# example rows


def moderate(task: str, *, soft_labels: bool = False) -> tuple[Tensor, Tensor]:
    """48 rows of seeded logits (float32) and targets, as training meets them."""
    draw = np.random.default_rng(0)
    rows, labels = 48, {"regression": 1, "binary": 2}.get(task, 5)
    logits = draw.normal(0, 2.5, (rows, labels))
    targets: Any
    if task == "regression":
        targets = np.abs(draw.normal(0, 3, rows))
    elif task == "multi_label":
        targets = draw.random((rows, labels)) < 0.3
    elif soft_labels:
        targets = draw.dirichlet(np.ones(labels), rows)
        targets[:labels] = np.eye(labels)
    else:
        return torch.tensor(logits, dtype=torch.float32), torch.from_numpy(draw.integers(0, labels, rows))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)


def extreme(task: str, *, soft_labels: bool = False) -> tuple[Tensor, Tensor]:
    """Every row of logits from -1e4, 0, 1e4, with every target at a border; of many labels the last never holds.

    Numbers go up to 1e13, whose cube leaves float32.
    """
    logits: list[Any]
    targets: list[Any]
    if task == "regression":
        logits, targets = [[z] for z in (-BIG, -1.0, 0.0, 1.0, BIG)], [0.0, 1e-3, 1.0, BIG, 1e9, 1e13]
    else:
        labels = {"binary": 2, "multi_label": 3}.get(task, 4)
        logits = list(itertools.product([-BIG, 0.0, BIG], repeat=labels))
        if task == "multi_label":
            targets = list(itertools.product([0.0, 1.0], repeat=labels))
        elif soft_labels:
            rows = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.7, 0.3, 0.0, 0.0], [0.25, 0.25, 0.5, 0.0]]
            targets = [row[:labels] for row in rows if sum(row[:labels]) == 1]
        else:
            targets = list(range(max(2, labels - 1)))
    pairs = list(itertools.product(logits, targets))
    found = torch.tensor([target for _, target in pairs])
    return torch.tensor([list(row) for row, _ in pairs]), found


# Keras's losses


@contextmanager
def _precise() -> Iterator[None]:
    epsilon, floatx = keras.config.epsilon(), keras.config.floatx()
    keras.config.set_epsilon(EPSILON)
    keras.config.set_floatx("float64")  # the type of the constants in its formulas
    try:
        yield
    finally:
        keras.config.set_epsilon(epsilon)
        keras.config.set_floatx(floatx)


def keras_loss(name: str, logits: Tensor, targets: Tensor, **options: float) -> Floats:
    """Keras's loss a row `[B]`, in float64."""
    with _precise():
        wanted = targets if targets.dtype == torch.int64 else targets.double()
        found: Floats = KERAS[name](logits.double(), wanted, **options).cpu().numpy()
    return found


def _of_number(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda z, y, **options: function(y[:, None], z, **options)


def _of_shares(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    return lambda z, y, **options: function(_held(z, y), z, **more, **options)


def _held(z: Tensor, y: Tensor) -> Tensor:
    return y if y.dim() == 2 else torch.nn.functional.one_hot(y, z.shape[1]).double()


def _of_margin(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda z, y: function(2.0 * y[:, None] - 1, z[:, 1:] - z[:, :1])


def _logarithmic(z: Tensor, y: Tensor) -> Any:
    return of_keras.mean_squared_logarithmic_error(y[:, None], keras.ops.softplus(z))


def _sparse(z: Tensor, y: Tensor, **options: float) -> Any:
    if options:  # Keras's sparse loss has no smoothing
        return KERAS["categorical_crossentropy"](z, y, **options)
    return of_keras.sparse_categorical_crossentropy(y, z, from_logits=True)


def _binary(z: Tensor, y: Tensor, **options: float) -> Any:
    values, wanted = (z, y) if y.dim() == 2 else (z[:, 1:] - z[:, :1], y[:, None].double())
    return of_keras.binary_crossentropy(wanted, values, from_logits=True, **options)


def _focal(z: Tensor, y: Tensor, **options: float) -> Any:
    if y.dim() == 2:
        return of_keras.binary_focal_crossentropy(y, z, from_logits=True, **options)
    return of_keras.categorical_focal_crossentropy(_held(z, y), z, alpha=1.0, from_logits=True, **options)


KERAS: dict[str, Callable[..., Any]] = {
    "mean_squared_error": _of_number(of_keras.mean_squared_error),
    "mean_squared_logarithmic_error": _logarithmic,
    "mean_absolute_error": _of_number(of_keras.mean_absolute_error),
    "huber": _of_number(of_keras.huber),
    "log_cosh": _of_number(of_keras.log_cosh),
    "sparse_categorical_crossentropy": _sparse,
    "categorical_crossentropy": _of_shares(of_keras.categorical_crossentropy, from_logits=True),
    "kullback_leibler_divergence": lambda z, y: of_keras.kl_divergence(_held(z, y), keras.ops.softmax(z)),
    "categorical_hinge": _of_shares(of_keras.categorical_hinge),
    "binary_crossentropy": _binary,
    "hinge": _of_margin(of_keras.hinge),
    "squared_hinge": _of_margin(of_keras.squared_hinge),
    "focal": _focal,
}
"""Loss -> `(z, y, **options)` by Keras; `asymmetric` is not among Keras's."""


# definitions in float64


def defined_loss(name: str, logits: Tensor, targets: Tensor, **options: Any) -> Floats:
    """The loss a row `[B]` by its definition, in float64."""
    z, y = logits.detach().double().numpy(), targets.numpy()
    return DEFINITIONS[name](z, y if y.dtype == np.int64 else y.astype(np.float64), **options)


def _log_p(z: Floats) -> Floats:
    lead = z - z.max(axis=1, keepdims=True)
    return np.asarray(lead - np.log(np.exp(lead).sum(axis=1, keepdims=True)))


def _log_s(z: Floats) -> Floats:
    return np.asarray(-np.logaddexp(0.0, -z))


def _one_hot(z: Floats, y: Any) -> Floats:
    return y if y.ndim == 2 else np.eye(z.shape[1])[y]


def _defined_huber(z: Floats, y: Floats, delta: float = 1.0) -> Floats:
    d = np.abs(z[:, 0] - y)
    return np.where(d <= delta, d**2 / 2, delta * (d - delta / 2))


def _defined_crossentropy(z: Floats, y: Any, label_smoothing: float = 0.0) -> Floats:
    soft_labels = _one_hot(z, y) * (1 - label_smoothing) + label_smoothing / z.shape[1]
    return np.asarray(-(soft_labels * _log_p(z)).sum(axis=1))


def _defined_divergence(z: Floats, y: Any) -> Floats:
    soft_labels = _one_hot(z, y)
    return np.asarray((xlogy(soft_labels, soft_labels) - soft_labels * _log_p(z)).sum(axis=1))


def _defined_categorical_hinge(z: Floats, y: Any) -> Floats:
    soft_labels = _one_hot(z, y)
    return np.maximum(0.0, 1 + ((1 - soft_labels) * z).max(axis=1) - (soft_labels * z).sum(axis=1))


def _defined_hinge(z: Floats, y: Any) -> Floats:
    return np.maximum(0.0, 1 - (2 * y - 1) * (z[:, 1] - z[:, 0]))


def _defined_binary(z: Floats, y: Any, label_smoothing: float = 0.0, pos_weight: Any = 1.0) -> Floats:
    values, wanted = (z, y) if y.ndim == 2 else ((z[:, 1] - z[:, 0])[:, None], y[:, None])
    wanted = wanted * (1 - label_smoothing) + label_smoothing / 2
    return np.asarray(-(pos_weight * wanted * _log_s(values) + (1 - wanted) * _log_s(-values)).mean(axis=1))


def _defined_focal(z: Floats, y: Any, gamma: float = 2.0, pos_weight: Any = 1.0) -> Floats:
    if y.ndim == 2:
        right, wrong = np.exp(_log_s(-z)) ** gamma * _log_s(z), np.exp(_log_s(z)) ** gamma * _log_s(-z)
        return np.asarray(-(pos_weight * y * right + (1 - y) * wrong).mean(axis=1))
    log_p = _log_p(z)[np.arange(len(z)), y]
    return np.asarray(-((-np.expm1(log_p)) ** gamma) * log_p)


def _defined_asymmetric(
    z: Floats, y: Floats, gamma_pos: float = 1.0, gamma_neg: float = 4.0, clip: float = 0.05, pos_weight: Any = 1.0
) -> Floats:
    """Equations 4 to 7 of Ridnik et al., 2021 (arXiv 2009.14119): L+ = (1 - p)^g+ log p, and for a label that does not
    hold L- = m^g- log(1 - m), m = max(p - clip, 0)."""
    p_shifted = np.maximum(np.exp(_log_s(z)) - clip, 0.0)
    log_left = np.log1p(-p_shifted) if clip else _log_s(-z)
    right = np.exp(_log_s(-z)) ** gamma_pos * _log_s(z)
    return np.asarray(-(pos_weight * y * right + (1 - y) * p_shifted**gamma_neg * log_left).mean(axis=1))


DEFINITIONS: dict[str, Callable[..., Floats]] = {
    "mean_squared_error": lambda z, y: (z[:, 0] - y) ** 2,
    "mean_squared_logarithmic_error": lambda z, y: (np.log1p(np.logaddexp(0, z[:, 0])) - np.log1p(y)) ** 2,
    "mean_absolute_error": lambda z, y: np.abs(z[:, 0] - y),
    "huber": _defined_huber,
    "log_cosh": lambda z, y: np.logaddexp(z[:, 0] - y, y - z[:, 0]) - np.log(2),
    "sparse_categorical_crossentropy": _defined_crossentropy,
    "categorical_crossentropy": _defined_crossentropy,
    "kullback_leibler_divergence": _defined_divergence,
    "categorical_hinge": _defined_categorical_hinge,
    "binary_crossentropy": _defined_binary,
    "hinge": _defined_hinge,
    "squared_hinge": lambda z, y: _defined_hinge(z, y) ** 2,
    "focal": _defined_focal,
    "asymmetric": _defined_asymmetric,
}


# activations and initializers


def keras_activation(name: str, values: Tensor, *, slope: float = 0.01) -> Floats:
    """Keras's activation of the values, in float64; softmax over the last dimension."""
    more: dict[str, Any] = {"gelu": {"approximate": False}, "leaky_relu": {"negative_slope": slope}}.get(name, {})
    found: Floats = getattr(keras.activations, name)(values.double(), **more).cpu().numpy()
    return found


@dataclass(frozen=True)
class Spread:
    """What a distribution promises of its values."""

    mean: float
    std: float
    low: float = -np.inf
    high: float = np.inf


def keras_weight(name: str, fan_out: int, fan_in: int, **options: float) -> Floats:
    """A weight `[fan_out, fan_in]` as Keras's initializer fills its kernel, which is `[fan_in, fan_out]`."""
    make = getattr(keras.initializers, name)
    arguments: dict[str, Any] = {{"low": "minval", "high": "maxval"}.get(knob, knob): v for knob, v in options.items()}
    if "seed" in inspect.signature(make).parameters:
        arguments["seed"] = 12345  # Keras draws from torch too: not the stream of a small seed again
    kernel: Floats = make(**arguments)((fan_in, fan_out)).double().cpu().numpy()
    return kernel.T


def defined_spread(name: str, fan_out: int, fan_in: int, **options: float) -> Spread:
    """The mean, standard deviation and bounds that an initializer's definition gives a weight."""
    return SPREADS[name](fan_out, fan_in, **options)


NARROWER = float(truncnorm(-2, 2).std())
"""The standard deviation of a standard normal that is cut at 2."""


def _cut(stddev: float, mean: float = 0.0) -> Spread:
    """Of a normal cut at two standard deviations, which are those from before the cut."""
    return Spread(mean, stddev * NARROWER, mean - 2 * stddev, mean + 2 * stddev)


def _flat(low: float, high: float) -> Spread:
    return Spread((low + high) / 2, (high - low) / 12**0.5, low, high)


def _same(value: float) -> Spread:
    return Spread(value, 0.0, value, value)


SPREADS: dict[str, Callable[..., Spread]] = {
    "zeros": lambda fan_out, fan_in: _same(0.0),
    "ones": lambda fan_out, fan_in: _same(1.0),
    "constant": lambda fan_out, fan_in, value: _same(value),
    "random_normal": lambda fan_out, fan_in, mean=0.0, stddev=0.05: Spread(mean, stddev),
    "random_uniform": lambda fan_out, fan_in, low=-0.05, high=0.05: _flat(low, high),
    "truncated_normal": lambda fan_out, fan_in, mean=0.0, stddev=0.05: _cut(stddev, mean),
    "glorot_normal": lambda fan_out, fan_in: _cut((2 / (fan_in + fan_out)) ** 0.5 / NARROWER),
    "glorot_uniform": lambda fan_out, fan_in: _flat(
        -((6 / (fan_in + fan_out)) ** 0.5), (6 / (fan_in + fan_out)) ** 0.5
    ),
    "he_normal": lambda fan_out, fan_in: _cut((2 / fan_in) ** 0.5 / NARROWER),
    "he_uniform": lambda fan_out, fan_in: _flat(-((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5),
    "lecun_normal": lambda fan_out, fan_in: _cut((1 / fan_in) ** 0.5 / NARROWER),
    "orthogonal": lambda fan_out, fan_in, gain=1.0: Spread(0.0, gain / max(fan_in, fan_out) ** 0.5, -gain, gain),
}

INITIALIZER_OPTIONS: dict[str, list[dict[str, float]]] = {
    "constant": [{"value": 0.05}, {"value": -2.0}],
    "random_normal": [{}, {"mean": 0.5, "stddev": 0.2}],
    "random_uniform": [{}, {"low": -0.1, "high": 0.4}],
    "truncated_normal": [{}, {"mean": 0.5, "stddev": 0.2}],
    "orthogonal": [{}, {"gain": 2.0}],
}
"""Option values to try for an initializer; one that is not here has no options."""
