"""The Train tab: a table becomes a model.

Knows: this tab's components, which settings are shown.
Does not know: the other tabs, how a run is drawn (runs.py), how training works or is kept alive (jobs.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from finetune.config.training import TrainConfig
from service.errors import BadRequest, Overloaded
from service.server.training_jobs import Job, Jobs
from service.ui import form, links, recipes, snippets, table_upload, training_view
from service.ui.results import SAME, guarded
from service.ui.tab import Page

T = TypeVar("T")
NAME = "train"
FIRST = ("data.task", "loss", "optim.epochs", "optim.batch_size", "optim.lr")
MORE = (
    *("model.head", "model.pooling", "model.initializer", "model.freeze", "model.dropout"),
    *("optim.optimizer", "optim.schedule", "optim.warmup", "optim.sampler", "optim.early_stopping"),
    *("optim.head_lr", "optim.layer_decay", "optim.ema_decay", "data.max_length", "data.validation_size"),
    *("data.encoding", "data.separator", "gradients.auto_recover", "precision", "seed"),
    *("data.label_columns", "data.label_names"),
)
SETTINGS = (*FIRST, *MORE)
LOOK_S, TURN_S = 1.5, 30.0
OFF = """
<div class="rehead-empty" id="train-off"><h2>Training is off on this server</h2>
<p>Whoever runs it can switch it on: <code>rehead serve --allow-training</code></p></div>
"""
EMPTY = '<div class="rehead-note">Upload a table with a column of texts and a column of labels.</div>'
ASKED = "It broke on the second day."
IDLE = '<div class="rehead-note">Nothing has been trained yet.</div>'


GOOD = ("loved", "enjoyed", "admired", "cherished", "praised", "adored")
BAD = ("hated", "regretted", "endured", "resented", "loathed", "disliked")
THINGS = ("the film", "this book", "the soup", "our stay", "the concert", "that phone", "the service", "this game")
EXAMPLE = "text,label\n" + "".join(
    f"We {word} {thing}.,{label}\n"
    for thing in THINGS
    for words, label in ((GOOD, "positive"), (BAD, "negative"))
    for word in words
)
"""A table to try the tab with, made up: 96 sentences."""


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab inside the block that is open, and connect it."""
    if page.jobs is None:
        gr.HTML(OFF, padding=False)
        return
    jobs, telemetry = page.jobs, page.desk.telemetry
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            gr.HTML('<h2 class="rehead-step">1. The table</h2>', padding=False)
            fields = table_upload.build(page, tab, NAME, corrections=True)
            example = gr.Button("Try an example table", size="sm", elem_id="train-example")
            with gr.Row():
                text = gr.Dropdown([], label="Column of the text", elem_id="train-text")
                label = gr.Dropdown([], label="Column of the label", elem_id="train-label")
            report = gr.HTML(EMPTY, padding=False, elem_id="train-report")
        with gr.Column(scale=5):
            gr.HTML('<h2 class="rehead-step">2. The model</h2>', padding=False)
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
                    label="Base",
                    info="The encoder to start from.",
                    elem_id="train-base",
                )
            components: dict[str, Component] = {}
            with gr.Row():
                components |= {path: form.component(path, NAME, brief=True) for path in FIRST[:2]}
            with gr.Row():
                components |= {path: form.component(path, NAME, brief=True) for path in FIRST[2:]}
            with gr.Accordion("More settings", open=False, elem_id="train-more"):
                knobs = gr.Textbox(
                    label="Knobs of the loss",
                    info="As name=value, with commas between them; rehead choices losses lists them.",
                    placeholder="gamma=2",
                    max_lines=1,
                    elem_id="train-knobs",
                )
                for first, second in zip(MORE[::2], MORE[1::2], strict=True):
                    with gr.Row():
                        components |= {path: form.component(path, NAME) for path in (first, second)}
            with gr.Row():
                start = gr.Button("Train", variant="primary", elem_id="train-start")
                stop = gr.Button("Stop", variant="stop", visible=False, elem_id="train-stop")
            problem = gr.HTML(visible=False, padding=False, elem_id="train-problem")
    gr.HTML('<h2 class="rehead-step">3. The run</h2>', padding=False)
    status = gr.HTML(IDLE, padding=False, elem_id="train-status")
    with gr.Row():
        losses = gr.LinePlot(
            training_view.frame([], training_view.LOSSES),
            x="update",
            y="loss",
            title="Loss",
            height=220,
            visible=False,
            elem_id="train-losses",
        )
        scores = gr.LinePlot(
            training_view.frame([], training_view.SCORES),
            x="update",
            y="score",
            color="metric",
            title="Scores on validation rows",
            height=220,
            visible=False,
            elem_id="train-scores",
        )
    with gr.Accordion("Gradients, layer by layer", open=False, visible=False, elem_id="train-gradients") as health:
        layers = gr.HTML(padding=False)
    with gr.Accordion("The same run as command, YAML or Python", open=False, elem_id="train-recipe") as recipe:
        way = gr.Radio(list(recipes.WRITERS), value="command", label="As", show_label=False, elem_id="train-way")
        code = gr.Code(
            language="shell", label="The run", interactive=False, wrap_lines=True, elem_id="train-recipe-code"
        )

    def program(language: str, address: str, name: str) -> str:
        return snippets.of_model(page, language, address, name.strip() or "reviews", ASKED, ())

    snippets.build(NAME, [name], program)
    chosen = [*components.values()]
    kept = {"name": name, "base": base, "knobs": knobs, **dict(zip(SETTINGS, chosen, strict=True))}
    links.build(page.blocks, NAME, kept)

    asked: list[Any] = [*fields.inputs, text, label, name, base, knobs, *chosen]
    run: list[Any] = [status, losses, scores, health, layers, stop]
    timer = gr.Timer(LOOK_S, active=False)
    begin = guarded(_starting(page, jobs), telemetry, otherwise=[SAME] * (len(run) + 1))
    end = guarded(_stopping(page, jobs), telemetry, otherwise=[SAME] * (len(run) + 1))
    looked = guarded(_looking(page, jobs), telemetry, otherwise=[EMPTY])

    def drawn() -> list[Any]:
        return _drawn(jobs.latest())

    start.click(begin, [page.asked, *asked], [*run, timer, problem], api_name=False)
    stop.click(end, [page.asked], [*run, timer, problem], api_name=False)
    timer.tick(drawn, None, [*run, timer], api_name=False, show_progress="hidden")
    page.blocks.load(drawn, None, [*run, timer], api_name=False, show_progress="hidden")
    shown = example.click(
        lambda: table_upload.example("example-labelled.csv", EXAMPLE),
        None,
        fields.inputs,
        api_name=False,
        show_progress="hidden",
    )
    reading = tuple(components[path] for path in form.SUGGESTED)
    for event in table_upload.connect(
        page, fields, [text, label], table_upload.wanted_columns(), more=(shown.then,), reading=reading
    ):
        event.then(looked, [page.asked, *asked], [report, problem], api_name=False)
    gr.on(
        [text.input, label.input],
        looked,
        [page.asked, *asked],
        [report, problem],
        api_name=False,
        trigger_mode="always_last",
    )

    from_tables = [component for path, component in components.items() if path in form.TABLES]
    tab.select(
        lambda: [gr.update(choices=list(jobs.bases)), *form.choices_of(SETTINGS, jobs.choices())],
        None,
        [base, *from_tables],
        api_name=False,
        show_progress="hidden",
    )

    async def written(way: str, *values: Any) -> list[Any]:
        table, settings = _settings(page, values)
        language, write = recipes.WRITERS[way]
        return [gr.update(value=write(table.name if table else "table.csv", settings), language=language)]

    recipe_of = guarded(written, telemetry, otherwise=[SAME])
    for event in (recipe.expand, way.change):
        event(recipe_of, [way, *asked], [code, problem], api_name=False, show_progress="hidden")


def _settings(page: Page, values: Sequence[Any]) -> tuple[Path | None, dict[str, Any]]:
    """The table, and the settings by dotted key, as the fields say."""
    upload, offered, text, label, name, base, knobs, *chosen = values
    table = table_upload.path_of(page, upload, offered)
    found: dict[str, Any] = {"base": base}
    found |= {f"data.{key}": value for key, value in (("text", text), ("label", label)) if value}
    found |= form.settings(dict(zip(SETTINGS, chosen, strict=True)))
    if "data.label_columns" in found:
        found.pop("data.label", None)
    for knob in filter(None, (part.strip() for part in (knobs or "").split(","))):
        key, equals, value = knob.partition("=")
        if not equals or not key.strip().isidentifier() or key.strip() == "name":
            raise BadRequest(f"the knob {knob!r} should read name=value, for example gamma=2")
        found[f"loss.{key.strip()}"] = form.number_or_word(value.strip())
    return table, found | {"out": f"models/{(name or '').strip() or 'reviews'}"}


def _config(page: Page, jobs: Jobs, values: Sequence[Any], *, named: bool) -> tuple[Path, TrainConfig]:
    table, settings = _settings(page, values)
    if table is None:
        raise BadRequest("there is no table yet: upload one")
    name = (values[4] or "").strip()
    if named and not name:
        raise BadRequest("give the new model a name")
    return table, jobs.config(name if named else None, settings, table)


def _starting(page: Page, jobs: Jobs) -> Any:
    async def start(token: str, *values: Any) -> list[Any]:
        page.check(token)
        _, config = _config(page, jobs, values, named=True)
        name = Path(config.out).name
        await page.desk.aside(jobs.start, name, config)
        return _drawn(jobs.job(name))

    return start


def _stopping(page: Page, jobs: Jobs) -> Any:
    async def stop(token: str) -> list[Any]:
        page.check(token)
        job = jobs.latest()
        if job is not None:
            await page.desk.aside(jobs.stop, job.name)
        return _drawn(jobs.latest())

    return stop


def _looking(page: Page, jobs: Jobs) -> Any:
    async def look(token: str, *values: Any) -> list[Any]:
        page.check(token)
        if table_upload.path_of(page, values[0], values[1]) is None:
            return [EMPTY]
        settings = _settings(page, values)[1]
        if "data.text" not in settings or not {"data.label", "data.label_columns"} & settings.keys():
            return ['<div class="rehead-note">Choose the columns of the text and of the label.</div>']
        table, config = _config(page, jobs, values, named=False)
        try:
            found = await _in_turn(lambda: page.desk.aside(jobs.look, config))
        except BadRequest as error:
            raise BadRequest(table_upload.without_place(str(error), table)) from error
        return [training_view.report(found)]

    return look


async def _in_turn(look: Callable[[], Awaitable[T]]) -> T:
    """What comes of a look, after those of others."""
    end = time.monotonic() + TURN_S
    while True:
        try:
            return await look()
        except Overloaded:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(LOOK_S)


def _drawn(job: Job | None) -> list[Any]:
    """A run as updates of its status, curves, gradients, the Stop button and the timer."""
    if job is None:
        hidden = gr.update(visible=False)
        return [IDLE, hidden, hidden, hidden, SAME, hidden, gr.update(active=False)]
    losses, scores, layers = training_view.losses(job), training_view.scores(job), training_view.gradients(job)
    running = job.state == "running"
    return [
        training_view.status(job),
        gr.update(value=losses, visible=bool(len(losses))),
        gr.update(value=scores, visible=bool(len(scores))),
        gr.update(visible=bool(layers)),
        layers,
        gr.update(visible=running),
        gr.update(active=running),
    ]
