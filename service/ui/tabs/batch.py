"""The Batch tab: a table in, the same table with predictions out.

Knows: this tab's components, how far a table is shown to be.
Does not know: the other tabs, how a table is scored.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from finetune.core.errors import FinetuneError
from finetune.core.tables.files import stream_table
from finetune.core.tables.formats import OUTPUT_NAMES
from finetune.core.tables.options import ENCODINGS
from service.batch.score_table import ScoringResult
from service.errors import BadRequest, Overloaded, ServiceError, TooLarge
from service.ui import form, label_chips, links, restrictions, snippets, table_upload
from service.ui.label_chips import LABELS
from service.ui.results import HIDDEN, streamed
from service.ui.tab import Page

NAME = "batch"
LOOK_S = 0.25
SHOWN = 20
LONGEST_S = 1800
TIMES_UPLOAD = 4
"""How many times as large as an upload the scored table may be."""

EXAMPLE = """id,text
1,"A warm, funny film with a terrific cast."
2,Two hours of my life that I will never get back.
3,"It starts slowly, but the last act makes up for everything."
4,The central bank raised interest rates again.
"""
ASKED = "A warm, funny film with a terrific cast."
WAITING = '<div class="rehead-note">Upload a table, choose its column of texts, and score it.</div>'


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab inside the block that is open, and connect it."""
    names = page.names()
    first = next(iter(names), None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            fields = table_upload.build(page, tab, NAME)
            example = gr.Button("Try an example table", size="sm", elem_id="batch-example")
            column = gr.Dropdown([], label="Column of the text", elem_id="batch-column")
            encoding = gr.Dropdown(
                [form.AUTOMATIC, *ENCODINGS],
                value=form.AUTOMATIC,
                label="Encoding of the table",
                info="Found by itself; name it where the text looks wrong.",
                allow_custom_value=True,
                elem_id="batch-encoding",
            )
            model = gr.Dropdown(names, value=first, label="Model", elem_id="batch-model")
            labels = label_chips.field("batch-labels", LABELS, visible=False)
            several = gr.Checkbox(label="Several labels may hold at once", visible=False, elem_id="batch-several")
            every = gr.Checkbox(label="A column for each label's score", elem_id="batch-every")
            kind = gr.Radio(
                list(OUTPUT_NAMES), value=next(iter(OUTPUT_NAMES)), label="Download as", elem_id="batch-kind"
            )
            with gr.Row():
                score = gr.Button("Score the table", variant="primary", elem_id="batch-score")
                stop = gr.Button("Stop", visible=False, variant="stop", elem_id="batch-stop")
        with gr.Column(scale=6):
            problem = gr.HTML(visible=False, padding=False, elem_id="batch-problem")
            progress = gr.HTML(WAITING, padding=False, elem_id="batch-progress")
            download = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="batch-download")
            result = gr.Dataframe(
                label="The first rows with their predictions",
                interactive=False,
                visible=False,
                wrap=True,
                max_height=480,
                elem_id="batch-result",
            )

    def program(way: str, address: str, model: str | None, labels: list[str] | None) -> str:
        free = bool(model) and page.desk.store.folder(str(model)).is_zero_shot
        if way != "command":
            return snippets.of_model(page, way, address, model, ASKED, labels or LABELS)
        asked = f"rehead zero-shot table.csv --labels {shlex.quote(','.join(labels or LABELS))}"
        return f"{asked if free else f'rehead predict {model} table.csv'} -o scored.csv"

    snippets.build(NAME, [model, labels], program, {"command": "shell"} | snippets.LANGUAGES)
    kept = {"model": model, "labels": labels, "several": several, "scores": every, "kind": kind}
    links.build(page.blocks, NAME, kept)

    texts, _ = table_upload.wanted_columns()
    shown = example.click(
        lambda: table_upload.example("example.csv", EXAMPLE),
        None,
        fields.inputs,
        api_name=False,
        show_progress="hidden",
    )
    table_upload.connect(page, fields, [column], (texts,), more=(shown.then,), reading=(encoding,))

    def for_model(name: str | None) -> list[Any]:
        free = name is not None and page.desk.store.folder(name).is_zero_shot
        return [gr.update(visible=free), gr.update(visible=free)]

    for event in (model.change, page.blocks.load):
        event(for_model, [model], [labels, several], api_name=False, show_progress="hidden")
    act = streamed(
        partial(_score, page), page.desk.telemetry, otherwise=[WAITING, HIDDEN, HIDDEN, gr.update(visible=False)]
    )
    asked = [*fields.inputs, column, model, labels, several, every, kind, encoding]
    event = score.click(
        act,
        asked,
        [progress, download, result, stop, problem],
        api_name=False,
        show_progress="hidden",
    )
    # what is said of it comes once it has ended: until then it may show how far it is
    ended = stop.click(None, None, None, cancels=[event], api_name=False)
    ended.then(
        lambda: ['<div class="rehead-note">Stopped.</div>', gr.update(visible=False)],
        None,
        [progress, stop],
        api_name=False,
        show_progress="hidden",
    )
    tab.select(lambda: gr.update(choices=page.names()), None, [model], api_name=False, show_progress="hidden")


async def _score(
    page: Page,
    upload: str | None,
    offered: str | None,
    column: str | None,
    model: str | None,
    labels: list[str],
    several: bool,
    every: bool,
    kind: str,
    encoding: str | None = None,
) -> AsyncIterator[list[Any]]:
    table = table_upload.path_of(page, upload, offered if offered in table_upload.offered(page) else None)
    if table is None:
        raise BadRequest("there is no table yet: upload one, or try the example")
    if not column:
        raise BadRequest("choose the column that holds the texts")
    if not model:
        raise BadRequest("no model is served")
    desk, options = page.desk, table_upload.options_of(encoding)
    engine = await asyncio.to_thread(desk.store.get, model)
    question = None
    if engine.folder.is_zero_shot:
        question = label_chips.question(desk, labels, several)
    most = desk.settings.max_upload_bytes
    if not page.slots.acquire(blocking=False):
        raise Overloaded("other tables are being scored", hint="try again in a moment")
    try:
        restrictions.check_room(await desk.aside(restrictions.sweep), TIMES_UPLOAD, most)
        out = restrictions.place() / f"{table.stem[:60]}-scored{OUTPUT_NAMES.get(kind, '.csv')}"
        done: list[tuple[int, float]] = [(0, 0.0)]
        stopped, begin = threading.Event(), time.monotonic()

        def note(rows: int, share: float) -> None:
            done[0] = rows, share
            if stopped.is_set():
                raise BadRequest("stopped")
            if restrictions.taken(out.parent) > TIMES_UPLOAD * most or time.monotonic() - begin > LONGEST_S:
                raise TooLarge("this is more than the page scores", hint="rehead predict scores a table of any size")

        work = asyncio.ensure_future(
            desk.aside(
                partial(
                    desk.score_table,
                    *(engine, question, table, out),
                    text=column,
                    all_scores=every,
                    progress=note,
                    options=options,
                )
            )
        )
        try:
            while not work.done():
                rows, share = done[0]
                yield [_bar(rows, share, time.monotonic() - begin), gr.skip(), gr.skip(), gr.update(visible=True)]
                await asyncio.wait({work}, timeout=LOOK_S)
            found = work.result()
            head = await desk.aside(_first_rows, out, found)
        except (FinetuneError, ServiceError) as error:
            raise BadRequest(table_upload.without_place(str(error), table)) from error
        finally:
            stopped.set()
            if not work.done() or work.exception() is not None:
                await asyncio.wait({work})  # what it has written goes once it writes no more
                shutil.rmtree(out.parent, ignore_errors=True)
    finally:
        page.slots.release()
    yield [
        _told(found, time.monotonic() - begin),
        gr.update(value=str(out), visible=True, label=f"Download {out.name}"),
        gr.update(**head),
        gr.update(visible=False),
    ]


def _bar(rows: int, share: float, seconds: float) -> str:
    rate = rows / seconds if seconds > 0 else 0.0
    left = f", about {seconds * (1 - share) / share:.0f} s left" if share > 0.02 and rows else ""
    told = f"{rows:,} rows, {rate:,.0f} a second{left}" if rows else "Reading the table ..."
    return (
        f'<div role="status" class="rehead-note"><progress max="1" value="{share:.3f}" aria-label="Share of the table '
        f'that is scored"></progress> {told}</div>'
    )


def _told(found: ScoringResult, seconds: float) -> str:
    errors = f", {found.errors} of them could not be scored (column error says why)" if found.errors else ""
    warnings = "".join(f" Warning: {warning}." for warning in found.warnings)
    told = f"{found.rows:,} rows in {seconds:.1f} s{errors}.{warnings}"
    return f'<div role="status" class="rehead-note">{escape(told)}</div>'


def _first_rows(out: Path, found: ScoringResult) -> dict[str, Any]:
    table = stream_table(out, SHOWN)
    first = next(table.chunks)[:SHOWN]
    new = [column for column in found.columns if column in table.columns and any(row.get(column) for row in first)]
    columns = [*new, *(column for column in table.columns if column not in found.columns)][: table_upload.COLUMNS_SHOWN]
    rows = [[_shown(row.get(column), rounded=column in new) for column in columns] for row in first]
    return table_upload.as_shown(columns, rows)


def _shown(cell: Any, *, rounded: bool) -> str:
    with suppress(TypeError, ValueError):
        if rounded:
            return f"{float(cell):.3f}"
    return "" if cell is None else str(cell)
