"""The gradients of a run's first update, in this process or in each of several.

The real Trainer is stopped where it hands gradients to the optimizer. As a script, under torch.distributed.run: BASE
OUT CASES, the cases as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from finetune.config.loading import build
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import find
from finetune.core.tokenization import TextEncoder
from finetune.data.tokenized import Tokens
from finetune.training import processes
from finetune.training.batch_plan import batch_plan_for
from finetune.training.examples import Examples
from finetune.training.fit import AttemptInputs, TrainingAttempt
from finetune.training.objective import Objective


def values_of(task: str, rows: int) -> list[Any]:
    """Label values for a task."""
    torch.manual_seed(0)
    if task == "regression":
        return [float(value) for value in torch.rand(rows)]
    if task == "multi_label":
        return [["a"] if index % 2 else ["b", "c"] for index in range(rows)]
    names = ["a", "b"] if task == "binary" else ["a", "b", "c"]
    return [names[index % len(names)] for index in range(rows)]


def first_gradients(
    base: Path,
    folder: Path,
    name: str,
    task: str,
    *,
    rows: int,
    batch_size: int,
    accumulation: int = 1,
    order: Sequence[int] | None = None,
    row_weights: Sequence[float] | None = None,
    **more: Any,
) -> dict[str, torch.Tensor]:
    """The gradients of the first update.

    Args:
        order: positions of the rows that are trained on, which may repeat.
        row_weights: of those rows, with a mean of 1.
    """
    found: dict[str, torch.Tensor] = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            weights = ((key.removeprefix("module."), weight) for key, weight in model.named_parameters())
            found.update({key: weight.grad.clone() for key, weight in weights if weight.grad is not None})
            control.should_training_stop = True

    values = values_of(task, rows)
    labels = LabelSpace.fit(values, task)  # type: ignore[arg-type]
    optim = {"batch_size": batch_size, "accumulation": accumulation, "epochs": 1, "max_grad_norm": 0, "lr": 1e-3}
    content = {"base": str(base), "out": str(folder), "loss": name, "precision": "float32", "model": {"dropout": 0}}
    config = build({**content, "optim": optim | {"group_by_length": False}, **more})
    encoder = TextEncoder.load(base, json.loads((Path(base) / "config.json").read_text()))
    texts = ["good film " * (1 + index % 3) for index in range(rows)]
    targets = labels.targets(values)
    order = range(rows) if order is None else order
    factors = None if row_weights is None else np.asarray(row_weights, dtype=np.float32)
    split = Examples(Tokens([texts[index] for index in order], None, encoder), targets[list(order)], factors)
    plan = batch_plan_for(config, split.tokens.lengths, split.targets, labels.task, None)
    objective = Objective.of(config, labels, values, row_weights=factors)
    inputs = AttemptInputs(find(str(base)), objective, encoder, split, split, plan, Path(folder), lambda event: None)
    attempt = TrainingAttempt(config, inputs)
    attempt.trainer.add_callback(Catch())
    attempt.trainer.args.set_evaluate("no")
    attempt.trainer.train()
    return found


if __name__ == "__main__":
    processes.join("cpu", lambda event: None)  # or both would write one checkpoint
    base, out = Path(sys.argv[1]), Path(sys.argv[2])
    collected = {}
    for name, task in json.loads(sys.argv[3]):
        weights = {} if task == "regression" else {"class_weights": {"a": 3.0, "b": 0.5}}
        collected[f"{name} {task}"] = first_gradients(base, out / "run", name, task, rows=8, batch_size=4, **weights)
    if processes.is_main():
        torch.save(collected, out / "gradients.pt")
    processes.wait()
    processes.leave()
