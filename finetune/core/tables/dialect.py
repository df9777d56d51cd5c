"""How a CSV or TSV file is written: separator, quoting and header, detected from the whole file; and its rows, a batch
at a time."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import IO, Any

from finetune.core.errors import DataError
from finetune.core.tables.columns import LABEL_NAMES, TEXT_NAMES, clean_name
from finetune.core.tables.options import SEPARATORS, TableOptions
from finetune.core.tables.quotes import Verdict, are_plain, is_number, judged
from finetune.core.tables.text_encoding import MAX_LINE_BYTES, blocks, encoding_of
from finetune.core.tables.text_file import TextFile

SAMPLE_CHARACTERS, SAMPLE_ROWS = 1 << 18, 400
SEP_LINE = re.compile(r'\ufeff?(?:[ \t]*\r?\n)*[ \t]*"?sep=(\\t|[^\r\n"])"?[,;\t|]*\r?\n?', re.IGNORECASE)
"""Excel's first line that names the separator, with the blank lines before it."""

Rows = list[list[str]]


@dataclass(frozen=True)
class Dialect:
    """How a file of cells is read.

    Attributes:
        separator: the character between cells.
        quoted: whether double quotes enclose cells.
        spaced: whether blanks follow separators.
        columns: their names, as many as a row has cells.
        has_header: whether the first row names them.
        note, warnings: see `table.Table`.
    """

    file: TextFile
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
    """The first rows of a file, read with one separator.

    Attributes:
        rows: those that are not blank, `SAMPLE_ROWS` at most.
        width: cells of the header.
        fitting: fraction of the rows below it that have as many cells.
    """

    separator: str
    quoted: bool
    spaced: bool
    rows: Rows = field(default_factory=list)
    width: int = 1
    fitting: float = 0.0


def dialect_of(file: TextFile, options: TableOptions) -> Dialect:
    """Return how to read a CSV or TSV file.

    Raises:
        DataError: the encoding is not certain, there are no rows, or quotes do not pair.
    """
    encoding, encoding_note = encoding_of(file, options.encoding)
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # csv's own limit refuses a long document
    with file.opened(encoding) as stream:
        text = stream.read(SAMPLE_CHARACTERS)
        is_whole = not stream.read(1)
    sep_line = SEP_LINE.match(text)
    head = text[sep_line.end() :] if sep_line else text.removeprefix("\ufeff")
    if not is_whole and "\n" in head:
        head = head[: head.rindex("\n") + 1]
    separators = [options.separator] if options.separator else []
    separators = separators or ([sep_line[1].replace("\\t", "\t")] if sep_line else [*SEPARATORS])
    layout = _layout(head, separators, file)
    if not layout.rows:
        raise DataError("the file is empty" if not head.strip() else "the table has no rows", file=str(file))
    first = layout.rows[0]
    columns = (
        distinct_names(first[: layout.width]) if options.header else [f"column_{n + 1}" for n in range(layout.width)]
    )
    notes = [encoding_note, None if layout.separator in ",\t" else f"separator {layout.separator!r}"]
    quoted, warnings = layout.quoted, []
    if any(b'"' in block for block in blocks(file)):
        skipped = len(sep_line[0].splitlines()) if sep_line else 0
        verdict = _verdict(file, encoding, layout, skipped, has_header=options.header)
        quoted, warnings = verdict.quoted, [*verdict.warnings]
        notes.append(verdict.note)
    if options.header and (reason := _header_is_data(layout.rows, columns)):
        warnings.append(f"{reason}: if the file has no header, pass --no-header (data.header=false)")
    note = ", ".join(filter(None, notes)) or None
    return Dialect(
        file, encoding, layout.separator, quoted, layout.spaced, columns, options.header, note, tuple(warnings)
    )


def default_separator(file: TextFile) -> str:
    """Return the separator that the suffix stands for."""
    return "\t" if file.suffix == ".tsv" else ","


def _verdict(file: TextFile, encoding: str, layout: Layout, skipped: int, *, has_header: bool) -> Verdict:
    separator, width, spaced = layout.separator, layout.width, layout.spaced
    with file.opened(encoding) as stream:
        if are_plain(stream_lines(stream), separator, width, spaced=spaced):
            return Verdict(True)
    with file.opened(encoding) as stream:
        lines = stream_lines(stream)
        return judged(lines, separator, width, file, spaced=spaced, skipped=skipped, has_header=has_header)


def stream_lines(stream: IO[str]) -> Iterable[str]:
    """Return the lines of a file from its header on: without a byte order mark and Excel's `sep=` line."""
    return _body(stream)[0]


def _body(stream: IO[str]) -> tuple[Iterable[str], int]:
    """Return the lines of a file from its header on, and how many lines before them were skipped."""
    first = [stream.readline()]
    while first[-1] and not first[-1].strip("\ufeff \t\r\n"):
        first.append(stream.readline())
    if SEP_LINE.fullmatch("".join(first)):
        return stream, len(first)
    return chain([first[0].removeprefix("\ufeff"), *first[1:]], stream), 0


def batches(raw: IO[bytes], dialect: Dialect, count: int) -> Iterator[Rows]:
    """Yield the rows of a file in batches of `count` (the last may be shorter), each row with one cell a column.

    Raises:
        DataError: a row has more or fewer cells; names the row and its line.
    """
    width = len(dialect.columns)
    with io.TextIOWrapper(raw, encoding=dialect.encoding, newline="") as stream:
        reader = csv.reader(stream_lines(stream), **_format(dialect.separator, dialect.quoted, dialect.spaced))
        if dialect.has_header:
            next(row for row in reader if not is_blank(row))
        remainder: Rows = []
        row_count = 0
        while rows := list(islice(reader, count)):
            if set(map(len, rows)) != {width}:
                rows = _fitted(rows, width, row_count, dialect)
            row_count += len(rows)
            if not remainder and len(rows) == count:
                yield rows
                continue
            remainder += rows
            while len(remainder) >= count:
                yield remainder[:count]
                remainder = remainder[count:]
        if remainder:
            yield remainder


def is_blank(row: list[str]) -> bool:
    """Return whether every cell of a row is blank."""
    return not any(cell.strip("\ufeff \t\xa0") for cell in row)


def _format(separator: str, quoted: bool, spaced: bool) -> dict[str, Any]:
    return {
        "delimiter": separator,
        "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        "skipinitialspace": spaced,
    }


def _fitted(rows: Rows, width: int, before: int, dialect: Dialect) -> Rows:
    """Return the rows without blank lines and without empty cells beyond the last column."""
    fitted: Rows = []
    for row in rows:
        if len(row) != width:
            if len(row) <= 1 and is_blank(row):
                continue
            if len(row) < width or not is_blank(row[width:]):
                number = before + len(fitted) + 1
                raise DataError(
                    f"not a well-formed table: this row (line {_line_of(dialect, number)}) has {len(row)} cells, and "
                    f"the {'header' if dialect.has_header else 'first row'} has {width}; the separator is "
                    f"{dialect.separator!r}. Enclose cells that hold it in double quotes, or name another separator "
                    "with --separator",
                    file=str(dialect.file),
                    row=number,
                )
            row = row[:width]
        fitted.append(row)
    return fitted


def _line_of(dialect: Dialect, number: int) -> int:
    """Return the line that a row begins on."""
    with dialect.file.opened(dialect.encoding) as stream:
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


def _layout(head: str, separators: list[str], file: TextFile) -> Layout:
    """Return the layout with which most rows at the head of a file have as many cells as its header."""
    layouts = [
        _read(head, separator, quoted=quoted, spaced=spaced)
        for separator in separators
        for quoted in ((True, False) if '"' in head else (True,))
        for spaced in ((False, True) if quoted else (False,))
    ]
    default = default_separator(file)

    def merit(layout: Layout) -> tuple[Any, ...]:
        separator = layout.separator
        is_prose = head.count(f"{separator} ") > 0.5 * head.count(separator)
        is_default = separator == default == "\t"
        is_quiet = not any(
            cell.startswith(" ") and cell.strip(" ").startswith('"') for row in layout.rows for cell in row
        )
        fitting = round(layout.fitting, 2)
        return layout.width > 1, fitting, is_default, not is_prose, layout.quoted, is_quiet, not layout.spaced

    best = max(sorted(layouts, key=lambda layout: ";\t|,".find(layout.separator)), key=merit)
    if best.width == 1 and len(separators) > 1:
        best = next(layout for layout in layouts if layout.separator == default and layout.quoted and not layout.spaced)
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


def distinct_names(names: list[str]) -> list[str]:
    """Return distinct names that are not empty, by the rules of pandas."""
    columns: list[str] = []
    taken: set[str] = set()
    for place, name in enumerate(names):
        name = clean_name(clean_name(name).strip('"')) or f"Unnamed: {place}"
        repeat, base = 0, name
        while name in taken:
            repeat += 1
            name = f"{base}.{repeat}"
        taken.add(name)
        columns.append(name)
    return columns


def _header_is_data(rows: Rows, columns: list[str]) -> str | None:
    """Return why the first row is probably data and no header; None where it may be a header."""
    first, below = rows[0], [row for row in rows[1:] if row != rows[0]]
    if {clean_name(name).lower() for name in columns} & {*TEXT_NAMES, *LABEL_NAMES} or len(below) < 4:
        return None
    for place, name in enumerate(columns):
        cells = [row[place].strip() for row in below if len(row) > place]
        cell = first[place].strip()
        repeats = len(set(cells)) <= max(2, len(cells) // 3)
        if cell and cell in cells and repeats:
            return f"{cell!r}, the name of column {place + 1}, is also one of its cells"
        if is_number(cell) and cell != str(place) and cells and all(map(is_number, cells)):
            return f"{cell!r}, the name of column {place + 1}, is a number as its cells are"
        if len(columns) == 1 and len(name.split()) > 3:
            return f"the name of the only column is a sentence ({cell[:60]!r})"
    return None
