"""A table from a person: uploaded, or one of those that the server offers; its first rows, its columns.

Knows: the two ways, what is shown of a table.
Does not know: what is done with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from finetune.core.errors import FinetuneError
from finetune.core.tables.columns import LABEL_NAMES, TEXT_NAMES, obvious_column
from finetune.core.tables.files import stream_table
from finetune.core.tables.formats import SUFFIXES
from finetune.core.tables.options import TableOptions
from service.errors import BadRequest
from service.ui import restrictions
from service.ui.form import AUTOMATIC
from service.ui.results import HIDDEN, guarded
from service.ui.tab import Page

PREVIEWED, LONGEST_CELL, COLUMNS_SHOWN = 8, 300, 50
COLUMNS_ABREAST, NARROWEST, WIDEST, PIXELS = 6, 5, 23, 9
"""Columns that have room beside one another; characters for which each gets room, and how wide one is."""

CORRECTIONS = "corrections of "
NO_COLUMNS = gr.update(choices=[], value=None)


@dataclass(frozen=True)
class Fields:
    """The fields that a table comes from, to be handed to `path_of`: the upload, and the offered one's name."""

    upload: gr.File
    offered: gr.Dropdown
    preview: gr.Dataframe
    problem: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        """What a handler takes, in the order of `path_of`'s arguments."""
        return [self.upload, self.offered]


def build(page: Page, tab: gr.Tab, name: str, *, corrections: bool = False) -> Fields:
    """The fields, in a tab whose elements' names begin with `name`.

    Args:
        corrections: offer corrected answers too, by the model that was corrected; they are trained on and never shown.
    """

    def offers() -> list[str]:
        found = list(offered(page))
        if corrections and page.feedback is not None:
            found += [f"{CORRECTIONS}{model} ({many})" for model, many in page.feedback.by_model().items()]
        return found

    names = offers()
    upload = gr.File(
        label="Table",
        file_types=list(SUFFIXES),
        type="filepath",
        height=170,
        elem_id=f"{name}-upload",
    )
    chosen = gr.Dropdown(
        names, value=None, label="Or one of this server's", visible=bool(names), elem_id=f"{name}-offered"
    )
    problem = gr.HTML(visible=False, padding=False, elem_id=f"{name}-table-problem")
    preview = gr.Dataframe(
        label="The first rows", interactive=False, visible=False, wrap=True, max_height=320, elem_id=f"{name}-preview"
    )
    # an upload takes the place of what was chosen, and the other way round
    upload.upload(lambda: None, None, [chosen], api_name=False, show_progress="hidden")
    chosen.input(lambda: None, None, [upload], api_name=False, show_progress="hidden")
    tab.select(
        lambda: gr.update(choices=(found := offers()), visible=bool(found)),
        None,
        [chosen],
        api_name=False,
        show_progress="hidden",
    )
    return Fields(upload, chosen, preview, problem)


def connect(
    page: Page,
    fields: Fields,
    columns: list[gr.Dropdown],
    wanted: tuple[tuple[str, ...], ...],
    more: tuple[Callable[..., Any], ...] = (),
    reading: tuple[gr.Dropdown, ...] = (),
) -> list[Any]:
    """Show a table once it is there, and fill the fields that name its columns.

    Args:
        reading: fields of the file's encoding and separator; a change shows the table anew.
        wanted: for each field, names of columns that are probably meant.
        more: events, beside an upload and a choice, after which there is another table.

    Returns:
        The events, for what follows.
    """

    async def shown(upload: str | None, name: str | None, *given: str | None) -> list[Any]:
        if upload is None and name is not None and name.startswith(CORRECTIONS):
            return [HIDDEN, *[gr.update(choices=[one], value=one) for one in ("text", "label")[: len(columns)]]]
        path = await page.desk.aside(path_of, page, upload, name)
        if path is None:
            return [HIDDEN, *[NO_COLUMNS] * len(columns)]
        try:
            names, rows, note = await page.desk.aside(_head, path, options_of(*given))
        except FinetuneError as error:
            raise BadRequest(without_place(str(error), path)) from error
        updates = []
        for one in wanted:
            meant = obvious_column(one, names)
            if meant is None and len(names) == 1:
                meant = names[0]
            updates.append(gr.update(choices=names, value=meant))
        told = f"The first rows ({note})" if note else "The first rows"
        return [gr.update(**as_shown(names, rows), label=told), *updates]

    handler = guarded(shown, page.desk.telemetry, otherwise=[HIDDEN, *[NO_COLUMNS] * len(columns)])
    outputs = [fields.preview, *columns, fields.problem]
    return [
        event(handler, [*fields.inputs, *reading], outputs, api_name=False)
        for event in (
            *(fields.upload.upload, fields.upload.clear, fields.offered.input, *more),
            *(field.input for field in reading),
        )
    ]


def as_shown(names: list[str], rows: list[list[str]]) -> dict[str, Any]:
    """Rows as an update of a `gr.Dataframe`: a few columns side by side, as wide as what they hold asks for."""
    found: dict[str, Any] = {"value": {"headers": names[:COLUMNS_SHOWN], "data": rows}, "visible": True}
    found["column_widths"] = []
    if len(names) <= COLUMNS_ABREAST:
        cells = zip(names, *rows, strict=True) if rows else ((name,) for name in names)
        long = [min(WIDEST, max(NARROWEST, *map(len, column))) for column in cells]
        found["column_widths"] = [f"{PIXELS * (one + 2)}px" for one in long]
    return found


def example(name: str, content: str) -> list[Any]:
    """A table of our own as if it were uploaded: values for the two fields."""
    file = restrictions.place(content.encode()) / name
    file.write_text(content, encoding="utf-8")
    return [str(file), None]


def offered(page: Page) -> dict[str, Path]:
    """Tables of the server, by name."""
    found: dict[str, Path] = {}
    folder = page.desk.settings.tables
    if folder is not None and folder.is_dir():
        found = {file.name: file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES}
    return found


def path_of(page: Page, upload: str | None, name: str | None) -> Path | None:
    """The table that is meant; None where there is none yet.

    Raises:
        BadRequest: a name that is not offered.
    """
    if upload:
        return Path(upload)
    if not name:
        return None
    if name.startswith(CORRECTIONS) and page.jobs is not None and page.feedback is not None:
        model = name[len(CORRECTIONS) :].rpartition(" (")[0]
        out = restrictions.place() / f"corrections-of-{re.sub(r'[^A-Za-z0-9_-]', '-', model)}.jsonl"
        page.feedback.write(model, out)
        return out
    found = offered(page)
    if name not in found:
        raise BadRequest("this server has no table of that name any more")
    return found[name]


def options_of(encoding: str | None = None, separator: str | None = None) -> TableOptions:
    """How a file is read, from what its fields hold; `automatic` and nothing leave it to be found.

    Raises:
        ConfigError: an encoding or a separator that cannot be.
    """
    left = (None, "", AUTOMATIC)
    return TableOptions(None if encoding in left else encoding, None if separator in left else separator)


def wanted_columns() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that a column of texts, and one of labels, probably has."""
    return tuple(TEXT_NAMES), tuple(LABEL_NAMES)


def without_place(sentence: str, path: Path) -> str:
    """A sentence with a file's name in place of where it lies on the server."""
    return sentence.replace(f"{path.parent}/", "")


def _head(path: Path, options: TableOptions) -> tuple[list[str], list[list[str]], str | None]:
    """A table's columns, its first rows and what was found out about it."""
    table = stream_table(path, PREVIEWED, options)
    columns = table.columns
    rows = next(table.chunks)[:PREVIEWED]
    return columns, [[_cell(row.get(name)) for name in columns[:COLUMNS_SHOWN]] for row in rows], table.note


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]} ..."
