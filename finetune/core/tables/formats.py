"""The table formats by suffix. A new one is a file beside this and a line here: training, scoring, the command line
and the web UI read the list from here."""

from __future__ import annotations

from pathlib import Path

from finetune.core.tables.csv_tsv import CSV_TSV
from finetune.core.tables.json_lines import JSON_LINES
from finetune.core.tables.parquet import PARQUET
from finetune.core.tables.table_format import TableFormat
from finetune.core.tables.text_lines import TEXT_LINES

FORMATS: dict[str, TableFormat] = {
    ".csv": CSV_TSV,
    ".tsv": CSV_TSV,
    ".jsonl": JSON_LINES,
    ".parquet": PARQUET,
    ".txt": TEXT_LINES,
}

SUFFIXES = tuple(suffix for suffix, kind in FORMATS.items() if kind.has_columns)
"""Suffixes of tables: what can be trained on."""

TEXT_SUFFIXES = tuple(suffix for suffix, kind in FORMATS.items() if not kind.has_columns)
"""Suffixes of lists of texts: what can be scored, beside tables."""

OUTPUT_SUFFIXES = tuple(suffix for suffix, kind in FORMATS.items() if kind.writer is not None)

OUTPUT_NAMES = {
    kind.name: next(suffix for suffix in OUTPUT_SUFFIXES if FORMATS[suffix] is kind)
    for kind in (FORMATS[suffix] for suffix in OUTPUT_SUFFIXES)
}
"""Name of each format that can be written -> the first of its suffixes."""


def format_of(path: str | Path) -> TableFormat | None:
    """Return the format of a file, by its suffix; None where it is of no known format."""
    return FORMATS.get(Path(path).suffix.lower())
