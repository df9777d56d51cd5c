"""The Models tab: what is served, how good and how fast it is, two of them side by side.

Knows: this tab's components and what its buttons do.
Does not know: the other tabs, how figures come about.
"""

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
from service.schema import Answer, TextInput, ZeroShotRequest
from service.ui import label_chips, links, snippets
from service.ui.label_chips import LABELS
from service.ui.results import HIDDEN, guarded, report_of
from service.ui.tab import Page

NAME = "models"
EXAMPLES = "A warm, funny film with a terrific cast.\nThe central bank raised interest rates again."
TIMED, TIMES, TOGETHER = "The plot is thin, but the cast is a joy to watch.", 5, 32


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab inside the block that is open, and connect it."""
    names = page.names()
    first = next(iter(names), None)
    cards = gr.HTML(_cards(page), padding=False, elem_id="models-cards")
    with gr.Row():
        model = gr.Dropdown(names, value=first, label="Look at one model", elem_id="models-model")
        measure = gr.Button("Measure its speed here", size="sm", scale=0, min_width=200, elem_id="models-measure")
    speed = gr.HTML(visible=False, padding=False, elem_id="models-speed")
    figures = gr.HTML(padding=False, elem_id="models-figures")
    pictures = gr.Gallery(
        label="Pictures of its report",
        columns=3,
        object_fit="contain",
        height="auto",
        interactive=False,
        visible=False,
        elem_id="models-pictures",
    )
    problem = gr.HTML(visible=False, padding=False, elem_id="models-problem")
    gr.HTML('<h2 class="rehead-step">Two models on the same texts</h2>', padding=False)
    with gr.Row():
        left = gr.Dropdown(names, value=first, label="One model", elem_id="models-left")
        right = gr.Dropdown(
            names, value=names[1] if len(names) > 1 else first, label="The other", elem_id="models-right"
        )
    texts = gr.Textbox(label="Texts, one on each line", value=EXAMPLES, lines=4, max_lines=14, elem_id="models-texts")
    with gr.Accordion("Labels, for models that take labels of your own", open=False, elem_id="models-labels-folded"):
        labels = label_chips.field("models-labels", LABELS)
    compare = gr.Button("Compare", variant="primary", elem_id="models-compare")
    compared = gr.HTML(visible=False, padding=False, elem_id="models-compared-problem")
    table = gr.Dataframe(
        headers=["text", "one model", "score", "the other", "score "],
        column_widths=["44%", "18%", "10%", "18%", "10%"],
        interactive=False,
        wrap=True,
        visible=False,
        elem_id="models-table",
    )

    def program(language: str, address: str, model: str | None, labels: list[str] | None) -> str:
        return snippets.of_model(page, language, address, model, TIMED, labels or LABELS)

    snippets.build(NAME, [model, labels], program)
    links.build(page.blocks, NAME, {"model": model, "left": left, "right": right, "texts": texts, "labels": labels})

    telemetry = page.desk.telemetry

    async def looked_at(name: str | None) -> list[Any]:
        shown, drawn = await page.desk.aside(report_of, page.desk.store, name)
        return [gr.update(value=shown, visible=True), gr.update(value=drawn, visible=bool(drawn)), HIDDEN]

    look = guarded(looked_at, telemetry, otherwise=[HIDDEN] * 3)
    for event in (tab.select, model.change):
        event(look, [model], [figures, pictures, speed, problem], api_name=False, show_progress="hidden")

    def refreshed() -> list[Any]:
        found = page.names()
        return [_cards(page), *[gr.update(choices=found)] * 3]

    tab.select(refreshed, None, [cards, model, left, right], api_name=False, show_progress="hidden")
    timed = guarded(partial(_speed, page), telemetry, otherwise=[HIDDEN])
    measure.click(timed, [model], [speed, problem], api_name=False)
    act = guarded(partial(_compared, page), telemetry, otherwise=[HIDDEN])
    compare.click(act, [left, right, texts, labels], [table, compared], api_name=False)


def _cards(page: Page) -> str:
    """A card for each model."""
    made = [_card(page, name) for name in page.names()]
    return f'<div class="rehead-cards">{"".join(made)}</div>' if made else '<div class="rehead-note">None.</div>'


def _card(page: Page, name: str) -> str:
    entry = describe(name, page.desk.store.folder(name))
    labels = "any labels that you name" if entry["task"] == "zero-shot" else ", ".join(entry["labels"][:8])
    more = len(entry["labels"]) - 8
    labels += f" and {more} more" if entry["task"] != "zero-shot" and more > 0 else ""
    metric = entry["metric"]
    figure = f"<b>{metric['value']:.3f}</b> {escape(metric['name'].replace('_', ' '))}" if metric else "not measured"
    engine = page.desk.store.loaded_as(name)
    runtime = f"{engine.backend.name}, {engine.backend.precision}" if engine is not None else "loads when first asked"
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
    """How fast a model answers here and now."""
    engine = await _engine(page, name)
    one: list[float] = []
    together: list[float] = []
    for _ in range(TIMES):
        for seconds, many in ((one, 1), (together, TOGETHER)):
            begin = time.perf_counter()
            await _timed(page, engine, [TextInput(f"{TIMED} {number}") for number in range(many)])
            seconds.append(time.perf_counter() - begin)
    rate = TOGETHER / median(together)
    told = f"One short text: {1000 * median(one):.0f} ms. {TOGETHER} together: {rate:,.0f} texts a second"
    told += f", with {len(LABELS)} labels." if engine.folder.is_zero_shot else "."
    return [gr.update(value=f'<div class="rehead-note" role="status">{told}</div>', visible=True)]


async def _timed(page: Page, engine: Engine, inputs: list[TextInput]) -> None:
    """An answer that nobody asked for, so it is in no count."""
    work = page.desk.work()
    question = ZeroShotRequest(LABELS, False)
    texts = [one.text for one in inputs]
    free = engine.folder.is_zero_shot
    call = engine.azero_shot(texts, question, work=work) if free else engine.aclassify(inputs, work=work)
    await page.desk.counted(engine, work, call)


async def _compared(page: Page, left: str | None, right: str | None, lines: str, labels: list[str]) -> list[Any]:
    texts = [line.strip() for line in lines.splitlines() if line.strip()]
    if not texts:
        raise BadRequest("there is no text yet: write one on each line")
    inputs = page.desk.inputs(texts)
    answers = [await _asked(page, await _engine(page, name), inputs, labels) for name in (left, right)]
    rows = []
    for text, one, other in zip(texts, *answers, strict=True):
        rows.append([text, one.best.label, f"{one.best.score:.3f}", other.best.label, f"{other.best.score:.3f}"])
    return [gr.update(value={"headers": ["text", left, "score", right, "score "], "data": rows}, visible=True)]


async def _engine(page: Page, name: str | None) -> Engine:
    if not name:
        raise BadRequest("no model is served")
    return await asyncio.to_thread(page.desk.store.get, name)


async def _asked(page: Page, engine: Engine, inputs: list[TextInput], labels: list[str]) -> list[Answer]:
    desk, work = page.desk, page.desk.work()
    if not engine.folder.is_zero_shot:
        return await desk.counted(engine, work, desk.classify(engine, inputs, work))
    question = label_chips.question(desk, labels, several=False)
    texts = [one.text for one in inputs]
    return await desk.counted(engine, work, desk.zero_shot(engine, texts, question, work))
