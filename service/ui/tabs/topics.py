"""The Topics tab: a text and labels of your own.

Knows: this tab's components and what its button does.
Does not know: the other tabs, HTTP.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import gradio as gr

from finetune.artifact import DEFAULT_TEMPLATE
from service.desk import Desk
from service.engine import Engine
from service.errors import BadRequest
from service.schema import Answer, ZeroShotQuestion
from service.store import ModelStore
from service.ui.answers import about, as_tool, bars, guarded, names_where, note

EXAMPLES = (
    ["The match went to extra time before the visitors scored.", "sports, business, science, politics", False],
    ["The central bank raised interest rates again.", "sports, business, science, politics", False],
    ["How do I undo the last commit without losing my changes?", "version control, databases, networking", False],
    ["My card was charged twice and nobody answers the phone.", "billing, customer service, delivery", True],
)


def build(page: gr.Blocks, desk: Desk) -> None:
    """Lay out the tab inside the block that is open, and connect it."""
    store = desk.store

    def names() -> list[str]:
        return names_where(store, lambda folder: folder.is_zero_shot)

    first = next(iter(names()), None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            model = gr.Dropdown(names(), value=first, label="Model", elem_id="topics-model")
            line = gr.HTML(about(store, first), padding=False)
            text, labels, several, template = question = _question(_template(store, first))
            classify = gr.Button("Classify", variant="primary", elem_id="topics-classify")
            examples = gr.Examples(
                [list(one) for one in EXAMPLES],
                inputs=[text, labels, several],
                label="Examples",
                example_labels=[one[0] for one in EXAMPLES],
                cache_examples=False,
            )
        with gr.Column(scale=4):
            problem = gr.HTML(visible=False, padding=False, elem_id="topics-problem")
            scores = gr.Label(label="Scores", elem_id="topics-scores", elem_classes="rehead-scores")
            remark = gr.HTML(visible=False, padding=False)

    act = guarded(partial(_answer, desk), desk.telemetry, outputs=2)
    for event in (classify.click, text.submit, labels.submit, examples.load_input_event.then):
        event(act, [model, *question], [scores, remark, problem], api_name=False)

    def describe_model(name: str | None) -> tuple[str, str]:
        return about(store, name), _template(store, name)

    model.change(describe_model, [model], [line, template], api_name=False, show_progress="hidden")
    page.load(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")

    async def classify_topics(
        text: str, labels: list[str], multi_label: bool = False, model: str = first or ""
    ) -> list[dict[str, Any]]:
        """Sort a text into topics that you name; the model needs no examples of them.

        Args:
            text: the text to sort.
            labels: the topics to choose from, as words or short phrases.
            multi_label: whether several topics may hold at once.
            model: the name of a served zero-shot model.

        Returns:
            Topics with their scores, best first.
        """
        answer = await _weighed(desk, model, text, ZeroShotQuestion(desk.labels(labels), multi_label))
        return [{"label": one.label, "score": one.score} for one in answer.predictions]

    gr.api(as_tool(classify_topics, desk.telemetry), api_name="classify_topics")


def _question(template: str) -> tuple[gr.Textbox, gr.Textbox, gr.Checkbox, gr.Textbox]:
    """The fields that make a question: text, labels, whether several may hold, template."""
    return (
        gr.Textbox(label="Text", lines=4, max_lines=14, placeholder="Type or paste a text ...", elem_id="topics-text"),
        gr.Textbox(
            label="Labels",
            info="With commas between them, or one on each line.",
            value="sports, business, science, politics",
            max_lines=10,
            elem_id="topics-labels",
        ),
        gr.Checkbox(label="Several labels may hold at once", elem_id="topics-several"),
        gr.Textbox(
            label="Template",
            info="The sentence a label is put into, with exactly one {}.",
            value=template,
            max_lines=1,
            elem_id="topics-template",
        ),
    )


async def _answer(desk: Desk, model: str | None, text: str, labels: str, several: bool, template: str) -> list[Any]:
    if not text.strip():
        raise BadRequest("there is no text yet: type one, or pick an example")
    # a line may hold a comma where each label has a line of its own
    names = desk.labels(labels.splitlines() if "\n" in labels.strip() else labels)
    if len(names) < 2 and not several:
        raise BadRequest("one label leaves nothing to choose: name at least two, or let several hold at once")
    answer = await _weighed(desk, model, text, ZeroShotQuestion(names, several, template))
    return [bars(answer), note(answer)]


async def _weighed(desk: Desk, model: str | None, text: str, question: ZeroShotQuestion) -> Answer:
    if not model:
        raise BadRequest("no model for labels of your own is served")
    engine = await asyncio.to_thread(desk.store.get, model)
    (item,), work = desk.inputs([text]), desk.work()
    (answer,) = await desk.counted(engine, work, desk.zero_shot(engine, [item.text], question, work))
    return answer


def _template(store: ModelStore[Engine], model: str | None) -> str:
    recorded = store.folder(model).settings.zero_shot if model else None
    return recorded.hypothesis_template if recorded is not None else DEFAULT_TEMPLATE
