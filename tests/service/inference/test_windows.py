"""Texts in windows: the scores are those of the windows, aggregated, on every interface."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import rehead
from finetune.core import model_folder
from finetune.core.windows import Window, spans
from service.commands.predict import command
from service.errors import BadRequest
from service.inference.engine import Engine
from service.schema import TextInput, ZeroShotRequest

pytestmark = pytest.mark.fast

LONG = " ".join(["the match went to extra time", "shares fell", "good", "time was late"][n * n % 4] for n in range(60))
SHORT = "the match"


@pytest.fixture(scope="module")
def engine(tiny_sentiment):
    engine = Engine.load(model_folder.read(tiny_sentiment))
    yield engine
    engine.close()


def parts_of(engine, window):
    return spans(LONG, engine._runner.encoder.prepared, window)


@pytest.mark.parametrize("aggregate", ["max", "mean", "first"])
def test_scores_of_a_long_text_are_aggregated_from_those_of_its_windows(engine, aggregate):
    window = Window(32, 8, aggregate)
    parts = parts_of(engine, window)
    assert len(parts) > 3
    own = np.array([engine.classify([TextInput(LONG[begin:end])])[0].scores for begin, end in parts])
    long, short = engine.classify([TextInput(LONG), TextInput(SHORT)], window=window)
    expected = {"mean": own.mean(axis=0), "max": own.max(axis=0) / own.max(axis=0).sum(), "first": own[0]}[aggregate]
    assert long.scores == pytest.approx(expected, abs=1e-6) and sum(long.scores) == pytest.approx(1)
    assert long.window == (parts[0] if aggregate == "first" else parts[own[:, expected.argmax()].argmax()])
    assert not long.truncated and short.window == (0, len(SHORT))
    assert short.scores == pytest.approx(engine.classify([TextInput(SHORT)])[0].scores, abs=1e-6)


def test_without_a_window_the_text_is_truncated_as_before(engine):
    (answer,) = engine.classify([TextInput(LONG)])
    assert answer.truncated and answer.window is None


def test_logits_are_aggregated_as_logits(engine):
    window = Window(32, 8, "max")
    pieces = [TextInput(LONG[begin:end]) for begin, end in parts_of(engine, window)]
    own = np.array([answer.scores for answer in engine.classify(pieces, function="none")])
    (answer,) = engine.classify([TextInput(LONG)], function="none", window=window)
    assert answer.scores == pytest.approx(own.max(axis=0), abs=1e-4)


@pytest.mark.parametrize("labels", [("sports", "money"), ("a > b", "a > c", "d")])
def test_zero_shot_scores_are_aggregated_too(tiny_topics, labels):
    engine = Engine.load(model_folder.read(tiny_topics))
    window = Window(32, 8, "mean")
    pieces = [LONG[begin:end] for begin, end in parts_of(engine, window)]
    own = np.array([answer.scores for answer in engine.zero_shot(pieces, ZeroShotRequest(labels))])
    (answer,) = engine.zero_shot([LONG], ZeroShotRequest(labels, window=window))
    assert answer.scores == pytest.approx(own.mean(axis=0), abs=1e-5)
    assert LONG[slice(*answer.window)] in pieces
    engine.close()


def test_pairs_max_length_and_windows_beyond_the_model_are_refused(engine):
    window = Window(32, 8)
    with pytest.raises(BadRequest, match="window does not go with pairs"):
        engine.classify([TextInput(LONG, SHORT)], window=window)
    with pytest.raises(BadRequest, match="window does not go with max_length"):
        engine.classify([TextInput(LONG)], window=window, max_length=16)
    with pytest.raises(BadRequest, match="a window has 127 tokens, and this model reads 126"):
        engine.classify([TextInput(LONG)], window=Window(127, 8))


def test_the_folder_may_record_windows_which_a_request_turns_off(tiny_sentiment, tmp_path):
    folder = shutil.copytree(tiny_sentiment, tmp_path / "model")
    settings = {"format": 1, "task": "binary", "activation": "softmax"}
    (folder / "classifier.json").write_text(json.dumps(settings | {"window": {"tokens": 32, "overlap": 8}}))
    read = model_folder.read(folder)
    assert read.settings.window == Window(32, 8, "mean")
    model_folder.write_settings(folder, read.settings)
    assert model_folder.read(folder).settings == read.settings
    classifier = rehead.load(folder)
    in_windows, whole = classifier(LONG)[0], classifier(LONG, window="off")[0]
    assert set(in_windows) == {"label", "score", "window"} and set(whole) == {"label", "score"}
    assert classifier({"text": LONG, "text_pair": SHORT}) == classifier(
        {"text": LONG, "text_pair": SHORT}, window="off"
    )


def test_a_threshold_and_prediction_sets_decide_by_the_scores_of_the_whole_text(tiny_sentiment, tmp_path):
    folder = shutil.copytree(tiny_sentiment, tmp_path / "model")
    window = Window(32, 8, "mean")
    plain = Engine.load(model_folder.read(folder))
    (answer,) = plain.classify([TextInput(LONG)], window=window)
    plain.close()
    settings = {"format": 1, "task": "binary", "activation": "softmax"}
    for threshold, decided in ((answer.scores[1] - 0.01, 1), (answer.scores[1] + 0.01, 0)):
        (folder / "classifier.json").write_text(
            json.dumps(settings | {"thresholds": [1 - threshold, threshold], "format": 2})
        )
        engine = Engine.load(model_folder.read(folder))
        (result,) = engine.classify([TextInput(LONG)], window=window)
        assert result.scores == pytest.approx(answer.scores) and result.decided == decided
        with pytest.raises(BadRequest, match="function_to_apply does not go with windows"):
            engine.classify([TextInput(LONG)], window=window, function="none")
        engine.close()


def test_http_the_command_line_and_python_say_which_window_decided(served, tiny_models):
    expected = rehead.load(tiny_models / "sentiment")(LONG, window={"tokens": 32, "aggregate": "max"})[0]
    body = {"inputs": LONG, "parameters": {"window": {"tokens": 32, "aggregate": "max"}, "top_k": 1}}
    response = served().post("/models/sentiment", json=body)
    assert response.status_code == 200, response.text
    assert response.json()[0][0]["label"] == expected["label"]
    assert response.json()[0][0]["score"] == pytest.approx(expected["score"])
    assert response.json()[0][0]["window"] == expected["window"]
    arguments = [str(tiny_models / "sentiment"), LONG, "--window", "tokens=32,aggregate=max", "--json"]
    result = CliRunner().invoke(command, arguments)
    (record,) = json.loads(result.stdout)
    assert record["window"] == expected["window"] and not record["truncated"]
    assert record["predictions"][0]["score"] == pytest.approx(expected["score"])
    by_default = served(window="tokens=32,aggregate=max").post("/models/sentiment", json={"inputs": LONG})
    assert by_default.json()[0][0]["window"] == expected["window"]
    wrong = served().post("/models/sentiment", json={"inputs": LONG, "parameters": {"window": "wide"}})
    assert wrong.status_code == 400 and "tokens of a window" in wrong.json()["error"]
