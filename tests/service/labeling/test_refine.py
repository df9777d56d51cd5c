"""Refinement of a teacher's scores, on clusters whose labels are known."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.core.scores import softmax
from service.labeling import refine
from service.labeling.linear import fit_soft
from service.labeling.none_of_these import with_none
from service.labeling.refine import MULTI_LABEL, REFINEMENTS, Sample, confident

pytestmark = pytest.mark.fast

WIDTH = 24


def corpus(sizes, seed=0, wrong=0.35, spread=0.35, signal=1.5):
    """Return labels `[N]`, a teacher's log-scores that are wrong in a part of the rows, and clustered embeddings."""
    chance = np.random.default_rng(seed)
    count = len(sizes)
    centers = chance.normal(size=(count, WIDTH))
    truth = np.repeat(np.arange(count), sizes)
    embeddings = centers[truth] + spread * chance.normal(size=(len(truth), WIDTH)) * np.sqrt(count)
    answers = np.where(chance.random(len(truth)) < wrong, chance.integers(count, size=len(truth)), truth)
    logits = chance.normal(size=(len(truth), count)) + signal * np.eye(count)[answers]
    return truth, logits, embeddings.astype(np.float32)


def accuracy(soft, truth):
    return float(np.mean(soft.argmax(axis=1) == truth))


@pytest.mark.parametrize("name", [name for name in REFINEMENTS if name not in ("none", "priors")])
def test_clusters_correct_a_teacher_that_errs_at_random(name):
    truth, logits, embeddings = corpus([150] * 5)
    soft = REFINEMENTS[name](Sample(logits, embeddings, None))(logits, embeddings)
    assert accuracy(softmax(logits), truth) < 0.72
    assert accuracy(soft, truth) > 0.93


@pytest.mark.parametrize("name", REFINEMENTS)
def test_soft_labels_are_distributions_also_of_texts_that_were_not_in_the_sample(name):
    _, logits, embeddings = corpus([60] * 4)
    refined = REFINEMENTS[name](Sample(logits[::2], embeddings[::2], None))
    soft = refined(logits[1::2], embeddings[1::2])
    np.testing.assert_allclose(soft.sum(axis=1), 1)
    assert soft.min() >= 0
    # a text's soft labels depend on that text alone
    np.testing.assert_allclose(refined(logits[5:6], embeddings[5:6])[0], refined(logits, embeddings)[5], atol=1e-9)


@pytest.mark.parametrize("name", REFINEMENTS)
def test_without_embeddings_every_refinement_still_answers(name):
    _, logits, _ = corpus([30] * 3)
    soft = REFINEMENTS[name](Sample(logits, None, None))(logits, None)
    np.testing.assert_allclose(soft, softmax(logits))


def test_the_choice_of_auto_is_named():
    _, logits, embeddings = corpus([30] * 5)
    known = np.full(5, 0.2)
    assert REFINEMENTS["auto"](Sample(logits, embeddings, known)).name == "gaussians"
    assert REFINEMENTS["auto"](Sample(logits[::2], embeddings[::2], known)).name == "clusters", "15 texts for each"
    assert REFINEMENTS["auto"](Sample(logits, None, None)).name == "priors", "nothing to cluster by"


@pytest.mark.parametrize(
    ("sizes", "name"),
    [([150] * 5, "gaussians, uniform priors"), ([400, 200, 100, 30, 10], "gaussians"), ([200] * 4 + [0], "gaussians")],
)
def test_labels_are_equally_frequent_to_auto_only_where_they_are(sizes, name):
    truth, logits, embeddings = corpus(sizes)
    refined = REFINEMENTS["auto"](Sample(logits, embeddings, None))
    assert refined.name == name
    assert accuracy(refined(logits, embeddings), truth) > 0.93


def test_a_label_that_does_not_occur_takes_no_texts_of_others():
    truth, logits, embeddings = corpus([200, 200, 200, 0])
    taught = softmax(logits).argmax(axis=1)
    soft = REFINEMENTS["auto"](Sample(logits, embeddings, None))(logits, embeddings)
    assert np.mean(taught == 3) > 0.1
    assert np.mean(soft.argmax(axis=1) == 3) < 0.035  # and 0.25 where every label is made equally frequent, see below
    assert accuracy(soft, truth) > 0.93


def test_uniform_priors_would_give_a_label_that_does_not_occur_texts_of_others():
    _, logits, embeddings = corpus([200, 200, 200, 0])
    uniform = REFINEMENTS["priors"](Sample(logits, embeddings, np.full(4, 0.25)))(logits, embeddings)
    np.testing.assert_allclose(uniform.mean(axis=0), 0.25, atol=0.01)


def test_a_label_of_one_in_fifty_keeps_its_texts():
    truth, logits, embeddings = corpus([1000, 800, 600, 500, 300, 100, 50, 20], wrong=0.2)
    soft = REFINEMENTS["auto"](Sample(logits, embeddings, None))(logits, embeddings)
    assert np.mean(soft.argmax(axis=1)[truth == 7] == 7) > 0.8
    assert np.mean(soft.argmax(axis=1) == 7) < 0.015


def test_a_hundred_labels_are_refined():
    truth, logits, embeddings = corpus([15] * 100, spread=0.05, signal=3.5)
    soft = REFINEMENTS["auto"](Sample(logits, embeddings, None))(logits, embeddings)
    assert accuracy(soft, truth) > accuracy(softmax(logits), truth) + 0.1


def test_texts_that_no_label_fits_get_a_label_of_their_own():
    truth, logits, embeddings = corpus([200, 200, 200, 120])
    chance = np.random.default_rng(1)
    outside = truth == 3
    fit = np.where(outside, chance.uniform(0.1, 0.6, len(truth)), chance.uniform(0.4, 1.0, len(truth)))
    own = with_none(logits[:, :3], fit)
    np.testing.assert_allclose(np.exp(own).sum(axis=1), 1)
    soft = REFINEMENTS["auto"](Sample(own, embeddings, None, has_none=True))(own, embeddings)
    found = soft.argmax(axis=1) == 3
    assert found[outside].mean() > 0.8
    assert found[~outside].mean() < 0.05


def test_several_labels_are_refined_one_by_one():
    chance = np.random.default_rng(0)
    truth = chance.random((600, 3)) < 0.4
    embeddings = (truth @ chance.normal(size=(3, WIDTH)) + 0.2 * chance.normal(size=(600, WIDTH))).astype(np.float32)
    logits = np.where(truth, 1.0, -1.0) + 1.6 * chance.normal(size=truth.shape)
    soft = MULTI_LABEL["auto"](Sample(logits, embeddings, None))(logits, embeddings)
    assert np.mean((soft >= 0.5) == truth) > np.mean((logits >= 0) == truth) + 0.1


def test_the_most_confident_part_of_each_label_is_chosen():
    soft = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]])
    assert confident(soft, 0.5).tolist() == [0, 2, 3]
    assert confident(soft, 1.0).tolist() == [0, 1, 2, 3, 4]


def test_soft_logistic_regression_agrees_with_that_of_scikit_learn_on_hard_labels():
    from sklearn.linear_model import LogisticRegression

    truth, _, embeddings = corpus([40] * 3)
    weights, offsets = fit_soft(embeddings, np.eye(3)[truth], 1.0)
    other = LogisticRegression(C=1.0, max_iter=2000, tol=1e-8).fit(embeddings, truth)
    np.testing.assert_allclose(softmax(embeddings @ weights + offsets), other.predict_proba(embeddings), atol=2e-3)


def test_vectors_of_length_zero_stay_zero():
    np.testing.assert_array_equal(refine.unit(np.array([[0.0, 0.0], [3.0, 4.0]])), [[0, 0], [0.6, 0.8]])


def test_auto_leaves_gaussians_in_which_a_label_takes_the_texts_of_others(monkeypatch):
    _, logits, embeddings = corpus([150] * 5)
    sample = Sample(logits, embeddings, np.full(5, 0.2))
    answers = {name: REFINEMENTS[name](sample)(logits, embeddings) for name in ("auto", "clusters", "gaussians")}
    np.testing.assert_array_equal(answers["auto"], answers["gaussians"])
    taken = np.eye(5)[np.where(np.arange(len(logits)) % 2 == 0, 0, answers["gaussians"].argmax(axis=1))]
    monkeypatch.setattr(refine, "gaussians", lambda sample: lambda logits, embeddings: taken)
    np.testing.assert_array_equal(REFINEMENTS["auto"](sample)(logits, embeddings), answers["clusters"])
    priors = np.array([0.6, 0.1, 0.1, 0.1, 0.1])  # half of the texts is what is expected here
    known = Sample(logits, embeddings, priors)
    np.testing.assert_array_equal(REFINEMENTS["auto"](known)(logits, embeddings), taken)
