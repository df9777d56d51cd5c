"""From texts without labels to a served model, with real training on a tiny encoder."""

from __future__ import annotations

import csv
import json
import random
import re

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import rehead
from finetune.core.errors import ConfigError, DataError, ReheadError
from finetune.core.events import Info
from service.cli import rehead as command_line
from service.commands.distill import command
from service.errors import BadRequest
from service.labeling.card import AGREEMENT
from service.labeling.config import NONE_OF_THESE, build, load
from service.labeling.teacher import words_of

WORDS = {"sports": "football match goal player", "business": "market money bank", "science": "space planet science"}
LABELS = list(WORDS)
FAST = {"precision": "float32", "plots": False, "optim": {"epochs": 15, "batch_size": 8, "lr": 3e-3}}


def texts_of(count, labels=LABELS, seed=0):
    """Return distinct texts and their labels."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        label = labels[number % len(labels)]
        words = chance.choices(WORDS[label].split(), k=3)
        rows.append((f"the {' '.join(words)} is {chance.choice('abcdefgh')}{number}", label))
    return [text for text, _ in rows], [label for _, label in rows]


class Teacher:
    """Counts the words of each label, is sometimes wrong, and counts its texts."""

    identity = "words"
    __name__ = "words"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts, labels):
        self.texts += texts
        chance = np.random.default_rng(len(texts))
        counts = np.array(
            [[sum(text.count(word) for word in WORDS.get(label, "").split()) for label in labels] for text in texts]
        )
        scores = counts + 0.5 + (chance.random((len(texts), len(labels))) < 0.1) * 2
        return scores / scores.sum(axis=1, keepdims=True)


@pytest.fixture
def distill(tiny_base, tmp_path):
    def run(texts, labels=LABELS, teacher=None, **settings):
        own = {"base": str(tiny_base), "embeddings": [str(tiny_base)], "student": FAST, "progress": False}
        settings = own | {"out": tmp_path / "topics"} | settings
        return rehead.distill(texts, labels, teacher=teacher or Teacher(), **settings)

    return run


def test_unlabeled_texts_become_a_served_model_that_says_how_it_came_to_be(distill, tmp_path):
    texts, _ = texts_of(240)
    result = distill(texts)
    model = rehead.load(str(result.path))
    others, labels = texts_of(60, seed=1)
    answers = [answer["label"] for answer in model(others)]
    assert np.mean([one == other for one, other in zip(answers, labels, strict=True)]) > 0.9

    assert result.report.measured is None
    assert result.report.lines()[0] == "Accuracy is unknown: no row was labeled by a person."
    card = (result.path / "README.md").read_text()
    assert "## Trained without human labels" in card
    assert "made by `words`, and refined by `gaussians, uniform priors`" in card, "what auto took"
    assert "240 texts, of which" in card
    assert "model-index" not in card  # agreement with a teacher is not listed as a result
    assert "rehead distill --config distill.yaml" in card
    metrics = json.loads((result.path / "metrics.json").read_text())
    assert metrics["split"] == AGREEMENT
    report = json.loads((result.path / "report" / "distillation.json").read_text())
    assert report["agreement"]["refined_student"] > 0.9
    assert {label: round(part["refined"], 1) for label, part in report["shares"].items()} == dict.fromkeys(LABELS, 0.3)
    assert load(result.path / "distill.yaml").labels == tuple(LABELS)
    assert yaml.safe_load((result.path / "train_config.yaml").read_text())["out"] == str(tmp_path / "topics")
    assert not list(tmp_path.glob(".topics.distill/topics"))

    with (result.path / "report" / "to_label.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 50
    assert all(row["text"] == texts[int(row["row"]) - 1] and row["label"] == "" for row in rows)
    assert sorted(row["chosen"] for row in rows) == ["doubt"] * 25 + ["random"] * 25
    with (result.path / "report" / "examples.csv").open() as stream:
        kinds = {(row["kind"], row["label"]) for row in csv.DictReader(stream)}
    assert kinds == {(kind, label) for kind in ("most confident", "least confident") for label in LABELS}


def test_rows_that_people_labeled_measure_and_are_not_trained_on(distill, tmp_path):
    import pyarrow.parquet

    texts, truth = texts_of(240)
    rows = [
        {"text": text, "topic": label if number < 60 else ""}
        for number, (text, label) in enumerate(zip(texts, truth, strict=True))
    ]
    result = distill([*rows, {"text": texts[0], "topic": None}], label_column="topic")
    measured = result.report.measured
    assert measured.rows == 60
    assert set(measured.metrics) == {"teacher", "refined", "student"}
    for stage in measured.metrics.values():
        assert stage["accuracy"]["low"] <= stage["accuracy"]["value"] <= stage["accuracy"]["high"]
    assert measured.metrics["student"]["accuracy"]["value"] > 0.9
    assert re.match(r"(The student may|Whether the student may)", measured.sentence)
    metrics = json.loads((result.path / "metrics.json").read_text())
    assert (metrics["split"], metrics["rows"]) == ("labeled_by_people", 60)
    assert AGREEMENT in metrics["tests"]
    trained = pyarrow.parquet.read_table(tmp_path / ".topics.distill" / "train.parquet").column("text").to_pylist()
    assert not set(trained) & set(texts[:60])
    assert result.counts["text_of_a_labeled_row"] == 1
    assert "rows labeled by people" in (result.path / "README.md").read_text()


def test_rows_that_were_chosen_in_doubt_are_neither_measured_nor_trained_on(distill, tmp_path):
    import pyarrow.parquet

    texts, _ = texts_of(240)
    others, truth = texts_of(40, seed=1)
    chosen = ["random", "doubt"] * 20
    with (tmp_path / "labeled.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "prediction", "chosen"])
        writer.writerows(zip(others, truth, truth, chosen, strict=True))
    result = distill([*texts, others[1]], validation=str(tmp_path / "labeled.csv"))
    assert result.report.measured.rows == 20 and result.counts["not_measured_on_since_in_doubt"] == 20
    trained = pyarrow.parquet.read_table(tmp_path / ".topics.distill" / "train.parquet").column("text").to_pylist()
    assert not set(trained) & set(others)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["sports", "Sports", "science"], "the labels 'sports' and 'Sports' differ only in case or blanks"),
        ("sports;science", "'sports;science' is one label: give two or more, with commas between them"),
    ],
)
def test_labels_that_are_one_or_hardly_differ_are_refused_before_anything_is_scored(distill, labels, sentence):
    teacher = Teacher()
    with pytest.raises(ReheadError, match=re.escape(sentence)):
        distill(texts_of(40)[0], labels, teacher=teacher)


def test_labels_given_twice_are_refused_and_not_replaced():
    for name in ("zero-shot", "distill"):
        done = CliRunner().invoke(command_line, [name, "the match", "--labels", "sports", "--labels", "business,money"])
        assert done.exit_code == 2 and "--labels is given 2 times" in done.output
        assert "--labels sports,business,money" in done.output


def test_the_second_run_takes_the_scores_of_the_first(distill):
    texts, _ = texts_of(120)
    teacher = Teacher()
    distill(texts, teacher=teacher)
    assert len(teacher.texts) == 120
    events = []
    distill([*texts, "one more football match"], teacher=teacher, overwrite=True, on_event=events.append, keep=0.5)
    assert teacher.texts[120:] == ["one more football match"]
    assert Info("120 of 121 scores came from the cache") in events


def test_a_label_that_does_not_occur_is_reported_and_predicted_for_no_text(distill):
    texts, _ = texts_of(240)
    result = distill(texts, labels=[*LABELS, "cooking"])
    assert result.report.shares["cooking"]["student"] < 0.02
    assert any("hardly occur: 'cooking'" in sentence for sentence in result.report.warnings)
    assert set(rehead.load(str(result.path)).labels) == {*LABELS, "cooking"}


def test_several_labels_hold_where_the_teacher_says_so(distill):
    texts, truth = texts_of(240)
    both = [f"{text} {WORDS['business']}" for text, label in zip(texts, truth, strict=True) if label == "sports"]

    def teacher(texts, labels):
        hits = [[any(word in text for word in WORDS[label].split()) for label in labels] for text in texts]
        return np.where(hits, 0.9, 0.1)

    result = distill([*texts, *both], teacher=teacher, multi_label=True, keep=1.0)
    model = rehead.load(str(result.path))
    assert model.folder.labels.task == "multi_label"
    scores = dict(zip(model.labels, model.predict_proba([both[0]])[0], strict=True))
    assert scores["sports"] > 0.5 > scores["science"]
    assert scores["business"] > 0.5


def test_the_command_distills_a_file_with_the_labels_of_a_zero_shot_model(tiny_topics, tmp_path):
    texts, _ = texts_of(90)
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(texts) + "\n")
    validation = "\n".join(f"{text},{label}" for text, label in zip(*texts_of(30, seed=2), strict=True))
    (tmp_path / "v.csv").write_text(f"text,label\n{validation}\n")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"student": FAST, "keep": 0.9}))
    arguments = [
        str(tmp_path / "t.csv"),
        "--labels",
        ",".join(LABELS),
        "--teacher",
        str(tiny_topics),
        "--none-of-these",
    ]
    arguments += ["--validation", str(tmp_path / "v.csv"), "--config", str(tmp_path / "run.yaml")]
    done = CliRunner().invoke(
        command, [*arguments, "--out", str(tmp_path / "m"), "--set", "to_label=7"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "On 30 rows labeled by people, none of them trained on:" in done.output
    assert f"model: {tmp_path / 'm'}" in done.output
    assert set(rehead.load(str(tmp_path / "m")).labels) == {*LABELS, NONE_OF_THESE}
    assert len((tmp_path / "m" / "report" / "to_label.csv").read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"labels": ["sports"]}, ConfigError, "labels"),
        ({"labels": [*LABELS, NONE_OF_THESE]}, ConfigError, "is added by none_of_these=true"),
        ({"priors": "unform"}, ConfigError, "setting 'priors' is 'unform': input should be 'estimated' or 'uniform'"),
        ({"priors": {"sports": 1.0}}, ConfigError, "a proportion of at least 0 for every label"),
        ({"descriptions": {"sport": "x"}}, ConfigError, "'sport', which is none of the labels"),
        ({"multi_label": True, "none_of_these": True}, ConfigError, "with one label for each text"),
        ({"refinment": "auto"}, ConfigError, "did you mean 'refinement'"),
        ({"refinement": "clutsers"}, ConfigError, "did you mean 'clusters'"),
        ({"refinement": {"name": "clusters", "warmth": 2}}, ConfigError, "has no option 'warmth'"),
        ({"student": {"base": "x"}}, ConfigError, "student.base is made by the distillation itself"),
        ({"student": {"optim": {"epoch": 3}}}, ConfigError, "the settings of student: unknown setting"),
        ({"label_column": "topic"}, BadRequest, "no column 'topic'"),
        ({"texts": ["one", "two"]}, DataError, "2 of 2 rows hold a text"),
        ({"teacher": lambda texts, labels: np.ones((len(texts), 2))}, BadRequest, r"probabilities of shape \(120, 3\)"),
        ({"teacher": lambda texts, labels: np.full((len(texts), 3), 7)}, BadRequest, "values from 7 to 7"),
        (
            {"teacher": lambda texts, labels: np.eye(3)[np.zeros(len(texts), int)]},
            DataError,
            "given the label 'sports'",
        ),
        ({"teacher": "endpoint"}, Exception, "no model 'endpoint'"),
    ],
)
def test_what_cannot_be_distilled_is_refused_in_a_sentence_and_writes_no_model(
    distill, tmp_path, settings, error, sentence
):
    settings = {"texts": texts_of(120)[0]} | settings
    with pytest.raises(error, match=sentence):
        distill(settings.pop("texts"), **settings)
    assert not (tmp_path / "topics").exists()


def test_a_label_by_people_that_is_none_of_the_labels_is_refused_with_its_row(distill):
    texts, _ = texts_of(60)
    rows = [{"text": text, "topic": None} for text in texts]
    rows[7]["topic"] = "sport"
    rows[9]["topic"] = "sports"
    with pytest.raises(DataError, match="none of the labels"):
        distill(rows, label_column="topic")


def test_a_fine_tuned_model_teaches_its_own_labels_only(tiny_sentiment, distill):
    with pytest.raises(BadRequest, match=r"cannot teach these labels: it has no label 'sports' \(labels: .*positive"):
        distill(texts_of(60)[0], teacher=str(tiny_sentiment))


def test_another_folder_at_out_is_refused_before_anything_is_scored(distill, tmp_path):
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "mine.txt").write_text("keep")
    teacher = Teacher()
    with pytest.raises(ConfigError, match="already holds files"):
        distill(texts_of(60)[0], teacher=teacher)
    assert teacher.texts == []


def test_many_texts_are_drawn_at_random_and_counted(distill):
    texts, _ = texts_of(200)
    teacher = Teacher()
    result = distill([*texts, texts[0]], teacher=teacher, rows=60)
    assert len(teacher.texts) == 60
    assert teacher.texts != texts[:60]
    assert (result.counts["duplicates"], result.counts["usable"], result.counts["not_drawn"]) == (1, 200, 140)


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, r"'texts' \(TEXTS\) is missing"), ({"texts": "a.csv"}, r"'labels' \(--labels\) is missing")],
)
def test_a_missing_setting_is_named_as_the_command_takes_it(given, message):
    with pytest.raises(ConfigError, match=message):
        build(given | {"out": "o"})


def test_a_config_reads_back_as_it_was_written():
    config = build({"texts": "t.csv", "labels": "a,b", "out": "o", "priors": {"a": 1, "b": 3}, "text": "body"})
    assert build(config.model_dump(mode="json")) == config
    assert config.text == ("body",)


def test_the_teacher_reads_label_names_as_zero_shot_requests_do(tmp_path):
    names = ["BookFlight", "AddToPlaylist", "sci.space", "Wi-Fi", "other_one"]
    config = build({"texts": "t.csv", "labels": names, "out": str(tmp_path), "descriptions": {"other_one": "the rest"}})
    assert words_of(config) == ("book flight", "add to playlist", "sci space", "Wi-Fi", "the rest")
