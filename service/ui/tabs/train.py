"""The Train tab: a table becomes a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import gradio as gr
from gradio.components import Component

from finetune.config.training import TrainConfig
from service.errors import BadRequest
from service.server.training_jobs import Job, Jobs
from service.ui import form, links, recipes, run_controls, snippets, table_upload, training_view
from service.ui.results import SAME, reporting
from service.ui.tab import Page

NAME = "train"
FIRST = ("data.task", "loss", "class_weights", "optim.epochs", "optim.batch_size", "optim.lr", "optim.early_stopping")
MORE = (
    *("model.head", "model.pooling", "model.initializer", "model.freeze", "model.dropout"),
    *("optim.optimizer", "optim.schedule", "optim.warmup", "optim.sampler", "checkpoint.best_by"),
    *("optim.head_lr", "optim.layer_decay", "optim.ema_decay", "data.max_length", "data.validation_size"),
    *("data.encoding", "data.separator", "data.weight", "gradients.auto_recover", "precision", "seed"),
    *("data.label_columns", "data.label_names"),
)
SETTINGS = (*FIRST, *MORE)
OFF = """
<div class="rehead-empty" id="train-off"><h2>Training is off on this server</h2>
<p>Its operator can enable it: <code>rehead serve --allow-training</code></p></div>
"""
EMPTY = '<div class="rehead-note">Upload a table with a text column and a label column.</div>'
EXAMPLE_TEXT = "It broke on the second day."
IDLE = '<div class="rehead-note">No model has been trained yet.</div>'


GOOD = ("loved", "enjoyed", "admired", "cherished", "praised", "adored")
BAD = ("hated", "regretted", "endured", "resented", "loathed", "disliked")
THINGS = ("the film", "this book", "the soup", "our stay", "the concert", "that phone", "the service", "this game")
EXAMPLE = "text,label\n" + "".join(
    f"We {word} {thing}.,{label}\n"
    for thing in THINGS
    for words, label in ((GOOD, "positive"), (BAD, "negative"))
    for word in words
)
"""An example table of 96 made-up sentences."""


@dataclass(frozen=True)
class _Components:
    """The components of the tab; `settings` by dotted key of TrainConfig."""

    table: table_upload.Fields
    example: gr.Button
    text: gr.Dropdown
    label: gr.Dropdown
    report: gr.HTML
    data_problem: gr.HTML
    name: gr.Textbox
    base: gr.Dropdown
    rank: gr.Button
    ranking: gr.HTML
    settings: dict[str, Component]
    loss_options: gr.Textbox
    start: gr.Button
    stop: gr.Button
    problem: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        """Return the inputs of a handler, in the order that `_settings` reads."""
        fields = (self.text, self.label, self.name, self.base, self.loss_options, self.table.sheet)
        return [*self.table.inputs, *fields, *self.settings.values()]


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab in the open block, and connect it."""
    if page.jobs is None:
        gr.HTML(OFF, padding=False)
        return
    parts = _data_and_model(page, tab, page.jobs)
    run = _run_section()
    _connect_run(page, page.jobs, parts, run)
    _connect_report(page, page.jobs, parts)
    _connect_ranking(page, page.jobs, parts)
    _recipe_section(page, parts)

    def program(language: str, address: str, name: str) -> str:
        return snippets.of_model(page, language, address, name.strip() or "reviews", EXAMPLE_TEXT, ())

    snippets.build(NAME, [parts.name], program)
    linked = {"name": parts.name, "base": parts.base, "loss_options": parts.loss_options, **parts.settings}
    links.build(page.blocks, NAME, linked)
    jobs = page.jobs
    tab.select(
        lambda: [gr.update(choices=list(jobs.bases)), *form.choices_of(SETTINGS, jobs.choices())],
        None,
        [parts.base, *(component for path, component in parts.settings.items() if path in form.TABLES)],
        api_name=False,
        show_progress="hidden",
    )


def _data_and_model(page: Page, tab: gr.Tab, jobs: Jobs) -> _Components:
    """Lay out the sections Data and Model."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            gr.HTML('<h2 class="rehead-step">1. Data</h2>', padding=False)
            table = table_upload.build(page, tab, NAME, corrections=True)
            example = gr.Button("Try an example table", size="sm", elem_id="train-example")
            with gr.Row():
                text = gr.Dropdown([], label="Text column", elem_id="train-text")
                label = gr.Dropdown([], label="Label column", elem_id="train-label")
            data_problem = gr.HTML(visible=False, padding=False, elem_id="train-data-problem")
            report = gr.HTML(EMPTY, padding=False, elem_id="train-report")
        with gr.Column(scale=5):
            gr.HTML('<h2 class="rehead-step">2. Model</h2>', padding=False)
            with gr.Row():
                name = gr.Textbox(
                    label="Name of the new model",
                    info="Letters, digits, - and _.",
                    placeholder="reviews",
                    max_lines=1,
                    elem_id="train-name",
                )
                base = gr.Dropdown(
                    list(jobs.bases),
                    value=next(iter(jobs.bases), None),
                    label="Base model",
                    info="The encoder to fine-tune.",
                    elem_id="train-base",
                )
            rank = gr.Button("Compare base models on this table", size="sm", elem_id="train-rank")
            ranking = gr.HTML(visible=False, padding=False, elem_id="train-ranking")
            settings: dict[str, Component] = {}
            with gr.Row():
                settings |= {path: form.component(path, NAME, brief=True) for path in FIRST[:3]}
            with gr.Row():
                settings |= {path: form.component(path, NAME, brief=True) for path in FIRST[3:]}
            with gr.Accordion("More settings", open=False, elem_id="train-more"):
                loss_options = gr.Textbox(
                    label="Options of the loss",
                    info="As name=value, with commas between them; rehead choices losses lists them.",
                    placeholder="gamma=2",
                    max_lines=1,
                    elem_id="train-loss-options",
                )
                for start_of_row in range(0, len(MORE), 2):
                    with gr.Row():
                        row = MORE[start_of_row : start_of_row + 2]
                        settings |= {path: form.component(path, NAME) for path in row}
            with gr.Row():
                start = gr.Button("Train", variant="primary", elem_id="train-start")
                stop = gr.Button("Stop", variant="stop", visible=False, elem_id="train-stop")
            problem = gr.HTML(visible=False, padding=False, elem_id="train-problem")
    data = (table, example, text, label, report, data_problem)
    return _Components(*data, name, base, rank, ranking, settings, loss_options, start, stop, problem)


def _run_section() -> list[Any]:
    """Lay out the section Training; return the outputs of `drawn` up to the gradients."""
    gr.HTML('<h2 class="rehead-step">3. Training</h2>', padding=False)
    status = gr.HTML(IDLE, padding=False, elem_id="train-status")
    with gr.Row():
        losses = _plot(gr.LinePlot, training_view.LOSSES, "Loss", "train-losses")
        scores = _plot(gr.LinePlot, training_view.SCORES, "Validation scores", "train-scores")
        first_scores = _plot(gr.ScatterPlot, training_view.SCORES, "Validation scores", "train-first-scores")
    with gr.Accordion("Gradients by layer", open=False, visible=False, elem_id="train-gradients") as section:
        gradients = gr.HTML(padding=False)
    return [status, losses, scores, first_scores, section, gradients]


def _plot(kind: Any, columns: tuple[str, ...], title: str, element_id: str) -> Any:
    """Return a hidden plot of the first column against the second, colored by the third where there is one."""
    axes = dict(zip(("x", "y", "color"), columns, strict=False))
    return kind(training_view.frame([], columns), **axes, title=title, height=220, visible=False, elem_id=element_id)


def _connect_run(page: Page, jobs: Jobs, parts: _Components, run: list[Any]) -> None:
    """Connect the buttons Train and Stop, and refresh the section Training while a run lasts."""

    def configured(values: Sequence[Any]) -> tuple[str, TrainConfig]:
        _, config = _config(page, jobs, values, named=True)
        return Path(config.out).name, config

    run_controls.connect(
        page,
        jobs,
        "training",
        start=parts.start,
        stop=parts.stop,
        inputs=parts.inputs,
        configured=configured,
        outputs=run,
        drawn=drawn,
        problem=parts.problem,
    )


def _connect_report(page: Page, jobs: Jobs, parts: _Components) -> None:
    """Show the data report whenever the table or its columns change."""
    inputs, outputs = [page.token_field, *parts.inputs], [parts.report, parts.data_problem]
    reported = reporting(_reporting_data(page, jobs), page.admission.telemetry, otherwise=[EMPTY])
    example = table_upload.Example(parts.example, "example-labeled.csv", EXAMPLE)
    reading = tuple(cast("gr.Dropdown", parts.settings[path]) for path in form.SUGGESTED)
    columns, wanted = [parts.text, parts.label], table_upload.wanted_columns()
    for event in table_upload.connect(page, parts.table, columns, wanted, example=example, reading=reading):
        event.then(reported, inputs, outputs, api_name=False)
    gr.on([parts.text.input, parts.label.input], reported, inputs, outputs, api_name=False, trigger_mode="always_last")


def _connect_ranking(page: Page, jobs: Jobs, parts: _Components) -> None:
    """Rank the base models for the table on request, and select the recommended one."""

    async def ranked(token: str, *values: Any) -> list[Any]:
        page.check(token)
        table, config = await page.admission.background(partial(_config, page, jobs, values, named=False))
        try:
            data = await run_controls.in_turn(lambda: page.admission.background(jobs.ranking, config))
        except BadRequest as error:
            raise BadRequest(table_upload.without_place(str(error), table)) from error
        return [gr.update(value=training_view.ranking(data), visible=True), data["recommended"]]

    outputs = [parts.ranking, parts.base]
    handler = reporting(ranked, page.admission.telemetry, otherwise=[SAME, SAME])
    parts.rank.click(handler, [page.token_field, *parts.inputs], [*outputs, parts.problem], api_name=False)


def _recipe_section(page: Page, parts: _Components) -> None:
    """Lay out and connect the section with the run as command, YAML and Python."""
    with gr.Accordion("This run as a command, YAML or Python", open=False, elem_id="train-recipe") as section:
        way = gr.Radio(list(recipes.WRITERS), value="command", label="As", show_label=False, elem_id="train-way")
        code = gr.Code(
            language="shell", label="Recipe", interactive=False, wrap_lines=True, elem_id="train-recipe-code"
        )

    async def written(way: str, *values: Any) -> list[Any]:
        language, write = recipes.WRITERS[way]
        table = table_upload.file_name(values[0], values[1]) or "table.csv"
        return [gr.update(value=write(table, _settings(values)), language=language)]

    handler = reporting(written, page.admission.telemetry, otherwise=[SAME])
    for event in (section.expand, way.change):
        event(handler, [way, *parts.inputs], [code, parts.problem], api_name=False, show_progress="hidden")


def _settings(values: Sequence[Any]) -> dict[str, Any]:
    """Return the settings by dotted key, from the values of `_Components.inputs`.

    Raises:
        BadRequest: an option of the loss that does not read name=value.
    """
    _, _, text, label, name, base, loss_options, sheet, *filled = values
    settings: dict[str, Any] = {"base": base}
    settings |= {f"data.{key}": value for key, value in (("text", text), ("label", label), ("sheet", sheet)) if value}
    settings |= form.settings(dict(zip(SETTINGS, filled, strict=True)))
    if "data.label_columns" in settings:
        settings.pop("data.label", None)
    for option in filter(None, (part.strip() for part in (loss_options or "").split(","))):
        key, equals, value = option.partition("=")
        if not equals or not key.strip().isidentifier() or key.strip() == "name":
            raise BadRequest(f"the loss option {option!r} should read name=value, for example gamma=2")
        settings[f"loss.{key.strip()}"] = form.number_or_word(value.strip())
    return settings | {"out": f"models/{(name or '').strip() or 'reviews'}"}


def _config(page: Page, jobs: Jobs, values: Sequence[Any], *, named: bool) -> tuple[Path, TrainConfig]:
    table, settings = table_upload.path_of(page, values[0], values[1]), _settings(values)
    if table is None:
        raise BadRequest("there is no table yet: upload one")
    options = table_upload.options_of(settings.get("data.encoding"), settings.get("data.separator"), sheet=values[7])
    for key in {"data.text", "data.label"} & settings.keys():
        settings[key] = table_upload.column_of(table, settings[key], options)
    name = (values[4] or "").strip()
    if named and not name:
        raise BadRequest("enter a name for the new model")
    return table, jobs.config(name if named else None, settings, table)


def _reporting_data(page: Page, jobs: Jobs) -> Any:
    async def report(token: str, *values: Any) -> list[Any]:
        page.check(token)
        if table_upload.file_name(values[0], values[1]) is None:
            return [EMPTY]
        settings = _settings(values)
        if "data.text" not in settings or not {"data.label", "data.label_columns"} & settings.keys():
            return ['<div class="rehead-note">Select the text column and the label column.</div>']
        table, config = await page.admission.background(partial(_config, page, jobs, values, named=False))
        try:
            data = await run_controls.in_turn(lambda: page.admission.background(jobs.data_report, config))
        except BadRequest as error:
            raise BadRequest(table_upload.without_place(str(error), table)) from error
        return [training_view.report(data)]

    return report


def drawn(job: Job | None) -> list[Any]:
    """Return a run as updates of its status, curves and gradients."""
    if job is None:
        hidden = gr.update(visible=False)
        return [IDLE, hidden, hidden, hidden, hidden, SAME]
    losses, scores, layers = training_view.losses(job), training_view.scores(job), training_view.gradients(job)
    evaluations, whole = scores["update"].nunique(), {"x_lim": training_view.updates(job)}
    return [
        training_view.status(job),
        gr.update(value=losses, visible=bool(len(losses)), **whole),
        gr.update(value=scores, visible=evaluations > 1, **whole),
        gr.update(value=scores, visible=evaluations == 1, **whole),  # a line through one point shows nothing
        gr.update(visible=bool(layers)),
        layers,
    ]
