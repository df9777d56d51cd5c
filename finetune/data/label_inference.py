"""Infer the task of a column of plain label cells: names, class numbers, codes, or regression targets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from finetune.core.errors import DataError
from finetune.core.label_text import name_of, number_of
from finetune.core.task import Task
from finetune.data.label_numbers import NAMES, SIGNED, Decimal, decimal_marks, grouped
from finetune.data.label_survey import Entry, Survey, few, quoted, rows_of

MOST_INTEGER_CLASSES = 20
"""A column of whole numbers with more distinct values than this is read as a regression target."""

SEPARATORS = ("|", ";", ",")
"""Characters between several labels in one cell, in the order in which they are tried."""


def infer_task(survey: Survey, decimal: Decimal | None) -> tuple[Task, list[str]]:
    """Return the task of plain cells, and warnings about the few that are unlike the others.

    Raises:
        DataError: cells that can be read in two ways; names the rows and the settings that decide.
    """
    values = {id(entry): number_of(entry.cell) for entry in survey.entries}
    if decimal is not None:
        values |= {id(entry): grouped(entry.cell, decimal) for entry in survey.texts()}
    words = [entry for entry in survey.entries if values[id(entry)] is None]
    numbers = [entry for entry in survey.entries if values[id(entry)] is not None]
    if not words:
        return _of_numbers(survey, [(values[id(entry)] or 0.0, entry) for entry in numbers], decimal), []
    if all(entry.kind == "code" for entry in words):
        return _of_codes(survey, words), []
    _refuse_signs_and_marks(survey, words, numbers)
    warnings = []
    if numbers:
        if not few(rows_of(numbers), survey.rows):
            raise _mixed(survey, words, numbers)
        listed = ", ".join(f"{quoted(entry.cell)} in row {entry.row}" for entry in numbers[:3])
        warnings.append(
            f"{rows_of(numbers)} of {survey.rows} labels are numbers ({listed}) and are read as names like the others"
        )
    return single(len({name_of(entry.cell) for entry in survey.entries})), warnings


def single(count: int) -> Task:
    """Return the single-label task with this number of labels."""
    return "binary" if count == 2 else "multiclass"


def decimal_of(survey: Survey) -> Decimal | None:
    """Return the decimal mark of all numbers in texts; None if Python reads them, or if the cells are names.

    Raises:
        DataError: only numbers such as 1,234, whose value depends on the mark.
    """
    odd = [entry for entry in survey.entries if number_of(entry.cell) is None]
    if not odd or not all(isinstance(entry.cell, str) for entry in odd):
        return None
    fitting = decimal_marks(entry.cell for entry in survey.texts())
    if len(fitting) == 2:
        first = odd[0]
        raise first.error(
            f"{quoted(first.cell)} may be {grouped(first.cell, '.'):g} or {grouped(first.cell, ','):g}, and so may "
            "every such number here: set the decimal mark with --set data.decimal=. or --set data.decimal=,"
        )
    return fitting[0] if fitting else None


def example_of(survey: Survey, decimal: Decimal) -> str:
    """Return an example of how a number of the column is read, as the end of a sentence."""
    texts = [entry for entry in survey.texts() if number_of(entry.cell) is None]
    first = next((entry for entry in texts if (grouped(entry.cell, decimal) or 0) % 1), texts[0] if texts else None)
    value = grouped(first.cell, decimal) if first is not None else None
    return f": {first.cell.strip()} is read as {value:g}" if first is not None and value is not None else ""


def id_lists_warned_of(survey: Survey, decimal: Decimal, task: Task) -> list[str]:
    """Return a warning if numbers such as 0,2 may be lists of ids, unless all have two decimals, as prices have."""
    cells = [entry.cell.strip() for entry in survey.texts() if "," in entry.cell]
    digits = {len(cell.rpartition(",")[2]) for cell in cells}
    if decimal != "," or max(digits, default=3) > 2 or digits == {2}:
        return []
    flag = " (--task regression)" if task == "regression" else ""
    return [
        f"cells such as {cells[0]} are read as numbers with decimal commas{flag}; if they are several "
        "labels, pass --task multi-label"
    ]


def thousands_warned_of(survey: Survey) -> list[str]:
    """Return a warning if the point in all numbers, such as 1.234, may be a thousands separator."""
    pointed = [entry.cell.strip() for entry in survey.texts() if "." in entry.cell]
    if not pointed or any(grouped(cell, ",") is None for cell in pointed):
        return []
    return [
        f"cells such as {pointed[0]} are read as numbers with a decimal point; if the point is a thousands separator, "
        "pass --set data.decimal=,"
    ]


def separator_of(survey: Survey, known: Collection[str]) -> str | None:
    """Return the first separator in at least a tenth of the cells with any; None if all cells are known names."""
    texts = [entry for entry in survey.texts() if entry.value is None]
    if known and all(name_of(entry.cell) in known for entry in texts):
        return None
    marked = [entry for entry in texts if any(mark in entry.cell for mark in SEPARATORS)]
    for mark in SEPARATORS:
        count = rows_of([entry for entry in marked if mark in entry.cell])
        if count and count * 10 >= rows_of(marked):
            return mark
    return None


def _of_codes(survey: Survey, codes: Sequence[Entry]) -> Task:
    widths = {len(str(entry.cell).strip()) for entry in survey.entries}
    if few(rows_of(codes), survey.rows) and len(widths) > 1:
        raise codes[0].error(
            f"{quoted(codes[0].cell)} has a leading zero, as codes have, in a column of numbers: correct the cell, "
            "or pass --task multiclass to read all as names"
        )
    return single(len(survey.entries))


def _of_numbers(survey: Survey, values: Sequence[tuple[float, Entry]], decimal: Decimal | None) -> Task:
    fractions = [entry for value, entry in values if value != int(value)]
    whole = {value for value, _ in values if value == int(value)}
    odd, rows = rows_of(fractions), survey.rows
    if fractions and rows >= 20 and few(odd, rows) and len(whole) <= MOST_INTEGER_CLASSES:
        raise fractions[0].error(
            f"{quoted(fractions[0].cell)} has a fraction, and {rows - odd} of {rows} labels are whole numbers: correct "
            "the row, or pass --task regression or --task multiclass"
        )
    if fractions or len(whole) > MOST_INTEGER_CLASSES:
        return "regression"
    return single(len({_name(entry, decimal) for _, entry in values}))


def _name(entry: Entry, decimal: Decimal | None) -> str:
    value = grouped(entry.cell, decimal) if decimal is not None and isinstance(entry.cell, str) else None
    return name_of(entry.cell if value is None else value)


def _refuse_signs_and_marks(survey: Survey, words: Sequence[Entry], numbers: Sequence[Entry]) -> None:
    """Raise `DataError` for numbers with a currency or percent sign, and numbers in several notations."""
    signed = [entry for entry in words if isinstance(entry.cell, str) and SIGNED.fullmatch(entry.cell.strip())]
    if signed and few(survey.rows - rows_of(signed) - rows_of(numbers), survey.rows):
        raise signed[0].error(
            f"{quoted(signed[0].cell)} is a number with a currency or percent sign: remove the sign to predict the "
            "number, or pass --task multiclass to read all as names"
        )
    written = [entry for entry in words if _is_grouped(entry.cell)]
    if written and few(survey.rows - rows_of(written) - rows_of(numbers), survey.rows):
        raise _unlike(words, written, numbers)


def _mixed(survey: Survey, words: Sequence[Entry], numbers: Sequence[Entry]) -> DataError:
    counts = f"{rows_of(numbers)} numbers, {rows_of(words)} words"
    return DataError(
        f"labels are numbers in some rows ({quoted(numbers[0].cell)} in row {numbers[0].row}) and words in others "
        f"({quoted(words[0].cell)} in row {words[0].row}; {counts}): correct the column, or pass --task multiclass to "
        "read all as names",
        file=words[0].part.file,
        column=words[0].part.column,
    )


def _unlike(words: Sequence[Entry], written: Sequence[Entry], numbers: Sequence[Entry]) -> DataError:
    """Return the error for numbers whose decimal and thousands marks contradict each other."""
    first = written[0]
    other = next((entry for entry in words if not _is_grouped(entry.cell)), None)
    other = other or next((entry for entry in (*numbers, *written[1:])), first)
    return other.error(
        f"{quoted(other.cell)} is not written as the number {quoted(first.cell)} in row {first.row} is: write all "
        "numbers with the same decimal mark (point or comma) and thousands separator, or pass --task multiclass"
    )


def _is_grouped(cell: Any) -> bool:
    return isinstance(cell, str) and any(grouped(cell, mark) is not None for mark in NAMES)
