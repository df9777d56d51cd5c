"""The processes that torchrun or `accelerate launch` has started together, from the environment that they set.

It needs no torch: a command knows which process it is before anything is imported. training/processes.py joins them.
"""

from __future__ import annotations

import os

from finetune.core.errors import ConfigError

MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables with the number of processes that a launcher for MPI has started; accelerate would join them."""

ANOTHER_STRATEGY = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
"""Variable that `accelerate launch` sets to "true" -> the way of training that its config asks for."""


def process_count() -> int:
    """Return how many processes were started together; 1 without a launcher."""
    return _number("WORLD_SIZE", 1)


def process_rank() -> int:
    """Return the number of this process among them, from 0."""
    return _number("RANK", 0)


def processes_here() -> int:
    """Return how many of them run on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def is_main() -> bool:
    """Return whether this is process 0, which alone writes and prints."""
    return process_rank() == 0


def restarts() -> int:
    """Return how often torchrun has started these processes again after one failed (`--max-restarts`)."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def require_supported() -> None:
    """Refuse launchers, and strategies of `accelerate`, with which training is not supported.

    Raises:
        ConfigError: an MPI launcher without torchrun's variables, FSDP, DeepSpeed and the like.
    """
    for name, strategy in ANOTHER_STRATEGY.items():
        if os.environ.get(name, "").lower() in ("1", "true", "yes"):
            raise ConfigError(
                f"accelerate's config asks for {strategy}, and rehead trains on several processes with DDP only, which "
                "keeps the whole model in each: its checkpoints, EMA of weights, gradient monitoring and frozen "
                "layers read whole weights. Choose MULTI_GPU in `accelerate config`, or use torchrun"
            )
    started = max(process_count(), *(_number(name, 1) for name in MPI))
    if started > 1 and ("RANK" not in os.environ or "WORLD_SIZE" not in os.environ):
        raise ConfigError(
            "several processes were started without torchrun's variables RANK and WORLD_SIZE: start them with torchrun "
            "or accelerate launch (docs/scale.md)"
        )


def require_one_process(what: str) -> None:
    """Refuse, among several processes, what only one process can do.

    Raises:
        ConfigError: more than one process was started; names `what`.
    """
    if process_count() > 1:
        raise ConfigError(f"{what} runs in one process, and {process_count()} were started: run it without a launcher")


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
