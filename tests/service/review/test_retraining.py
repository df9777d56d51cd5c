"""Retraining in the background: what is trained on, what is published, and the curve that results."""

from __future__ import annotations

import json

import pytest

from finetune.core import model_folder
from service.errors import BadRequest
from service.review import measures, retraining
from service.review.answers import AnswersFile
from service.review.review import Given, Retrain, begin, loaded
from service.review.session import Plan
from service.review.table import review_table
from tests.support import waiting
from tests.support.checkpoints import save_classifier, save_tokenizer, tiny_config

WORDS = {"positive": ("great", "good", "loved"), "negative": ("awful", "bad", "hated"), "trade": ("bank", "money")}
TEXTS = [(f"{word} film {number}", label) for number in range(12) for label, words in WORDS.items() for word in words]
SETTINGS = {"optim.epochs": 80, "optim.lr": 2e-3, "precision": "float32"}  # the same steps on every processor


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Return a classifier that scores all labels nearly equal."""
    import torch
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("untrained") / "sentiment"
    names = dict(enumerate(("negative", "positive")))
    torch.manual_seed(0)
    config = tiny_config(save_tokenizer(folder), id2label=names, label2id={name: i for i, name in names.items()})
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text("text\n" + "".join(f"{text}\n" for text, _ in TEXTS))
    return review_table(file)


def given(folder, tmp_path):
    checked = model_folder.read(folder)
    return Given("sentiment", checked, lambda: loaded(checked, "cpu"), "cpu", str(tmp_path / "models"))


def start(table, tmp_path, untrained, out="reviewed", every=15, **settings):
    target = None if out is None else tmp_path / "models" / out
    retrain = Retrain(target, every, SETTINGS | settings)
    plan = Plan("auto", 96, 0.3, 0.0)
    return begin(table, tmp_path / "answers.jsonl", plan, given(untrained, tmp_path), retrain)


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def answer(review, count):
    labels = dict(TEXTS)
    for _ in range(count):
        question = review.session.next("Ann")
        review.session.answer("Ann", question.row, "label", labels[question.text], new=True)


@pytest.mark.slow
def test_a_review_retrains_measures_and_orders_what_is_left(table, tmp_path, untrained):
    review = start(table, tmp_path, untrained)
    before = review.session.scored
    answer(review, 14)
    review.retraining.poll()
    assert not review.retraining.is_running, "fewer than 15 answers to train on"
    answer(review, 36)
    review.retraining.poll()
    assert review.retraining.is_running
    answer(review, 4)  # reviewers go on meanwhile
    waiting.until(lambda: not review.retraining.is_running, "the end of the retraining")
    review.retraining.wait()
    assert review.retraining.problem == ""
    trained_on = read_lines(tmp_path / ".answers.review" / "train.jsonl")
    held = {line.text for line in review.session.answers.current() if line.held_out}
    assert held and held.isdisjoint(row["text"] for row in trained_on)
    assert {row["label"] for row in trained_on} == set(WORDS), "a label that a reviewer added is learned"

    published = model_folder.read(tmp_path / "models" / "reviewed", check_hashes=True)
    assert set(published.labels.names) == set(WORDS)
    assert review.session.scored.model == "reviewed" and review.session.scored is not before
    points = review.points
    assert [point.answers for point in points] == [0, len(trained_on)] and points[0].rows == len(held)
    assert points[1].accuracy > points[0].accuracy, "the given model has learned nothing"

    # the same command continues with the retrained model, and may publish to the same folder again
    again = start(table, tmp_path, untrained)
    assert again.session.scored.model == "reviewed" and again.points == points
    assert measures.curve(retraining.latest_rounds(tmp_path / ".answers.review"), again.session.answers.current()) == (
        points
    )
    again.close()


@pytest.mark.slow
def test_a_retraining_that_fails_says_why_and_loses_nothing(table, tmp_path, untrained):
    review = start(table, tmp_path, untrained, **{"loss.name": "no_such_loss"})
    answer(review, 40)
    review.retraining.poll()
    waiting.until(lambda: not review.retraining.is_running, "the end of the retraining")
    review.retraining.poll()
    assert "retraining failed: unknown loss 'no_such_loss'" in review.retraining.problem
    assert not review.retraining.is_running, "it is tried again only after more answers"
    assert len(review.session.answers.current()) == 40 and not (tmp_path / "models").exists()


def test_neither_the_given_model_nor_another_one_is_overwritten(table, tmp_path, untrained):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "reviewed").symlink_to(untrained)
    with pytest.raises(BadRequest, match="is the model under review, which is never overwritten"):
        start(table, tmp_path, untrained)
    (tmp_path / "models" / "other").mkdir()
    (tmp_path / "models" / "other" / "config.json").write_text("{}")
    with pytest.raises(BadRequest, match="no retraining of this review made it"):
        start(table, tmp_path, untrained, out="other")


@pytest.mark.parametrize(("name", "problem"), [("tiny_topics", "zero-shot model"), ("several", "task multi_label")])
def test_models_that_are_not_reviewed_are_refused(request, table, tmp_path, name, problem):
    if name == "several":
        folder = save_classifier(tmp_path / "tags", ["a", "b", "c"], problem_type="multi_label_classification")
    else:
        folder = request.getfixturevalue(name)
    with pytest.raises(BadRequest, match=problem):
        start(table, tmp_path, folder)


def test_label_errors_are_reviewed_and_the_corrected_table_is_whole(tmp_path):
    pytest.importorskip("cleanlab")
    from finetune.core.tables.files import read_table, write_table
    from service.review.review import corrections, write_labeled

    rows = [{"text": text, "label": label} for text, label in TEXTS]
    wrong = [4, 30, 61]
    for place in wrong:
        rows[place]["label"] = "trade" if rows[place]["label"] != "trade" else "negative"
    write_table(tmp_path / "labeled.csv", rows)
    table = review_table(tmp_path / "labeled.csv", label="label")
    review = begin(table, tmp_path / "checks.jsonl", Plan("label_errors", 50, 0.0, 0.0), None, Retrain(None))
    asked = []
    while (question := review.session.next("Ann")) is not None:
        asked.append(question.number - 1)
        assert question.given == rows[asked[-1]]["label"]
        review.session.answer("Ann", question.row, "label", TEXTS[asked[-1]][1])
    assert set(wrong) <= set(asked) and len(asked) < 20
    file = AnswersFile(tmp_path / "checks.jsonl")
    assert corrections(table, file) == (len(asked) - 3, 3)
    assert write_labeled(tmp_path / "fixed.csv", file, table) == len(TEXTS)
    assert [(row["text"], row["label"]) for row in read_table(tmp_path / "fixed.csv").rows] == TEXTS


def test_rows_to_train_on_hold_the_answers_of_a_table_that_has_grown(tmp_path, tiny_sentiment):
    import numpy as np

    from finetune.core.tables.files import read_table
    from service.review import retraining_process
    from service.review.session import ScoredRows

    texts = [text for text, _ in TEXTS]
    names = ("negative", "positive")
    scores = np.tile([0.4, 0.6], (len(texts), 1))
    job = {"labels": [*names, "trade"], "held_out": [0, 1], "seed": 0, "base": str(tiny_sentiment), "device": "cpu"}
    answers = [{"text": text, "label": label} for text, label in TEXTS[2:14]]
    answers.append({"text": "of a row that was added later", "label": "trade"})
    count = retraining_process.write_table(
        tmp_path / "train.parquet", texts, answers, job, ScoredRows("m", names, scores, ["positive"] * len(texts))
    )
    rows = list(read_table(tmp_path / "train.parquet").rows)
    assert len(rows) == count == len(texts) - 2 + 1
    assert {row["text"] for row in rows} == {*texts[2:], "of a row that was added later"}
    assert all(abs(sum(row[name] for name in job["labels"]) - 1) < 1e-6 for row in rows)
    assert [row["trade"] for row in rows if row["text"] == "of a row that was added later"] == [1.0]


@pytest.mark.parametrize(
    ("settings", "rate"),
    [({}, 1e-3), ({"optim.lr": 5e-5}, 5e-4), ({"optim.lr": 5e-3}, 5e-3), ({"optim.head_lr": 1e-4}, 1e-4)],
)
def test_the_head_learns_faster_than_the_body(tmp_path, settings, rate):
    from service.review.retraining_process import train_config

    job = {"labels": ["a", "b"], "base": "topics", "models_dir": "models", "device": "cpu", "seed": 0}
    config = train_config(tmp_path, tmp_path / "out", job | {"settings": settings}, 300)
    assert config.optim.head_lr == pytest.approx(rate)


def test_the_terminal_names_a_model_that_was_retrained(table, tmp_path, untrained):
    from service.commands.review_terminal import _retrained

    review = start(table, tmp_path, untrained)
    rounds = review.retraining.rounds()
    assert _retrained(review.retraining, len(rounds)) == ""
    identity = json.loads((tmp_path / ".answers.review" / "rounds.jsonl").read_text().splitlines()[0])["base"]
    retraining.append_round(tmp_path / ".answers.review", identity, 40, "reviewed", {})
    told = _retrained(review.retraining, len(rounds))
    assert told == f"retrained on 40 answers: {tmp_path / 'models' / 'reviewed'}"
