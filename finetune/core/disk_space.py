"""Bytes on disk that a run needs, and write errors of a full disk as one sentence.

What is written, and when, is decided elsewhere.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune.core.errors import ConfigError, StorageError

FULL = (errno.ENOSPC, errno.EFBIG, *((errno.EDQUOT,) if hasattr(errno, "EDQUOT") else ()))
"""Error numbers of a full disk, of a file over a process's limit, and of a used-up quota."""

FULL_IN_WORDS = (*(f"(os error {number})" for number in FULL), "inline_container", "PytorchStreamWriter failed")
"""What messages of safetensors and torch.save contain in place of an error number."""

MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1, "adafactor": 0}
"""Values that each optimizer keeps for a weight it trains."""


def checkpoint_bytes(model: Any, optimizer: str, *, averaged: bool) -> int:
    """Return the bytes of one checkpoint: what is saved of the weights, the optimizer's state, and the EMA's weights.

    Args:
        optimizer: its name in OPTIMIZERS.
        averaged: whether an EMA of the weights is saved beside them.
    """
    every = sum(weight.numel() * weight.element_size() for weight in model.state_dict().values())
    trains = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    saved = trains if hasattr(model, "peft_config") else every
    return int(saved + MOMENTS.get(optimizer, 2) * trains + averaged * every)


def checkpoints_at_once(regular: int, keep: int) -> int:
    """Return how many checkpoints lie on the disk at most: those kept, the best one, and one being written.

    Args:
        regular: checkpoints that the run's evaluations will write.
        keep: the newest ones that are kept.
    """
    return min(keep + 2, regular + 1)


def require_free(needed: int, folder: Path) -> None:
    """Refuse a run whose checkpoints and finished model do not fit on the disk; files in `folder` count as free.

    Raises:
        ConfigError: states the bytes needed and free.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    free = shutil.disk_usage(existing).free + used
    if needed > free:
        raise ConfigError(
            f"the run needs {needed:,} bytes for checkpoints and the finished model, and {free:,} bytes are free at "
            f"{existing}. Free space, lower checkpoint.keep, or name a folder on another disk with --out"
        )


GO_ON = "to go on, run the same command with --resume (from Python: resume=True)"
CHECKPOINTS_ARE_WHOLE = f"Earlier checkpoints are whole: free space, then, {GO_ON}"


@contextmanager
def writing(folder: Path, needed: int, advice: str) -> Iterator[None]:
    """Turn write errors of a full disk into a StorageError; what was half written in `folder` is removed.

    Args:
        needed: bytes that `folder` takes when it is complete, about.
        advice: a sentence that says what is still there and how to go on.

    Raises:
        StorageError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, StorageError) or not is_full(error):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        free = 0
        with suppress(OSError):
            free = shutil.disk_usage(folder.parent).free
        raise StorageError(
            f"the disk is full: {folder} needs about {needed:,} bytes, and {free:,} bytes are free now. {advice}"
        ) from error


@contextmanager
def full_disk_explained() -> Iterator[None]:
    """Turn any other write error of a full disk into a StorageError, which names the file where that is known.

    Raises:
        StorageError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        file = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
        raise StorageError(
            f"the disk is full: {file} ({error.strerror}). Free space, then run the command again"
        ) from error


def is_full(error: BaseException) -> bool:
    """Return whether an error, or what caused it, says that nothing more can be written."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if any(words in str(error) for words in FULL_IN_WORDS):
        return True
    return error.__cause__ is not None and is_full(error.__cause__)
