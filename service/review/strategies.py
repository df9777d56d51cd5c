"""Orders in which rows are worth a label: the table STRATEGIES closes the file.

A strategy reads scores, embeddings and what is answered; it reads no text and no label.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.scores import Floats
from service.errors import BadRequest

Places = npt.NDArray[np.int64]
Embed = Callable[[Places], npt.NDArray[Any]]

UNCERTAIN_PER_ROW, FEWEST_UNCERTAIN, MOST_CLUSTERED = 10, 200, 3000
"""Rows that are clustered for each row to choose, at least, and at most."""

MOST_TAUGHT = 2000
"""Rows, drawn at random, that the teacher scores."""

TEACHER_MISSING = "the strategy disagreement compares the model with a teacher: name one with --teacher"


@dataclass(frozen=True)
class Candidates:
    """The rows that may be chosen, by their places `[C]` in the table.

    Attributes:
        scores: of all rows, `[N, L]`, from 0 to 1; of one label each they sum to 1.
        count: rows to choose; the order may be random behind them.
        embed: returns the embeddings `[n, H]` of places.
        teach: returns a teacher's scores `[n, L]` of places; None without a teacher.
        issues: places of likely label errors, the likeliest first; None in a table without labels.
    """

    places: Places
    scores: Floats
    count: int
    seed: int
    embed: Embed | None = None
    teach: Callable[[Places], Floats] | None = None
    issues: Places | None = None


def margin(rows: Candidates) -> Places:
    """Return rows by the difference between their two best scores, the smallest first."""
    return rows.places[np.argsort(-closeness(rows.scores[rows.places]), kind="stable")]


def entropy(rows: Candidates) -> Places:
    """Return rows by the entropy of their scores, the highest first."""
    scores = np.clip(rows.scores[rows.places], 1e-12, 1.0)
    return rows.places[np.argsort((scores * np.log(scores)).sum(axis=1), kind="stable")]


def disagreement(rows: Candidates) -> Places:
    """Return rows by the Jensen-Shannon divergence between the scores of model and teacher, the highest first.

    Raises:
        BadRequest: there is no teacher.
    """
    if rows.teach is None:
        raise BadRequest(TEACHER_MISSING)
    drawn = random(rows)
    taught, rest = np.sort(drawn[:MOST_TAUGHT]), drawn[MOST_TAUGHT:]
    first, second = (np.clip(scores, 1e-12, 1.0) for scores in (rows.scores[taught], rows.teach(taught)))
    mean = (first + second) / 2
    divergence = sum((side * np.log(side / mean)).sum(axis=1) for side in (first, second)) / 2
    return np.concatenate([taught[np.argsort(-divergence, kind="stable")], rest])


def clusters(rows: Candidates) -> Places:
    """Return one row of each of `count` clusters of the embeddings, that nearest to the center, the largest clusters
    first; certain and uncertain rows alike."""
    drawn = random(rows)
    part, rest = np.sort(drawn[:MOST_CLUSTERED]), drawn[MOST_CLUSTERED:]
    return np.concatenate([_spread(rows, part, np.ones(len(part))), rest])


def auto(rows: Candidates) -> Places:
    """Return one row of each of `count` clusters of the uncertain rows, weighted by how uncertain they are.

    This is diverse mini-batch active learning (Zhdanov, 2019), with the margin as the uncertainty: the rows of a pure
    margin resemble each other, and those of pure clusters are known already.
    """
    ordered = margin(rows)
    wanted = min(MOST_CLUSTERED, max(FEWEST_UNCERTAIN, UNCERTAIN_PER_ROW * rows.count))
    part, rest = ordered[:wanted], ordered[wanted:]
    return np.concatenate([_spread(rows, part, closeness(rows.scores[part])), rest])


def random(rows: Candidates) -> Places:
    """Return rows in random order."""
    return np.random.default_rng(rows.seed).permutation(rows.places)


def label_errors(rows: Candidates) -> Places:
    """Return rows whose label in the table is likely wrong, the likeliest first, and no others.

    Raises:
        BadRequest: the table has no labels.
    """
    if rows.issues is None:
        raise BadRequest("the strategy label_errors reads the labels of the table: name their column with --label")
    return rows.issues[np.isin(rows.issues, rows.places)]


def closeness(scores: Floats) -> Floats:
    """Return 1 minus the difference of the two best scores of each row, `[n]`."""
    if scores.shape[1] < 2:
        return np.ones(len(scores))
    best = np.partition(scores, -2, axis=1)[:, -2:]
    return np.asarray(1 - (best[:, 1] - best[:, 0]))


def _spread(rows: Candidates, part: Places, weights: Floats) -> Places:
    """Return `part`, one row of each of `count` weighted clusters first, those of the heaviest clusters leading."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if rows.embed is None:
        raise BadRequest("this strategy needs embeddings of the texts, and there are none: use margin")
    if rows.count >= len(part) or rows.count < 2:
        return part[np.argsort(-weights, kind="stable")]
    vectors = np.asarray(rows.embed(part), dtype=np.float64)
    vectors -= vectors.mean(axis=0)  # encoders place all texts in one direction, which would hide the others
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    weights = np.maximum(weights, 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal embeddings make fewer clusters
        means = KMeans(rows.count, n_init=1, random_state=rows.seed).fit(vectors, sample_weight=weights)
    distances = ((vectors - means.cluster_centers_[means.labels_]) ** 2).sum(axis=1)
    heaviness = np.bincount(means.labels_, weights=weights, minlength=rows.count)
    nearest: dict[int, int] = {}
    for place in np.lexsort((part, distances)):
        nearest.setdefault(int(means.labels_[place]), int(place))
    first = [nearest[cluster] for cluster in np.argsort(-heaviness, kind="stable") if int(cluster) in nearest]
    others = np.setdiff1d(np.arange(len(part)), first)
    others = others[np.argsort(-weights[others], kind="stable")]
    return np.concatenate([part[first], part[others]])


STRATEGIES: Mapping[str, Callable[[Candidates], Places]] = {
    "auto": auto,
    "margin": margin,
    "entropy": entropy,
    "disagreement": disagreement,
    "clusters": clusters,
    "random": random,
    "label_errors": label_errors,
}
