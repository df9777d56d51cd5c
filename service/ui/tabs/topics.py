"""The Topics tab: zero-shot classification of a text by labels of your own."""

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
from service.inference.label_parsing import Labels, labels_of
from service.inference.label_wording import wording_of
from service.inference.model_store import ModelStore
from service.schema import Answer, ZeroShotRequest
from service.server.admission import Admission
from service.ui import feedback, label_chips, links, snippets
from service.ui.feedback import GivenAnswer
from service.ui.label_chips import LABELS
from service.ui.results import HIDDEN, NO_SCORES, SAME, about, as_tool, bars, note, reporting, scroll_to
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
HYPOTHESES_SHOWN = 5
MAX_SETS, MAX_SET_LABELS, MAX_SET_CHARACTERS = 50, 10_000, 500_000
"""Label sets that a browser stores, their labels and the characters of these in all: every call that reads the sets
carries them, within the limits of `page_calls` and of a request body, and a browser stores a few megabytes."""


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab in the open block, and connect it."""
    admission = page.admission
    names = partial(page.names, lambda folder: folder.is_zero_shot)
    first = next(iter(names()), None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5):
            model = gr.Dropdown(names(), value=first, label="Model", elem_id="topics-model")
            line = gr.HTML(about(admission.store, first), padding=False)
            text = gr.Textbox(
                label="Text", lines=4, max_lines=14, placeholder="Type or paste a text ...", elem_id="topics-text"
            )
            labels, labels_changed = label_chips.field("topics-labels", LABELS)
            _sets(page, labels)
            several = gr.Checkbox(label="Allow several labels per text", elem_id="topics-several")
            template = gr.Textbox(
                label="Hypothesis template",
                info="The sentence that a label is inserted into, with exactly one {}.",
                value=_template(admission.store, first),
                max_lines=1,
                elem_id="topics-template",
            )
            preview = gr.HTML(_preview(template.value, list(LABELS)), padding=False, elem_id="topics-preview")
            classify = gr.Button("Classify", variant="primary", elem_id="topics-classify")
        with gr.Column(scale=4, elem_id="topics-answer", elem_classes="rehead-answer"):
            problem = gr.HTML(visible=False, padding=False, elem_id="topics-problem")
            scores = gr.Label(label="Scores", visible=False, elem_id="topics-scores", elem_classes="rehead-scores")
            remark = gr.HTML(NO_SCORES, padding=False)
            state = feedback.build(page, NAME)
    examples = gr.Examples(
        [list(example) for example in EXAMPLES],
        inputs=[text, labels, several],
        label="Examples",
        example_labels=[str(example[0]) for example in EXAMPLES],
        cache_examples=False,
    )
    question: list[Any] = [text, labels, several, template]

    def program(
        language: str, address: str, model: str | None, text: str, labels: list[str], several: bool, template: str
    ) -> str:
        parameters: dict[str, Any] = {"candidate_labels": label_chips.described(labels or LABELS)}
        parameters |= {"multi_label": True} if several else {}
        if template != _template(admission.store, model):
            parameters["hypothesis_template"] = template
        text = text.strip() or str(EXAMPLES[0][0])
        return snippets.snippet(language, address, model or NAME, text, parameters, has_key=page.has_key)

    snippets.build(NAME, [model, *question], program)
    fields = {"model": model, "text": text, "labels": labels, "several": several, "template": template}
    links.build(page.blocks, NAME, fields)

    shown = [scores, remark, *([state] if state is not None else [])]
    cleared = [HIDDEN, HIDDEN, *([None] if state is not None else [])]
    act = reporting(partial(_answer, admission, state is not None), admission.telemetry, otherwise=cleared)
    for event in (classify.click, text.submit, examples.load_input_event.then):
        answered = event(act, [model, *question], [*shown, problem], api_name=False)
        answered.then(None, js=scroll_to("topics-answer"))
    # Gradio's `input` event of a text field is a key press, and a paste is none
    for event in (template.change, labels_changed.then):
        event(_preview, [template, labels], [preview], api_name=False, show_progress="hidden")

    def describe_model(name: str | None, labels: list[str]) -> tuple[str, str, str]:
        return about(admission.store, name), (own := _template(admission.store, name)), _preview(own, labels)

    model.change(describe_model, [model, labels], [line, template, preview], api_name=False, show_progress="hidden")
    tab.select(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")
    page.blocks.load(lambda: gr.update(choices=names()), None, [model], api_name=False, show_progress="hidden")

    async def classify_topics(
        text: str, labels: list[str], multi_label: bool = False, model: str = first or ""
    ) -> list[dict[str, Any]]:
        """Classify a text by topics of your own; the model needs no examples of them.

        Args:
            text: the text to classify.
            labels: the topics to choose from, as words or short phrases.
            multi_label: whether several topics may be true at once.
            model: the name of a served zero-shot model.

        Returns:
            Topics with their scores, best first.
        """
        question = ZeroShotRequest(admission.limits.labels(labels), multi_label)
        answer = await _classified(admission, model, text, question)
        return [{"label": row.label, "score": row.score} for row in answer.predictions]

    # as a tool, a queued function is called through a URL that Gradio makes of the first client's Host header
    queue = not admission.settings.mcp
    gr.api(as_tool(classify_topics, admission.telemetry), api_name="classify_topics", queue=queue)


def _sets(page: Page, labels: gr.Dropdown) -> None:
    """Add named sets of labels, stored in the browser and nowhere else."""
    stored = page.label_sets
    max_characters = min(MAX_SET_CHARACTERS, page.admission.settings.max_body_bytes // 8)  # of up to 4 bytes
    with gr.Accordion("Label sets (stored in this browser)", open=False, elem_id="topics-sets"):
        with gr.Row(equal_height=True):
            selection = gr.Dropdown([], label="Load a set", elem_id="topics-set")
            delete = gr.Button("Delete", size="sm", scale=0, min_width=100, elem_id="topics-set-delete")
        with gr.Row(equal_height=True):
            name = gr.Textbox(label="Save these labels as", max_lines=1, elem_id="topics-set-name")
            save = gr.Button("Save", size="sm", scale=0, min_width=100, elem_id="topics-set-keep")
        problem = gr.HTML(visible=False, padding=False)

    def options(sets: list[Any] | None, **more: Any) -> Any:
        return gr.update(choices=[title for title, _ in sets or []], **more)

    async def saved(sets: list[Any] | None, name: str, labels: list[str]) -> list[Any]:
        if not (title := name.strip()[:64]) or not labels:
            raise BadRequest("enter a name for the set, and at least one label")
        sets = with_set(sets or [], title, labels, max_characters)
        return [sets, options(sets, value=title), ""]

    def without(sets: list[Any], name: str | None) -> list[Any]:
        sets = [entry for entry in sets if entry[0] != name]
        return [sets, options(sets, value=None)]

    def loaded(sets: list[Any], name: str | None) -> Any:
        names = next((entry[1] for entry in sets if entry[0] == name), None)
        return gr.skip() if names is None else gr.update(value=names, choices=names)

    handler = reporting(saved, page.admission.telemetry, otherwise=[SAME] * 3)
    save.click(handler, [stored, name, labels], [stored, selection, name, problem], api_name=False)
    delete.click(without, [stored, selection], [stored, selection], api_name=False, show_progress="hidden")
    selection.input(loaded, [stored, selection], [labels], api_name=False, show_progress="hidden")
    # fires once the browser has read its storage, too
    stored.change(lambda sets: options(sets), [stored], [selection], api_name=False, show_progress="hidden")


def with_set(sets: list[Any], title: str, labels: list[str], max_characters: int = MAX_SET_CHARACTERS) -> list[Any]:
    """Return the sets `[title, labels]` with one more, or another one of that title.

    Raises:
        BadRequest: too many sets, labels or characters in all.
    """
    sets = [*[entry for entry in sets if entry[0] != title], [title, labels]]
    names = [name for _, names in sets for name in names]
    if len(sets) > MAX_SETS or len(names) > MAX_SET_LABELS or sum(map(len, names)) > max_characters:
        raise BadRequest(
            f"a browser stores at most {MAX_SETS} label sets with {MAX_SET_LABELS:,} labels and {max_characters:,} "
            "characters in all: delete a set first, or save fewer labels"
        )
    return sets


def _preview(template: str, labels: list[str] | None) -> str:
    """Return the hypotheses as HTML, or what is wrong with the template."""
    try:
        zero_shot.check_template(template)
    except ServiceError as error:
        return f'<div class="rehead-note">{escape(str(error))}</div>'
    try:
        parsed = labels_of(label_chips.described(labels)) if labels else Labels(())
        sentences = wording_of(ZeroShotRequest(parsed.names, texts=parsed.texts), template).sentences
    except ServiceError:  # a label that is there twice, of which Classify informs
        sentences = tuple(zero_shot.fill(template, name) for name in labels or [])
    shown = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences[:HYPOTHESES_SHOWN])
    hidden = len(sentences) - HYPOTHESES_SHOWN
    rest = f"<li>and {hidden} more</li>" if hidden > 0 else ""
    return f'<div class="rehead-note">Hypotheses tested against the text:<ul>{shown}{rest}</ul></div>'


async def _answer(
    admission: Admission,
    has_feedback: bool,
    model: str | None,
    text: str,
    labels: list[str],
    several: bool,
    template: str,
) -> list[Any]:
    if not text.strip():
        raise BadRequest("there is no text yet: type one, or pick an example")
    question = label_chips.question(admission.limits, labels, several, template)
    answer = await _classified(admission, model, text, question)
    predicted = predicted_labels(answer, {}) if several else None
    given_answer = GivenAnswer(text, str(model), list(question.labels), answer.best.label, answer.best.score, predicted)
    return [bars(answer), note(answer), *([list(given_answer)] if has_feedback else [])]


async def _classified(admission: Admission, model: str | None, text: str, question: ZeroShotRequest) -> Answer:
    if not model:
        raise BadRequest("no zero-shot model is available")
    engine = await asyncio.to_thread(admission.store.get, model)
    (item,) = admission.limits.inputs([text])
    (answer,) = await admission.zero_shot(engine, [item.text], question)
    return answer


def _template(store: ModelStore[Engine], model: str | None) -> str:
    recorded = store.folder(model).settings.zero_shot if model else None
    return recorded.hypothesis_template if recorded is not None else DEFAULT_TEMPLATE
