"""Excel workbooks: cells as text in a stated way, sheets by name or number, and files made to exhaust the memory."""

from __future__ import annotations

import datetime
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from finetune.core.errors import DataError, MissingExtra
from finetune.core.tables import excel
from finetune.core.tables.excel_cells import text_of
from finetune.core.tables.files import open_writer, read_table, stream_table, write_table
from finetune.core.tables.options import TableOptions

pytestmark = pytest.mark.fast


def workbook(path: Path, **sheets: Any) -> Path:
    """Write sheets, each of rows or made by a function of the workbook and the sheet."""
    with xlsxwriter.Workbook(str(path)) as book:
        for name, content in sheets.items():
            sheet = book.add_worksheet(name)
            if callable(content):
                content(book, sheet)
                continue
            for number, row in enumerate(content):
                sheet.write_row(number, 0, row)
    return path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("00123", "00123"),
        (" a ", " a "),
        (1.0, "1"),
        (123.0, "123"),
        (2.5, "2.5"),
        (0.1 + 0.2, "0.3"),
        (1e21, "1000000000000000000000"),
        (1.5e-7, "0.00000015"),
        (-3.0, "-3"),
        (True, "TRUE"),
        (datetime.date(2024, 1, 31), "2024-01-31"),
        (datetime.datetime(2024, 1, 31, 5, 6, 7), "2024-01-31 05:06:07"),
        (datetime.datetime(2024, 1, 31, 5, 6, 7, 250_000), "2024-01-31 05:06:07.250"),
        (datetime.time(5, 6, 7), "05:06:07"),
        (datetime.timedelta(hours=30), "30:00:00"),
        (datetime.timedelta(seconds=-90), "-00:01:30"),
        ("", ""),
    ],
)
def test_each_kind_of_cell_becomes_text(value: Any, text: str) -> None:
    assert text_of(value) == text


def test_cells_of_a_workbook_become_text(tmp_path: Path) -> None:
    def fill(book: Any, sheet: Any) -> None:
        def number_format(spelling: str) -> Any:
            return book.add_format({"num_format": spelling})

        sheet.write_row(1, 1, ["text", "day", "time", "code", "number", "computed", "yes"])
        sheet.write_string(3, 1, "two\nlines")
        sheet.write_datetime(3, 2, datetime.datetime(2024, 1, 31), number_format("dd.mm.yyyy"))
        sheet.write_datetime(3, 3, datetime.datetime(2024, 1, 31, 5, 6, 7), number_format("yyyy-mm-dd hh:mm:ss"))
        sheet.write_string(3, 4, "00123")
        sheet.write_number(3, 5, 3)
        sheet.write_formula(3, 6, "=B2", None, "text")
        sheet.write_boolean(3, 7, True)
        sheet.write_formula(4, 6, "=1/0", None, "#DIV/0!")
        sheet.write_number(4, 5, 0.5, number_format("0%"))
        sheet.write_blank(5, 9, None, number_format("0%"))

    table = read_table(workbook(tmp_path / "T.XLSX", Data=fill))
    assert table.rows == [
        {
            "text": "two\nlines",
            "day": "2024-01-31",
            "time": "2024-01-31 05:06:07",
            "code": "00123",
            "number": "3",
            "computed": "text",
            "yes": "TRUE",
        },
        dict.fromkeys(table.columns, "") | {"number": "0.5"},
    ]
    assert (table.note, table.warnings) == ("sheet 'Data'", ())


def test_a_sheet_is_named_by_name_or_number_and_others_are_warned_of(tmp_path: Path) -> None:
    def hidden(book: Any, sheet: Any) -> None:
        sheet.hide()
        sheet.write_column(0, 0, ["text", "hidden"])

    file = workbook(
        tmp_path / "t.xlsx",
        Start=[["text"], ["a"]],
        **{"3": [["text"], ["b"]], "Last": [["text"], ["c"]]},
        Hidden=hidden,
    )
    for sheet, text in (
        (None, "a"),
        ("Start", "a"),
        ("1", "a"),
        ("2", "b"),
        ("3", "b"),
        ("Last", "c"),
        ("4", "hidden"),
    ):
        assert read_table(file, TableOptions(sheet=sheet)).rows == [{"text": text}]
    assert read_table(file).warnings == (
        "the workbook has other sheets ('3', 'Last'), and 'Start' is read: --sheet names another",
    )
    assert read_table(file, TableOptions(sheet="1")).warnings == ()
    for sheet in ("5", "0", "start", "None"):
        with pytest.raises(DataError, match=f"no sheet '{sheet}' .--sheet.; there are: Start, 3, Last, Hidden"):
            read_table(file, TableOptions(sheet=sheet))


def test_a_table_without_header_empty_sheets_and_repeated_names(tmp_path: Path) -> None:
    file = workbook(tmp_path / "t.xlsx", One=[["text", "text", "", ""], ["a", "b", "c", ""]], Two=[["text"]], Three=[])
    assert read_table(file).rows == [{"text": "a", "text.1": "b", "Unnamed: 2": "c"}]
    assert read_table(file, TableOptions(header=False)).columns == ["column_1", "column_2", "column_3"]
    for sheet in ("Two", "Three"):
        with pytest.raises(DataError, match=f"the table has no rows .sheet '{sheet}'"):
            read_table(file, TableOptions(sheet=sheet))


def test_chunks_can_be_left_unread(tmp_path: Path) -> None:
    write_table(tmp_path / "t.xlsx", [{"text": f"text {number}"} for number in range(3000)])
    stream = stream_table(tmp_path / "t.xlsx", 10)
    assert len(next(stream.chunks)) == 10 and 0 < stream.fraction_read() < 0.01


def far_cell(book: Any, sheet: Any) -> None:
    sheet.write(0, 0, "text")
    sheet.write(excel.MAX_ROWS - 1, excel.MAX_COLUMNS - 1, "far")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a process's memory")
def test_a_small_workbook_that_asks_for_all_memory_is_refused(tmp_path: Path) -> None:
    file = workbook(tmp_path / "t.xlsx", Data=far_cell)
    assert file.stat().st_size < 10_000
    for read in (read_table, lambda path: stream_table(path, 5)):
        with pytest.raises(DataError, match="cannot be read in 2 GiB of memory, or is damaged"):
            read(file)


def test_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excel, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(DataError, match="bytes once unpacked; at most 1000 are accepted"):
        read_table(workbook(tmp_path / "t.xlsx", Data=[["text"], ["a"]]))


@pytest.mark.parametrize("suffix", [".xlsx", ".xls"])
def test_what_is_no_workbook_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"t{suffix}"
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    for content in (
        b"text,label\na,b\n",
        b"<html><table></table></html>",
        (tmp_path / "z.zip").read_bytes(),
        b"PK\3\4",
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"t\{suffix}: not a readable Excel workbook"):
            read_table(file)


def test_formulas_addresses_and_numbers_in_texts_stay_texts(tmp_path: Path) -> None:
    texts = ["=1+1", "https://example.org", "00123", "@SUM(A1)", "a\x01b", "_x0041_", "x" * 32_767, " "]
    write_table(tmp_path / "t.xlsx", [{"text": text, "n": 1.5, "large": 2**60, "yes": True} for text in texts])
    rows = read_table(tmp_path / "t.xlsx").rows
    assert [row["text"] for row in rows] == texts
    assert rows[0] | {"text": ""} == {"text": "", "n": "1.5", "large": str(2**60), "yes": "TRUE"}


def test_what_a_sheet_cannot_hold_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="column 'text': a cell of 32768 characters; Excel's hold 32767"):
        write_table(tmp_path / "t.xlsx", [{"text": "x" * 32_768}])
    monkeypatch.setattr(excel, "MAX_ROWS", 10)
    write_table(tmp_path / "t.xlsx", [{"text": "a"}] * 9)
    with pytest.raises(DataError, match="more than 9 rows"):
        write_table(tmp_path / "t.xlsx", [{"text": "a"}] * 10)
    with pytest.raises(DataError, match="16385 columns"):
        open_writer(tmp_path / "t.xlsx", dict.fromkeys(map(str, range(16_385))))
    with pytest.raises(DataError, match=r"unknown table format '\.xls'"):
        open_writer(tmp_path / "t.xls", {})


@pytest.mark.parametrize(
    ("act", "package"),
    [(read_table, "python-calamine"), (lambda file: write_table(file, [{"text": "a"}]), "XlsxWriter")],
)
def test_a_missing_package_is_named_with_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], Any], package: str
) -> None:
    file = workbook(tmp_path / "t.xlsx", Data=[["text"], ["a"]])
    monkeypatch.setattr(excel, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=rf"\.xlsx needs {package}: pip install 'rehead\[excel\]'"):
        act(file)


def test_the_names_of_the_sheets_are_those_that_are_shown(tmp_path: Path) -> None:
    with xlsxwriter.Workbook(str(tmp_path / "book.xlsx")) as book:
        for name in ("Notes", "2024", "hidden"):
            book.add_worksheet(name).write_row(0, 0, ["text"])
        book.get_worksheet_by_name("hidden").hide()
    assert excel.sheet_names(tmp_path / "book.xlsx") == ["Notes", "2024"]
    (tmp_path / "no.xlsx").write_bytes(b"no workbook")
    with pytest.raises(DataError, match="not a readable Excel workbook"):
        excel.sheet_names(tmp_path / "no.xlsx")
