"""What a run does when memory is used up: it computes each batch in smaller parts, with the same rows in an update.

Decisions only: batches are split in trainer.py, runs are begun again in fitting.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError

ACROSS_ROWS: frozenset[str] = frozenset()
"""Losses and auxiliary terms whose value for a row depends on the other rows of its batch; none of ours does."""


@dataclass(frozen=True)
class OutOfMemory:
    """An allocation failed: how many rows were computed at once, and whether it was in an evaluation."""

    rows: int
    evaluating: bool


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that an allocation on a device or in main memory failed."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size  # type: ignore[import-untyped]

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, Exception):
        return False
    words = ("not enough memory: you tried to allocate", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")
    return should_reduce_batch_size(error) or (
        isinstance(error, RuntimeError) and any(one in str(error) for one in words)
    )


def require_divisible(config: TrainConfig, model: Any, out: OutOfMemory) -> None:
    """Refuse to halve batches where that changes what is trained, or where nothing is left to halve.

    Raises:
        ConfigError: batch normalization, a loss or term that looks across rows, or a single row that does not fit.
    """
    import torch

    what = f"out of memory with {out.rows} rows at once"
    if out.rows <= 1:
        raise ConfigError(
            "out of memory with a single row: lower data.max_length, choose a smaller base, or train with LoRA "
            "(model.lora) or frozen layers (model.freeze)"
        )
    if out.evaluating:
        return
    norms = torch.nn.modules.batchnorm._BatchNorm
    if any(isinstance(module, norms) for module in model.modules()):
        raise ConfigError(
            f"{what}, and smaller batches would change the statistics of batch normalization: lower optim.batch_size "
            "or data.max_length, or take --set model.head.norm=layer"
        )
    names = [config.loss.name] if config.loss is not None else []
    across = sorted({*names, *(term.name for term in config.auxiliary)} & ACROSS_ROWS)
    if across:
        raise ConfigError(
            f"{what}, and {across[0]} compares the rows of a batch with each other, so that smaller batches would "
            "change it: lower optim.batch_size or data.max_length"
        )


def split(inputs: Mapping[str, Any], parts: int) -> Iterator[dict[str, Any]]:
    """Cut a batch into at most `parts` parts of nearly equal size, in row order, none of them empty.

    Args:
        inputs: tensors by name, the rows along their first dimension.
    """
    rows = len(inputs["labels"])
    size = -(-rows // parts)
    for start in range(0, rows, size):
        yield {name: tensor[start : start + size] for name, tensor in inputs.items()}


def release() -> None:
    """Return memory that nothing refers to any more to the device and the system."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
