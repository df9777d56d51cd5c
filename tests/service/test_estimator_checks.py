"""scikit-learn's own checks of the estimators. They fit numbers, so each row of numbers is written as a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from service.estimators import FineTunedClassifier, FineTunedRegressor, ZeroShotEstimator

WORDS = ["awful", "bad", "film", "about", "good", "great", "loved"]


class Texts(list[str]):
    """Rows that are texts already."""


def texts_of(estimator: Any, X: Any, *, reset: bool) -> Texts:
    """Return a text for each row, with a word and the figure for each number."""
    if isinstance(X, Texts):
        return X
    numbers = validate_data(estimator, X, reset=reset)
    words = np.array(WORDS)[np.digitize(numbers, [-3, -1, -0.3, 0.3, 1, 3])]
    rows = zip(words, numbers, strict=True)
    return Texts(" ".join(f"{word} {value:.2f}" for word, value in zip(*row, strict=True)) for row in rows)


class OnNumbers:
    """An estimator that is given rows of numbers."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        assert tags.input_tags.string and tags.input_tags.one_d_array
        tags.input_tags.string = tags.input_tags.one_d_array = False
        return tags

    def predict(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().predict(texts_of(self, X, reset=False))


class ClassifierOnNumbers(OnNumbers):
    def predict_proba(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().predict_proba(texts_of(self, X, reset=False))


class ZeroShotOnNumbers(ClassifierOnNumbers, ZeroShotEstimator):
    def fit(self, X: Any = None, y: Any = None) -> Any:
        return super().fit(texts_of(self, X, reset=True), y)


class WeightedOnNumbers(OnNumbers):
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return super().fit(texts_of(self, X, reset=True), y, sample_weight)


class FineTunedOnNumbers(WeightedOnNumbers, ClassifierOnNumbers, FineTunedClassifier):
    def decision_function(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().decision_function(texts_of(self, X, reset=False))


class RegressorOnNumbers(WeightedOnNumbers, FineTunedRegressor):
    pass


TEXTS_ARE_NOT_BLOBS = "it needs numbers that are learned well from a few rows, and these are words to the model"
COLUMN = "a column of labels, as a frame gives it, is taken without a warning"
WEIGHTS = "a weight multiplies the loss of a row; repeated rows are other batches and another validation split"
DATA_ERROR = "raises finetune's DataError, which says what to do about the table, and is no ValueError"


def expected_failures(estimator: Any) -> dict[str, str]:
    """Return the checks that do not hold, each with the reason."""
    failures = {"check_supervised_y_2d": COLUMN}
    if isinstance(estimator, ZeroShotEstimator):
        return failures | {
            "check_classifiers_train": "it learns nothing from numbers: it knows the names of the classes only",
            "check_methods_subset_invariance": "batches of other sizes are rounded otherwise in float32",
        }
    failures |= {"check_fit2d_1sample": DATA_ERROR, "check_sample_weight_equivalence_on_dense_data": WEIGHTS}
    if isinstance(estimator, FineTunedRegressor):
        return failures | {"check_regressors_train": TEXTS_ARE_NOT_BLOBS}
    return failures | {
        "check_classifiers_one_label": DATA_ERROR,
        "check_classifiers_one_label_sample_weights": DATA_ERROR,
        "check_classifiers_train": TEXTS_ARE_NOT_BLOBS,
    }


@parametrize_with_checks([ZeroShotOnNumbers()], expected_failed_checks=expected_failures, xfail_strict=True)
def test_the_zero_shot_estimator_passes_scikit_learns_checks(estimator: Any, check: Any, tiny_nli: Path) -> None:
    check(estimator.set_params(model=str(tiny_nli)))


@pytest.mark.parametrize("estimator", [FineTunedClassifier, FineTunedRegressor, ZeroShotEstimator])
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimators_unfitted,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_mixin_order,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_set_params,
        estimator_checks.check_valid_tag_types,
    ],
    ids=lambda check: check.__name__,
)
def test_what_holds_before_fit_holds_of_the_estimators_themselves(estimator: Any, check: Any) -> None:
    check(estimator.__name__, estimator())


QUICK = {"epochs": 1, "batch_size": 16, "lr": 5e-3}
SETTINGS = {"precision": "float32", "tfidf_baseline": False, "plots": False}


@pytest.mark.slow  # a hundred trainings
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
@parametrize_with_checks(
    [FineTunedOnNumbers(**QUICK, settings=SETTINGS), RegressorOnNumbers(**QUICK, settings=SETTINGS)],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_the_fine_tuned_estimators_pass_scikit_learns_checks(estimator: Any, check: Any, tiny_base: Path) -> None:
    check(estimator.set_params(base=str(tiny_base)))
