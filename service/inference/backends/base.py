"""What every backend implements: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from finetune.core.model_folder import AttentionMode, ClassifierSettings
from service.inference.backends.packing import Packed

Precision = Literal["float32", "bfloat16", "int8"]
Arrays = Mapping[str, npt.NDArray[np.int64]]


class BatchSize(NamedTuple):
    """Maximum tokens of a call, padding included, and rows."""

    tokens: int
    rows: int


CPU_BATCH = BatchSize(tokens=4096, rows=64)
"""Larger batches are not faster on a CPU."""

LOGIT_TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 0.05, "int8": float("inf")}
"""Maximum difference of a logit from torch in float32, over the largest logit (or 1). int8 is judged by accuracy."""


def tolerance(precision: Precision, expected: npt.NDArray[np.float32], settings: ClassifierSettings) -> float:
    """Return the maximum difference of outputs from torch's `expected` ones; for regression, in the target's unit."""
    unit = settings.target.std if settings.target is not None else 1.0
    return LOGIT_TOLERANCE[precision] * max(unit, float(np.abs(expected).max()))


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits `[B, C]`, and if requested the embeddings `[B, H]` of the texts, both float32."""

    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32] | None = None


class Backend(Protocol):
    """One loaded model. Calls must not overlap."""

    why: str
    """Why it was selected, in words; empty if it was configured."""

    @property
    def name(self) -> str:
        """The runtime: torch, openvino, onnx, dummy."""

    @property
    def precision(self) -> Precision:
        """The number format it computes in."""

    @property
    def is_padded(self) -> bool:
        """Whether a batch costs its longest row times its rows, as opposed to its tokens."""

    @property
    def batch(self) -> BatchSize:
        """Maximum size of a call."""

    @property
    def shared_text(self) -> bool:
        """Whether the model runs under the shared-text mask, and so returns embeddings."""

    @property
    def one_pass(self) -> bool:
        """Whether `run_labels` is available."""

    def run(self, inputs: Arrays, *, attention: AttentionMode, embeddings: bool) -> Outputs:
        """Return the logits of one padded batch.

        Args:
            inputs: from `TextEncoder.pad`: arrays `[B, L]`, `segments` among them.
            embeddings: also return the mean of the last states over each text and its [SEP]; these are
                independent of what follows the text only under attention `shared_text`.
        """

    def run_labels(self, texts: Arrays, packs: Sequence[Packed], *, embeddings: bool) -> Outputs:
        """Return logits `[P, C]` of every text with each of its labels, text by text, under the shared-text mask; each
        text is read once.

        Args:
            texts: the padded parts of pairs up to the hypothesis.
            packs: the labels of each text.
            embeddings: also return the texts' `[B, H]`.
        """

    def close(self) -> None:
        """Release the model. No call may follow."""
