"""Every table format gives the rows, labels and counts of the CSV file with the same content."""

from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from finetune.config.data import DataConfig
from finetune.core.tables.files import read_table, stream_table, write_table
from finetune.core.tables.formats import OUTPUT_SUFFIXES, SUFFIXES
from finetune.data.load import Splits, load_splits

pytestmark = pytest.mark.fast

XLS = Path(__file__).parents[2] / "fixtures" / "reviews.xls"
"""`ROWS`, saved by another program."""

ROWS: list[dict[str, Any]] = [
    {
        "text": f"some text {number}" if number != 3 else "",
        "label": ["007", "012", "NA"][number % 3] if number != 5 else "",
        "date": str(date(2024, 1, 1) + timedelta(number)),
        "stars": str(number % 5 + 1),
    }
    for number in range(40)
]


def csv_file(folder: Path) -> Path:
    with (folder / "plain.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return folder / "plain.csv"


def read(file: Path, label: str, **more: Any) -> Splits:
    return load_splits(DataConfig(train=str(file), label=label, **more), seed=1)  # type: ignore[arg-type]


def file_of(suffix: str, folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    if suffix == ".xls":
        return XLS
    write_table(folder / f"t{suffix}", rows)
    return folder / f"t{suffix}"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("label", "task"), [("label", "multiclass"), ("stars", "multiclass"), ("stars", "regression")])
def test_a_format_gives_the_rows_of_csv(tmp_path: Path, suffix: str, label: str, task: str) -> None:
    plain, other = (read(file, label, task=task) for file in (csv_file(tmp_path), file_of(suffix, tmp_path)))
    assert (other.labels, other.counts) == (plain.labels, plain.counts)
    for one, same in zip(plain.by_name().values(), other.by_name().values(), strict=True):
        assert (same.texts, same.values, same.numbers) == (one.texts, one.values, one.numbers)
    assert other.counts["empty_texts"] == 1
    if label == "label":
        assert other.labels.names == ("007", "012", "NA") and other.counts["empty_labels"] == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cells_are_those_of_csv_streamed_and_whole(tmp_path: Path, suffix: str) -> None:
    file = file_of(suffix, tmp_path)
    assert list(read_table(file).rows) == ROWS
    stream = stream_table(file, 7)
    assert [row for chunk in stream.chunks for row in chunk] == ROWS and stream.columns == list(ROWS[0])


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_numbers_and_missing_cells_are_the_same_labels_as_in_csv(tmp_path: Path, suffix: str) -> None:
    typed = [row | {"stars": int(row["stars"]), "label": row["label"] or None} for row in ROWS]
    file = file_of(suffix, tmp_path, typed)
    for label in ("stars", "label"):
        plain, other = read(csv_file(tmp_path), label), read(file, label)
        assert (other.labels, other.counts) == (plain.labels, plain.counts)
        assert other.train.values == plain.train.values


def test_a_folder_of_packed_files_and_workbooks_is_split_by_their_names(tmp_path: Path) -> None:
    write_table(tmp_path / "reviews_train.csv.gz", ROWS)
    write_table(tmp_path / "reviews_dev.xlsx", [row | {"text": f"dev {row['text']}"} for row in ROWS])
    write_table(tmp_path / "reviews_test.JSON.ZST", [row | {"text": f"test {row['text']}"} for row in ROWS])
    splits = read(tmp_path, "label")
    assert (len(splits.train), len(splits.validation), len(splits.tests["test"])) == (38, 39, 39)
