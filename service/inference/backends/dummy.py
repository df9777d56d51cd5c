"""A backend without weights whose outputs follow from the tokens: for tests of a server, a page or a client."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetune.core.attention_mask import PADDING
from finetune.core.model_folder import AttentionMode
from service.inference.backends.base import CPU_BATCH, Arrays, Outputs, Precision
from service.inference.backends.packing import Packed

EMBEDDING = 8


class DummyBackend:
    """Implements `service.inference.backends.base.Backend`: the same tokens get the same logits, in any batch."""

    name = "dummy"
    precision: Precision = "float32"
    is_padded = True
    batch = CPU_BATCH
    shared_text = True
    one_pass = True

    def __init__(self, labels: int) -> None:
        self.why = ""
        self._labels = labels

    def run(self, inputs: Arrays, *, attention: AttentionMode, embeddings: bool) -> Outputs:
        """See `Backend.run`."""
        sums = _sums(inputs["input_ids"], inputs["segments"] != PADDING)
        return Outputs(_values(sums, self._labels), _values(sums, EMBEDDING) if embeddings else None)

    def run_labels(self, texts: Arrays, packs: Sequence[Packed], *, embeddings: bool) -> Outputs:
        """See `Backend.run_labels`."""
        sums = _sums(texts["input_ids"], texts["segments"] != PADDING)
        of_labels = []
        for own, pack in zip(sums, packs, strict=True):
            labels = [_sums(pack.ids, pack.owners == label).sum() for label in range(len(pack.starts))]
            of_labels.append(_values(own + np.array(labels), self._labels))
        return Outputs(np.concatenate(of_labels), _values(sums, EMBEDDING) if embeddings else None)

    def close(self) -> None:
        """See `Backend.close`."""


def _sums(ids: npt.NDArray[np.int64], there: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return np.asarray((ids * there * (1 + np.arange(ids.shape[1]))).sum(axis=1))


def _values(sums: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float32]:
    """`[B, count]` numbers between -2 and 2."""
    return np.asarray(2 * np.sin(sums[:, None] * (1.0 + np.arange(count))), dtype=np.float32)
