"""Weights of rows: read from a column, refused where they are no weights, and carried to the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.checks import check_settings
from finetune.config.data import DataConfig
from finetune.config.loading import build
from finetune.core.errors import ConfigError, DataError
from finetune.core.labels import LabelSpace
from finetune.core.tables.files import write_table
from finetune.data.load import load_rows, load_splits
from finetune.data.row_weights import scaled_weights

pytestmark = pytest.mark.fast

ROWS: list[dict[str, Any]] = [
    {"text": f"text {number}", "label": "np"[number % 2], "w": str(number)} for number in range(1, 41)
]


def test_weights_follow_their_rows_through_splits_and_scale_to_a_mean_of_one(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ROWS)
    splits = load_splits(DataConfig(train=str(tmp_path / "t.csv"), weight=" w"), seed=1)  # type: ignore[arg-type]
    for rows in (splits.train, splits.validation):
        assert rows.weights == [float(text.split()[1]) for text in rows.texts]
        scaled = scaled_weights(rows)
        assert scaled is not None and scaled.mean() == pytest.approx(1)
        assert scaled / scaled[0] == pytest.approx(np.array(rows.weights) / rows.weights[0])
    plain = load_splits(DataConfig(train=str(tmp_path / "t.csv")), seed=1)  # type: ignore[arg-type]
    assert plain.train.weights is None and scaled_weights(plain.train) is None
    assert plain.train.texts == splits.train.texts


@pytest.mark.parametrize("cell", ["", None, "-1", "nan", "inf", "1,5", "much", True, [1]])
def test_what_is_no_weight_is_refused_with_its_row(cell: Any) -> None:
    rows = [row | {"w": cell} if row["w"] == "7" else row for row in ROWS]
    with pytest.raises(DataError, match=r"row 7, column 'w': the weight .* should be a finite number of at least 0"):
        load_splits(DataConfig(weight="w"), seed=1, data=rows)


def test_missing_columns_and_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(DataError, match=r"no column 'v' \(--weight\); there are: text, label, w"):
        load_splits(DataConfig(weight="v"), seed=1, data=ROWS)
    splits = load_splits(DataConfig(weight="w"), seed=1, data=[row | {"w": 0} for row in ROWS])
    with pytest.raises(DataError, match=r"the weights of all 36 rows are 0 \(--weight\)"):
        scaled_weights(splits.train)
    config = {"base": "b", "out": "o", "data": {"weight": "w"}, "auxiliary": ["keep_embedding"]}
    with pytest.raises(ConfigError, match=r"data\.weight is for the loss, and auxiliary terms count all rows the same"):
        check_settings(build(config))


def test_the_largest_weight_of_equal_rows_is_kept_and_a_test_table_needs_none(tmp_path: Path) -> None:
    write_table(tmp_path / "test.csv", [{"text": "other", "label": "n"}])
    rows = [*ROWS, ROWS[0] | {"w": 100}, ROWS[1] | {"w": 0.5}]
    config = DataConfig(weight="w", test={"test": str(tmp_path / "test.csv")})  # type: ignore[dict-item]
    splits = load_splits(config, seed=1, data=rows)
    weights = {
        text: weight
        for part in (splits.train, splits.validation)
        for text, weight in zip(part.texts, part.weights or [], strict=True)
    }
    assert (weights["text 1"], weights["text 2"], weights["text 3"]) == (100, 2, 3) and len(weights) == 40
    assert splits.tests["test"].weights is None and splits.counts["duplicates"] == 2
    evaluated, _ = load_rows(rows, DataConfig(weight="w"), LabelSpace("binary", ("n", "p")))
    assert len(evaluated) == 40


def test_proportions_and_balanced_class_weights_count_weighted_rows() -> None:
    space = LabelSpace("binary", ("n", "p"))
    targets, weights = space.encode(["n", "n", "p"]), np.array([0.5, 0.5, 2], dtype=np.float32)
    repeated = space.encode(["n", "p", "p"])
    assert space.prior(targets, None, weights) == pytest.approx(space.prior(repeated))
    assert space.weights("balanced", targets, weights) == pytest.approx(space.weights("balanced", repeated))
    several = LabelSpace("multi_label", ("a", "b"))
    targets, repeated = several.encode([["a"], ["b"], []]), several.encode([["a"], ["a"], ["b"], []])
    weights = np.array([2, 1, 1], dtype=np.float32) * 3 / 4
    assert several.weights("balanced", targets, weights) == pytest.approx(several.weights("balanced", repeated))


def test_a_weight_or_group_column_is_never_taken_as_the_label_or_the_text() -> None:
    rows = [{"text": f"text {n}", "verdict": "ab"[n % 2], "score": 1 + n % 3, "author": f"a{n}"} for n in range(30)]
    splits = load_splits(DataConfig(weight="score", group="author", label="verdict"), seed=0, data=rows)
    assert splits.labels.names == ("a", "b")
    with pytest.raises(DataError, match="the label column cannot be detected"):
        load_splits(DataConfig(weight="score", text="text"), seed=0, data=rows)
