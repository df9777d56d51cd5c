"""The `y` of the estimators: the caller's own values in and out, and what is missing or unclear refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from service.errors import BadRequest
from service.estimator_targets import classes_of, numbers_of, targets_of
from service.estimators import FineTunedClassifier, ZeroShotEstimator

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("y", "classes", "values"),
    [
        (["b ", "a", "b "], ["a", "b "], ["b", "a", "b"]),
        (["10", "9", "A"], ["10", "9", "A"], ["10", "9", "A"]),
        ([10, 2, 10], [2, 10], ["10", "2", "10"]),
        ([1.0, 0.0, 1.0], [0.0, 1.0], ["1", "0", "1"]),
        ([True, False, True], [False, True], ["True", "False", "True"]),
        (pd.Series(["b", "a", "b"], dtype="category"), ["a", "b"], ["b", "a", "b"]),
        (pd.Series(["b", "a", "b"], dtype="string"), ["a", "b"], ["b", "a", "b"]),
        (pd.Series([1, 0, 1], dtype="Int64"), [0, 1], ["1", "0", "1"]),
        (np.array([["b"], ["a"], ["b"]]), ["a", "b"], ["b", "a", "b"]),
        (np.array(["b", "a", "b"], dtype=object), ["a", "b"], ["b", "a", "b"]),
    ],
)
def test_classes_are_the_callers_own_values_sorted(y: Any, classes: Any, values: Any) -> None:
    found = targets_of(y, 3)
    assert (found.classes.tolist(), found.values, found.form) == (classes, values, "one")


@pytest.mark.parametrize(
    "y",
    [
        [["b ", "a"], ["a"], []],
        [{"b ", "a"}, {"a"}, set()],
        [("a", "b "), ("a",), ()],
        [np.array(["a", "b "]), np.array(["a"]), np.array([], dtype=str)],
    ],
)
def test_several_labels_keep_the_callers_own_values(y: Any) -> None:
    found = targets_of(y, 3)
    assert found.classes.tolist() == ["a", "b "] and found.form == "lists"
    assert [sorted(value) for value in found.values] == [["a", "b"], ["a"], []]


@pytest.mark.parametrize("form", ["array", "truth", "lists", "frame", "sparse"])
def test_an_indicator_matrix_has_a_class_for_each_column(form: str) -> None:
    from scipy.sparse import csr_matrix

    matrix = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]])
    names = ["toxic", "rude", "threat"]
    made = {
        "array": matrix,
        "truth": matrix.astype(bool),
        "lists": matrix.tolist(),
        "frame": pd.DataFrame(matrix, columns=names),
        "sparse": csr_matrix(matrix),
    }
    found = targets_of(made[form], 3)
    assert found.form == "indicator"
    assert found.classes.tolist() == (names if form == "frame" else [0, 1, 2])
    assert found.values == [[found.names[0], found.names[1]], [], [found.names[1]]]


@pytest.mark.parametrize(
    "missing", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "", " ", "\u00a0", "\u200b", Decimal("NaN")]
)
def test_a_missing_label_is_an_error_with_its_position(missing: Any) -> None:
    with pytest.raises(BadRequest, match="label 2 of 3 is missing"):
        targets_of(["a", missing, "b"], 3)
    with pytest.raises(BadRequest, match="label 2 of 3 is missing"):
        numbers_of([1.0, missing, 2.0], 3)
    with pytest.raises(BadRequest, match="label 2 of 3 holds a missing label"):
        targets_of([["a"], ["b", missing], []], 3)
    with pytest.raises(BadRequest, match="label 2 of 2 is missing"):
        ZeroShotEstimator().fit(None, ["a", missing])


@pytest.mark.parametrize(("no", "yes"), [(0, 1), ("0", "1"), ("False", "True"), (False, True)])
def test_rows_of_zeros_and_ones_are_an_indicator_however_they_are_spelled(no: Any, yes: Any) -> None:
    targets = targets_of([[yes, no, no], [no, yes, yes], [no, no, no]], 3)
    assert targets.form == "indicator" and targets.values == [["0"], ["1", "2"], []]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["pos", "pos ", "neg"], "'pos' and 'pos ', which are one label 'pos' once blanks and invisible"),
        (["caf\u00e9", "cafe\u0301", "tea"], "which are one label"),
        ([["a", "a\u200b"], ["a"], []], "which are one label 'a'"),
        (["a", 1, "b"], "mixes str and int"),
        (["a", ["b"], "c"], "label 2 of 3 is list, unlike the labels before"),
        ([{"a": 1}, {"a": 2}, {"a": 3}], "cannot be sorted or compared"),
        (["a", "b"], "X has 3 texts and y 2 labels"),
        ("abc", "y must be a list of labels, not str"),
        ({"a": 1, "b": 2, "c": 3}, "y must be a list of labels, not dict"),
        (np.array("a"), "y must be a list of labels, not ndarray"),
        ([[["a"]], [["b"]], []], "label 1 of 3 holds a list or dict inside a list"),
        (["['a', 'b']", "['a']", "c"], r"label 1 of 3 is the text of a list or dict .*ast.literal_eval"),
        (np.ma.array([1, 2, 3], mask=[0, 1, 0]), "label 2 of 3 is missing"),
        (np.array([[1, 0], [0, 2], [1, 1]]), "row 2 of 3, column 2 of y is 2, not 0 or 1"),
        (np.array([[1, 0], [0, np.nan], [1, 1]]), "row 2 of 3, column 2 of y is missing"),
    ],
)
def test_what_cannot_be_told_apart_or_compared_is_refused(y: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        targets_of(y, 3)


def test_numbers_are_finite_and_as_many_as_texts() -> None:
    assert numbers_of(np.array([[1], [2]]), 2) == [1.0, 2.0]
    assert numbers_of(pd.Series([1, 2], dtype="Int64"), 2) == [1.0, 2.0]
    for wrong in ("many", float("inf"), "007", "1_000", 10**400):
        with pytest.raises(BadRequest, match="label 2 of 2 is .*, not a finite number"):
            numbers_of([1, wrong], 2)
    with pytest.raises(BadRequest, match="X has 3 texts and y 2 labels"):
        numbers_of([1, 2], 3)
    assert classes_of(["b", "a", "b"]).tolist() == ["a", "b"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # a run of a few rows learns little
def test_names_with_blanks_fit_and_come_back_as_they_were(tiny_base: Path) -> None:
    texts = [f"{'good' if index % 2 else 'bad'} film {index}" for index in range(40)]
    settings = {"precision": "float32", "tfidf_baseline": False, "plots": False}
    model = FineTunedClassifier(str(tiny_base), epochs=0.2, settings=settings)
    model.fit(texts, ["pos " if index % 2 else "neg" for index in range(40)])
    assert model.classes_.tolist() == ["neg", "pos "]
    scores = model.predict_proba(texts[:4])
    assert scores.sum(axis=1) == pytest.approx(1)
    assert (model.predict(texts[:4]) == model.classes_[scores.argmax(axis=1)]).all()
