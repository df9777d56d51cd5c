"""The files of a distillation in the folder `report` of a model, and how they are read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.core.tables.files import read_table
from finetune.core.tables.options import TableOptions

REPORT, TO_LABEL, EXAMPLES = "distillation.json", "to_label.csv", "examples.csv"

CHOSEN, RANDOM, IN_DOUBT = "chosen", "random", "doubt"
"""The column of `to_label.csv` that says why a row is in it, and its values."""


def report_of(model: Path) -> dict[str, Any] | None:
    """Return the report of a model folder (`DistillReport.to_json`), None where it has none."""
    file = model / "report" / REPORT
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def examples_of(model: Path) -> list[dict[str, Any]]:
    """Return the examples of each label as rows with `kind`, `label`, `row`, `text` and `score`."""
    file = model / "report" / EXAMPLES
    if not file.is_file():
        return []
    return [dict(row) for row in read_table(file, TableOptions("utf-8", ",")).rows]


def to_label_of(model: Path) -> bytes | None:
    """Return the table of rows to label next, None where there is none."""
    file = model / "report" / TO_LABEL
    return file.read_bytes() if file.is_file() else None
