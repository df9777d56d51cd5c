"""The reviews of a server: shared by content and model, few in memory, and no file or model that is not served."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from finetune.core.tables.options import TableOptions
from service.errors import BadRequest, ModelNotFound, Overloaded
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.review import shared
from service.review.session import Plan
from service.review.shared import FOLDER, Request, SharedReviews
from service.review.typed_names import checked_reviewer
from service.settings import RuntimeSettings


@pytest.fixture
def reviews(tmp_path, tiny_models):
    shutil.copytree(tiny_models, tmp_path / "models")
    store = ModelStore(tmp_path / "models", lambda folder: Engine.load(folder, RuntimeSettings.from_environment()))
    running = SharedReviews(store, tmp_path / "models", "cpu", 1000)
    yield running
    running.close()
    for name in store.loaded():
        store.get(name).close()


def request(tmp_path, name="a.csv", rows=40, **changes):
    table = tmp_path / name
    table.write_text(
        "text\n" + "".join(f"{'good' if row % 2 else 'bad'} film {row} of {rows}\n" for row in range(rows))
    )
    return replace(Request(table, ("text",), TableOptions(), "sentiment", Plan("margin", 20)), **changes)


def test_reviewers_of_the_same_content_and_model_share_a_review(reviews, tmp_path):
    first = reviews.begin(request(tmp_path, "a.csv"))
    assert reviews.begin(request(tmp_path, "again.csv")) == first, "the name of an upload does not matter"
    other = reviews.begin(request(tmp_path, "a.csv", rows=41))
    assert other != first
    question = reviews.get(first).session.next("Ann")
    reviews.get(first).session.answer("Ann", question.row, "label", "positive")
    # more rows, or another strategy, go on with the answers so far
    assert reviews.begin(request(tmp_path, plan=Plan("entropy", 30))) == first
    assert reviews.get(first).session.plan == Plan("entropy", 30)
    assert [answer.row for answer in reviews.get(first).session.answers.current()] == [question.number]
    assert (tmp_path / "models" / FOLDER / first / "answers.jsonl").is_file()


def test_few_reviews_are_in_memory_and_a_closed_one_keeps_its_answers(reviews, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "MOST_OPEN", 2)
    keys = [reviews.begin(request(tmp_path, rows=rows)) for rows in (30, 31)]
    question = reviews.get(keys[0]).session.next("Ann")
    reviews.get(keys[0]).session.answer("Ann", question.row, "skip")
    reviews.get(keys[1])
    keys.append(reviews.begin(request(tmp_path, rows=32)))
    with pytest.raises(BadRequest, match="press Start, which continues with all answers so far"):
        reviews.get(keys[0])
    assert reviews.begin(request(tmp_path, rows=30)) == keys[0]
    assert len(reviews.get(keys[0]).session.answers.current()) == 1
    monkeypatch.setattr(shared, "MOST_STORED", 3)
    with pytest.raises(Overloaded, match="stores 3 reviews"):
        reviews.begin(request(tmp_path, rows=33))


def test_only_served_models_are_used(reviews, tmp_path, tiny_nli):
    for name in (str(tiny_nli), "../models/sentiment", "someone/model"):
        with pytest.raises(ModelNotFound, match="is served"):
            reviews.begin(request(tmp_path, model=name))
        with pytest.raises(ModelNotFound, match="is served"):
            reviews.begin(request(tmp_path, plan=Plan("disagreement", 20), teacher=name))
    with pytest.raises(BadRequest, match="zero-shot model"):
        reviews.begin(request(tmp_path, model="topics"))
    with pytest.raises(BadRequest, match="a number from 1 to 5000"):
        reviews.begin(request(tmp_path, plan=Plan("margin", 0)))
    assert reviews.stored() == []  # what is refused takes no place


def test_a_served_teacher_orders_rows_by_disagreement(reviews, tmp_path):
    key = reviews.begin(request(tmp_path, plan=Plan("disagreement", 20), teacher="topics"))
    assert reviews.get(key).session.next("Ann") is not None


def test_a_model_is_saved_under_a_new_name_once_there_is_one(reviews, tmp_path, tiny_sentiment):
    key = reviews.begin(request(tmp_path))
    with pytest.raises(BadRequest, match="no model has been retrained yet"):
        reviews.publish(key, "films")
    shutil.copytree(tiny_sentiment, reviews.get(key).retraining.model)
    for name, problem in (("../films", "letters"), (".films", "letters"), ("sentiment", "already")):
        with pytest.raises(BadRequest, match=problem):
            reviews.publish(key, name)
    reviews.publish(key, "films")
    assert (tmp_path / "models" / "films" / "config.json").is_file()


@pytest.mark.parametrize("name", [None, "", "  ", "x" * 65, "a\x1b[2J"])
def test_a_reviewer_has_a_name_that_can_be_printed(name):
    with pytest.raises(BadRequest, match="enter your name"):
        checked_reviewer(name)
    assert checked_reviewer("  Ann   Lee ") == "Ann Lee"
