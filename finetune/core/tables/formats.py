"""The table formats by suffix. A new one is a file beside this and a line here: training, scoring, the command line
and the web UI read the list from here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from finetune.core.tables.arrow_ipc import ARROW
from finetune.core.tables.csv_tsv import CSV_TSV
from finetune.core.tables.excel import EXCEL, EXCEL_97
from finetune.core.tables.json_array import JSON_ARRAY
from finetune.core.tables.json_lines import JSON_LINES
from finetune.core.tables.parquet import PARQUET
from finetune.core.tables.table_format import TableFormat
from finetune.core.tables.text_file import PACKINGS, suffix_of
from finetune.core.tables.text_lines import TEXT_LINES

PLAIN: dict[str, TableFormat] = {
    ".csv": CSV_TSV,
    ".tsv": CSV_TSV,
    ".jsonl": JSON_LINES,
    ".json": JSON_ARRAY,
    ".parquet": PARQUET,
    ".arrow": ARROW,
    ".feather": ARROW,
    ".xlsx": EXCEL,
    ".xls": EXCEL_97,
    ".txt": TEXT_LINES,
}

TEXTS = (CSV_TSV, JSON_LINES, JSON_ARRAY, TEXT_LINES)
"""Formats of text, which are also read and written in gzip and zstd."""

FORMATS: dict[str, TableFormat] = PLAIN | {
    suffix + packed: replace(kind, name=f"{kind.name}, {packing}")
    for packed, packing in PACKINGS.items()
    for suffix, kind in PLAIN.items()
    if kind in TEXTS
}

SUFFIXES = tuple(suffix for suffix, kind in FORMATS.items() if kind.has_columns)
"""Suffixes of tables: what can be trained on."""

TEXT_SUFFIXES = tuple(suffix for suffix, kind in FORMATS.items() if not kind.has_columns)
"""Suffixes of lists of texts: what can be scored, beside tables."""

OUTPUT_SUFFIXES = tuple(suffix for suffix, kind in FORMATS.items() if kind.writer is not None)

OUTPUT_NAMES = {
    kind.name: next(suffix for suffix in OUTPUT_SUFFIXES if FORMATS[suffix] is kind)
    for kind in (PLAIN[suffix] for suffix in OUTPUT_SUFFIXES if suffix in PLAIN)
}
"""Name of each format that can be written, packed ones aside -> the first of its suffixes."""


def format_of(path: str | Path) -> TableFormat | None:
    """Return the format of a file, by its suffix; None where it is of no known format."""
    return FORMATS.get(suffix_of(path))


def can_write(name: str) -> bool:
    """Return whether the format of a name in `OUTPUT_NAMES` can be written: what it needs is installed."""
    needs = FORMATS[OUTPUT_NAMES[name]].writer_needs
    return needs is None or find_spec(needs) is not None


def listed(suffixes: Iterable[str]) -> str:
    """Return suffixes in words; packed ones are not spelled out one by one."""
    plain = [suffix for suffix in suffixes if suffix in PLAIN]
    packed = [suffix for suffix in plain if f"{suffix}.gz" in suffixes]
    also = f" ({', '.join(packed)} also with {' or '.join(PACKINGS)})" if packed else ""
    return ", ".join(plain) + also
