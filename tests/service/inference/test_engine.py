"""What the engine computes, how often, and under which mask."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import save_tokenizer, tiny_family

from finetune.core.attention_mask import TEXT
from finetune.core.model_folder import read
from service.errors import BackendFailed, BadRequest
from service.inference.backends.base import CPU_BATCH, Outputs
from service.inference.backends.torch import SHARED_TEXT_FAMILIES, TorchBackend
from service.inference.engine import Engine
from service.schema import TextInput, ZeroShotRequest

pytestmark = pytest.mark.fast


class CountingBackend:
    """Passes every batch on and remembers it."""

    def __init__(self, backend):
        self.backend, self.batches = backend, []
        self.shared_text, self.one_pass = backend.shared_text, backend.one_pass
        self.batch, self.is_padded = backend.batch, backend.is_padded

    def run_labels(self, texts, packs, *, embeddings) -> Outputs:
        pairs = sum(len(pack.starts) for pack in packs)
        self.batches.append(((pairs, texts["input_ids"].shape[1]), "shared_text", embeddings))
        return self.backend.run_labels(texts, packs, embeddings=embeddings)

    def run(self, inputs, *, attention, embeddings) -> Outputs:
        self.batches.append((inputs["input_ids"].shape, attention, embeddings))
        return self.backend.run(inputs, attention=attention, embeddings=embeddings)

    @property
    def rows(self) -> int:
        return sum(shape[0] for shape, _, _ in self.batches)


def embedded(engine, texts):
    encoder = engine._runner.encoder
    inputs = encoder.pad(encoder(texts))
    return engine.backend.run(inputs, attention="shared_text", embeddings=True).embeddings.astype(np.float64)


@pytest.fixture
def counted(tiny_topics):
    engine = Engine.load(read(tiny_topics))
    engine._runner.backend = CountingBackend(engine.backend)
    return engine, engine.backend


def test_identical_texts_are_computed_once(counted):
    engine, backend = counted
    answers = engine.zero_shot(["a", "b", "a", "a"], ZeroShotRequest(("x", "y"), scorer="nli"))
    assert backend.rows == 4 and answers[0] == answers[2] == answers[3] != answers[1]
    backend.batches.clear()
    engine.classify([TextInput("a", "b"), TextInput("a", "c"), TextInput("a", "b")])
    assert backend.rows == 2


def test_label_sentences_are_embedded_once_per_label_set(counted):
    engine, backend = counted
    request = ZeroShotRequest(("x", "y"), scorer="embedding")
    engine.zero_shot(["a"], request)
    assert backend.rows == 3
    engine.zero_shot(["b"], request)
    assert backend.rows == 4


def test_the_fused_scorer_takes_embeddings_from_the_same_pass(counted):
    engine, backend = counted
    engine.zero_shot(["a", "b"], ZeroShotRequest(("x", "y"), scorer="both", attention="shared_text"))
    assert backend.rows == 4 + 2 and all(attention == "shared_text" for _, attention, _ in backend.batches)
    backend.batches.clear()
    engine.zero_shot(["a", "b"], ZeroShotRequest(("x", "y"), scorer="both", attention="ordinary"))
    assert [attention for _, attention, _ in backend.batches] == ["ordinary", "shared_text"]


def test_with_sentence_and_name_a_label_is_the_mean_direction_of_both_embeddings(tiny_topics):
    folder = read(tiny_topics)
    by = {}
    for kind in ("sentence", "sentence_and_name"):
        zero = replace(folder.settings.zero_shot, label_embedding=kind)
        engine = Engine.load(replace(folder, settings=replace(folder.settings, zero_shot=zero)))
        by[kind] = engine.raw_scores(
            ["the match was great"], ["football", "money"], "It is {}.", "both", "shared_text"
        ).cosine
    text, sentence, name = (
        row / np.linalg.norm(row) for row in embedded(engine, ["the match was great", "It is football.", "football"])
    )
    assert by["sentence"][0, 0] == pytest.approx(text @ sentence, abs=1e-6)
    mean = sentence + name
    assert by["sentence_and_name"][0, 0] == pytest.approx(text @ mean / np.linalg.norm(mean), abs=1e-6)


def test_batches_hold_rows_of_similar_length_within_the_token_budget(counted):
    engine, backend = counted
    texts = [TextInput("a " * (1 + index % 100), "b") for index in range(300)]
    engine.classify(texts, batch_size=10_000)
    shapes = [shape for shape, _, _ in backend.batches]
    assert all(rows * longest <= CPU_BATCH.tokens for rows, longest in shapes)
    assert [longest for _, longest in shapes] == sorted((longest for _, longest in shapes), reverse=True)
    computed, given = sum(rows * longest for rows, longest in shapes), sum(4 + 1 + index % 100 for index in range(300))
    assert sum(rows for rows, _ in shapes) == 100 and computed < 1.5 * given


def text_states(folder, attention, hypothesis):
    engine = Engine.load(read(folder))
    encoder = engine._runner.encoder
    inputs = encoder.pad(encoder(["the match was great"], [hypothesis]))
    return engine.backend.run(inputs, attention=attention, embeddings=True).embeddings[0]


def test_under_the_shared_mask_a_text_does_not_see_its_hypothesis(tiny_topics):
    one, other = (text_states(tiny_topics, "shared_text", about) for about in ("about sports", "it is a long story"))
    assert np.abs(one - other).max() < 1e-5  # of states up to 5
    one, other = (text_states(tiny_topics, "ordinary", about) for about in ("about sports", "it is a long story"))
    assert np.abs(one - other).max() > 1e-3


def test_under_the_shared_mask_the_text_of_a_pair_is_the_text_alone_except_for_padding(tiny_topics):
    engine = Engine.load(read(tiny_topics))
    together = embedded(engine, ["the match", "the match and a long, long film"])
    assert np.abs(together[0] - embedded(engine, ["the match"])[0]).max() < 1e-5  # of states up to 5


@pytest.mark.parametrize("family", SHARED_TEXT_FAMILIES)
def test_every_family_listed_keeps_text_states_apart_from_the_hypothesis(family):
    backend = TorchBackend(tiny_family(family), family=family)
    segments = np.array([[0, 1, 1, 1, 2, 2, 2]])
    found = []
    for last in (11, 12):
        ids = np.array([[2, 5, 6, 3, last, last + 5, 3]])
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "segments": segments}
        found.append(backend.run(inputs, attention="shared_text", embeddings=True))
    assert np.abs(found[0].embeddings - found[1].embeddings).max() < 1e-6
    assert np.abs(found[0].logits - found[1].logits).max() > 1e-7
    assert (segments == TEXT).sum() == 3


def test_a_family_without_the_shared_mask_still_classifies_and_names_what_is_missing(tmp_path):
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    names = {0: "contradiction", 1: "entailment", 2: "neutral"}
    config = DebertaV2Config(
        vocab_size=save_tokenizer(tmp_path),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(str(tmp_path))
    engine = Engine.load(read(tmp_path))
    (answer,) = engine.zero_shot(["the match"], ZeroShotRequest(("sports", "business")))
    assert sum(one.score for one in answer.predictions) == pytest.approx(1.0)
    with pytest.raises(BadRequest, match="attention shared_text is not available for models of the family deberta-v2"):
        engine.zero_shot(["the match"], ZeroShotRequest(("sports", "business"), attention="shared_text"))
    with pytest.raises(BadRequest, match="scorer both is not available"):
        engine.zero_shot(["the match"], ZeroShotRequest(("sports", "business"), scorer="both"))


def test_a_failing_runtime_is_an_error_with_its_reason(counted):
    engine, backend = counted

    def fails(**tensors):
        raise RuntimeError("out of memory\nlong details")

    backend.backend.model.forward = fails
    with pytest.raises(BackendFailed, match=r"failed on a batch of 1 x 5 tokens \(out of memory\)"):
        engine.classify([TextInput("a", "b"), TextInput("a", "c")])


def test_many_threads_get_the_answers_that_one_gets(tiny_topics):
    engine = Engine.load(read(tiny_topics))
    texts = [f"the match {'good ' * index}" for index in range(12)]
    request = ZeroShotRequest(("sports", "business"))
    expected = engine.zero_shot(texts, request)
    found = {}

    def ask(start: int) -> None:
        for index in range(start, len(texts), 4):
            found[index] = (engine.zero_shot([texts[index]], request)[0], engine.classify([TextInput("a", "b")]))

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, answer in enumerate(expected):
        scores = {one.label: one.score for one in found[index][0].predictions}
        assert scores == {one.label: pytest.approx(one.score, abs=2e-6) for one in answer.predictions}
