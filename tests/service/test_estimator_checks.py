"""scikit-learn's own checks of the estimators. They fit numbers, so each row of numbers is written as a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from service.estimators import FineTunedClassifier, FineTunedRegressor, ZeroShotEstimator

WORDS = "awful bad film about good great loved".split()


class Texts(list[str]):
    """Rows that are texts already."""


def texts_of(estimator: Any, X: Any, *, reset: bool) -> Texts:
    """Return a text for each row, with one word for each number."""
    if isinstance(X, Texts):
        return X
    numbers = validate_data(estimator, X, reset=reset)
    return Texts(" ".join(WORDS[place] for place in row) for row in np.digitize(numbers, [-3, -1, -0.3, 0.3, 1, 3]))


class OnNumbers:
    """An estimator that is given rows of numbers."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        assert tags.input_tags.string and tags.input_tags.one_d_array
        tags.input_tags.string = tags.input_tags.one_d_array = False
        return tags

    def fit(self, X: Any = None, y: Any = None) -> Any:
        return super().fit(texts_of(self, X, reset=True), y)

    def predict(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().predict(texts_of(self, X, reset=False))


class ClassifierOnNumbers(OnNumbers):
    def predict_proba(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().predict_proba(texts_of(self, X, reset=False))


class ZeroShotOnNumbers(ClassifierOnNumbers, ZeroShotEstimator):
    pass


class FineTunedOnNumbers(ClassifierOnNumbers, FineTunedClassifier):
    def decision_function(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().decision_function(texts_of(self, X, reset=False))


class RegressorOnNumbers(OnNumbers, FineTunedRegressor):
    pass


@parametrize_with_checks([ZeroShotOnNumbers()])
def test_the_zero_shot_estimator_passes_scikit_learns_checks(estimator: Any, check: Any, tiny_nli: Path) -> None:
    check(estimator.set_params(model=str(tiny_nli)))


QUICK = {"epochs": 1, "batch_size": 16, "lr": 5e-3}
SETTINGS = {"precision": "float32", "tfidf_baseline": False, "plots": False}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([FineTunedOnNumbers(**QUICK, settings=SETTINGS), RegressorOnNumbers(**QUICK, settings=SETTINGS)])
def test_the_fine_tuned_estimators_pass_scikit_learns_checks(estimator: Any, check: Any, tiny_base: Path) -> None:
    check(estimator.set_params(base=str(tiny_base)))
