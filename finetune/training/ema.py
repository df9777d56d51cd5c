"""The running mean of the weights while they are trained.

Knows: how the mean is formed, put in the weights' place for a while, saved with a checkpoint and read from it.
Does not know: the Trainer, or when any of that is due.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

FILE = "average.safetensors"
WARMUP = 10
"""The decay rises as (1 + n) / (WARMUP + n), so that the first weights do not stay in the mean of a short run."""


class EmaWeights:
    """An exponential mean of a model's weights: mean = decay * mean + (1 - decay) * weights, after each update."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        def mean(averages: Any, weights: Any, updates: Tensor | int) -> None:
            n = int(updates)
            torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (WARMUP + n)))

        self._model = model
        self._average = AveragedModel(model, multi_avg_fn=mean)

    def update(self) -> None:
        """Take in the weights as they are now."""
        self._average.update_parameters(self._model)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the mean as its weights."""
        weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self.give()
        try:
            yield
        finally:
            self._model.load_state_dict(weights)

    def give(self) -> None:
        """Make the mean the model's weights."""
        self._model.load_state_dict(self._average.module.state_dict())

    def save(self, folder: Path) -> None:
        """Write the mean into a checkpoint."""
        from safetensors.torch import save_model

        save_model(self._average.module, str(folder / FILE), metadata={"n": str(int(self._average.n_averaged))})

    def load(self, folder: Path) -> None:
        """Read the mean back from a checkpoint."""
        from safetensors import safe_open
        from safetensors.torch import load_model

        load_model(self._average.module, str(folder / FILE))
        with safe_open(str(folder / FILE), "pt") as file:
            self._average.n_averaged.fill_(int(file.metadata()["n"]))
