"""What is fitted on labeled rows behind a trained model: calibration, thresholds, prediction sets; and its measurement.

It is measured on rows that it was not fitted on: those of a test table, or by cross-fitting, where each row is scored
with what was fitted on the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from finetune.config.choice import Choice
from finetune.core.calibration import IsotonicScaling, PredictionSets
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import ClassifierSettings
from finetune.core.scores import Floats, decide, in_sets
from finetune.evaluation.calibration import (
    CALIBRATIONS,
    FEWEST_ISOTONIC,
    FEWEST_ROWS,
    UNCALIBRATED,
    Calibration,
    method_of,
)
from finetune.evaluation.conformal import coverage_of, fewest_rows, prediction_sets
from finetune.evaluation.intervals import wilson
from finetune.evaluation.metrics import brier, calibration_error, log_loss
from finetune.evaluation.thresholds import tuned, tuned_labels

FOLDS = 5
"""Folds of a cross-fitting."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ScorePlan:
    """What to fit: a method of CALIBRATIONS or `auto`, a rule of THRESHOLDS, the coverage of prediction sets."""

    calibration: str = "auto"
    thresholds: Choice | None = None
    coverage: float | None = None


@dataclass(frozen=True)
class FittedScores:
    """What was fitted, and notes about what was not."""

    calibration: Calibration = UNCALIBRATED
    thresholds: tuple[float, ...] | None = None
    prediction_sets: PredictionSets | None = None
    notes: tuple[str, ...] = ()

    def added_to(self, settings: ClassifierSettings) -> ClassifierSettings:
        """Return the content of classifier.json with what was fitted in place of what it had."""
        return replace(
            settings,
            temperature=self.calibration.temperature,
            scaling=self.calibration.scaling,
            thresholds=self.thresholds,
            prediction_sets=self.prediction_sets,
        )


@dataclass(frozen=True)
class HeldOut:
    """Rows that nothing was fitted on: scores without and with what was fitted, decisions, members of sets."""

    name: str
    targets: Array
    before: Floats
    after: Floats
    decisions: Array
    members: Array | None = None


@dataclass(frozen=True)
class ScoreReport:
    """The measurement: the content of `calibration` in metrics.json, and the rows it was made on."""

    content: dict[str, Any] = field(default_factory=dict)
    held_out: HeldOut | None = None

    @property
    def sentences(self) -> list[str]:
        """What was fitted and what it gives, for people."""
        return _sentences(self.content) if "measured_on" in self.content else []

    @property
    def notes(self) -> list[str]:
        """What was not fitted, and why, for people."""
        return [f"{note[0].upper()}{note[1:]}." for note in self.content.get("notes", ())]


def fitted(
    plan: ScorePlan, labels: LabelSpace, settings: ClassifierSettings, logits: Array, targets: Array
) -> FittedScores:
    """Return what the plan fits on logits `[N, C]` and targets as `LabelSpace.encode` returns them.

    With fewer than FEWEST_ROWS rows nothing is fitted. A calibration is kept only if the log loss of rows that it was
    not fitted on, by cross-fitting, is lower with it than without.

    Args:
        settings: of the model. Its calibration stays where none is fitted, and its prediction sets stay only with it.
            Its decisions stay unless thresholds are tuned.
    """
    method, present = method_of(plan.calibration, labels.task), _present(settings)
    if len(targets) < FEWEST_ROWS:
        wanted = method != "none" or plan.thresholds is not None or plan.coverage is not None
        few = f"scores stay as they are: to fit them takes {FEWEST_ROWS} rows, and there are {len(targets)}"
        return FittedScores(present, settings.thresholds, settings.prediction_sets, (few,) if wanted else ())
    calibration = _kept(method, labels, settings, logits, targets)
    result, notes = FittedScores(calibration, settings.thresholds, settings.prediction_sets), list(calibration.notes)
    if calibration.method != "none":
        result = FittedScores(calibration, same_decisions(settings, calibration))
        if settings.prediction_sets is not None and plan.coverage is None:
            notes.append("the prediction sets of the model were for its former scores, and are removed: fit them again")
    scores = calibration.scores(logits, settings.activation)
    if plan.thresholds is not None:
        thresholds, remarks = tuned(plan.thresholds, labels, scores, targets)
        result, notes = replace(result, thresholds=thresholds), [*notes, *remarks]
    if plan.coverage is not None:
        if len(targets) < (fewest := fewest_rows(plan.coverage)):
            notes.append(f"a coverage of {plan.coverage:g} takes {fewest} rows, and there are {len(targets)}: no sets")
        else:
            result = replace(result, prediction_sets=prediction_sets(plan.coverage, scores, targets))
    return replace(result, notes=tuple(notes))


def measured(
    plan: ScorePlan,
    labels: LabelSpace,
    settings: ClassifierSettings,
    rows: tuple[str, Array, Array],
    test: tuple[str, Array, Array] | None = None,
) -> tuple[FittedScores, ScoreReport]:
    """Return what the plan fits, and its measurement on the test rows, or by cross-fitting where there are none.

    Args:
        rows, test: a name, logits `[N, C]` and targets.
    """
    name, logits, targets = rows
    fit = fitted(plan, labels, settings, logits, targets)
    tuned_ones = plan.thresholds is not None and fit.thresholds is not None
    formed = plan.coverage is not None and fit.prediction_sets is not None
    if fit.calibration.method == "none" and not tuned_ones and not formed:
        return fit, ScoreReport({"method": "none", "notes": list(fit.notes)} if fit.notes else {})
    if test is not None:
        held_out = _applied(fit, labels, settings, *test)
    else:
        held_out = _cross_fitted(plan, fit, labels, settings, *rows)
    content: dict[str, Any] = {"method": fit.calibration.method, "temperature": fit.calibration.temperature}
    content |= {"fitted_on": name, "rows": len(targets), "notes": list(fit.notes)}
    content |= {"measured_on": held_out.name, "measured_rows": len(held_out.targets)}
    content |= {
        "before": _errors(held_out.before, held_out.targets),
        "after": _errors(held_out.after, held_out.targets),
    }
    if fit.thresholds is not None and plan.thresholds is not None:
        content["thresholds"] = _reached(plan.thresholds, labels, fit.thresholds, held_out)
    if fit.prediction_sets is not None and held_out.members is not None:
        stated = {"stated": fit.prediction_sets.coverage, "lowest_score": fit.prediction_sets.lowest_score}
        content["prediction_sets"] = stated | coverage_of(labels, held_out.members, held_out.targets)
    return fit, ScoreReport(content, held_out)


def same_decisions(settings: ClassifierSettings, calibration: Calibration) -> tuple[float, ...] | None:
    """Return the thresholds with which a new calibration decides every label as the model does now.

    None takes 0.5: of a model without thresholds under a temperature, which decides the same, and where one of the
    calibrations is isotonic, whose steps have no inverse.
    """
    new, old = calibration.scaling, settings.scaling
    if isinstance(new, IsotonicScaling) or isinstance(old, IsotonicScaling):
        return None
    if settings.thresholds is None and (new is None or settings.task != "multi_label"):
        return None
    bounds = logit(np.asarray(settings.thresholds or [0.5] * len(new.slopes if new is not None else ())))
    if old is not None:
        bounds = (bounds - np.asarray(old.offsets)) / np.asarray(old.slopes)
    logits = settings.temperature * bounds
    # the scores of two labels add up to 1, so that the threshold of each is that of the other's margin
    return tuple(calibration.scores(logits[None], "sigmoid")[0].tolist())


def _present(settings: ClassifierSettings) -> Calibration:
    """Return the calibration that a model has."""
    return Calibration("none", settings.temperature, settings.scaling)


def _fit(method: str, present: Calibration, labels: LabelSpace, logits: Array, targets: Array) -> Calibration:
    return present if method == "none" else CALIBRATIONS[method](logits, targets, labels.names)


def _kept(method: str, labels: LabelSpace, settings: ClassifierSettings, logits: Array, targets: Array) -> Calibration:
    """Return the fitted calibration, or the present one where it does not improve rows that it was not fitted on."""
    present = _present(settings)
    if method == "isotonic" and len(targets) < FEWEST_ISOTONIC:
        return replace(present, notes=(f"isotonic takes {FEWEST_ISOTONIC} rows, and there are {len(targets)}",))
    fit = _fit(method, present, labels, logits, targets)
    if fit.method == "none":
        return replace(present, notes=fit.notes)
    before = settings.scores(logits)
    after = np.empty_like(before)
    for inside, outside in _folds(len(targets)):
        part = _fit(method, present, labels, logits[inside], targets[inside])
        after[outside] = part.scores(logits[outside], settings.activation)
    plain, calibrated = log_loss(before, targets), log_loss(after, targets)
    if calibrated < plain:
        return fit
    losses = f"the log loss is {calibrated:.4f} with it and {plain:.4f} without"
    return replace(present, notes=(f"{method} was not kept: on rows that it was not fitted on, {losses}",))


def _folds(rows: int) -> list[tuple[Array, Array]]:
    from sklearn.model_selection import KFold

    return list(KFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(rows)))


def _applied(
    fit: FittedScores, labels: LabelSpace, settings: ClassifierSettings, name: str, logits: Array, targets: Array
) -> HeldOut:
    after = fit.calibration.scores(logits, settings.activation)
    members = in_sets(after, fit.prediction_sets) if fit.prediction_sets is not None else None
    decisions = decide(after, labels.task, fit.thresholds)
    return HeldOut(name, targets, settings.scores(logits), after, decisions, members)


def _cross_fitted(
    plan: ScorePlan,
    whole: FittedScores,
    labels: LabelSpace,
    settings: ClassifierSettings,
    name: str,
    logits: Array,
    targets: Array,
) -> HeldOut:
    """Return every row with what was fitted on the other folds, of the kinds that were fitted on the whole."""
    method = whole.calibration.method
    parts = []
    places = []
    for inside, outside in _folds(len(targets)):
        calibration = _fit(method, _present(settings), labels, logits[inside], targets[inside])
        fit, scores = replace(whole, calibration=calibration), calibration.scores(logits[inside], settings.activation)
        if plan.thresholds is not None:
            fit = replace(fit, thresholds=tuned(plan.thresholds, labels, scores, targets[inside])[0])
        if plan.coverage is not None and whole.prediction_sets is not None:
            fit = replace(fit, prediction_sets=prediction_sets(plan.coverage, scores, targets[inside]))
        parts.append(_applied(fit, labels, settings, name, logits[outside], targets[outside]))
        places.append(outside)
    order = np.argsort(np.concatenate(places))
    joined = {
        key: np.concatenate([getattr(part, key) for part in parts])[order]
        for key in ("targets", "before", "after", "decisions", *(["members"] if parts[0].members is not None else []))
    }
    return HeldOut(f"{name}, cross-fitted", **joined)


def _errors(scores: Floats, targets: Array) -> dict[str, float]:
    references = targets.astype(int)
    functions = {"calibration_error": calibration_error, "brier": brier, "log_loss": log_loss}
    return {name: function(scores, references) for name, function in functions.items()}


def _reached(choice: Choice, labels: LabelSpace, thresholds: Sequence[float], held_out: HeldOut) -> dict[str, Any]:
    """Return, by label, its threshold, and the precision and recall that it gives on held-out rows."""
    entries = {}
    for place in tuned_labels(choice, labels):
        targets, decisions = held_out.targets, held_out.decisions
        held = targets[:, place] > 0.5 if targets.ndim == 2 else targets == place
        predicted = decisions[:, place] if decisions.ndim == 2 else decisions == place
        hits = int((held & predicted).sum())
        parts = {"precision": _interval(hits, int(predicted.sum())), "recall": _interval(hits, int(held.sum()))}
        entries[labels.names[place]] = {"threshold": thresholds[place], **parts}
    return {"rule": {"name": choice.name, **choice.options}, "labels": entries}


def _interval(hits: int, rows: int) -> dict[str, float]:
    if rows == 0:
        return {"rows": 0}
    low, high = wilson(hits, rows)
    return {"value": hits / rows, "low": low, "high": high, "rows": rows}


def _sentences(content: Mapping[str, Any]) -> list[str]:
    lines = []
    where = f"{content['measured_rows']} rows ({content['measured_on']})"
    before, after = content["before"], content["after"]
    if content["method"] != "none":
        number = f" ({content['temperature']:.3g})" if content["method"] == "temperature" else ""
        gain = f"from {before['calibration_error']:.3f} to {after['calibration_error']:.3f}"
        square = f"Brier score from {before['brier']:.3f} to {after['brier']:.3f}"
        lines.append(
            f"Scores are calibrated by {content['method']}{number}, fitted on {content['rows']} rows "
            f"({content['fitted_on']}): calibration error {gain}, {square}, on {where}."
        )
    if "thresholds" in content:
        rule = content["thresholds"]["rule"]
        goal = f"a {rule['name']} of {rule.get('at_least', 0.9):g}" if rule["name"] != "f1" else "the highest F1"
        lines.append(f"Thresholds are tuned for {goal}; what they give on {where} is in metrics.json.")
        lines += [_threshold_sentence(name, entry) for name, entry in _few(content["thresholds"]["labels"])]
    if "prediction_sets" in content:
        sets = content["prediction_sets"]
        reached, kinds = sets["coverage"], sets["texts_with_labels"]
        lines.append(
            f"Prediction sets with a coverage of {sets['stated']:g} hold the true label of {reached['value']:.1%} "
            f"({reached['low']:.1%} to {reached['high']:.1%}) of {where}; {kinds['one']:.0%} of the sets hold one "
            f"label, {kinds['several']:.0%} several, {kinds['none']:.0%} none."
        )
    return lines


def _few(entries: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the entries of labels where they fit into a few lines."""
    return list(entries.items()) if len(entries) <= 3 else []


def _threshold_sentence(name: str, entry: Mapping[str, Any]) -> str:
    def part(kind: str) -> str:
        proportion = entry[kind]
        if not proportion["rows"]:
            return f"{kind} unknown"
        return f"{kind} {proportion['value']:.3f} ({proportion['low']:.3f} to {proportion['high']:.3f})"

    return f"{name} is predicted from {entry['threshold']:.3g} up: {part('precision')}, {part('recall')}."
