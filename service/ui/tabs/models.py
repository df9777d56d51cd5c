"""The Models tab: what is served, its evaluation report, its speed, and two models side by side."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from html import escape
from statistics import median
from typing import Any

import gradio as gr

from service.errors import BadRequest
from service.inference.engine import Engine
from service.inference.model_store import describe
from service.schema import Answer, TextInput, Work, ZeroShotRequest
from service.ui import label_chips, links, snippets
from service.ui.label_chips import LABELS
from service.ui.results import HIDDEN, measured_on, report_of, reporting
from service.ui.tab import Page

NAME = "models"
EXAMPLES = "A warm, funny film with a terrific cast.\nThe central bank raised interest rates again."
TIMED_TEXT, REPEATS, BATCH = "The plot is thin, but the cast is a joy to watch.", 5, 32


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab in the open block, and connect it."""
    names = page.names()
    first = next(iter(names), None)
    cards = gr.HTML(_cards(page), padding=False, elem_id="models-cards")
    with gr.Row():
        model = gr.Dropdown(names, value=first, label="Model", elem_id="models-model")
        measure = gr.Button("Measure speed", size="sm", scale=0, min_width=200, elem_id="models-measure")
    speed = gr.HTML(visible=False, padding=False, elem_id="models-speed")
    figures = gr.HTML(padding=False, elem_id="models-figures")
    plots = gr.Gallery(
        label="Plots of the report",
        columns=3,
        object_fit="contain",
        height="auto",
        interactive=False,
        visible=False,
        elem_id="models-pictures",
    )
    problem = gr.HTML(visible=False, padding=False, elem_id="models-problem")
    gr.HTML('<h2 class="rehead-step">Compare two models</h2>', padding=False)
    with gr.Row():
        left = gr.Dropdown(names, value=first, label="First model", elem_id="models-left")
        right = gr.Dropdown(
            names, value=names[1] if len(names) > 1 else first, label="Second model", elem_id="models-right"
        )
    texts = gr.Textbox(label="Texts, one per line", value=EXAMPLES, lines=4, max_lines=14, elem_id="models-texts")
    with gr.Accordion("Labels for zero-shot models", open=False, elem_id="models-labels-folded"):
        labels, _ = label_chips.field("models-labels", LABELS)
    compare = gr.Button("Compare", variant="primary", elem_id="models-compare")
    compared = gr.HTML(visible=False, padding=False, elem_id="models-compared-problem")
    table = gr.Dataframe(
        headers=["text", "first", "score", "second", "score "],
        column_widths=["44%", "18%", "10%", "18%", "10%"],
        interactive=False,
        wrap=True,
        visible=False,
        elem_id="models-table",
    )

    def program(language: str, address: str, model: str | None, labels: list[str] | None) -> str:
        return snippets.of_model(page, language, address, model, TIMED_TEXT, labels or LABELS)

    snippets.build(NAME, [model, labels], program)
    links.build(page.blocks, NAME, {"model": model, "left": left, "right": right, "texts": texts, "labels": labels})

    telemetry = page.admission.telemetry

    async def selected(name: str | None) -> list[Any]:
        table, images = await page.admission.background(report_of, page.admission.store, name)
        return [gr.update(value=table, visible=True), gr.update(value=images, visible=bool(images)), HIDDEN]

    look = reporting(selected, telemetry, otherwise=[HIDDEN] * 3)
    for event in (tab.select, model.change):
        event(look, [model], [figures, plots, speed, problem], api_name=False, show_progress="hidden")

    def refreshed() -> list[Any]:
        names = page.names()
        return [_cards(page), *[gr.update(choices=names)] * 3]

    tab.select(refreshed, None, [cards, model, left, right], api_name=False, show_progress="hidden")
    timed = reporting(partial(_speed, page), telemetry, otherwise=[HIDDEN])
    measure.click(timed, [model], [speed, problem], api_name=False)
    act = reporting(partial(_compared, page), telemetry, otherwise=[HIDDEN])
    compare.click(act, [left, right, texts, labels], [table, compared], api_name=False)


def _cards(page: Page) -> str:
    """Return a card for each model, as HTML."""
    cards = [_card(page, name) for name in page.names()]
    if not cards:
        return '<div class="rehead-note">No model is available.</div>'
    return f'<div class="rehead-cards">{"".join(cards)}</div>'


def _card(page: Page, name: str) -> str:
    entry = describe(name, page.admission.store.folder(name))
    labels = "any labels" if entry["task"] == "zero-shot" else ", ".join(entry["labels"][:8])
    more = len(entry["labels"]) - 8
    labels += f" and {more} more" if entry["task"] != "zero-shot" and more > 0 else ""
    metric = entry["metric"]
    figure = "not evaluated"
    if metric:
        figure = f"<b>{metric['value']:.3f}</b> {escape(metric['name'].replace('_', ' '))}"
        figure += f'<br><span class="rehead-note">{escape(measured_on(entry))}</span>'
    engine = page.admission.store.loaded_as(name)
    runtime = f"{engine.backend.name}, {engine.backend.precision}" if engine is not None else "loads on first use"
    facts = "".join(
        f"<li>{escape(fact)}</li>"
        for fact in (
            f"{entry['task'].replace('_', ' ')}: {labels}",
            f"from {entry['base']}",
            f"{entry['size_bytes'] / 1e6:.0f} MB, {runtime}",
        )
    )
    return (
        f'<article class="rehead-card"><h3>{escape(name)}</h3><div class="rehead-figure">{figure}</div>'
        f"<ul>{facts}</ul></article>"
    )


async def _speed(page: Page, name: str | None) -> list[Any]:
    """Measure how fast a model answers on this server at the moment."""
    engine = await _engine(page, name)
    seconds: dict[int, list[float]] = {1: [], BATCH: []}
    for _ in range(REPEATS):
        for size, taken in seconds.items():
            begin = time.perf_counter()
            await _timed(page, engine, [TextInput(f"{TIMED_TEXT} {number}") for number in range(size)])
            taken.append(time.perf_counter() - begin)
    rate = BATCH / median(seconds[BATCH])
    line = f"One short text: {1000 * median(seconds[1]):.0f} ms. {BATCH} at once: {rate:,.0f} texts/s"
    line += f", with {len(LABELS)} labels." if engine.folder.is_zero_shot else "."
    return [gr.update(value=f'<div class="rehead-note" role="status">{line}</div>', visible=True)]


async def _timed(page: Page, engine: Engine, inputs: list[TextInput]) -> None:
    """Run the engine without counting its answers in the metrics."""

    async def call(*, work: Work) -> list[Answer]:
        if engine.folder.is_zero_shot:
            return await engine.azero_shot([item.text for item in inputs], ZeroShotRequest(LABELS), work=work)
        return await engine.aclassify(inputs, work=work)

    await page.admission.run(engine, call)


async def _compared(page: Page, left: str | None, right: str | None, lines: str, labels: list[str]) -> list[Any]:
    texts = [line.strip() for line in lines.splitlines() if line.strip()]
    if not texts:
        raise BadRequest("there is no text yet: enter one per line")
    inputs = page.admission.limits.inputs(texts)
    answers = [await _answers(page, await _engine(page, name), inputs, labels) for name in (left, right)]
    rows = [
        [text, first.best.label, f"{first.best.score:.3f}", second.best.label, f"{second.best.score:.3f}"]
        for text, first, second in zip(texts, *answers, strict=True)
    ]
    return [gr.update(value={"headers": ["text", left, "score", right, "score "], "data": rows}, visible=True)]


async def _engine(page: Page, name: str | None) -> Engine:
    if not name:
        raise BadRequest("no model is available")
    return await asyncio.to_thread(page.admission.store.get, name)


async def _answers(page: Page, engine: Engine, inputs: list[TextInput], labels: list[str]) -> list[Answer]:
    admission = page.admission
    if not engine.folder.is_zero_shot:
        return await admission.classify(engine, inputs)
    question = label_chips.question(admission.limits, labels, several=False)
    return await admission.zero_shot(engine, [item.text for item in inputs], question)
