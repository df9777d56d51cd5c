"""A column of zeros and ones for each label: several labels a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from finetune import cli
from finetune.config import loading
from finetune.config.data import DataConfig
from finetune.core.errors import ConfigError, DataError
from finetune.core.labels import LabelSpace
from finetune.core.tables.files import write_table
from finetune.data.load import load_rows, load_splits

pytestmark = pytest.mark.fast

LABELS = ("toxic", "rude", "threat")
HELD = [(1, 1, 0), (0, 0, 0), (1, 0, 1), (0, 1, 0), (0, 0, 0)]
FLAGS = {
    "whole": (0, 1),
    "float": (0.0, 1.0),
    "truth": (False, True),
    "digits": ("0", "1"),
    "point": ("0.0", "1.0"),
    "words": ("no", "Yes"),
    "true": ("false", "TRUE"),
}


def rows(spelling: str = "whole", count: int = 40) -> list[dict[str, Any]]:
    cells = FLAGS[spelling]
    return [
        {"text": f"text {index}"} | dict(zip(LABELS, (cells[flag] for flag in HELD[index % 5]), strict=True))
        for index in range(count)
    ]


def read(table: Any, **config: Any) -> Any:
    return load_splits(DataConfig(**config), seed=1, data=table)


@pytest.mark.parametrize("spelling", list(FLAGS))
@pytest.mark.parametrize("way", ["dicts", "pandas", "polars", "datasets", ".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_column_for_each_label_makes_several_labels_and_rows_without_one_stay(
    way: str, spelling: str, tmp_path: Path
) -> None:
    import datasets
    import polars

    table = rows(spelling)
    if way.startswith("."):
        write_table(tmp_path / f"t{way}", table)
        result = load_splits(DataConfig(train=str(tmp_path / f"t{way}"), label_columns=LABELS), seed=1)  # type: ignore[arg-type]
    else:
        made = {"pandas": pd.DataFrame, "polars": polars.DataFrame, "datasets": datasets.Dataset.from_list}
        result = read(made.get(way, list)(table), label_columns=LABELS)
    assert (result.labels.task, result.labels.names) == ("multi_label", LABELS)
    values = dict(zip(result.train.numbers, result.train.values, strict=True))
    values |= dict(zip(result.validation.numbers, result.validation.values, strict=True))
    assert len(values) == 40 and [values[row] for row in (1, 2, 3)] == [["toxic", "rude"], [], ["toxic", "threat"]]


def test_a_row_without_any_flag_has_no_label_and_one_without_some_is_refused() -> None:
    frame = pd.DataFrame(rows()).convert_dtypes()
    frame.loc[7, list(LABELS)] = pd.NA
    assert read(frame, label_columns=LABELS).counts["empty_labels"] == 1
    frame.loc[7, "toxic"] = 1
    with pytest.raises(DataError, match=r"row 8, column 'rude': the label column is empty.*write 1 or 0"):
        read(frame, label_columns=LABELS)
    table = rows()
    table[4]["threat"] = 2
    with pytest.raises(DataError, match="row 5, column 'threat': the label column is 2: write 1 or 0"):
        read(table, label_columns=LABELS)


def test_a_label_that_no_row_holds_is_kept_and_warned_of() -> None:
    table = [row | {"spam": 0} for row in rows()]
    result = read(table, label_columns=(*LABELS, "spam"))
    assert result.labels.names == (*LABELS, "spam") and any("'spam' (0)" in each for each in result.warnings)


def test_the_setting_may_be_a_list_of_columns_and_flags_win_over_the_file(tmp_path: Path) -> None:
    listed = DataConfig(label=list(LABELS))  # type: ignore[arg-type]
    assert listed == DataConfig(label_columns=LABELS) and listed.label is None
    assert DataConfig(label_columns="toxic, rude, threat").label_columns == LABELS  # type: ignore[arg-type]
    assert DataConfig(label=["toxic"]).label == "toxic"  # type: ignore[arg-type]
    file = tmp_path / "run.yaml"
    file.write_text("base: b\nout: m\ndata: {label: tag}\n", encoding="utf-8")
    assert loading.load(file, data__label=["toxic", "rude"]).data.label_columns == ("toxic", "rude")
    config = loading.load(file, ["data.label=[toxic, rude]"])
    assert config.data.label_columns == ("toxic", "rude")
    file.write_text(loading.dump(config), encoding="utf-8")
    assert loading.load(file) == config
    assert loading.load(file, data__label=["tag"]).data.label == "tag"
    with pytest.raises(ConfigError, match="label_columns and soft_label_columns cannot both be set"):
        loading.load(file, ["data.soft_label_columns=[a, b]"])


def test_the_flag_is_repeated_for_each_column(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "t.csv", rows())
    flags = [part for name in LABELS for part in ("--label", name)]
    arguments = [str(tmp_path / "t.csv"), *flags, "--base", str(tiny_base), "--out", str(tmp_path / "m"), "--dry-run"]
    with pytest.raises(SystemExit) as left:
        cli.run(cli.finetune, arguments)
    output = capsys.readouterr().out
    assert not left.value.code and "# labels: toxic, rude, threat\n" in output and "  task: multi_label\n" in output


def test_columns_of_zeros_and_ones_are_proposed_where_no_label_is_obvious() -> None:
    with pytest.raises(DataError, match="3 columns hold zeros and ones.*--label toxic --label rude --label threat"):
        read(rows())
    with pytest.raises(DataError, match="no column 'toxic,rude'.*repeat the flag: --label toxic --label rude"):
        read(rows(), label="toxic,rude")


def test_shares_and_zeros_and_ones_are_not_mixed_up() -> None:
    with pytest.raises(
        ConfigError, match=r"soft_label_columns hold a distribution over labels.*with --label, once for each"
    ):
        read(rows(), soft_label_columns=LABELS, task="multi-label")
    with pytest.raises(DataError, match=r"row 1.*2 ones in this row.*with --label, once for each"):
        read(rows(), soft_label_columns=LABELS)


def test_one_label_a_row_needs_exactly_one_column_that_holds() -> None:
    table = [{"text": f"t{index}", "a": index % 2, "b": 1 - index % 2} for index in range(40)]
    result = read(table, label_columns=("a", "b"), task="binary")
    assert (result.labels.task, result.labels.names, result.train.values[0]) == ("binary", ("a", "b"), "b")
    with pytest.raises(DataError, match="row 1.*2 of the label columns are 1, and task multiclass takes one"):
        read(rows(), label_columns=LABELS, task="multiclass")
    with pytest.raises(ConfigError, match="task regression takes numbers: name one column"):
        read(rows(), label_columns=LABELS, task="regression")


def test_other_splits_and_evaluated_tables_have_the_same_columns() -> None:
    other = [row | {"text": f"other {index}"} for index, row in enumerate(rows("words", 10))]
    hidden = [{"text": f"hidden {index}"} | dict.fromkeys(LABELS, -1) for index in range(5)]
    result = read({"train": rows(), "validation": other, "test": hidden}, label_columns=LABELS)
    assert result.validation.values[0] == ["toxic", "rude"] and not result.tests
    assert any("split 'test' has no labels (all 5 are -1)" in each for each in result.notes)
    model = LabelSpace("multi_label", ("rude", "threat", "toxic"))
    evaluated, _ = load_rows(rows(), DataConfig(label_columns=LABELS), model)
    assert evaluated.values[2] == ["toxic", "threat"]


def test_a_run_is_repeated_from_its_config(tmp_path: Path) -> None:
    write_table(tmp_path / "t.jsonl", rows())
    config = DataConfig(train=str(tmp_path / "t.jsonl"), label_columns=LABELS)  # type: ignore[arg-type]
    result = load_splits(config, seed=1)
    again = DataConfig(**json.loads(config.model_copy(update={"task": result.labels.task}).model_dump_json()))
    assert load_splits(again, seed=1).labels == result.labels
