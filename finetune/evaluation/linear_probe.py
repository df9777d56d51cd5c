"""A linear model on fixed features, cross-validated: how much of the labels an encoder knows before any training."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.labels import LabelSpace
from finetune.data.rows import Rows

FOLDS = 5
STRENGTH = 0.1
"""Inverse strength C of the L2 penalty, on features of variance 1."""


def cross_validated_scores(
    labels: LabelSpace, features: npt.NDArray[Any], rows: Rows, *, seed: int
) -> npt.NDArray[Any]:
    """Return scores `[N, C]` (numbers `[N, 1]`) of each row by a linear model of the other folds.

    No group of `rows.groups` is in two folds.

    Args:
        features: `[N, D]`.
    """
    from sklearn.model_selection import GroupKFold, KFold

    groups = rows.groups if rows.groups is not None and len(set(rows.groups)) >= FOLDS else None
    count = min(FOLDS, len(rows))
    folds = GroupKFold(FOLDS) if groups is not None else KFold(count, shuffle=True, random_state=seed)
    targets = labels.encode(rows.values)
    width = 1 if labels.task == "regression" else len(labels)
    scores: npt.NDArray[Any] = np.zeros((len(rows), width))
    for others, fold in folds.split(features, groups=groups):
        scores[fold] = _scores(labels, features[others], targets[others], features[fold], seed)
    return scores


def _scores(labels: LabelSpace, features: Any, targets: Any, new: Any, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    single = labels.task in ("binary", "multiclass")
    if single and len(np.unique(targets)) < 2:
        return np.eye(len(labels))[np.full(len(new), int(targets[0]))]
    linear: Any = LogisticRegression(C=STRENGTH, max_iter=200, random_state=seed)
    linear = Ridge(len(features)) if labels.task == "regression" else linear if single else OneVsRestClassifier(linear)
    with warnings.catch_warnings():
        # labels that all or no rows have, and a fit that has not converged, are acceptable here
        warnings.simplefilter("ignore", UserWarning)
        model = make_pipeline(StandardScaler(), linear).fit(features, targets)
    if labels.task == "regression":
        return np.asarray(model.predict(new)).reshape(-1, 1)
    probabilities = np.asarray(model.predict_proba(new))
    if not single:
        return probabilities[:, -len(labels) :]  # of one label alone there are two columns
    scores = np.zeros((len(new), len(labels)))
    scores[:, model.classes_.astype(int)] = probabilities  # a label without a row in these folds has no column
    return scores
