"""Cross-validation: every row is scored exactly once, by a model of rows that share neither text nor group with it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from finetune.cli import finetune
from finetune.config.data import DataConfig
from finetune.config.loading import build
from finetune.core.errors import ConfigError, DataError
from finetune.core.events import Event, Info
from finetune.core.tables.files import read_table, write_table
from finetune.cross_validation import _fold_splits, cross_validate, mean_interval
from finetune.data.load import load_splits
from finetune.data.splits import folds_of

ROWS: list[dict[str, Any]] = [
    {"text": f"text {n}", "label": "ab"[n % 4 == 0], "author": f"author {n // 5}"} for n in range(60)
]


def config_of(base: Path | str, out: Path, **more: Any) -> Any:
    return build({"base": str(base), "out": str(out), "plots": False, "optim": {"epochs": 1, "batch_size": 16}, **more})


@pytest.mark.fast
@pytest.mark.parametrize("group", [None, "author"])
def test_folds_hold_every_row_once_in_equal_proportions(group: str | None) -> None:
    rows = [*ROWS, *ROWS[:7]]  # duplicates are dropped first
    whole = load_splits(DataConfig(group=group), seed=1, data=rows, whole=True)
    assert len(whole.train) == 60 and len(whole.validation) == 0
    parts = folds_of(whole.train, 5, whole.labels, 1)
    assert sorted(place for part in parts for place in part) == list(range(60))
    assert parts == folds_of(whole.train, 5, whole.labels, 1) != folds_of(whole.train, 5, whole.labels, 2)
    shares = [Counter(whole.train.values[place] for place in part)["b"] for part in parts]
    assert max(shares) - min(shares) <= (0 if group is None else 2)
    for part in parts:
        splits = _fold_splits(config_of("b", Path("o"), data={"group": group}), whole, part)
        used = (splits.train, splits.validation, splits.tests["fold"])
        assert sum(map(len, used)) == 60 and len({text for one in used for text in one.texts}) == 60
        if group is not None:
            authors = [set(one.groups or ()) for one in used]
            assert not (authors[0] & authors[2] or authors[1] & authors[2] or authors[0] & authors[1])


@pytest.mark.fast
def test_a_text_with_two_ratings_is_never_trained_on_where_it_is_scored() -> None:
    rows = [{"text": f"text {n // 2}", "label": n / 10} for n in range(60)]
    config = DataConfig(task="regression")
    whole = load_splits(config, seed=1, data=rows, whole=True)
    for part in folds_of(whole.train, 4, whole.labels, 1):
        splits = _fold_splits(config_of("b", Path("o")), whole, part)
        assert not {*splits.train.texts} & {*splits.tests["fold"].texts} and splits.target is not None
        assert not {*splits.validation.texts} & {*splits.tests["fold"].texts}


@pytest.mark.fast
def test_a_validation_table_stays_the_validation_table() -> None:
    data = {"train": ROWS, "validation": [{"text": f"other {n}", "label": "ab"[n % 2]} for n in range(8)]}
    whole = load_splits(DataConfig(), seed=1, data=data, whole=True)
    splits = _fold_splits(config_of("b", Path("o")), whole, range(20))
    assert len(splits.validation) == 8 and len(splits.train) == 40


@pytest.mark.fast
def test_too_many_folds_are_refused(tmp_path: Path) -> None:
    whole = load_splits(DataConfig(group="author"), seed=1, data=ROWS, whole=True)
    with pytest.raises(DataError, match="13 folds need as many groups, and there are 12: lower --folds"):
        folds_of(whole.train, 13, whole.labels, 1)
    with pytest.raises(ConfigError, match="give 2 folds or more"):
        cross_validate(config_of("b", tmp_path / "m"), 1, ROWS)
    (tmp_path / "m.folds").mkdir()
    with pytest.raises(ConfigError, match=r"m\.folds exists already.*--overwrite"):
        cross_validate(config_of("b", tmp_path / "m"), 2, ROWS)
    result = CliRunner().invoke(finetune, ["t.csv", "--base", "b", "--out", "o", "--folds", "3", "--dry-run"])
    assert result.exit_code == 2 and "leave out --dry-run and --resume" in result.output


@pytest.mark.fast
def test_the_interval_of_a_mean_is_students() -> None:
    entry = mean_interval([0.7, 0.8, 0.9])
    assert entry["mean"] == pytest.approx(0.8)
    # t(0.975, 2) = 4.302653, s = 0.1
    assert (entry["low"], entry["high"]) == pytest.approx((0.8 - 0.248414, 0.8 + 0.248414), abs=1e-5)
    assert mean_interval([0.5, float("nan")]) == {"folds": [0.5, None], "mean": 0.5}


@pytest.mark.parametrize("task", ["binary", "multi_label", "regression"])
def test_predictions_of_all_folds_are_one_table(tiny_base: Path, tmp_path: Path, task: str) -> None:
    values = {"binary": lambda n: "ab"[n % 3 == 0], "multi_label": lambda n: ["a"] if n % 2 else ["a", "b"]}
    value = values.get(task, lambda n: n / 7)
    rows = [{"id": n, "text": f"good film {n}", "label": value(n)} for n in range(30)]
    events: list[Event] = []
    config = config_of(tiny_base, tmp_path / "m", data={"task": task})
    result = cross_validate(config, 2, rows, events.append)
    table = list(read_table(result.path / "predictions.csv").rows)
    assert [row["text"] for row in table] == [row["text"] for row in rows]
    assert [int(row["row"]) for row in table] == list(range(1, 31)) and {row["fold"] for row in table} == {"1", "2"}
    stored = json.loads((result.path / "metrics.json").read_text())
    assert (stored["rows"], stored["folds"]) == (30, [15, 15])
    if task == "binary":
        right = sum(row["label"] == row["prediction"] for row in table) / 30
        assert stored["metrics"]["accuracy"]["pooled"]["value"] == pytest.approx(right)
        assert float(table[0]["score"]) == max(float(table[0]["score_a"]), float(table[0]["score_b"]))
    if task == "regression":
        error = sum(abs(float(row["label"]) - float(row["prediction"])) for row in table) / 30
        assert stored["metrics"]["mae"]["pooled"]["value"] == pytest.approx(error, rel=1e-5)
    for entry in stored["metrics"].values():
        assert (
            entry["mean"] == pytest.approx(sum(entry["folds"]) / 2) and entry["low"] <= entry["mean"] <= entry["high"]
        )
    assert sum(isinstance(event, Info) and "fold 2 of 2: trained on 13" in event.text for event in events) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.folds"]


def test_the_command_line_cross_validates_and_trains_the_final_model(tiny_base: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ROWS)
    flags = ["--base", str(tiny_base), "--out", str(tmp_path / "m"), "--epochs", "1", "--group", "author"]
    result = CliRunner().invoke(finetune, [str(tmp_path / "t.csv"), *flags, "--folds", "2"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "2 folds: " in result.output and f"predictions: {tmp_path / 'm.folds' / 'predictions.csv'}" in result.output
    assert f"model: {tmp_path / 'm'}" in result.output and (tmp_path / "m" / "config.json").is_file()


def test_thresholds_and_coverage_of_folds_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    for setting in ({"thresholds": "f1"}, {"coverage": 0.9}):
        config = build({"base": str(tiny_base), "out": str(tmp_path / "model"), **setting})
        with pytest.raises(ConfigError, match="leave them out"):
            cross_validate(config, 3, data=[{"text": "good", "label": "a"}])
