"""The rows of a split as the Trainer reads them: tokens and targets by index, and their batches as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.core.tokenization import TextEncoder
from finetune.data.tokenized import Tokens
from finetune.training.samplers import PADDING


class Examples(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokens, targets and weights by row, as `Collator` reads them; the index PADDING is a row that counts nothing.

    Args:
        weights: by which the loss of each row is multiplied `[N]`; None for 1.
    """

    def __init__(self, tokens: Tokens, targets: Any, weights: Any = None) -> None:
        self.tokens, self.targets, self.weights = tokens, targets, weights

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == PADDING:
            return {**self[0], "padding": True}
        row = {"row": self.tokens[index], "labels": self.targets[index]}
        return row if self.weights is None else row | {"weights": self.weights[index]}


class Collator:
    """Encoded rows to padded tensors, with `segments` where the model's mask needs them."""

    def __init__(self, encoder: TextEncoder, *, with_segments: bool) -> None:
        self.encoder, self.with_segments = encoder, with_segments

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        arrays = self.encoder.pad([row["row"] for row in rows])
        if not self.with_segments:
            del arrays["segments"]
        batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
        if "labels" in rows[0]:
            targets = np.asarray([row["labels"] for row in rows])
            kind = torch.float32 if targets.dtype.kind == "f" else torch.int64
            batch["labels"] = torch.as_tensor(targets, dtype=kind)
        if "weights" in rows[0]:
            batch["weights"] = torch.as_tensor(np.asarray([row["weights"] for row in rows]), dtype=torch.float32)
        if "padding" in rows[0]:
            batch["padding"] = torch.ones(len(rows))
        return batch
