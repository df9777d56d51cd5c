"""What a runtime must do, and the facts it declares.

Knows: arrays in, arrays out.
Does not know: text, labels, scores, or any particular runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from finetune.artifact import AttentionMode
from finetune.encoding import Encoded


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits `[B, C]`, and where asked for the embeddings `[B, H]` of the texts, both float32."""

    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32] | None = None


class Backend(Protocol):
    """One loaded model. A caller makes one call at a time."""

    @property
    def shared_text(self) -> bool:
        """Whether the model can be run under the shared-text mask, and so give embeddings."""

    @property
    def one_pass(self) -> bool:
        """Whether `run_labels` can be called."""

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.int64]], *, attention: AttentionMode, embeddings: bool
    ) -> Outputs:
        """Logits of one padded batch.

        Args:
            inputs: what `TextEncoder.pad` gives: arrays `[B, L]`, `segments` among them.
            embeddings: also give the mean of the last states over each text and its [SEP]; these are
                independent of what follows the text only under attention `shared_text`.
        """

    def run_labels(
        self, texts: Mapping[str, npt.NDArray[np.int64]], hypotheses: Sequence[Encoded], *, embeddings: bool
    ) -> Outputs:
        """Logits `[B, L, C]` of every text with every hypothesis under the shared-text mask, each text read once.

        Args:
            texts: the padded parts of pairs up to the hypothesis.
            hypotheses: the parts from there on.
            embeddings: also give the texts' `[B, H]`, as `run` does.
        """
