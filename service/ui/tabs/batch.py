"""The Batch tab: a table in, the same table with predictions out."""

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
from finetune.core.tables.formats import OUTPUT_NAMES, can_write
from finetune.core.tables.options import ENCODINGS
from finetune.core.tables.text_file import stem_of
from service.batch.score_table import ScoringResult
from service.errors import BadRequest, ServiceError, TooLarge
from service.server.table_scoring import score_upload
from service.ui import form, label_chips, links, snippets, table_upload, upload_folder
from service.ui.label_chips import LABELS
from service.ui.results import HIDDEN, reporting_stream, scroll_to
from service.ui.tab import Page

NAME = "batch"
PROGRESS_INTERVAL_S = 0.25
ROWS_SHOWN = 20
MAX_SECONDS = 1800
OUTPUT_RATIO = 4
"""How many times as large as the largest upload the scored table may be."""

EXAMPLE = """id,text
1,"A warm, funny film with a terrific cast."
2,Two hours of my life that I will never get back.
3,"It starts slowly, but the last act makes up for everything."
4,The central bank raised interest rates again.
"""
EXAMPLE_TEXT = "A warm, funny film with a terrific cast."
WAITING = '<div class="rehead-note">Upload a table, select its text column, and score it.</div>'


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab in the open block, and connect it."""
    names = page.names()
    first = next(iter(names), None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            fields = table_upload.build(page, tab, NAME)
            example = gr.Button("Try an example table", size="sm", elem_id="batch-example")
            column = gr.Dropdown([], label="Text column", elem_id="batch-column")
            encoding = gr.Dropdown(
                [form.AUTOMATIC, *ENCODINGS],
                value=form.AUTOMATIC,
                label="Encoding",
                info="Detected automatically; set it if the preview looks wrong.",
                allow_custom_value=True,
                elem_id="batch-encoding",
            )
            model = gr.Dropdown(names, value=first, label="Model", elem_id="batch-model")
            labels, _ = label_chips.field("batch-labels", LABELS, visible=False)
            several = gr.Checkbox(label="Allow several labels per text", visible=False, elem_id="batch-several")
            every = gr.Checkbox(label="Add a column for each label's score", elem_id="batch-every")
            kind = gr.Radio(
                list(filter(can_write, OUTPUT_NAMES)), value="CSV", label="Download as", elem_id="batch-kind"
            )
            with gr.Row():
                score = gr.Button("Score the table", variant="primary", elem_id="batch-score")
                stop = gr.Button("Stop", visible=False, variant="stop", elem_id="batch-stop")
        with gr.Column(scale=6, elem_id="batch-answer", elem_classes="rehead-answer"):
            problem = gr.HTML(visible=False, padding=False, elem_id="batch-problem")
            progress = gr.HTML(WAITING, padding=False, elem_id="batch-progress")
            download = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="batch-download")
            result = gr.Dataframe(
                label="Preview with predictions",
                interactive=False,
                visible=False,
                wrap=True,
                max_height=480,
                elem_id="batch-result",
            )

    def program(language: str, address: str, model: str | None, labels: list[str] | None) -> str:
        if language != "command":
            return snippets.of_model(page, language, address, model, EXAMPLE_TEXT, labels or LABELS)
        if _is_zero_shot(page, model):
            is_plain = all(isinstance(label, str) for label in label_chips.described(labels or LABELS))
            names = shlex.quote(",".join(labels or LABELS)) if is_plain else "@labels.yaml"
            return f"rehead zero-shot table.csv --labels {names} -o scored.csv"
        return f"rehead predict {model} table.csv -o scored.csv"

    snippets.build(NAME, [model, labels], program, {"command": "shell"} | snippets.LANGUAGES)
    linked = {"model": model, "labels": labels, "several": several, "scores": every, "kind": kind}
    links.build(page.blocks, NAME, linked)

    texts, _ = table_upload.wanted_columns()
    tried = table_upload.Example(example, "example.csv", EXAMPLE)
    table_upload.connect(page, fields, [column], (texts,), example=tried, reading=(encoding,))

    def for_model(name: str | None) -> list[Any]:
        zero_shot = _is_zero_shot(page, name)
        return [gr.update(visible=zero_shot), gr.update(visible=zero_shot)]

    for event in (model.change, page.blocks.load):
        event(for_model, [model], [labels, several], api_name=False, show_progress="hidden")
    hidden = [WAITING, HIDDEN, HIDDEN, gr.update(visible=False)]
    act = reporting_stream(partial(_score, page), page.admission.telemetry, otherwise=hidden)
    inputs = [*fields.inputs, column, model, labels, several, every, kind, encoding, fields.sheet]
    outputs = [progress, download, result, stop, problem]
    event = score.click(act, inputs, outputs, api_name=False, show_progress="hidden")
    score.click(None, js=scroll_to("batch-answer"))
    # the status line is replaced only after the event has ended: until then it may still show progress
    ended = stop.click(None, None, None, cancels=[event], api_name=False)
    ended.then(
        lambda: ['<div class="rehead-note">Stopped.</div>', gr.update(visible=False)],
        None,
        [progress, stop],
        api_name=False,
        show_progress="hidden",
    )
    tab.select(lambda: gr.update(choices=page.names()), None, [model], api_name=False, show_progress="hidden")


def _is_zero_shot(page: Page, model: str | None) -> bool:
    return bool(model) and page.admission.store.folder(str(model)).is_zero_shot


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
    sheet: str | None = None,
) -> AsyncIterator[list[Any]]:
    table = table_upload.path_of(page, upload, offered if offered in table_upload.offered(page) else None)
    options = table_upload.options_of(encoding, sheet=sheet)
    if table is None:
        raise BadRequest("there is no table yet: upload one, or try the example")
    if not column:
        raise BadRequest("select the text column")
    if not model:
        raise BadRequest("no model is available")
    admission = page.admission
    engine = await asyncio.to_thread(admission.store.get, model)
    question = None
    if engine.folder.is_zero_shot:
        question = label_chips.question(admission.limits, labels, several)
    column = await admission.background(table_upload.column_of, table, column, options)
    with admission.table():
        admission.check_storage(await admission.background(upload_folder.clean_up), files=OUTPUT_RATIO)
        out = upload_folder.new_folder() / f"{stem_of(table)[:60]}-scored{OUTPUT_NAMES.get(kind, '.csv')}"
        progress = _Progress(out, OUTPUT_RATIO * admission.settings.max_upload_bytes)
        work = asyncio.ensure_future(
            admission.background(
                partial(
                    score_upload,
                    *(engine, question, table, out),
                    text=column,
                    all_scores=every,
                    progress=progress,
                    max_characters=admission.settings.max_characters,
                    options=options,
                )
            )
        )
        try:
            while not work.done():
                yield [progress.bar(), gr.skip(), gr.skip(), gr.update(visible=True)]
                await asyncio.wait({work}, timeout=PROGRESS_INTERVAL_S)
            scored = work.result()
            preview = await admission.background(_first_rows, out, scored)
        except (FinetuneError, ServiceError) as error:
            raise BadRequest(table_upload.without_place(str(error), table)) from error
        finally:
            progress.stopped.set()
            if not work.done() or work.exception() is not None:
                await asyncio.wait({work})  # until it writes no more
                shutil.rmtree(out.parent, ignore_errors=True)
    yield [
        _summary(scored, progress.seconds),
        gr.update(value=str(out), visible=True, label=f"Download {out.name}"),
        gr.update(**preview),
        gr.update(visible=False),
    ]


class _Progress:
    """The progress of a table, called from the thread that scores it; raises once the table must stop."""

    def __init__(self, out: Path, max_bytes: int) -> None:
        self.stopped = threading.Event()
        self._out, self._max_bytes = out, max_bytes
        self._begin, self._rows, self._share = time.monotonic(), 0, 0.0

    def __call__(self, rows: int, share: float) -> None:
        """Record the rows and the share of the table that are scored.

        Raises:
            BadRequest: the table was stopped.
            TooLarge: the output is too large, or took too long.
        """
        self._rows, self._share = rows, share
        if self.stopped.is_set():
            raise BadRequest("stopped")
        if upload_folder.used_bytes(self._out.parent) > self._max_bytes or self.seconds > MAX_SECONDS:
            raise TooLarge("the table is too large for this page", hint="rehead predict scores a table of any size")

    @property
    def seconds(self) -> float:
        """Seconds since the table was begun."""
        return time.monotonic() - self._begin

    def bar(self) -> str:
        """Return the progress as HTML."""
        rows, share, seconds = self._rows, self._share, self.seconds
        rate = rows / seconds if seconds > 0 else 0.0
        left = f", about {seconds * (1 - share) / share:.0f} s left" if share > 0.02 and rows else ""
        text = f"{rows:,} rows, {rate:,.0f} rows/s{left}" if rows else "Reading the table ..."
        return (
            f'<div role="status" class="rehead-note"><progress max="1" value="{share:.3f}" '
            f'aria-label="Share of the table that is scored"></progress> {text}</div>'
        )


def _summary(scored: ScoringResult, seconds: float) -> str:
    errors = f", {scored.errors} with an error (see the column error)" if scored.errors else ""
    warnings = "".join(f" Warning: {warning}." for warning in scored.warnings)
    text = f"{scored.rows:,} rows in {seconds:.1f} s{errors}.{warnings}"
    return f'<div role="status" class="rehead-note">{escape(text)}</div>'


def _first_rows(out: Path, scored: ScoringResult) -> dict[str, Any]:
    """Return an update that shows the first rows, predictions first."""
    table = stream_table(out, ROWS_SHOWN)
    first = next(table.chunks)[:ROWS_SHOWN]
    new = [column for column in scored.columns if column in table.columns and any(row.get(column) for row in first)]
    own = (column for column in table.columns if column not in scored.columns)
    columns = [*new, *own][: table_upload.COLUMNS_SHOWN]
    rows = [[_cell(row.get(column), rounded=column in new) for column in columns] for row in first]
    return table_upload.as_shown(columns, rows)


def _cell(value: Any, *, rounded: bool) -> str:
    with suppress(TypeError, ValueError):
        if rounded:
            return f"{float(value):.3f}"
    return table_upload.shown(value)
