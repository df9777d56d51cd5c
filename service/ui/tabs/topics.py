"""The Topics tab: a text and labels of your own.

Knows: this tab's components and what its buttons do.
Does not know: the other tabs, HTTP.
"""

from __future__ import annotations

import asyncio
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from finetune.core.model_folder import DEFAULT_TEMPLATE
from service.batch.scoring_task import predicted_labels
from service.errors import BadRequest, ServiceError
from service.inference import zero_shot
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import Answer, ZeroShotQuestion
from service.server.desk import Desk
from service.ui import feedback, label_chips, links, snippets
from service.ui.feedback import GivenAnswer
from service.ui.label_chips import LABELS
from service.ui.results import HIDDEN, NO_SCORES, SAME, about, as_tool, bars, guarded, note
from service.ui.tab import Page

NAME = "topics"
EXAMPLES = (
    ["The match went to extra time before the visitors scored.", [*LABELS], False],
    ["The central bank raised interest rates again.", [*LABELS], False],
    [
        "How do I undo the last commit without losing my changes?",
        ["version control", "databases", "networking"],
        False,
    ],
    ["My card was charged twice and nobody answers the phone.", ["billing", "customer service", "delivery"], True],
)
PREVIEWED = 5
MOST_SETS = 50


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab inside the block that is open, and connect it."""
    desk = page.desk
    names = partial(page.names, lambda folder: folder.is_zero_shot)
    first = next(iter(names()), None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            model = gr.Dropdown(names(), value=first, label="Model", elem_id="topics-model")
            line = gr.HTML(about(desk.store, first), padding=False)
            text = gr.Textbox(
                label="Text", lines=4, max_lines=14, placeholder="Type or paste a text ...", elem_id="topics-text"
            )
            labels = label_chips.field("topics-labels", LABELS)
            _sets(page, labels)
            several = gr.Checkbox(label="Several labels may hold at once", elem_id="topics-several")
            template = gr.Textbox(
                label="Template",
                info="The sentence a label is put into, with exactly one {}.",
                value=_template(desk.store, first),
                max_lines=1,
                elem_id="topics-template",
            )
            preview = gr.HTML(_preview(template.value, list(LABELS)), padding=False, elem_id="topics-preview")
            classify = gr.Button("Classify", variant="primary", elem_id="topics-classify")
            examples = gr.Examples(
                [list(one) for one in EXAMPLES],
                inputs=[text, labels, several],
                label="Examples",
                example_labels=[str(one[0]) for one in EXAMPLES],
                cache_examples=False,
            )
        with gr.Column(scale=4):
            problem = gr.HTML(visible=False, padding=False, elem_id="topics-problem")
            scores = gr.Label(label="Scores", visible=False, elem_id="topics-scores", elem_classes="rehead-scores")
            remark = gr.HTML(NO_SCORES, padding=False)
            given = feedback.build(page, NAME)
    question: list[Any] = [text, labels, several, template]

    def program(
        language: str, address: str, model: str | None, text: str, labels: list[str], several: bool, template: str
    ) -> str:
        parameters: dict[str, Any] = {"candidate_labels": labels or list(LABELS)}
        parameters |= {"multi_label": True} if several else {}
        if template != _template(desk.store, model):
            parameters["hypothesis_template"] = template
        asked = text.strip() or str(EXAMPLES[0][0])
        return snippets.snippet(language, address, model or NAME, asked, parameters, has_key=page.has_key)

    snippets.build(NAME, [model, *question], program)
    fields = {"model": model, "text": text, "labels": labels, "several": several, "template": template}
    links.build(page.blocks, NAME, fields)

    shown = [scores, remark, *([given] if given is not None else [])]
    cleared = [HIDDEN, HIDDEN, *([None] if given is not None else [])]
    act = guarded(partial(_answer, desk, given is not None), desk.telemetry, otherwise=cleared)
    for event in (classify.click, text.submit, examples.load_input_event.then):
        event(act, [model, *question], [*shown, problem], api_name=False)
    # gradio's `input` of a text field is a key press, and a paste is none. One event, one at a time: the answers of two
    # could arrive in either order, and the older one would stay
    gr.on(
        [template.change, labels.change],
        _preview,
        [template, labels],
        [preview],
        api_name=False,
        show_progress="hidden",
        trigger_mode="always_last",
        concurrency_limit=1,
    )

    def describe_model(name: str | None, labels: list[str]) -> tuple[str, str, str]:
        return about(desk.store, name), (own := _template(desk.store, name)), _preview(own, labels)

    model.change(describe_model, [model, labels], [line, template, preview], api_name=False, show_progress="hidden")
    tab.select(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")
    page.blocks.load(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")

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


def _sets(page: Page, labels: gr.Dropdown) -> None:
    """Sets of labels, kept by name in the browser and nowhere else."""
    kept = page.label_sets
    with gr.Accordion("Label sets kept in this browser", open=False, elem_id="topics-sets"):
        with gr.Row(equal_height=True):
            chosen = gr.Dropdown([], label="Take the set", elem_id="topics-set")
            delete = gr.Button("Delete it", size="sm", scale=0, min_width=100, elem_id="topics-set-delete")
        with gr.Row(equal_height=True):
            name = gr.Textbox(label="Keep these labels as", max_lines=1, elem_id="topics-set-name")
            keep = gr.Button("Keep", size="sm", scale=0, min_width=100, elem_id="topics-set-keep")
        problem = gr.HTML(visible=False, padding=False)

    async def kept_as(sets: list[Any] | None, name: str, labels: list[str]) -> list[Any]:
        if not (called := name.strip()[:64]) or not labels:
            raise BadRequest("give the set a name, and at least one label")
        found = [*[one for one in sets or [] if one[0] != called], [called, labels]][-MOST_SETS:]
        return [found, gr.update(choices=[one[0] for one in found], value=called), ""]

    def without(sets: list[Any], name: str | None) -> list[Any]:
        found = [one for one in sets if one[0] != name]
        return [found, gr.update(choices=[one[0] for one in found], value=None)]

    def taken(sets: list[Any], name: str | None) -> Any:
        found = next((one[1] for one in sets if one[0] == name), None)
        return gr.skip() if found is None else gr.update(value=found, choices=found)

    handler = guarded(kept_as, page.desk.telemetry, otherwise=[SAME] * 3)
    keep.click(handler, [kept, name, labels], [kept, chosen, name, problem], api_name=False)
    delete.click(without, [kept, chosen], [kept, chosen], api_name=False, show_progress="hidden")
    chosen.input(taken, [kept, chosen], [labels], api_name=False, show_progress="hidden")
    kept.change(  # also once the browser has read it
        lambda sets: gr.update(choices=[one[0] for one in sets or []]),
        [kept],
        [chosen],
        api_name=False,
        show_progress="hidden",
    )


def _preview(template: str, labels: list[str] | None) -> str:
    """The sentences that will be tested, or what is wrong with the template."""
    try:
        zero_shot.check_template(template)
    except ServiceError as error:
        return f'<div class="rehead-note">{escape(str(error))}</div>'
    found = labels or []
    shown = "".join(f"<li>{escape(zero_shot.fill(template, label))}</li>" for label in found[:PREVIEWED])
    rest = f"<li>and {len(found) - PREVIEWED} more</li>" if len(found) > PREVIEWED else ""
    return f'<div class="rehead-note">Each of these is held against the text:<ul>{shown}{rest}</ul></div>'


async def _answer(
    desk: Desk, corrected: bool, model: str | None, text: str, labels: list[str], several: bool, template: str
) -> list[Any]:
    if not text.strip():
        raise BadRequest("there is no text yet: type one, or pick an example")
    question = label_chips.question(desk, labels, several, template)
    answer = await _weighed(desk, model, text, question)
    holding = predicted_labels(answer, {}) if several else None
    given = GivenAnswer(text, str(model), list(question.labels), answer.best.label, answer.best.score, holding)
    return [bars(answer), note(answer), *([list(given)] if corrected else [])]


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
