"""Losses from logits, one number a row; the table LOSSES closes the file.

Knows: the formulas, each `(logits [B, C], targets, *, knobs) -> Tensor [B]`, and the tasks each is right for.
Does not know: batches, weights or ranks (reduce.py divides), label names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from finetune.config import Choice
from finetune.errors import ConfigError
from finetune.labels import Task
from finetune.registry import pick

Loss = Callable[[Tensor, Tensor], Tensor]


def sparse_categorical_crossentropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-log softmax(z)[y]: one label of two or more, targets as ids `[B]`."""
    return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)


def binary_crossentropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-y log s(z) - (1-y) log(1-s(z)): each label on its own `[B, C]`, or the margin z1 - z0 of two labels `[B]`."""
    if targets.dim() == 1:
        margin = logits[:, 1].float() - logits[:, 0].float()
        return F.binary_cross_entropy_with_logits(margin, targets.float(), reduction="none")
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none").mean(dim=1)


def mean_squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """(z - y)^2: a number, targets `[B]`."""
    return (logits[:, 0].float() - targets.float()) ** 2


LOSSES: dict[str, Callable[..., Tensor]] = {
    "sparse_categorical_crossentropy": sparse_categorical_crossentropy,
    "binary_crossentropy": binary_crossentropy,
    "mean_squared_error": mean_squared_error,
}

TASKS_OF_LOSS: dict[str, tuple[Task, ...]] = {
    "sparse_categorical_crossentropy": ("binary", "multiclass"),
    "binary_crossentropy": ("binary", "multi_label"),
    "mean_squared_error": ("regression",),
}

DEFAULT_LOSS: dict[Task, str] = {
    "binary": "sparse_categorical_crossentropy",
    "multiclass": "sparse_categorical_crossentropy",
    "multi_label": "binary_crossentropy",
    "regression": "mean_squared_error",
}


def loss_for(task: Task, choice: Choice | None) -> Loss:
    """The chosen loss, or the task's default, with knobs bound.

    Raises:
        ConfigError: an unknown name or knob, or a loss that does not fit the task (names those that do).
    """
    name, knobs = (choice.name, choice.knobs) if choice is not None else (DEFAULT_LOSS[task], {})
    loss: Any = pick(LOSSES, name, knobs, what="loss")
    if task not in TASKS_OF_LOSS[name]:
        fitting = ", ".join(other for other, tasks in TASKS_OF_LOSS.items() if task in tasks)
        raise ConfigError(f"loss {name!r} does not fit task {task}: choose one of {fitting}")
    return partial(loss)
