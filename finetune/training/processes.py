"""Training on several processes: which one this is, and what all of them agree on.

torchrun or `accelerate launch` starts the processes, accelerate joins them, DDP averages gradients, and samplers.py
splits the rows. With one process every function here does nothing, or calls its argument.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from finetune.core import launch
from finetune.core.device import torch_device
from finetune.core.errors import ConfigError, FinetuneError, TrainingError
from finetune.core.events import Event, Info, Listener

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=1)
"""How long processes wait for one that is still at work, such as process 0 while it writes the model folder. A process
that has ended is noticed at once."""

SHARED_WITHIN_S = 10.0
"""Seconds in which a file that process 0 has created is visible to all; a network file system caches folders."""

LOST = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "remote process", "NCCL")
"""Parts of the messages of gloo and NCCL after another process has ended."""

_groups: dict[str, Any] = {}
"""The gloo group of all processes, once they have joined: gloo compares numbers without waiting for a GPU."""


class FailedElsewhere(FinetuneError):
    """Another process has failed and has reported why; this one stops with the same exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ProcessLost(TrainingError):
    """Another process of the run has ended without a word; each of the others reports it."""

    exit_code = 1
    is_own = True


def join(device: str, say: Listener) -> None:
    """Join the processes that were started together with this one, and report the device of a single one.

    Args:
        device: the name of the device in the config.

    Raises:
        ConfigError: a device that several processes cannot use, or a launcher that is not supported.
    """
    launch.require_supported()
    kind, processes = torch_device(device).type, launch.process_count()
    gpus = torch.cuda.device_count() if kind == "cuda" else 0
    if processes == 1:
        if gpus > 1:
            say(Info(_one_of_many(gpus)))
        return
    if kind == "mps":
        raise ConfigError(f"{processes} processes cannot share the device mps: run one process, or use --device cpu")
    here = launch.processes_here()
    if kind == "cuda" and here > gpus:
        raise ConfigError(f"{here} processes were started for {gpus} GPUs: start one each (--nproc-per-node {gpus})")
    if not _groups:
        from accelerate import PartialState  # type: ignore[import-untyped]

        if launch.restarts() > 0:
            _meet_again("nccl" if kind == "cuda" else "gloo")
        if PartialState(cpu=kind == "cpu", timeout=LONGEST_WAIT).num_processes != processes:
            raise ConfigError(
                f"{processes} processes were started, but without the variable LOCAL_RANK: start them with torchrun or "
                "accelerate launch (docs/scale.md)"
            )
        _groups["gloo"] = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def _meet_again(backend: str) -> None:
    """Meet the other processes under names of this start.

    torchrun keeps its store from one start to the next, in which torch (2.13) would find the addresses of processes
    that have ended.
    """
    store, number, processes = next(rendezvous("env://", timeout=LONGEST_WAIT))
    names = PrefixStore(f"start-{launch.restarts()}", store)
    distributed.init_process_group(backend, store=names, rank=number, world_size=processes, timeout=LONGEST_WAIT)


def leave() -> None:
    """Leave the other processes, before this one ends."""
    if _groups:
        _groups.clear()
        distributed.destroy_process_group()


def count() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if _groups else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if _groups else 0


def is_main() -> bool:
    """Return whether this process writes, logs and reports."""
    return rank() == 0


def listener(say: Listener) -> Listener:
    """Return the listener of this process: only process 0 reports events."""
    return say if is_main() else _silent


def wait() -> None:
    """Return once every process has called this."""
    if count() > 1:
        distributed.barrier(group=_groups["gloo"])


def largest(value: float) -> float:
    """Return the largest of the processes' values."""
    return _reduced(value, distributed.ReduceOp.MAX)


def total(value: float) -> float:
    """Return the sum of the processes' values."""
    return _reduced(value, distributed.ReduceOp.SUM)


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return bool(largest(float(flag)))


def in_all(flags: Tensor) -> Tensor:
    """Return, for each element of a boolean tensor, whether it is set in every process."""
    if count() == 1:
        return flags
    numbers = flags.to(torch.uint8).cpu()
    distributed.all_reduce(numbers, distributed.ReduceOp.MIN, group=_groups["gloo"])
    return numbers.bool().to(flags.device)


def on_main(function: Callable[[], T]) -> T:
    """Return what a function returns in process 0, to all processes.

    Raises:
        FailedElsewhere: in the other processes, if it raised in process 0.
    """
    if count() == 1:
        return function()
    outcome, error = _outcome(function) if is_main() else (None, None)
    value = _from_main((outcome, _described(error)))
    if error is not None:
        raise error
    if value[1] is not None:
        raise FailedElsewhere(*value[1])
    return cast("T", outcome if is_main() else value[0])


def together(function: Callable[[], T]) -> T:
    """Call a function in all processes and return its value; it must not communicate.

    Raises:
        FailedElsewhere: it raised in another process; the first one that failed raises its own error.
    """
    if count() == 1:
        return function()
    value, error = _outcome(function)
    failures = {number: failure for number, failure in enumerate(_gathered(_described(error))) if failure is not None}
    if failures:
        first = min(failures)
        raise error if error is not None and first == rank() else FailedElsewhere(*failures[first])
    return cast("T", value)


def require_equal(what: str, value: dict[str, str]) -> None:
    """Refuse to go on where a process has read something else than process 0.

    Raises:
        ConfigError: names the first process, and the first entry, that differs.
    """
    if count() == 1:
        return
    values = _gathered(value)
    for number, other in enumerate(values):
        different = [key for key in {**values[0], **other} if values[0].get(key) != other.get(key)]
        if different:
            message = (
                f"process {number} has another {what} than process 0 ({different[0]}: {values[0].get(different[0])} -> "
                f"{other.get(different[0])}): give all processes the same command, tables, base and versions"
            )
            raise ConfigError(message) if is_main() else FailedElsewhere(message, ConfigError.exit_code)


def require_shared(file: Path) -> None:
    """Refuse folders that the machines of a run do not share.

    Args:
        file: a file that process 0 has created.

    Raises:
        ConfigError: a process does not see it.
    """

    def check() -> None:
        until = time.monotonic() + SHARED_WITHIN_S
        while not file.exists():
            if time.monotonic() > until:
                raise ConfigError(
                    f"process {rank()} does not see {file}, which process 0 has created: --out must be in a folder "
                    "that all machines share"
                )
            time.sleep(0.1)

    together(check)


@contextmanager
def reporting() -> Iterator[None]:
    """Turn the errors of gloo and NCCL after another process has ended into one sentence, and mark the errors that
    only this process has; that a run diverged is found by all.

    Raises:
        ProcessLost: another process has ended.
    """
    try:
        yield
    except FinetuneError as error:
        error.is_own |= not isinstance(error, TrainingError | FailedElsewhere)
        raise
    except RuntimeError as error:
        if count() == 1 or not any(part in str(error) for part in LOST):
            raise
        raise ProcessLost(
            f"process {rank()} of {count()} stops: another process of the run has ended. --resume goes on from the "
            "last checkpoint"
        ) from error


def _one_of_many(gpus: int) -> str:
    name = torch.cuda.get_device_name(0)
    return (
        f"training on cuda:0 ({name}), one of {gpus} GPUs; to use all: torchrun --nproc-per-node {gpus} --no-python "
        "rehead finetune ... (docs/scale.md)"
    )


def _silent(event: Event) -> None:
    pass


def _reduced(value: float, how: Any) -> float:
    if count() == 1:
        return value
    number = torch.tensor([value], dtype=torch.float64)
    distributed.all_reduce(number, how, group=_groups["gloo"])
    return float(number)


def _outcome(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error


def _described(error: Exception | None) -> tuple[str, int] | None:
    return None if error is None else (str(error), int(getattr(error, "exit_code", 1)))


def _from_main(value: Any) -> Any:
    values = [value if is_main() else None]
    distributed.broadcast_object_list(values, src=0, group=_groups["gloo"])
    return values[0]


def _gathered(value: Any) -> list[Any]:
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value, group=_groups["gloo"])
    return values
