"""The Sentiment tab: a fine-tuned model, one text as bars or many lines as a table.

Knows: this tab's components and what its buttons do.
Does not know: the other tabs, HTTP.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from service.engine import Engine
from service.errors import BadRequest
from service.schema import TextInput
from service.settings import ServeSettings
from service.store import ModelStore
from service.ui.answers import about, bars, guarded, names_where, note, report_of

EXAMPLES = (
    "A warm, funny film with a terrific cast. I would happily watch it again.",
    "Two hours of my life that I will never get back.",
    "It starts slowly, but the last act makes up for everything.",
    "The food was cold and the waiter was rude.",
)


def build(page: gr.Blocks, store: ModelStore[Engine], settings: ServeSettings) -> None:
    """Lay out the tab inside the block that is open, and connect it."""

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

    one = guarded(lambda *given: _one(store, *given), outputs=2)
    many = guarded(lambda *given: _many(store, settings, *given), outputs=1)
    for event in (classify.click, text.submit, examples.load_input_event.then):
        event(one, [model, text], [scores, remark, problem], api_name=False)
    classify_lines.click(many, [model, lines], [table, problem_lines], api_name=False)
    model.change(lambda name: about(store, name), [model], [line], api_name=False, show_progress="hidden")
    report.expand(lambda name: report_of(store, name), [model], [figures, pictures], api_name=False)
    model.change(lambda: (gr.update(open=False), "", None), None, [report, figures, pictures], api_name=False)
    page.load(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")


def _one(store: ModelStore[Engine], model: str | None, text: str) -> list[Any]:
    if not text.strip():
        raise BadRequest("there is no text yet: type one, or pick an example")
    engine = _engine(store, model)
    (answer,) = engine.classify([TextInput(text)])
    return [bars(answer, number=engine.folder.settings.task == "regression"), note(answer)]


def _many(store: ModelStore[Engine], settings: ServeSettings, model: str | None, lines: str) -> list[Any]:
    texts = [line.strip() for line in lines.splitlines() if line.strip()]
    if not texts:
        raise BadRequest("there is no text yet: paste one on each line")
    if len(texts) > settings.max_texts:
        raise BadRequest(f"these are {len(texts)} lines, and {settings.max_texts} go at once: use rehead predict FILE")
    answers = _engine(store, model).classify([TextInput(text) for text in texts])
    rows = zip(answers, texts, strict=True)
    return [[[answer.best.label, f"{answer.best.score:.3f}", text] for answer, text in rows]]


def _engine(store: ModelStore[Engine], model: str | None) -> Engine:
    if not model:
        raise BadRequest("no fine-tuned model is served: train one with rehead finetune")
    return store.get(model)
