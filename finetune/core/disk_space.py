"""The disk space that a run needs, and errors of a full disk in one sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune.core.errors import ConfigError, StorageError

FULL = (errno.ENOSPC, errno.EFBIG, *((errno.EDQUOT,) if hasattr(errno, "EDQUOT") else ()))
"""Error numbers of a full disk, a file over the process's size limit, and an exceeded quota."""

FULL_MESSAGES = (*(f"(os error {number})" for number in FULL), "inline_container", "PytorchStreamWriter failed")
"""Parts of the messages of safetensors and torch.save, whose errors have no error number."""

MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1, "adafactor": 0}
"""Number of values that an optimizer keeps for each trained weight."""


def checkpoint_bytes(model: Any, optimizer: str, *, ema: bool) -> int:
    """Return the size of one checkpoint in bytes: the saved weights, the optimizer's state, and the EMA of the weights.

    Args:
        optimizer: its name in OPTIMIZERS.
        ema: whether an EMA of the weights is saved too.
    """
    all_weights = sum(weight.numel() * weight.element_size() for weight in model.state_dict().values())
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    saved = trained if hasattr(model, "peft_config") else all_weights
    return int(saved + MOMENTS.get(optimizer, 2) * trained + ema * all_weights)


def checkpoints_at_once(regular: int, keep: int) -> int:
    """Return the largest number of checkpoints on disk at once: those kept, the best one, and one being written.

    Args:
        regular: number of checkpoints that the run's evaluations write.
        keep: number of latest checkpoints that are kept.
    """
    return min(keep + 2, regular + 1)


def require_free(needed: int, folder: Path) -> None:
    """Raise `ConfigError` unless the checkpoints and the finished model fit on the disk.

    Args:
        needed: bytes of the checkpoints and the model.
        folder: where they are written; files that are in it count as free space.

    Raises:
        ConfigError: too little space; states the bytes needed and free.
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
    """Turn errors of a full disk into `StorageError`, and remove the incomplete `folder`.

    Args:
        needed: approximate size of the complete folder in bytes.
        advice: a sentence on what is left and how to continue.

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
    """Turn other errors of a full disk into `StorageError`, which names the file where it is known.

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
    """Return whether an error, or its cause, is that of a full disk."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if any(part in str(error) for part in FULL_MESSAGES):
        return True
    return error.__cause__ is not None and is_full(error.__cause__)
