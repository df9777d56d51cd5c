"""Tables in memory and in Parquet: names of classes, kinds of columns, and what is refused with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from finetune.config.data import DataConfig
from finetune.core.errors import DataError
from finetune.core.tables.files import stream_table
from finetune.data.load import Splits, load_splits

pytestmark = pytest.mark.fast

TEXTS = [f"text {index}" for index in range(40)]
WORDS = ["neg", "pos"] * 20


def read(data: Any, **config: Any) -> Splits:
    if isinstance(data, Path):
        return load_splits(DataConfig(train=[str(data)], **config), seed=0)
    return load_splits(DataConfig(**config), seed=0, data=data)


def written(folder: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pa.table({"text": TEXTS, **columns}), folder / "t.parquet")
    return folder / "t.parquet"


def test_class_names_in_the_metadata_of_a_parquet_file_are_kept_and_minus_one_is_no_label(tmp_path: Path) -> None:
    import datasets
    from datasets import ClassLabel, Dataset, Features, List, Value

    datasets.disable_progress_bars()
    names = ClassLabel(names=["no", "yes"])
    for kind, cells, empty in (
        (names, [0, 1, -1, 1], 10),
        (List(names), [[0], [0, 1], [], [1]], 0),
        (List({"name": names}), [[{"name": 0}], [{"name": 1}]] * 2, 0),
    ):
        features = Features({"text": Value("string"), "label": kind})
        Dataset.from_dict({"text": TEXTS, "label": cells * 10}, features=features).to_parquet(tmp_path / "t.parquet")
        result = read(tmp_path / "t.parquet")
        assert (result.labels.names, result.counts["empty_labels"]) == (("no", "yes"), empty)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()])
def test_every_kind_of_text_in_a_parquet_file_is_read(tmp_path: Path, kind: Any) -> None:
    result = read(written(tmp_path, label=pa.array(WORDS).cast(pa.binary()).cast(kind)))
    assert result.labels.names == ("neg", "pos") and sorted(result.train.texts)[0] == "text 0"


def test_columns_of_one_name_are_refused_where_they_cannot_be_told_apart(tmp_path: Path) -> None:
    frame = pd.DataFrame([[text, word, "x"] for text, word in zip(TEXTS, WORDS, strict=True)])
    frame.columns = pd.Index(["text", "label", "label"])
    table = pa.Table.from_arrays([pa.array(TEXTS), pa.array(WORDS), pa.array(WORDS)], ["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    for data in (frame, tmp_path / "t.parquet"):
        with pytest.raises(DataError, match=r"column 'label': several columns have this name: rename or drop"):
            read(data)
    with pytest.raises(DataError, match="several columns have this name"):
        stream_table(tmp_path / "t.parquet", 10)


def test_what_is_no_table_is_refused_by_its_kind() -> None:
    from datasets import Dataset

    for data in (pd.Series(TEXTS), Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(), tuple(TEXTS)):
        with pytest.raises(DataError, match=f"a list of dicts, not {type(data).__name__}"):
            read(data)
    with pytest.raises(DataError, match=r"no split 'train' \(there are: text, label\).*one table for each split"):
        read({"text": TEXTS, "label": WORDS})


def test_splits_that_are_not_used_are_reported_and_two_of_one_kind_are_refused() -> None:
    table = rows(["neg", "pos"])
    result = read({"train": table, "unlabeled": [], "extra": 1})
    assert any("unused splits: 'unlabeled', 'extra'" in each for each in result.notes)
    with pytest.raises(DataError, match="splits 'dev' and 'val' are both read as 'validation'"):
        read({"train": table, "dev": table, "val": table})


def rows(cells: list[Any], odd: Any = None, **more: Any) -> list[dict[str, Any]]:
    labels = [cells[index % len(cells)] for index in range(40)]
    if odd is not None:
        labels[7] = odd
    return [{"text": text, "label": label, **more} for text, label in zip(TEXTS, labels, strict=True)]


@pytest.mark.parametrize("text", [{"a": "b"}, ["a", "b"], b"\xff", [1.0]])
def test_a_text_that_is_no_text_is_refused_with_its_row(text: Any) -> None:
    table = rows(["neg", "pos"])
    table[7]["text"] = text
    with pytest.raises(DataError, match=r"row 8, column 'text': the text is .*"):
        read(table)


@pytest.mark.parametrize("header", ["Text,LABEL", "text,label", " text , Label"])
def test_a_header_is_repeated_in_any_case(tmp_path: Path, header: str) -> None:
    lines = [f"{text},{word}" for text, word in zip(TEXTS, WORDS, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines[:20], header, *lines[20:]]))
    result = read(tmp_path / "t.csv")
    assert (result.labels.names, result.counts["repeated_headers"]) == (("neg", "pos"), 1)


def test_a_header_of_another_order_within_a_table_is_refused_with_its_row(tmp_path: Path) -> None:
    lines = [f"{text},{word}" for text, word in zip(TEXTS, WORDS, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines[:20], "label,text", "pos,more"]))
    with pytest.raises(DataError, match=r"row 21: this row names the columns in another order"):
        read(tmp_path / "t.csv")


def test_columns_of_nearly_one_name_are_warned_of() -> None:
    table: list[dict[str, Any]] = rows(["neg", "pos"])
    table[30]["Label "] = table[30].pop("label")
    result = read(table)
    assert result.counts["empty_labels"] == 1
    assert any("columns 'label' and 'Label ' differ only in case, blanks" in each for each in result.warnings)


@pytest.mark.parametrize("first", ["\n\nsep=;\n", " sep=;\r\n", "\n \nSEP=;\n"])
def test_the_separator_line_of_excel_may_follow_blank_lines(tmp_path: Path, first: str) -> None:
    body = "".join(f'"{text}, or so";{word}\n' for text, word in zip(TEXTS, WORDS, strict=True))
    (tmp_path / "t.csv").write_bytes((first + "text;label\n" + body + 'last;"pos";"x"\n').encode())
    with pytest.raises(DataError, match=rf"row 41: .*\(line {first.count(chr(10)) + 42}\) has 3 cells"):
        read(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes((first + "text;label\n" + body).encode())
    assert read(tmp_path / "t.csv").labels.names == ("neg", "pos")


def test_the_way_out_is_named_where_columns_are_not_found(tmp_path: Path) -> None:
    for mark, hint in (
        ("^", "name the character between them with --separator"),
        (",", "not a header, pass --no-header"),
    ):
        body = "".join(f"{text}{mark}{word}\n" for text, word in zip(TEXTS, WORDS, strict=True))
        (tmp_path / "t.csv").write_text(body)
        with pytest.raises(DataError, match=hint):
            read(tmp_path / "t.csv")


def test_training_rows_that_are_all_in_evaluation_are_refused() -> None:
    with pytest.raises(DataError, match="every training text is in an evaluation split too"):
        read({"train": rows(["neg", "pos"]), "test": rows(["neg", "pos"])})
