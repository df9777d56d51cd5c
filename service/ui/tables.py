"""A table from a person: uploaded, or one of those that the server offers; its first rows, its columns.

Knows: the two ways, what is shown of a table.
Does not know: what is done with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from finetune.chunks import chunks
from finetune.errors import FinetuneError
from finetune.tables import LABEL_NAMES, SUFFIXES, TEXT_NAMES
from service.errors import BadRequest
from service.ui.answers import HIDDEN, guarded
from service.ui.page import Page

PREVIEWED, LONGEST_CELL = 8, 300
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


def build(page: Page, tab: gr.Tab, name: str) -> Fields:
    """The fields, in a tab whose elements' names begin with `name`."""
    names = offered(page)
    upload = gr.File(
        label="Table",
        file_types=list(SUFFIXES),
        type="filepath",
        height=170,
        elem_id=f"{name}-upload",
    )
    chosen = gr.Dropdown(
        list(names), value=None, label="Or one of this server's", visible=bool(names), elem_id=f"{name}-offered"
    )
    problem = gr.HTML(visible=False, padding=False, elem_id=f"{name}-table-problem")
    preview = gr.Dataframe(
        label="The first rows", interactive=False, visible=False, wrap=True, max_height=320, elem_id=f"{name}-preview"
    )
    # an upload takes the place of what was chosen, and the other way round
    upload.upload(lambda: None, None, [chosen], api_name=False, show_progress="hidden")
    chosen.input(lambda: None, None, [upload], api_name=False, show_progress="hidden")
    tab.select(
        lambda: gr.update(choices=list(found := offered(page)), visible=bool(found)),
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
) -> list[Any]:
    """Show a table once it is there, and fill the fields that name its columns.

    Args:
        wanted: for each field, names of columns that are probably meant.
        more: events, beside an upload and a choice, after which there is another table.

    Returns:
        The events, for what follows.
    """

    async def shown(upload: str | None, name: str | None) -> list[Any]:
        path = path_of(page, upload, name)
        if path is None:
            return [HIDDEN, *[NO_COLUMNS] * len(columns)]
        try:
            found = chunks(path, PREVIEWED)
            first = next(found.parts)[:PREVIEWED]
        except FinetuneError as error:
            raise BadRequest(without_place(str(error), path)) from error
        rows = [[_cell(row.get(column)) for column in found.columns] for row in first]
        updates = []
        for names in wanted:
            meant = next((column for column in found.columns if column.lower() in names), None)
            if meant is None and len(found.columns) == 1:
                meant = found.columns[0]
            updates.append(gr.update(choices=found.columns, value=meant))
        told = f"The first rows ({found.note})" if found.note else "The first rows"
        return [gr.update(visible=True, value={"headers": found.columns, "data": rows}, label=told), *updates]

    handler = guarded(shown, page.desk.telemetry, otherwise=[HIDDEN, *[NO_COLUMNS] * len(columns)])
    outputs = [fields.preview, *columns, fields.problem]
    return [
        event(handler, fields.inputs, outputs, api_name=False)
        for event in (fields.upload.upload, fields.upload.clear, fields.offered.input, *more)
    ]


def offered(page: Page) -> dict[str, Path]:
    """Tables of the server, by name."""
    found: dict[str, Path] = {}
    folder = page.desk.settings.tables
    if folder is not None and folder.is_dir():
        found = {file.name: file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES}
    if page.feedback is not None and page.feedback.rows:
        found[f"corrections ({page.feedback.file.name})"] = page.feedback.file
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
    found = offered(page)
    if name not in found:
        raise BadRequest("this server has no table of that name any more")
    return found[name]


def wanted_columns() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that a column of texts, and one of labels, probably has."""
    return tuple(TEXT_NAMES), tuple(LABEL_NAMES)


def without_place(sentence: str, path: Path) -> str:
    """A sentence with a file's name in place of where it lies on the server."""
    return sentence.replace(f"{path.parent}/", "")


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]} ..."
