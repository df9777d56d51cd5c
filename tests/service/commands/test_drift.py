"""`rehead drift` on a model that was just trained: its own reference, in its manifest."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import rehead
from finetune.config.loading import build
from service.commands.drift import command


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory):
    out = tmp_path_factory.mktemp("drift") / "model"
    rows = [{"text": f"the match {'was' if n % 3 else 'is'} time {n}", "label": "ab"[n % 2]} for n in range(200)]
    settings = {
        "window": {"tokens": 20},
        "optim": {"epochs": 1, "batch_size": 16},
        "plots": False,
        "tfidf_baseline": False,
    }
    data = {"validation_size": 0.5}
    rehead.train(build({"base": str(tiny_base), "out": str(out), "data": data, **settings}), rows, progress=False)
    return out


def drift(model, file, *more):
    result = CliRunner().invoke(command, [str(model), str(file), *more])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_rows_like_those_of_the_validation_do_not_alarm_and_longer_ones_do(trained, tmp_path):
    reference = json.loads((trained / "drift_reference.json").read_text())
    assert reference["rows"] == 100 and set(reference["quantities"]) >= {"labels", "top_score", "length"}
    assert "drift_reference.json" in json.loads((trained / "manifest.json").read_text())["files"]
    (same := tmp_path / "same.txt").write_text(
        "".join(f"the match {'was' if n % 3 else 'is'} time {n}\n" for n in range(200))
    )
    (longer := tmp_path / "longer.txt").write_text("".join(f"{'the match was ' * 5}time {n}\n" for n in range(120)))
    assert json.loads((trained / "classifier.json").read_text())["window"]["overlap"] == 5
    content = json.loads(drift(trained, same, "--json"))
    assert content["rows"] == 200 and not content["quantities"]["length"]["alarm"]
    assert json.loads(drift(trained, longer, "--json"))["quantities"]["length"]["alarm"]
    assert "120 rows of" in drift(trained, longer) and "drift" in drift(trained, longer)


def test_a_model_without_a_reference_is_refused_with_what_to_do(tiny_sentiment, tiny_topics, tmp_path):
    (file := tmp_path / "t.txt").write_text("a text\n")
    for model, sentence in ((tiny_sentiment, "train the model again"), (tiny_topics, "a zero-shot model has none")):
        result = CliRunner().invoke(command, [str(model), str(file)])
        assert sentence in str(result.exception)
