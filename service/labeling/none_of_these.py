"""The label of texts that fit no other: a cluster of its own, seeded by the texts that the teacher fits no label to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.scores import Floats, log_softmax

SEED = 0.25
"""Factor of the teacher's doubt. It starts a cluster; at 1, texts between two labels would start it too."""

SMALLEST = 1e-4


def with_none(logits: npt.NDArray[Any], fit: npt.NDArray[Any]) -> Floats:
    """Return log-scores `[N, L + 1]` with the label `none of these` as the last.

    Args:
        logits: `[N, L]`.
        fit: probability `[N]` that any label fits.
    """
    doubt = np.clip(SEED * (1 - np.asarray(fit, dtype=np.float64)), SMALLEST, 1 - SMALLEST)
    return np.concatenate([log_softmax(logits) + np.log1p(-doubt)[:, None], np.log(doubt)[:, None]], axis=1)
