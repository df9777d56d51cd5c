"""Tables of text on disk: read a piece at a time into a spool, written whole, by suffix.

Knows: CSV, TSV, JSON Lines and Parquet, their encodings and separators; text stays text ("NA", "00123").
Does not know: which column is what.
"""

from __future__ import annotations

import codecs
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.errors import DataError
from finetune.spool import ROWS_AT_ONCE, Cells, Records, Spool

TEXT_NAMES = (
    *("text", "sentence", "review", "content", "body", "comment", "message", "tweet", "utterance", "document"),
    *("description", "title", "headline", "question", "query", "input", "inputs"),
)
"""Columns that obviously hold the text, in the order in which they are looked for."""

LABEL_NAMES = (
    *("label", "labels", "class", "category", "categories", "target", "sentiment", "intent", "emotion", "topic"),
    *("tag", "tags", "rating", "stars", "score", "y"),
)
"""Columns that obviously hold the label, in the order in which they are looked for."""


@dataclass(frozen=True)
class Table:
    """Rows as dicts, with the column names in file order.

    Attributes:
        note: what was detected about the file (encoding, separator), in a few words.
        warnings: sentences about content that may have been misread.
    """

    columns: list[str]
    rows: Sequence[dict[str, Any]]
    name: str
    note: str | None = None
    warnings: tuple[str, ...] = ()

    def column(self, name: str) -> Sequence[Any]:
        """The cells of one column, None where a row has none."""
        return self.rows.column(name) if isinstance(self.rows, Records) else [row.get(name) for row in self.rows]


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
    import pyarrow

    encoding, said = encoding_of(file)
    with file.open(encoding=encoding, errors="replace", newline="") as stream:
        separator = "\t" if file.suffix.lower() == ".tsv" else separator_of(stream.readline())
    found = [said] if said else []
    found += [] if separator in ",\t" else [f"separator {separator!r}"]
    as_text: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_filter": False, "index_col": False}
    columns: list[str] = []
    with Spool() as spool, file.open(encoding=encoding, errors="replace", newline="") as stream:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would lose cells
                for frame in pd.read_csv(stream, sep=separator, chunksize=ROWS_AT_ONCE, **as_text):
                    columns = [str(column) for column in frame.columns]
                    cells = [pyarrow.array(frame.iloc[:, index], pyarrow.string()) for index in range(len(columns))]
                    spool.add(pyarrow.RecordBatch.from_arrays(cells, columns))
        except pd.errors.EmptyDataError as error:
            raise DataError("the file is empty", file=str(file)) from error
        except (pd.errors.ParserError, pd.errors.ParserWarning, ValueError) as error:
            raise DataError(f"not a well-formed table: {' '.join(str(error).split())}", file=str(file)) from error
        return _spooled(spool, columns, file, ", ".join(found) or None)


def _spooled(spool: Spool, columns: list[str], file: Path, note: str | None = None) -> Table:
    batches = spool.batches()
    cells = {name: Cells([batch.column(index) for batch in batches]) for index, name in enumerate(columns)}
    return Table(columns, Records(cells), str(file), note)


def separator_of(head: str) -> str:
    """The mark that separates the cells of a header line."""
    counts = {mark: head.count(mark) for mark in (",", ";", "\t", "|")}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] and not counts[","] else ","


def encoding_of(file: Path) -> tuple[str, str | None]:
    """The file's encoding by Python's name, and how to say it where it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    zeros = False
    with file.open("rb") as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16", "encoding UTF-16"
        stream.seek(0)
        try:
            while block := stream.read(1 << 20):
                zeros = zeros or b"\0" in block
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            zeros = zeros or any(b"\0" in block for block in iter(lambda: stream.read(1 << 20), b""))
            if zeros:
                raise DataError("not a text file (it holds zero bytes)", file=str(file)) from error
            return "cp1252", "encoding Windows-1252"
    return "utf-8-sig", None


def _read_jsonl(file: Path) -> Table:
    import pyarrow

    encoding, said = encoding_of(file)
    columns: dict[str, None] = {}
    with Spool() as spool, file.open(encoding=encoding, errors="replace", newline="\n") as stream:
        objects = _objects(stream, file, columns)
        while lines := list(islice(objects, ROWS_AT_ONCE)):
            spool.add(pyarrow.record_batch([lines], ["line"]))
        # a column may hold numbers in one row and lists in another: Arrow keeps the lines as they were
        whole = Cells([batch.column(0) for batch in spool.batches()]).decoded(json.loads)
    cells = {name: whole.decoded(partial(_member, name)) for name in columns}
    return Table(list(columns), Records(cells, whole), str(file), said)


def _objects(lines: Iterable[str], file: Path, columns: dict[str, None]) -> Iterator[str]:
    """The lines that hold a JSON object; their keys are added to `columns`."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"this line is not JSON ({error})", file=str(file), row=number) from error
        if not isinstance(row, dict):
            raise DataError("each line should be a JSON object", file=str(file), row=number)
        columns |= dict.fromkeys(row)
        yield line


def _member(name: str, row: dict[str, Any]) -> Any:
    return row.get(name)


def _read_parquet(file: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        with Spool() as spool, pyarrow.parquet.ParquetFile(file) as stream:
            columns = list(stream.schema_arrow.names)
            for batch in stream.iter_batches(ROWS_AT_ONCE):
                # each batch may bring a dictionary of its own, which the file format of the spool cannot replace
                arrays = [
                    array.dictionary_decode() if isinstance(array, pyarrow.DictionaryArray) else array
                    for array in batch.columns
                ]
                spool.add(pyarrow.RecordBatch.from_arrays(arrays, columns))
            return _spooled(spool, columns, file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file ({' '.join(str(error).split())})", file=str(file)) from error


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
