"""Tokenization, and which tokens attend to which under the shared-text mask."""

import json
from pathlib import Path

import numpy as np
import pytest

from finetune.core.attention_mask import HYPOTHESIS, LEADING, PADDING, TEXT, shared_text_mask
from finetune.core.errors import CheckpointError
from finetune.core.tokenization import PreparedInputs, TextEncoder, without_surrogates

pytestmark = pytest.mark.fast


@pytest.fixture
def encoder(tiny_base: Path) -> TextEncoder:
    return TextEncoder.load(tiny_base, json.loads((tiny_base / "config.json").read_text()), max_length=16)


def test_a_separator_written_in_a_text_stays_text(encoder: TextEncoder) -> None:
    separator = encoder.tokenizer.sep_token_id
    [row] = encoder(["a [SEP] b"])
    assert row.ids.tolist().count(separator) == 1
    assert row.ids[-1] == separator


def test_split_special_tokens_is_saved_with_the_tokenizer(encoder: TextEncoder, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    encoder.tokenizer.save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain("a [SEP] b")["input_ids"] == encoder(["a [SEP] b"])[0].ids.tolist()


def test_lone_surrogates_become_replacement_characters(encoder: TextEncoder) -> None:
    assert without_surrogates("a\ud800b") == "a\ufffdb"
    assert without_surrogates("\U0001f600") == "\U0001f600"
    assert len(encoder(["a \ud800 b"])) == 1


def test_only_first_keeps_the_hypothesis_whole(encoder: TextEncoder) -> None:
    pairs = TextEncoder(encoder.tokenizer, 16, "only_first")
    [row] = pairs(["good " * 50], ["it was bad"])
    hypothesis = [token for token, segment in zip(row.ids, row.segments, strict=True) if segment == HYPOTHESIS]
    assert row.truncated
    assert len(row) == 16
    assert encoder.tokenizer.convert_ids_to_tokens(hypothesis) == ["it", "was", "bad", "[SEP]"]


def test_a_hypothesis_too_long_alone_is_cut_and_changes_no_other_row(encoder: TextEncoder) -> None:
    pairs = TextEncoder(encoder.tokenizer, 16, "only_first")
    good = ("good " * 50, "it was bad")
    rows = pairs([good[0], "a film"], [good[1], "bad " * 50])
    alone = pairs([good[0]], [good[1]])[0]
    assert (rows[0].ids.tolist(), rows[0].truncated) == (alone.ids.tolist(), alone.truncated)
    assert (len(rows[1]), rows[1].truncated) == (16, True)


def test_truncation_is_reported_exactly(encoder: TextEncoder) -> None:
    assert [row.truncated for row in encoder(["good " * 14, "good " * 15])] == [False, True]


def test_a_huge_text_is_cut_before_it_is_tokenized(encoder: TextEncoder) -> None:
    [row] = encoder(["a" * 10_000_000])
    assert row.truncated


def test_more_tokens_than_the_base_reads_are_refused(tiny_base: Path) -> None:
    with pytest.raises(CheckpointError, match="at most 128 tokens"):
        TextEncoder.load(tiny_base, json.loads((tiny_base / "config.json").read_text()), max_length=129)


def test_padding_goes_to_the_right_and_is_marked(encoder: TextEncoder) -> None:
    arrays = encoder.pad(encoder(["good", "good film"]))
    assert arrays["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert arrays["segments"].tolist() == [[LEADING, TEXT, TEXT, PADDING], [LEADING, TEXT, TEXT, TEXT]]


def test_text_attends_to_text_only_and_the_rest_to_everything_but_padding() -> None:
    segments = np.array([[LEADING, TEXT, TEXT, HYPOTHESIS, HYPOTHESIS, PADDING]])
    expected = np.array(
        [
            [1, 1, 1, 1, 1, 0],
            [0, 1, 1, 0, 0, 0],
            [0, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1, 0],
        ],
        dtype=bool,
    )
    assert (shared_text_mask(segments)[0] == expected).all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_text_states_are_equal_for_two_hypotheses_under_the_shared_mask_only(
    tiny_nli: Path, encoder: TextEncoder, implementation: str
) -> None:
    import torch
    from transformers import AutoModel

    from finetune.training.trainer import shared_text_bias

    model = AutoModel.from_pretrained(tiny_nli, attn_implementation=implementation).eval()
    states = {}
    for mask in ("shared_text", "ordinary"):
        for hypothesis in ("it is about sports", "not about money"):
            batch = {
                key: torch.from_numpy(array)
                for key, array in encoder.pad(encoder(["a good film"], [hypothesis])).items()
            }
            segments = batch.pop("segments")
            if mask == "shared_text":
                batch["attention_mask"] = shared_text_bias(segments, model)
            with torch.inference_mode():
                states[mask, hypothesis] = model(**batch).last_hidden_state[segments == TEXT]
    first, second = "it is about sports", "not about money"
    assert torch.allclose(states["shared_text", first], states["shared_text", second], atol=1e-6)
    assert not torch.allclose(states["ordinary", first], states["ordinary", second], atol=1e-3)


def test_keep_embedding_holds_the_hypothesis_read_alone_to_the_base_as_well(
    tiny_nli: Path, encoder: TextEncoder
) -> None:
    import copy

    import torch
    from transformers import AutoModel

    from finetune.training.auxiliary_losses import keep_embedding, mean_of_text
    from finetune.training.trainer import shared_text_bias

    def tensors(texts: list[str], pairs: list[str] | None = None) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(array) for key, array in encoder.pad(encoder(texts, pairs)).items()}

    def read(body: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        masked = batch | {"attention_mask": shared_text_bias(batch["segments"], body)}
        return body(**{key: value for key, value in masked.items() if key != "segments"}).last_hidden_state

    base = AutoModel.from_pretrained(tiny_nli).eval()
    body = copy.deepcopy(base)
    term = keep_embedding(body, encoder.tokenizer, weight=2.0, of_hypotheses=True)
    torch.nn.init.normal_(body.encoder.layer[0].output.dense.weight)  # as if trained away from the base
    texts, hypotheses = ["a good film", "the match"], ["it is about sports", "money"]

    loss = term(read(body, tensors(texts, hypotheses)), tensors(texts, hypotheses))

    expected = torch.zeros(2)
    for part in (texts, hypotheses):
        for row, text in enumerate(part):
            alone = tensors([text])
            now = mean_of_text(read(body, alone), alone["segments"])
            then = base(alone["input_ids"]).last_hidden_state.mean(dim=1)
            expected[row] += 1 - torch.nn.functional.cosine_similarity(now, then)[0]
    assert torch.allclose(loss, expected, atol=1e-5)  # weight 2, over the two parts
    assert loss.min() > 0.1


def test_keep_embedding_may_give_the_base_a_prefix(tiny_nli: Path, encoder: TextEncoder) -> None:
    import torch
    from transformers import AutoModel

    from finetune.training.auxiliary_losses import keep_embedding, mean_of_text

    body = AutoModel.from_pretrained(tiny_nli).eval()
    texts, prefix = ["a good film", "the match"], "it is"
    batch = {key: torch.from_numpy(array) for key, array in encoder.pad(encoder(texts, ["money", "sports"])).items()}
    states = body(batch["input_ids"]).last_hidden_state

    loss = keep_embedding(body, encoder.tokenizer, weight=1.0, prefix=prefix)(states, batch)

    for row, text in enumerate(texts):
        ids = torch.from_numpy(encoder.pad(encoder([f"{prefix} {text}"]))["input_ids"])
        target = body(ids).last_hidden_state.mean(dim=1)
        now = mean_of_text(states, batch["segments"])[row]
        assert torch.allclose(loss[row], 1 - torch.nn.functional.cosine_similarity(now, target[0], dim=0), atol=1e-5)


def test_a_repeated_first_token_belongs_to_the_text_and_the_base_reads_it_once(tiny_nli: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from transformers import AutoModel

    from finetune.recipes.multilingual_trim import repeat_first_token
    from finetune.training.auxiliary_losses import keep_embedding, mean_of_text
    from finetune.training.trainer import shared_text_bias

    folder = tmp_path / "repeated"
    shutil.copytree(tiny_nli, folder)
    repeat_first_token(folder)
    encoder = TextEncoder.load(folder, {})
    once = TextEncoder.load(tiny_nli, {})
    texts, hypotheses = ["a good film", "the match"], ["it is about sports", "money"]
    alone, pair = encoder(texts)[0], encoder(texts, hypotheses)[0]
    assert alone.ids.tolist() == [alone.ids[0], *once(texts)[0].ids.tolist()]
    assert pair.segments.tolist()[: len(alone)] == [LEADING] + [TEXT] * (len(alone) - 1)
    assert encoder.before_hypotheses(texts, 6)[0].followed_by(encoder.hypotheses(hypotheses)[0]).ids.tolist() == [
        *pair.ids.tolist()
    ]

    body = AutoModel.from_pretrained(folder).eval()
    batch = {key: torch.from_numpy(array) for key, array in encoder.pad(encoder(texts, hypotheses)).items()}

    def read(rows: dict[str, torch.Tensor]) -> torch.Tensor:
        masked = rows | {"attention_mask": shared_text_bias(rows["segments"], body)}
        return body(**{key: value for key, value in masked.items() if key != "segments"}).last_hidden_state

    loss = keep_embedding(body, encoder.tokenizer, weight=1.0, of_hypotheses=True)(read(batch), batch)

    expected = torch.zeros(2)
    for part in (texts, hypotheses):
        for row, text in enumerate(part):
            own = {key: torch.from_numpy(array) for key, array in encoder.pad(encoder([text])).items()}
            now = mean_of_text(read(own), own["segments"])
            base = body(torch.from_numpy(once.pad(once([text]))["input_ids"])).last_hidden_state.mean(dim=1)
            expected[row] += (1 - torch.nn.functional.cosine_similarity(now, base)[0]) / 2
    assert torch.allclose(loss, expected, atol=1e-5)
    assert loss.min() > 1e-4  # a first token more is seen


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_prepared_tokenizer_does_what_transformers_does(tiny_base: Path, tmp_path: Path, side: str) -> None:
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(tiny_base, split_special_tokens=True, truncation_side=side)
    PreparedInputs.of(plain).write(tmp_path / "tokenizer.json")
    texts = ["", "a film", "good [SEP] bad " * 20, "Ünïcode \u4e2d", "the match was great"]
    encoder = TextEncoder(PreparedInputs.read(tmp_path / "tokenizer.json"), 16)
    for seconds in (None, texts[::-1]):
        expected = plain(texts, seconds, truncation=True, max_length=16, padding=True)
        padded = encoder.pad(encoder(texts, seconds))
        assert all(padded[name].tolist() == expected[name] for name in expected)
        assert len(expected) == 3 and padded["segments"].shape == padded["input_ids"].shape


def test_a_file_that_holds_no_tokenizer_is_refused(tmp_path: Path) -> None:
    for content in ("", "{}", '{"tokenizer": "{}"}', "[]"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError):
            PreparedInputs.read(tmp_path / "tokenizer.json")
