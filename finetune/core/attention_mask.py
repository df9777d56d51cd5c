"""The shared-text attention mask, as numpy arrays.

Under this mask the states of a text do not depend on the hypothesis that follows it, so that one pass over the text
serves any number of labels. The sequence itself is unchanged: `[CLS] text [SEP] hypothesis [SEP]`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PADDING, LEADING, TEXT, HYPOTHESIS = -1, 0, 1, 2
"""Segments of a token: padding; [CLS]; the text and its [SEP]; the hypothesis and its [SEP]."""


def shared_text_mask(segments: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return the mask `[B, L, L]`, True where the row's token attends to the column's token.

    Text tokens attend to the text only. [CLS] and hypothesis tokens attend to everything but padding. Padding tokens do
    too: their states are not used, and a softmax over no token would be NaN.

    Args:
        segments: PADDING, LEADING, TEXT or HYPOTHESIS of each token `[B, L]`.
    """
    is_text = segments == TEXT
    visible = segments != PADDING
    return np.asarray(np.where(is_text[:, :, None], is_text[:, None, :], visible[:, None, :]), dtype=np.bool_)
