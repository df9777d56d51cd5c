"""Tables of text on disk: read whole, written whole, by suffix.

Knows: CSV, TSV, JSON Lines and Parquet, their encodings and separators; text stays text ("NA", "00123").
Does not know: which column is what.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import DataError

TEXT_NAMES = (
    *("text", "sentence", "review", "content", "body", "comment", "message", "tweet", "utterance", "document"),
    *("description", "title", "headline", "question", "query", "input", "inputs"),
)
"""Columns that obviously hold the text, in the order in which they are looked for."""


@dataclass(frozen=True)
class Table:
    """Rows as dicts, with the column names in file order; `note` says what was found out about the file."""

    columns: list[str]
    rows: list[dict[str, Any]]
    name: str
    note: str | None = None


def read_table(path: str | Path) -> Table:
    """The table in a file, read by its suffix.

    Raises:
        DataError: the file is missing, empty, of an unknown kind or damaged; says where.
    """
    file = Path(path)
    if file.suffix.lower() not in READERS:
        raise DataError(f"unknown kind of table: use one of {', '.join(READERS)}", file=str(file))
    if not file.is_file():
        raise DataError("there is no such file", file=str(file))
    if file.stat().st_size == 0:
        raise DataError("the file is empty", file=str(file))
    table = READERS[file.suffix.lower()](file)
    if not table.rows:
        raise DataError("the table has no rows", file=str(file))
    return table


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows that share their keys, by suffix; lists become JSON in CSV and TSV.

    Raises:
        DataError: an unknown suffix.
    """
    file = Path(path)
    if file.suffix.lower() not in WRITERS:
        raise DataError(f"unknown kind of table: use one of {', '.join(WRITERS)}", file=str(file))
    WRITERS[file.suffix.lower()](file, [dict(row) for row in rows])


def _read_separated(file: Path) -> Table:
    import pandas as pd

    text, encoding = _decoded(file)
    head = text.partition("\n")[0]
    separator = "\t" if file.suffix.lower() == ".tsv" else _separator(head)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would lose cells
            frame = pd.read_csv(
                io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, na_filter=False, index_col=False
            )
    except pd.errors.EmptyDataError as error:
        raise DataError("the file is empty", file=str(file)) from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, ValueError) as error:
        raise DataError(f"not a well-formed table: {' '.join(str(error).split())}", file=str(file)) from error
    found = [] if encoding == "UTF-8" else [f"encoding {encoding}"]
    found += [] if separator in ",\t" else [f"separator {separator!r}"]
    columns = [str(column) for column in frame.columns]
    return Table(columns, _records(columns, frame), str(file), ", ".join(found) or None)


def _separator(head: str) -> str:
    counts = {mark: head.count(mark) for mark in (",", ";", "\t", "|")}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] and not counts[","] else ","


def _decoded(file: Path) -> tuple[str, str]:
    raw = file.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16"), "UTF-16"
    try:
        return raw.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError as error:
        if b"\0" in raw:
            raise DataError("not a text file (it holds zero bytes)", file=str(file)) from error
        return raw.decode("cp1252", errors="replace"), "Windows-1252"


def _records(columns: list[str], frame: Any) -> list[dict[str, Any]]:
    values = [frame.iloc[:, index].tolist() for index in range(len(columns))]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _read_jsonl(file: Path) -> Table:
    text, encoding = _decoded(file)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"this line is not JSON ({error})", file=str(file), row=number) from error
        if not isinstance(row, dict):
            raise DataError("each line should be a JSON object", file=str(file), row=number)
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return Table(columns, rows, str(file), None if encoding == "UTF-8" else f"encoding {encoding}")


def _read_parquet(file: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file ({' '.join(str(error).split())})", file=str(file)) from error
    return Table(list(table.column_names), table.to_pylist(), str(file))


def _write_separated(file: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with file.open("w", newline="", encoding="utf-8") as stream:
        separator = "\t" if file.suffix.lower() == ".tsv" else ","
        writer = csv.DictWriter(stream, list(rows[0]) if rows else [], delimiter=separator)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _write_jsonl(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}

WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    ".csv": _write_separated,
    ".tsv": _write_separated,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}

SUFFIXES = tuple(READERS)
