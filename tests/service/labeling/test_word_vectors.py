"""Vectors of texts by their words."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.core.scores import softmax
from service.labeling.refine import REFINEMENTS, Sample
from service.labeling.word_vectors import WordVectors, words

pytestmark = pytest.mark.fast

ANIMALS, TOOLS = ["cat", "dog", "horse", "cow", "sheep"], ["hammer", "saw", "drill", "wrench", "pliers"]


def texts(count, seed=0):
    """Return which half a text is of `[N]`, and texts of four words of that half and one that all have."""
    chance = np.random.default_rng(seed)
    truth = chance.integers(2, size=count)
    return truth, [" ".join(["the", *chance.choice(TOOLS if half else ANIMALS, 4)]) for half in truth]


def test_words_are_of_two_letters_or_more_and_of_scripts_without_blanks_all_pairs():
    assert words("I can't reset my PIN, ok?") == ["can", "reset", "my", "pin", "ok"]
    assert words("東京タワー") == ["東京", "京タ", "タワ", "ワー"]
    assert words("iPhone 15 很好") == ["iphone", "15", "很好"]
    assert words("Größe Ελλάδα हिन्दी") == ["größe", "ελλάδα", "हिन्दी"]
    assert words("?!  a") == []


def test_texts_with_words_in_common_lie_together_and_a_text_has_one_vector():
    truth, corpus = texts(200)
    embed = WordVectors(corpus, 0)
    vectors = embed(corpus) - embed(corpus).mean(axis=0)
    products = vectors @ vectors.T
    assert products[truth == 0][:, truth == 0].mean() > 0 > products[truth == 0][:, truth == 1].mean()
    np.testing.assert_allclose(embed(corpus[7:8])[0], embed(corpus)[7], atol=1e-6)
    np.testing.assert_allclose(embed(["unheard of"]), 0, atol=1e-6)


def test_a_corpus_without_a_common_word_has_vectors_that_say_nothing():
    for corpus in (["one", "two", "three"], ["!", "?", ""]):
        assert WordVectors(corpus, 0)(["one", "four"]).tolist() == [[0.0], [0.0]]


def test_words_alone_correct_a_teacher_that_errs_at_random():
    truth, corpus = texts(300)
    chance = np.random.default_rng(1)
    answers = np.where(chance.random(300) < 0.3, 1 - truth, truth)
    logits = 1.5 * np.eye(2)[answers] + chance.normal(size=(300, 2))
    embeddings = WordVectors(corpus, 0)(corpus)
    soft = REFINEMENTS["auto"](Sample(logits, embeddings, None))(logits, embeddings)
    assert np.mean(softmax(logits).argmax(axis=1) == truth) < 0.75
    assert np.mean(soft.argmax(axis=1) == truth) > 0.95
