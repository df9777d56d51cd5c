"""Label cells that look like something else: reported, read by the rest of their column, or refused with their row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune.config.data import DataConfig
from finetune.core.errors import DataError
from finetune.core.label_text import is_missing, name_of
from finetune.data.load import Splits, load_splits

pytestmark = pytest.mark.fast

TEXTS = [f"text {index}" for index in range(60)]


def column(*cells: Any, odd: Any = None, **config: Any) -> Splits:
    labels = [cells[index % len(cells)] for index in range(60)]
    if odd is not None:
        labels[7] = odd
    data = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    return load_splits(DataConfig(**config), seed=0, data=data)


def warned(result: Splits, sentence: str) -> bool:
    return any(sentence in each for each in result.warnings)


@pytest.mark.parametrize(("no", "yes"), [("False", "True"), ("false", "true"), ("FALSE", "TRUE"), ("no", "yes")])
def test_truth_values_in_texts_are_indicators(no: str, yes: str) -> None:
    lists = [[yes, no, no], [no, yes, yes], [no, no, no]]
    for cells in (lists, list(map(str, lists))):
        result = column(*cells, label_names=["food", "staff", "price"])
        assert result.labels.task == "multi_label" and result.labels.names == ("food", "staff", "price")
        with pytest.raises(DataError, match=r"row 1.*row of 3 zeros and ones.*label_names"):
            column(*cells)


@pytest.mark.parametrize("odd", ["food, price", "food", "None", 1, "0 1 0"])
def test_a_cell_without_a_list_among_lists_is_reported_with_its_row(odd: Any) -> None:
    for cells in ((["food", "price"], ["price"]), ("['food', 'price']", "['price']")):
        assert warned(column(*cells, odd=odd), f"1 of 60 labels are not lists ({odd!r} in row 8)")


@pytest.mark.parametrize("odd", ["[food]", "(food)", "['food'", "[food, price]"])
def test_brackets_without_a_list_among_lists_are_refused_with_their_row(odd: str) -> None:
    with pytest.raises(DataError, match=r"row 8.*looks like a list and cannot be read as one"):
        column("['food', 'price']", "['price']", odd=odd)


def test_a_broken_list_among_names_is_reported() -> None:
    assert warned(column("a, b", "c", odd="['a', 'b'"), "cannot be read as lists (\"['a', 'b'\" in row 8)")


def test_scores_beside_several_labels_are_refused_and_beside_one_are_not() -> None:
    both = [{"label": "pos", "score": 0.9}, {"label": "neg", "score": 0.1}]
    with pytest.raises(DataError, match=r"row 1.*holds scores beside labels: write only the labels that apply"):
        column(both, both[::-1])
    assert column(both[:1], both[1:]).labels.names == ("neg", "pos")


def test_whole_numbers_in_dicts_are_votes_and_reported() -> None:
    assert warned(column({"a": 3, "b": 2}, {"a": 1, "b": 4}), "whole numbers, which are read as votes")
    assert not warned(column({"a": 0.3, "b": 0.7}, {"a": 0.6, "b": 0.4}), "votes")


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (("1,0", "1", "2,0"), ("1", "2")),
        (("3,0", "4,0", "5,0"), ("3", "4", "5")),
        (("+1", "1", "2"), ("+1", "1", "2")),
        (("-0", "0", "1"), ("-0", "0", "1")),
        (("12345678901234567890", "12345678901234567891", "7"), ("7", "12345678901234567890", "12345678901234567891")),
    ],
)
def test_whole_numbers_are_as_many_labels_as_names(cells: Any, names: Any) -> None:
    result = column(*cells)
    assert result.labels.names == names and result.labels.task == ("binary" if len(names) == 2 else "multiclass")
    assert warned(result, "differ only in how a number is spelled") == (cells[0] in ("+1", "-0"))


def test_points_that_may_be_thousands_marks_are_warned_of() -> None:
    assert warned(column("1.234", "2.345", "17"), "if the point is a thousands separator, pass --set data.decimal=,")
    assert column("1.234", "2.345", "17", decimal=",", task="regression").target.mean > 1000  # type: ignore[union-attr]
    for cells in (("0.123", "2.345"), ("1.23", "2.345")):
        assert not warned(column(*cells), "thousands")


def test_a_label_whose_parts_are_labels_is_warned_of() -> None:
    result = column("joy, love", "joy", "love", "anger; love", task="multi_label")
    assert warned(result, "labels such as 'joy, love' in ")
    assert not warned(column("joy; love", "joy", "anger", task="multi_label"), "labels such as")


def test_codes_are_never_places_in_the_list_of_names() -> None:
    with pytest.raises(DataError, match="'01' is neither one of a, b nor an id below 2"):
        column("0", "01", label_names=["a", "b"])


def test_masked_values_are_missing_and_unseen_marks_are_no_part_of_names() -> None:
    assert is_missing(np.ma.masked) and column("a", "b", odd=np.ma.masked).counts["empty_labels"] == 1
    assert name_of("\u2764\ufe0f") == "\u2764" and name_of("pos\ud800") == "pos"


def test_labels_in_bytes_are_texts_or_refused_with_their_row() -> None:
    assert column(b"['a', 'b']", b"['a']").labels.names == ("a", "b")
    with pytest.raises(DataError, match=r"row 8, column 'label': b'\\xff' is not UTF-8 text"):
        column(b"a", b"b", odd=b"\xff")
