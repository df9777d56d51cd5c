"""A model at work: items with their exact cost, the queue they wait in, the backend that computes them.

Knows: what an item is, how a batch of items becomes arrays and its outputs become results.
Does not know: labels by name, templates, scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from finetune.core.model_folder import AttentionMode
from finetune.core.tokenization import Encoded, TextEncoder
from service.errors import BackendFailed, BadRequest
from service.inference.backends.base import Backend, Outputs
from service.inference.backends.packing import Packed
from service.inference.batch_queue import Batch, BatchQueue
from service.schema import Work

BATCHES_WAITING = 64
"""Batches' worth of tokens that may wait for a model; more are refused, or wait where the caller said so."""

WIDTH_STEP = 32
"""Labels of different questions share a batch where their rows are alike in width, up to this."""


class Rows(NamedTuple):
    """A kind of items: sequences one by one."""

    attention: AttentionMode
    embeddings: bool


class Labelled(NamedTuple):
    """A kind of items: texts, each with its labels, which are read under the shared-text mask."""

    width: int
    embeddings: bool


class Found(NamedTuple):
    """What the model says: logits `[C]` of a sequence, or `[L, C]` of a text's labels; and the text's embedding."""

    logits: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32] | None


class Terms(NamedTuple):
    """How a call wants to be answered.

    batch_size: rows computed together, at most; None for what suits the runtime.
    wait: wait for room in the queue, instead of being refused.
    work: what it may take, and where it is written what it took.
    apart: share no batch with another call, so that the answers are the same bits whenever it is made.
    """

    batch_size: int | None
    wait: bool
    work: Work
    apart: bool = False


class ModelRunner:
    """One model, its tokenizer and its queue; safe to use from many threads.

    Args:
        name: what errors call the model.
        renewed: gives the backend anew, where a call of the old one never came back. Without it, a call may take any
            time.
        seen: hears of every batch that was computed.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        backend: Backend,
        name: str,
        *,
        renewed: Callable[[], Backend] | None = None,
        seen: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.encoder, self.backend = encoder, backend
        self._name, self._renewed = name, renewed
        tokens = backend.batch.tokens
        self._batcher = BatchQueue(
            self._compute,
            budget=tokens,
            room=BATCHES_WAITING * tokens,
            padded=backend.is_padded,
            renew=None if renewed is None else self._renew,
            seen=seen,
        )

    @property
    def waiting(self) -> int:
        """Tokens that wait."""
        return self._batcher.waiting

    def seconds(self, tokens: float | None = None) -> float:
        """What so many tokens will take, or those that wait; 0 where nothing was computed so far."""
        return self._batcher.seconds(self.waiting if tokens is None else tokens)

    def rows(self, kind: Rows, rows: Sequence[Encoded], terms: Terms) -> Future[list[Found]]:
        """Results of sequences.

        Raises:
            Overloaded: there is no room, and the terms say not to wait.
            TooLarge: more tokens than the call may take.
        """
        return self._submit(kind, rows, [len(row) for row in rows], terms)

    def labelled(
        self, texts: Sequence[Encoded], packs: Sequence[Packed], terms: Terms, *, embeddings: bool
    ) -> Future[list[Found]]:
        """Results of texts (parts of pairs up to the hypothesis), each with its labels; raises as `rows` does."""
        width = -(-max(pack.width for pack in packs) // WIDTH_STEP)
        lengths = [len(text) + pack.tokens for text, pack in zip(texts, packs, strict=True)]
        items = list(zip(texts, packs, strict=True))
        return self._submit(Labelled(width, embeddings), items, lengths, terms)

    def close(self) -> None:
        """Finish what waits, take nothing more, and let go of the model."""
        self._batcher.close()
        self.backend.close()

    def _submit(self, kind: Any, items: Sequence[Any], lengths: Sequence[int], terms: Terms) -> Future[list[Found]]:
        rows = self.backend.batch.rows if terms.batch_size is None else terms.batch_size
        if rows < 1:
            raise BadRequest(f"batch_size must be at least 1, and it is {rows}")
        terms.work.take(sum(lengths))
        owner = terms.work if terms.apart else None
        return self._batcher.submit((kind, owner), items, lengths, rows=rows, wait=terms.wait, took=terms.work)

    def _renew(self) -> None:
        if self._renewed is not None:
            self.backend = self._renewed()

    def _compute(self, owned: tuple[Rows | Labelled, Work | None], batch: list[Any]) -> list[Found]:
        kind, _ = owned
        if isinstance(kind, Rows):
            inputs = self.encoder.pad(batch)
            outputs = self.backend.run(inputs, attention=kind.attention, embeddings=kind.embeddings)
            logits = list(outputs.logits)
        else:
            packs = [pack for _, pack in batch]
            inputs = self.encoder.pad([text for text, _ in batch])
            outputs = self.backend.run_labels(inputs, packs, embeddings=kind.embeddings)
            logits = np.split(outputs.logits, np.cumsum([len(pack.starts) for pack in packs])[:-1])
        self._check(outputs)
        means = [None] * len(batch) if outputs.embeddings is None else list(outputs.embeddings)
        return [Found(one, mean) for one, mean in zip(logits, means, strict=True)]

    def _check(self, outputs: Outputs) -> None:
        """A batch with such an answer is split, until the text that has it fails alone."""
        if not np.isfinite(outputs.logits).all():
            raise BackendFailed(f"{self._name} answered with something that is not a number")
