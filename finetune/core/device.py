"""The device that a model computes on, by the name that a user gives it."""

from __future__ import annotations

import re
from typing import Any

from finetune.core.errors import ConfigError

DEVICE_NAMES = "auto, cpu, cuda, cuda:N or mps"


def torch_device(name: str) -> Any:
    """Return torch's device of a name; `auto` is the first CUDA GPU where there is one, else the processor.

    Raises:
        ConfigError: the name is unknown, or this machine has no such device.
    """
    import torch

    parts = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if parts is None:
        raise ConfigError(f"device {name!r} is unknown: use {DEVICE_NAMES}")
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = {"cpu": 1, "cuda": cuda, "mps": int(torch.backends.mps.is_available())}[parts[1]]
    if int(parts[2] or 0) >= count:
        seen = f"{cuda} CUDA GPUs" if cuda else "no CUDA GPU" if parts[1] == "cuda" else f"no {name}"
        raise ConfigError(f"device {name} is not available: torch finds {seen} on this machine; use auto or cpu")
    return torch.device(name)
