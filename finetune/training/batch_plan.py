"""The batch plan: how many rows are computed at once, and how many batches make an update.

samplers.py chooses the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.config.training import TrainConfig
from finetune.core.device import torch_device
from finetune.core.errors import ConfigError
from finetune.core.task import Task
from finetune.training import processes
from finetune.training.samplers import MOST_TOGETHER, Batches, batches_for, even_weights, updates_of

MEMORY_FRACTION = 0.6
"""Fraction of the free memory for a batch; allocators and kernels' workspaces take the rest."""

MOST_ROWS = 1024
"""Most rows in a batch with batch_size=auto."""


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a run, and its updates.

    Attributes:
        accumulation: batches in an update, of each process.
        updates_per_epoch, updates: updates in an epoch, and in the whole run.
    """

    batches: Batches
    accumulation: int
    updates_per_epoch: int
    updates: int

    def __str__(self) -> str:
        number, of = self.batches.batch_size, "rows"
        if self.batches.tokens is not None:
            number, of = self.batches.tokens, "tokens"
        of, count = f"{number} {of}", self.batches.processes
        if count > 1:
            of = f"{of} in each of {count} processes, {number * count} together"
        more = f", {self.accumulation} batches an update" if self.accumulation > 1 else ""
        return f"batches of {of}{more}: {self.updates_per_epoch} updates an epoch, {self.updates} in all"


def batch_plan_for(config: TrainConfig, lengths: Any, targets: Any, task: Task, model: Any) -> BatchPlan:
    """Return the batch plan of a config for rows of these lengths `[N]` in tokens.

    Args:
        model: measured with optim.batch_size=auto; may be None otherwise.
    """
    optim = config.optim
    if optim.sampler == "balanced" and task == "regression":
        raise ConfigError("optim.sampler=balanced requires labels, and the task is regression")
    count = len(lengths)
    rows = {"full": MOST_TOGETHER, "auto": 0}.get(str(optim.batch_size), 0) or (
        rows_that_fit(model, int(lengths.max()), config.device) if optim.batch_size == "auto" else int(optim.batch_size)
    )
    rows = min(rows, math.ceil(count / processes.count()))
    accumulation = optim.accumulation
    if optim.effective_batch is not None:
        effective = math.ceil(optim.effective_batch / processes.count())  # of one process
        accumulation = math.ceil(effective / min(rows, effective))
        rows = math.ceil(effective / accumulation)
    weights = even_weights(targets) if optim.sampler == "balanced" else None
    batches = batches_for(optim, lengths, rows, weights=weights, seed=config.seed)
    if optim.batch_size == "full":
        accumulation = len(batches)
    per_epoch = updates_of(len(batches), accumulation)
    return BatchPlan(batches, accumulation, per_epoch, max(1, math.ceil(per_epoch * optim.epochs)))


def rows_that_fit(model: Any, length: int, device: str = "auto") -> int:
    """Return the largest power of two, up to MOST_ROWS, of rows of `length` tokens whose training fits the free memory
    of a device.

    Raises:
        ConfigError: not even one row fits.
    """
    import psutil

    cuda = torch_device(device).type == "cuda"
    free = torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    # gradients, Adam's two moments, and weights
    available = MEMORY_FRACTION * free - 4 * weights
    rows = int(available / bytes_for_backward(model, length))
    if rows < 1:
        raise ConfigError(f"not even one row of {length} tokens fits the free memory: lower data.max_length")
    return int(min(MOST_ROWS, 2 ** int(math.log2(rows))))


def bytes_for_backward(model: Any, length: int) -> int:
    """Return the bytes of activations that one row of `length` tokens keeps for its backward pass, in float32."""
    own = {weight.data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = max(sizes.get(tensor.data_ptr(), 0), tensor.numel() * tensor.element_size())
        return tensor

    ids = torch.zeros((2, length), dtype=torch.long, device=model.device)
    training = model.training
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    del logits
    model.train(training)
    return max(1, sum(sizes.values()) // 2)
