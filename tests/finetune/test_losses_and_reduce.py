"""Losses against hand-computed numbers; the reducer against one large step, in the real Trainer."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.config import TrainConfig
from finetune.encoding import TextEncoder
from finetune.labels import LabelSpace, Task
from finetune.losses import DEFAULT_LOSS, LOSSES, TASKS_OF_LOSS, loss_for
from finetune.reduce import reduce
from finetune.tokens import Tokens

CASES = [(name, task) for name, tasks in TASKS_OF_LOSS.items() for task in tasks]


def example(task: Task, rows: int) -> tuple[Tensor, Any]:
    """Random logits and label values for a task of as many rows."""
    torch.manual_seed(0)
    if task == "regression":
        return torch.randn(rows, 1), [float(value) for value in torch.randn(rows)]
    if task == "multi_label":
        return torch.randn(rows, 3), [["a"] if index % 2 else ["b", "c"] for index in range(rows)]
    names = ["a", "b"] if task == "binary" else ["a", "b", "c"]
    return torch.randn(rows, len(names)), [names[index % len(names)] for index in range(rows)]


def test_tables_agree() -> None:
    assert set(LOSSES) == set(TASKS_OF_LOSS)
    assert all(task in TASKS_OF_LOSS[name] for task, name in DEFAULT_LOSS.items())


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
@pytest.mark.parametrize("rows", [8, 7])
def test_four_accumulated_steps_equal_one_large_step(
    tiny_base: Path, tmp_path: Path, name: str, task: Task, rows: int
) -> None:
    large = gradients(tiny_base, tmp_path / "large", name, task, rows, batch_size=8, accumulation=1)
    small = gradients(tiny_base, tmp_path / "small", name, task, rows, batch_size=2, accumulation=4)
    assert set(large) == set(small)
    for key, gradient in large.items():
        assert torch.allclose(gradient, small[key], rtol=1e-4, atol=1e-6), key
    assert max(gradient.abs().max().item() for gradient in large.values()) > 1e-4


def gradients(
    base: Path, folder: Path, name: str, task: Task, rows: int, *, batch_size: int, accumulation: int
) -> dict[str, Tensor]:
    """The gradients of the first update, as the Trainer hands them to the optimizer."""
    from transformers import TrainerCallback

    from finetune import trainer as training
    from finetune.artifact import find
    from finetune.configfile import build
    from finetune.model import build_model

    found: dict[str, Tensor] = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            found.update(
                {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}
            )

    _, values = example(task, rows)
    labels = LabelSpace.fit(values, task)
    optim = {"batch_size": batch_size, "accumulation": accumulation, "epochs": 1, "max_grad_norm": 0, "lr": 1e-3}
    settings: TrainConfig = build(
        {"base": "b", "out": "o", "optim": optim, "loss": name, "precision": "float32", "model": {"dropout": 0}}
    )
    torch.manual_seed(7)
    built = build_model(find(str(base)), labels, dropout=0.0)
    encoder = TextEncoder.load(base, json.loads((base / "config.json").read_text()))
    texts = ["good film " * (1 + index % 3) for index in range(rows)]
    data = training.Examples(Tokens(texts, None, encoder), labels.encode(values))
    training.HeadTrainer(
        loss=loss_for(task, settings.loss),
        model=built.model,
        args=training.training_arguments(settings, folder, rows, "accuracy"),
        train_dataset=data,
        eval_dataset=data,
        data_collator=training.Collator(encoder, with_segments=False),
        compute_metrics=lambda prediction: {"accuracy": 0.0},
        callbacks=[Catch()],
    ).train()
    return found


def test_a_mean_of_batches_would_have_been_wrong() -> None:
    losses, targets = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3, 4)
    whole = reduce(losses, targets, 12)
    parts = reduce(losses[:2], targets[:2], 12) + reduce(losses[2:], targets[2:], 12)
    assert whole.item() == parts.item() == 3.0
    assert losses[:2].mean() + losses[2:].mean() != 3.0
