"""The objective of a run is derived once, from the config and the training rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError, DataError
from finetune.core.labels import LabelSpace, SoftLabels
from finetune.core.target_scale import TargetScale
from finetune.data.rows import Rows
from finetune.training.objective import Objective

pytestmark = pytest.mark.fast

Make = Callable[..., TrainConfig]
BINARY = LabelSpace("binary", ("no", "yes"))
NUMBER = LabelSpace("regression", ("score",))


def rows(values: list[object]) -> Rows:
    return Rows([f"text {i}" for i in range(len(values))], None, values, list(range(1, len(values) + 1)), "some.csv")


def test_loss_activation_and_class_weights_follow_from_the_training_rows(config: Make) -> None:
    values = ["no", "no", "no", "yes"]
    objective = Objective.of(config(class_weights="balanced"), BINARY, values)
    assert (objective.loss.name, objective.activation) == ("sparse_categorical_crossentropy", "softmax")
    assert objective.class_weights is not None and objective.class_weights == pytest.approx([4 / 6, 2])
    targets = objective.targets_of(rows(["yes", "yes"]))
    # the weights are those of the training rows, not of the two rows here; -log(1/2) each
    losses = objective.loss_function()(torch.zeros(2, 2), torch.from_numpy(targets))
    assert losses.tolist() == pytest.approx([2 * np.log(2)] * 2)
    assert objective.scores([[0.0, np.log(3.0)]]) == pytest.approx(np.array([[0.25, 0.75]]))


def test_soft_labels_have_their_own_loss_and_are_refused_where_the_training_rows_have_none(config: Make) -> None:
    soft = SoftLabels(("no", "yes"), (0.2, 0.8))
    assert Objective.of(config(), BINARY, [soft, soft]).loss.name == "categorical_crossentropy"
    hard = Objective.of(config(), BINARY, ["no", "yes"])
    with pytest.raises(ConfigError, match="does not fit task binary with soft labels: choose one of categorical_cross"):
        hard.targets_of(rows([soft, soft]))


def test_a_number_that_the_loss_cannot_take_is_named_with_its_row(config: Make) -> None:
    values = [1.0, 2.0, 6.0]
    objective = Objective.of(config(loss="mean_squared_logarithmic_error"), NUMBER, values, TargetScale.fit(values))
    assert objective.activation == "softplus"
    assert objective.targets_of(rows(values)).mean() == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match="-4 is below 0, which loss .* cannot take") as caught:
        objective.targets_of(rows([1.0, -4.0]))
    assert "some.csv" in str(caught.value) and "row 2" in str(caught.value)
