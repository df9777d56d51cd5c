"""Losses `(logits [B, C], targets, *, options) -> Tensor [B]`, one number for each row; the tables LOSSES and FITS
close the file.

Targets are ids `[B]`, soft labels `[B, C]` that sum to 1, zeros and ones `[B, C]` for multi-label, or numbers `[B]`.
Two labels have two logits; losses of one logit take the margin z1 - z0. In formulas p = softmax(z), s = sigmoid. A loss
never divides by a number of rows: reduce.py does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.config.choice import Choice
from finetune.core.errors import ConfigError
from finetune.core.registry import pick
from finetune.core.scores import ACTIVATION_OF_TASK, Activation
from finetune.core.target_scale import TargetScale
from finetune.core.task import Task

Loss = Callable[[Tensor, Tensor], Tensor]
TINY = 1e-30


def mean_squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """(z - y)^2"""
    return _error(logits, targets) ** 2


def mean_squared_logarithmic_error(logits: Tensor, targets: Tensor) -> Tensor:
    """(log(1 + softplus(z)) - log(1 + y))^2, for numbers of at least 0 that span orders of magnitude"""
    return _squared_log_error(F.softplus(_wide(logits[:, 0])), _wide(targets))


def mean_absolute_error(logits: Tensor, targets: Tensor) -> Tensor:
    """|z - y|, less sensitive to outliers than the squared error"""
    return _error(logits, targets).abs()


def huber(logits: Tensor, targets: Tensor, *, delta: float = 1.0) -> Tensor:
    """d^2 / 2 up to |d| = delta, delta (|d| - delta / 2) beyond, with d = z - y; delta is in the unit of the targets,
    one standard deviation of the training targets by default"""
    size = _error(logits, targets).abs()
    return torch.where(size <= delta, size**2 / 2, delta * (size - delta / 2))


def log_cosh(logits: Tensor, targets: Tensor) -> Tensor:
    """log(cosh(z - y)): squared near 0, absolute for large errors, smooth between"""
    size = _error(logits, targets).abs()
    # the sum for large errors cancels for small ones; sinh of a large one would overflow, and its gradient with it
    near = torch.log1p(2 * torch.sinh(size.clamp(max=1) / 2) ** 2)
    return torch.where(size < 1, near, size + F.softplus(-2 * size) - math.log(2))


def sparse_categorical_crossentropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-log p[y]: one label of two or more, as an id"""
    return F.cross_entropy(_wide(logits), targets, reduction="none", label_smoothing=label_smoothing)


def categorical_crossentropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-sum y log p: one label of many, as an id or as soft labels that sum to 1"""
    wanted = _soft_labels(logits, targets)
    wanted = wanted * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    return -(wanted * F.log_softmax(_wide(logits), dim=1)).sum(dim=1)


def kullback_leibler_divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """sum y log(y / p): how far the scores are from soft labels"""
    wanted = _soft_labels(logits, targets)
    return (torch.xlogy(wanted, wanted) - wanted * F.log_softmax(_wide(logits), dim=1)).sum(dim=1)


def categorical_hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 + max((1 - y) z) - sum(y z)): the true label's logit should exceed the others, and 0, by 1"""
    wanted, values = _soft_labels(logits, targets), _wide(logits)
    return (1 + ((1 - wanted) * values).amax(dim=1) - (wanted * values).sum(dim=1)).clamp(min=0)


def hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 - t m), with t = -1 or 1 and m = z1 - z0"""
    return (1 - _signs(targets) * _margin(logits)).clamp(min=0)


def squared_hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 - t m)^2, with t = -1 or 1 and m = z1 - z0"""
    return hinge(logits, targets) ** 2


def binary_crossentropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, pos_weight: float | Tensor = 1.0
) -> Tensor:
    """-y log s(z) - (1 - y) log(1 - s(z)): the mean over independent labels, or of the margin of two labels"""
    values, wanted = _each(logits, targets)
    wanted = wanted * (1 - label_smoothing) + label_smoothing / 2
    return _by_row(-pos_weight * wanted * F.logsigmoid(values) - (1 - wanted) * F.logsigmoid(-values), targets)


def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, pos_weight: float | Tensor = 1.0) -> Tensor:
    """(1 - p)^gamma times the cross-entropy, p the score of the true label: easy rows count less"""
    if targets.dim() == 2:
        values, wanted = _wide(logits), _wide(targets)
        right = _power(-values, gamma) * F.logsigmoid(values)
        wrong = _power(values, gamma) * F.logsigmoid(-values)
        return -(pos_weight * wanted * right + (1 - wanted) * wrong).mean(dim=1)
    logs = F.log_softmax(_wide(logits), dim=1)
    missing = (-torch.expm1(logs)).clamp(min=TINY) ** gamma
    return -(_soft_labels(logits, targets) * missing * logs).sum(dim=1)


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    pos_weight: float | Tensor = 1.0,
) -> Tensor:
    """Focal loss with a larger gamma, and a margin `clip`, for absent labels (Ridnik et al., 2021)"""
    values, wanted = _wide(logits), _wide(targets)
    right = _power(-values, gamma_pos) * F.logsigmoid(values)
    shifted = (torch.sigmoid(values) - clip).clamp(min=0)
    # a margin below the precision of float32 leaves log(0)
    log_left = torch.log1p(-shifted) if clip > 1e-6 else F.logsigmoid(-values)
    wrong = shifted.clamp(min=TINY) ** gamma_neg * log_left
    return -(pos_weight * wanted * right + (1 - wanted) * wrong).mean(dim=1)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    return _wide(logits[:, 0]) - _wide(targets)


def _squared_log_error(predictions: Tensor, targets: Tensor) -> Tensor:
    return (torch.log1p(predictions) - torch.log1p(targets)) ** 2


def _margin(logits: Tensor) -> Tensor:
    return _wide(logits[:, 1]) - _wide(logits[:, 0])


def _signs(targets: Tensor) -> Tensor:
    return targets.float() * 2 - 1


def _soft_labels(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.dim() == 2:
        return _wide(targets)
    return F.one_hot(targets, logits.shape[1]).to(torch.float64 if logits.dtype == torch.float64 else torch.float32)


def _each(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if targets.dim() == 1:
        margin = _margin(logits)
        return margin, targets.to(margin.dtype)
    return _wide(logits), _wide(targets)


def _by_row(losses: Tensor, targets: Tensor) -> Tensor:
    return losses if targets.dim() == 1 else losses.mean(dim=1)


def _power(values: Tensor, gamma: float) -> Tensor:
    return torch.sigmoid(values).clamp(min=TINY) ** gamma


LOSSES: dict[str, Callable[..., Tensor]] = {
    "mean_squared_error": mean_squared_error,
    "mean_squared_logarithmic_error": mean_squared_logarithmic_error,
    "mean_absolute_error": mean_absolute_error,
    "huber": huber,
    "log_cosh": log_cosh,
    "sparse_categorical_crossentropy": sparse_categorical_crossentropy,
    "categorical_crossentropy": categorical_crossentropy,
    "kullback_leibler_divergence": kullback_leibler_divergence,
    "categorical_hinge": categorical_hinge,
    "binary_crossentropy": binary_crossentropy,
    "hinge": hinge,
    "squared_hinge": squared_hinge,
    "focal": focal,
    "asymmetric": asymmetric,
}


@dataclass(frozen=True)
class Fit:
    """The tasks and targets that a loss is for.

    Attributes:
        soft_labels: whether it takes soft labels.
        activation: of regression, the output activation inside its formula; for labels it follows from the task.
        original: of regression, `(predictions [B], targets [B]) -> [B]` where the loss is defined on the targets' own
            scale. The others are computed on standardized targets, which changes them by a constant factor.
        in_target_unit: options that are in the unit of the targets.
    """

    tasks: tuple[Task, ...]
    soft_labels: bool = False
    activation: Activation | None = None
    original: Loss | None = None
    in_target_unit: tuple[str, ...] = ()


NUMBER, ONE_OF_MANY = Fit(("regression",)), Fit(("binary", "multiclass"))

FITS: dict[str, Fit] = {
    "mean_squared_error": NUMBER,
    "mean_squared_logarithmic_error": Fit(("regression",), activation="softplus", original=_squared_log_error),
    "mean_absolute_error": NUMBER,
    "huber": Fit(("regression",), in_target_unit=("delta",)),
    "log_cosh": NUMBER,
    "sparse_categorical_crossentropy": ONE_OF_MANY,
    "categorical_crossentropy": Fit(("binary", "multiclass"), soft_labels=True),
    "kullback_leibler_divergence": Fit(("binary", "multiclass"), soft_labels=True),
    "categorical_hinge": ONE_OF_MANY,
    "binary_crossentropy": Fit(("binary", "multi_label")),
    "hinge": Fit(("binary",)),
    "squared_hinge": Fit(("binary",)),
    "focal": Fit(("binary", "multiclass", "multi_label")),
    "asymmetric": Fit(("multi_label",)),
}

DEFAULT_LOSS: dict[Task, str] = {
    "binary": "sparse_categorical_crossentropy",
    "multiclass": "sparse_categorical_crossentropy",
    "multi_label": "binary_crossentropy",
    "regression": "mean_squared_error",
}
DEFAULT_SOFT_LABEL_LOSS = "categorical_crossentropy"


def default_loss(task: Task, *, soft_labels: bool = False) -> str:
    """Return the name of a task's default loss."""
    return DEFAULT_SOFT_LABEL_LOSS if soft_labels else DEFAULT_LOSS[task]


def output_activation(task: Task, choice: Choice | None) -> Activation:
    """Return the activation that turns logits into scores: it follows from the task, for regression from the loss."""
    own = FITS[choice.name].activation if choice is not None else None
    return own or ACTIVATION_OF_TASK[task]


def require_fit(task: Task, choice: Choice, *, soft_labels: bool = False) -> None:
    """Refuse a loss that cannot be computed for a task.

    Args:
        soft_labels: whether the targets are soft labels.

    Raises:
        ConfigError: an unknown name or option, a value out of bounds, or a loss for other tasks (names those that fit).
    """
    name, options = choice.name, choice.options
    pick(LOSSES, name, options, what="loss")
    _require_in_bounds(name, options)
    if task not in FITS[name].tasks or (soft_labels and not FITS[name].soft_labels):
        fitting = (other for other, fit in FITS.items() if task in fit.tasks and (fit.soft_labels or not soft_labels))
        what = f"task {task.replace('_', '-')}" + (" with soft labels" if soft_labels else "")
        raise ConfigError(f"loss {name!r} does not fit {what}: choose one of {', '.join(fitting)}")
    if name == "focal" and task != "multi_label" and "pos_weight" in options:
        raise ConfigError("loss focal: pos_weight is for the multi-label task. Use class_weights instead")


def loss_for(
    task: Task,
    choice: Choice | None,
    *,
    soft_labels: bool = False,
    class_weights: Any = None,
    target: TargetScale | None = None,
) -> Loss:
    """Return a loss, or the task's default, with its options and class weights bound.

    Args:
        soft_labels: whether the targets are soft labels.
        class_weights: `[C]`, the factor of a row with that label; for multi-label the factor of the label where it
            holds (`pos_weight`).
        target: the scale of a regression's targets; the loss then takes standardized logits and targets.

    Raises:
        ConfigError: as `require_fit`.
    """
    choice = choice or Choice(name=default_loss(task, soft_labels=soft_labels))
    require_fit(task, choice, soft_labels=soft_labels)
    name, options = choice.name, choice.options
    loss: Any = pick(LOSSES, name, options, what="loss")
    if target is not None:
        return _on_target_scale(loss, FITS[name], options, target)
    if class_weights is None:
        return partial(loss)
    class_weights = torch.as_tensor(class_weights)
    if task == "multi_label":
        return partial(_with_pos_weight, loss, class_weights * options.get("pos_weight", 1.0))
    return partial(_weighted, loss, class_weights)


def _on_target_scale(loss: Any, fit: Fit, options: Mapping[str, Any], target: TargetScale) -> Loss:
    """Return a loss of standardized logits and targets."""
    if fit.original is None:
        units = {option: options[option] / target.std for option in fit.in_target_unit if option in options}
        return partial(loss, **units)
    original = fit.original
    # without this factor the gradients of tiny targets would be far below Adam's epsilon
    factor = ((1 + target.mean) / target.std) ** 2

    def on_original_scale(logits: Tensor, targets: Tensor) -> Tensor:
        predictions = target.std * F.softplus(_wide(logits[:, 0]) + target.mean / target.std)
        return factor * original(predictions, (_wide(targets) * target.std + target.mean).clamp(min=0))

    return on_original_scale


BOUNDS: dict[str, tuple[float, float]] = {
    "label_smoothing": (0, 1),
    "delta": (1e-12, math.inf),
    "pos_weight": (0, math.inf),
    "gamma": (0, math.inf),
    "gamma_pos": (0, math.inf),
    "gamma_neg": (0, math.inf),
    "clip": (0, 1),
}
"""Option of a loss -> its least value, and the value that it must stay below."""


def _require_in_bounds(name: str, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        least, below = BOUNDS.get(option, (-math.inf, math.inf))
        if isinstance(value, int | float) and not least <= value < below:
            wanted = f"at least {least:g}" + ("" if below == math.inf else f" and below {below:g}")
            raise ConfigError(f"loss {name!r}: {option} is {value:g}, and must be {wanted}")


def _with_pos_weight(loss: Any, class_weights: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    losses: Tensor = loss(logits, targets, pos_weight=class_weights.to(logits.device))
    return losses


def _weighted(loss: Loss, class_weights: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    weights = class_weights.to(logits.device)
    return loss(logits, targets) * (weights[targets] if targets.dim() == 1 else (weights * targets).sum(dim=1))
