"""`rehead calibrate`, and what it writes: followed in the same way by every interface."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import save_classifier
from click.testing import CliRunner

import rehead
from finetune.core import model_folder
from finetune.core.errors import CheckpointError, ConfigError
from finetune.core.scores import sigmoid, softmax
from finetune.core.tables.files import read_table, write_table
from service.cli import rehead as command_line
from service.errors import BadRequest
from service.schema import TextInput
from service.settings import ServeSettings
from tests.support.app_client import opened

pytestmark = pytest.mark.fast
WORDS = "good bad great awful loved hated film movie it was not the match goal player bank money space planet"
TOO_LARGE = 3.0
"""The factor by which the logits of the tiny models are larger than those that the labels are drawn from."""


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS.split(), rng.integers(2, 8))) for _ in range(count)]


def labeled(model: Path, count: int = 400) -> list[dict[str, object]]:
    """Return texts with labels drawn from the model's softmax at temperature TOO_LARGE."""
    classifier, rng, rows = rehead.load(model), np.random.default_rng(1), texts(count)
    logits = classifier.engine.scores(rows, function="none")
    names = classifier.labels
    if classifier.folder.labels.task == "multi_label":
        held = rng.random(logits.shape) < sigmoid(logits / TOO_LARGE - 1)
        values = [[name for name, holds in zip(names, row, strict=True) if holds] for row in held]
        return [{"text": text, "labels": value} for text, value in zip(rows, values, strict=True)]
    drawn = [names[rng.choice(len(names), p=row)] for row in softmax(logits / TOO_LARGE)]
    return [{"text": text, "label": value} for text, value in zip(rows, drawn, strict=True)]


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("topics") / "topics", ["bank", "film", "space"], seed=3)


@pytest.fixture(scope="module")
def calibrated(topics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model of `topics` with a temperature and prediction sets."""
    out = tmp_path_factory.mktemp("calibrated") / "calibrated"
    rehead.calibrate(topics, labeled(topics), out, coverage=0.8)
    return out


@pytest.fixture(scope="module")
def strict(tiny_sentiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of two labels whose `positive` takes a higher score than 0.5."""
    out = tmp_path_factory.mktemp("strict") / "strict"
    rehead.calibrate(tiny_sentiment, labeled(tiny_sentiment), out, thresholds="precision=0.9")
    return out


def doubtful(model: Path) -> tuple[list[str], str]:
    """Return texts whose higher score is not that of the predicted label, and this label, by the threshold alone."""
    bound = model_folder.read(model).settings.thresholds[1]
    rows = texts(400, seed=2)
    scores = rehead.load(model).predict_proba(rows)[:, 1]
    between = (min(bound, 0.5) < scores) & (scores < max(bound, 0.5))
    assert abs(bound - 0.5) > 0.05 and between.any()
    return [row for row, is_between in zip(rows, between, strict=True) if is_between][:3], (
        "negative" if bound > 0.5 else "positive"
    )


def test_temperature_is_found_and_changes_scores_but_no_answer(topics: Path, calibrated: Path) -> None:
    rows = texts(30, seed=5)
    before, after = rehead.load(topics).predict_proba(rows), rehead.load(calibrated).predict_proba(rows)

    assert model_folder.read(calibrated, check_hashes=True).settings.temperature == pytest.approx(TOO_LARGE, rel=0.25)
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    assert np.abs(before - after).max() > 0.05
    assert "## Calibration" in (calibrated / "README.md").read_text(encoding="utf-8")
    assert (calibrated / "report" / "calibration.png").is_file()


def test_a_model_that_is_calibrated_already_stays_as_it_is(calibrated: Path, tmp_path: Path) -> None:
    rows = texts(400, seed=9)
    rng, scores = np.random.default_rng(0), rehead.load(calibrated).predict_proba(rows)
    names = rehead.load(calibrated).labels
    data = [{"text": text, "label": names[rng.choice(3, p=row)]} for text, row in zip(rows, scores, strict=True)]

    result = rehead.calibrate(calibrated, data, tmp_path / "again", method="none", coverage=0.9)
    settings = model_folder.read(result.path).settings
    assert settings.temperature == model_folder.read(calibrated).settings.temperature
    assert settings.prediction_sets.coverage == 0.9


def test_prediction_sets_are_the_same_in_python_on_the_command_line_in_tables_and_over_http(
    calibrated: Path, tmp_path: Path
) -> None:
    rows = texts(12, seed=4)
    classifier = rehead.load(calibrated)
    lowest = classifier.folder.settings.prediction_sets.lowest_score
    scores = classifier.predict_proba(rows)
    expected = [[classifier.labels[place] for place in np.argsort(-row) if row[place] >= lowest] for row in scores]
    assert {len(members) for members in expected} >= {1, 2}

    assert classifier.predict_sets(rows) == expected
    assert [item["label"] for item in classifier(rows[0], abstain=True)] == expected[0]

    shown = CliRunner().invoke(command_line, ["predict", str(calibrated), *rows, "--abstain", "--json"])
    assert [row["prediction_set"] for row in json.loads(shown.stdout)] == expected

    write_table(tmp_path / "in.jsonl", [{"text": row} for row in rows])
    rehead.score_table(calibrated, tmp_path / "in.jsonl", tmp_path / "out.jsonl", abstain=True)
    assert read_table(tmp_path / "out.jsonl").column("prediction_set") == expected

    with client(calibrated.parent) as http:
        answer = http.post("/models/calibrated", json={"inputs": rows, "parameters": {"abstain": True}}).json()
        assert [[item["label"] for item in members] for members in answer] == expected


def test_a_set_may_be_empty(topics: Path, tmp_path: Path) -> None:
    folder = save_classifier(
        tmp_path / "sure",
        ["bank", "film", "space"],
        seed=3,
        settings={
            "format": 2,
            "task": "multiclass",
            "activation": "softmax",
            "prediction_sets": {"coverage": 0.5, "lowest_score": 0.9999999, "rows": 100},
        },
    )
    sets = rehead.load(folder).predict_sets(texts(20))
    assert [] in sets
    place = sets.index([])
    shown = CliRunner().invoke(command_line, ["predict", str(folder), *texts(20), "--abstain"])
    assert shown.stdout.splitlines()[place].startswith("none of these")


def test_abstain_is_refused_where_there_are_no_sets(topics: Path) -> None:
    with pytest.raises(BadRequest, match="rehead calibrate"):
        rehead.load(topics)("good film", abstain=True)
    shown = CliRunner().invoke(command_line, ["predict", str(topics), "good film", "--abstain"])
    assert isinstance(shown.exception, BadRequest) and "no prediction sets" in str(shown.exception)
    with client(topics.parent) as http:
        answer = http.post("/models/topics", json={"inputs": "good", "parameters": {"abstain": True}})
        assert answer.status_code == 400 and "no prediction sets" in answer.text


def test_the_threshold_of_two_labels_decides_everywhere(strict: Path, tmp_path: Path) -> None:
    rows, label = doubtful(strict)
    other = {"negative": "positive", "positive": "negative"}[label]
    classifier = rehead.load(strict)

    assert [item["label"] for item in classifier(rows)] == [label] * len(rows)
    assert all(item["score"] < 0.5 for item in classifier(rows))
    assert [item["label"] for item in classifier(rows[0], top_k=None)] == [label, other]
    assert classifier(rows[0], function_to_apply="none")[0]["label"] == label

    shown = CliRunner().invoke(command_line, ["predict", str(strict), *rows])
    assert all(line.startswith(label) for line in shown.stdout.splitlines())

    write_table(tmp_path / "in.jsonl", [{"text": row} for row in rows])
    rehead.score_table(strict, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert set(read_table(tmp_path / "out.jsonl").column("prediction")) == {label}

    truth = [{"text": row, "label": label} for row in rows] + [{"text": "good", "label": other}]
    assert rehead.evaluate(strict, truth)["metrics"]["accuracy"]["value"] >= len(rows) / (len(rows) + 1)

    with client(strict.parent) as http:
        (labels,) = http.post("/models/strict", json={"inputs": rows[0]}).json()
        assert labels[0]["label"] == label and labels[0]["score"] < labels[1]["score"]
        assert http.post("/predict", json={"inputs": rows[0]}).json()[0]["label"] == label
        assert http.post("/classify", json={"input": rows[0]}).json()["data"][0]["label"] == label


def test_the_page_says_what_follows_from_the_scores(strict: Path, calibrated: Path) -> None:
    from service.ui.results import bars, decisions_of

    rows, label = doubtful(strict)
    classifier = rehead.load(strict)
    (answer,) = classifier.engine.classify([TextInput(rows[0])])
    assert bars(answer)["value"] == label
    assert "positive is predicted from" in decisions_of(answer, classifier.folder)[0]

    sure = rehead.load(calibrated)
    (answer,) = sure.engine.classify([TextInput(rows[0])])
    members = ", ".join(sure.predict_sets(rows[:1])[0]) or "none of these"
    assert decisions_of(answer, sure.folder) == [f"Prediction set (coverage 0.8): {members}."]


def test_platt_is_applied_to_several_labels_and_by_sigmoid_too(tmp_path: Path) -> None:
    model = save_classifier(tmp_path / "tags", ["a", "b", "c"], seed=5, problem_type="multi_label_classification")
    result = rehead.calibrate(model, labeled(model), tmp_path / "out", thresholds="f1")
    classifier, rows = rehead.load(tmp_path / "out"), texts(10, seed=6)
    settings = classifier.folder.settings
    logits = rehead.load(model).engine.scores(rows, function="none")

    expected = sigmoid(np.array(settings.scaling.slopes) * logits + np.array(settings.scaling.offsets))
    np.testing.assert_allclose(classifier.predict_proba(rows), expected, atol=1e-6)
    np.testing.assert_allclose(classifier.engine.scores(rows, function="sigmoid"), expected, atol=1e-6)
    assert result.content["after"]["log_loss"] < result.content["before"]["log_loss"]
    assert len(settings.thresholds) == 3
    assert json.loads((tmp_path / "out" / "classifier.json").read_text())["format"] == 2


@pytest.mark.parametrize("thresholds", [None, [0.9, 0.2, 0.6]])
def test_a_calibration_changes_scores_of_several_labels_and_no_decision(
    thresholds: list[float] | None, tmp_path: Path
) -> None:
    model = save_classifier(
        tmp_path / "tags",
        ["a", "b", "c"],
        seed=5,
        problem_type="multi_label_classification",
        settings={"task": "multi_label", "activation": "sigmoid", "temperature": 2.0, "thresholds": thresholds},
    )
    rehead.calibrate(model, labeled(model), tmp_path / "out")
    before, after = rehead.load(model), rehead.load(tmp_path / "out")
    rows = texts(100, seed=8)
    assert np.abs(before.predict_proba(rows) - after.predict_proba(rows)).max() > 0.02
    np.testing.assert_array_equal(
        after.predict_proba(rows) >= after.folder.settings.thresholds, before.predict_proba(rows) >= (thresholds or 0.5)
    )


def test_calibrate_on_the_command_line_shows_before_and_after(topics: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "rows.csv", labeled(topics))
    arguments = ["calibrate", str(topics), str(tmp_path / "rows.csv"), "--coverage", "0.9"]

    shown = CliRunner().invoke(command_line, [*arguments, "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert "rows.csv, cross-fitted" in shown.stdout
    before, after = map(float, shown.stdout.split("calibration_error")[1].split()[:2])
    assert after < before
    assert model_folder.read(tmp_path / "out").settings.prediction_sets.coverage == 0.9

    again = CliRunner().invoke(command_line, [*arguments, "-o", str(tmp_path / "out")])
    assert isinstance(again.exception, ConfigError) and "--overwrite" in str(again.exception)
    nowhere = CliRunner().invoke(command_line, arguments)
    assert isinstance(nowhere.exception, BadRequest) and "-o OUT" in str(nowhere.exception)


def test_calibrate_in_place_replaces_its_section_of_the_card(topics: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(topics, tmp_path / "own")
    (tmp_path / "own" / "README.md").write_text("# own\n\nText.\n\n## Limits\n\nSome.\n", encoding="utf-8")
    for _ in range(2):
        rehead.calibrate(tmp_path / "own", labeled(topics), overwrite=True)
    card = (tmp_path / "own" / "README.md").read_text(encoding="utf-8")
    assert card.count("## Calibration") == 1 and "## Limits" in card and card.startswith("# own\n\nText.")


def test_what_cannot_be_calibrated_is_refused(tiny_nli: Path, topics: Path, tmp_path: Path) -> None:
    rows = labeled(topics, 60)
    with pytest.raises(BadRequest, match="zero-shot model"):
        rehead.calibrate(tiny_nli, rows, tmp_path / "out")
    with pytest.raises(ConfigError, match="could change which label"):
        rehead.calibrate(topics, rows, tmp_path / "out", method="platt")
    with pytest.raises(ConfigError, match="the task is multiclass"):
        rehead.calibrate(topics, rows, tmp_path / "out", thresholds="f1")
    with pytest.raises(ConfigError, match="give f1, precision=0.9 or recall=0.9"):
        rehead.calibrate(topics, rows, tmp_path / "out", thresholds="precision=high")
    assert not (tmp_path / "out").exists()


def test_few_rows_write_the_model_unchanged_and_say_why(topics: Path, tmp_path: Path) -> None:
    result = rehead.calibrate(topics, labeled(topics, 40), tmp_path / "out", coverage=0.9)
    assert result.sentences == ["Scores stay as they are: to fit them takes 50 rows, and there are 40."]
    assert model_folder.read(tmp_path / "out").settings.temperature == 1


def test_settings_of_another_label_count_are_refused(tmp_path: Path) -> None:
    platt = {"format": 2, "task": "multi_label", "activation": "sigmoid", "platt": {"slopes": [1], "offsets": [0]}}
    folder = save_classifier(tmp_path / "m", ["a", "b", "c"], problem_type="multi_label_classification", settings=platt)
    with pytest.raises(CheckpointError, match="for 1 labels, and the model has 3"):
        model_folder.read(folder)


def client(models: Path) -> AbstractContextManager[Any]:
    return opened(ServeSettings(models=models), log=lambda line: None)
