"""Scores of each row of a table by models that have not seen it, without training an encoder."""

from __future__ import annotations

from os import PathLike

import numpy as np

from finetune.bases import text_embedder
from finetune.core.labels import LabelSpace
from finetune.core.scores import Floats
from finetune.data.rows import Rows
from finetune.evaluation.baseline import cross_validated_tfidf_scores
from finetune.evaluation.linear_probe import cross_validated_scores

SMALLEST = 1e-9


def out_of_fold_scores(
    labels: LabelSpace,
    rows: Rows,
    base: str | None,
    *,
    seed: int = 0,
    models_dir: str | PathLike[str] | None = "models",
    device: str = "auto",
) -> Floats | None:
    """Return scores `[N, C]` of each row by TF-IDF, trained on the other folds, in equal parts with a linear model on
    the text embeddings of a base; None for a table that is too small or has fewer than two labels.

    Their geometric mean is more often right than either: words and meaning err on other rows.

    Args:
        base: None for TF-IDF alone.

    Raises:
        CheckpointError: the base cannot be used.
    """
    tfidf = cross_validated_tfidf_scores(labels, rows, seed=seed)
    if tfidf is None or base is None:
        return tfidf
    embed = text_embedder(base, models_dir=models_dir, device=device)
    texts = rows.texts if rows.pairs is None else list(map("\n".join, zip(rows.texts, rows.pairs, strict=True)))
    probe = cross_validated_scores(labels, embed(texts), rows, seed=seed)
    mean = np.sqrt(np.maximum(tfidf, SMALLEST) * np.maximum(probe, SMALLEST))
    return np.asarray(mean / mean.sum(axis=1, keepdims=True))
