"""Calibrations recover what distorted the scores, agree with scikit-learn, and leave answers alone."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.core.errors import ConfigError
from finetune.core.scores import log_softmax, sigmoid, softmax
from finetune.evaluation import calibration
from finetune.evaluation.calibration import CALIBRATIONS, method_of
from finetune.evaluation.metrics import SCORE_METRICS, brier

pytestmark = pytest.mark.fast
NAMES = ("a", "b", "c")


def drawn(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits `[rows, 3]` and ids that were drawn by their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 3)) * 2
    return logits, np.array([rng.choice(3, p=row) for row in softmax(logits)])


def drawn_sets(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits `[rows, 3]` and zeros and ones that were drawn by sigmoid(0.5 * logit - 1)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 3)) * 3
    return logits, (rng.random((rows, 3)) < sigmoid(0.5 * logits - 1)).astype(np.float32)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_recovers_the_factor_by_which_logits_were_too_large(factor: float) -> None:
    logits, targets = drawn(4000)

    assert calibration.temperature(factor * logits, targets, NAMES).temperature == pytest.approx(factor, rel=0.05)


def test_temperature_is_that_of_scikit_learn() -> None:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Logits(ClassifierMixin, BaseEstimator):
        def fit(self, X: np.ndarray, y: np.ndarray) -> Logits:
            self.classes_, self.is_fitted_ = np.unique(y), True
            return self

        def decision_function(self, X: np.ndarray) -> np.ndarray:
            return X

        def predict(self, X: np.ndarray) -> np.ndarray:
            return X.argmax(axis=1)

    logits, targets = drawn(500)
    logits = 2.5 * logits
    peer = CalibratedClassifierCV(FrozenEstimator(Logits().fit(logits, targets)), method="temperature")
    expected = peer.fit(logits, targets).predict_proba(logits)

    fit = calibration.temperature(logits, targets, NAMES)
    np.testing.assert_allclose(fit.scores(logits, "softmax"), expected, atol=1e-3)


def test_temperature_changes_no_answer() -> None:
    logits, targets = drawn(300)
    scores = calibration.temperature(5 * logits, targets, NAMES).scores(5 * logits, "softmax")

    assert (scores.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_temperature_without_an_error_stays_within_its_bounds() -> None:
    logits = np.eye(3)[[0, 1, 2] * 30]

    fit = calibration.temperature(logits, np.array([0, 1, 2] * 30), NAMES)
    assert fit.temperature == pytest.approx(calibration.TEMPERATURES[0], rel=0.01)
    assert np.isfinite(fit.scores(logits, "softmax")).all()


def test_platt_recovers_slope_and_offset() -> None:
    fit = calibration.platt(*drawn_sets(6000), NAMES)

    np.testing.assert_allclose(fit.scaling.slopes, 0.5, atol=0.06)
    np.testing.assert_allclose(fit.scaling.offsets, -1, atol=0.1)


def test_isotonic_scores_rise_with_logits_and_match_proportions() -> None:
    logits, targets = drawn_sets(6000)
    fit = calibration.isotonic(logits, targets, NAMES)

    grid = np.repeat(np.linspace(-9, 9, 200)[:, None], 3, axis=1)
    scores = fit.scores(grid, "sigmoid")
    assert (np.diff(scores, axis=0) >= 0).all() and scores.min() > 0 and scores.max() < 1
    np.testing.assert_allclose(scores, sigmoid(0.5 * grid - 1), atol=0.1)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_label_with_few_rows_keeps_its_scores(method: str) -> None:
    logits, targets = drawn_sets(2000)
    targets[:, 1] = 0
    targets[:9, 1] = 1

    fit = CALIBRATIONS[method](logits, targets, NAMES)
    scores = fit.scores(logits, "sigmoid")
    np.testing.assert_allclose(scores[:, 1], sigmoid(logits[:, 1]))
    assert np.abs(scores[:, 0] - sigmoid(logits[:, 0])).max() > 0.1
    assert "b: fewer than 10 rows" in fit.notes[0]


def test_a_label_whose_scores_are_upside_down_keeps_them() -> None:
    logits, targets = drawn_sets(1000)
    targets[:, 2] = 1 - targets[:, 2]

    fit = calibration.platt(logits, targets, NAMES)
    assert fit.scaling.slopes[2] == 1 and fit.scaling.slopes[0] != 1


def test_auto_follows_from_the_task_and_others_are_refused_in_a_sentence() -> None:
    assert [method_of("auto", task) for task in ("binary", "multiclass", "multi_label", "regression")] == [
        *("temperature", "temperature", "platt", "none")
    ]
    with pytest.raises(ConfigError, match="could change which label"):
        method_of("platt", "multiclass")
    with pytest.raises(ConfigError, match="the task is regression"):
        method_of("temperature", "regression")
    with pytest.raises(ConfigError, match="choose one of auto, none, temperature"):
        method_of("beta", "binary")


def test_brier_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss

    logits, targets = drawn(200)
    assert brier(softmax(logits), targets) == pytest.approx(brier_score_loss(targets, softmax(logits)))
    two, held = softmax(logits[:, :2]), (targets == 0).astype(int)
    assert brier(two, held) == pytest.approx(brier_score_loss(held, two[:, 1]))
    logits, sets = drawn_sets(200)
    expected = np.mean([brier_score_loss(sets[:, c], sigmoid(logits)[:, c]) for c in range(3)])
    assert SCORE_METRICS["brier"](sigmoid(logits), sets) == pytest.approx(expected)


def test_log_loss_of_the_fit_is_lowest_at_its_temperature() -> None:
    logits, targets = drawn(400)
    fit = calibration.temperature(2 * logits, targets, NAMES)

    def loss(temperature: float) -> float:
        return -float(log_softmax(2 * logits / temperature)[np.arange(400), targets].mean())

    assert loss(fit.temperature) < min(loss(fit.temperature * 0.97), loss(fit.temperature * 1.03))
