"""How many rows are computed at once, and how many batches make an update.

Knows: batch regimes of the config, and how much memory a model keeps for the backward pass.
Does not know: which rows they are (batching.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from finetune.core.labels import Task
from finetune.training.samplers import MOST_TOGETHER, Batches, batches_for, even_weights, updates_of

SAFE_SHARE = 0.6
"""Share of the free memory that a batch may take: allocators, and kernels' workspaces, take some as well."""

MOST_ROWS = 1024


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a run, and how they make updates."""

    batches: Batches
    accumulation: int
    updates_per_epoch: int
    updates: int

    def __str__(self) -> str:
        of = f"{self.batches.batch_size} rows" if self.batches.tokens is None else f"{self.batches.tokens} tokens"
        more = f", {self.accumulation} batches an update" if self.accumulation > 1 else ""
        return f"batches of {of}{more}: {self.updates_per_epoch} updates an epoch, {self.updates} in all"


def batch_plan_for(config: TrainConfig, lengths: Any, targets: Any, task: Task, model: Any) -> BatchPlan:
    """The regime of a config for rows of these lengths `[N]`.

    Args:
        model: measured where the config says `auto`.
    """
    optim = config.optim
    if optim.sampler == "balanced" and task == "regression":
        raise ConfigError("optim.sampler=balanced wants labels, and the task is regression")
    count = len(lengths)
    rows = {"full": MOST_TOGETHER, "auto": 0}.get(str(optim.batch_size), 0) or (
        rows_that_fit(model, int(lengths.max())) if optim.batch_size == "auto" else int(optim.batch_size)
    )
    rows = min(rows, count)
    accumulation = optim.accumulation
    if optim.effective_batch is not None:
        accumulation = math.ceil(optim.effective_batch / min(rows, optim.effective_batch))
        rows = math.ceil(optim.effective_batch / accumulation)
    weights = even_weights(targets) if optim.sampler == "balanced" else None
    batches = batches_for(optim, lengths, rows, weights=weights, seed=config.seed)
    if optim.batch_size == "full":
        accumulation = len(batches)
    each = updates_of(len(batches), accumulation)
    return BatchPlan(batches, accumulation, each, max(1, math.ceil(each * optim.epochs)))


def rows_that_fit(model: Any, length: int) -> int:
    """The largest power of two of rows of `length` tokens, at most MOST_ROWS, whose training fits the free memory."""
    import psutil

    cuda = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    # beside the weights stand their gradients and Adam's two means
    room = SAFE_SHARE * free - 4 * weights
    fitting = int(room / kept_for_backward(model, length))
    if fitting < 1:
        raise ConfigError(f"not one row of {length} tokens fits the free memory: lower data.max_length")
    return int(min(MOST_ROWS, 2 ** int(math.log2(fitting))))


def kept_for_backward(model: Any, length: int) -> int:
    """Bytes that one row of `length` tokens keeps until its backward pass, in float32."""
    own = {weight.data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = max(kept.get(tensor.data_ptr(), 0), tensor.numel() * tensor.element_size())
        return tensor

    ids = torch.zeros((2, length), dtype=torch.long, device=model.device)
    training = model.training
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    del logits
    model.train(training)
    return max(1, sum(kept.values()) // 2)
