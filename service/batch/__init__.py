"""Tables in, scored tables out; `BatchScorer` scores batches of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.batch.batch_scorer import BatchScorer

__all__ = ["BatchScorer"]


def __getattr__(name: str) -> Any:
    if name == "BatchScorer":
        from service.batch.batch_scorer import BatchScorer

        return BatchScorer
    raise AttributeError(f"module 'service.batch' has no attribute {name!r}")
