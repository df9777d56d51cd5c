"""Texts joined from several columns: one rule, recorded in the model folder and used by whatever reads a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.config.data import DataConfig
from finetune.config.loading import build
from finetune.core.errors import ConfigError, DataError
from finetune.core.labels import LabelSpace
from finetune.core.tables.files import write_table
from finetune.core.tables.joined_texts import joined, recorded_columns, with_joined_columns, with_joined_text
from finetune.data.load import load_rows, load_splits

pytestmark = pytest.mark.fast

ROWS: list[dict[str, Any]] = [
    {"title": f"title {number}", "body": f"body {number}", "label": "np"[number % 2]} for number in range(40)
]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("a", "b"), "a\nb"),
        (("a", ""), "a"),
        (("", "b"), "b"),
        (("a", None, "c"), "a\nc"),
        ((" ", "\u200b", float("nan")), ""),
        ((" a ", "b\n"), " a \nb\n"),
        (("NA", 3), "NA\n3"),
    ],
)
def test_an_empty_part_leaves_no_separator(parts: tuple[Any, ...], text: str) -> None:
    assert joined(parts) == text


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".xlsx"])
def test_texts_are_joined_in_the_order_of_the_columns(tmp_path: Path, suffix: str) -> None:
    rows = [*ROWS[:-3], ROWS[-3] | {"title": ""}, ROWS[-2] | {"body": None}, ROWS[-1] | {"title": "", "body": " "}]
    write_table(tmp_path / f"t{suffix}", rows)
    for text in (["title", "body"], ["body", "title"]):
        config = build({"base": "b", "out": "o", "data": {"train": str(tmp_path / f"t{suffix}"), "text": text}}).data
        assert (config.text, config.text_columns) == (None, tuple(text))
        in_memory = config.model_copy(update={"train": ()})
        for splits in (load_splits(config, seed=1), load_splits(in_memory, seed=1, data=rows)):
            texts = {*splits.train.texts, *splits.validation.texts}
            first, second = ("title 0", "body 0") if text[0] == "title" else ("body 0", "title 0")
            assert {f"{first}\n{second}", "body 37", "title 38"} < texts and len(texts) == 39
            assert splits.counts["empty_texts"] == 1
            assert any(f"text {text[0]!r} and {text[1]!r}, label 'label'" in note for note in splits.notes)


def test_a_header_that_is_repeated_is_still_found_and_one_text_column_stays_one() -> None:
    rows = [*ROWS, {"title": "title", "body": "body", "label": "label"}]
    splits = load_splits(DataConfig(text=["title", "body"]), seed=1, data=rows)  # type: ignore[arg-type]
    assert splits.counts["repeated_headers"] == 1
    assert DataConfig(text=["title"]).text == "title"  # type: ignore[arg-type]


def test_a_pair_may_follow_a_joined_text() -> None:
    rows = [row | {"question": f"question {row['label']}"} for row in ROWS]
    config = DataConfig(text=["title", "body"], text_pair="question")  # type: ignore[arg-type]
    splits = load_splits(config, seed=1, data=rows)
    assert splits.train.pairs is not None and splits.train.pairs[0].startswith("question ")
    assert "\n" in splits.train.texts[0]


def test_columns_that_cannot_be_joined_are_refused() -> None:
    with pytest.raises(DataError, match=r"no column 'titel' \(--text\)"):
        load_splits(DataConfig(text=["titel", "body"]), seed=1, data=ROWS)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="row 1, column 'body': the text is a list"):
        load_splits(DataConfig(text=["title", "body"]), seed=1, data=[row | {"body": ["a"]} for row in ROWS])  # type: ignore[arg-type]
    for data in ({"text": ["a", "a"]}, {"text_columns": ["a"]}, {"text": "a", "text_columns": ["b", "c"]}):
        with pytest.raises(ConfigError, match="text_columns"):
            build({"base": "b", "out": "o", "data": data})


def test_the_columns_of_a_model_are_used_where_a_table_has_all_of_them() -> None:
    assert recorded_columns(("title", "body"), ["label", " body", "title"], "t") == ("title", " body")
    assert recorded_columns(("title", "body"), ["text"], "t") == () == recorded_columns((), ["title"], "t")
    with pytest.raises(
        DataError, match="t: the model was trained on the joined texts of .*, and there is no column 'title'"
    ):
        recorded_columns(("title", "body"), ["body"], "t")
    labels = LabelSpace("binary", ("n", "p"))
    rows, _ = load_rows(ROWS, DataConfig(), labels, ("title", "body"))
    assert rows.texts[0] == "title 0\nbody 0"
    rows, _ = load_rows(ROWS, DataConfig(text="body"), labels, ("title", "body"))
    assert rows.texts[0] == "body 0"
    rows, _ = load_rows([{"text": "a", "label": "n"}], DataConfig(), labels, ("title", "body"))
    assert list(rows.texts) == ["a"]


def test_columns_of_a_joined_model_are_joined_row_by_row() -> None:
    both = {"title": ["a", "b"], "body": ["c", None], "id": [1, 2]}
    assert with_joined_columns(both, ("title", "body")) == {"id": [1, 2], "text": ["a\nc", "b"]}
    assert with_joined_columns({"title": "a", "body": "c"}, ("title", "body")) == {"title": "a", "body": "c"}
    with pytest.raises(DataError, match="differ in length"):
        with_joined_columns({"title": ["a"], "body": ["c", "d"]}, ("title", "body"))
    with pytest.raises(DataError, match="'title' holds a list"):
        with_joined_text({"title": ["a"], "body": "c"}, ("title", "body"))
