"""TF-IDF with logistic regression, for every task, on texts and on pairs."""

from typing import Any

import numpy as np
import pytest

from finetune.core.labels import LabelSpace
from finetune.core.scores import decide
from finetune.data.rows import Rows
from finetune.evaluation.baseline import cross_validated_tfidf_scores, tfidf_scores

pytestmark = pytest.mark.fast

WORDS = ["red apple", "blue sky", "green leaf"]


def rows(label: Any, count: int, pairs: bool = False) -> Rows:
    texts = [f"{WORDS[i % 3]} {i}" for i in range(count)]
    seconds = [f"{WORDS[i % 2]} {i}" for i in range(count)] if pairs else None
    return Rows(texts, seconds, [label(i) for i in range(count)], list(range(1, count + 1)), "t")


@pytest.mark.parametrize(
    ("labels", "label"),
    [
        (LabelSpace("binary", ("a", "b")), lambda i: "ab"[i % 3 == 0]),
        (LabelSpace("multiclass", ("a", "b", "c")), lambda i: "abc"[i % 3]),
        (LabelSpace("multi_label", ("a", "b")), lambda i: [["a"], ["a", "b"], []][i % 3]),
    ],
)
def test_it_learns_what_the_words_say(labels: LabelSpace, label: Any) -> None:
    held = rows(label, 12)
    scores = tfidf_scores(labels, rows(label, 60), [held], seed=0)[0]
    assert scores.shape == (12, len(labels))
    assert (decide(scores, labels.task) == labels.encode(held.values)).all()


def test_numbers_and_the_second_text_of_a_pair_count_too() -> None:
    labels = LabelSpace("regression", ("score",))
    held = rows(lambda i: float(i % 2), 12, pairs=True)  # only the second text tells
    scores = tfidf_scores(labels, rows(lambda i: float(i % 2), 60, pairs=True), [held], seed=0)[0]
    assert np.abs(scores[:, 0] - labels.encode(held.values)).max() < 0.3


def test_a_label_without_a_training_row_scores_nothing() -> None:
    labels = LabelSpace("multiclass", ("a", "b", "never"))
    scores = tfidf_scores(labels, rows(lambda i: "ab"[i % 2], 30), [rows(lambda i: "a", 3)], seed=0)[0]
    assert scores.shape == (3, 3)
    assert not scores[:, 2].any()


def test_texts_of_symbols_and_a_label_that_every_row_has_are_no_trouble() -> None:
    labels = LabelSpace("multi_label", ("always", "smile"))
    table = Rows(["!!!", "🙂", "?", "🙂 🙂"] * 5, None, [["always"], ["always", "smile"]] * 10, list(range(20)), "t")
    scores = tfidf_scores(labels, table, [table], seed=0)[0]
    assert (decide(scores, "multi_label") == labels.encode(table.values)).all()


def test_cross_validation_scores_every_row_by_a_model_that_has_not_seen_it() -> None:
    labels = LabelSpace("binary", ("a", "b"))
    learnable = rows(lambda i: "ab"[i % 3 == 0], 60)
    scores = cross_validated_tfidf_scores(labels, learnable, seed=0)
    assert scores is not None
    assert (decide(scores, "binary") == labels.encode(learnable.values)).all()
    # each row has words of its own: only a model that saw the row could know its label
    noise = Rows(
        [f"word{i}" for i in range(200)], None, ["ab"[i * 7919 % 11 % 2] for i in range(200)], list(range(200)), "t"
    )
    scores = cross_validated_tfidf_scores(labels, noise, seed=0)
    assert scores is not None
    assert (decide(scores, "binary") == labels.encode(noise.values)).mean() < 0.75


def test_a_table_too_small_to_fold_has_no_tfidf() -> None:
    assert (
        cross_validated_tfidf_scores(LabelSpace("binary", ("a", "b")), rows(lambda i: "ab"[i % 2], 6), seed=0) is None
    )
