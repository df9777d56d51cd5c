"""Prediction sets are those of MAPIE, and cover what they state."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.scores import in_sets, softmax
from finetune.evaluation.conformal import check_coverage, coverage_of, fewest_rows, prediction_sets

pytestmark = pytest.mark.fast
LABELS = LabelSpace("multiclass", ("a", "b", "c", "d"))


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = softmax(rng.normal(size=(rows, 4)) * 1.5)
    return scores, np.array([rng.choice(4, p=row) for row in scores])


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.97])
@pytest.mark.parametrize("rows", [99, 500])
def test_sets_are_those_of_mapie(coverage: float, rows: int) -> None:
    from sklearn.base import BaseEstimator, ClassifierMixin

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mapie.classification import SplitConformalClassifier

    class Scores(ClassifierMixin, BaseEstimator):
        def fit(self, X: np.ndarray, y: np.ndarray) -> Scores:
            self.classes_, self.n_features_in_ = np.arange(4), X.shape[1]
            return self

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return X

        def predict(self, X: np.ndarray) -> np.ndarray:
            return X.argmax(axis=1)

    scores, targets = drawn(rows, 0)
    fresh, _ = drawn(200, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = SplitConformalClassifier(
            Scores().fit(scores, targets), confidence_level=coverage, conformity_score="lac", prefit=True
        )
        _, expected = peer.conformalize(scores, targets).predict_set(fresh)

    members = in_sets(fresh, prediction_sets(coverage, scores, targets))
    np.testing.assert_array_equal(members, np.asarray(expected)[:, :, 0].astype(bool))


def test_mean_coverage_over_many_draws_is_what_was_stated() -> None:
    reached = []
    for seed in range(200):
        scores, targets = drawn(99, seed)
        fresh, truth = drawn(200, seed + 1000)
        reached.append(in_sets(fresh, prediction_sets(0.9, scores, targets))[np.arange(200), truth].mean())

    assert np.mean(reached) == pytest.approx(0.9, abs=0.01)


def test_coverage_is_measured_for_all_rows_and_each_label() -> None:
    members = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]], dtype=bool)
    content = coverage_of(LABELS, members, np.array([0, 0, 2, 2]))

    assert content["coverage"]["value"] == 0.75 and content["mean_size"] == 1.0
    assert content["texts_with_labels"] == {"none": 0.25, "one": 0.5, "several": 0.25}
    assert content["labels"]["a"]["value"] == 1.0 and content["labels"]["c"]["value"] == 0.5
    assert "b" not in content["labels"]


def test_a_high_coverage_takes_enough_rows() -> None:
    assert fewest_rows(0.9) == 50 and fewest_rows(0.99) == 99 and fewest_rows(0.999) == 999
    scores, targets = drawn(60, 0)
    assert in_sets(scores, prediction_sets(0.99, scores, targets)).all()


def test_coverage_is_refused_where_a_text_has_several_labels() -> None:
    with pytest.raises(ConfigError, match="thresholds with a stated recall"):
        check_coverage(0.9, LabelSpace("multi_label", ("a", "b")))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        check_coverage(90, LABELS)
