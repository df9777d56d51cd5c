"""The pieces that languages use most are kept, and embeddings get a mean of zero."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from finetune.recipes.multilingual_trim import PREFIX, Word, center, frequent_pieces

pytestmark = pytest.mark.fast


def test_the_pieces_that_occur_most_in_the_average_language_are_kept() -> None:
    words = {
        "en": [Word(0.6, frozenset({1})), Word(0.3, frozenset({2, 3})), Word(0.1, frozenset({4}))],
        "de": [Word(0.5, frozenset({5})), Word(0.35, frozenset({3})), Word(0.15, frozenset({6}))],
    }
    # 3 occurs in 0.65 of two languages, 1 in 0.6, 5 in 0.5, 2 in 0.3, 6 in 0.15, 4 in 0.1
    assert frequent_pieces(words, 4, {0}) == {0, 3, 1, 5}
    assert frequent_pieces(words, 5, {0, 4}) == {0, 4, 3, 1, 5}
    assert frequent_pieces(words, 1, {0, 4}) == {0, 4}  # what is needed is kept in any case


def test_centered_embeddings_have_a_mean_of_zero_and_differences_stay(tiny_base: Path, tmp_path: Path) -> None:
    texts = ["a good film", "the match", "money"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    AutoModel.from_pretrained(tiny_base).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def embeddings() -> torch.Tensor:
        model = AutoModel.from_pretrained(tmp_path).eval()
        batches = [tokenizer(PREFIX + text, return_tensors="pt")["input_ids"] for text in texts]
        with torch.no_grad():
            return torch.stack([model(ids).last_hidden_state[0].mean(dim=0) for ids in batches])

    before = embeddings()
    center(tmp_path, texts)
    after = embeddings()
    assert torch.allclose(after.mean(dim=0), torch.zeros(after.shape[1]), atol=1e-5)
    assert torch.allclose(after[0] - after[1], before[0] - before[1], atol=1e-5)
    assert before.mean(dim=0).norm() > 0.1
