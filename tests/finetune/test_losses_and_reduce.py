"""Losses against hand-computed numbers; the reducer against one large step, in the real Trainer."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.artifact import find
from finetune.config import TrainConfig
from finetune.configfile import build
from finetune.encoding import TextEncoder
from finetune.labels import LabelSpace, Task
from finetune.losses import DEFAULT_LOSS, FITS, LOSSES
from finetune.reduce import reduce
from finetune.tokens import Tokens

CASES = [(name, task) for name, fit in FITS.items() for task in fit.tasks]


def example(task: Task, rows: int) -> tuple[Tensor, Any]:
    """Random logits and label values for a task of as many rows."""
    torch.manual_seed(0)
    if task == "regression":
        return torch.randn(rows, 1), [float(value) for value in torch.rand(rows)]
    if task == "multi_label":
        return torch.randn(rows, 3), [["a"] if index % 2 else ["b", "c"] for index in range(rows)]
    names = ["a", "b"] if task == "binary" else ["a", "b", "c"]
    return torch.randn(rows, len(names)), [names[index % len(names)] for index in range(rows)]


def test_tables_agree() -> None:
    assert set(LOSSES) == set(FITS)
    assert all(task in FITS[name].tasks for task, name in DEFAULT_LOSS.items())


def test_losses_are_what_the_textbook_says() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert LOSSES["sparse_categorical_crossentropy"](logits, torch.tensor([1])).item() == pytest.approx(-math.log(0.75))
    # the margin of two logits is the logit of the second label
    assert LOSSES["binary_crossentropy"](logits, torch.tensor([0])).item() == pytest.approx(-math.log(0.25), rel=1e-6)
    both = LOSSES["binary_crossentropy"](logits, torch.tensor([[1.0, 1.0]])).item()
    assert both == pytest.approx((-math.log(0.5) - math.log(0.75)) / 2)
    assert LOSSES["mean_squared_error"](torch.tensor([[3.0]]), torch.tensor([1.0])).item() == pytest.approx(4.0)


def test_binary_crossentropy_of_two_labels_equals_their_softmax_crossentropy() -> None:
    logits, targets = torch.randn(16, 2), torch.randint(0, 2, (16,))
    one, other = (LOSSES[name](logits, targets) for name in ("binary_crossentropy", "sparse_categorical_crossentropy"))
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_extreme_logits_give_finite_losses_and_gradients(name: str, task: Task) -> None:
    logits, values = example(task, 6)
    logits = (logits * 1e4).requires_grad_()
    space = LabelSpace.fit(values, task)
    losses = LOSSES[name](logits, torch.from_numpy(space.encode(values)))
    losses.sum().backward()
    assert losses.shape == (6,)
    assert torch.isfinite(losses).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("name", "task"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_four_accumulated_steps_equal_one_large_step(
    tiny_base: Path, tmp_path: Path, name: str, task: Task, weighted: bool
) -> None:
    if weighted and task == "regression":
        pytest.skip("a number has no label to weigh")
    more = {"class_weights": {"a": 3.0, "b": 0.5}} if weighted else {}
    large = first_gradients(tiny_base, tmp_path / "large", name, task, 8, 1, **more)
    small = first_gradients(tiny_base, tmp_path / "small", name, task, 2, 4, **more)
    assert set(large) == set(small)
    for key, gradient in large.items():
        assert torch.allclose(gradient, small[key], rtol=1e-4, atol=1e-6), key
    assert max(gradient.abs().max().item() for gradient in large.values()) > 1e-4
    if weighted:
        plain = first_gradients(tiny_base, tmp_path / "plain", name, task, 8, 1)
        assert any(not torch.allclose(gradient, plain[key], rtol=1e-3, atol=1e-6) for key, gradient in large.items())


def first_gradients(
    base: Path, folder: Path, name: str, task: Task, batch_size: int, accumulation: int, **more: Any
) -> dict[str, Tensor]:
    """The gradients of the first update of a run, as the Trainer hands them to the optimizer: 7 rows, so that the last
    batch is ragged."""
    from transformers import TrainerCallback

    from finetune.fitting import Encoded, _Fitting

    found: dict[str, Tensor] = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            found.update(
                {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}
            )
            control.should_training_stop = True

    _, values = example(task, 7)
    labels = LabelSpace.fit(values, task)
    optim = {"batch_size": batch_size, "accumulation": accumulation, "epochs": 1, "max_grad_norm": 0, "lr": 1e-3}
    config: TrainConfig = build(
        {
            "base": str(base),
            "out": str(folder),
            "optim": optim | {"group_by_length": False},
            "loss": name,
            "precision": "float32",
            "model": {"dropout": 0},
            **more,
        }
    )
    encoder = TextEncoder.load(base, json.loads((base / "config.json").read_text()))
    texts = ["good film " * (1 + index % 3) for index in range(7)]
    rows = Encoded(Tokens(texts, None, encoder), labels.targets(values))
    fitting = _Fitting(config, find(str(base)), labels, encoder, rows, rows, folder, lambda event: None)
    fitting.trainer.add_callback(Catch())
    fitting.trainer.args.set_evaluate("no")
    fitting.trainer.train()
    return found


def test_a_mean_of_batches_would_have_been_wrong() -> None:
    losses, targets = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3, 4)
    whole = reduce(losses, targets, 12)
    parts = reduce(losses[:2], targets[:2], 12) + reduce(losses[2:], targets[2:], 12)
    assert whole.item() == parts.item() == 3.0
    assert losses[:2].mean() + losses[2:].mean() != 3.0
