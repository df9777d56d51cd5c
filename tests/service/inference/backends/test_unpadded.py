"""Sequences end to end give what padded batches give; on a GPU, with its own kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checkpoints import save_tokenizer
from passes import ONE_PASS_FAMILIES, random_sequences, sensitive_model

from finetune.core.attention_mask import HYPOTHESIS, TEXT
from finetune.core.tokenization import TextEncoder
from service.inference.backends.base import LOGIT_TOLERANCE
from service.inference.backends.packing import packed
from service.inference.backends.torch import TorchBackend
from service.inference.backends.unpadded import Unpadded, one_by_one

pytestmark = pytest.mark.fast

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return TextEncoder(AutoTokenizer.from_pretrained(str(folder)), 60)


def asked(encoder, family):
    """Texts, pairs, and texts with labels of their own, as batches; the order of labels in rows is not theirs."""
    encoder.has_type_ids = family in ("bert", "electra")
    rng = np.random.default_rng(0)
    texts = random_sequences(rng, [9, 1, 0, 30, 5], TEXT, 1)
    ends = random_sequences(rng, [4, 7, 1, 4, 12], HYPOTHESIS, 0)
    pairs = [text.followed_by(end) for text, end in zip(texts, ends, strict=True)]
    sets = [ends, ends[:2], ends, random_sequences(rng, [11] * 20, HYPOTHESIS, 0), ends[2:3]]
    one = {id(labels): packed(labels, texts[0].part(0, 1)) for labels in sets}
    return encoder.pad(texts), encoder.pad(pairs), [one[id(labels)] for labels in sets]


def answers(backend, batches):
    texts, pairs, packs = batches
    yield backend.run(texts, attention="ordinary", embeddings=False).logits
    yield backend.run(pairs, attention="ordinary", embeddings=False).logits
    for batch in (texts, pairs):
        found = backend.run(batch, attention="shared_text", embeddings=True)
        yield from (found.logits, found.embeddings)
    yield backend.run(pairs, attention="shared_text", embeddings=False).logits
    labeled = backend.run_labels(texts, packs, embeddings=True)
    yield from (labeled.logits, labeled.embeddings)
    yield backend.run_labels(texts, packs, embeddings=False).logits


def differences(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == np.float32 and np.ptp(other, axis=0).max() > 1e-3
        yield np.abs(one - other).max() / max(1.0, np.abs(other).max())


@pytest.mark.parametrize("family", ONE_PASS_FAMILIES)
@pytest.mark.parametrize("short", [0, 32])
def test_without_padding_is_as_with_it(family, short, encoder, monkeypatch):
    monkeypatch.setattr("service.inference.backends.unpadded.SHORT", short)
    backend = TorchBackend(sensitive_model(family), family=family)
    batches = asked(encoder, family)
    expected = list(answers(backend, batches))
    backend.unpadded = backend.without_padding(one_by_one)
    assert backend.unpadded is not None
    assert max(differences(answers(backend, batches), expected)) < 1e-5


def test_a_model_of_another_kind_is_padded():
    assert Unpadded.of(sensitive_model("distilbert"), one_by_one) is None
    assert TorchBackend(sensitive_model("distilbert"), family="distilbert").without_padding(one_by_one) is None


def doubled(module, inputs, output):
    return (output[0] * 2, *output[1:])


@pytest.mark.parametrize("place", ["before loading", "after loading"])
def test_a_model_with_berts_code_and_other_numbers_is_padded(place):
    """A hook on a layer's attention is no part of its code."""
    model = sensitive_model("bert")
    attention = model.base_model.encoder.layer[1].attention.self
    if place == "before loading":
        attention.register_forward_hook(doubled)
    backend = TorchBackend(model, family="bert")
    attention.register_forward_hook(doubled)
    assert Unpadded.of(model, one_by_one) is not None
    assert backend.without_padding(one_by_one) is None and backend.unpadded is None


def test_a_kernel_with_other_numbers_is_not_used():
    backend = TorchBackend(sensitive_model("bert"), family="bert")

    def wrong(*inputs):
        attended, weights = one_by_one(*inputs)
        return attended, weights + 1  # shows only where text and label are merged by their weights

    def missing(*inputs):
        raise RuntimeError("no kernel for this card")

    assert backend.without_padding(one_by_one) is not None
    assert backend.without_padding(wrong) is None and backend.without_padding(missing) is None


def test_the_trial_holds_in_bfloat16_too():
    backend = TorchBackend(sensitive_model("roberta"), family="roberta", precision="bfloat16")
    assert backend.without_padding(one_by_one) is not None


@on_gpu
@pytest.mark.parametrize("family", ONE_PASS_FAMILIES)
def test_the_kernel_gives_what_torch_gives_in_float32(family, encoder, monkeypatch):
    batches = asked(encoder, family)
    expected = list(answers(TorchBackend(sensitive_model(family), family=family), batches))
    backend = TorchBackend(sensitive_model(family), family=family, precision="bfloat16")
    assert not backend.is_padded
    assert max(differences(answers(backend, batches), expected)) < LOGIT_TOLERANCE["bfloat16"]
