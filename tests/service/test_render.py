"""Answers as lines and as columns of a table."""

from __future__ import annotations

import json

import pytest

from service.commands.render import columns, show
from service.schema import Answer


def answer(*scores, truncated=False):
    return Answer(*zip(*scores, strict=True), truncated)


def test_one_label_of_many_is_a_column_with_its_score_and_a_column_for_each_label():
    found = columns(answer(("sad", 0.75), ("glad", 0.25)), task="binary")
    assert found == {"label": "sad", "score": 0.75, "score_glad": 0.25, "score_sad": 0.75}
    assert list(found) == ["label", "score", "score_glad", "score_sad"]


def test_several_labels_are_those_that_reach_their_own_threshold():
    found = columns(answer(("a", 0.6), ("b", 0.5), ("c", 0.3)), task="multi_label", thresholds={"a": 0.7, "c": 0.2})
    assert found["label"] == ["b", "c"] and found["score_a"] == 0.6 and "score" not in found
    assert columns(answer(("a", 0.4)), task="multi_label")["label"] == []


def test_a_number_is_a_single_column_of_its_name():
    assert columns(answer(("stars", 3.25)), task="regression") == {"stars": 3.25}


def test_a_number_is_shown_without_a_bar(capsys):
    show(["film"], [answer(("stars", 3.25))], top_k=None, as_json=False, bars=False)
    assert capsys.readouterr().out == "film\n  stars   3.250\n"


def test_a_cut_text_is_told_beside_the_answer(capsys):
    show(["x"], [answer(("a", 0.5), truncated=True)], top_k=None, as_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["truncated"] is True and "1 of 1 texts were longer" in printed.err


@pytest.mark.parametrize("text", ["\ud800 broken", "ünïcödé"])
def test_any_text_can_be_printed(capsys, text):
    show([text, "b"], [answer(("a", 0.5))] * 2, top_k=1, as_json=False)
    assert capsys.readouterr().out.count("\n") == 4
