"""Windows hold all of a text, in order, with the overlap that was asked for, and cut no word."""

from __future__ import annotations

from itertools import pairwise

import pytest

from finetune.core.tokenization import TextEncoder
from finetune.core.windows import OFF, Window, spans, window_of

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def tokenizer(tiny_sentiment):
    return TextEncoder.load(tiny_sentiment, {"max_position_embeddings": 128}).prepared


@pytest.mark.parametrize("overlap", [0, 4, 8])
@pytest.mark.parametrize("words", [1, 16, 17, 33, 100])
def test_windows_hold_every_character_and_cut_between_words(tokenizer, words, overlap):
    text = "  " + " ".join(["the match was", "good"][number % 2] for number in range(words)) + " \n"
    found = spans(text, tokenizer, Window(16, overlap))
    assert found[0][0] == 0 and found[-1][1] == len(text)
    for (begin, end), (following, _) in pairwise(found):
        assert begin < following and not text[end:following].strip()
        shared = tokenizer.rust.encode(text[following:end], add_special_tokens=False)
        assert len(shared.ids) == overlap or end <= following
    for begin, end in found:
        assert len(tokenizer.rust.encode(text[begin:end], add_special_tokens=False).ids) <= 16
        assert not text[begin : begin + 1].isalpha() or not text[max(begin - 1, 0) : begin].isalpha()
        assert not text[end : end + 1].isalpha() or not text[end - 1 : end].isalpha()


def test_a_word_longer_than_a_window_is_cut_and_a_short_text_is_one_window(tokenizer):
    assert spans("the match", tokenizer, Window(16, 4)) == [(0, 9)]
    assert spans("", tokenizer, Window(16, 4)) == [(0, 0)]
    text = "zq" * 400  # spelled in single letters
    found = spans(text, tokenizer, Window(16, 4))
    assert found[0][0] == 0 and found[-1][1] == len(text)
    assert len(found) < 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (100, Window(100, 25, "mean")),
        ("100", Window(100, 25, "mean")),
        ("tokens=64, overlap=0, aggregate=max", Window(64, 0, "max")),
        ({"aggregate": "first"}, Window(256, 64, "first")),
        ("off", OFF),
        (OFF.to_json(), OFF),
    ],
)
def test_a_window_is_a_number_a_text_or_a_dict(value, expected):
    assert window_of(value) == expected


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("wide", "tokens of a window must be a whole number from 8, not 'wide'"),
        (7, "from 8, not 7"),
        (True, "a window is a number of tokens"),
        ({"tokens": 100, "overlap": 51}, "overlap of a window must be 0 to half of its 100 tokens, not 51"),
        ({"stride": 3}, "a window has no 'stride'"),
        ("tokens=64,aggregate=median", "one of max, mean, first, not 'median'"),
        ("tokens=64,tokens=65", "tokens of a window is there twice"),
        ([1], "a window is a number of tokens"),
    ],
)
def test_what_is_no_window_is_refused(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        window_of(value)
