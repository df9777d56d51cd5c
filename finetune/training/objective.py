"""What a run trains a model to do: its labels, loss, output activation and class weights, derived once and carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.config.choice import Choice
from finetune.config.training import TrainConfig
from finetune.core.errors import DataError
from finetune.core.labels import LabelSpace, SoftLabels
from finetune.core.scores import Activation, Floats, activate
from finetune.core.target_scale import TargetScale
from finetune.data.rows import Rows
from finetune.training.losses import Loss, default_loss, loss_for, output_activation, require_fit

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Objective:
    """What a model is trained to do.

    Attributes:
        labels: the labels, and the task that they make.
        loss: name and options; the task's default where the config has none.
        activation: turns logits into scores.
        class_weights: `[C]`, taken from the training rows; None where all labels count the same.
        target_scale: of regression, the scale of its targets.
    """

    labels: LabelSpace
    loss: Choice
    activation: Activation
    class_weights: npt.NDArray[np.float32] | None = None
    target_scale: TargetScale | None = None

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        labels: LabelSpace,
        values: Sequence[Any],
        target_scale: TargetScale | None = None,
        row_weights: npt.NDArray[np.float32] | None = None,
    ) -> Objective:
        """Return the objective of a config.

        Args:
            values: the labels of the training rows, from which the default loss and balanced class weights follow.
            row_weights: of those rows `[N]`, with a mean of 1.

        Raises:
            ConfigError: a loss or class weights that do not fit the task.
        """
        soft_labels = any(isinstance(value, SoftLabels) for value in values)
        loss = config.loss or Choice(name=default_loss(labels.task, soft_labels=soft_labels))
        require_fit(labels.task, loss, soft_labels=soft_labels)
        wanted = config.class_weights
        class_weights = labels.weights(wanted, labels.targets(values), row_weights) if wanted != "none" else None
        return cls(labels, loss, output_activation(labels.task, loss), class_weights, target_scale)

    def loss_function(self) -> Loss:
        """Return the loss of logits `[B, C]` and targets as a function that returns `[B]`."""
        return loss_for(self.labels.task, self.loss, class_weights=self.class_weights, target=self.target_scale)

    def scores(self, logits: npt.ArrayLike) -> Floats:
        """Return the scores of logits `[N, C]`."""
        return activate(logits, self.activation, target=self.target_scale)

    def targets_of(self, rows: Rows) -> Array:
        """Return the targets of rows: ids `[N]`, soft labels or zeros and ones `[N, C]`, or standardized numbers `[N]`.

        Raises:
            ConfigError: a loss that these targets do not fit.
            DataError: a number that the loss cannot take; names the file and the row.
        """
        targets = self.labels.targets(rows.values)
        require_fit(self.labels.task, self.loss, soft_labels=self.labels.are_soft(targets))
        if self.activation == "softplus" and targets.min() < 0:
            row = int(targets.argmin())
            raise DataError(
                f"the number {targets[row]:g} is below 0, which loss {self.loss.name!r} cannot take: choose another "
                "loss, or correct the number",
                file=rows.source,
                row=rows.numbers[row],
            )
        return targets if self.target_scale is None else self.target_scale.standardize(rows.values)

    def prior(self, targets: Array, row_weights: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Return the logits `[C]` at which the scores are the class proportions (or the mean) of training targets."""
        if self.target_scale is not None and self.activation == "softplus":
            return np.asarray([self.target_scale.softplus_logit_of_mean], dtype=np.float32)
        return self.labels.prior(targets, self.class_weights, row_weights)
