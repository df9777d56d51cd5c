"""Losses against hand-computed numbers; the reducer against one large step, in the real Trainer."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from first_gradients import first_gradients, values_of
from torch import Tensor

from finetune.core.labels import LabelSpace
from finetune.core.task import Task
from finetune.training.losses import DEFAULT_LOSS, FITS, LOSSES
from finetune.training.reduce import reduce

CASES = [(name, task) for name, fit in FITS.items() for task in fit.tasks]


def example(task: Task, rows: int) -> tuple[Tensor, Any]:
    """Random logits and label values for a task of as many rows."""
    values = values_of(task, rows)
    return torch.randn(rows, len(LabelSpace.fit(values, task))), values


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


WEIGHTS = {"class_weights": {"a": 3.0, "b": 0.5}}


@pytest.mark.parametrize(
    ("name", "task", "more"),
    # regression has no class weights
    [(name, task, more) for name, task in CASES for more in ({}, WEIGHTS) if not (more and task == "regression")],
)
def test_four_accumulated_steps_equal_one_large_step(
    tiny_base: Path, tmp_path: Path, name: str, task: Task, more: dict[str, Any]
) -> None:
    # 7 rows, so that the last batch is ragged
    large = first_gradients(tiny_base, tmp_path / "a", name, task, rows=7, batch_size=8, **more)
    small = first_gradients(tiny_base, tmp_path / "b", name, task, rows=7, batch_size=2, accumulation=4, **more)
    assert set(large) == set(small)
    for key, gradient in large.items():
        assert torch.allclose(gradient, small[key], rtol=1e-4, atol=1e-6), key
    assert max(gradient.abs().max().item() for gradient in large.values()) > 1e-4
    if more:
        plain = first_gradients(tiny_base, tmp_path / "c", name, task, rows=7, batch_size=8)
        assert any(not torch.allclose(gradient, plain[key], rtol=1e-3, atol=1e-6) for key, gradient in large.items())


@pytest.mark.parametrize(
    ("name", "task", "accumulation", "more"),
    [(name, task, 3, {}) for task, name in DEFAULT_LOSS.items()] + [("focal", "multiclass", 1, WEIGHTS)],
)
def test_a_weight_of_two_is_the_row_twice_and_a_weight_of_zero_no_row(
    tiny_base: Path, tmp_path: Path, name: str, task: Task, accumulation: int, more: dict[str, Any]
) -> None:
    size = {"rows": 5, "batch_size": 5 // accumulation + 1, "accumulation": accumulation, **more}
    weighted = first_gradients(tiny_base, tmp_path / "a", name, task, row_weights=[2, 0, 1, 1, 1], **size)
    repeated = first_gradients(tiny_base, tmp_path / "b", name, task, order=[0, 0, 2, 3, 4], **size)
    assert set(weighted) == set(repeated)
    for key, gradient in weighted.items():
        assert torch.allclose(gradient, repeated[key], rtol=1e-4, atol=1e-6), key
    plain = first_gradients(tiny_base, tmp_path / "c", name, task, **size)
    assert any(not torch.allclose(gradient, plain[key], rtol=1e-3, atol=1e-6) for key, gradient in weighted.items())


@pytest.mark.slow
def test_two_processes_equal_one(tiny_base: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "support" / "first_gradients.py"
    cases = [(name, task) for task, name in DEFAULT_LOSS.items()]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*launch, str(tiny_base), str(tmp_path), json.dumps(cases)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for case, two in torch.load(tmp_path / "gradients.pt").items():
        name, task = case.split()
        more = {} if task == "regression" else WEIGHTS
        one = first_gradients(tiny_base, tmp_path / "one", name, task, rows=8, batch_size=8, **more)
        assert set(one) == set(two)
        for key, gradient in one.items():
            assert torch.allclose(gradient, two[key], rtol=1e-4, atol=1e-6), (case, key)


def test_a_mean_of_batches_would_have_been_wrong() -> None:
    losses, targets = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3, 4)
    whole = reduce(losses, targets, 12)
    parts = reduce(losses[:2], targets[:2], 12) + reduce(losses[2:], targets[2:], 12)
    assert whole.item() == parts.item() == 3.0
    assert losses[:2].mean() + losses[2:].mean() != 3.0
