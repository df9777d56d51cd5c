"""Word importance, against a score that is known in closed form and against a real model."""

from __future__ import annotations

import math

import pytest

from service import Classifier
from service.server.explain import BATCH, MAX_WORDS, word_importance

pytestmark = pytest.mark.fast

WEIGHTS = {"great": 2.0, "dull,": -1.5, "film": 0.25}


def known(texts):
    """A logistic score whose log-odds are sums over words: occlusion gives each word its own weight back."""
    return [1 / (1 + math.exp(-sum(WEIGHTS.get(word, 0.0) for word in text.split()))) for text in texts]


def test_a_words_weight_is_what_it_adds_to_the_log_odds():
    text = "a  great film,\nnot dull, \tfilm "
    words = word_importance(text, known)
    assert [text[word.begin : word.end] for word in words] == text.split()
    expected = [WEIGHTS.get(word, 0.0) for word in text.split()]
    assert [word.weight for word in words] == pytest.approx(expected, abs=1e-6)
    assert words[1].without == pytest.approx(known(["a film, not dull, film"])[0])


def test_texts_are_asked_for_a_few_at_a_time_and_a_long_text_in_part():
    asked = []

    def counting(texts):
        asked.append(len(texts))
        return known(texts)

    words = word_importance("film " * (MAX_WORDS + 50), counting)
    assert len(words) == MAX_WORDS and max(asked) <= BATCH
    assert sum(asked) == MAX_WORDS + 1
    assert word_importance(" \n", counting) == []


def test_a_script_without_blanks_is_taken_sign_by_sign():
    text = "映画は great だった"
    assert [text[word.begin : word.end] for word in word_importance(text, known)] == [
        "映",
        "画",
        "は",
        "great",
        "だ",
        "っ",
        "た",
    ]


def test_scores_of_a_real_model(tiny_sentiment):
    classifier = Classifier(tiny_sentiment)
    label = classifier("a warm and funny film")[0]["label"]

    def scores(texts):
        return [next(one["score"] for one in found if one["label"] == label) for found in classifier(texts, top_k=None)]

    words = word_importance("a warm and funny film", scores)
    for number, word in enumerate(words):
        rest = " ".join(one for place, one in enumerate(["a", "warm", "and", "funny", "film"]) if place != number)
        assert word.without == pytest.approx(scores([rest])[0], abs=2e-3)  # blanks left behind do not count
