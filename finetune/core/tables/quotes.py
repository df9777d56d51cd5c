"""Whether double quotes enclose the cells of a CSV or TSV file or are part of them, decided on all of its lines.

A lone quote at the start of a cell makes a CSV reader swallow the lines up to the next quote. Reading a file both with
and without quoting tells the two apart: swallowed lines are complete rows of their own.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from finetune.core.errors import DataError
from finetune.core.tables.text_file import TextFile

ENCLOSED = r'(?:^|{0}) *"[^"]+" *(?:{0}|[\r\n]*$)'

LINES_KEPT, SWALLOWED_KEPT, ROWS_LEARNED, VALUES_LEARNED = 2_000, 200, 5_000, 50
ENCLOSING_SHARE = 0.2
"""Fraction of lines with a cell between two quotes, above which quotes are row_lines to enclose cells."""


@dataclass(frozen=True)
class Verdict:
    """Whether quotes enclose cells; `note` reports on lines and rows, `warnings` on doubtful cells."""

    quoted: bool
    note: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass
class Evidence:
    """What one pass over the lines shows.

    Attributes:
        rows, lines: of the file read with quoting, blank lines not counted.
        enclosed: lines with a cell between two quotes; `header_enclosed`: whether the first line is one.
        bad_quote: line and reason of the first quote that is out of place.
        bad_row: line and cell count of the first row, read with quoting, that has too many or too few cells.
        bad_line: the same for the first line, read without quoting.
        doubtful: rows that span several lines of as many cells as a row; number of the first line, and the lines.
        values: for each column, the distinct cells of one-line rows, up to `VALUES_LEARNED`.
        are_numbers: for each column, whether all cells of one-line rows are numbers.
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
    """Return whether every quote encloses a cell of one line, and every row has `width` cells: nothing to decide."""
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
    file: TextFile,
    *,
    spaced: bool = False,
    skipped: int = 0,
    has_header: bool = True,
) -> Verdict:
    """Return the verdict on a file's lines, from its header on.

    Args:
        width: cells of a row.
        spaced: whether blanks follow separators.
        skipped: lines before the header that `lines` lacks.

    Raises:
        DataError: quotes do not pair, in a file that cannot be read without quoting; names the line.
    """
    evidence = _evidence(lines, separator, width, spaced, skipped)
    swallowed = [entry for entry in evidence.doubtful if _are_rows(entry[1], separator, evidence, width)]
    if evidence.bad_quote is None and evidence.bad_row is None and not swallowed:
        return Verdict(True, _note(evidence, 1 if has_header else 0), _warnings(evidence))
    encloses = evidence.header_enclosed or evidence.enclosed > ENCLOSING_SHARE * evidence.lines
    if evidence.bad_line is None and not encloses:
        return Verdict(False, "double quotes are part of the texts")
    if evidence.bad_quote is not None:
        line, reason = evidence.bad_quote
        raise DataError(
            f"line {line}: {reason}. Write a quote within a quoted cell twice, or remove lone quotes", file=str(file)
        )
    if swallowed:
        line, block = swallowed[0]
        raise DataError(
            f"line {line}: a double quote opens a cell here that ends on line {line + len(block) - 1}, and the lines "
            "between read as rows of their own. Remove the quote, or write it twice within a quoted cell",
            file=str(file),
        )
    return Verdict(True)  # rows with a wrong number of cells: the reader raises for the first of them


def _evidence(lines: Iterable[str], separator: str, width: int, spaced: bool, skipped: int) -> Evidence:
    evidence = Evidence(values=[Counter() for _ in range(width)], are_numbers=[True] * width)
    row_lines: list[str] = []
    count, enclosed = [skipped], re.compile(ENCLOSED.format(re.escape(separator)))

    def watched() -> Iterator[str]:
        for line in lines:
            count[0] += 1
            if len(row_lines) < LINES_KEPT:
                row_lines.append(line)
            if evidence.bad_line is None and not _fits(line, separator, width):
                evidence.bad_line = (count[0], line.count(separator) + 1)
            if '"' in line and enclosed.search(line):
                evidence.enclosed += 1
                evidence.header_enclosed = evidence.header_enclosed or evidence.rows == 0
            yield line

    source = watched()
    reader = csv.reader(source, delimiter=separator, skipinitialspace=spaced, strict=True)
    while True:
        begin = count[0] + 1
        row_lines.clear()
        try:
            row = next(reader, None)
        except csv.Error as error:
            evidence.bad_quote = (begin, _reason(str(error)))
            evidence.lines += count[0] - begin + 1
            for _ in source:  # the remaining lines are examined without quoting only
                evidence.lines += 1
            return evidence
        if row is None:
            return evidence
        _learn(evidence, row, row_lines, (begin, count[0] - begin + 1), separator, width)


def _learn(
    evidence: Evidence, row: list[str], row_lines: list[str], place: tuple[int, int], separator: str, width: int
) -> None:
    if len(row) <= 1 < width and not "".join(row).strip():
        return
    begin, lines = place
    evidence.rows += 1
    evidence.lines += lines
    if evidence.bad_row is None and (len(row) < width or any(cell.strip() for cell in row[width:])):
        evidence.bad_row = (begin, len(row))
    if lines > 1:
        if len(evidence.doubtful) < SWALLOWED_KEPT and all(
            _fits(line, separator, width) and line.strip() for line in row_lines
        ):
            evidence.doubtful.append((begin, list(row_lines)))
    elif 1 < evidence.rows <= ROWS_LEARNED and len(row) >= width:
        for column, cell in enumerate(row[:width]):
            if len(evidence.values[column]) <= VALUES_LEARNED:
                evidence.values[column][cell.strip()] += 1
            evidence.are_numbers[column] = evidence.are_numbers[column] and is_number(cell)


def _fits(line: str, separator: str, width: int) -> bool:
    """Return whether a line, read without quoting, has as many cells as a row; extra cells may be empty."""
    extra = line.count(separator) + 1 - width
    if extra == 0:
        return True
    bare = line.strip("\r\n")
    if not bare.strip():
        return True
    return extra > 0 and not any(cell.strip() for cell in bare.split(separator)[width:])


def _are_rows(block: list[str], separator: str, evidence: Evidence, width: int) -> bool:
    """Return whether the lines of one row are rows of their own: they have cells like those of other rows."""
    if width == 1:
        return False
    if separator in "\t|":
        return True  # texts hold none of these
    cells = [line.strip("\r\n").split(separator) for line in block]
    repeated = [
        place
        for place, values in enumerate(evidence.values)
        if 0 < len(values) <= VALUES_LEARNED and values.total() >= 2 * len(values)
    ]
    numbers = [place for place, good in enumerate(evidence.are_numbers) if good and evidence.values[place]]
    if not repeated and not numbers:
        return False
    return all(
        all(row[place].strip().strip('"') in evidence.values[place] for place in repeated)
        and all(is_number(row[place].strip().strip('"')) for place in numbers)
        for row in cells
    )


def _note(evidence: Evidence, headers: int) -> str | None:
    if evidence.lines == evidence.rows:
        return None
    return f"{evidence.rows - headers} rows on {evidence.lines - headers} lines, since quoted cells hold line breaks"


def _warnings(evidence: Evidence) -> tuple[str, ...]:
    if not evidence.doubtful:
        return ()
    line, block = evidence.doubtful[0]
    return (
        f"{len(evidence.doubtful)} quoted cells hold line breaks and could be rows of their own, the first on lines "
        f"{line} to {line + len(block) - 1}: check for a lone double quote there",
    )


def _reason(error: str) -> str:
    if "unexpected end" in error:
        return "a double quote opens a cell here and is never closed"
    if "expected after" in error:
        return "text follows a closing double quote, in this row or in the lines that its quote encloses"
    return error


def is_number(text: str) -> bool:
    """Return whether Python reads a cell as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
