"""Which rows make a batch, epoch by epoch.

Knows: fixed numbers of rows, token budgets, texts of like length together, labels drawn evenly; the same for a seed.
Does not know: what a row holds, or how a batch is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from finetune.config.training import OptimConfig

POOL = 50
"""Batches whose rows are sorted by length together: enough that little is padding, and few enough that a batch is no
narrow choice of lengths."""

MOST_TOGETHER = 32
"""Rows computed at once where an update takes all rows."""

Lengths = npt.NDArray[np.int64]


class Batches(Sampler[list[int]]):
    """Batches of row numbers, newly drawn in each epoch, always the same number of them.

    Args:
        lengths: tokens of each row `[N]`.
        rows: rows in a batch; with `tokens`, what a batch has on average is left to the texts.
        tokens: padded tokens a batch may have; None for a fixed number of rows.
        group: whether rows of like length come together; the batches themselves come in random order.
        weights: how often each row is drawn, relative to others `[N]`; None for each row once.
        epochs: epochs there will be, over which the number of batches is made the same.
    """

    drop_last = False

    def __init__(
        self,
        lengths: Lengths,
        rows: int,
        *,
        tokens: int | None = None,
        group: bool = True,
        weights: npt.NDArray[np.float64] | None = None,
        seed: int = 0,
        epochs: int = 1,
    ) -> None:
        self.lengths, self.batch_size, self.tokens, self.group = lengths, rows, tokens, group
        self._weights = None if weights is None else weights / weights.sum()
        self._seed, self._epoch, self._count = seed, 0, 0
        if tokens is None:
            self._count = math.ceil(len(lengths) / rows)
        else:
            self._count = max(len(self._drawn(epoch)) for epoch in range(max(1, epochs)))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._drawn(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw as this epoch does, counted from 0."""
        self._epoch = epoch

    def _drawn(self, epoch: int) -> list[list[int]]:
        chance = np.random.default_rng((self._seed, epoch))
        order = self._order(chance)
        if self.group:
            size = POOL * self.batch_size
            pools = [self._sorted(order[start : start + size]) for start in range(0, len(order), size)]
            # every other pool goes from long to short, so that a batch across their border is of like length too
            order = np.concatenate([pool[:: -1 if index % 2 else 1] for index, pool in enumerate(pools)])
        batches = self._cut(order)
        if self.group:
            chance.shuffle(batches)
            if epoch == 0:  # if memory does not suffice it shows at once
                longest = max(range(len(batches)), key=lambda index: self._cost(batches[index]))
                batches[0], batches[longest] = batches[longest], batches[0]
        return batches

    def _order(self, chance: np.random.Generator) -> npt.NDArray[np.int64]:
        if self._weights is None:
            return chance.permutation(len(self.lengths))
        return chance.choice(len(self.lengths), len(self.lengths), p=self._weights)

    def _sorted(self, part: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return part[np.argsort(self.lengths[part], kind="stable")]

    def _cut(self, order: npt.NDArray[np.int64]) -> list[list[int]]:
        if self.tokens is None:
            return [order[at : at + self.batch_size].tolist() for at in range(0, len(order), self.batch_size)]
        batches: list[list[int]] = [[]]
        longest = 0
        for row in order.tolist():
            longest = max(longest, int(self.lengths[row]))
            if batches[-1] and longest * (len(batches[-1]) + 1) > self.tokens:
                batches.append([])
                longest = int(self.lengths[row])
            batches[-1].append(row)
        while len(batches) < self._count:  # some epochs need one or two batches more: split the largest
            largest = max(range(len(batches)), key=lambda index: len(batches[index]))
            whole = batches[largest]
            batches[largest : largest + 1] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
        return batches

    def _cost(self, batch: Sequence[int]) -> int:
        return int(self.lengths[list(batch)].max()) * len(batch)


def batches_for(config: OptimConfig, lengths: Lengths, rows: int, *, weights: Any, seed: int) -> Batches:
    """The batches of a config's regime.

    Args:
        rows: rows in one batch, `auto` and `full` resolved (`rows_at_once`).
    """
    return Batches(
        lengths,
        rows,
        tokens=config.batch_tokens,
        group=config.group_by_length,
        weights=weights,
        seed=seed,
        epochs=math.ceil(config.epochs),
    )


def even_weights(targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """How often each row is drawn so that every label comes equally often: one over the rows of its label, and of the
    rarest label where it has several; a row without labels counts as a label's."""
    if targets.ndim == 1:
        return np.asarray(1.0 / np.bincount(targets)[targets], dtype=np.float64)
    counts = np.maximum(targets.sum(axis=0), 1)
    often = np.where(targets > 0, 1.0 / counts, 0.0).max(axis=1)
    none = often == 0
    often[none] = 1.0 / max(1, none.sum())
    return np.asarray(often, dtype=np.float64)


def updates_of(batches: int, accumulation: int) -> int:
    """Updates in one pass over this many batches: the last one may have fewer."""
    return math.ceil(batches / accumulation)
