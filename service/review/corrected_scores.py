"""A model's scores, corrected by the answers to some texts: logistic regression on embeddings beside those scores.

The given model's log-scores, times a trust between 0 and 1, are the logits where embeddings say nothing; weights on the
embeddings are learned from the answers. Trust and regularization are the first of `CORRECTIONS` whose cross-validated
log loss is within a standard error of the lowest: a good model is kept almost as it is, a weak one follows
the answers. The order and the rule were chosen on trec, snips and banking77.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from finetune.core.errors import TrainingError
from finetune.core.scores import Floats, log_softmax, softmax
from service.labeling.linear import fit_soft
from service.labeling.refine import unit
from service.review.strategies import Places, closeness

CORRECTIONS = ((1.0, 3.0), (1.0, 30.0), (0.6, 3.0), (0.6, 30.0), (0.3, 3.0), (0.3, 30.0), (0.0, 30.0))
"""Trust and regularization (C), those that stay closest to the given model first."""

Rows = tuple[Floats, ...]
"""Log-scores of the given model `[N, L]`, vectors `[N, H]` and labels as rows of 0 and 1 `[N, L]`."""

FOLDS = 5
LOWEST, LOWEST_SUM = 1e-4, 0.01
"""Least score of a label before they are made to sum to 1, also of one that the given model does not know; of many
labels it is less, so that those without a score have this much together at most."""


def corrected_scores(
    scores: Floats,
    embeddings: npt.NDArray[Any],
    answered: Places,
    targets: Places,
    seed: int = 0,
) -> Floats:
    """Return the corrected scores `[N, L]` of texts.

    Args:
        scores: of the given model, `[N, L]`; 0 for labels that it does not know.
        embeddings: `[N, H]`.
        answered: places of the texts with an answer `[A]`.
        targets: places of their labels `[A]`.

    Raises:
        TrainingError: a score or an embedding is not finite.
    """
    for what, values in (("scores", scores), ("embeddings", embeddings)):
        if not np.isfinite(values).all():
            raise TrainingError(f"the {what} of the model under review are not finite: review with another model")
    given = log_softmax(np.log(np.maximum(scores, _lowest(scores.shape[1]))))
    if len(answered) < FOLDS:
        return softmax(given)
    vectors = embeddings.astype(np.float64)
    vectors = unit(vectors - vectors.mean(axis=0))
    soft = np.eye(scores.shape[1])
    stand_ins, named = _stand_ins(scores, answered, targets)
    fixed = given[stand_ins], vectors[stand_ins], soft[named]
    rows = given[answered], vectors[answered], soft[targets]
    folds = np.random.default_rng(seed).permutation(len(targets)) % FOLDS
    with threadpool_limits(1):  # threads of small products wait for each other: ten times as long on busy cores
        losses = np.stack([_held_out_losses(rows, fixed, folds, *correction) for correction in CORRECTIONS])
        return _fitted(rows, fixed, *CORRECTIONS[_first_good(losses)])(given, vectors)


def _lowest(labels: int) -> float:
    return min(LOWEST, LOWEST_SUM / labels)


def _stand_ins(scores: Floats, answered: Places, targets: Places) -> tuple[Places, Places]:
    """Return places of unanswered texts, and of the label that each stands for.

    No answer speaks for a label that was never the answer, so that the fit would give its texts to others. It gets the
    texts where the given model is surest of it, as many as the other labels have on average at most, and fewer the more
    answers there are to texts that the model gave this label, and was sure of it: all of them were other labels.
    """
    seen = np.unique(targets)
    usual = max(1, len(targets) // len(seen))
    said = scores.argmax(axis=1)
    refuted = np.bincount(said[answered], weights=1 - closeness(scores[answered]), minlength=scores.shape[1])
    said[answered] = -1
    places: list[int] = []
    labels: list[int] = []
    for label in np.setdiff1d(np.arange(scores.shape[1]), seen).tolist():
        own = np.flatnonzero(said == label)
        count = round(usual / (1 + refuted[label]))
        surest = own[np.argsort(-scores[own, label], kind="stable")[:count]].tolist()
        places += surest
        labels += [label] * len(surest)
    return np.array(places, dtype=np.int64), np.array(labels, dtype=np.int64)


def _first_good(losses: Floats) -> int:
    """Return the first row of `[settings, A]` whose mean is within a standard error of the lowest one's."""
    gaps = losses - losses[losses.mean(axis=1).argmin()]
    errors = gaps.std(axis=1, ddof=1) / np.sqrt(losses.shape[1])
    return int(np.flatnonzero(gaps.mean(axis=1) <= errors)[0])


def _held_out_losses(
    rows: Rows, fixed: Rows, folds: npt.NDArray[np.int64], trust: float, regularization: float
) -> Floats:
    """Return the log loss of each row `[A]`, by a fit to the other folds and the fixed rows."""
    losses = np.zeros(len(folds))
    for fold in np.unique(folds):
        given, vectors, soft = (part[folds == fold] for part in rows)
        others = tuple(part[folds != fold] for part in rows)
        scores = _fitted(others, fixed, trust, regularization)(given, vectors)
        losses[folds == fold] = -(soft * np.log(np.maximum(scores, _lowest(soft.shape[1])))).sum(axis=1)
    return losses


def _fitted(rows: Rows, fixed: Rows, trust: float, regularization: float) -> Callable[[Floats, Floats], Floats]:
    """Return the function (log-scores, vectors) -> scores after a fit to both kinds of rows."""
    given, vectors, soft = (np.concatenate(pair) for pair in zip(rows, fixed, strict=True))
    weights, offsets = fit_soft(vectors, soft, regularization, start=trust * given)
    return lambda others, near: softmax(trust * others + near @ weights + offsets)
