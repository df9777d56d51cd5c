"""Refinement of a teacher's scores from the corpus itself; the tables REFINEMENTS and MULTI_LABEL close the file.

A refinement is fitted on a sample, and then refines any text from its scores and its embedding alone. Shapes: logits
`[N, L]` (log-scores, or log-odds of several labels), embeddings `[N, H]`, soft labels `[N, L]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.scores import Floats, log_softmax, sigmoid, softmax
from service.labeling.linear import fit_soft


@dataclass(frozen=True)
class Refined:
    """A fitted refinement: (logits, embeddings) -> soft labels.

    Attributes:
        name: of the refinement, the one that `auto` took where it was asked for.
    """

    name: str
    refine: Callable[[npt.NDArray[Any], npt.NDArray[Any] | None], Floats]

    def __call__(self, logits: npt.NDArray[Any], embeddings: npt.NDArray[Any] | None) -> Floats:
        """Return the soft labels of texts."""
        return self.refine(logits, embeddings)


PRIOR_ROWS = 5.0
"""Rows that every label has before any is counted, so that no label's proportion is 0."""

SHRINKAGE = 0.3
"""Weight of a round covariance beside the estimated one."""

SEED_POWER = 4.0
"""Power of the scores that start the clusters: mostly the texts that the teacher is sure of."""

LOWEST_TEMPERATURE, PER_DOUBLING = 8.0, 3.5
ROWS_PER_LABEL = 20
"""Texts for each label, at least, for `gaussians` to be taken by `auto`."""

MOST_GROWTH = 2.0
"""A label's share of the refined labels over that of the teacher's, at most, for `gaussians` to be taken by `auto`."""

AGREEMENT_LOST = 0.005
"""Proportion of the texts that may lose the teacher's label for `auto` to take all labels to be equally frequent."""

SUPPORT = 0.5
ABSENT = -1000.0
"""Logarithm of the proportion of a label that has no cluster."""


@dataclass(frozen=True)
class Sample:
    """What a refinement is fitted on.

    Attributes:
        logits, embeddings: of the texts; embeddings are None where there are none.
        priors: proportions of the labels `[L]`, None to estimate them.
        has_none: whether the last label is `none of these`, which no teacher is sure of.
    """

    logits: Floats
    embeddings: npt.NDArray[np.float32] | None
    priors: Floats | None
    has_none: bool = False


def none(sample: Sample) -> Refined:
    """The teacher's scores as they are."""
    return Refined("none", lambda logits, embeddings: softmax(logits))


def prior_correction(sample: Sample, *, strength: float = 1.0) -> Refined:
    """Scores times a factor for each label, so that their mean is the class priors; estimated priors change nothing."""
    bias = strength * _bias(sample.logits, sample.priors)
    return Refined("priors", lambda logits, embeddings: softmax(logits + bias))


def clusters(
    sample: Sample, *, temperature: float = 0.0, power: float = 0.5, rounds: int = 15, support: float = SUPPORT
) -> Refined:
    """Soft spherical clusters of the embeddings (a von Mises-Fisher mixture), one for each label, seeded by the scores;
    a text's score is that of its cluster times its own teacher score to the power given. A label without support gets
    no cluster: one that the teacher gives to fewer texts of its own cluster than `support` times another label. The
    temperature 0 stands for one that grows with the number of labels."""
    if sample.embeddings is None:
        return prior_correction(sample)
    mixture = _mixture(sample, temperature, power, rounds, support)
    temperature = temperature or usual_temperature(sample.logits.shape[1])

    def refined(logits: npt.NDArray[Any], embeddings: npt.NDArray[Any] | None) -> Floats:
        near = temperature * unit(_required(embeddings) - mixture.mean) @ mixture.centers.T
        return softmax(near + power * log_softmax(logits + mixture.bias) + mixture.proportions)

    return Refined("clusters", refined)


@dataclass(frozen=True)
class _Mixture:
    """Clusters of a sample: the mean of its embeddings, what is added to logits, the centers `[L, H]`, logarithms of
    the proportions `[L]` (`ABSENT` for labels without support), and the soft labels of the sample."""

    mean: npt.NDArray[Any]
    bias: Floats
    centers: Floats
    proportions: Floats
    soft: Floats

    @property
    def absent(self) -> Floats:
        """What is added to the logarithm of a label's proportion: `ABSENT` without support, else 0."""
        return np.where(self.proportions <= ABSENT / 2, ABSENT, 0.0)


def _mixture(sample: Sample, temperature: float, power: float, rounds: int, support: float) -> _Mixture:
    embeddings = _required(sample.embeddings)
    mean = embeddings.mean(axis=0)
    vectors = unit(embeddings - mean)
    bias = _bias(sample.logits, sample.priors)
    own = log_softmax(sample.logits + bias)
    absent = np.zeros(own.shape[1])
    temperature = temperature or usual_temperature(own.shape[1])
    while True:
        soft = softmax((1.0 if sample.has_none else SEED_POWER) * own + absent)
        centers, proportions = unit(soft.T @ vectors), absent
        for _ in range(rounds):
            centers = unit(soft.T @ vectors)
            proportions = _log_proportions(soft, sample.priors) + absent
            soft = softmax(temperature * vectors @ centers.T + power * own + proportions)
        fewer = _without_unsupported(sample, own, soft, absent, support)
        if fewer is None:
            return _Mixture(mean, bias, centers, proportions, soft)
        absent = fewer


def _without_unsupported(
    sample: Sample, own: Floats, soft: Floats, absent: Floats, support: float
) -> npt.NDArray[Any] | None:
    """Return `absent` with the labels that have no support either; None where there are none, where proportions are
    given, or where one label would be left."""
    unsupported = _unsupported(own.argmax(axis=1), soft.argmax(axis=1), own.shape[1], support)
    unsupported &= absent == 0
    unsupported[-1] &= not sample.has_none
    if sample.priors is not None or not unsupported.any() or (absent == 0).sum() - unsupported.sum() < 2:
        return None
    return np.where(unsupported, ABSENT, absent)


def _unsupported(
    taught: npt.NDArray[np.int64], refined: npt.NDArray[np.int64], labels: int, support: float
) -> npt.NDArray[np.bool_]:
    """Return which labels `[L]` the teacher hardly gives to the texts of their own clusters."""
    pairs = np.bincount(refined * labels + taught, minlength=labels * labels).reshape(labels, labels)
    return np.asarray((np.diag(pairs) < support * pairs.max(axis=1)) & (pairs.sum(axis=1) > 0))


def gaussians(
    sample: Sample, *, dimensions: int = 128, power: float = 0.5, rounds: int = 10, shrinkage: float = SHRINKAGE
) -> Refined:
    """A Gaussian mixture with one covariance for all labels, in principal components of the embeddings, started from
    `clusters`, and without the labels that have no support there or in it."""
    if sample.embeddings is None:
        return prior_correction(sample)
    start = _mixture(sample, 0.0, power, 15, SUPPORT)
    mean, bias = start.mean, start.bias
    vectors = unit(sample.embeddings - mean)
    axes, middle = _axes(vectors, dimensions)
    points = (vectors - middle) @ axes
    own = log_softmax(sample.logits + bias)
    soft, absent = start.soft, start.absent
    weights, offsets = np.zeros((points.shape[1], soft.shape[1])), np.zeros(soft.shape[1])
    while True:
        for _ in range(rounds):
            rows = soft.sum(axis=0)
            centers = soft.T @ points / (rows[:, None] + PRIOR_ROWS)
            covariance = (points.T @ points - (centers * rows[:, None]).T @ centers) / len(points)
            width = float(np.trace(covariance)) / len(covariance)
            covariance = (1 - shrinkage) * covariance + (shrinkage * width + 1e-12) * np.eye(len(covariance))
            weights = np.linalg.solve(covariance, centers.T)
            offsets = _log_proportions(soft, sample.priors) - 0.5 * (centers.T * weights).sum(axis=0) + absent
            soft = softmax(points @ weights + offsets + power * own)
        fewer = _without_unsupported(sample, own, soft, absent, SUPPORT)
        if fewer is None:
            break
        absent = fewer
        soft = softmax(np.log(np.maximum(start.soft, 1e-12)) + absent)

    def refined(logits: npt.NDArray[Any], embeddings: npt.NDArray[Any] | None) -> Floats:
        projected = (unit(_required(embeddings) - mean) - middle) @ axes
        return softmax(projected @ weights + offsets + power * log_softmax(logits + bias))

    return Refined("gaussians", refined)


def auto(sample: Sample) -> Refined:
    """`gaussians` or `clusters`, with estimated proportions, or with equal ones where as many texts keep the teacher's
    label under them: then nothing speaks against labels that are equally frequent."""
    estimated = _gaussians_or_clusters(sample)
    if sample.embeddings is None or sample.priors is not None or sample.has_none:
        return estimated
    labels = sample.logits.shape[1]
    uniform = _gaussians_or_clusters(replace(sample, priors=np.full(labels, 1 / labels)))
    lost = _agreement(sample, estimated) - _agreement(sample, uniform)
    return replace(uniform, name=f"{uniform.name}, uniform priors") if lost <= AGREEMENT_LOST else estimated


def _agreement(sample: Sample, refined: Refined) -> float:
    """Return the proportion of texts that keep the teacher's label."""
    soft = refined(sample.logits, sample.embeddings)
    return float((soft.argmax(axis=1) == sample.logits.argmax(axis=1)).mean())


def _gaussians_or_clusters(sample: Sample) -> Refined:
    """Return `gaussians` where there are `ROWS_PER_LABEL` texts for each label or more, and no label grows far beyond
    the texts that the teacher gives it, as the label in the middle does where labels are hard to tell apart; else
    `clusters`."""
    if sample.embeddings is not None and len(sample.logits) >= ROWS_PER_LABEL * sample.logits.shape[1]:
        refined = gaussians(sample)
        if _growth(sample, refined(sample.logits, sample.embeddings)) <= MOST_GROWTH:
            return refined
    return clusters(sample)


def _growth(sample: Sample, soft: Floats) -> float:
    """Return the largest quotient of a label's share of the texts and that by the teacher, or its prior if higher."""
    count, labels = soft.shape
    share = np.bincount(soft.argmax(axis=1), minlength=labels) / count
    expected = np.maximum(softmax(sample.logits).mean(axis=0), 0.5 / labels)
    expected = np.maximum(expected, np.bincount(sample.logits.argmax(axis=1), minlength=labels) / count)
    if sample.priors is not None:
        expected = np.maximum(expected, sample.priors)
    growth = share / expected
    return float(growth[: labels - 1 if sample.has_none else labels].max())


def self_training(
    sample: Sample, *, rounds: int = 3, keep: float = 0.5, power: float = 0.5, regularization: float = 1.0
) -> Refined:
    """Logistic regression on the embeddings, trained on the most confident texts of each label and then on its own
    scores, started from `clusters`."""
    if sample.embeddings is None:
        return prior_correction(sample)
    soft = clusters(sample)(sample.logits, sample.embeddings)
    mean = sample.embeddings.mean(axis=0)
    vectors = unit(sample.embeddings - mean)
    bias = _bias(sample.logits, sample.priors)
    own = power * log_softmax(sample.logits + bias)
    weights, offsets = np.zeros((vectors.shape[1], soft.shape[1])), np.zeros(soft.shape[1])
    for _ in range(rounds):
        rows = confident(soft, keep)
        weights, offsets = fit_soft(vectors[rows], soft[rows], regularization)
        soft = softmax(vectors @ weights + offsets + own)

    def refined(logits: npt.NDArray[Any], embeddings: npt.NDArray[Any] | None) -> Floats:
        linear = unit(_required(embeddings) - mean) @ weights + offsets
        return softmax(linear + power * log_softmax(logits + bias))

    return Refined("self_training", refined)


def several_as_they_are(sample: Sample) -> Refined:
    """The teacher's scores of each label as they are."""
    return Refined("none", lambda logits, embeddings: sigmoid(logits))


def several_linear(sample: Sample, *, regularization: float = 1.0, power: float = 0.5) -> Refined:
    """Logistic regression on embeddings for each label, trained on the teacher's scores, and their weighted mean."""
    if sample.embeddings is None:
        return several_as_they_are(sample)
    mean = sample.embeddings.mean(axis=0)
    vectors = unit(sample.embeddings - mean)
    pairs = []
    for odds in sample.logits.T:
        yes = sigmoid(odds)
        weights, offsets = fit_soft(vectors, np.stack([1 - yes, yes], axis=1), regularization)
        pairs.append((weights[:, 1] - weights[:, 0], offsets[1] - offsets[0]))
    weights, offsets = np.stack([pair[0] for pair in pairs], axis=1), np.array([pair[1] for pair in pairs])

    def refined(logits: npt.NDArray[Any], embeddings: npt.NDArray[Any] | None) -> Floats:
        linear = unit(_required(embeddings) - mean) @ weights + offsets
        return sigmoid((1 - power) * linear + power * logits)

    return Refined("linear", refined)


def confident(soft: Floats, keep: float) -> npt.NDArray[np.int64]:
    """Return the places of the fraction `keep` of each label's texts that have the highest score, sorted."""
    best, scores = soft.argmax(axis=1), soft.max(axis=1)
    chosen = []
    for label in range(soft.shape[1]):
        places = np.flatnonzero(best == label)
        count = int(np.ceil(keep * len(places)))
        chosen.append(places[np.argsort(-scores[places], kind="stable")[:count]])
    return np.asarray(np.sort(np.concatenate(chosen)))


def unit(vectors: npt.NDArray[Any]) -> Floats:
    """Return the rows scaled to length 1, zeros unchanged."""
    values = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0))


def usual_temperature(labels: int) -> float:
    """Return the concentration of clusters that suits so many labels: 10 for 7, and more for more."""
    return max(LOWEST_TEMPERATURE, PER_DOUBLING * float(np.log2(labels)))


def _bias(logits: Floats, priors: Floats | None, rounds: int = 50) -> Floats:
    """Return what is added to the logits `[L]` so that the mean scores are the priors; zeros where none are given."""
    bias = np.zeros(logits.shape[1])
    if priors is None:
        return bias
    wanted = np.log(np.maximum(priors, 1e-6))
    for _ in range(rounds):
        bias += wanted - np.log(softmax(logits + bias).mean(axis=0) + 1e-12)
    return np.asarray(bias - bias.mean())


def _log_proportions(soft: Floats, priors: Floats | None) -> Floats:
    rows = soft.sum(axis=0) + PRIOR_ROWS
    return np.asarray(np.log(rows / rows.sum() if priors is None else np.maximum(priors, 1e-6)))


def _axes(vectors: Floats, dimensions: int) -> tuple[Floats, Floats]:
    """Return the first principal axes `[H, D]` of vectors, and their mean."""
    middle = vectors.mean(axis=0)
    covariance = (vectors - middle).T @ (vectors - middle)
    count = max(1, min(dimensions, vectors.shape[1], len(vectors) // 4))
    return np.linalg.eigh(covariance)[1][:, ::-1][:, :count], middle


def _required(embeddings: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if embeddings is None:
        raise TypeError("this refinement was fitted on embeddings, and there are none")
    return embeddings


REFINEMENTS: Mapping[str, Callable[..., Refined]] = {
    "auto": auto,
    "none": none,
    "priors": prior_correction,
    "clusters": clusters,
    "gaussians": gaussians,
    "self_training": self_training,
}

PROPORTIONED = ("priors", "clusters", "gaussians", "self_training")
"""Refinements that follow the proportions of the labels."""

MULTI_LABEL: Mapping[str, Callable[..., Refined]] = {
    "auto": several_linear,
    "none": several_as_they_are,
    "linear": several_linear,
}
"""Refinements where several labels may hold."""
