"""Which row comes next: no row twice, some rows for two reviewers, some that only measure."""

from __future__ import annotations

import threading

import pytest

from finetune.core.tables.files import read_table
from service.errors import BadRequest
from service.review import leases
from service.review.measures import Point, Round, advice, agreements, counts, curve
from service.review.review import write_labeled
from service.review.session import ScoredRows
from service.review.typed_names import matching_labels

pytestmark = pytest.mark.fast


def answer_all(session, reviewer, label=lambda question: "good", limit=1000):
    questions = []
    while len(questions) < limit and (question := session.next(reviewer)) is not None:
        assert session.answer(reviewer, question.row, "label", label(question))
        questions.append(question)
    return questions


def test_every_fifth_question_measures_and_none_of_them_is_trained_on(begin, tmp_path):
    session = begin(rows=300, overlap=0)
    questions = answer_all(session, "Ann")
    assert len(questions) == 100 and len({question.row for question in questions}) == 100
    held = {question.row for question in questions if question.held_out}
    assert len(held) == 20
    assert held.isdisjoint(row.text_sha256 for row in session.training_rows())
    assert write_labeled(tmp_path / "labeled.csv", session.answers) == 80
    written = {row["text"] for row in read_table(tmp_path / "labeled.csv").rows}
    assert written.isdisjoint(question.text for question in questions if question.held_out)
    # a row that measures does so in every later session, whatever the order of the answers
    assert begin(rows=300, overlap=0).held_out.tolist() == session.held_out.tolist()


def test_a_held_out_question_shows_neither_scores_nor_their_order(begin):
    session = begin(names=("good", "bad", "fine"), overlap=0)
    questions = answer_all(session, "Ann", limit=10)
    for question in questions:
        labels = [label for label, _ in question.options]
        if question.held_out:
            assert labels == ["bad", "fine", "good"] and {score for _, score in question.options} == {None}
        else:
            assert labels[0] == "good" and question.options[0][1] >= question.options[1][1]


def test_rows_come_in_the_order_of_the_strategy(begin):
    session = begin(held_out=0, overlap=0)
    numbers = [question.number for question in session.chosen(5)]
    assert [question.number for question in answer_all(session, "Ann", limit=5)] == numbers


def test_two_reviewers_get_different_rows_and_the_same_where_two_should(begin):
    first, second = begin(overlap=0.0), begin(overlap=0.0)
    assert first.next("Ann").row != second.next("Bob").row
    assert first.next("Ann") == first.next("Ann"), "the row stays until it is answered"
    rows = [
        {question.row for question in answer_all(session, name, limit=30)}
        for session, name in ((first, "Ann"), (second, "Bob"))
    ]
    assert rows[0].isdisjoint(rows[1])


def test_the_overlap_is_answered_by_two_and_their_agreement_reported(begin):
    session = begin(rows=400, overlap=0.3)
    answer_all(session, "Ann", lambda question: "good")
    mine = answer_all(session, "Bob", lambda question: "good" if question.number % 2 else "bad")
    assert 10 < len(mine) < 50, "about three rows of ten"
    [agreement] = agreements(session.answers.current())
    agreed = sum(question.number % 2 for question in mine)
    assert (agreement.rows, agreement.agreed) == (len(mine), agreed) and agreement.kappa == 0.0
    assert sorted(row for row, _, _ in agreement.disagreements) == sorted(q.number for q in mine if q.number % 2 == 0)
    totals = counts(session.answers.current())
    assert totals["disagreed"] == len(mine) - agreed and totals["answered"] == 100
    assert answer_all(session, "Cid") == [], "no row needs a third answer"


def test_a_row_that_nobody_answers_is_offered_again(begin, monkeypatch):
    session = begin(overlap=0, held_out=0)
    row = session.next("Ann").row
    assert session.next("Bob").row != row
    monkeypatch.setattr(leases, "LEASE_S", -1.0)
    assert session.next("Cid").row == row


def test_undo_shows_the_row_again_and_only_takes_back_ones_own(begin):
    session = begin(overlap=0)
    question = session.next("Ann")
    session.answer("Ann", question.row, "label", "bad")
    other = session.next("Bob")
    session.answer("Bob", other.row, "label", "bad")
    assert session.undo("Ann") == question == session.next("Ann")
    assert [answer.reviewer for answer in session.answers.current()] == ["Bob"]
    assert session.undo("Ann") is None
    session.answer("Ann", question.row, "label", "good")
    assert counts(session.answers.current())["answered"] == 2


def test_a_second_press_of_a_key_answers_nothing(begin):
    session = begin(overlap=0)
    question = session.next("Ann")
    assert session.answer("Ann", question.row, "label", "good")
    assert not session.answer("Ann", question.row, "label", "bad")
    assert [answer.label for answer in session.answers.current()] == ["good"]
    with pytest.raises(BadRequest, match="none of the table's"):
        session.answer("Ann", "0" * 64, "skip")


def test_a_new_model_does_not_change_what_the_keys_of_a_shown_row_stand_for(begin):
    session = begin(names=("good", "bad", "fine"), overlap=0, held_out=0)
    shown = session.next("Ann")
    before = session.scored
    session.rescore(ScoredRows("other", ("fine", "bad", "good"), before.scores, before.predicted))
    assert session.next("Ann") == shown
    session.answer("Ann", shown.row, "label", shown.options[0][0])
    [line] = session.answers.current()
    assert [label["label"] for label in line.shown["labels"]] == [label for label, _ in shown.options]
    assert session.next("Ann").options[0][0] == "fine"


def test_skipped_rows_and_those_that_no_label_fits_are_not_trained_on(begin):
    session = begin(overlap=0, held_out=0)
    for action in ("skip", "none_of_these", "label"):
        assert session.answer("Ann", session.next("Ann").row, action, "good")
    assert len(session.training_rows()) == 1
    assert counts(session.answers.current()) | {"held_out": 0} == {
        "answered": 2,
        "labeled": 1,
        "to_train_on": 1,
        "held_out": 0,
        "none_of_these": 1,
        "disagreed": 0,
        "skipped": 1,
    }
    skipped = session.answers.lines()[0].text_sha256
    assert session.next("Bob").row == skipped, "another reviewer may know"


def test_a_new_label_is_offered_to_everyone_once_it_is_meant(begin):
    session = begin(overlap=0)
    row = session.next("Ann").row
    with pytest.raises(BadRequest, match="'ugly' is none of the labels"):
        session.answer("Ann", row, "label", "ugly")
    with pytest.raises(BadRequest, match="1 to 100 characters"):
        session.answer("Ann", row, "label", "u" * 101, new=True)
    session.answer("Ann", row, "label", " ugly ", new=True)
    assert session.labels == begin(overlap=0).labels == ("bad", "good", "ugly")
    assert ("ugly", None) in session.next("Bob").options
    session.undo("Ann")
    assert session.labels == ("bad", "good")


def test_reviewers_in_threads_lose_no_answer_and_share_no_row(begin):
    session = begin(rows=400, overlap=0)
    questions = {name: [] for name in "ABCD"}
    threads = [
        threading.Thread(target=lambda name=name: questions[name].extend(answer_all(session, name)))
        for name in questions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [question.row for asked in questions.values() for question in asked]
    assert len(rows) == len(set(rows)) == 100
    assert len(session.answers.current()) == 100


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("Card lost", ["card lost"]),
        ("card", ["card lost", "card not working"]),
        ("CARD N", ["card not working"]),
        ("lost", ["card lost"]),
        ("refund", []),
    ],
)
def test_a_typed_label_is_matched_as_a_person_means_it(typed, expected):
    assert matching_labels(typed, ("card lost", "card not working", "top up")) == expected


def test_the_curve_measures_every_model_on_the_same_answers(begin):
    session = begin(rows=400, overlap=0, held_out=0.5)
    answer_all(session, "Ann", lambda question: "good" if question.number % 2 else "bad")
    rows = session.predictions()
    better = {row: "good" if session.table.numbers[session.table.hashes.index(row)] % 2 else "bad" for row in rows}
    points = curve([Round(0, rows), Round(25, better)], session.answers.current())
    assert [point.answers for point in points] == [0, 25] and points[0].rows == points[1].rows == 50
    assert points[1].accuracy == 1.0 and 0.3 < points[0].low < points[0].accuracy < points[0].high < 0.8


def test_the_advice_says_when_to_stop_and_when_not():
    def points(*values, rows=100):
        return [Point(25 * n, value, value - 0.08, value + 0.08, rows) for n, value in enumerate(values)]

    assert "Too few" in advice([]) and "Too few" in advice(points(0.5, rows=5))
    assert "after 2 more retrainings" in advice(points(0.5, 0.6))
    assert "Go on: the last 3 retrainings changed it by +20.0 points" in advice(points(0.5, 0.6, 0.65, 0.7))
    assert "You may stop" in advice(points(0.5, 0.7, 0.71, 0.72, 0.73))
    assert "keep it" in advice(points(0.73, 0.7, 0.71, 0.72, 0.73))
