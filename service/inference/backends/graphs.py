"""A torch model as graphs for other runtimes: `rows` for sequences, `one_pass` for texts with labels, and
`one_pass_logits`, the same without the texts' embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finetune.core.model_folder import ModelFolder
from finetune.core.tokenization import TextEncoder
from finetune.modeling.cls_only_last_layer import first_token_only
from service.errors import BackendFailed
from service.inference.backends.base import Arrays
from service.inference.backends.packing import arrays_of, packed
from service.inference.backends.torch import TorchBackend

GraphName = Literal["rows", "one_pass", "one_pass_logits"]


@dataclass(frozen=True)
class Graph:
    """A module with tensors as keyword arguments; `trials` are inputs of several shapes."""

    module: nn.Module
    trials: list[dict[str, npt.NDArray[np.int64]]]

    def example(self) -> dict[str, Tensor]:
        """Return inputs without a dimension of 1, and without two that are equal by accident."""
        return tensors(self.trials[0])

    def outputs(self, inputs: Arrays) -> list[npt.NDArray[np.float32]]:
        """Return what torch computes."""
        with torch.inference_mode():
            return [np.asarray(output.numpy()) for output in self.module(**tensors(inputs))]


class Rows(nn.Module):
    """Logits `[B, C]` of padded rows."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor]:
        """Return the model's logits in float32."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return (self._model(input_ids=input_ids, attention_mask=attention_mask, **types).logits.float(),)


@contextmanager
def graph_of(name: GraphName, folder: ModelFolder, backend: TorchBackend) -> Iterator[Graph]:
    """Return the graph of a model in float32, for use inside the context.

    Raises:
        BackendFailed: the model cannot be read in one pass.
    """
    encoder = TextEncoder.load(folder.path, folder.config, max_length=folder.settings.max_length)
    if name != "rows":
        if backend.graph is None:
            raise BackendFailed(f"{folder.path.name} cannot read a text once for all labels")
        module = backend.graph if name == "one_pass" else backend.graph.without_embeddings()
        yield Graph(module, [_labeled(encoder, *shape) for shape in ((3, 7, 40), (1, 1, 1), (2, 40, 3))])
        return
    trials = [_rows(encoder, words) for words in ((6, 2, 9), (1,), (30, 3, 11, 30))]
    with first_token_only(backend.model):
        yield Graph(Rows(backend.model), trials)


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Return arrays as tensors, without a copy."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def sample(count: int) -> str:
    """Return a text of `count` words."""
    return " ".join(("one", "good", "film", "about", "a", "bank")[number % 6] for number in range(count))


def _rows(encoder: TextEncoder, words: Sequence[int]) -> dict[str, npt.NDArray[np.int64]]:
    padded = encoder.pad(encoder([sample(count) for count in words]))
    del padded["segments"]
    return padded


def _labeled(encoder: TextEncoder, texts: int, labels: int, words: int) -> dict[str, npt.NDArray[np.int64]]:
    ends = encoder.hypotheses([sample(2 + number % 3) for number in range(labels)])
    rows = encoder.before_hypotheses([sample(words + number) for number in range(texts)], max(map(len, ends)))
    return arrays_of(encoder.pad(rows), [packed(ends, rows[0])] * texts)
