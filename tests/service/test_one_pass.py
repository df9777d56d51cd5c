"""A text read once for all labels gives what every pair alone gives."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoints import save_tokenizer, tiny_family

from finetune.artifact import read
from finetune.attention import HYPOTHESIS, LEADING, TEXT
from finetune.encoding import Encoded, TextEncoder
from service.backends.torch import SHARED_TEXT_FAMILIES, TorchBackend
from service.engine import Engine
from service.schema import ZeroShotQuestion

READ_ONCE = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


def tried(family):
    """A family with weights large enough that positions and masks show, and RoBERTa's padding id where it counts."""
    import torch

    model = tiny_family(family, layers=3, positions=60, pad_token_id=1 if "bert" in family[1:] else 0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embeddings" not in name:
                weight.mul_(6.0)
    return model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return TextEncoder(AutoTokenizer.from_pretrained(str(folder)), 60)


def made(rng, lengths, segment, leading):
    found = []
    for length in lengths:
        ids = [2] * leading + rng.integers(5, 50, length).tolist() + [3]
        segments = [LEADING] * leading + [segment] * (length + 1)
        found.append(Encoded(ids, [int(segment == HYPOTHESIS)] * len(ids), segments, False))
    return found


@pytest.mark.parametrize("family", SHARED_TEXT_FAMILIES)
def test_every_family_is_read_once_or_in_pairs(family):
    assert TorchBackend(tried(family), family=family).one_pass == (family in READ_ONCE)


@pytest.mark.parametrize("family", READ_ONCE)
@pytest.mark.parametrize("at_once", [1, 8192])
def test_logits_and_embeddings_are_those_of_pairs(family, at_once, encoder, monkeypatch):
    monkeypatch.setattr("service.backends.one_pass.TOKENS_AT_ONCE", at_once)
    backend = TorchBackend(tried(family), family=family)
    encoder.has_type_ids = family in ("bert", "electra")
    rng = np.random.default_rng(0)
    texts = made(rng, [9, 1, 0, 30], TEXT, 1)
    hypotheses = made(rng, [4, 7, 1, 4, 12], HYPOTHESIS, 0)
    found = backend.run_labels(encoder.pad(texts), hypotheses, embeddings=True)
    assert found.logits.shape == (4, 5, 3)
    scale = np.abs(found.logits).max()
    for row, text in enumerate(texts):
        for column, hypothesis in enumerate(hypotheses):
            alone = encoder.pad([text.followed_by(hypothesis)])
            expected = backend.run(alone, attention="shared_text", embeddings=True)
            assert np.abs(found.logits[row, column] - expected.logits[0]).max() < 1e-5 * max(scale, 1)
            assert np.abs(found.embeddings[row] - expected.embeddings[0]).max() < 1e-5
    assert np.ptp(found.logits, axis=0).max() > 1e-3 and np.ptp(found.logits, axis=1).max() > 1e-3
    without = backend.run_labels(encoder.pad(texts), hypotheses, embeddings=False)
    assert without.embeddings is None and np.array_equal(without.logits, found.logits)


@pytest.mark.parametrize("scorer", ["nli", "both"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [("sports",), ("sports", "a long and winding label", "x"), tuple("abcdefghijklmn")])
def test_answers_are_the_same_on_both_paths(tiny_topics, scorer, multi_label, labels):
    engine = Engine.load(read(tiny_topics))
    texts = ["the match was great", "a", "money and business " * 40, "the planet", "."]
    question = ZeroShotQuestion(labels, scorer=scorer, attention="shared_text", multi_label=multi_label)
    assert engine._backend.one_pass
    fast = engine.zero_shot(texts, question)
    engine._backend.one_pass = False
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


def test_a_text_scores_the_same_in_any_company(tiny_topics):
    engine = Engine.load(read(tiny_topics))
    question = ZeroShotQuestion(("sports", "money", "space"), attention="shared_text")
    texts = [
        f"{word} " * count
        for count, word in enumerate(["match", "planet", "film", "text", "goal", "market", "bank"], 1)
    ]
    together = engine.zero_shot(texts, question)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = engine.zero_shot([text], question)
        scores = {prediction.label: prediction.score for prediction in alone.predictions}
        assert all(one.score == pytest.approx(scores[one.label], abs=1e-5) for one in answer.predictions)


def test_a_text_is_cut_once_so_that_the_longest_hypothesis_has_room(tiny_topics):
    engine = Engine.load(read(tiny_topics))
    rows, ends = engine._parts_of_pairs(["film " * 500, "film"], ["It is x.", "It is a very, very, very long label."])
    longest = max(len(end) for end in ends)
    assert len(rows[0]) + longest == engine._encoder.max_length and rows[0].truncated and not rows[1].truncated
    whole = engine._pair_encoder(["film"], ["It is x."])[0]
    joined = rows[1].followed_by(ends[0])
    assert (joined.ids, joined.type_ids, joined.segments) == (whole.ids, whole.type_ids, whole.segments)
