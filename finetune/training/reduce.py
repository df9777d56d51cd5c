"""Reduces the losses of rows to the one number that is differentiated; nothing else divides by a number of rows.

Why not the mean of a batch: with gradient accumulation the means are added up, so that the loss is too large by the
number of batches, or weights the rows of a smaller last batch more (transformers issue 47688).
"""

from __future__ import annotations

from torch import Tensor


def rows_of_update(targets: Tensor, items: Tensor | int) -> Tensor | float:
    """Return the number of rows in the whole update.

    `items` is the Trainer's `num_items_in_batch`, which counts label elements: B*C for targets `[B, C]`.
    """
    return items / (targets.numel() // targets.shape[0])


def reduce(losses: Tensor, targets: Tensor, items: Tensor | int | None) -> Tensor:
    """Return the sum of `losses [B]` over the number of rows in the update: accumulated steps equal one large step.

    Args:
        items: label elements in the update; with None (evaluation) the mean of the batch is returned.
    """
    if items is None:
        return losses.mean()
    return losses.sum() / rows_of_update(targets, items)
