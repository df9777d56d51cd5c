"""The Sentiment tab: a fine-tuned model on one text, with word importance, or on many lines."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import gradio as gr

from service.batch.scoring_task import predicted_labels, thresholds_of
from service.errors import BadRequest
from service.inference.engine import Engine
from service.schema import Answer
from service.server.admission import Admission
from service.server.explain import explain
from service.ui import feedback, links, snippets
from service.ui.feedback import GivenAnswer
from service.ui.results import (
    HIDDEN,
    NO_SCORES,
    about,
    as_tool,
    bars,
    decisions_of,
    importance,
    note,
    reporting,
    scroll_to,
)
from service.ui.tab import Page

NAME = "sentiment"
EXAMPLES = (
    "A warm, funny film with a terrific cast. I would happily watch it again.",
    "Two hours of my life that I will never get back.",
    "It starts slowly, but the last act makes up for everything.",
    "The food was cold and the waiter was rude.",
)


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab in the open block, and connect it."""
    admission = page.admission
    names = partial(page.names, lambda folder: not folder.is_zero_shot)
    first = next(iter(names()), None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            model = gr.Dropdown(names(), value=first, label="Model", elem_id="sentiment-model")
            line = gr.HTML(about(admission.store, first), padding=False)
            text = gr.Textbox(
                label="Text", lines=5, max_lines=14, placeholder="Type or paste a text ...", elem_id="sentiment-text"
            )
            with gr.Row():
                classify = gr.Button("Classify", variant="primary", elem_id="sentiment-classify")
                explain_button = gr.Button("Explain", elem_id="sentiment-why")
        with gr.Column(scale=4, elem_id="sentiment-answer", elem_classes="rehead-answer"):
            problem = gr.HTML(visible=False, padding=False, elem_id="sentiment-problem")
            scores = gr.Label(label="Scores", visible=False, elem_id="sentiment-scores", elem_classes="rehead-scores")
            remark = gr.HTML(NO_SCORES, padding=False)
            state = feedback.build(page, NAME)
            words = gr.HTML(visible=False, padding=False, elem_id="sentiment-words")
    examples = gr.Examples([[example] for example in EXAMPLES], inputs=[text], label="Examples", cache_examples=False)
    with gr.Accordion("Several texts", open=False, elem_id="sentiment-many"):
        lines = gr.Textbox(label="One text per line", lines=6, max_lines=20, elem_id="sentiment-lines")
        classify_lines = gr.Button("Classify all", elem_id="sentiment-classify-lines")
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

    shown = [scores, remark, words, *([state] if state is not None else [])]
    cleared = [HIDDEN, HIDDEN, HIDDEN, *([None] if state is not None else [])]
    single = reporting(partial(_single, admission, state is not None), admission.telemetry, otherwise=cleared)
    several = reporting(partial(_several, admission), admission.telemetry, otherwise=[HIDDEN])
    explain_words = reporting(partial(_explained, admission), admission.telemetry, otherwise=[HIDDEN])
    for event in (classify.click, text.submit, examples.load_input_event.then):
        answered = event(single, [model, text], [*shown, problem], api_name=False)
        answered.then(None, js=scroll_to("sentiment-answer"))
    explained = explain_button.click(explain_words, [model, text], [words, problem], api_name=False)
    explained.then(None, js=scroll_to("sentiment-words"))
    classify_lines.click(several, [model, lines], [table, problem_lines], api_name=False)
    model.change(lambda name: about(admission.store, name), [model], [line], api_name=False, show_progress="hidden")
    tab.select(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")
    page.blocks.load(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")

    async def classify_sentiment(text: str, model: str = first or "") -> list[dict[str, Any]]:
        """Classify a text as positive or negative, or by the labels of another fine-tuned model of this server.

        Args:
            text: the text to classify.
            model: the name of a served model.

        Returns:
            Labels with their scores, best first.
        """
        (answer,) = await _answers(admission, model, [text])
        return [{"label": row.label, "score": row.score} for row in answer.predictions]

    # as a tool, a queued function is called through a URL that Gradio makes of the first client's Host header
    queue = not admission.settings.mcp
    gr.api(as_tool(classify_sentiment, admission.telemetry), api_name="classify_sentiment", queue=queue)


async def _single(admission: Admission, has_feedback: bool, model: str | None, text: str) -> list[Any]:
    engine = await _engine(admission, model)
    (answer,) = await _answers(admission, model, [_checked(text)])
    task = engine.folder.settings.task
    said = note(answer, decisions_of(answer, engine.folder))
    shown = [bars(answer, number=task == "regression"), said, HIDDEN]
    if not has_feedback:
        return shown
    best = answer.best
    labels = predicted_labels(answer, thresholds_of(engine)) if task == "multi_label" else None
    row = GivenAnswer(text, str(model), list(engine.folder.labels.names), best.label, best.score, labels)
    return [*shown, None if task == "regression" else list(row)]


async def _explained(admission: Admission, model: str | None, text: str) -> list[Any]:
    engine = await _engine(admission, model)
    if engine.folder.settings.task == "regression":
        raise BadRequest("word importance needs labels, and this model predicts a number")
    (item,) = admission.limits.inputs([_checked(text)])
    (answer,) = await _answers(admission, model, [item.text])
    best = answer.best
    words = await explain(admission, engine, item, best.label)
    return [gr.update(value=importance(item.text, best.label, best.score, words), visible=True)]


async def _several(admission: Admission, model: str | None, lines: str) -> list[Any]:
    texts = [line.strip() for line in lines.splitlines() if line.strip()]
    if not texts:
        raise BadRequest("there is no text yet: enter one per line")
    if len(texts) > (limit := admission.settings.max_texts):
        raise BadRequest(f"there are {len(texts)} lines, and the limit is {limit}: use the Batch tab for a whole table")
    answers = await _answers(admission, model, texts)
    rows = [[answer.best.label, f"{answer.best.score:.3f}", text] for answer, text in zip(answers, texts, strict=True)]
    return [gr.update(value=rows, visible=True)]


def _checked(text: str) -> str:
    if not text.strip():
        raise BadRequest("there is no text yet: type one, or pick an example")
    return text


async def _engine(admission: Admission, model: str | None) -> Engine:
    if not model:
        raise BadRequest("no fine-tuned model is available: train one with rehead finetune")
    engine = await asyncio.to_thread(admission.store.get, model)
    if engine.folder.is_zero_shot:
        raise BadRequest(f"{model} is a zero-shot model, which needs candidate labels: use the Topics tab")
    return engine


async def _answers(admission: Admission, model: str | None, texts: list[str]) -> list[Answer]:
    engine = await _engine(admission, model)
    return await admission.classify(engine, admission.limits.inputs(texts))
