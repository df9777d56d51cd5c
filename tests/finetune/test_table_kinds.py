"""Tables in memory and in Parquet: names of classes, kinds of columns, and what is refused with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from finetune.data import Splits, load_splits
from finetune.dataconfig import DataConfig
from finetune.errors import DataError

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
        found = read(tmp_path / "t.parquet")
        assert (found.labels.names, found.counts["empty_labels"]) == (("no", "yes"), empty)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()])
def test_every_kind_of_text_in_a_parquet_file_is_read(tmp_path: Path, kind: Any) -> None:
    found = read(written(tmp_path, label=pa.array(WORDS).cast(pa.binary()).cast(kind)))
    assert found.labels.names == ("neg", "pos") and sorted(found.train.texts)[0] == "text 0"


def test_columns_of_one_name_are_refused_where_they_cannot_be_told_apart(tmp_path: Path) -> None:
    frame = pd.DataFrame([[text, word, "x"] for text, word in zip(TEXTS, WORDS, strict=True)])
    frame.columns = pd.Index(["text", "label", "label"])
    table = pa.Table.from_arrays([pa.array(TEXTS), pa.array(WORDS), pa.array(WORDS)], ["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    for data in (frame, tmp_path / "t.parquet"):
        with pytest.raises(DataError, match=r"column 'label': several columns have this name: rename or drop"):
            read(data)


def test_what_is_no_table_is_refused_by_its_kind() -> None:
    from datasets import Dataset

    for data in (pd.Series(TEXTS), Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(), tuple(TEXTS)):
        with pytest.raises(DataError, match=f"a list of dicts, not {type(data).__name__}"):
            read(data)
    with pytest.raises(DataError, match=r"no split 'train' \(there are: text, label\).*one table for each split"):
        read({"text": TEXTS, "label": WORDS})


def test_splits_that_are_not_used_are_said_and_two_of_one_kind_are_refused() -> None:
    rows = [{"text": text, "label": word} for text, word in zip(TEXTS, WORDS, strict=True)]
    assert any("not used: 'unlabeled', 'extra'" in each for each in read(dict(train=rows, unlabeled=[], extra=1)).said)
    with pytest.raises(DataError, match="splits 'dev' and 'val' are both read as 'validation'"):
        read({"train": rows, "dev": rows, "val": rows})
