"""The estimators inside scikit-learn's own tools."""

from __future__ import annotations

import gc
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from service import load
from service.errors import BadRequest
from service.estimators import FineTunedClassifier, FineTunedRegressor, ZeroShotEstimator

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # runs of a few updates

TEXTS = [f"{'good great loved' if index % 2 else 'bad awful hated'} film {index}" for index in range(60)]
LABELS = np.array(["yes" if index % 2 else "no" for index in range(60)])
QUICK = {
    "epochs": 3,
    "batch_size": 8,
    "lr": 5e-3,
    "settings": {"precision": "float32", "tfidf_baseline": False, "plots": False},
}


@pytest.fixture
def quick(tiny_base: Path) -> dict[str, Any]:
    return QUICK | {"base": str(tiny_base)}


@pytest.fixture(scope="module")
def fitted(tiny_base: Path) -> FineTunedClassifier:
    return FineTunedClassifier(**QUICK | {"base": str(tiny_base)}).fit(TEXTS, LABELS)


def test_a_model_that_learned_nothing_gives_a_convergence_warning(quick: dict[str, Any]) -> None:
    with pytest.warns(ConvergenceWarning, match="the model is untrained"):
        FineTunedClassifier(**quick | {"epochs": 1, "lr": 1e-9}).fit(TEXTS, LABELS)


def test_it_keeps_scikit_learns_contract(fitted: FineTunedClassifier) -> None:
    assert fitted.classes_.tolist() == ["no", "yes"]
    assert fitted.predict(["good great film", "bad awful film"]).tolist() == ["yes", "no"]
    scores = fitted.predict_proba(TEXTS[:5])
    assert scores.shape == (5, 2) and scores.sum(axis=1) == pytest.approx(1)
    margin = fitted.decision_function(TEXTS[:5])
    assert 1 / (1 + np.exp(-margin)) == pytest.approx(scores[:, 1], abs=1e-5)
    assert fitted.score(TEXTS, LABELS) == 1.0
    assert fitted.predict_proba([]).shape == (0, 2)
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        again.predict(TEXTS)


def test_it_answers_as_its_model_folder_does(fitted: FineTunedClassifier, tmp_path: Path) -> None:
    fitted.save(str(tmp_path / "saved"))
    answers = load(tmp_path / "saved")(TEXTS[:4])
    assert [answer["label"] for answer in answers] == fitted.predict(TEXTS[:4]).tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(
        fitted.predict_proba(TEXTS[:4]).max(axis=1), abs=2e-6
    )


def test_a_pickle_answers_the_same_in_another_process(fitted: FineTunedClassifier, tmp_path: Path) -> None:
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(fitted))
    ask = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).predict_proba(['good film'])[0, 1])"
    done = subprocess.run(
        [sys.executable, "-c", ask, str(tmp_path / "model.pickle")], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) == pytest.approx(fitted.predict_proba(["good film"])[0, 1], abs=1e-6)


def test_its_folder_goes_with_it_unless_out_names_one(quick: dict[str, Any], tmp_path: Path) -> None:
    model = FineTunedClassifier(**quick | {"epochs": 0.2}).fit(TEXTS, LABELS)
    folder = Path(model.folder_)
    assert (folder / "model.safetensors").is_file()
    del model
    gc.collect()
    assert not folder.exists()
    kept = FineTunedClassifier(**quick | {"epochs": 0.2, "out": str(tmp_path / "kept")}).fit(TEXTS, LABELS)
    state = pickle.dumps(kept)
    assert len(state) < 20_000, "the path travels, not the weights"
    assert pickle.loads(state).predict(TEXTS[:2]).tolist() == kept.predict(TEXTS[:2]).tolist()


def test_it_works_inside_pipeline_grid_search_and_cross_validation(quick: dict[str, Any]) -> None:
    model = FineTunedClassifier(**quick | {"epochs": 8})  # half the rows
    lower = make_pipeline(FunctionTransformer(lambda texts: [text.lower() for text in texts]), model)
    assert cross_val_score(lower, TEXTS, LABELS, cv=2).min() > 0.9
    search = GridSearchCV(model, {"epochs": [0.2, 8]}, cv=2).fit(TEXTS, LABELS)
    assert search.best_score_ > 0.9
    assert search.best_params_ == {"epochs": 8}


def test_rows_are_weighted_by_sample_weight(quick: dict[str, Any]) -> None:
    texts = [f"good great film {index}" for index in range(60)]
    weights = np.where(LABELS == "yes", 1.0, 0.0)  # only the rows of one label count
    model = FineTunedClassifier(**quick).fit(texts, LABELS, sample_weight=weights)
    assert set(model.predict(texts).tolist()) == {"yes"}
    assert model.score(texts, LABELS, sample_weight=weights) == 1.0
    assert model.score(texts, LABELS) == 0.5
    numbers = FineTunedRegressor(**quick).fit(texts, (LABELS == "yes") * 1.0, sample_weight=1.0 - weights)
    assert numbers.predict(texts).mean() < 0.4


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1.0], "X has 60 texts and sample_weight 1 weights"),
        ([1.0] * 59 + [-1], "sample_weight 60 of 60 is -1"),
        ([float("nan")] * 60, "sample_weight 1 of 60 is nan"),
        (["a"] * 60, "sample_weight must hold a number for each text"),
        ([0] * 60, "sample_weight is zero for all 60 texts"),
    ],
)
def test_wrong_sample_weights_are_refused(quick: dict[str, Any], weights: Any, sentence: str) -> None:
    for estimator in (FineTunedClassifier(**quick), FineTunedRegressor(**quick)):
        with pytest.raises(BadRequest, match=sentence):
            estimator.fit(TEXTS, (LABELS == "yes") * 1, sample_weight=weights)


def test_whole_numbers_stay_numbers_and_in_order(quick: dict[str, Any]) -> None:
    numbers = np.array([10, 2])[(LABELS == "yes").astype(int)]
    model = FineTunedClassifier(**quick).fit(TEXTS, numbers)
    assert model.classes_.tolist() == [2, 10]
    assert model.predict(["good great film", "bad awful film"]).tolist() == [2, 10]


@pytest.mark.parametrize("form", ["lists", "indicator"])
def test_several_labels_come_back_in_the_form_they_were_given(quick: dict[str, Any], form: str) -> None:
    lists = [["liked", "film"] if index % 2 else ["film"] for index in range(60)]
    matrix = np.array([[1, index % 2, 0] for index in range(60)])  # nobody holds the third
    model = FineTunedClassifier(**quick).fit(TEXTS, lists if form == "lists" else matrix)
    found = model.predict(["good great film", "bad awful film"])
    assert found == [["film", "liked"], ["film"]] if form == "lists" else found.tolist() == [[1, 1, 0], [1, 0, 0]]


def test_a_number_is_predicted(quick: dict[str, Any]) -> None:
    model = FineTunedRegressor(**quick | {"epochs": 10}).fit(TEXTS, [float(index % 2) for index in range(60)])
    assert model.score(TEXTS, [float(index % 2) for index in range(60)]) > 0.8
    assert model.predict(["good great film"]).shape == (1,)


def test_zero_shot_needs_labels_only(tiny_nli: Path) -> None:
    model = ZeroShotEstimator(str(tiny_nli), labels=["sports", "business"]).fit()
    assert model.classes_.tolist() == ["business", "sports"]
    expected = load(tiny_nli)(["the match"], ["business", "sports"])[0]
    scores = dict(zip(model.classes_, model.predict_proba(["the match"])[0], strict=True))
    assert [scores[label] for label in expected["labels"]] == pytest.approx(expected["scores"], abs=2e-6)
    assert pickle.loads(pickle.dumps(model)).predict(["the match"]).tolist() == [expected["labels"][0]]
    assert clone(model).fit(["t"], ["b"]).classes_.tolist() == ["business", "sports"]


def test_wrong_inputs_are_refused_in_a_sentence(fitted: FineTunedClassifier) -> None:
    with pytest.raises(BadRequest, match="X must be a list of texts, not str"):
        fitted.predict("one text")
    with pytest.raises(BadRequest, match="text 2 of 2 is float, not a string"):
        fitted.predict(["a", float("nan")])
    with pytest.raises(BadRequest, match="requires y to be passed"):
        ZeroShotEstimator().fit()


def scores_of(folder: Path, labels: list[str], text: str) -> list[float]:
    answer = load(folder)([text], labels)[0]
    scores = dict(zip(answer["labels"], answer["scores"], strict=True))
    return [scores[label] for label in sorted(labels)]


def test_zero_shot_follows_its_parameters(tiny_nli: Path, tiny_topics: Path) -> None:
    labels, text = ["sports", "business"], "the match was great"
    first, second = (scores_of(folder, labels, text) for folder in (tiny_nli, tiny_topics))
    assert first != pytest.approx(second, abs=1e-3)
    model = ZeroShotEstimator(str(tiny_nli), labels=labels).fit()
    assert model.predict_proba([text])[0] == pytest.approx(first, abs=2e-6)
    model.set_params(model=str(tiny_topics))
    assert model.predict_proba([text])[0] == pytest.approx(second, abs=2e-6)
    model.set_params(model=str(tiny_nli)).fit()
    assert model.predict_proba([text])[0] == pytest.approx(first, abs=2e-6)


def test_zero_shot_reads_its_model_again_when_it_is_fitted_again(
    tiny_nli: Path, tiny_topics: Path, tmp_path: Path
) -> None:
    labels, text = ["sports", "business"], "the match was great"
    shutil.copytree(tiny_nli, tmp_path / "model")
    model = ZeroShotEstimator(str(tmp_path / "model"), labels=labels).fit()
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(tiny_topics, tmp_path / "model")
    assert model.fit().predict_proba([text])[0] == pytest.approx(scores_of(tiny_topics, labels, text), abs=2e-6)


def test_zero_shot_needs_a_label_for_each_text(tiny_nli: Path) -> None:
    with pytest.raises(NotFittedError):
        ZeroShotEstimator(str(tiny_nli), labels=["a"]).predict(["text"])
    with pytest.raises(BadRequest, match="X has 2 texts and y 1 labels"):
        ZeroShotEstimator(str(tiny_nli)).fit(["a", "b"], ["sports"])


def test_continuous_labels_are_no_classes(quick: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Unknown label type: continuous\. Label 2 of 60 is 0\.5: use FineTuned"):
        FineTunedClassifier(**quick).fit(TEXTS, [0.5 * index for index in range(60)])
