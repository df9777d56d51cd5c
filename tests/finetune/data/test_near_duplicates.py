"""Near-duplicates: detected within training and across to evaluation, checked exactly, and never dropped."""

from __future__ import annotations

import pytest

from finetune.data import near_duplicates
from finetune.data.rows import Rows

pytestmark = pytest.mark.fast

LONG = "the quick brown fox jumps over the lazy dog while the small cat sleeps on the warm mat by the door"


def rows(*texts: str, pairs: list[str] | None = None) -> Rows:
    return Rows(list(texts), pairs, ["a"] * len(texts), list(range(1, len(texts) + 1)), "t.csv")


def test_a_text_with_one_word_changed_is_listed_with_both_rows_and_their_similarity() -> None:
    splits = {"train": rows("something else", LONG, LONG + " today"), "validation": rows("nothing like it")}
    result = near_duplicates.find(splits)
    assert result.counts == {"near_duplicates": 1, "near_duplicates_in_evaluation": 0}
    (listed,) = result.listed(splits, 10)
    assert (listed["row_1"], listed["row_2"]) == (2, 3) and listed["text_2"].endswith("today")
    words = 21
    assert listed["similarity"] == round((words - 1) / words, 3)


def test_a_leak_into_evaluation_is_counted_apart_and_listed_first() -> None:
    other = "a wholly different sentence about the price of tea in the markets of the northern towns last winter"
    splits = {"train": rows(other, other + " again", LONG), "validation": rows(LONG.upper() + "!")}
    result = near_duplicates.find(splits)
    assert result.counts == {"near_duplicates": 1, "near_duplicates_in_evaluation": 1}
    first = result.listed(splits, 1)[0]
    assert (first["split_1"], first["split_2"], first["similarity"]) == ("train", "validation", 1.0)


def test_texts_that_only_share_some_words_are_no_near_duplicates() -> None:
    half = " ".join(LONG.split()[:10]) + " and then came quite another end to this story altogether my friend"
    assert near_duplicates.find({"train": rows(LONG, half), "validation": rows("x")}).pairs == []


def test_pairs_are_compared_whole_and_letters_stand_for_words_where_none_are_spaced() -> None:
    pairs = rows(LONG, LONG, pairs=["it rained all day in the village", "nobody knew what the minister had said then"])
    assert near_duplicates.find({"train": pairs}).pairs == []
    chinese = rows("今天天气很好我们一起去公园散步吧大家都很高兴", "今天天气很好我们一起去公园散步吧大家都很高兴啊")
    assert len(near_duplicates.find({"train": chinese}).pairs) == 1


def test_beyond_the_limit_both_sides_are_looked_at_in_part_and_the_sentence_says_so(monkeypatch) -> None:
    monkeypatch.setattr(near_duplicates, "MOST_TEXTS", 2)  # one of each
    result = near_duplicates.find({"train": rows(LONG, "b", LONG), "validation": rows(LONG, "c")})
    assert result.counts["near_duplicates_in_evaluation"] == 1
    assert str(result).endswith("1 a row of evaluation (of 2 texts compared)")


def test_of_pairs_both_sides_must_be_alike_also_where_the_first_is_long() -> None:
    passage = " ".join(f"word{index}" for index in range(600))
    questions = ["what does the author think about sports", "who was it that sold the house in the end"]
    alike = [questions[0], questions[0] + "?"]
    assert near_duplicates.find({"train": rows(passage, passage, pairs=questions)}).pairs == []
    assert len(near_duplicates.find({"train": rows(passage, passage + " end", pairs=alike)}).pairs) == 1


def test_nine_in_ten_pairs_with_one_word_in_twenty_changed_are_found() -> None:
    words = [f"w{index}" for index in range(2000)]
    texts = [" ".join(words[start : start + 20]) for start in range(0, 2000, 20)]
    changed = [text.replace(text.split()[10], "other") for text in texts]
    result = near_duplicates.find({"train": rows(*texts), "validation": rows(*changed)})
    assert result.counts["near_duplicates_in_evaluation"] >= 90
    assert all(pair.similarity == 17 / 21 for pair in result.pairs)


def test_many_copies_give_a_few_pairs_each_and_not_all_pairs() -> None:
    copies = [f"{LONG} number {index}" for index in range(400)]
    result = near_duplicates.find({"train": rows(*copies), "validation": rows(*copies[:200])})
    assert result.counts == {"near_duplicates": 399, "near_duplicates_in_evaluation": 400}
    assert len(result.pairs) <= 400 * 2 * near_duplicates.MOST_PAIRS_A_ROW
