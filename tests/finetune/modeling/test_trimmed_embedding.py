"""Training the word embeddings' rows that a table holds, and no others."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from finetune.core.tokenization import TextEncoder
from finetune.data.tokenized import Tokens
from finetune.modeling.trimmed_embedding import SeenEmbedding, train_seen_rows, train_whole_again
from finetune.run import train

WORDS = "bert.embeddings.word_embeddings.weight"


def test_it_gives_what_the_whole_embedding_gives_and_the_same_gradient() -> None:
    torch.manual_seed(0)
    whole = nn.Embedding(20, 4, padding_idx=0)
    some = SeenEmbedding(copy.deepcopy(whole), torch.tensor([0, 3, 5, 7]))
    ids = torch.tensor([[3, 5, 5, 0], [7, 3, 11, 0]])  # 11 is not among them
    assert torch.equal(some(ids), whole(ids))
    weights = torch.randn(2, 4, 4)
    (some(ids) * weights).sum().backward()
    (whole(ids) * weights).sum().backward()
    assert some.rows.grad is not None and whole.weight.grad is not None
    assert torch.equal(some.rows.grad, whole.weight.grad[[3, 5, 7]])
    assert whole.weight.grad[11].abs().sum() > 0 and whole.weight.grad[0].abs().sum() == 0


def test_its_state_is_that_of_the_whole_embedding() -> None:
    whole = nn.Embedding(9, 3)
    some = SeenEmbedding(copy.deepcopy(whole), torch.tensor([2, 4]))
    with torch.no_grad():
        some.rows += 1
    state = some.state_dict()
    assert list(state) == ["weight"]
    assert torch.equal(state["weight"][[2, 4]], whole.weight[[2, 4]] + 1)
    assert torch.equal(state["weight"][[0, 1, 3, 5, 6, 7, 8]], whole.weight[[0, 1, 3, 5, 6, 7, 8]])
    assert torch.equal(some.whole().weight, state["weight"])
    another = SeenEmbedding(whole, torch.tensor([2, 4]))
    another.load_state_dict(state, strict=True)
    assert torch.equal(another(torch.arange(9)), some(torch.arange(9)))


def test_a_body_that_has_no_such_embedding_stays_as_it_is() -> None:
    class Body(nn.Module):
        def __init__(self, words: Any) -> None:
            super().__init__()
            self.words = words

        def get_input_embeddings(self) -> Any:
            if self.words is None:
                raise NotImplementedError
            return self.words

        def set_input_embeddings(self, words: Any) -> None:
            self.words = words

    for words, seen in ((None, [1]), (nn.Linear(3, 3), [1]), (nn.Embedding(3, 2), [0, 1, 2])):
        body = Body(words)
        assert not train_seen_rows(body, np.array(seen)) and body.words is words
    body = Body(nn.Embedding(3, 2))
    assert train_seen_rows(body, np.array([1])) and type(body.words) is SeenEmbedding
    train_whole_again(body)
    assert type(body.words) is nn.Embedding


def test_a_run_moves_the_rows_of_its_texts_and_no_others(config: Any, reviews: Any, tiny_base: Path) -> None:
    made = config(optim={"ema_decay": 0.9})
    result = train(made, reviews)
    base, trained = load_file(tiny_base / "model.safetensors"), load_file(result.path / "model.safetensors")
    encoder = TextEncoder.load(str(result.path), {}, max_length=128)
    texts = [row["text"] for row in reviews]
    met = set(Tokens(texts, None, encoder).vocabulary().tolist()) - {encoder.tokenizer.pad_token_id}
    before = next(tensor for name, tensor in base.items() if WORDS.endswith(name) or name.endswith(WORDS))
    moved = set(torch.nonzero((trained[WORDS] != before).any(dim=1)).flatten().tolist())
    assert trained[WORDS].shape == before.shape and moved and moved <= met
    assert len(met) < len(before)
