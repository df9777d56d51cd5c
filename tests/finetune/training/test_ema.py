"""The EMA of the weights."""

from pathlib import Path

import pytest
import torch

from finetune.training.ema import WARMUP, EmaWeights

pytestmark = pytest.mark.fast


def test_the_mean_is_the_one_computed_by_hand_and_survives_a_checkpoint(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    ema = EmaWeights(model, decay=0.5)
    expected, values = None, [1.0, 3.0, -2.0, 8.0, 0.5]
    for n, value in enumerate(values):
        torch.nn.init.constant_(model.weight, value)
        ema.update()
        decay = min(0.5, (1 + n) / (WARMUP + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        if n == 2:
            ema.save(tmp_path)
            ema = EmaWeights(torch.nn.Linear(2, 1), decay=0.5)
            ema.load(tmp_path)
            ema._model = model
    with ema.in_place():
        assert model.weight.tolist() == [[pytest.approx(expected)] * 2]
    assert model.weight.tolist() == [[values[-1]] * 2]
