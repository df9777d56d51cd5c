"""A text read once for all labels gives what every pair alone gives."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from checkpoints import save_tokenizer, save_unigram_tokenizer
from passes import ONE_PASS_FAMILIES, random_sequences, sensitive_model

from finetune.core.attention_mask import HYPOTHESIS, TEXT
from finetune.core.model_folder import read
from finetune.core.tokenization import TextEncoder
from service.errors import BadRequest
from service.inference.backends.packing import packed
from service.inference.backends.torch import SHARED_TEXT_FAMILIES, TorchBackend
from service.inference.engine import Engine
from service.schema import ZeroShotRequest


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return TextEncoder(AutoTokenizer.from_pretrained(str(folder)), 60)


@pytest.mark.parametrize("family", SHARED_TEXT_FAMILIES)
def test_every_family_is_read_once_or_in_pairs(family):
    assert TorchBackend(sensitive_model(family), family=family).one_pass == (family in ONE_PASS_FAMILIES)


@pytest.mark.parametrize("family", ONE_PASS_FAMILIES)
@pytest.mark.parametrize("single_row", [0, 144])
def test_logits_and_embeddings_are_those_of_pairs(family, single_row, encoder, monkeypatch):
    monkeypatch.setattr("service.inference.backends.packing.WIDEST_SINGLE_ROW", single_row)
    monkeypatch.setattr("service.inference.backends.packing.WIDTH", 16)
    backend = TorchBackend(sensitive_model(family), family=family)
    encoder.has_type_ids = family in ("bert", "electra")
    rng = np.random.default_rng(0)
    texts = random_sequences(rng, [9, 1, 0, 30], TEXT, 1)
    hypotheses = random_sequences(rng, [4, 7, 1, 4, 12], HYPOTHESIS, 0)
    pack = packed(hypotheses, texts[0].part(0, 1))
    assert (len(pack.ids) == 1) == bool(single_row)
    found = backend.run_labels(encoder.pad(texts), [pack] * 4, embeddings=True)
    logits = found.logits.reshape(4, 5, 3)
    scale = np.abs(logits).max()
    for row, text in enumerate(texts):
        for column, hypothesis in enumerate(hypotheses):
            alone = encoder.pad([text.followed_by(hypothesis)])
            expected = backend.run(alone, attention="shared_text", embeddings=True)
            assert np.abs(logits[row, column] - expected.logits[0]).max() < 1e-5 * max(scale, 1)
            assert np.abs(found.embeddings[row] - expected.embeddings[0]).max() < 1e-5
    assert np.ptp(logits, axis=0).max() > 1e-3 and np.ptp(logits, axis=1).max() > 1e-3
    without = backend.run_labels(encoder.pad(texts), [pack] * 4, embeddings=False)
    assert without.embeddings is None and np.abs(without.logits - found.logits).max() < 1e-5 * max(scale, 1)


def test_texts_with_labels_of_their_own_share_a_batch(encoder):
    backend = TorchBackend(sensitive_model("bert"), family="bert")
    rng = np.random.default_rng(1)
    texts = random_sequences(rng, [9, 3, 20], TEXT, 1)
    sets = [random_sequences(rng, lengths, HYPOTHESIS, 0) for lengths in ([4, 7], [30] * 7, [2])]
    packs = [packed(hypotheses, texts[0].part(0, 1)) for hypotheses in sets]
    together = backend.run_labels(encoder.pad(texts), packs, embeddings=True)
    alone = [
        backend.run_labels(encoder.pad([text]), [pack], embeddings=True)
        for text, pack in zip(texts, packs, strict=True)
    ]
    assert np.abs(together.logits - np.concatenate([one.logits for one in alone])).max() < 1e-5
    assert np.abs(together.embeddings - np.concatenate([one.embeddings for one in alone])).max() < 1e-5


@pytest.mark.parametrize("count", [1, 2, 14, 77, 1000])
def test_labels_are_packed_whole_in_rows_with_little_padding(count):
    rng = np.random.default_rng(count)
    hypotheses = random_sequences(rng, rng.integers(3, 12, count), HYPOTHESIS, 0)
    pack = packed(hypotheses, random_sequences(rng, [1], TEXT, 1)[0].part(0, 1))
    tokens = sum(1 + len(one) for one in hypotheses)
    assert pack.tokens < 1.06 * tokens + 1 and (pack.owners >= 0).sum() == tokens
    ids, types, owners = pack.ids.ravel(), pack.type_ids.ravel(), pack.owners.ravel()
    for label, (start, hypothesis) in enumerate(zip(pack.starts, hypotheses, strict=True)):
        own = slice(start, start + 1 + len(hypothesis))
        assert ids[own].tolist() == [2, *hypothesis.ids] and types[own].tolist() == [0, *hypothesis.type_ids]
        assert set(owners[own]) == {label} and start // pack.width == (own.stop - 1) // pack.width


@pytest.fixture(scope="module")
def two_separators(tiny_topics, tmp_path_factory):
    """A model of topics that reads `<s> text </s></s> hypothesis </s>`, as XLM-R and E5 do."""
    folder = tmp_path_factory.mktemp("two") / "topics"
    folder.mkdir()
    for name in ("model.safetensors", "classifier.json"):
        shutil.copy(tiny_topics / name, folder)
    config = json.loads((tiny_topics / "config.json").read_text())
    assert save_unigram_tokenizer(folder) <= config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 1}))
    return folder


@pytest.mark.parametrize("model", ["tiny_topics", "two_separators"])
@pytest.mark.parametrize("scorer", ["nli", "both"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [("sports",), ("sports", "a long and winding label", "x"), tuple("abcdefghijklmn")])
def test_answers_are_the_same_on_both_paths(request, model, scorer, multi_label, labels):
    engine = Engine.load(read(request.getfixturevalue(model)))
    texts = ["the match was great", "a", "money and business " * 40, "the planet", "."]
    question = ZeroShotRequest(labels, scorer=scorer, attention="shared_text", multi_label=multi_label)
    assert engine.backend.one_pass
    fast = engine.zero_shot(texts, question)
    engine.backend.one_pass = False
    slow = engine.zero_shot(texts, question)
    assert (
        [answer.truncated for answer in fast]
        == [answer.truncated for answer in slow]
        == [False] * 2 + [True] + [False] * 2
    )
    for one, other in zip(fast, slow, strict=True):
        scores = {prediction.label: prediction.score for prediction in other.predictions}
        assert len(one.predictions) == len(labels)
        assert all(
            prediction.score == pytest.approx(scores[prediction.label], abs=1e-5) for prediction in one.predictions
        )


def test_a_text_scores_the_same_beside_any_other_texts(tiny_topics):
    engine = Engine.load(read(tiny_topics))
    request = ZeroShotRequest(("sports", "money", "space"), attention="shared_text")
    texts = [
        f"{word} " * count
        for count, word in enumerate(["match", "planet", "film", "text", "goal", "market", "bank"], 1)
    ]
    together = engine.zero_shot(texts, request)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = engine.zero_shot([text], request)
        scores = {prediction.label: prediction.score for prediction in alone.predictions}
        assert all(one.score == pytest.approx(scores[one.label], abs=1e-5) for one in answer.predictions)


def test_a_text_is_cut_once_so_that_the_longest_hypothesis_has_room(tiny_topics):
    engine = Engine.load(read(tiny_topics))
    encoder = engine._runner.encoder
    ends = encoder.hypotheses(["It is x.", "It is a very, very, very long label."])
    longest = max(len(end) for end in ends)
    rows = encoder.before_hypotheses(["film " * 500, "film"], longest)
    assert len(rows[0]) + longest == encoder.max_length and rows[0].truncated and not rows[1].truncated
    whole = encoder(["film"], ["It is x."])[0]
    joined = rows[1].followed_by(ends[0])
    assert all(np.array_equal(getattr(joined, one), getattr(whole, one)) for one in ("ids", "type_ids", "segments"))


@pytest.mark.parametrize("multi_label", [False, True])
def test_many_labels_are_computed_in_packs_and_score_as_one(tiny_topics, multi_label, monkeypatch):
    labels = tuple(f"topic {number}" for number in range(1000))
    request = ZeroShotRequest(labels, multi_label=multi_label)
    texts = ["the match was great", "money"]
    whole = Engine.load(read(tiny_topics)).zero_shot(texts, request)
    monkeypatch.setattr("service.inference.label_sets.TOKENS_PER_PACK", 100)
    engine = Engine.load(read(tiny_topics))
    parts = engine.zero_shot(texts, request)
    assert len(engine._label_sets.get(labels, "This text is about {}.").packs) > 50
    for one, other in zip(whole, parts, strict=True):
        scores = {prediction.label: prediction.score for prediction in other.predictions}
        assert len(scores) == 1000
        assert all(scores[each.label] == pytest.approx(each.score, abs=1e-5) for each in one.predictions)


def test_labels_of_its_own_for_each_text_are_those_of_calls_one_by_one(tiny_topics):
    engine = Engine.load(read(tiny_topics))
    texts = ["the match was great", "money", "the match was great", "a planet"]
    requests = [
        ZeroShotRequest(labels, multi_label=several)
        for labels, several in ((("a", "b"), False), (("x",), True), (("c", "d", "e"), False), (("a", "b"), False))
    ]
    together = engine.zero_shot(texts, requests)
    for text, request, answer in zip(texts, requests, together, strict=True):
        (alone,) = engine.zero_shot([text], request)
        assert [one.label for one in answer.predictions] == [one.label for one in alone.predictions]
        assert [one.score for one in answer.predictions] == pytest.approx(
            [one.score for one in alone.predictions], abs=1e-5
        )
    with pytest.raises(BadRequest, match="there are 4 texts and 3 requests"):
        engine.zero_shot(texts, requests[:3])


@pytest.mark.parametrize("scorer", ["nli", "both"])
def test_a_shortlist_scores_the_nearest_labels_and_no_other(tiny_topics, scorer):
    engine = Engine.load(read(tiny_topics))
    labels = tuple(f"topic {number}" for number in range(30))
    texts = ["the match was great", "money and business", "a"]
    cosine = engine.raw_scores(texts, labels, "This text is about {}.", "embedding", "shared_text").cosine
    for row, answer in enumerate(engine.zero_shot(texts, ZeroShotRequest(labels, scorer=scorer, shortlist=5))):
        nearest = {labels[number] for number in np.argsort(-cosine[row])[:5]}
        assert {one.label for one in answer.predictions if one.score > 0} == nearest
        (alone,) = engine.zero_shot([texts[row]], ZeroShotRequest(tuple(sorted(nearest)), scorer=scorer))
        scores = {one.label: one.score for one in alone.predictions}
        assert all(one.score == pytest.approx(scores[one.label], abs=1e-5) for one in answer.predictions[:5])
    everything = [engine.zero_shot(texts, ZeroShotRequest(labels, scorer=scorer, shortlist=k)) for k in (None, 30, 99)]
    assert everything[0] == everything[1] == everything[2]
    for wrong in ({"shortlist": 0}, {"shortlist": 3, "attention": "ordinary"}, {"shortlist": 3, "scorer": "embedding"}):
        with pytest.raises(BadRequest, match="shortlist must be a whole number from 1"):
            engine.zero_shot(texts, ZeroShotRequest(labels, **wrong))


def test_label_sets_are_kept_by_their_size(tiny_topics, monkeypatch):
    engine = Engine.load(read(tiny_topics))
    sets = engine._label_sets
    one = sets.get(("sports", "money"), "{}")
    assert sets.get(("sports", "money"), "{}") is one and sets._tokens == one.tokens > 0
    monkeypatch.setattr("service.inference.label_sets.CACHED_TOKENS", 3 * one.tokens)
    for name in "abcdefgh":
        sets.get(("sports", name), "{}")
    assert sets._tokens == sum(found.tokens for found in sets._cache.values()) <= 3 * one.tokens
    assert ("sports", "money") not in {labels for labels, _ in sets._cache}
