"""Feedback on an answer: thumbs, and the right label where an answer was wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from service.errors import BadRequest
from service.server.feedback import Feedback
from service.ui.results import SAME, reporting
from service.ui.tab import Page


class GivenAnswer(NamedTuple):
    """An answer that may be corrected.

    Attributes:
        labels: the labels to choose from.
        held: the predicted labels of a model that may predict several; None for other models.
    """

    text: str
    model: str
    labels: list[str]
    predicted: str
    score: float
    held: list[str] | None


def build(page: Page, tab: str) -> gr.State | None:
    """Add the buttons and return the state that holds a `GivenAnswer` as a list; None where feedback is off."""
    store = page.feedback
    if store is None:
        return None
    state = gr.State(None)
    with gr.Row(visible=False, elem_id=f"{tab}-corrections") as row:
        gr.HTML('<div class="rehead-note">Is this right?</div>', padding=False)
        right = gr.Button("👍 Yes", size="sm", scale=0, min_width=90, elem_id=f"{tab}-right")
        wrong = gr.Button("👎 No", size="sm", scale=0, min_width=90, elem_id=f"{tab}-wrong")
    with gr.Row(visible=False, equal_height=True) as correction:
        label = gr.Dropdown([], label="Correct label", elem_id=f"{tab}-correct-label")
        save = gr.Button("Save", scale=0, min_width=90, elem_id=f"{tab}-keep")
    status = gr.HTML(visible=False, padding=False, elem_id=f"{tab}-kept")
    problem = gr.HTML(visible=False, padding=False)

    def shown(values: list[Any] | None) -> list[Any]:
        return [gr.update(visible=values is not None), gr.update(visible=False), gr.update(visible=False)]

    def offered(values: list[Any] | None) -> list[Any]:
        if values is None:
            return [gr.skip(), gr.skip()]
        answer = GivenAnswer(*values)
        several = answer.held is not None
        return [gr.update(visible=True), gr.update(choices=answer.labels, multiselect=several, value=answer.held)]

    async def agree(token: str, values: list[Any] | None) -> list[Any]:
        page.check(token)
        answer = _answer(values)
        if answer.held == []:
            raise BadRequest("no label was predicted: press No, and select the correct ones")
        return _saved(store, answer, answer.held or answer.predicted)

    async def correct(token: str, values: list[Any] | None, label: Any) -> list[Any]:
        page.check(token)
        answer = _answer(values)
        names = label if isinstance(label, list) else [label]
        if not names or not all(name in answer.labels for name in names):
            raise BadRequest("select the correct label first")
        return _saved(store, answer, label)

    outputs: list[Any] = [status, row, correction]
    state.change(shown, [state], [row, correction, status], api_name=False, show_progress="hidden")
    wrong.click(offered, [state], [correction, label], api_name=False, show_progress="hidden")
    for event, act, inputs in (
        (right.click, agree, [page.token_field, state]),
        (save.click, correct, [page.token_field, state, label]),
    ):
        handler: Callable[..., Any] = reporting(act, page.admission.telemetry, otherwise=[SAME] * 3)
        event(handler, inputs, [*outputs, problem], api_name=False)
    return state


def _answer(values: list[Any] | None) -> GivenAnswer:
    if values is None:
        raise BadRequest("there is no answer yet")
    return GivenAnswer(*values)


def _saved(store: Feedback, answer: GivenAnswer, label: Any) -> list[Any]:
    count = store.add(answer.text, label, model=answer.model, predicted=answer.predicted, score=answer.score)
    note = f'<div class="rehead-note" role="status">Saved. The file holds {count} corrections.</div>'
    return [gr.update(value=note, visible=True), gr.update(visible=False), gr.update(visible=False)]
