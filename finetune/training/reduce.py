"""Per-row losses to the one number that is differentiated: the only place that divides by a count of rows.

Knows: gradient accumulation (a batch's sum is divided by the rows of all batches of the update).
Does not know: which loss it was.

Why not the mean: with accumulation, a mean of each batch is added up and comes out too large by the number of
batches, or weights the rows of a ragged last batch more (transformers issue 47688).
"""

from __future__ import annotations

from torch import Tensor


def rows_of_update(targets: Tensor, items: Tensor | int) -> Tensor | float:
    """How many rows the whole update holds.

    `items` is the Trainer's `num_items_in_batch`, which counts label elements: B*C for targets `[B, C]`.
    """
    return items / (targets.numel() // targets.shape[0])


def reduce(losses: Tensor, targets: Tensor, items: Tensor | int | None) -> Tensor:
    """Sum of `losses [B]` over the rows of the whole update, so that accumulated steps equal one large step.

    Args:
        items: label elements in the update; None (evaluation) gives the batch's mean.
    """
    if items is None:
        return losses.mean()
    return losses.sum() / rows_of_update(targets, items)
