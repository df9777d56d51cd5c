from pathlib import Path

import pytest
import torch

from finetune.core.labels import LabelSpace
from finetune.core.model_folder import find
from finetune.modeling.build import build_model
from finetune.modeling.interpolation import interpolated

pytestmark = pytest.mark.fast


def test_weights_of_the_base_are_interpolated_and_a_new_head_is_not(tiny_base: Path) -> None:
    labels = LabelSpace("multiclass", ("a", "b", "c"))
    torch.manual_seed(0)
    built, base = (build_model(find(str(tiny_base)), labels) for _ in range(2))
    with torch.no_grad():
        for weight in built.model.parameters():
            weight.add_(1.0)
    trained = {name: weight.clone() for name, weight in built.model.state_dict().items()}

    mixed = interpolated(built.model, base, 0.25).state_dict()

    assert "bert.encoder.layer.0.output.dense.weight" in base.kept and "classifier.weight" in base.new
    for name, weight in mixed.items():
        expected = trained[name] - 0.25 if name in base.kept else trained[name]
        assert torch.allclose(weight, expected, atol=1e-6), name
