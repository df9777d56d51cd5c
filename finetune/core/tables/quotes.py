"""Whether double quotes enclose the cells of a CSV or TSV file, or stand for themselves: judged on all of its lines.

A quote that somebody typed at the start of a cell makes a reader swallow the lines up to the next one. Read with
quotes and without, a file shows which it is: lines that were swallowed are whole rows of their own.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from finetune.core.errors import DataError

ENCLOSED = r'(?:^|{0}) *"[^"]+" *(?:{0}|[\r\n]*$)'

LINES_KEPT, SWALLOWED_KEPT, ROWS_LEARNED, VALUES_LEARNED = 2_000, 200, 5_000, 50
ENCLOSING_SHARE = 0.2
"""Share of lines with a cell between two quotes from which quotes are taken to enclose cells."""


@dataclass(frozen=True)
class Verdict:
    """Whether quotes enclose cells, and what to report: `note` on lines and rows, `warnings` on doubtful cells."""

    quoted: bool
    note: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass
class Evidence:
    """What one pass over the lines showed.

    Attributes:
        rows, lines: of the file read with quotes, its header and blank lines not counted.
        enclosed: lines with a cell that stands between two quotes; `header_enclosed` whether the first line is one.
        bad_quote: line and reason of the first quote that is out of place.
        bad_row: line and cells of the first row that has too many or too few, read with quotes.
        bad_line: line and cells of the first line that does so read without.
        doubtful: rows over several lines, each of which has as many cells as a row; the line they begin on.
        values: for each column, the cells of rows of one line; a column of many different ones is not kept.
    """

    rows: int = 0
    lines: int = 0
    enclosed: int = 0
    header_enclosed: bool = False
    bad_quote: tuple[int, str] | None = None
    bad_row: tuple[int, int] | None = None
    bad_line: tuple[int, int] | None = None
    doubtful: list[tuple[int, list[str]]] = field(default_factory=list)
    values: list[Counter[str]] = field(default_factory=list)
    are_numbers: list[bool] = field(default_factory=list)


def are_plain(lines: Iterable[str], separator: str, width: int, *, spaced: bool = False) -> bool:
    """Whether every quote encloses a cell of one line, and every row has `width` cells: nothing to judge."""
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=spaced, strict=True)
    rows = 0
    try:
        while lengths := [len(row) for row in islice(reader, ROWS_LEARNED)]:
            rows += len(lengths)
            if not set(lengths) <= {0, width}:
                return False
    except csv.Error:
        return False
    return reader.line_num == rows


def judged(
    lines: Iterable[str],
    separator: str,
    width: int,
    file: Path,
    *,
    spaced: bool = False,
    skipped: int = 0,
    has_header: bool = True,
) -> Verdict:
    """The verdict on a file's lines, from its header on.

    Args:
        width: cells that a row has.
        spaced: whether blanks follow separators.
        skipped: lines before the header that `lines` lacks.

    Raises:
        DataError: quotes that do not pair in a file that cannot be read without them; names the line.
    """
    found = _evidence(lines, separator, width, spaced, skipped)
    swallowed = [entry for entry in found.doubtful if _are_rows(entry[1], separator, found, width)]
    if found.bad_quote is None and found.bad_row is None and not swallowed:
        return Verdict(True, _note(found, 1 if has_header else 0), _warnings(found))
    encloses = found.header_enclosed or found.enclosed > ENCLOSING_SHARE * found.lines
    if found.bad_line is None and not encloses:
        return Verdict(False, "double quotes are part of the texts")
    if found.bad_quote is not None:
        line, reason = found.bad_quote
        raise DataError(
            f"line {line}: {reason}. Write a quote within a quoted cell twice, or take lone quotes out", file=str(file)
        )
    if swallowed:
        line, block = swallowed[0]
        raise DataError(
            f"line {line}: a double quote opens a cell here that ends on line {line + len(block) - 1}, and the lines "
            "between read as rows of their own. Take the quote out, or write it twice within a quoted cell",
            file=str(file),
        )
    return Verdict(True)  # rows of a wrong number of cells: the reader refuses the first of them by its number


def _evidence(lines: Iterable[str], separator: str, width: int, spaced: bool, skipped: int) -> Evidence:
    found = Evidence(values=[Counter() for _ in range(width)], are_numbers=[True] * width)
    taken: list[str] = []
    count, enclosed = [skipped], re.compile(ENCLOSED.format(re.escape(separator)))

    def watched() -> Iterator[str]:
        for line in lines:
            count[0] += 1
            if len(taken) < LINES_KEPT:
                taken.append(line)
            if found.bad_line is None and not _fits(line, separator, width):
                found.bad_line = (count[0], line.count(separator) + 1)
            if '"' in line and enclosed.search(line):
                found.enclosed += 1
                found.header_enclosed = found.header_enclosed or found.rows == 0
            yield line

    source = watched()
    reader = csv.reader(source, delimiter=separator, skipinitialspace=spaced, strict=True)
    while True:
        begin = count[0] + 1
        taken.clear()
        try:
            row = next(reader, None)
        except csv.Error as error:
            found.bad_quote = (begin, _reason(str(error)))
            found.lines += count[0] - begin + 1
            for _ in source:  # what is left is looked at without quotes only
                found.lines += 1
            return found
        if row is None:
            return found
        _learn(found, row, taken, (begin, count[0] - begin + 1), separator, width)


def _learn(
    found: Evidence, row: list[str], taken: list[str], place: tuple[int, int], separator: str, width: int
) -> None:
    if len(row) <= 1 < width and not "".join(row).strip():
        return
    begin, lines = place
    found.rows += 1
    found.lines += lines
    if found.bad_row is None and (len(row) < width or any(cell.strip() for cell in row[width:])):
        found.bad_row = (begin, len(row))
    if lines > 1:
        if len(found.doubtful) < SWALLOWED_KEPT and all(
            _fits(line, separator, width) and line.strip() for line in taken
        ):
            found.doubtful.append((begin, list(taken)))
    elif 1 < found.rows <= ROWS_LEARNED and len(row) >= width:
        for column, cell in enumerate(row[:width]):
            if len(found.values[column]) <= VALUES_LEARNED:
                found.values[column][cell.strip()] += 1
            found.are_numbers[column] = found.are_numbers[column] and is_number(cell)


def _fits(line: str, separator: str, width: int) -> bool:
    """Whether a line, read without quotes, has as many cells as a row; more of them may be empty."""
    extra = line.count(separator) + 1 - width
    if extra == 0:
        return True
    bare = line.strip("\r\n")
    if not bare.strip():
        return True
    return extra > 0 and not any(cell.strip() for cell in bare.split(separator)[width:])


def _are_rows(block: list[str], separator: str, found: Evidence, width: int) -> bool:
    """Whether the lines of one row are rows of their own: their cells are like those of the columns' other rows."""
    if width == 1:
        return False
    if separator in "\t|":
        return True  # texts hold none of these
    cells = [line.strip("\r\n").split(separator) for line in block]
    repeated = [
        place
        for place, values in enumerate(found.values)
        if 0 < len(values) <= VALUES_LEARNED and values.total() >= 2 * len(values)
    ]
    numbers = [place for place, good in enumerate(found.are_numbers) if good and found.values[place]]
    if not repeated and not numbers:
        return False
    return all(
        all(row[place].strip().strip('"') in found.values[place] for place in repeated)
        and all(is_number(row[place].strip().strip('"')) for place in numbers)
        for row in cells
    )


def _note(found: Evidence, headers: int) -> str | None:
    if found.lines == found.rows:
        return None
    return f"{found.rows - headers} rows on {found.lines - headers} lines, since quoted cells hold line breaks"


def _warnings(found: Evidence) -> tuple[str, ...]:
    if not found.doubtful:
        return ()
    line, block = found.doubtful[0]
    return (
        f"{len(found.doubtful)} quoted cells hold line breaks and could be rows of their own, the first on lines "
        f"{line} to {line + len(block) - 1}: check for a lone double quote there",
    )


def _reason(error: str) -> str:
    if "unexpected end" in error:
        return "a double quote opens a cell here and is never closed"
    if "expected after" in error:
        return "text follows a closing double quote, in this row or the lines that its quote takes in"
    return error


def is_number(text: str) -> bool:
    """Whether a cell is a number as Python writes it."""
    try:
        float(text)
    except ValueError:
        return False
    return True
