"""The Review tab: rows that a model learns most from, answered by keyboard, and what the answers have bought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from finetune.core.errors import FinetuneError
from service.errors import BadRequest, ServiceError
from service.review.review import CHECKING
from service.review.session import OPTIONS, Plan
from service.review.shared import Request, SharedReviews
from service.review.strategies import STRATEGIES
from service.review.typed_names import checked_reviewer
from service.ui import links, review_view, snippets, table_upload
from service.ui import review_actions as actions
from service.ui.results import HIDDEN, SAME, reporting, scroll_to
from service.ui.tab import Page

NAME = "review"
REFRESH_S = 3.0
ROWS = 100
OFF = """
<div class="rehead-empty" id="review-off"><h2>Reviewing is off on this server</h2>
<p>It trains models, which its operator can enable: <code>rehead serve --allow-training</code></p></div>
"""
HINT = (
    '<div class="rehead-note" id="review-keys">Keys: <kbd>1</kbd> to <kbd>9</kbd> label, <kbd>/</kbd> another label, '
    "<kbd>n</kbd> none of these, <kbd>s</kbd> skip, <kbd>u</kbd> undo.</div>"
)
EXAMPLE_TEXT = "It broke on the second day."


@dataclass(frozen=True)
class _Components:
    """The components that a review changes."""

    state: gr.State
    row: gr.Textbox
    area: gr.Column
    question: gr.HTML
    labels: list[gr.Button]
    other: gr.Textbox
    measures: gr.HTML
    curve: gr.LinePlot
    timer: gr.Timer
    problem: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """Return the outputs of a handler that shows a row, in the order of `_shown`."""
        return [self.question, self.row, *self.labels, self.measures, self.curve]


def build(page: Page, tab: gr.Tab) -> None:
    """Lay out the tab in the open block, and connect it."""
    if page.jobs is None:
        gr.HTML(OFF, padding=False)
        return
    admission = page.admission
    reviews = SharedReviews(
        admission.store, admission.settings.models, page.jobs.device, admission.settings.max_characters
    )
    names = _models(page)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4):
            table = table_upload.build(page, tab, NAME)
            with gr.Row():
                text = gr.Dropdown([], label="Text column", elem_id="review-text")
                model = gr.Dropdown(names, value=next(iter(names), None), label="Model", elem_id="review-model")
            with gr.Row():
                reviewer = gr.Textbox(
                    label="Your name", info="Stored with each answer.", max_lines=1, elem_id="review-reviewer"
                )
                rows = gr.Number(
                    ROWS, label="Rows to answer", info="By all reviewers.", precision=0, elem_id="review-rows"
                )
            with gr.Accordion("How rows are chosen", open=False, elem_id="review-how"):
                strategy = gr.Dropdown(list(STRATEGIES), value="auto", label="Strategy", elem_id="review-strategy")
                label = gr.Dropdown(
                    [], label="Label column", info="To check labels: strategy label_errors.", elem_id="review-label"
                )
                teacher = gr.Dropdown(
                    [None, *page.names()], value=None, label="Teacher", info="For the strategy disagreement.",
                    elem_id="review-teacher",
                )  # fmt: skip
            start = gr.Button("Start", variant="primary", elem_id="review-start")
            begun = gr.HTML(review_view.NOT_BEGUN, padding=False, elem_id="review-begun")
        with gr.Column(scale=6, visible=False, elem_id="review-area", elem_classes="rehead-answer") as area:
            question = gr.HTML(padding=False, elem_id="review-question")
            row = gr.Textbox(visible=False, elem_id="review-row")
            with gr.Column(elem_classes="rehead-labels"):
                labels = [
                    gr.Button(visible=False, size="md", elem_id=f"review-label-{number}")
                    for number in range(1, OPTIONS + 1)
                ]
            with gr.Row():
                none = gr.Button("n   None of these", size="sm", min_width=110, elem_id="review-none")
                skip = gr.Button("s   Skip", size="sm", min_width=90, elem_id="review-skip")
                undo = gr.Button("u   Undo", size="sm", min_width=90, elem_id="review-undo")
            other = gr.Textbox(
                label="Another label, or a new one",
                info="The beginning is enough; press Enter. A new label is added when you enter it twice.",
                max_lines=1,
                elem_id="review-other",
            )
            gr.HTML(HINT, padding=False)
            measured = gr.HTML(padding=False, elem_id="review-measures")
            axes = dict(zip(("x", "y", "color"), review_view.CURVE, strict=True))
            curve = gr.LinePlot(
                review_view.frame([]),
                **axes,
                title="Accuracy on held-out answers",
                x_title="answers trained on",
                y_title="accuracy",
                y_lim=[0, 1],
                height=240,
                visible=False,
                elem_id="review-curve",
            )
    problem = gr.HTML(visible=False, padding=False, elem_id="review-problem")
    with gr.Row(visible=False, equal_height=False) as results:
        name = gr.Textbox(label="Save the retrained model as", max_lines=1, elem_id="review-name")
        save = gr.Button("Save model", size="sm", elem_id="review-save")
        files = gr.Button("Make files to download", size="sm", elem_id="review-files")
    saved = gr.HTML(visible=False, padding=False, elem_id="review-saved")
    with gr.Row():
        answers = gr.DownloadButton("Answers", visible=False, elem_id="review-answers")
        labeled = gr.DownloadButton("Labeled table", visible=False, elem_id="review-labeled")
    state, entered = gr.State(None), gr.State(None)
    timer = gr.Timer(REFRESH_S, active=False)
    parts = _Components(state, row, area, question, labels, other, measured, curve, timer, problem)

    texts, label_names = table_upload.wanted_columns()
    table_upload.connect(page, table, [text, label], (texts, label_names))
    chosen = [*table.inputs, text, label, model, teacher, strategy, reviewer, rows, table.sheet]
    begin = reporting(_starting(page, reviews), admission.telemetry, otherwise=[SAME] * (len(parts.outputs) + 5))
    outputs = [state, area, results, timer, begun, *parts.outputs, problem]
    event = start.click(begin, [page.token_field, *chosen], outputs, api_name=False)
    event.then(None, None, None, js=review_view.ANNOUNCE, api_name=False)
    start.click(None, js=scroll_to("review-area"))
    _connect_answers(page, reviews, parts, (none, skip, undo), entered)
    _connect_results(page, reviews, parts, (name, save, saved), (files, answers, labeled))
    page.blocks.load(None, None, None, js=review_view.KEYBOARD, api_name=False)

    def program(language: str, address: str, model: str | None) -> str:
        return snippets.of_model(page, language, address, model or "reviews", EXAMPLE_TEXT, ())

    snippets.build(NAME, [model], program)
    links.build(page.blocks, NAME, {"model": model, "strategy": strategy, "rows": rows})
    tab.select(
        lambda: [gr.update(choices=_models(page)), gr.update(choices=[None, *page.names()])],
        None,
        [model, teacher],
        api_name=False,
        show_progress="hidden",
    )


def _models(page: Page) -> list[str]:
    """Return the served models that can be reviewed: those with one label a text."""
    return page.names(lambda folder: not folder.is_zero_shot and folder.labels.task in ("binary", "multiclass"))


def _connect_answers(
    page: Page, reviews: SharedReviews, parts: _Components, buttons: Sequence[gr.Button], entered: gr.State
) -> None:
    telemetry, count = page.admission.telemetry, len(parts.outputs)
    inputs, outputs = [page.token_field, parts.state, parts.row], [*parts.outputs, parts.problem]

    def connect(button: gr.Button, act: Callable[..., str]) -> None:
        handler = reporting(_answering(page, reviews, act), telemetry, otherwise=[SAME] * count)
        button.click(handler, inputs, outputs, api_name=False, show_progress="hidden")

    for number, button in enumerate(parts.labels):
        connect(button, partial(actions.answer_by_number, number=number))
    for button, act in zip(buttons, (actions.answer_none, actions.skip, actions.undo), strict=True):
        connect(button, act)

    async def typed(token: str, state: Any, row: str, text: str, before: str | None) -> list[Any]:
        page.check(token)
        label = await page.admission.background(actions.typed_label, reviews, state, text, before)
        return [
            *await _answering(page, reviews, partial(actions.answer_with, label=label))(token, state, row),
            "",
            None,
        ]

    handler = reporting(typed, telemetry, otherwise=[SAME] * (count + 2))
    event = parts.other.submit(
        handler,
        [*inputs, parts.other, entered],
        [*parts.outputs, parts.other, entered, parts.problem],
        api_name=False,
        show_progress="hidden",
    )
    event.then(lambda text: text or None, [parts.other], [entered], api_name=False, show_progress="hidden")
    event.success(None, [parts.other], None, js=f"(text) => {{ if (!text) ({review_view.LEAVE})(); }}", api_name=False)

    async def refreshed(state: Any) -> list[Any]:
        if state is None:
            return [SAME, SAME]
        try:
            return await page.admission.background(actions.measured, reviews.get(state["key"]))
        except (ServiceError, FinetuneError):
            return [SAME, SAME]

    refresh = [parts.measures, parts.curve]
    parts.timer.tick(refreshed, [parts.state], refresh, api_name=False, show_progress="hidden")


def _connect_results(
    page: Page, reviews: SharedReviews, parts: _Components, saving: Sequence[Any], files: Sequence[Any]
) -> None:
    name, save, saved = saving
    make, answers, labeled = files

    async def publish(token: str, state: Any, name: str) -> list[Any]:
        page.check(token)
        name = (name or "").strip()
        await page.admission.background(reviews.publish, actions.key_of(state), name)
        note = f'<div class="rehead-note" role="status">{name} is ready to use in the other tabs.</div>'
        return [gr.update(value=note, visible=True)]

    async def written(token: str, state: Any) -> list[Any]:
        page.check(token)
        return list(await page.admission.background(actions.written_files, page, reviews.get(actions.key_of(state))))

    telemetry = page.admission.telemetry
    save.click(
        reporting(publish, telemetry, otherwise=[HIDDEN]),
        [page.token_field, parts.state, name],
        [saved, parts.problem],
        api_name=False,
    )
    make.click(
        reporting(written, telemetry, otherwise=[SAME, SAME]),
        [page.token_field, parts.state],
        [answers, labeled, parts.problem],
        api_name=False,
    )


def _starting(page: Page, reviews: SharedReviews) -> Any:
    async def start(
        token: str,
        upload: str | None,
        offered: str | None,
        text: str | None,
        label: str | None,
        model: str | None,
        teacher: str | None,
        strategy: str,
        reviewer: str | None,
        rows: float | None,
        sheet: str | None,
    ) -> list[Any]:
        page.check(token)
        name = checked_reviewer(reviewer)
        table = table_upload.path_of(page, upload, offered if offered in table_upload.offered(page) else None)
        if table is None:
            raise BadRequest("there is no table yet: upload one")
        if not text:
            raise BadRequest("select the text column")
        checking = strategy == CHECKING
        if checking and not label:
            raise BadRequest("select the label column, whose labels are checked")
        plan = Plan(str(strategy), int(rows or 0), 0.0 if checking else Plan.held_out)
        options = table_upload.options_of(sheet=sheet)
        request = Request(
            table,
            (table_upload.column_of(table, text, options),),
            options,
            None if checking else model,
            plan,
            table_upload.column_of(table, str(label), options) if checking else None,
            teacher if strategy == "disagreement" else None,
        )
        try:
            with page.admission.table():
                key = await page.admission.background(reviews.begin, request)
            shown = await page.admission.background(actions.show_next, reviews.get(key), name)
        except (FinetuneError, ServiceError) as error:
            raise BadRequest(table_upload.without_place(str(error), table)) from error
        visible = gr.update(visible=True)
        return [{"key": key, "reviewer": name}, visible, visible, gr.update(active=True), "", *shown]

    return start


def _answering(page: Page, reviews: SharedReviews, act: Callable[..., str]) -> Any:
    async def answer(token: str, state: Any, row: str) -> list[Any]:
        page.check(token)
        review = reviews.get(actions.key_of(state))

        def answered() -> list[Any]:
            return actions.show_next(review, state["reviewer"], act(review, state["reviewer"], row))

        shown: list[Any] = await page.admission.background(answered)
        return shown

    return answer
