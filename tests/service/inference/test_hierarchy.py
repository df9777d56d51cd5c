"""Described labels and trees on a real, tiny model: each score is what the flat scores of its parts say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from finetune.core import model_folder
from service.errors import BadRequest
from service.inference import engine as engine_module
from service.inference import zero_shot
from service.inference.engine import Engine
from service.schema import LabelText, ZeroShotRequest

pytestmark = pytest.mark.fast

TEXTS = ["the match went to extra time", "shares fell sharply"]
TREE = ("science > space", "science > medicine", "sport > hockey", "sport > tennis", "money")
SCORERS = ("nli", "embedding", "both")


@pytest.fixture(scope="module")
def engine(tiny_topics):
    engine = Engine.load(model_folder.read(tiny_topics))
    yield engine
    engine.close()


def scores(engine, labels, **options):
    request = ZeroShotRequest(tuple(labels), **options)
    return np.array([answer.scores for answer in engine.zero_shot(TEXTS, request)])


@pytest.mark.parametrize("attention", ["ordinary", "shared_text"])
@pytest.mark.parametrize("scorer", SCORERS)
def test_a_description_as_the_only_phrase_scores_nli_like_a_label_of_that_name(engine, scorer, attention):
    options = {"scorer": scorer, "attention": attention}
    described = scores(engine, ("x", "money"), texts=(("x", LabelText("the match")),), **options)
    as_name = scores(engine, ("the match", "money"), **options)
    assert np.allclose(described, as_name) == (scorer == "nli")


@pytest.mark.parametrize("multi_label", [False, True])
def test_phrasings_are_averaged_as_log_odds(engine, multi_label):
    options = {"scorer": "nli", "attention": "ordinary"}
    logits = engine.raw_scores(
        TEXTS, ("the match", "time", "money"), "This text is about {}.", "nli", "ordinary"
    ).logits
    values = np.asarray(logits, dtype=np.float64)
    entailed, margin = values[..., 0], values[..., 0] - values[..., 2]
    texts = (("x", LabelText("the match", ("time",))),)
    result = scores(engine, ("x", "money"), texts=texts, multi_label=multi_label, **options)
    if multi_label:
        mean = np.stack([margin[:, :2].mean(axis=1), margin[:, 2]], axis=1)
        assert result == pytest.approx(1 / (1 + np.exp(-mean)), abs=1e-5)
    else:
        mean = np.stack([entailed[:, :2].mean(axis=1), entailed[:, 2]], axis=1)
        assert result == pytest.approx(np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True), abs=1e-5)


def test_the_direction_of_a_described_label_is_the_sum_of_unit_vectors(engine):
    texts = (("x", LabelText("the match", examples=("shares fell",))),)
    encoded = ["This text is about the match.", "x", "the match", "shares fell"]
    embeddings = engine.raw_scores(TEXTS, encoded, "{}", "embedding", "shared_text").cosine
    parts = [engine.raw_scores(encoded, encoded, "{}", "embedding", "shared_text").cosine]
    length = np.sqrt(parts[0].sum())  # of the sum of unit vectors, from their mutual cosines
    request = ZeroShotRequest(("x", "y"), scorer="embedding", texts=texts)
    mix = engine.folder.settings.zero_shot.fusion
    other = engine.raw_scores(TEXTS, ("y",), "This text is about {}.", "embedding", "shared_text").cosine
    cosine = np.concatenate([embeddings.sum(axis=1, keepdims=True) / length, other], axis=1)
    expected = np.exp(mix.cosine_weight * cosine)
    expected /= expected.sum(axis=1, keepdims=True)
    result = np.array([answer.scores for answer in engine.zero_shot(TEXTS, request)])
    assert result == pytest.approx(expected, abs=1e-5)


def test_a_shortlist_with_phrasings_is_refused(engine):
    texts = (("x", LabelText("the match", ("time",))),)
    with pytest.raises(BadRequest, match="shortlist does not go with labels that have phrasings"):
        scores(engine, ("x", "y", "z"), texts=texts, shortlist=2)


def test_two_labels_of_the_same_words_get_the_same_score(engine):
    result = scores(engine, ("book_flight", "book flight", "money"))
    assert result[:, 0] == pytest.approx(result[:, 1])
    kept = scores(engine, ("book_flight", "book flight", "money"), keep_identifiers=True)
    assert not np.allclose(kept[:, 0], kept[:, 1])


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_of_a_tree_are_products_along_the_path_and_sum_to_one(engine, scorer):
    result = scores(engine, TREE, scorer=scorer, beam=10)
    top = scores(engine, ("science", "sport", "money"), scorer=scorer)
    science, sport = (scores(engine, pair, scorer=scorer) for pair in (("space", "medicine"), ("hockey", "tennis")))
    expected = np.column_stack([top[:, :1] * science, top[:, 1:2] * sport, top[:, 2]])
    assert result == pytest.approx(expected, abs=1e-5)
    assert result.sum(axis=1) == pytest.approx(1.0)


def test_a_narrow_beam_leaves_labels_out_with_score_zero_and_divides_by_the_rest(engine):
    everything, narrow = scores(engine, TREE, beam=10), scores(engine, TREE, beam=1)
    top = scores(engine, ("science", "sport"))
    for row in range(len(TEXTS)):
        followed = [0, 1, 4] if everything[row, :2].sum() > everything[row, 2:4].sum() else [2, 3, 4]
        left_out = [place for place in range(4) if place not in followed]
        assert (narrow[row, left_out] == 0).all()
        assert narrow[row, followed] == pytest.approx(everything[row, followed] / everything[row, followed].sum())
    assert top.shape == (2, 2)


def test_with_several_labels_a_score_is_the_product_of_independent_scores(engine):
    result = scores(engine, TREE, multi_label=True, beam=10)
    top = scores(engine, ("science", "sport", "money"), multi_label=True)
    science = scores(engine, ("space", "medicine"), multi_label=True)
    assert result[:, :2] == pytest.approx(top[:, :1] * science, abs=1e-5)
    assert result[:, 4] == pytest.approx(top[:, 2], abs=1e-5)


def test_each_level_is_one_pass_and_an_only_child_is_certain(engine, monkeypatch):
    calls = []
    flat = engine_module.answers_by_labels
    monkeypatch.setattr(
        engine_module,
        "answers_by_labels",
        lambda texts, *rest, **more: calls.append(len(texts)) or flat(texts, *rest, **more),
    )
    result = scores(engine, ("a > b > c", "a > b > d", "a > e", "f"), beam=5)
    # a against f, then b against e, then c against d, for both texts at once
    assert calls == [2, 2, 2]
    assert result.sum(axis=1) == pytest.approx(1.0)
    alone = scores(engine, ("a > b", "c > d"))
    assert alone == pytest.approx(scores(engine, ("a", "c")))


def test_a_tree_and_a_list_may_stand_in_one_call(engine):
    plain, tree = ZeroShotRequest(("money", "time")), ZeroShotRequest(TREE)
    together = engine.zero_shot(TEXTS, [plain, tree])
    assert together[0] == engine.zero_shot(TEXTS[:1], plain)[0]
    assert together[1].labels == TREE
    assert together[1].scores == pytest.approx(engine.zero_shot(TEXTS[1:], tree)[0].scores, abs=1e-5)


def test_without_a_beam_a_name_with_an_angle_bracket_is_a_name(engine):
    result = scores(engine, ("a > b", "a > c", "d"), beam=0, scorer="nli")
    raw = engine.raw_scores(TEXTS, ("a > b", "a > c", "d"), "This text is about {}.", "nli", "shared_text").logits
    exponents = np.exp(np.asarray(raw, dtype=np.float64)[..., 0])
    assert result == pytest.approx(exponents / exponents.sum(axis=1, keepdims=True), abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "options", "sentence"),
    [
        (("a", "a > b"), {}, "'a' has labels below it, so that it is no answer itself"),
        (("a > b", "c"), {"beam": -1}, "beam must be a whole number from 0"),
        (("a > b", "c"), {"beam": True}, "beam must be a whole number"),
        (("a > b", "c"), {"shortlist": 1}, "shortlist does not go with labels in a tree"),
        ((" > ".join("abcdefghijklmnopqrstuvwxyz"), "c"), {}, "has 26 levels"),
    ],
)
def test_a_tree_that_cannot_be_used_is_refused(engine, labels, options, sentence):
    with pytest.raises(BadRequest, match=sentence):
        scores(engine, labels, **options)


def test_plain_names_give_the_same_bits_as_the_formulas_without_descriptions(engine):
    names = ("the match", "time", "money")
    fusion, roles = engine.folder.settings.zero_shot.fusion, engine.folder.labels.nli
    for scorer, several in itertools.product(SCORERS, (False, True)):
        raw = engine.raw_scores(TEXTS, names, "This text is about {}.", scorer, "shared_text")
        expected = zero_shot.collapse(
            raw.logits, raw.cosine, roles=roles, scorer=scorer, fusion=fusion, multi_label=several
        )
        request = ZeroShotRequest(names, several, None, scorer, "shared_text")
        assert [answer.scores for answer in engine.zero_shot(TEXTS, request)] == [
            tuple(row) for row in expected.tolist()
        ]
