"""What is fitted is measured on rows that it was not fitted on, and is left out where rows are too few."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.config.choice import Choice
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import ClassifierSettings
from finetune.core.scores import decide, softmax
from finetune.evaluation.calibration import Calibration
from finetune.evaluation.score_fitting import ScorePlan, fitted, measured, same_decisions

pytestmark = pytest.mark.fast
LABELS = LabelSpace("multiclass", ("a", "b", "c"))
SETTINGS = ClassifierSettings("multiclass", "softmax")


def drawn(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 3)) * 2
    return 3 * logits, np.array([rng.choice(3, p=row) for row in softmax(logits)])


def test_fewer_than_fifty_rows_fit_nothing_and_say_so() -> None:
    fit, report = measured(ScorePlan(coverage=0.9), LABELS, SETTINGS, ("validation", *drawn(49)))

    assert fit.added_to(SETTINGS) == SETTINGS
    assert report.sentences == []
    assert report.notes == ["Scores stay as they are: to fit them takes 50 rows, and there are 49."]


def test_a_calibration_that_does_not_improve_other_rows_is_not_kept() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(60, 3)) * 2
    targets = np.array([rng.choice(3, p=row) for row in softmax(logits)])  # calibrated as it is

    fit = fitted(ScorePlan("temperature"), LABELS, SETTINGS, logits, targets)
    assert fit.calibration.method == "none" and "temperature was not kept" in fit.notes[0]


def test_test_rows_measure_it_where_there_are_some() -> None:
    fit, report = measured(
        ScorePlan(coverage=0.9), LABELS, SETTINGS, ("validation", *drawn(500)), ("test", *drawn(700, seed=1))
    )

    content = report.content
    assert (content["measured_on"], content["measured_rows"], content["rows"]) == ("test", 700, 500)
    assert content["after"]["calibration_error"] < 0.06 < content["before"]["calibration_error"]
    assert content["prediction_sets"]["coverage"]["low"] < 0.9 < content["prediction_sets"]["coverage"]["high"]
    assert fit.added_to(SETTINGS).temperature == pytest.approx(3, rel=0.15)


def test_without_test_rows_each_row_is_measured_by_what_others_fitted() -> None:
    logits, targets = drawn(300)
    fit, report = measured(ScorePlan(), LABELS, SETTINGS, ("validation", logits, targets))

    held_out = report.held_out
    assert held_out is not None and report.content["measured_on"] == "validation, cross-fitted"
    np.testing.assert_array_equal(held_out.targets, targets)
    own = fit.added_to(SETTINGS).scores(logits)
    assert 0 < np.abs(held_out.after - own).max() < 0.1  # near the fit of all rows, and not the same


def test_a_threshold_of_two_labels_is_reported_with_intervals() -> None:
    rng = np.random.default_rng(0)
    labels, settings = LabelSpace("binary", ("no", "yes")), ClassifierSettings("binary", "softmax")
    logits = rng.normal(size=(1000, 2)) * 2
    targets = (rng.random(1000) < softmax(logits)[:, 1]).astype(int)

    plan = ScorePlan("none", Choice(name="precision", at_least=0.9))
    fit, report = measured(plan, labels, settings, ("validation", logits, targets))
    entry = report.content["thresholds"]["labels"]["yes"]
    assert list(report.content["thresholds"]["labels"]) == ["yes"]
    assert entry["threshold"] == fit.thresholds[1] > 0.5
    assert entry["precision"]["low"] < 0.9 < entry["precision"]["high"]
    assert any(sentence.startswith("yes is predicted from") for sentence in report.sentences)


def test_isotonic_is_not_fitted_on_few_rows() -> None:
    rng = np.random.default_rng(0)
    labels, settings = LabelSpace("multi_label", ("a", "b")), ClassifierSettings("multi_label", "sigmoid")
    logits = rng.normal(size=(999, 2)) * 3
    targets = (rng.random((999, 2)) < 0.3).astype(np.float32)

    few = fitted(ScorePlan("isotonic"), labels, settings, logits, targets)
    assert few.calibration.method == "none" and few.notes == ("isotonic takes 1000 rows, and there are 999",)


def test_a_temperature_moves_the_threshold_of_two_labels_with_the_scores() -> None:
    settings = ClassifierSettings("binary", "softmax", temperature=2.0, thresholds=(0.3, 0.7))
    calibration = Calibration("temperature", 5.0)
    logits = np.random.default_rng(0).normal(size=(500, 2)) * 6

    moved = same_decisions(settings, calibration)
    before = decide(settings.scores(logits), "binary", settings.thresholds)
    np.testing.assert_array_equal(decide(calibration.scores(logits, "softmax"), "binary", moved), before)
    assert sum(moved) == pytest.approx(1) and 0.5 < moved[1] < 0.7
