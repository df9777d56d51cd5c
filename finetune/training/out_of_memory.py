"""What a run does when memory runs out: it computes each batch in smaller parts, with the same rows in an update.

Batches are split in trainer.py; attempts are repeated in attempts.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError

ACROSS_ROWS: frozenset[str] = frozenset()
"""Losses and auxiliary terms whose value for a row depends on the other rows of its batch; currently none."""


@dataclass(frozen=True)
class OutOfMemory:
    """A failed allocation.

    Attributes:
        rows: rows computed at once.
        evaluating: whether it happened in an evaluation.
    """

    rows: int
    evaluating: bool


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed allocation on a device or in main memory."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size  # type: ignore[import-untyped]

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, Exception):
        return False
    messages = ("not enough memory: you tried to allocate", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")
    return should_reduce_batch_size(error) or (
        isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
    )


def require_divisible(config: TrainConfig, model: Any, out: OutOfMemory) -> None:
    """Refuse to halve batches where that changes the training, or where a batch has one row only.

    Raises:
        ConfigError: batch normalization, a loss or term across rows, or a single row that does not fit.
    """
    import torch

    shortage = f"out of memory with {out.rows} rows at once"
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
            f"{shortage}, and smaller batches would change the statistics of batch normalization: lower "
            "optim.batch_size or data.max_length, or --set model.head.norm=layer"
        )
    names = [config.loss.name] if config.loss is not None else []
    across = sorted({*names, *(term.name for term in config.auxiliary)} & ACROSS_ROWS)
    if across:
        raise ConfigError(
            f"{shortage}, and {across[0]} compares the rows of a batch with each other, so that smaller batches would "
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
    """Return unreferenced memory to the device and the system."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
