"""Measure a trained model on the validation rows and each test table, with what the validation rows add to its scores:
calibration, thresholds and prediction sets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from finetune.config.training import TrainConfig
from finetune.core.events import Info, Listener, Warned
from finetune.core.model_folder import ClassifierSettings
from finetune.core.windows import Window, aggregated
from finetune.data.windowed import in_windows
from finetune.evaluation.baseline import cross_validated_tfidf_scores, tfidf_scores
from finetune.evaluation.evaluate import ScoredSplit, beside_tfidf, scored_rows
from finetune.evaluation.score_fitting import ScorePlan, ScoreReport, measured
from finetune.prepare import Prepared, tokens_of, window_of_texts


class WindowLogits(NamedTuple):
    """The logits of the windows of some texts `[M, C]`, and the text that each is of `[M]`, in order."""

    logits: Any
    owners: Any
    window: Window

    def scores(self, settings: ClassifierSettings) -> Any:
        """Return the scores of the texts `[N, C]`, aggregated as they are when the model is served."""
        sums_to_one = settings.activation == "softmax"
        edges = np.flatnonzero(np.diff(self.owners)) + 1
        parts = np.split(settings.scores(self.logits), edges)
        return np.stack([aggregated(part, self.window.aggregate, sums_to_one=sums_to_one) for part in parts])


EMPTY: Mapping[str, WindowLogits] = MappingProxyType({})


def logits_of(prepared: Prepared, model: Any, held_out: Any = None) -> dict[str, Any]:
    """Return the logits `[N, C]` of the validation rows and each test table.

    Args:
        held_out: those of the validation rows, if they are cross-validated.
    """
    from finetune.training.trainer import predict

    encoder, shared = prepared.encoder, is_shared(prepared.config)
    evaluated = {"validation": prepared.splits.validation, **prepared.splits.tests}
    tokens = (
        prepared.validation.tokens if name == "validation" else tokens_of(encoder, rows)
        for name, rows in evaluated.items()
    )
    return {
        name: predict(model, encoder, part, shared=shared) if name != "validation" or held_out is None else held_out
        for name, part in zip(evaluated, tokens, strict=True)
    }


def window_logits_of(prepared: Prepared, model: Any) -> dict[str, WindowLogits]:
    """Return the logits of the windows of the validation rows and each test table; empty where texts are truncated."""
    from finetune.training.trainer import predict

    encoder, logits = prepared.encoder, {}
    for name, rows in {"validation": prepared.splits.validation, **prepared.splits.tests}.items():
        window = window_of_texts(prepared.config, rows)
        if window is not None:
            parts, owners = in_windows(rows, encoder, window)
            of_parts = predict(model, encoder, tokens_of(encoder, parts), shared=is_shared(prepared.config))
            logits[name] = WindowLogits(of_parts, owners, window)
    return logits


def with_fitted_scores(
    prepared: Prepared, settings: ClassifierSettings, logits: dict[str, Any], emit: Listener
) -> tuple[ClassifierSettings, ScoreReport]:
    """Return the settings with what the config fits on the validation rows, and what it gives on the rows of the first
    test table, or by cross-fitting where there is none."""
    config, labels, splits = prepared.config, prepared.splits.labels, prepared.splits
    if labels.nli is not None or labels.task == "regression":
        return settings, ScoreReport()
    plan = ScorePlan(config.calibration, config.thresholds, config.coverage)
    rows = {"validation": splits.validation, **splits.tests}
    named = [(name, logits[name], labels.encode(part.values)) for name, part in rows.items()]
    fit, report = measured(plan, labels, settings, named[0], named[1] if len(named) > 1 else None)
    wanted = config.calibration not in ("auto", "none") or config.thresholds is not None or config.coverage is not None
    for sentence in report.sentences:
        emit(Info(sentence))
    for note in report.notes:
        emit(Warned(note) if wanted else Info(note))
    return fit.added_to(settings), report


def measure(
    prepared: Prepared,
    settings: ClassifierSettings,
    logits: dict[str, Any],
    windows: Mapping[str, WindowLogits] = EMPTY,
) -> dict[str, ScoredSplit]:
    """Return the scores and metrics on the validation rows and each test table, with TF-IDF's beside them.

    Args:
        windows: the logits of windows, for the splits whose texts are read in windows.
    """
    config, splits = prepared.config, prepared.splits
    labels = splits.labels
    targets = labels.encode(splits.train.values)
    evaluated = {"validation": splits.validation, **splits.tests}
    baseline: list[Any] = [None] * len(evaluated)
    if config.tfidf_baseline and labels.nli is None:  # single words do not show entailment
        baseline = tfidf_scores(labels, splits.train, list(evaluated.values()), seed=config.seed)
        if splits.is_cross_validated:
            baseline = [cross_validated_tfidf_scores(labels, splits.train, seed=config.seed), *baseline[1:]]
    result = {}
    for (name, rows), tfidf in zip(evaluated.items(), baseline, strict=True):
        own = windows.get(name)
        scores = settings.scores(logits[name]) if own is None else own.scores(settings)
        scored = scored_rows(labels, scores, rows, targets, thresholds=settings.thresholds, extra=config.metrics)
        if tfidf is not None:
            scored = beside_tfidf(labels, scored, tfidf, rows)
        tokens = prepared.validation.tokens if name == "validation" else tokens_of(prepared.encoder, rows)
        result[name] = ScoredSplit(scored, scores, rows, tokens.lengths.tolist(), thresholds=settings.thresholds)
    return result


def is_shared(config: TrainConfig) -> bool:
    """Return whether the model reads a text under shared-text attention."""
    return config.zero_shot.attention == "alternate"
