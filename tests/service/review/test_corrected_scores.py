"""A given model's scores after a person's answers: a weak model follows them, a good one is kept."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.core.errors import TrainingError
from service.review.corrected_scores import corrected_scores

LABELS, ROWS, ANSWERS = 4, 400, 60


@pytest.fixture
def texts():
    """Return embeddings around one center a label, and the labels."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, LABELS, ROWS)
    return rng.normal(size=(LABELS, 16))[targets] + 0.8 * rng.normal(size=(ROWS, 16)), targets


def scores_of(targets, right, seed=1):
    """Return scores of a model that is right on a part of the rows."""
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(len(targets)) < right, targets, rng.integers(0, LABELS, len(targets)))
    return 0.7 * np.eye(LABELS)[said] + 0.3 / LABELS


def accuracy(scores, targets):
    return (scores[ANSWERS:].argmax(axis=1) == targets[ANSWERS:]).mean()


def corrected(scores, vectors, targets):
    answered = np.arange(ANSWERS)
    return corrected_scores(scores, vectors, answered, targets[answered])


def test_a_model_that_guesses_follows_the_answers(texts):
    vectors, targets = texts
    guesses = scores_of(targets, right=0.1)
    assert accuracy(guesses, targets) < 0.45
    assert accuracy(corrected(guesses, vectors, targets), targets) > 0.9


def test_a_good_model_is_kept_where_embeddings_say_nothing(texts):
    _, targets = texts
    good = scores_of(targets, right=0.9)
    noise = np.random.default_rng(2).normal(size=(ROWS, 16))
    scores = corrected(good, noise, targets)
    assert accuracy(scores, targets) > accuracy(good, targets) - 0.02
    assert np.allclose(scores.sum(axis=1), 1.0)


def test_a_label_that_the_model_does_not_know_is_learned(texts):
    vectors, targets = texts
    known = scores_of(targets, right=0.9)
    known[:, 3] = 0.0
    known /= known.sum(axis=1, keepdims=True)
    scores = corrected(known, vectors, targets)
    new = targets[ANSWERS:] == 3
    assert (scores[ANSWERS:].argmax(axis=1)[new] == 3).mean() > 0.8


def test_a_label_without_an_answer_keeps_its_texts(texts):
    vectors, targets = texts
    good = scores_of(targets, right=0.95)
    answered = np.flatnonzero(targets != 2)[:ANSWERS]
    scores = corrected_scores(good, vectors, answered, targets[answered])
    others = (targets == 2) & (good.argmax(axis=1) == 2)
    assert (scores.argmax(axis=1)[others] == 2).mean() > 0.9


def test_a_label_that_all_its_answers_refute_loses_its_texts(texts):
    vectors, targets = texts
    targets = targets % 3  # no text is about label 3
    said = np.where(np.arange(ROWS) % 2 == 0, 3, targets)
    scores = 0.7 * np.eye(LABELS)[said] + 0.3 / LABELS
    assert accuracy(scores, targets) < 0.6
    result = corrected(scores, vectors, targets)
    assert (result[ANSWERS:].argmax(axis=1) == 3).mean() < 0.02


def test_fewer_answers_than_folds_change_nothing(texts):
    vectors, targets = texts
    good = scores_of(targets, right=0.9)
    np.testing.assert_allclose(corrected_scores(good, vectors, np.arange(3), targets[:3]), good, atol=1e-3)


def test_the_floor_takes_little_from_a_sure_score_of_many_labels():
    scores = np.zeros((2, 1000))
    scores[:, 0] = 1.0
    assert corrected_scores(scores, np.ones((2, 4)), np.arange(0), np.arange(0))[0, 0] > 0.98


@pytest.mark.parametrize("what", ["scores", "embeddings"])
def test_what_is_not_finite_is_refused(texts, what):
    vectors, targets = texts
    scores = scores_of(targets, right=0.9)
    (scores if what == "scores" else vectors)[3, 2] = np.nan
    with pytest.raises(TrainingError, match=f"the {what} of the model under review are not finite"):
        corrected(scores, vectors, targets)
