"""Word embeddings of which only the rows of tokens in the training texts are trained.

Word embeddings are half of a small base's weights and most of a multilingual one's, and a table holds few of the
tokens: gradients, their norm and Adam's moments for the other rows would be computed for nothing. Rows of absent tokens
keep the base's values, where weight decay would shrink them slightly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SeenEmbedding(nn.Module):
    """An embedding that trains some of its rows; its state dict is that of the full embedding.

    Args:
        whole: the full embedding, `[V, D]`.
        seen: unique ids `[K]` of the rows to train; padding, which gets no gradient, is left out.
    """

    weight: Tensor
    seen: Tensor
    place: Tensor

    def __init__(self, whole: nn.Embedding, seen: Tensor) -> None:
        super().__init__()
        weight = whole.weight.detach()
        if whole.padding_idx is not None:
            seen = seen[seen != whole.padding_idx]
        place = torch.full((len(weight),), -1, device=weight.device)
        place[seen] = torch.arange(len(seen), device=weight.device)
        self.padding_idx = whole.padding_idx
        self.rows = nn.Parameter(weight[seen], requires_grad=whole.weight.requires_grad)
        self.register_buffer("weight", weight)
        self.register_buffer("seen", seen.to(weight.device), persistent=False)
        self.register_buffer("place", place, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors `[..., D]` of token ids `[...]`."""
        place = self.place[ids]
        trained = F.embedding(place.clamp(min=0), self.rows)
        return torch.where((place >= 0).unsqueeze(-1), trained, F.embedding(ids, self.weight))

    def whole(self) -> nn.Embedding:
        """Return the full embedding, with the trained rows."""
        count, width = self.weight.shape
        full = nn.Embedding(count, width, padding_idx=self.padding_idx, _weight=self._merged())
        return full.requires_grad_(self.rows.requires_grad)

    def _merged(self) -> Tensor:
        return self.weight.index_copy(0, self.seen, self.rows.detach())

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self._merged()

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        weight = state.get(f"{prefix}weight")
        if weight is not None:
            state = {**state, f"{prefix}rows": weight[self.seen.to(weight.device)]}
        super()._load_from_state_dict(state, prefix, *rest)


def train_seen_rows(body: Any, seen: npt.NDArray[np.int64]) -> bool:
    """Replace a body's word embeddings by a `SeenEmbedding`.

    Args:
        seen: ids `[K]` of the tokens in the training texts.

    Returns:
        Whether they were replaced: not where the body has embeddings of another kind, or the texts hold all tokens.
    """
    try:
        words = body.get_input_embeddings()
    except NotImplementedError:
        return False
    if type(words) is not nn.Embedding or words.max_norm is not None or len(seen) >= len(words.weight):
        return False
    body.set_input_embeddings(SeenEmbedding(words, torch.from_numpy(seen)))
    return True


def train_whole_again(body: Any) -> None:
    """Replace every `SeenEmbedding` by its full embedding."""
    for module in list(body.modules()):
        for name, child in module.named_children():
            if isinstance(child, SeenEmbedding):
                setattr(module, name, child.whole())
