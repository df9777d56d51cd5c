"""The No labels tab: a table of texts and the names of labels become a model, by distillation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from finetune.core.errors import CheckpointError, FinetuneError
from service.errors import BadRequest, ModelNotFound
from service.inference.engine import Engine
from service.labeling import report_files
from service.labeling.config import DistillConfig
from service.schema import Answer, Work, ZeroShotRequest
from service.server.training_jobs import Job, Jobs
from service.ui import distillation_view, form, label_chips, links, run_controls, snippets, table_upload, upload_folder
from service.ui.results import reporting
from service.ui.tab import Page

NAME = "no-labels"
MOST_ROWS = 20_000
OFF = """
<div class="rehead-empty" id="no-labels-off"><h2>Training is off on this server</h2>
<p>Its operator can enable it: <code>rehead serve --allow-training</code></p></div>
"""
EMPTY = '<div class="rehead-note">Upload a table with a text column.</div>'
NO_LABELS = '<div class="rehead-note">Name two labels or more.</div>'
IDLE = '<div class="rehead-note">No model has been distilled yet.</div>'

TOPICS = {
    "sports": (
        ("The team", "Our goalkeeper", "The young striker"),
        ("won the match", "lost the final", "left the field"),
    ),
    "cooking": (
        ("The chef", "My grandmother", "A good baker"),
        ("stirs the soup", "kneads the dough", "roasts the onions"),
    ),
    "money": (
        ("The bank", "An investor", "The finance minister"),
        ("raised the rates", "sold the shares", "cut the tax"),
    ),
}
TIMES = (
    "on Monday",
    "before noon",
    "last week",
    "again",
    "after a long wait",
    "in the rain",
    "with great care",
    "at last",
)
EXAMPLE_LABELS = tuple(TOPICS)
EXAMPLE_TEXT = "The goalkeeper saved a penalty."


def _example() -> str:
    """Return an example table of 216 made-up sentences; every fourth has a label by a person."""
    rows = [
        (f"{who} {what} {when}.", topic)
        for when in TIMES
        for topic, (subjects, predicates) in TOPICS.items()
        for who in subjects
        for what in predicates
    ]
    lines = [f"{text},{topic if number % 4 == 0 else ''}" for number, (text, topic) in enumerate(rows)]
    return "\n".join(["text,topic", *lines]) + "\n"


class _Values(NamedTuple):
    """The values of the fields, in the order of the inputs."""

    upload: str | None
    offered: str | None
    sheet: str | None
    text: str | None
    label_column: str | None
    labeled: str | None
    labels: list[str]
    none_of_these: bool
    several: bool
    teacher: str | None
    name: str
    rows: float | None
    encoding: str | None
    separator: str | None


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab in the open block, and connect it."""
    jobs = page.jobs
    if jobs is None:
        gr.HTML(OFF, padding=False)
        return
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            gr.HTML('<h2 class="rehead-step">1. Texts</h2>', padding=False)
            table = table_upload.build(page, tab, NAME)
            example = gr.Button("Try an example table", size="sm", elem_id="no-labels-example")
            text = gr.Dropdown([], label="Text column", elem_id="no-labels-text")
            with gr.Accordion("Rows labeled by people (optional)", open=False, elem_id="no-labels-people"):
                label_column = gr.Dropdown(
                    [],
                    label="Label column",
                    info="A column that is filled in some rows. These rows measure; they are not trained on.",
                    elem_id="no-labels-label-column",
                )
                labeled = gr.File(
                    label="Or a table of labeled texts",
                    file_types=table.upload.file_types,
                    type="filepath",
                    height=170,
                    elem_id="no-labels-labeled",
                )
        with gr.Column(scale=5):
            gr.HTML('<h2 class="rehead-step">2. Labels</h2>', padding=False)
            labels, labels_changed = label_chips.field("no-labels-labels")
            none_of_these = gr.Checkbox(
                label="Add the label “none of these” for texts that fit no other", elem_id="no-labels-none"
            )
            several = gr.Checkbox(label="Several labels may hold for a text", elem_id="no-labels-several")
            with gr.Row():
                teacher = gr.Dropdown(
                    list(jobs.teachers),
                    value=next(iter(jobs.teachers), None),
                    label="Teacher",
                    info="The zero-shot model that scores the texts.",
                    elem_id="no-labels-teacher",
                )
                name = gr.Textbox(
                    label="Name of the new model",
                    info="Letters, digits, - and _.",
                    placeholder="news",
                    max_lines=1,
                    elem_id="no-labels-name",
                )
            with gr.Accordion("More settings", open=False, elem_id="no-labels-more"):
                rows = gr.Number(
                    MOST_ROWS,
                    label="Most texts to score",
                    info=f"Of more texts, as many are drawn at random; {MOST_ROWS:,} at most.",
                    precision=0,
                    minimum=10,
                    maximum=MOST_ROWS,
                    elem_id="no-labels-rows",
                )
                with gr.Row():
                    reading = [form.component(path, NAME) for path in form.SUGGESTED]
            data_problem = gr.HTML(visible=False, padding=False, elem_id="no-labels-data-problem")
            report = gr.HTML(EMPTY, padding=False, elem_id="no-labels-report")
            with gr.Row():
                start = gr.Button("Start", variant="primary", elem_id="no-labels-start")
                stop = gr.Button("Stop", variant="stop", visible=False, elem_id="no-labels-stop")
            problem = gr.HTML(visible=False, padding=False, elem_id="no-labels-problem")
    gr.HTML('<h2 class="rehead-step">3. Result</h2>', padding=False)
    status = gr.HTML(IDLE, padding=False, elem_id="no-labels-status")
    result = gr.HTML(padding=False, visible=False, elem_id="no-labels-result")
    download = gr.DownloadButton("Download", visible=False, elem_id="no-labels-download")

    people, settings = (label_column, labeled), (none_of_these, several, teacher, name, rows)
    inputs = [*table.inputs, table.sheet, text, *people, labels, *settings, *reading]
    run_controls.connect(
        page,
        jobs,
        "distillation",
        start=start,
        stop=stop,
        inputs=inputs,
        configured=partial(_named, page, jobs),
        outputs=[status, result, download],
        drawn=partial(_drawn, page),
        problem=problem,
    )

    reported = reporting(partial(_reported, page, jobs), page.admission.telemetry, otherwise=[EMPTY])
    likely, _ = table_upload.wanted_columns()
    data = ([page.token_field, *inputs], [report, data_problem])
    tried = table_upload.Example(example, "example-texts.csv", _example(), (list(EXAMPLE_LABELS),), (labels,))
    columns = [text, label_column]
    for event in table_upload.connect(page, table, columns, (likely, ()), example=tried, reading=tuple(reading)):
        event.then(reported, *data, api_name=False)
    changes = [text.input, label_column.input, labeled.upload, labeled.clear, teacher.input]
    changes += [none_of_these.input, several.input, rows.change]
    gr.on(changes, reported, *data, api_name=False, trigger_mode="always_last")
    labels_changed.then(reported, *data, api_name=False, trigger_mode="always_last")

    def program(language: str, address: str, name: str) -> str:
        return snippets.of_model(page, language, address, name.strip() or "news", EXAMPLE_TEXT, ())

    snippets.build(NAME, [name], program)
    linked = {"name": name, "labels": labels, "none": none_of_these, "several": several, "teacher": teacher}
    links.build(page.blocks, NAME, linked)
    tab.select(lambda: gr.update(choices=list(jobs.teachers)), None, [teacher], api_name=False, show_progress="hidden")


def _named(page: Page, jobs: Jobs, values: Sequence[Any]) -> tuple[str, DistillConfig]:
    """Return the name and the configuration of a run."""
    config = _config(page, jobs, _Values(*values), named=True)
    return Path(config.out).name, config


def _config(page: Page, jobs: Jobs, values: _Values, *, named: bool) -> DistillConfig:
    table = table_upload.path_of(page, values.upload, values.offered)
    if table is None:
        raise BadRequest("there is no table yet: upload one")
    if not values.text:
        raise BadRequest("select the text column")
    labels = label_chips.labels_of(page.admission.limits, values.labels) if values.labels else None
    if labels is None or len(labels.names) < 2:
        raise BadRequest("name two labels or more")
    name = (values.name or "").strip()
    if named and not name:
        raise BadRequest("enter a name for the new model")
    options = table_upload.options_of(values.encoding, values.separator, sheet=values.sheet)
    people = values.label_column if values.label_column != table_upload.NO_COLUMN else None
    settings: dict[str, Any] = {
        "text": table_upload.column_of(table, values.text, options),
        "label_column": table_upload.column_of(table, people, options) if people else None,
        "validation": values.labeled,
        "encoding": options.encoding,
        "separator": options.separator,
        "sheet": options.sheet,
        "labels": list(labels.names),
        "descriptions": {name: text.description for name, text in labels.texts if text.description},
        "none_of_these": values.none_of_these,
        "multi_label": values.several,
        "teacher": values.teacher,
        "rows": min(MOST_ROWS, int(values.rows or MOST_ROWS)),
    }
    return jobs.distillation(name if named else None, settings, table)


async def _reported(page: Page, jobs: Jobs, token: str, *values: Any) -> list[Any]:
    """Return what is known of a run before it starts: its rows, and how long scoring them takes."""
    page.check(token)
    entered = _Values(*values)
    if table_upload.file_name(entered.upload, entered.offered) is None or not entered.text:
        return [EMPTY]
    if len(entered.labels or ()) < 2:
        return [NO_LABELS]
    config = await page.admission.background(partial(_config, page, jobs, entered, named=False))
    try:
        data = await run_controls.in_turn(lambda: page.admission.background(jobs.data_report, config))
    except BadRequest as error:
        sentence = table_upload.without_place(str(error), Path(config.texts))
        raise BadRequest(table_upload.without_place(sentence, Path(config.validation or config.texts))) from error
    engine = await asyncio.to_thread(page.admission.store.get, config.teacher.options["model"])
    seconds = await _seconds_per_text(page, engine, data["sample"], config)
    return [distillation_view.report(data, seconds * data["drawn"])]


async def _seconds_per_text(page: Page, engine: Engine, texts: list[str], config: DistillConfig) -> float:
    """Return how long a teacher takes for a text on this server at the moment."""
    question = ZeroShotRequest(config.labels, config.multi_label)

    async def call(*, work: Work) -> list[Answer]:
        return await engine.azero_shot(texts, question, work=work)

    await page.admission.run(engine, call)  # the first call compiles and allocates
    begin = time.perf_counter()
    await page.admission.run(engine, call)
    return (time.perf_counter() - begin) / len(texts)


def _drawn(page: Page, job: Job | None) -> list[Any]:
    """Return a run as updates of its status, its result and the download of the rows to label next."""
    hidden = gr.update(visible=False)
    if job is None:
        return [IDLE, hidden, hidden]
    if job.state != "finished":
        return [distillation_view.status(job), hidden, hidden]
    try:
        model = page.admission.store.folder(job.name).path
        content = report_files.report_of(model)
        examples = report_files.examples_of(model)
    except (CheckpointError, FinetuneError, ModelNotFound, OSError, ValueError):
        content = None
    if content is None:
        gone = f'<div class="rehead-note">The model of the last run, {escape(job.name)}, is gone.</div>'
        return [gone, hidden, hidden]
    shown = distillation_view.result(job.name, content, examples)
    return [distillation_view.status(job), gr.update(value=shown, visible=True), _download(page, job.name, model)]


def _download(page: Page, name: str, model: Path) -> Any:
    """Return an update of the button that downloads the rows to label next; equal tables are one file."""
    content = report_files.to_label_of(model)
    if content is None:
        return gr.update(visible=False)
    file = upload_folder.new_folder(content) / f"{name}-to-label.csv"
    if not file.is_file():
        file.write_bytes(content)
    rows = content.count(b"\n")
    return gr.update(value=str(file), label="Download the rows to label next", visible=bool(rows))
