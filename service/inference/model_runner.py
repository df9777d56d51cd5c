"""Tokenized rows in, outputs of the model out: cost of each row, batching, arrays for the backend."""

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

QUEUED_BATCHES = 64
"""Batches' worth of tokens that the queue of a model holds; further calls are refused, or block if they chose to."""

WIDTH_STEP = 32
"""Label rows of different requests share a batch if their widths, rounded up to this, are equal."""


class SequenceKind(NamedTuple):
    """A kind of rows: sequences of tokens."""

    attention: AttentionMode
    embeddings: bool


class LabeledKind(NamedTuple):
    """A kind of rows: texts, each with its candidate labels, under the shared-text mask."""

    width: int
    embeddings: bool


class RowOutput(NamedTuple):
    """Logits `[C]` of a sequence, or `[L, C]` of a text's labels, and the embedding `[H]` of the text."""

    logits: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32] | None


class CallOptions(NamedTuple):
    """How a call is computed.

    batch_size: maximum rows of a batch; None for what suits the runtime.
    wait: block until the queue has space, instead of raising.
    work: the call's limits, and where its cost is recorded.
    apart: share no batch with other calls, so that repeated calls return the same bits.
    """

    batch_size: int | None
    wait: bool
    work: Work
    apart: bool = False


class ModelRunner:
    """One model with its tokenizer and queue; thread-safe.

    Args:
        name: the model's name in errors.
        reload: returns a new backend after a call of the old one hung. Without it, a call may take any time.
        on_batch: called after every computed batch.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        backend: Backend,
        name: str,
        *,
        reload: Callable[[], Backend] | None = None,
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.encoder, self.backend = encoder, backend
        self._name, self._reload = name, reload
        tokens = backend.batch.tokens
        self._queue = BatchQueue(
            self._compute,
            batch_tokens=tokens,
            max_tokens=QUEUED_BATCHES * tokens,
            padded=backend.is_padded,
            family=_family,
            restart=None if reload is None else self._restart,
            on_batch=on_batch,
        )

    @property
    def queued_tokens(self) -> int:
        """Tokens in the queue."""
        return self._queue.queued_tokens

    def seconds(self, tokens: float | None = None) -> float:
        """Return the expected seconds for `tokens`, or for the queue; 0 before the first batch."""
        return self._queue.seconds(self.queued_tokens if tokens is None else tokens)

    def rows(self, kind: SequenceKind, rows: Sequence[Encoded], options: CallOptions) -> Future[list[RowOutput]]:
        """Submit sequences and return the future of their outputs.

        Raises:
            Overloaded: the queue is full, and the options do not say to wait.
            TooLarge: the call exceeds its limit of tokens.
        """
        return self._submit(kind, rows, [len(row) for row in rows], options)

    def labeled(
        self, texts: Sequence[Encoded], packs: Sequence[Packed], options: CallOptions, *, embeddings: bool
    ) -> Future[list[RowOutput]]:
        """Submit texts (parts of pairs up to the hypothesis), each with its labels; raise as `rows` does."""
        width = -(-max(pack.width for pack in packs) // WIDTH_STEP)
        lengths = [len(text) + pack.tokens for text, pack in zip(texts, packs, strict=True)]
        items = list(zip(texts, packs, strict=True))
        return self._submit(LabeledKind(width, embeddings), items, lengths, options)

    def replace(self, backend: Backend) -> None:
        """Compute with another runtime from the next batch on; its batches have the size of the present one's."""
        self.backend = backend
        self._queue.forget()

    def close(self) -> None:
        """Finish what is queued, accept nothing more, and release the model."""
        self._queue.close()
        self.backend.close()

    def _submit(
        self, kind: Any, items: Sequence[Any], lengths: Sequence[int], options: CallOptions
    ) -> Future[list[RowOutput]]:
        rows = self.backend.batch.rows if options.batch_size is None else options.batch_size
        if rows < 1:
            raise BadRequest(f"batch_size must be at least 1, not {rows}")
        options.work.take(sum(lengths))
        owner = options.work if options.apart else None
        return self._queue.submit((kind, owner), items, lengths, rows=rows, wait=options.wait, timings=options.work)

    def _restart(self) -> None:
        if self._reload is not None:
            self.backend = self._reload()

    def _compute(self, owned: tuple[SequenceKind | LabeledKind, Work | None], batch: list[Any]) -> list[RowOutput]:
        kind, _ = owned
        if isinstance(kind, SequenceKind):
            inputs = self.encoder.pad(batch)
            outputs = self.backend.run(inputs, attention=kind.attention, embeddings=kind.embeddings)
            logits = list(outputs.logits)
        else:
            packs = [pack for _, pack in batch]
            inputs = self.encoder.pad([text for text, _ in batch])
            outputs = self.backend.run_labels(inputs, packs, embeddings=kind.embeddings)
            logits = np.split(outputs.logits, np.cumsum([len(pack.starts) for pack in packs])[:-1])
        self._require_finite(outputs)
        means = [None] * len(batch) if outputs.embeddings is None else list(outputs.embeddings)
        return [RowOutput(row, mean) for row, mean in zip(logits, means, strict=True)]

    def _require_finite(self, outputs: Outputs) -> None:
        """Raise for a batch with NaN or infinity; the queue splits it until the text at fault fails alone."""
        if not np.isfinite(outputs.logits).all():
            raise BackendFailed(f"{self._name} returned a logit that is not a finite number")


def _family(owned: tuple[SequenceKind | LabeledKind, Work | None]) -> tuple[Any, ...]:
    """Return what a runtime prepares at its first use: a mask, and whether there are embeddings."""
    kind, _ = owned
    return kind if isinstance(kind, SequenceKind) else ("labeled", kind.embeddings)
