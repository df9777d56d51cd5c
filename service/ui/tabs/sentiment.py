"""The Sentiment tab: a fine-tuned model, one text as bars or many lines as a table.

Knows: this tab's components and what its buttons do.
Does not know: the other tabs, HTTP.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import gradio as gr

from service.desk import Desk
from service.errors import BadRequest
from service.schema import Answer
from service.ui.answers import about, as_tool, bars, guarded, names_where, note, report_of

EXAMPLES = (
    "A warm, funny film with a terrific cast. I would happily watch it again.",
    "Two hours of my life that I will never get back.",
    "It starts slowly, but the last act makes up for everything.",
    "The food was cold and the waiter was rude.",
)


def build(page: gr.Blocks, desk: Desk) -> None:
    """Lay out the tab inside the block that is open, and connect it."""
    store = desk.store

    def names() -> list[str]:
        return names_where(store, lambda folder: not folder.is_zero_shot)

    first = next(iter(names()), None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            model = gr.Dropdown(names(), value=first, label="Model", elem_id="sentiment-model")
            line = gr.HTML(about(store, first), padding=False)
            text = gr.Textbox(
                label="Text", lines=5, max_lines=14, placeholder="Type or paste a text ...", elem_id="sentiment-text"
            )
            classify = gr.Button("Classify", variant="primary", elem_id="sentiment-classify")
            examples = gr.Examples(
                [[example] for example in EXAMPLES], inputs=[text], label="Examples", cache_examples=False
            )
        with gr.Column(scale=4):
            problem = gr.HTML(visible=False, padding=False, elem_id="sentiment-problem")
            scores = gr.Label(label="Scores", elem_id="sentiment-scores", elem_classes="rehead-scores")
            remark = gr.HTML(visible=False, padding=False)
    with gr.Accordion("Many texts at once", open=False, elem_id="sentiment-many"):
        lines = gr.Textbox(label="One text on each line", lines=6, max_lines=20, elem_id="sentiment-lines")
        classify_lines = gr.Button("Classify every line", elem_id="sentiment-classify-lines")
        problem_lines = gr.HTML(visible=False, padding=False, elem_id="sentiment-lines-problem")
        table = gr.Dataframe(
            headers=["label", "score", "text"],
            column_widths=["16%", "12%", "72%"],
            interactive=False,
            wrap=True,
            elem_id="sentiment-table",
        )

    with gr.Accordion("How good this model is", open=False, elem_id="sentiment-report") as report:
        figures = gr.HTML(padding=False, elem_id="sentiment-figures")
        pictures = gr.Gallery(
            label="Pictures", columns=3, object_fit="contain", interactive=False, elem_id="sentiment-pictures"
        )

    one = guarded(partial(_one, desk), desk.telemetry, outputs=2)
    many = guarded(partial(_many, desk), desk.telemetry, outputs=1)
    for event in (classify.click, text.submit, examples.load_input_event.then):
        event(one, [model, text], [scores, remark, problem], api_name=False)
    classify_lines.click(many, [model, lines], [table, problem_lines], api_name=False)
    model.change(lambda name: about(store, name), [model], [line], api_name=False, show_progress="hidden")
    report.expand(lambda name: report_of(store, name), [model], [figures, pictures], api_name=False)
    model.change(lambda: (gr.update(open=False), "", None), None, [report, figures, pictures], api_name=False)
    page.load(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")

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


async def _one(desk: Desk, model: str | None, text: str) -> list[Any]:
    if not text.strip():
        raise BadRequest("there is no text yet: type one, or pick an example")
    (answer,) = await _answers(desk, model, [text])
    number = desk.store.folder(str(model)).settings.task == "regression"
    return [bars(answer, number=number), note(answer)]


async def _many(desk: Desk, model: str | None, lines: str) -> list[Any]:
    texts = [line.strip() for line in lines.splitlines() if line.strip()]
    if not texts:
        raise BadRequest("there is no text yet: paste one on each line")
    if len(texts) > (most := desk.settings.max_texts):
        raise BadRequest(f"these are {len(texts)} lines, and {most} go at once: use rehead predict FILE")
    answers = await _answers(desk, model, texts)
    rows = zip(answers, texts, strict=True)
    return [[[answer.best.label, f"{answer.best.score:.3f}", text] for answer, text in rows]]


async def _answers(desk: Desk, model: str | None, texts: list[str]) -> list[Answer]:
    if not model:
        raise BadRequest("no fine-tuned model is served: train one with rehead finetune")
    engine = await asyncio.to_thread(desk.store.get, model)
    if engine.folder.is_zero_shot:
        raise BadRequest(f"{model} is a zero-shot model: it wants labels of your own")
    inputs, work = desk.inputs(texts), desk.work()
    return await desk.counted(engine, work, desk.classify(engine, inputs, work))
