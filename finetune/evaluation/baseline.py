"""The baseline without a pretrained encoder: TF-IDF with logistic regression (ridge for regression)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.labels import LabelSpace
from finetune.data.rows import Rows

MOST_ROWS = 20_000
"""Most training rows, so that the baseline of a large table takes little time."""

MOST_TERMS = 100_000
"""Most words and word pairs in the vocabulary."""

FOLDS, MOST_ROWS_A_FOLD = 5, 5_000
SECOND = "second:"
"""Prefix of the words of a pair's second text, which distinguishes the two sides."""


def tfidf_scores(
    labels: LabelSpace, train: Rows, evaluated: list[Rows], *, seed: int, most_rows: int = MOST_ROWS
) -> list[npt.NDArray[Any]]:
    """Return scores `[N, C]` (numbers `[N, 1]`) of each table in `evaluated`, by a TF-IDF model of at most `most_rows`
    training rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    if len(train) > most_rows:
        train = train.take(np.random.default_rng(seed).permutation(len(train))[:most_rows].tolist())
    targets = labels.encode(train.values)
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_TERMS, token_pattern=r"(?u)[\w:]+|[^\w\s]"
    )
    regression = labels.task == "regression"
    model = make_pipeline(vectorizer, Ridge() if regression else _classifier(labels, seed))
    with warnings.catch_warnings():
        # labels that all or no rows have, and a fit that has not converged, are acceptable here
        warnings.simplefilter("ignore", UserWarning)
        model.fit(_joined(train), targets)
    if regression:
        return [model.predict(_joined(rows))[:, None] for rows in evaluated]
    return [_spread(labels, model, rows) for rows in evaluated]


def cross_validated_tfidf_scores(labels: LabelSpace, rows: Rows, *, seed: int) -> npt.NDArray[Any] | None:
    """Return scores `[N, C]` of each row by a TF-IDF model of the other folds; None for a table that is too small or
    has fewer than two labels."""
    from sklearn.model_selection import KFold

    if len(rows) < FOLDS * 2:
        return None
    scores: npt.NDArray[Any] = np.zeros((len(rows), len(labels)))
    for others, fold in KFold(FOLDS, shuffle=True, random_state=seed).split(rows.texts):
        known = rows.take(others.tolist())
        if labels.task in ("binary", "multiclass") and len(set(known.values)) < 2:
            return None
        scores[fold] = tfidf_scores(labels, known, [rows.take(fold.tolist())], seed=seed, most_rows=MOST_ROWS_A_FOLD)[0]
    return scores


def _classifier(labels: LabelSpace, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    regression = LogisticRegression(C=10, max_iter=500, random_state=seed)
    # one-vs-rest is many times faster than the multinomial fit with many labels
    return regression if len(labels) == 2 and labels.task == "binary" else OneVsRestClassifier(regression)


def _spread(labels: LabelSpace, model: Any, rows: Rows) -> npt.NDArray[Any]:
    probabilities = model.predict_proba(_joined(rows))
    scores = np.zeros((len(rows), len(labels)))
    if labels.task == "multi_label":
        return np.asarray(probabilities)
    scores[:, model.classes_] = probabilities  # a label without a training row has no column
    return scores


def _joined(rows: Rows) -> Sequence[str]:
    if rows.pairs is None:
        return rows.texts
    seconds = (" ".join(SECOND + word for word in pair.split()) for pair in rows.pairs)
    return [f"{text} {second}" for text, second in zip(rows.texts, seconds, strict=True)]
