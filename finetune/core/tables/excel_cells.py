"""A program that prints the cells of an Excel sheet as texts: `excel_cells.py FILE SHEET MEMORY_BYTES [names]`.

It runs as a process of its own, since a damaged or malicious workbook of a few kilobytes can ask for any amount of
memory, which ends the process. The first line that it prints is a JSON object about the sheet, or an error; then each
row that is not blank is a JSON list. With `names` it prints a JSON object with the names of the sheets only.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

MAX_CPU_S = 600
"""Seconds of computing that a sheet may take; a million rows of two columns take less than a tenth."""


def text_of(value: Any) -> str:
    """Return a cell as text.

    Numbers have up to 15 digits, as Excel shows them, and no exponent; dates and times are ISO 8601 with a blank before
    the time, durations hours:minutes:seconds; true and false are TRUE and FALSE.
    """
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return format(Decimal(f"{value:.15g}"), "f")
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        sign, seconds = "-" * (seconds < 0), abs(seconds)
        return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    if isinstance(value, datetime):
        return value.isoformat(" ", "milliseconds" if value.microsecond else "seconds")
    if isinstance(value, time):
        return value.isoformat("milliseconds" if value.microsecond else "seconds")
    return value.isoformat() if isinstance(value, date) else str(value)


def sheet_named(name: str, workbook: Any) -> str:
    """Return the name of a sheet: of this name, of this number from 1, or, for an empty name, of the first that is
    shown.

    Raises:
        LookupError: there is none.
    """
    names, tables = workbook.sheet_names, _tables(workbook)
    if not name:
        if not tables:
            raise LookupError("the workbook has no sheet with cells")
        return tables[0]
    if name in names:
        return name
    if name.isdecimal() and 1 <= int(name) <= len(names):
        return str(names[int(name) - 1])
    raise LookupError(f"there is no sheet {name!r} (--sheet); there are: {', '.join(names)}")


def _tables(workbook: Any) -> list[str]:
    sheets = [sheet for sheet in workbook.sheets_metadata if str(sheet.typ).endswith("WorkSheet")]
    visible = [sheet.name for sheet in sheets if str(sheet.visible).endswith("Visible")]
    return visible or [sheet.name for sheet in sheets]


def _filled(row: Iterable[Any]) -> list[int]:
    return [place for place, value in enumerate(row) if value != "" and str(value).strip()]


def _print_sheet(file: str, name: str, *, only_names: bool) -> None:
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    try:
        with CalamineWorkbook.from_path(file) as workbook:
            if only_names:
                print(json.dumps({"sheets": _tables(workbook)}))
                return
            sheet = workbook.get_sheet_by_name(sheet_named(name, workbook))
            places = [(found[0], found[-1]) for row in sheet.iter_rows() if (found := _filled(row))]
            first = min((low for low, _ in places), default=0)
            end = max((high for _, high in places), default=-1) + 1
            about = {"sheet": sheet.name, "others": [table for table in _tables(workbook) if table != sheet.name]}
            print(json.dumps(about | {"rows": len(places), "width": end - first}))
            for row in sheet.iter_rows():
                if _filled(row):
                    print(json.dumps([text_of(value) for value in row[first:end]]))
    except PasswordError:
        print(json.dumps({"error": "the workbook is protected by a password: save it without one"}))
    except LookupError as error:
        print(json.dumps({"error": error.args[0]}))
    except (CalamineError, OSError, ValueError) as error:
        print(json.dumps({"error": f"not a readable Excel workbook ({' '.join(str(error).split())[:200]})"}))


def main(file: str, sheet: str, memory_bytes: str, names: str = "") -> None:
    """Print the sheet, or with `names` the names of all, with limits on the memory and time of this process where the
    system has such limits."""
    with contextlib.suppress(ImportError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _print_sheet(file, sheet, only_names=bool(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
