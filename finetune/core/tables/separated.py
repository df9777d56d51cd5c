"""CSV and TSV: separator, quoting and header found from the whole file, and its rows, some at a time.

Used by tables.py (whole tables) and chunks.py (streams), so that both read the same rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from finetune.core.errors import DataError
from finetune.core.tables.columns import LABEL_NAMES, TEXT_NAMES, clean_name
from finetune.core.tables.options import SEPARATORS, TableOptions
from finetune.core.tables.quotes import Verdict, are_plain, is_number, judged
from finetune.core.tables.text_encoding import LONGEST_LINE, blocks, encoding_of

SAMPLE_CHARACTERS, SAMPLE_ROWS = 1 << 18, 400
SEP_LINE = re.compile(r'\ufeff?(?:[ \t]*\r?\n)*[ \t]*"?sep=(\\t|[^\r\n"])"?[,;\t|]*\r?\n?', re.IGNORECASE)
"""Excel's first line that names the separator, with the blank lines before it."""

Rows = list[list[str]]


@dataclass(frozen=True)
class Dialect:
    """How a file of cells is read.

    Attributes:
        separator, quoted, spaced: between cells; whether double quotes enclose cells; whether blanks follow separators.
        columns: their names, as many as a row has cells.
        has_header: whether the first row names them.
        note, warnings: see `tables.Table`.
    """

    file: Path
    encoding: str
    separator: str
    quoted: bool
    spaced: bool
    columns: list[str]
    has_header: bool
    note: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass
class Layout:
    """How the head of a file looks with one separator."""

    separator: str
    quoted: bool
    spaced: bool
    rows: Rows = field(default_factory=list)
    width: int = 1
    fitting: float = 0.0


def dialect_of(file: Path, options: TableOptions) -> Dialect:
    """How to read a CSV or TSV file.

    Raises:
        DataError: an encoding that is not certain, no rows, quotes that do not pair, a header of no names.
    """
    encoding, said = encoding_of(file, options.encoding)
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))  # csv's own limit refuses a long document
    with opened(file, encoding) as stream:
        text = stream.read(SAMPLE_CHARACTERS)
        is_whole = not stream.read(1)
    named = SEP_LINE.match(text)
    head = text[named.end() :] if named else text.removeprefix("\ufeff")
    if not is_whole and "\n" in head:
        head = head[: head.rindex("\n") + 1]
    marks = [options.separator] if options.separator else []
    marks = marks or ([named[1].replace("\\t", "\t")] if named else [*SEPARATORS])
    layout = _layout(head, marks, file)
    if not layout.rows:
        raise DataError("the file is empty" if not head.strip() else "the table has no rows", file=str(file))
    first = layout.rows[0]
    columns = _columns(first[: layout.width]) if options.header else [f"column_{n + 1}" for n in range(layout.width)]
    notes = [said, None if layout.separator in ",\t" else f"separator {layout.separator!r}"]
    quoted, warnings = layout.quoted, []
    if any(b'"' in block for block in blocks(file)):
        verdict = _verdict(
            file, encoding, layout, len(named[0].splitlines()) if named else 0, has_header=options.header
        )
        quoted, warnings = verdict.quoted, [*verdict.warnings]
        notes.append(verdict.note)
    if options.header and (reason := _header_is_data(layout.rows, columns)):
        warnings.append(f"{reason}: if the file has no header, pass --no-header (data.header=false)")
    note = ", ".join(filter(None, notes)) or None
    return Dialect(
        file, encoding, layout.separator, quoted, layout.spaced, columns, options.header, note, tuple(warnings)
    )


def _verdict(file: Path, encoding: str, layout: Layout, after: int, *, has_header: bool) -> Verdict:
    mark, width, spaced = layout.separator, layout.width, layout.spaced
    with opened(file, encoding) as stream:
        if are_plain(stream_lines(stream), mark, width, spaced=spaced):
            return Verdict(True)
    with opened(file, encoding) as stream:
        lines = stream_lines(stream)
        return judged(lines, mark, width, file, spaced=spaced, after=after, has_header=has_header)


def opened(file: Path | IO[bytes], encoding: str) -> IO[str]:
    """A file, or a stream of its bytes, as text whose line ends stay as they are."""
    raw = file.open("rb") if isinstance(file, Path) else file
    return io.TextIOWrapper(raw, encoding=encoding, newline="")


def stream_lines(stream: IO[str]) -> Iterable[str]:
    """The lines of a file from its header on: without a byte order mark and Excel's `sep=` line."""
    return _body(stream)[0]


def _body(stream: IO[str]) -> tuple[Iterable[str], int]:
    """The lines of a file from its header on, and how many lines were left out before them."""
    first = [stream.readline()]
    while first[-1] and not first[-1].strip("\ufeff \t\r\n"):
        first.append(stream.readline())
    if SEP_LINE.fullmatch("".join(first)):
        return stream, len(first)
    return chain([first[0].removeprefix("\ufeff"), *first[1:]], stream), 0


def batches(raw: IO[bytes], dialect: Dialect, count: int) -> Iterator[Rows]:
    """The rows of a file, `count` at a time (the last may be fewer), each with as many cells as there are columns.

    Raises:
        DataError: a row of more or fewer cells; says which.
    """
    width = len(dialect.columns)
    with opened(raw, dialect.encoding) as stream:
        reader = csv.reader(stream_lines(stream), **_format(dialect.separator, dialect.quoted, dialect.spaced))
        if dialect.has_header:
            next(row for row in reader if not is_blank(row))
        part: Rows = []
        done = 0
        while rows := list(islice(reader, count)):
            if set(map(len, rows)) != {width}:
                rows = _fitted(rows, width, done, dialect)
            done += len(rows)
            if not part and len(rows) == count:
                yield rows
                continue
            part += rows
            while len(part) >= count:
                yield part[:count]
                part = part[count:]
        if part:
            yield part


def is_blank(row: list[str]) -> bool:
    """Whether no cell of a row holds anything."""
    return not any(cell.strip("\ufeff \t\xa0") for cell in row)


def _format(separator: str, quoted: bool, spaced: bool) -> dict[str, Any]:
    return {
        "delimiter": separator,
        "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        "skipinitialspace": spaced,
    }


def _fitted(rows: Rows, width: int, before: int, dialect: Dialect) -> Rows:
    """Rows without blank lines and without empty cells beyond the last column."""
    found: Rows = []
    for row in rows:
        if len(row) != width:
            if len(row) <= 1 and is_blank(row):
                continue
            if len(row) < width or not is_blank(row[width:]):
                number = before + len(found) + 1
                raise DataError(
                    f"not a well-formed table: this row (line {_line_of(dialect, number)}) has {len(row)} cells, and "
                    f"the {'header' if dialect.has_header else 'first row'} has {width}; the separator is "
                    f"{dialect.separator!r}. Put a cell that holds it in double quotes, or name another one with "
                    "--separator",
                    file=str(dialect.file),
                    row=number,
                )
            row = row[:width]
        found.append(row)
    return found


def _line_of(dialect: Dialect, number: int) -> int:
    """The line that a row begins on."""
    with opened(dialect.file, dialect.encoding) as stream:
        lines, offset = _body(stream)
        reader = csv.reader(lines, **_format(dialect.separator, dialect.quoted, dialect.spaced))
        if dialect.has_header:
            next(row for row in reader if not is_blank(row))
        before, width = reader.line_num, len(dialect.columns)
        for row in reader:
            if len(row) == width or not (len(row) <= 1 and is_blank(row)):
                number -= 1
                if not number:
                    break
            before = reader.line_num
    return before + 1 + offset


def _layout(head: str, marks: list[str], file: Path) -> Layout:
    """How the head of a file reads best: the separator with which most rows have as many cells as the header."""
    layouts = [
        _read(head, mark, quoted=quoted, spaced=spaced)
        for mark in marks
        for quoted in ((True, False) if '"' in head else (True,))
        for spaced in ((False, True) if quoted else (False,))
    ]

    def merit(layout: Layout) -> tuple[Any, ...]:
        mark = layout.separator
        prose = head.count(f"{mark} ") > 0.5 * head.count(mark)
        own = file.suffix.lower() == ".tsv" and mark == "\t"
        quiet = not any(cell.startswith(" ") and cell.strip(" ").startswith('"') for row in layout.rows for cell in row)
        return layout.width > 1, round(layout.fitting, 2), own, not prose, layout.quoted, quiet, not layout.spaced

    default = "\t" if file.suffix.lower() == ".tsv" else ","
    best = max(sorted(layouts, key=lambda one: ";\t|,".find(one.separator)), key=merit)
    if best.width == 1 and len(marks) > 1:
        best = next(one for one in layouts if one.separator == default and one.quoted and not one.spaced)
    if not best.spaced and best.width > 1 and all(name.startswith(" ") for name in best.rows[0][1 : best.width]):
        best = _read(head, best.separator, quoted=best.quoted, spaced=True)
    return best


def _read(head: str, separator: str, *, quoted: bool, spaced: bool) -> Layout:
    layout = Layout(separator, quoted, spaced)
    try:
        reader = csv.reader(io.StringIO(head, newline=""), **_format(separator, quoted, spaced))
        layout.rows = list(islice((row for row in reader if not is_blank(row)), SAMPLE_ROWS))
    except csv.Error:
        return layout
    if not layout.rows:
        return layout
    width = len(layout.rows[0])
    # a header that ends with separators names no columns there, unless cells below hold something
    while (
        width > 1 and not layout.rows[0][width - 1].strip() and all(is_blank(row[width - 1 :]) for row in layout.rows)
    ):
        width -= 1
    layout.width = width
    below = layout.rows[1:] or layout.rows
    fits = sum(len(row) == width or (len(row) > width and is_blank(row[width:])) for row in below)
    layout.fitting = fits / len(below)
    return layout


def _columns(names: list[str]) -> list[str]:
    """Names as pandas makes them: each one once, and none empty."""
    found: list[str] = []
    taken: set[str] = set()
    for place, name in enumerate(names):
        name = clean_name(clean_name(name).strip('"')) or f"Unnamed: {place}"
        again, base = 0, name
        while name in taken:
            again += 1
            name = f"{base}.{again}"
        taken.add(name)
        found.append(name)
    return found


def _header_is_data(rows: Rows, columns: list[str]) -> str | None:
    """Why the first row is probably no header, or None."""
    first, below = rows[0], [row for row in rows[1:] if row != rows[0]]
    if {clean_name(name).lower() for name in columns} & {*TEXT_NAMES, *LABEL_NAMES} or len(below) < 4:
        return None
    for place, name in enumerate(columns):
        cells = [row[place].strip() for row in below if len(row) > place]
        own = first[place].strip()
        few = len(set(cells)) <= max(2, len(cells) // 3)
        if own and own in cells and few:
            return f"{own!r}, the name of column {place + 1}, is also one of its cells"
        if is_number(own) and own != str(place) and cells and all(map(is_number, cells)):
            return f"{own!r}, the name of column {place + 1}, is a number as its cells are"
        if len(columns) == 1 and len(name.split()) > 3:
            return f"the name of the only column is a sentence ({own[:60]!r})"
    return None
