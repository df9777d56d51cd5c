"""The exponential moving average (EMA) of the weights during training."""

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
"""The decay rises as (1 + n) / (WARMUP + n), so that the initial weights do not dominate the EMA of a short run."""


class EmaWeights:
    """The EMA of a model's weights: ema = decay * ema + (1 - decay) * weights after each update."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        def mean(averages: Any, weights: Any, updates: Tensor | int) -> None:
            n = int(updates)
            torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (WARMUP + n)))

        self._model = model
        self._ema = AveragedModel(model, multi_avg_fn=mean)

    def update(self) -> None:
        """Update the EMA with the current weights."""
        self._ema.update_parameters(self._model)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the EMA as the model's weights until the context ends."""
        weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self.apply()
        try:
            yield
        finally:
            self._model.load_state_dict(weights)

    def apply(self) -> None:
        """Set the model's weights to the EMA."""
        self._model.load_state_dict(self._ema.module.state_dict())

    def save(self, folder: Path) -> None:
        """Write the EMA into a checkpoint folder."""
        from safetensors.torch import save_model

        save_model(self._ema.module, str(folder / FILE), metadata={"n": str(int(self._ema.n_averaged))})

    def load(self, folder: Path) -> None:
        """Read the EMA from a checkpoint folder."""
        from safetensors import safe_open
        from safetensors.torch import load_model

        load_model(self._ema.module, str(folder / FILE))
        with safe_open(str(folder / FILE), "pt") as file:
            self._ema.n_averaged.fill_(int(file.metadata()["n"]))
