"""`rehead export`: the models it writes, when int8 is kept, and the input it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import save_classifier
from click.testing import CliRunner

from finetune import TrainConfig, train
from finetune.core.model_folder import read
from finetune.run import validation_rows
from service import ZeroShotClassifier, load
from service.cli import rehead

WORDS = ["the match was great", "a bad film", "money and business", "awful", "loved it", "a planet in space"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REHEAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tables(tmp_path, tiny_sentiment):
    """Return a table whose labels are the model's own answers, and one of other texts to calibrate on."""
    texts = [f"{word} {number}" for number in range(8) for word in WORDS]
    labels = [answer["label"] for answer in load(tiny_sentiment)(texts)]
    (tmp_path / "check.csv").write_text(
        "text,label\n" + "".join(f"{t},{w}\n" for t, w in zip(texts, labels, strict=True))
    )
    (tmp_path / "other.csv").write_text("text\n" + "".join(f"{word} or {word}\n" for word in WORDS * 4))
    return tmp_path / "check.csv", tmp_path / "other.csv"


def run(*arguments):
    result = CliRunner().invoke(rehead, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return getattr(result.exception, "exit_code", 1), str(result.exception)
    return result.exit_code, result.output


def test_a_model_is_converted_once_and_loaded_from_the_cache(tiny_sentiment, cache):
    code, output = run("export", tiny_sentiment)
    assert (code, output) == (0, "sentiment is ready for openvino\n")
    (graph,) = cache.rglob("rows/openvino_model.xml")
    before = graph.stat().st_mtime_ns
    assert load(tiny_sentiment, backend="openvino", precision="float32")("good")[0]["label"] in ("negative", "positive")
    assert graph.stat().st_mtime_ns == before


@pytest.mark.slow
def test_int8_is_kept_if_accuracy_holds_and_then_served(tiny_sentiment, cache, tables):
    check, other = tables
    code, output = run("export", tiny_sentiment, "--int8", "--check", check, "--calibrate", other, "--limit", "60")
    assert code == 0 and f"accuracy on {check}: " in output and "1.0000 in float32" in output
    assert "kept: serve it with --backend openvino --precision int8" in output
    model = load(tiny_sentiment, backend="openvino", precision="int8")
    assert model.engine.backend.precision == "int8"
    exact = load(tiny_sentiment)
    scores = [[entry["score"] for entry in classifier(WORDS, top_k=None)[0]] for classifier in (model, exact)]
    assert scores[0] != scores[1] and abs(scores[0][0] - scores[1][0]) < 0.4

    # auto never tries it; fastest does, and says how it compares
    assert "in int8" not in load(tiny_sentiment, backend="openvino").engine.backend.why
    assert "openvino in int8" in load(tiny_sentiment, backend="openvino", precision="fastest").engine.backend.why


def test_int8_that_loses_more_than_the_limit_is_not_kept(tiny_sentiment, cache, tables, monkeypatch):
    check, other = tables
    values = iter((0.9000, 0.8949))

    def float32_instead(cls, folder, calibration, settings):
        (rows,) = cache.rglob("rows")
        copy = settings.cache / rows.relative_to(cache).with_name("rows-int8")
        shutil.copytree(rows, copy)
        shutil.copy(rows.parent / "facts.json", copy.parent)
        return copy

    monkeypatch.setattr("service.inference.backends.openvino.OpenVINOBackend.make_int8", classmethod(float32_instead))
    monkeypatch.setattr("service.commands.export._scorer", lambda *rest: lambda engine: next(values))
    code, output = run("export", tiny_sentiment, "--int8", "--check", check, "--calibrate", other)
    assert code == 1 and "int8 was not kept, since it loses more than 0.5 points" in output
    assert "0.8949 in int8, 0.9000 in float32" in output and not list(cache.rglob("*-int8"))


@pytest.mark.slow
def test_int8_of_a_zero_shot_model_is_checked_on_the_labels_of_the_table(tiny_topics, cache, tmp_path):
    rows = [("the match", "sports"), ("money", "business"), ("a planet", "science")] * 8
    for name in ("check", "other"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"{name} {t},{w}\n" for t, w in rows))
    code, output = run(
        "export", tiny_topics, "--int8", "--check", tmp_path / "check.csv", "--calibrate", tmp_path / "other.csv",
        "--limit", "100",
    )  # fmt: skip
    assert code == 0 and "in int8" in output
    assert list(cache.rglob("one_pass-int8/openvino_model.xml"))
    model = ZeroShotClassifier(tiny_topics, backend="openvino", precision="int8")
    assert len(model("the match", ["sports", "money"])["labels"]) == 2 and read(tiny_topics).is_zero_shot
    # what other requests need was not made in int8, and is computed as exported
    pairs = ZeroShotClassifier(tiny_topics, backend="openvino", precision="int8", attention="ordinary")
    exact = ZeroShotClassifier(tiny_topics, attention="ordinary")
    scores = [answer("the match", ["sports", "money"])["scores"] for answer in (pairs, exact)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_the_validation_rows_of_a_model_are_read_again(tiny_base, tmp_path, cache):
    rows = [(f"{word} {number}", ("negative", "positive")[number % 2]) for number in range(20) for word in WORDS]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    out = tmp_path / "mine"
    config = TrainConfig.model_validate(
        {
            "base": str(tiny_base),
            "out": str(out),
            "data": {"train": str(tmp_path / "train.csv")},
            "optim": {"epochs": 1},
        }
    )
    train(config)
    split = validation_rows(out)
    assert 5 <= len(split) <= 30 and set(split.texts) < {text for text, _ in rows}
    assert json.loads((out / "metrics.json").read_text())["rows"] == len(split)


TEXTS = ["good", "the match was great [SEP] about money", "a bad film " * 60]
WITHOUT_REHEAD = """import sys
sys.modules |= dict.fromkeys(("rehead", "finetune", "service", "torch", "transformers"))  # their import would fail
"""


def scores_by_the_readme(folder, texts, labels=None):
    """Run the program of an exported folder's README.md on other texts and labels; return what it prints."""
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    program = re.sub(r"(?m)^TEXTS = .*", lambda line: f"TEXTS = {texts!r}", program)
    program = re.sub(r"(?m)^LABELS = .*", lambda line: f"LABELS = {labels!r}", program)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_REHEAD + program], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "multiclass", "activation": "softmax", "temperature": 2.0, "max_length": 32},
        pytest.param(
            {
                "format": 2,
                "task": "multi_label",
                "activation": "sigmoid",
                "temperature": 0.5,
                "platt": {"slopes": [2.0, 0.5, 1.0], "offsets": [-1.0, 0.25, 0.0]},
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["multiclass", "multi_label"],
)
def test_an_exported_classifier_gives_the_same_scores_to_onnxruntime_and_a_tokenizer_alone(tmp_path, settings):
    model = save_classifier(tmp_path / "mine", ["red", "green", "blue"], settings=settings)
    code, output = run("export", model, "--out", tmp_path / "there")
    assert code == 0, output
    names = {"README.md", "classifier.json", "config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in (tmp_path / "there").iterdir()} == names
    assert json.loads((tmp_path / "there" / "config.json").read_text())["id2label"]["1"] == "green"
    expected = load(model).predict_proba(TEXTS)
    found = scores_by_the_readme(tmp_path / "there", TEXTS)
    assert [list(row) for row in found] == [["red", "green", "blue"]] * 3
    assert np.array([list(row.values()) for row in found]) == pytest.approx(expected, abs=1e-4)
    assert run("export", model, "--out", tmp_path / "there")[0] == 2
    assert run("export", model, "--out", tmp_path / "there", "--overwrite")[0] == 0


def test_an_isotonic_calibration_is_not_exported(tmp_path):
    isotonic = {"format": 2, "task": "multi_label", "activation": "sigmoid", "isotonic": [[[-1, 0.1], [1, 0.9]]] * 3}
    model = save_classifier(tmp_path / "mine", ["red", "green", "blue"], settings=isotonic)
    code, output = run("export", model, "--out", tmp_path / "there")
    assert code != 0 and "isotonic calibration" in output and "--method platt" in output


@pytest.mark.parametrize(
    "scorer",
    ["both", pytest.param("nli", marks=pytest.mark.slow), pytest.param("embedding", marks=pytest.mark.slow)],
)
def test_an_exported_zero_shot_model_scores_labels_of_ones_own(tmp_path, tiny_topics, scorer):
    model = shutil.copytree(tiny_topics, tmp_path / "topics")
    settings = json.loads((model / "classifier.json").read_text())
    (model / "classifier.json").write_text(
        json.dumps(settings | {"scorer": scorer, "label_embedding": "sentence_and_name"})
    )
    assert run("export", model, "--out", tmp_path / "there")[0] == 0
    texts, labels = ["the match", "money in the bank"], ["sports", "business", "a planet"]
    expected = load(model).predict_proba(texts, labels)
    found = scores_by_the_readme(tmp_path / "there", texts, labels)
    assert [list(row) for row in found] == [labels] * 2
    assert np.array([list(row.values()) for row in found]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "x", "--format", "openvino"], "--out writes float32 ONNX: leave out --format openvino"),
        (["--int8"], "--int8 and --check need each other: name a labeled table"),
        (["--check", "CHECK"], "--int8 and --check need each other"),
        (
            ["--int8", "--check", "CHECK", "--calibrate", "CHECK"],
            "are the same file: accuracy must be measured on other rows",
        ),
        (["--int8", "--check", "CHECK"], "validation split cannot be read .*train_config.yaml.*: name a table with"),
        (["--int8", "--check", "missing.csv", "--calibrate", "OTHER"], "missing.csv"),
    ],
)
def test_unusable_input_is_reported_in_one_sentence(tiny_sentiment, cache, tables, arguments, sentence):
    names = {"CHECK": tables[0], "OTHER": tables[1]}
    code, output = run("export", tiny_sentiment, *(names.get(argument, argument) for argument in arguments))
    assert code == 2
    assert re.search(sentence, output), output
