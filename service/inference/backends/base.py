"""What a runtime must do, and the facts it declares.

Knows: arrays in, arrays out.
Does not know: text, labels, scores, or any particular runtime.
"""

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
    """What one call should hold at most: tokens, padding included where there is any, and rows."""

    tokens: int
    rows: int


ON_PROCESSOR = BatchSize(tokens=4096, rows=64)
"""Larger batches are not faster there."""

LOGIT_TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 0.05, "int8": float("inf")}
"""How far a logit may be from torch's in float32, over the largest logit (or 1). int8 is held to accuracy instead."""


def tolerance(precision: Precision, expected: npt.NDArray[np.float32], settings: ClassifierSettings) -> float:
    """Return how far a runtime's outputs may be from torch's `expected` ones; of a number, in its own unit."""
    unit = settings.target.std if settings.target is not None else 1.0
    return LOGIT_TOLERANCE[precision] * max(unit, float(np.abs(expected).max()))


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits `[B, C]`, and where asked for the embeddings `[B, H]` of the texts, both float32."""

    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32] | None = None


class Backend(Protocol):
    """One loaded model. A caller makes one call at a time."""

    why: str
    """Why it was chosen, in words; empty where it was asked for."""

    @property
    def name(self) -> str:
        """The runtime: torch, openvino, onnx, dummy."""

    @property
    def precision(self) -> Precision:
        """What it computes in."""

    @property
    def is_padded(self) -> bool:
        """Whether a batch costs its longest row times its rows, as opposed to the tokens it holds."""

    @property
    def batch(self) -> BatchSize:
        """What a call should hold."""

    @property
    def shared_text(self) -> bool:
        """Whether the model can be run under the shared-text mask, and so give embeddings."""

    @property
    def one_pass(self) -> bool:
        """Whether `run_labels` can be called."""

    def run(self, inputs: Arrays, *, attention: AttentionMode, embeddings: bool) -> Outputs:
        """Logits of one padded batch.

        Args:
            inputs: what `TextEncoder.pad` gives: arrays `[B, L]`, `segments` among them.
            embeddings: also give the mean of the last states over each text and its [SEP]; these are
                independent of what follows the text only under attention `shared_text`.
        """

    def run_labels(self, texts: Arrays, packs: Sequence[Packed], *, embeddings: bool) -> Outputs:
        """Logits `[P, C]` of every text with each of its labels, text by text, under the shared-text mask; each text
        is read once.

        Args:
            texts: the padded parts of pairs up to the hypothesis.
            packs: the labels of each text.
            embeddings: also give the texts' `[B, H]`.
        """

    def close(self) -> None:
        """Let go of the model. No call comes after it."""
