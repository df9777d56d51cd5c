"""docs/data.md against the code: every row of its table of label cells is read as the page says."""

from __future__ import annotations

import re
from itertools import cycle, islice
from pathlib import Path

import pytest

from finetune.config.data import DataConfig
from finetune.core.errors import DataError
from finetune.core.tables.files import write_table
from finetune.data.load import COUNTED, load_splits

pytestmark = pytest.mark.fast

PAGE = (Path(__file__).parent.parent / "docs/data.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (.+) \| (binary|multiclass|multi-label|regression|refused) \| (.+) \|$", re.MULTILINE)
CELLS = ROW.findall(PAGE[PAGE.index("<!-- label cells -->") :])


def in_code(text: str) -> list[str]:
    return re.findall(r"`([^`]*)`", text)


def table_of(cells: list[str], count: int = 60) -> list[dict[str, str]]:
    return [{"text": f"text number {n}", "label": cell} for n, cell in enumerate(islice(cycle(cells), count))]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize(("cells", "task", "labels"), CELLS, ids=[cells for cells, _, _ in CELLS])
def test_a_column_of_these_cells_is_read_as_the_page_says(
    tmp_path: Path, cells: str, task: str, labels: str, suffix: str
) -> None:
    write_table(tmp_path / f"t{suffix}", table_of(in_code(cells)))
    config = DataConfig(train=(str(tmp_path / f"t{suffix}"),))
    if task == "refused":
        with pytest.raises(DataError, match=re.escape(labels)):
            load_splits(config, seed=0)
        return
    splits = load_splits(config, seed=0)
    assert splits.labels.task == task.replace("-", "_")
    assert sorted(splits.labels.names) == sorted(in_code(labels))
    assert len(splits.train) + len(splits.validation) == 60


def test_the_page_has_every_count() -> None:
    assert len(CELLS) > 20
    for name in COUNTED:
        assert name == "rows_read" or name.replace("_", " ") in PAGE


def test_the_warnings_that_the_page_names_are_given(tmp_path: Path) -> None:
    for cells, sentence in (
        (["joy, love", "joy", "anger, love"], "--task multi-label"),
        (["1", "2", "3", "4", "5"], "--task regression"),
        (["Positive", "positive", "negative"], "case"),
    ):
        write_table(tmp_path / "t.csv", table_of(cells))
        warnings = load_splits(DataConfig(train=(str(tmp_path / "t.csv"),)), seed=0).warnings
        assert any(sentence in warning for warning in warnings), (cells, warnings)
