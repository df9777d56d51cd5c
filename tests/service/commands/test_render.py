"""Answers as lines and as JSON."""

from __future__ import annotations

import json

import pytest

from service.commands.render import show
from service.schema import Answer

pytestmark = pytest.mark.fast


def answer(*scores, truncated=False):
    return Answer(*zip(*scores, strict=True), truncated)


def test_a_number_is_shown_without_a_bar(capsys):
    show(["film"], [answer(("stars", 3.25))], top_k=None, as_json=False, bars=False)
    assert capsys.readouterr().out == "film\n  stars  3.25\n"


def test_a_cut_text_is_told_beside_the_answer(capsys):
    show(["x"], [answer(("a", 0.5), truncated=True)], top_k=None, as_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["truncated"] is True and "1 of 1 texts were longer" in printed.err


@pytest.mark.parametrize("text", ["\ud800 broken", "ünïcödé"])
def test_any_text_can_be_printed(capsys, text):
    show([text, "b"], [answer(("a", 0.5))] * 2, top_k=1, as_json=False)
    assert capsys.readouterr().out.count("\n") == 4
