"""Vectorized metrics of many bootstrap resamples.

A resample is a row of `draws [R, N]`: how often each of N rows was drawn, or that number times the row's weight. Every
function returns the metric of each resample, `[R]`, and NaN where it is undefined. A test compares the formulas with
those of metrics.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from finetune.core.errors import ConfigError
from finetune.evaluation.metrics import (
    CALIBRATION_BINS,
    METRICS,
    SCORE_METRICS,
    Array,
    confidences,
    measured,
    one_hot,
)

CELLS_AT_ONCE = 4_000_000
"""Entries of `draws` in memory at a time: 32 MB."""

Resampled = Callable[[Array], Array]


def draws_of(rows: int, count: int, *, seed: int = 0) -> Iterator[Array]:
    """Yield `count` bootstrap resamples of `rows` rows as blocks of `draws [R, N]`."""
    rng = np.random.default_rng(seed)
    block = max(1, CELLS_AT_ONCE // max(rows, 1))
    for start in range(0, count, block):
        size = min(block, count - start)
        places = rng.integers(0, rows, (size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(places.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def resampled(name: str, predictions: Array, references: Array, scores: Array) -> Resampled:
    """Return the function from `draws [R, N]` to the metric `name` of each resample `[R]`.

    Args:
        predictions, references, scores: as in metrics.py.
    """
    if name in ("mse", "mae", "msle", "r2", "pearson", "spearman"):
        return _of_numbers(name, predictions.astype(float), references.astype(float))
    if name in ("log_loss", "calibration_error"):
        return _log_loss(scores, references) if name == "log_loss" else _calibration(scores, references)
    if name == "brier":
        squares = (scores - one_hot(scores, references)) ** 2
        several, two = references.ndim == 2, scores.shape[1] == 2
        return _mean(squares.mean(axis=1) if several or two else squares.sum(axis=1))
    if name in ("roc_auc", "mean_average_precision"):
        truth = one_hot(scores, references)
        if name == "roc_auc" and scores.shape[1] == 2 and references.ndim == 1:
            scores, truth = scores[:, 1:], truth[:, 1:]
        return _mean_of_labels(_area if name == "roc_auc" else _precision, scores, truth)
    if name in ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "samples_f1", "balanced_accuracy", "mcc"):
        return _of_decisions(name, predictions, references)
    return partial(_one_by_one, name, predictions, references, scores)


def weighted(
    names: Sequence[str], predictions: Array, references: Array, scores: Array, weights: Array | None
) -> dict[str, float]:
    """Return metric -> value, where a row of weight 2 counts as two rows; None counts each row once. Metrics that are
    undefined on these rows are left out.

    Args:
        weights: `[N]`, above 0.
    """
    if weights is None:
        return measured(names, predictions, references, scores)
    values = {name: float(resampled(name, predictions, references, scores)(weights[None])[0]) for name in names}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _one_by_one(name: str, predictions: Array, references: Array, scores: Array, draws: Array) -> Array:
    """Return a metric that has no formula here, computed for one resample after the other."""
    if _fractional(draws):
        raise ConfigError(f"metric {name!r} has no weighted form: leave out --weight, or this metric")
    values = []
    for drawn in draws.astype(int):
        rows = np.repeat(np.arange(len(drawn)), drawn)
        metric, answers = (METRICS[name], predictions) if name in METRICS else (SCORE_METRICS[name], scores)
        values.append(metric(answers[rows], references[rows]))
    return np.array(values)


def _fractional(draws: Array) -> bool:
    return bool((draws != np.rint(draws)).any())


def _mean(values: Array) -> Resampled:
    """Return the mean over the drawn rows of one number for each row `[N]`."""

    def mean(draws: Array) -> Array:
        means = draws @ values / draws.sum(axis=1)
        bounded: Array = np.clip(means, values.min(), values.max())  # rounding may lead out of them
        return bounded

    return mean


def _divided(top: Array, bottom: Array) -> Array:
    """Return top / bottom, and 0 where the bottom is 0."""
    quotient: Array = np.divide(top, bottom, out=np.zeros_like(top, dtype=float), where=bottom != 0)
    return quotient


def _of_decisions(name: str, predictions: Array, references: Array) -> Resampled:
    several = references.ndim == 2
    if name == "accuracy" or (name == "micro_f1" and not several):
        right = predictions == references
        return _mean((right.all(axis=1) if several else right).astype(float))
    if several:
        predicted, true = predictions.astype(float), references.astype(float)
    else:
        width = int(max(predictions.max(), references.max())) + 1
        predicted, true = np.eye(width)[predictions.astype(int)], np.eye(width)[references.astype(int)]
    hits = predicted * true
    if name == "samples_f1":
        return _mean(_divided(2 * hits.sum(axis=1), predicted.sum(axis=1) + true.sum(axis=1)))
    return partial(_of_counts, name, hits, predicted, true, several)


def _of_counts(name: str, hits: Array, predicted: Array, true: Array, several: bool, draws: Array) -> Array:
    """Return a metric of how often each label was predicted correctly, predicted, and true, `[R, C]` each."""
    right, given, held = draws @ hits, draws @ predicted, draws @ true
    if name == "micro_f1":
        return _divided(2 * right.sum(axis=1), (given + held).sum(axis=1))
    if name == "balanced_accuracy":
        return _divided(_divided(right, held).sum(axis=1), (held > 0).sum(axis=1).astype(float))
    if name == "mcc":
        rows = draws.sum(axis=1)
        top = rows * right.sum(axis=1) - (given * held).sum(axis=1)
        bottom = (rows**2 - (given**2).sum(axis=1)) * (rows**2 - (held**2).sum(axis=1))
        return _divided(top, np.sqrt(np.maximum(bottom, 0)))
    f1 = _divided(2 * right, given + held)
    if name == "weighted_f1":
        return _divided((f1 * held).sum(axis=1), held.sum(axis=1))
    # as in scikit-learn, a label without references and predictions counts for multi-label only
    counted = np.full(len(f1), f1.shape[1]) if several else (given + held > 0).sum(axis=1)
    return _divided(f1.sum(axis=1), counted.astype(float))


def _of_numbers(name: str, predictions: Array, references: Array) -> Resampled:
    if name == "mae":
        return _mean(np.abs(predictions - references))
    if name == "mse":
        return _mean((predictions - references) ** 2)
    if name == "msle":
        if min(predictions.min(), references.min()) <= -1:
            return lambda draws: np.full(len(draws), np.nan)
        return _mean((np.log1p(predictions) - np.log1p(references)) ** 2)
    if name == "r2":
        return partial(_r2, predictions, references)
    if name == "pearson":
        return lambda draws: _correlation(draws, predictions, references)
    return lambda draws: _correlation(draws, _ranks(draws, predictions), _ranks(draws, references))


def _r2(predictions: Array, references: Array, draws: Array) -> Array:
    centered = references - references.mean()
    rows = draws.sum(axis=1)
    spread = draws @ centered**2 - (draws @ centered) ** 2 / rows
    constant = spread <= 1e-12 * max(float((centered**2).sum()), 1e-300)
    left = draws @ (predictions - references) ** 2
    return np.where(constant, 0.0, 1 - _divided(left, np.where(constant, 0.0, spread)))


def _correlation(draws: Array, one: Array, other: Array) -> Array:
    """Return Pearson's correlation of the drawn rows; values are `[N]`, or `[R, N]` where they differ by resample."""
    rows = draws.sum(axis=1, keepdims=True)
    one, other = (_in_unit(values) for values in (one, other))
    one, other = (values - (draws * values).sum(axis=1, keepdims=True) / rows for values in (one, other))
    top = (draws * one * other).sum(axis=1)
    bottom = np.sqrt((draws * one**2).sum(axis=1) * (draws * other**2).sum(axis=1))
    return np.clip(_divided(top, np.where(bottom < 1e-12, 0.0, bottom)), -1, 1)


def _in_unit(values: Array) -> Array:
    """Return values minus their mean, divided by the largest distance from it, so that rounding does not depend on
    scale."""
    centered = values - values.mean()
    size = np.abs(centered).max()
    scaled: Array = centered / size if size > 0 else centered
    return scaled


def _ranks(draws: Array, values: Array) -> Array:
    """Return the mid-rank of each row's value among the drawn rows, `[R, N]`."""
    group, of_group = _grouped(draws, values)
    below = np.cumsum(of_group, axis=1) - of_group
    return (below + (of_group + 1) / 2)[:, group]


def _grouped(draws: Array, values: Array) -> tuple[Array, Array]:
    """Return the group of equal values of each row `[N]`, in ascending order, and how often each group was drawn `[R,
    G]`."""
    _, group = np.unique(values, return_inverse=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return group, np.add.reduceat(draws[:, order], starts, axis=1)


def _log_loss(scores: Array, references: Array) -> Resampled:
    tiny = np.finfo(scores.dtype).eps
    if references.ndim == 2:
        clipped = np.clip(scores, tiny, 1 - tiny)
        return _mean(-np.where(references.astype(bool), np.log(clipped), np.log1p(-clipped)).mean(axis=1))
    normalized = scores / scores.sum(axis=1, keepdims=True)
    right = np.clip(normalized, tiny, 1 - tiny)[np.arange(len(normalized)), references.astype(int)]
    return _mean(-np.log(right))


def _calibration(scores: Array, references: Array) -> Resampled:
    confidence, right = confidences(scores, references)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    rows, each = len(references), len(confidence) // len(references)
    gaps = np.zeros((rows, CALIBRATION_BINS))
    np.add.at(gaps, (np.repeat(np.arange(rows), each), np.searchsorted(edges, confidence)), right - confidence)
    return lambda draws: np.abs(draws @ gaps).sum(axis=1) / (each * draws.sum(axis=1))


def _mean_of_labels(make: Callable[[Array, Array], Resampled], scores: Array, truth: Array) -> Resampled:
    """Return the mean over the labels for which the metric is defined; NaN where it is for none."""
    of_label = [make(scores[:, c], truth[:, c].astype(bool)) for c in range(scores.shape[1])]

    def mean(draws: Array) -> Array:
        counts = draws if _fractional(draws) else draws.astype(np.float32)  # exact below 16 million rows
        values = np.stack([function(counts) for function in of_label])
        defined = np.isfinite(values)
        total = np.where(defined, values, 0.0).sum(axis=0)
        return np.where(defined.any(axis=0), _divided(total, defined.sum(axis=0).astype(float)), np.nan)

    return mean


def _area(scores: Array, truth: Array) -> Resampled:
    """Return the area under the ROC curve of one label; NaN where only one kind of row was drawn."""
    held, others = np.flatnonzero(truth), np.flatnonzero(~truth)
    others = others[np.argsort(scores[others], kind="stable")]
    lower = np.searchsorted(scores[others], scores[held], side="left")
    up_to = np.searchsorted(scores[others], scores[held], side="right")

    def area(draws: Array) -> Array:
        positive, below = draws[:, held], _summed(draws[:, others])
        ahead = (positive * (below[:, lower] + below[:, up_to])).sum(axis=1, dtype=float) / 2
        pairs = positive.sum(axis=1, dtype=float) * below[:, -1]
        return np.where(pairs > 0, _divided(ahead, pairs), np.nan)

    return area


def _precision(scores: Array, truth: Array) -> Resampled:
    """Return the average precision of one label; NaN where none of its rows was drawn."""
    every = np.argsort(-scores, kind="stable")
    held = every[truth[every]]
    of_every = np.searchsorted(-scores[every], -scores[held], side="right")
    of_held = np.searchsorted(-scores[held], -scores[held], side="right")

    def precision(draws: Array) -> Array:
        positive = draws[:, held]
        right, predicted = _summed(positive)[:, of_held], _summed(draws[:, every])[:, of_every]
        total = positive.sum(axis=1, dtype=float)
        return np.where(total > 0, _divided((positive * _divided(right, predicted)).sum(axis=1), total), np.nan)

    return precision


def _summed(counts: Array) -> Array:
    """Return the running sums along each row, from 0, `[R, K + 1]`."""
    sums = np.zeros((len(counts), counts.shape[1] + 1), counts.dtype)
    np.cumsum(counts, axis=1, out=sums[:, 1:])
    return sums
