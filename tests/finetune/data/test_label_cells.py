"""Label cells of every kind: what a cell spells, what decides for a column, and what is refused with its row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from finetune.config.data import DataConfig
from finetune.core.errors import ConfigError, DataError
from finetune.core.label_text import clean, is_missing, name_of
from finetune.core.labels import LabelSpace, SoftLabels
from finetune.data.label_cells import structure_of
from finetune.data.load import load_rows, load_splits

pytestmark = pytest.mark.fast

ROWS = 42
TEXTS = [f"text {index}" for index in range(ROWS)]
Table = Callable[[list[Any], Path], Any]


def in_dicts(cells: list[Any], folder: Path) -> Any:
    return [{"text": text, "label": cell} for text, cell in zip(TEXTS, cells, strict=True)]


def in_pandas(cells: list[Any], folder: Path) -> Any:
    return pd.DataFrame({"text": TEXTS, "label": pd.Series(cells, dtype=object)})


def in_polars(cells: list[Any], folder: Path) -> Any:
    import polars

    return polars.DataFrame({"text": TEXTS, "label": cells}, strict=False)


def in_datasets(cells: list[Any], folder: Path) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"text": TEXTS, "label": cells})


def in_jsonl(cells: list[Any], folder: Path) -> Any:
    lines = [json.dumps(row) + "\n" for row in in_dicts(cells, folder)]
    (folder / "t.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(folder / "t.jsonl")


def in_parquet(cells: list[Any], folder: Path) -> Any:
    pd.DataFrame({"text": TEXTS, "label": cells}).to_parquet(folder / "t.parquet")
    return str(folder / "t.parquet")


def in_csv(cells: list[Any], folder: Path) -> Any:
    pd.DataFrame({"text": TEXTS, "label": cells}).to_csv(folder / "t.csv", index=False)
    return str(folder / "t.csv")


WAYS: dict[str, Table] = {
    "dicts": in_dicts,
    "pandas": in_pandas,
    "polars": in_polars,
    "datasets": in_datasets,
    "jsonl": in_jsonl,
    "parquet": in_parquet,
    "csv": in_csv,
}
every_way = pytest.mark.parametrize("way", list(WAYS))


def read(table: Any, **config: Any) -> Any:
    if isinstance(table, str):
        return load_splits(DataConfig(train=table, **config), seed=1)  # type: ignore[arg-type]
    return load_splits(DataConfig(**config), seed=1, data=table)


def column(*cells: Any, **config: Any) -> Any:
    return read(in_dicts(repeated(*cells), Path()), **config)


def repeated(*cells: Any, odd: Any = None) -> list[Any]:
    """The cells in turn; `odd` in row 8."""
    column_cells = [cells[index % len(cells)] for index in range(ROWS)]
    if odd is not None:
        column_cells[7] = odd
    return column_cells


def values_of(splits: Any) -> dict[int, Any]:
    """Row number -> label value, of training and validation."""
    parts = (splits.train, splits.validation)
    return {number: value for rows in parts for number, value in zip(rows.numbers, rows.values, strict=True)}


# several labels


@every_way
def test_rows_of_zeros_and_ones_are_several_labels_with_their_names_and_empty_rows_stay(
    way: str, tmp_path: Path
) -> None:
    cells = repeated([1, 0, 0], [0, 1, 1], [0, 0, 0])
    result = read(WAYS[way](cells, tmp_path), label_names=["food", "staff", "price"])
    assert (result.labels.task, result.labels.names) == ("multi_label", ("food", "staff", "price"))
    values = values_of(result)
    assert len(values) == ROWS and [values[row] for row in (1, 2, 3)] == [["food"], ["staff", "price"], []]


@pytest.mark.parametrize(
    "cells",
    [
        ([1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
        ([True, False, False], [False, True, True], [False, False, False]),
        ((1, 0, 0), (0, 1, 1), (0, 0, 0)),
        (np.array([1, 0, 0]), np.array([0, 1, 1]), np.array([0, 0, 0])),
        (np.array([True, False, False]), np.array([False, True, True]), np.array([False] * 3)),
        ("[1, 0, 0]", "[0, 1, 1]", "[0, 0, 0]"),
        ("[1. 0. 0.]", "[0. 1. 1.]", "[0. 0. 0.]"),
        ("[ True False False]", "[False  True  True]", "[False False False]"),
        ("array([1, 0, 0])", "array([0, 1, 1])", "array([0, 0, 0])"),
        ("1 0 0", "0 1 1", "0 0 0"),
        ("1,0,0", "0,1,1", "0,0,0"),
        (["1", "0", "0"], ["0", "1", "1"], ["0", "0", "0"]),
    ],
)
def test_indicators_may_be_spelled_in_any_way(cells: Any) -> None:
    result = column(*cells, label_names=["food", "staff", "price"])
    assert [values_of(result)[row] for row in (1, 2, 3)] == [["food"], ["staff", "price"], []]


def test_indicators_without_names_are_refused_and_names_must_fit() -> None:
    with pytest.raises(DataError, match=r"row 1.*row of 3 zeros and ones.*no names: name the 3 positions.*label_names"):
        column([1, 0, 0], [0, 1, 1], [0, 0, 0])
    with pytest.raises(DataError, match="hold 3 zeros and ones each, and data.label_names has 2 names"):
        column([1, 0, 0], [0, 1, 1], label_names=["a", "b"])
    with pytest.raises(DataError, match=r"row 8.*\[1, 0\] is not a row of 3 zeros and ones.*a, b, c"):
        read(in_dicts(repeated([1, 0, 0], [0, 1, 1], odd=[1, 0]), Path()), label_names=["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"holds 'a' more than once"):
        column([1, 0], [1, 1], label_names=["a", "a\u200b"])


def test_one_hot_rows_are_one_label_where_the_task_says_so() -> None:
    names = ["a", "b", "c"]
    result = column([1, 0, 0], [0, 1, 0], [0, 0, 1], label_names=names)
    assert result.labels.task == "multi_label" and any("--task multiclass" in each for each in result.warnings)
    result = column([1, 0, 0], [0, 1, 0], [0, 0, 1], label_names=names, task="multiclass")
    assert (result.labels.task, values_of(result)[2], result.warnings) == ("multiclass", "b", [])
    with pytest.raises(DataError, match="row 2.*has 2 labels, and task multiclass takes one"):
        column([1, 0, 0], [0, 1, 1], label_names=names, task="multiclass")


@pytest.mark.parametrize("spell", [lambda cell: cell, str, json.dumps])
def test_a_dict_of_zeros_and_ones_is_several_labels(spell: Any) -> None:
    cells = ({"toxic": 1, "rude": 0}, {"toxic": 1, "rude": 1}, {"toxic": 0, "rude": 0})
    result = column(*map(spell, cells))
    assert (result.labels.task, result.labels.names) == ("multi_label", ("rude", "toxic"))
    assert [sorted(values_of(result)[row]) for row in (1, 2, 3)] == [["toxic"], ["rude", "toxic"], []]


def test_shares_stay_shares_and_other_sums_are_refused() -> None:
    result = column({"a": 0.7, "b": 0.3}, {"a": 0.2, "b": 0.8})
    assert result.labels.task == "binary" and isinstance(values_of(result)[1], SoftLabels)
    result = column([0.7, 0.3], [0.2, 0.8], label_names=["a", "b"])
    assert values_of(result)[1] == SoftLabels(("a", "b"), (0.7, 0.3))
    assert values_of(column({"a": 3, "b": 1}, {"a": 1, "b": 1}))[1] == SoftLabels(("a", "b"), (0.75, 0.25)), "votes"
    with pytest.raises(DataError, match=r"row 1.*sum to 1.6, not to 1"):
        column({"a": 0.7, "b": 0.9}, {"a": 0.2, "b": 0.8})
    with pytest.raises(DataError, match=r"row 1.*holds fractions.*data.label_names"):
        column([0.7, 0.3], [0.2, 0.8])


@every_way
def test_ids_in_lists_are_named(way: str, tmp_path: Path) -> None:
    result = read(WAYS[way](repeated([0], [0, 2], [1, 2]), tmp_path), label_names=["food", "staff", "price"])
    assert result.labels.names == ("food", "staff", "price") and values_of(result)[2] == ["food", "price"]
    with pytest.raises(DataError, match="row 2.*neither one of a, b nor an id below 2"):
        column([0], [0, 2], label_names=["a", "b"])


@every_way
def test_lists_of_names_are_several_labels_however_they_are_printed(way: str, tmp_path: Path) -> None:
    result = read(WAYS[way](repeated(["speed", "price"], ["price"], []), tmp_path))
    assert (result.labels.task, result.labels.names, len(values_of(result))) == (
        "multi_label",
        ("price", "speed"),
        ROWS,
    )


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("['a', 'b']", ["a", "b"]),
        ("('a',)", ["a"]),
        ("{'a'}", ["a"]),
        ("['a' 'b']", ["a", "b"]),
        ("['a'\n 'b']", ["a", "b"]),
        ("[\"it's\", 'b, c']", ["it's", "b, c"]),
        ("set()", []),
        ("frozenset({'b', 'a'})", ["a", "b"]),
        ("array(['a', 'b'], dtype=object)", ["a", "b"]),
        ("array([], dtype=object)", []),
        ("[np.str_('a'), np.str_('b')]", ["a", "b"]),
        ("['a', nan]", ["a"]),
        ('["a", null]', ["a"]),
        ("[None]", []),
        ({"b", "a"}, ["a", "b"]),
        (frozenset({"a"}), ["a"]),
        (["a", None, float("nan")], ["a"]),
        ([["a", "b"]], ["a", "b"]),
        ([{"id": 3, "name": "a"}, {"id": 4, "name": "b"}], ["a", "b"]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
        ("a", ["a"]),
    ],
)
@pytest.mark.parametrize("task", [None, "multi-label"])
def test_a_printed_list_is_a_list_and_never_cut_at_its_commas(cell: Any, labels: list[str], task: str | None) -> None:
    result = read(in_dicts(repeated(["a"], ["b", "a"], ["b, c"], ["it's"], odd=cell), Path()), task=task)
    assert result.labels.task == "multi_label" and values_of(result)[8] == labels


@pytest.mark.parametrize(
    "cell", ["['a' 'b' ... 'z']", "[a, b]", "['a', 'b", [["a"], ["b"]], [{"size": 3}], "[open('x')]", {"a": 1}]
)
def test_what_looks_like_a_list_and_cannot_be_read_is_refused_with_its_row(cell: Any) -> None:
    with pytest.raises(DataError, match=r"row 8"):
        read(in_dicts(repeated(["a"], ["b", "a"], odd=cell), Path()))


def test_nothing_in_a_cell_is_run_and_a_deep_or_long_one_does_no_harm() -> None:
    assert structure_of("[__import__('os').getcwd()]") is None
    assert structure_of("[" * 50_000 + "]" * 50_000) is None
    assert structure_of("['a'" + ", 'a'" * 50_000 + "]") is None, "too long"


def test_a_dict_with_a_name_is_one_label() -> None:
    assert column({"id": 1, "name": "x"}, {"id": 2, "name": "y"}).labels.names == ("x", "y")


# one odd cell


def test_one_bracket_cell_stays_a_name_and_is_reported() -> None:
    result = read(in_dicts(repeated("pos, really", "neg, no", odd="[1]"), Path()))
    assert result.labels.names == ("[1]", "neg, no", "pos, really") and values_of(result)[8] == "[1]"
    assert any("'[1]' in row 8" in each for each in result.warnings)
    again = read(in_dicts(repeated("pos, really", "neg, no", odd="[1]"), Path()), task=result.labels.task)
    assert again.labels == result.labels, "a run that is repeated from its config reads the same labels"


def test_a_real_list_among_words_is_refused_with_its_row_and_half_of_each_too() -> None:
    with pytest.raises(DataError, match=r"row 8.*\['x'\] is a list.*--task multi-label"):
        read(in_dicts(repeated("a", "b", odd=["x"]), Path()))
    with pytest.raises(DataError, match="row 2.*21 of 42 rows"):
        column("a", "['b', 'c']")
    assert values_of(column("a", "['b', 'c']", task="multi-label"))[2] == ["b", "c"]


def test_one_number_among_names_is_a_name_and_one_word_among_numbers_is_refused() -> None:
    result = read(in_dicts(repeated("a", "b", odd=7), Path()))
    assert result.labels.names == ("7", "a", "b") and any("7 in row 8" in each for each in result.warnings)
    with pytest.raises(DataError, match=r"numbers in some rows.*'n/a' in row 8; 41 numbers, 1 words"):
        read(in_dicts(repeated(0, 1, odd="n/a"), Path()))
    with pytest.raises(DataError, match=r"row 8.*0.5 has a fraction, and 41 of 42 labels are whole"):
        read(in_dicts(repeated(0, 1, odd=0.5), Path()))


def test_one_label_a_row_may_stand_in_lists_of_one() -> None:
    assert column(["a"], ["b"], task="multiclass").labels.names == ("a", "b")
    with pytest.raises(DataError, match="row 2.*has 2 labels, and task multiclass takes one per row"):
        column(["a"], ["a", "b"], task="multiclass")


# missing


@pytest.mark.parametrize(
    "missing",
    [
        None,
        pd.NA,
        pd.NaT,
        float("nan"),
        np.float32("nan"),
        np.float16("nan"),
        Decimal("NaN"),
        Decimal("sNaN"),
        np.datetime64("NaT", "ns"),
        "",
        "  ",
        "\u00a0",
        "\u200b\ufeff",
        "\u3000\n",
    ],
)
def test_missing_is_missing_in_labels_and_texts(missing: Any) -> None:
    assert is_missing(missing)
    rows = in_dicts(repeated("a", "b", odd=missing) if missing is not None else repeated("a", "b"), Path())
    rows[7]["label"] = missing
    rows[9]["text"] = missing
    for table in (rows, pd.DataFrame(rows)):
        result = read(table)
        assert (result.labels.names, result.counts["empty_labels"], result.counts["empty_texts"]) == (("a", "b"), 1, 1)


def test_words_that_pandas_reads_as_missing_stay_words() -> None:
    for word in ("NA", "None", "null", "n/a", "nan", "NaN", "0", ".", "-"):
        assert not is_missing(word)
    for cell in (0, False, [], {}, np.array([float("nan")]), np.array([])):
        assert not is_missing(cell)


@pytest.mark.parametrize("kind", ["string", "category", "Int64", "Float64", "boolean"])
def test_nullable_columns_of_pandas_hold_missing_labels(kind: str) -> None:
    cells = {"Int64": [0, 1], "Float64": [0.0, 1.0], "boolean": [True, False]}.get(kind, ["a", "b"])
    series = pd.Series([*(cells * 21)[:-1], None], dtype=kind)  # type: ignore[call-overload]
    result = read(pd.DataFrame({"text": TEXTS, "label": series}))
    assert result.counts["empty_labels"] == 1 and result.labels.names == tuple(sorted(map(name_of, cells)))


def test_a_class_number_of_minus_one_is_no_label_and_names_stand_in_lists_too() -> None:
    import datasets
    from datasets import ClassLabel, Dataset, Features, List, Value

    datasets.disable_progress_bars()
    names = ClassLabel(names=["no", "yes"])
    one = Dataset.from_dict(
        {"text": TEXTS, "label": repeated(0, 1, odd=-1)}, features=Features({"text": Value("string"), "label": names})
    )
    result = read(one)
    assert (result.labels.names, result.counts["empty_labels"]) == (("no", "yes"), 1)
    for kind, cells in (
        (List(names), ([0], [0, 1], [])),
        (List({"name": names}), ([{"name": 0}], [{"name": 0}, {"name": 1}], [])),
        (List(List(names)), ([[0]], [[0, 1]], [])),
    ):
        features = Features({"text": Value("string"), "label": kind})
        several = read(Dataset.from_dict({"text": TEXTS, "label": repeated(*cells)}, features=features))
        assert several.labels.names == ("no", "yes") and values_of(several)[2] == ["no", "yes"]


def labeled(first: int, label: Any, rows: int = 10) -> list[dict[str, Any]]:
    return [{"text": f"other {first + index}", "label": label(index)} for index in range(rows)]


@pytest.mark.parametrize(
    "label", [lambda index: None, lambda index: -1, lambda index: "-1", lambda index: float("nan")]
)
@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_split_whose_labels_are_hidden_is_left_out_and_reported(split: str, label: Any, tmp_path: Path) -> None:
    table = {split: labeled(0, label), "train": labeled(100, lambda index: index % 2, 40)}
    for name, rows in table.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    for result in (read(table), read(str(tmp_path))):
        assert result.labels.names == ("0", "1") and not result.tests and len(result.validation) == 4
        assert any(f"split '{split}' has no labels" in each and "10" in each for each in result.notes)


def test_a_split_without_the_label_column_is_left_out_and_a_table_named_by_itself_is_refused(tmp_path: Path) -> None:
    train = labeled(100, lambda index: index % 2, 40)
    result = read({"train": train, "test": [{"text": "a"}, {"text": "b"}]})
    assert not result.tests and any("split 'test' has no labels in its 2 rows" in each for each in result.notes)
    pd.DataFrame(labeled(0, lambda index: "")).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="none of the 10 rows has a label"):
        read(train, test={"hidden": {"path": str(tmp_path / "t.csv")}})
    pd.DataFrame(labeled(0, lambda index: -1)).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="all 10 labels are -1"):
        read(train, validation=str(tmp_path / "t.csv"))


def test_labels_missing_in_part_of_a_test_split_are_counted() -> None:
    train = labeled(100, lambda index: index % 2, 40)
    result = read({"train": train, "test": labeled(0, lambda index: None if index < 3 else index % 2)})
    assert (result.counts["empty_labels"], len(result.tests["test"])) == (3, 7)


# numbers


@pytest.mark.parametrize("way", ["dicts", "csv", "jsonl"])
def test_one_and_one_point_zero_are_one_label_and_reported(way: str, tmp_path: Path) -> None:
    result = read(WAYS[way](repeated("0", "1.0", "0.0", "1"), tmp_path))
    assert result.labels.names == ("0", "1") and any("'0.0' in" in each for each in result.notes)


@pytest.mark.parametrize("cell", [1, 1.0, "1", "1.0", "1.00", np.float32(1), np.int8(1), Decimal("1.0"), "\u00a01"])
def test_a_label_has_one_name_in_every_format(cell: Any) -> None:
    assert name_of(cell) == "1"


def test_labels_of_another_split_are_the_same_however_they_are_spelled() -> None:
    train = labeled(100, lambda index: index % 2, 40)
    result = read({"train": train, "validation": labeled(0, lambda index: f"{index % 2}.0")})
    assert result.labels.names == ("0", "1") and set(result.validation.values) == {"0", "1"}


def test_codes_with_leading_zeros_are_names_and_one_among_numbers_is_refused() -> None:
    result = column(*(f"{index:05d}" for index in range(30)))
    assert result.labels.task == "multiclass" and "00007" in result.labels.names
    cells = [str(index) for index in range(ROWS)]
    cells[7] = "07"
    with pytest.raises(DataError, match="row 8.*'07' has a leading zero"):
        read(in_dicts(cells, Path()))


@pytest.mark.parametrize(
    ("spell", "value"),
    [
        (lambda number: f"{number:.2f}".replace(".", ","), 1000.25),
        (lambda number: f"{number:,.2f}", 1000.25),
        (lambda number: f"{number:,.2f}".translate(str.maketrans(",.", ".,")), 1000.25),
        (lambda number: f"{number:,.2f}".translate(str.maketrans(",.", "\u202f,")), 1000.25),
        (lambda number: f"{number:,.2f}".translate(str.maketrans(",.", "\u00a0.")), 1000.25),
        (lambda number: f"{number:,.2f}".replace(",", "'"), 1000.25),
        (lambda number: f"\u2212{number:.2f}", -1000.25),
    ],
)
@pytest.mark.parametrize("task", [None, "regression"])
def test_decimal_commas_and_thousands_marks_are_read_where_the_whole_column_has_them(
    spell: Any, value: float, task: str | None
) -> None:
    result = column(*(spell(1000.25 + 13 * index) for index in range(ROWS)), task=task)
    assert result.labels.task == "regression" and values_of(result)[1] == value


def test_how_numbers_are_written_is_reported_and_used_for_every_split() -> None:
    train = labeled(0, lambda index: f"{index},5", 40)
    result = read({"train": train, "validation": labeled(100, lambda index: f"{index},25")})
    assert any("decimal commas" in each and "0,5 is read as 0.5" in each for each in result.notes)
    assert result.validation.values[1] == 1.25
    with pytest.raises(DataError, match="'1,234.5' is not a number"):
        read({"train": train, "validation": labeled(100, lambda index: "1,234.5")})


def test_numbers_that_can_be_read_in_two_ways_are_refused_until_the_mark_is_set() -> None:
    cells = [f"{index},234" for index in range(1, 30)]
    with pytest.raises(DataError, match=r"'1,234' may be 1234 or 1.234.*data.decimal=\..*data.decimal=,"):
        column(*cells)
    assert values_of(column(*cells, decimal="."))[1] == 1234
    assert values_of(column(*cells, decimal=","))[1] == 1.234


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("1,5", "2.5"), "'2.5' is not written as the number '1,5' in row 1"),
        (("12%", "30%", "7%"), "'12%' is a number with a currency or percent sign"),
        (("$1.50", "$2.25"), "number with a currency or percent sign"),
        (("1,50 €", "2,25 €"), "number with a currency or percent sign"),
        (("0,1", "1,1", "0,0"), "may be a number with a decimal comma or two indicators"),
    ],
)
def test_numbers_of_unclear_spelling_are_refused_and_never_a_class_for_each(cells: Any, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("$", r"\$")):
        column(*cells)


# names


def test_names_that_look_the_same_are_one_label_and_reported_with_counts() -> None:
    cells = ("caf\u00e9", "cafe\u0301", "tea", "tea\u200b", "\ufefftea", "te\u00ada", "iced  tea", "iced\u00a0tea")
    result = column(*cells)
    assert result.labels.names == ("caf\u00e9", "iced tea", "tea")
    assert any("'caf\\xe9' in 6 rows, 'cafe\\u0301' in 6 rows" in each for each in result.notes)
    assert clean("می\u200cخواهم") == "می\u200cخواهم", "a joiner that is read stays"
    assert clean("go\u200cod\u200d") == "good"


def test_names_are_normalized_alike_in_settings_and_in_a_model_that_is_evaluated() -> None:
    result = column("0", "1", label_names=["cafe\u0301", "tea "])
    assert result.labels.names == ("caf\u00e9", "tea")
    weights = result.labels.weights({"cafe\u0301\u200b": 3.0}, np.array([0, 1]))
    assert weights is not None and weights.tolist() == [3.0, 1.0]
    old = LabelSpace("binary", ("cafe\u0301", "tea"))
    rows, _ = load_rows([{"text": "t", "label": "caf\u00e9"}, {"text": "u", "label": "tea\u00a0"}], DataConfig(), old)
    assert rows.values == ["cafe\u0301", "tea"]


def test_labels_that_differ_in_case_stay_separate_with_a_warning() -> None:
    result = column("Positive", "positive", "negative")
    assert len(result.labels.names) == 3
    assert any("'Positive' in 14 rows, 'positive' in 14 rows" in each for each in result.warnings)


def test_the_order_of_labels_is_the_same_in_every_process() -> None:
    names = ["10", "9", "nan", "2", "inf", "-1", "b", "07", "7", "1_0"]
    program = (
        f"import sys; from finetune.core.labels import LabelSpace; print(LabelSpace.fit({names!r}, 'multiclass').names)"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in "123"
    }
    assert orders == {str(("-1", "2", "7", "9", "10", "07", "1_0", "b", "inf", "nan")) + "\n"}


# separators


def test_the_mark_between_labels_is_the_training_tables_in_every_split() -> None:
    cells = ("food|price", "health, safety|food", "health, safety")
    train = labeled(0, lambda index: cells[index % 3], 42)
    data = {"train": train, "validation": labeled(100, lambda index: "health, safety")}
    result = read(data, task="multi-label")
    assert result.validation.values[0] == ["health, safety"]
    known = LabelSpace("multi_label", ("food", "health, safety"))
    rows, _ = load_rows([{"text": "t", "label": "health, safety"}], DataConfig(), known)
    assert rows.values == [["health, safety"]]


def test_one_cell_with_another_mark_does_not_decide_and_brackets_are_not_torn() -> None:
    result = read(in_dicts(repeated("joy, love", "joy", odd="a|b"), Path()), task="multi-label")
    assert result.labels.names == ("a|b", "joy", "love")
    with pytest.raises(DataError, match="row 1.*inside brackets"):
        column("Health (mental, physical), Sport", "Sport", task="multi-label")


# warnings


@pytest.mark.parametrize(
    ("cells", "task", "message"),
    [
        (
            ("joy, love", "joy", "love, anger"),
            "multiclass",
            "--task multi-label, to keep the combinations --task multi",
        ),
        (("joy|love", "joy", "love|anger"), "multiclass", "separated by '|'"),
        ((1, 2, 3, 4, 5), "multiclass", "from 1 to 5, and is read as names without an order"),
        (tuple(range(30)), "regression", "30 different values, and is read as numbers"),
        (tuple(f"id-{index}" for index in range(ROWS)), "multiclass", "looks like ids"),
        (("0,2", "1", "0,1"), "regression", "if they are several labels, pass --task multi-label"),
    ],
)
def test_a_column_with_two_readings_is_warned_of_unless_the_task_is_given(cells: Any, task: str, message: str) -> None:
    result = column(*cells)
    assert result.labels.task == task and any(message in each for each in result.warnings), result.warnings
    assert not any(message in each for each in column(*cells, task=task).warnings)


def test_labels_without_doubt_are_not_warned_of() -> None:
    assert column("pos, really", "neg, no").warnings == column(0, 1, 2, 3).warnings == column("a", "b").warnings == []


def test_labels_with_few_rows_are_warned_of_with_their_counts() -> None:
    result = read(in_dicts(repeated("a", "b", odd="c"), Path()))
    assert any("'c' (1)" in each for each in result.warnings) and result.labels.names == ("a", "b", "c")
    rare = read([{"text": f"t{i}", "labels": ["ab"[i % 2]] if i % 25 < 2 else []} for i in range(200)])
    assert any("class_weights=balanced" in each for each in rare.warnings)
