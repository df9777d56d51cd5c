"""Tables in, scored tables out.

Knows: which column holds the text, what the new columns are called, how to put a file in place whole.
Does not know: how scores come about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from finetune.labels import shown
from finetune.tables import SUFFIXES, TEXT_NAMES, Table, read_table, write_table
from service.errors import BadRequest
from service.schema import Answer, TextInput, free_names

ROWS_AT_ONCE = 512

Score = Callable[[list[TextInput]], list[Answer]]


def table_among(arguments: Sequence[str]) -> Path | None:
    """The file that is meant where texts may stand: a single argument with a table's suffix.

    Raises:
        BadRequest: it has the suffix, and there is no such file.
    """
    if len(arguments) != 1 or Path(arguments[0]).suffix.lower() not in SUFFIXES or "\n" in arguments[0]:
        return None
    path = Path(arguments[0])
    if not path.is_file():
        raise BadRequest(f"there is no file {path}", hint="a single argument with a table's suffix is taken for a file")
    return path


def check_output(out: Path, table: Path, *, overwrite: bool) -> None:
    """Refuse an output that would cost somebody a file, before any work is done.

    Raises:
        BadRequest: unknown suffix, no such folder, the input itself, or a file that exists.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise BadRequest(f"{out}: the output's suffix must be one of {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise BadRequest(f"{out}: there is no folder {out.parent}")
    if out.is_dir():
        raise BadRequest(f"{out} is a folder: name a file")
    if out.exists() and out.samefile(table):
        raise BadRequest(f"{out} is the input itself: name another file")
    if out.exists() and not overwrite:
        raise BadRequest(f"{out} exists already: name another file, or pass --overwrite to replace it")


def texts_of(table: Table, text: str | None = None, text_pair: str | None = None) -> list[TextInput]:
    """The texts of a table, from the columns named, or from the one that is obviously meant.

    Raises:
        BadRequest: no such column, none that is obvious, or a cell that holds no text.
    """
    column = _column(table, text)
    if text_pair is not None and text_pair not in table.columns:
        raise BadRequest(f"{table.name} has no column {text_pair!r}: it has {shown(table.columns)}")
    texts = _texts(table, column)
    pairs = _texts(table, text_pair) if text_pair is not None else repeat(None)
    return list(map(TextInput, texts, pairs))


def score_table(
    table: Path,
    out: Path,
    score: Score,
    *,
    columns: Callable[[Answer], dict[str, Any]],
    text: str | None = None,
    text_pair: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Write the table's rows with the columns of their answers beside them; gives the new columns' names.

    The output appears only once it is complete. A new column whose name is taken gets `predicted_` before it.

    Raises:
        BadRequest: an output or a column that cannot be used.
        DataError: a table that cannot be read.
    """
    check_output(out, table, overwrite=overwrite)
    source = read_table(table)
    inputs = texts_of(source, text, text_pair)
    rows: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    before = iter(source.rows)
    for answers in _in_parts(inputs, score):
        for answer, row in zip(answers, before, strict=False):
            fresh = columns(answer)
            names = names or free_names(fresh, source.columns)
            given = {column: row.get(column) for column in source.columns}
            rows.append(given | {names[column]: value for column, value in fresh.items()})
        progress(len(rows), len(inputs))
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    try:
        write_table(partial, rows)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return list(names.values())


def _in_parts(inputs: list[TextInput], score: Score) -> Iterator[list[Answer]]:
    for start in range(0, len(inputs), ROWS_AT_ONCE):
        yield score(inputs[start : start + ROWS_AT_ONCE])


def _column(table: Table, asked: str | None) -> str:
    if asked is not None:
        if asked not in table.columns:
            raise BadRequest(f"{table.name} has no column {asked!r}: it has {shown(table.columns)}")
        return asked
    by_name = {column.lower(): column for column in table.columns}
    obvious = [by_name[name] for name in TEXT_NAMES if name in by_name]
    if obvious or len(table.columns) == 1:
        return obvious[0] if obvious else table.columns[0]
    raise BadRequest(f"{table.name}: name the column that holds the text with --text; it has {shown(table.columns)}")


def _texts(table: Table, column: str) -> Iterator[str]:
    for number, cell in enumerate(table.column(column), start=1):
        if not isinstance(cell, str):
            what = "empty" if cell is None else type(cell).__name__
            raise BadRequest(f"{table.name}, row {number}, column {column!r}: a text is wanted, and this is {what}")
        yield cell
