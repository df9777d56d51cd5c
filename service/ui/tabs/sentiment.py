"""The Sentiment tab: a fine-tuned model, one text as bars or many lines as a table, and the words that decided.

Knows: this tab's components and what its buttons do.
Does not know: the other tabs, HTTP.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import gradio as gr

from service.batch.scoring_task import predicted_labels, thresholds_of
from service.errors import BadRequest
from service.inference.engine import Engine
from service.schema import Answer
from service.server.desk import Desk
from service.ui import feedback, links, snippets
from service.ui.feedback import GivenAnswer
from service.ui.results import HIDDEN, NO_SCORES, about, as_tool, bars, decided, guarded, note
from service.ui.tab import Page

NAME = "sentiment"
EXAMPLES = (
    "A warm, funny film with a terrific cast. I would happily watch it again.",
    "Two hours of my life that I will never get back.",
    "It starts slowly, but the last act makes up for everything.",
    "The food was cold and the waiter was rude.",
)


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab inside the block that is open, and connect it."""
    desk = page.desk
    names = partial(page.names, lambda folder: not folder.is_zero_shot)
    first = next(iter(names()), None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            model = gr.Dropdown(names(), value=first, label="Model", elem_id="sentiment-model")
            line = gr.HTML(about(desk.store, first), padding=False)
            text = gr.Textbox(
                label="Text", lines=5, max_lines=14, placeholder="Type or paste a text ...", elem_id="sentiment-text"
            )
            with gr.Row():
                classify = gr.Button("Classify", variant="primary", elem_id="sentiment-classify")
                why = gr.Button("Which words decided?", elem_id="sentiment-why")
            examples = gr.Examples(
                [[example] for example in EXAMPLES], inputs=[text], label="Examples", cache_examples=False
            )
        with gr.Column(scale=4):
            problem = gr.HTML(visible=False, padding=False, elem_id="sentiment-problem")
            scores = gr.Label(label="Scores", visible=False, elem_id="sentiment-scores", elem_classes="rehead-scores")
            remark = gr.HTML(NO_SCORES, padding=False)
            given = feedback.build(page, NAME)
            words = gr.HTML(visible=False, padding=False, elem_id="sentiment-words")
    with gr.Accordion("Many texts at once", open=False, elem_id="sentiment-many"):
        lines = gr.Textbox(label="One text on each line", lines=6, max_lines=20, elem_id="sentiment-lines")
        classify_lines = gr.Button("Classify every line", elem_id="sentiment-classify-lines")
        problem_lines = gr.HTML(visible=False, padding=False, elem_id="sentiment-lines-problem")
        table = gr.Dataframe(
            headers=["label", "score", "text"],
            column_widths=["16%", "12%", "72%"],
            interactive=False,
            wrap=True,
            visible=False,
            elem_id="sentiment-table",
        )

    def program(language: str, address: str, model: str | None, text: str) -> str:
        return snippets.snippet(language, address, model or NAME, text.strip() or EXAMPLES[0], {}, has_key=page.has_key)

    snippets.build(NAME, [model, text], program)
    links.build(page.blocks, NAME, {"model": model, "text": text})

    shown = [scores, remark, words, *([given] if given is not None else [])]
    cleared = [HIDDEN, HIDDEN, HIDDEN, *([None] if given is not None else [])]
    one = guarded(partial(_one, desk, given is not None), desk.telemetry, otherwise=cleared)
    many = guarded(partial(_many, desk), desk.telemetry, otherwise=[HIDDEN])
    reasons = guarded(partial(_why, desk), desk.telemetry, otherwise=[HIDDEN])
    for event in (classify.click, text.submit, examples.load_input_event.then):
        event(one, [model, text], [*shown, problem], api_name=False)
    why.click(reasons, [model, text], [words, problem], api_name=False)
    classify_lines.click(many, [model, lines], [table, problem_lines], api_name=False)
    model.change(lambda name: about(desk.store, name), [model], [line], api_name=False, show_progress="hidden")
    tab.select(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")
    page.blocks.load(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")

    async def classify_sentiment(text: str, model: str = first or "") -> list[dict[str, Any]]:
        """Say whether a text is positive or negative, or what else a fine-tuned model of this server tells.

        Args:
            text: the text to classify.
            model: the name of a served model.

        Returns:
            Labels with their scores, best first.
        """
        (answer,) = await _answers(desk, model, [text])
        return [{"label": one.label, "score": one.score} for one in answer.predictions]

    gr.api(as_tool(classify_sentiment, desk.telemetry), api_name="classify_sentiment")


async def _one(desk: Desk, corrected: bool, model: str | None, text: str) -> list[Any]:
    engine = await _engine(desk, model)
    (answer,) = await _answers(desk, model, [_given(text)])
    task = engine.folder.settings.task
    shown = [bars(answer, number=task == "regression"), note(answer), HIDDEN]
    if not corrected:
        return shown
    best = answer.best
    holding = predicted_labels(answer, thresholds_of(engine)) if task == "multi_label" else None
    row = GivenAnswer(text, str(model), list(engine.folder.labels.names), best.label, best.score, holding)
    return [*shown, None if task == "regression" else list(row)]


async def _why(desk: Desk, model: str | None, text: str) -> list[Any]:
    engine = await _engine(desk, model)
    if engine.folder.settings.task == "regression":
        raise BadRequest("this model gives a number: words are weighed for labels only")
    (item,) = desk.inputs([_given(text)])
    (answer,) = await _answers(desk, model, [item.text])
    best, work = answer.best, desk.work()
    words = await desk.counted(engine, work, desk.explain(engine, item, best.label))
    return [gr.update(value=decided(item.text, best.label, best.score, words), visible=True)]


async def _many(desk: Desk, model: str | None, lines: str) -> list[Any]:
    texts = [line.strip() for line in lines.splitlines() if line.strip()]
    if not texts:
        raise BadRequest("there is no text yet: paste one on each line")
    if len(texts) > (most := desk.settings.max_texts):
        raise BadRequest(f"these are {len(texts)} lines, and {most} go at once: the Batch tab takes a whole table")
    answers = await _answers(desk, model, texts)
    rows = zip(answers, texts, strict=True)
    found = [[answer.best.label, f"{answer.best.score:.3f}", text] for answer, text in rows]
    return [gr.update(value=found, visible=True)]


def _given(text: str) -> str:
    if not text.strip():
        raise BadRequest("there is no text yet: type one, or pick an example")
    return text


async def _engine(desk: Desk, model: str | None) -> Engine:
    if not model:
        raise BadRequest("no fine-tuned model is served: train one with rehead finetune")
    engine = await asyncio.to_thread(desk.store.get, model)
    if engine.folder.is_zero_shot:
        raise BadRequest(f"{model} is a zero-shot model: it wants labels of your own")
    return engine


async def _answers(desk: Desk, model: str | None, texts: list[str]) -> list[Answer]:
    engine = await _engine(desk, model)
    inputs, work = desk.inputs(texts), desk.work()
    return await desk.counted(engine, work, desk.classify(engine, inputs, work))
