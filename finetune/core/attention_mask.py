"""The shared-text attention mask, as plain arrays.

Knows: which token may look at which, given each token's segment.
Does not know: tokenizers or models.

Under this mask a text's states do not depend on the hypothesis that follows it, so one pass over the text can
serve any number of labels. The sequence itself stays as the model knows it: `[CLS] text [SEP] hypothesis [SEP]`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PADDING, LEADING, TEXT, HYPOTHESIS = -1, 0, 1, 2
"""Segments of a token: padding; [CLS]; the text and its [SEP]; the hypothesis and its [SEP]."""


def shared_text_mask(segments: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Who may attend to whom: `[B, L, L]`, True where row token looks at column token.

    Text rows see text only. [CLS] and hypothesis rows see everything but padding. Padding rows do too: nothing
    reads them, and a softmax over no token at all would be NaN.

    Args:
        segments: `[B, L]` of PADDING, LEADING, TEXT, HYPOTHESIS.
    """
    is_text = segments == TEXT
    visible = segments != PADDING
    return np.asarray(np.where(is_text[:, :, None], is_text[:, None, :], visible[:, None, :]), dtype=np.bool_)
