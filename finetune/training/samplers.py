"""Chooses the rows of each batch: by number of rows or of tokens, grouped by length, with labels drawn evenly.

The batches of a seed and an epoch are always the same. Several processes draw the same large batches, and each takes
its part of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from finetune.config.optim import OptimConfig
from finetune.training import processes

POOL = 50
"""Batches whose rows are sorted by length together: enough for little padding, few enough for batches of varied
lengths."""

MOST_TOGETHER = 32
"""Rows computed at once with batch_size=full, where an update takes all rows."""

PADDING = -1
"""Index in place of a row where a process has none: the last batch may have fewer rows than there are processes."""

Lengths = npt.NDArray[np.int64]


class Batches(Sampler[list[int]]):
    """Batches of row indices, drawn anew in each epoch, the same number in every epoch.

    Args:
        lengths: tokens of each row `[N]`.
        rows: rows in a batch of one process; with `tokens`, the number varies with the lengths.
        tokens: most padded tokens in a batch of one process; None for a fixed number of rows.
        group: whether rows of similar length share a batch; the order of the batches is random.
        weights: relative sampling weights of the rows `[N]`; None draws each row once.
        epochs: number of epochs, over which the number of batches is kept equal.
        processes, process: number of processes that train together, and which of them iterates here; each large batch
            is divided among them, so that its rows are those of one process with batches as large.
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
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self.lengths, self.batch_size, self.tokens, self.group = lengths, rows, tokens, group
        self._weights = None if weights is None else weights / weights.sum()
        self._seed, self._epoch, self._count = seed, 0, 0
        self.processes, self._process = processes, process
        if tokens is None:
            self._count = math.ceil(len(lengths) / (rows * processes))
        else:
            self._count = max(len(self._drawn(epoch)) for epoch in range(max(1, epochs)))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._drawn(self._epoch):
            yield batch[self._process :: self.processes] or [PADDING]

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of this epoch, counted from 0."""
        self._epoch = epoch

    def _drawn(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng((self._seed, epoch))
        order = self._order(rng)
        if self.group:
            size = POOL * self.batch_size * self.processes
            pools = [self._sorted(order[start : start + size]) for start in range(0, len(order), size)]
            # every other pool goes from long to short, so that a batch across two pools has similar lengths too
            order = np.concatenate([pool[:: -1 if index % 2 else 1] for index, pool in enumerate(pools)])
        batches = self._cut(order)
        if self.group:
            rng.shuffle(batches)
            if epoch == 0:  # too little memory shows at once
                longest = max(range(len(batches)), key=lambda index: self._cost(batches[index]))
                batches[0], batches[longest] = batches[longest], batches[0]
        return batches

    def _order(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        if self._weights is None:
            return rng.permutation(len(self.lengths))
        return rng.choice(len(self.lengths), len(self.lengths), p=self._weights)

    def _sorted(self, part: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return part[np.argsort(self.lengths[part], kind="stable")]

    def _cut(self, order: npt.NDArray[np.int64]) -> list[list[int]]:
        if self.tokens is None:
            size = self.batch_size * self.processes
            return [order[at : at + size].tolist() for at in range(0, len(order), size)]
        batches: list[list[int]] = [[]]
        longest = 0
        for row in order.tolist():
            longest = max(longest, int(self.lengths[row]))
            each = len(batches[-1]) // self.processes + 1  # rows of the process that has most, with this one
            if each > 1 and longest * each > self.tokens:
                batches.append([])
                longest = int(self.lengths[row])
            batches[-1].append(row)
        while len(batches) < self._count:  # some epochs have one or two batches fewer: split the largest
            largest = max(range(len(batches)), key=lambda index: len(batches[index]))
            whole = batches[largest]
            batches[largest : largest + 1] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
        return batches

    def _cost(self, batch: Sequence[int]) -> int:
        return int(self.lengths[list(batch)].max()) * len(batch)


def batches_for(config: OptimConfig, lengths: Lengths, rows: int, *, weights: Any, seed: int) -> Batches:
    """Return the batches of a config.

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
        processes=processes.count(),
        process=processes.rank(),
    )


def even_weights(targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return sampling weights `[N]` that draw every label equally often: one over the number of rows of the row's
    label, or of its rarest label; rows without labels count as one more label."""
    if targets.ndim == 1:
        return np.asarray(1.0 / np.bincount(targets)[targets], dtype=np.float64)
    counts = np.maximum(targets.sum(axis=0), 1)
    weights = np.where(targets > 0, 1.0 / counts, 0.0).max(axis=1)
    unlabeled = weights == 0
    weights[unlabeled] = 1.0 / max(1, unlabeled.sum())
    return np.asarray(weights, dtype=np.float64)


def updates_of(batches: int, accumulation: int) -> int:
    """Return the updates in one pass over this many batches; the last update may have fewer batches."""
    return math.ceil(batches / accumulation)
