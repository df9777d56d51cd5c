"""Thumbs, and the right label where an answer was wrong.

Knows: the buttons, when they appear.
Does not know: any tab, where corrections are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from service.errors import BadRequest
from service.server.feedback import Feedback
from service.ui.results import SAME, guarded
from service.ui.tab import Page


class GivenAnswer(NamedTuple):
    """An answer that may be corrected: `labels` are those to choose from; where several may hold, `held` are those that
    the model says do, else it is None."""

    text: str
    model: str
    labels: list[str]
    predicted: str
    score: float
    held: list[str] | None


def build(page: Page, tab: str) -> gr.State | None:
    """The row of buttons; its state holds a `GivenAnswer` as a list, or None. None where corrections are off."""
    kept = page.feedback
    if kept is None:
        return None
    given = gr.State(None)
    with gr.Row(visible=False, elem_id=f"{tab}-corrections") as row:
        gr.HTML('<div class="rehead-note">Is this right?</div>', padding=False)
        right = gr.Button("👍 Yes", size="sm", scale=0, min_width=90, elem_id=f"{tab}-right")
        wrong = gr.Button("👎 No", size="sm", scale=0, min_width=90, elem_id=f"{tab}-wrong")
    with gr.Row(visible=False, equal_height=True) as choice:
        label = gr.Dropdown([], label="The right label", elem_id=f"{tab}-correct-label")
        keep = gr.Button("Keep", scale=0, min_width=90, elem_id=f"{tab}-keep")
    said = gr.HTML(visible=False, padding=False, elem_id=f"{tab}-kept")
    problem = gr.HTML(visible=False, padding=False)

    def shown(one: list[Any] | None) -> list[Any]:
        return [gr.update(visible=one is not None), gr.update(visible=False), gr.update(visible=False)]

    def offered(one: list[Any] | None) -> list[Any]:
        if one is None:
            return [gr.skip(), gr.skip()]
        found = GivenAnswer(*one)
        several = found.held is not None
        return [gr.update(visible=True), gr.update(choices=found.labels, multiselect=several, value=found.held)]

    async def agree(token: str, one: list[Any] | None) -> list[Any]:
        page.check(token)
        found = _asked(one)
        if found.held == []:
            raise BadRequest("no label holds here: press No, and say which do")
        return _kept(kept, found, found.held or found.predicted)

    async def correct(token: str, one: list[Any] | None, label: Any) -> list[Any]:
        page.check(token)
        found = _asked(one)
        chosen = label if isinstance(label, list) else [label]
        if not chosen or not all(name in found.labels for name in chosen):
            raise BadRequest("choose the right label first")
        return _kept(kept, found, label)

    outputs: list[Any] = [said, row, choice]
    given.change(shown, [given], [row, choice, said], api_name=False, show_progress="hidden")
    wrong.click(offered, [given], [choice, label], api_name=False, show_progress="hidden")
    for event, act, inputs in (
        (right.click, agree, [page.asked, given]),
        (keep.click, correct, [page.asked, given, label]),
    ):
        handler: Callable[..., Any] = guarded(act, page.desk.telemetry, otherwise=[SAME] * 3)
        event(handler, inputs, [*outputs, problem], api_name=False)
    return given


def _asked(one: list[Any] | None) -> GivenAnswer:
    if one is None:
        raise BadRequest("there is no answer yet")
    return GivenAnswer(*one)


def _kept(kept: Feedback, given: GivenAnswer, label: Any) -> list[Any]:
    many = kept.keep(given.text, label, model=given.model, predicted=given.predicted, score=given.score)
    told = f'<div class="rehead-note" role="status">Kept, with {many - 1} others. Thank you.</div>'
    return [gr.update(value=told, visible=True), gr.update(visible=False), gr.update(visible=False)]
