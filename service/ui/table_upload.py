"""A table from a person: uploaded, or one that the server offers; its preview and its columns."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from finetune.core.errors import FinetuneError
from finetune.core.tables.columns import LABEL_NAMES, TEXT_NAMES, obvious_column
from finetune.core.tables.excel import sheet_names
from finetune.core.tables.files import stream_table
from finetune.core.tables.formats import SUFFIXES
from finetune.core.tables.options import TableOptions
from finetune.core.tables.text_file import PACKINGS, suffix_of
from service.errors import BadRequest, ServiceError
from service.ui import upload_folder
from service.ui.form import AUTOMATIC
from service.ui.results import HIDDEN, SAME, reporting
from service.ui.tab import Page

PREVIEW_ROWS, MAX_CELL_LENGTH, COLUMNS_SHOWN = 8, 300, 50
MAX_COLUMNS, MAX_NAME_CHARACTERS = 2000, 100_000
"""Columns that a table may have here, and the characters of all their names as they are shown."""

CUT = " ..."
WORKBOOKS = (".xlsx", ".xls")
COLUMNS_ABREAST, MIN_CHARACTERS, MAX_CHARACTERS, CHARACTER_PIXELS = 6, 5, 23, 9
"""Columns that fit side by side, the characters that each is wide, and the width of one."""

CORRECTIONS = "corrections of "
NO_COLUMN = "(no column)"
"""The choice of a field that may stay empty: a browser cannot clear a selection."""

NO_COLUMNS = gr.update(choices=[], value=None)


@dataclass(frozen=True)
class Fields:
    """The fields of a table: its upload, the name of an offered one, its sheet, its preview, its error."""

    upload: gr.File
    offered: gr.Dropdown
    sheet: gr.Dropdown
    preview: gr.Dataframe
    problem: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        """Return the inputs of a handler that reads the table, in the order of `path_of`'s arguments; the sheet is none
        of them."""
        return [self.upload, self.offered]


@dataclass(frozen=True)
class Example:
    """A table to try, behind a button.

    Attributes:
        values, outputs: what the button fills in besides the table.
    """

    button: gr.Button
    name: str
    content: str
    values: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()


def build(page: Page, tab: gr.Tab, name: str, *, corrections: bool = False) -> Fields:
    """Return the fields, with element ids that begin with `name`.

    Args:
        corrections: offer corrected answers as well, by model; they are used for training and never shown.
    """

    def offers() -> list[str]:
        names = list(offered(page))
        if corrections and page.feedback is not None:
            names += [f"{CORRECTIONS}{model} ({count})" for model, count in page.feedback.by_model().items()]
        return names

    names = offers()
    upload = gr.File(
        label="Table",
        file_types=[*SUFFIXES, *PACKINGS],  # a browser looks at the last part of a suffix
        type="filepath",
        height=170,
        elem_id=f"{name}-upload",
    )
    selection = gr.Dropdown(
        names, value=None, label="Or a table of this server", visible=bool(names), elem_id=f"{name}-offered"
    )
    sheet = gr.Dropdown([], label="Sheet", visible=False, elem_id=f"{name}-sheet")
    problem = gr.HTML(visible=False, padding=False, elem_id=f"{name}-table-problem")
    preview = gr.Dataframe(
        label="Preview", interactive=False, visible=False, wrap=True, max_height=320, elem_id=f"{name}-preview"
    )
    # an upload replaces the selection, and the other way round; a dropdown also has an `input` event when it loses the
    # focus (Gradio 6.31), without a choice
    upload.upload(lambda: None, None, [selection], api_name=False, show_progress="hidden")
    selection.input(
        lambda name: None if name else gr.skip(), [selection], [upload], api_name=False, show_progress="hidden"
    )
    tab.select(
        lambda: gr.update(choices=(names := offers()), visible=bool(names)),
        None,
        [selection],
        api_name=False,
        show_progress="hidden",
    )
    return Fields(upload, selection, sheet, preview, problem)


def connect(
    page: Page,
    fields: Fields,
    columns: list[gr.Dropdown],
    wanted: tuple[tuple[str, ...], ...],
    example: Example | None = None,
    reading: tuple[gr.Dropdown, ...] = (),
) -> list[Any]:
    """Show a preview of a table, and fill the fields that select its sheet and its columns.

    Args:
        wanted: likely column names for each field; none for a field that may stay empty.
        example: shown together with its preview: a handler that follows a click can be given the field's old value.
        reading: fields of the file's encoding and separator; a change reloads the preview.

    Returns:
        The events, for handlers that follow.
    """

    async def preview(upload: str | None, name: str | None, sheet: str | None, *formats: str | None) -> list[Any]:
        if upload is None and name is not None and name.startswith(CORRECTIONS):
            return [
                HIDDEN,
                *[gr.update(choices=[column], value=column) for column in ("text", "label")[: len(columns)]],
            ]
        path = await page.admission.background(path_of, page, upload, name)
        if path is None:
            return [HIDDEN, *[NO_COLUMNS] * len(columns)]
        try:
            names, rows, note = await page.admission.background(_head, path, options_of(*formats, sheet=sheet))
        except FinetuneError as error:
            raise BadRequest(without_place(str(error), path)) from error
        if len(names) > MAX_COLUMNS or sum(map(len, names)) > MAX_NAME_CHARACTERS:
            raise BadRequest(
                f"the table has {len(names):,} columns, whose names are too many for this page: keep those that you "
                "need, or use the command line"
            )
        updates = []
        for likely in wanted:
            column = obvious_column(likely, names)
            if column is None and likely and len(names) == 1:
                column = names[0]
            updates.append(gr.update(choices=names if likely else [NO_COLUMN, *names], value=column))
        title = f"Preview ({note})" if note else "Preview"
        return [gr.update(**as_shown(names, rows), label=title), *updates]

    async def first_sheet(upload: str | None, name: str | None, sheet: str | None, *formats: str | None) -> list[Any]:
        return await preview(upload, name, None, *formats)  # the sheet was of the table before

    async def of_offered(upload: str | None, name: str | None, sheet: str | None, *formats: str | None) -> list[Any]:
        return await preview(None, name, None, *formats) if name else [SAME] * len(nothing)

    async def of_example(*formats: str | None) -> list[Any]:
        assert example is not None
        file = upload_folder.new_folder(example.content.encode()) / example.name
        file.write_text(example.content, encoding="utf-8")
        return [str(file), None, *example.values, *await preview(str(file), None, None, *formats)]

    async def sheets(upload: str | None, name: str | None) -> Any:
        return await page.admission.background(_sheets, page, upload, name)

    other_table = (fields.upload.upload, fields.upload.clear, fields.offered.input)
    nothing, outputs = [HIDDEN, *[NO_COLUMNS] * len(columns)], [fields.preview, *columns, fields.problem]
    events = []
    for act, triggers in (
        (first_sheet, (fields.upload.upload, fields.upload.clear)),
        (of_offered, (fields.offered.input,)),
        (preview, (fields.sheet.input, *(field.input for field in reading))),
    ):
        handler = reporting(act, page.admission.telemetry, otherwise=nothing)
        inputs = [*fields.inputs, fields.sheet, *reading]
        events += [trigger(handler, inputs, outputs, api_name=False) for trigger in triggers]
    if example is not None:
        filled = [*fields.inputs, *example.outputs]
        handler = reporting(of_example, page.admission.telemetry, otherwise=[*[SAME] * len(filled), *nothing])
        tried = example.button.click(handler, list(reading), [*filled, *outputs], api_name=False)
        tried.then(sheets, fields.inputs, [fields.sheet], api_name=False, show_progress="hidden")
        events.append(tried)
    for trigger in other_table:
        trigger(sheets, fields.inputs, [fields.sheet], api_name=False, show_progress="hidden")
    return events


def _sheets(page: Page, upload: str | None, name: str | None) -> Any:
    """Return an update of the field that selects a sheet: shown if the selected table is a workbook of several."""
    names: list[str] = []
    # the preview reports what cannot be read
    with suppress(FinetuneError, ServiceError):
        path = path_of(page, upload, name) if upload or not (name or "").startswith(CORRECTIONS) else None
        names = sheet_names(path) if path is not None and suffix_of(path) in WORKBOOKS else []
    return gr.update(choices=names, value=names[0] if len(names) > 1 else None, visible=len(names) > 1)


def as_shown(names: list[str], rows: list[list[str]]) -> dict[str, Any]:
    """Return rows as an update of a `gr.Dataframe`, cut, with columns as wide as their cells while they are few."""
    names, rows = [shown(name) for name in names], [[shown(cell) for cell in row] for row in rows]
    update: dict[str, Any] = {"value": {"headers": names[:COLUMNS_SHOWN], "data": rows}, "visible": True}
    update["column_widths"] = []
    if len(names) <= COLUMNS_ABREAST:
        cells = zip(names, *rows, strict=True) if rows else ((name,) for name in names)
        lengths = [min(MAX_CHARACTERS, max(MIN_CHARACTERS, *map(len, column))) for column in cells]
        update["column_widths"] = [f"{CHARACTER_PIXELS * (length + 2)}px" for length in lengths]
    return update


def offered(page: Page) -> dict[str, Path]:
    """Return the tables that the server offers, by name."""
    folder = page.admission.settings.tables
    if folder is None or not folder.is_dir():
        return {}
    return {file.name: file for file in sorted(folder.iterdir()) if suffix_of(file) in SUFFIXES}


def file_name(upload: str | None, name: str | None) -> str | None:
    """Return the name of the selected table's file, or None; nothing is read or written."""
    if upload:
        return Path(upload).name
    if name and name.startswith(CORRECTIONS):
        model = name[len(CORRECTIONS) :].rpartition(" (")[0]
        return f"corrections-of-{re.sub(r'[^A-Za-z0-9_-]', '-', model[:60])}.jsonl"
    return name or None


def path_of(page: Page, upload: str | None, name: str | None) -> Path | None:
    """Return the selected table, or None; corrections are copied, so check the page's token first.

    Raises:
        BadRequest: the name is not offered.
        Overloaded: there is no room for the corrections.
    """
    if upload:
        return Path(upload)
    if not name:
        return None
    if name.startswith(CORRECTIONS):
        return _corrections(page, name)
    tables = offered(page)
    if name not in tables:
        raise BadRequest("the selected table no longer exists on this server: select another")
    return tables[name]


def _corrections(page: Page, name: str) -> Path:
    """Return a file with the corrections of one model; equal corrections are one file."""
    if page.jobs is None or page.feedback is None:
        raise BadRequest("corrections are not offered by this server: select another table")
    content = page.feedback.rows_of(name[len(CORRECTIONS) :].rpartition(" (")[0])
    file = upload_folder.folder_of(content) / str(file_name(None, name))
    if not file.is_file():
        page.admission.check_storage(upload_folder.clean_up() + len(content), files=0)
        (upload_folder.new_folder(content) / file.name).write_bytes(content)
    return file


def options_of(encoding: str | None = None, separator: str | None = None, *, sheet: str | None = None) -> TableOptions:
    """Return the options for reading a file; an empty value and `automatic` mean detection, and no sheet the first.

    Raises:
        ConfigError: an unknown encoding or separator.
    """
    detect = (None, "", AUTOMATIC)
    return TableOptions(
        None if encoding in detect else encoding, None if separator in detect else separator, sheet=sheet or None
    )


def wanted_columns() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return likely names of a text column and of a label column."""
    return tuple(TEXT_NAMES), tuple(LABEL_NAMES)


def without_place(sentence: str, path: Path) -> str:
    """Return a sentence with a file's name in place of its path on the server."""
    return sentence.replace(f"{path.parent}/", "")


def _head(path: Path, options: TableOptions) -> tuple[list[str], list[list[str]], str | None]:
    """Return a table's columns, its first rows and a note on its format."""
    table = stream_table(path, PREVIEW_ROWS, options)
    rows = next(table.chunks)[:PREVIEW_ROWS]
    cells = [[shown(row.get(name)) for name in table.columns[:COLUMNS_SHOWN]] for row in rows]
    return [shown(name) for name in table.columns], cells, table.note


def shown(value: Any) -> str:
    """Return a cell or the name of a column as the page shows it: what is long is cut."""
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_CELL_LENGTH + len(CUT) else f"{text[:MAX_CELL_LENGTH]}{CUT}"


def column_of(path: Path, name: str, options: TableOptions) -> str:
    """Return the column of a table whose name is shown as `name`.

    Raises:
        BadRequest: several columns are shown like that.
        DataError: the table cannot be read.
    """
    if len(name) < MAX_CELL_LENGTH + len(CUT):
        return name
    columns = [column for column in stream_table(path, 1, options).columns if shown(column) == name]
    if len(columns) > 1:
        raise BadRequest(f"{len(columns)} columns begin with {name[:40]!r} and differ only later: rename them")
    return columns[0] if columns else name
