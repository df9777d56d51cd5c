"""A review as HTML and as updates of components."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from service.review import measures
from service.review.review import CHECKING, Review, corrections
from service.review.session import OPTIONS, Question

KEYS = "123456789"
CURVE = ("answers", "accuracy", "line")
LETTERS_SHOWN = 20_000
"""Characters of a text that are shown."""

DONE = '<div class="rehead-note" role="status">No row is left to answer. Raise the number of rows to go on.</div>'
NOT_BEGUN = '<div class="rehead-note">Upload a table of texts, enter your name, and press Start.</div>'


def question(review: Review, row: Question | None, notice: str = "") -> list[Any]:
    """Return updates of the row in front of a reviewer: its HTML, its key, and the buttons of its labels.

    Args:
        notice: what became of the last answer.
    """
    note = f'<div class="rehead-note">{escape(notice)}</div>' if notice else ""
    if row is None:
        return [f"{note}{DONE}", "", *[gr.update(visible=False)] * OPTIONS]
    text = row.text if len(row.text) <= LETTERS_SHOWN else f"{row.text[:LETTERS_SHOWN]} ..."
    parts = [f"row {row.number:,}"]
    if row.held_out:
        parts.append("held out: this answer measures, and is not trained on")
    if row.given is not None:
        parts.append(f"label in the table: {row.given}")
    about = f'<div class="rehead-note">{escape(" · ".join(parts))}</div>'
    shown = f'{note}{about}<blockquote class="rehead-question">{escape(text)}</blockquote>'
    buttons = [
        gr.update(value=_button(key, *option), visible=True) for key, option in zip(KEYS, row.options, strict=False)
    ]
    return [shown, row.row, *buttons, *[gr.update(visible=False)] * (OPTIONS - len(buttons))]


def _button(key: str, label: str, score: float | None) -> str:
    return f"{key}   {label}" + ("" if score is None else f"   {score:.2f}")


def progress(review: Review) -> list[Any]:
    """Return updates of the measures of a review: its HTML, and the plot of the held-out curve."""
    session = review.session
    answers, plan = session.answers.current(), session.plan
    counts, points = measures.counts(answers), review.points
    figures = ", ".join(
        f"{counts[key]} {key.replace('_', ' ')}"
        for key in ("to_train_on", "held_out", "none_of_these", "disagreed", "skipped")
        if counts[key]
    )
    bar = (
        f'<div class="rehead-run"><progress max="{plan.rows}" value="{min(plan.rows, counts["answered"])}" '
        f'aria-label="Rows answered"></progress> {counts["answered"]} of {plan.rows} rows answered</div>'
    )
    sentences = [f"Strategy {plan.strategy}. {figures}".strip()]
    if plan.strategy == CHECKING:
        confirmed, changed = corrections(session.table, session.answers)
        sentences.append(f"Labels of the table: {confirmed} confirmed, {changed} changed.")
    sentences += [f"{measures.sentence_of(pair)}." for pair in measures.agreements(answers)]
    retraining = review.retraining
    if retraining is not None:
        sentences.append(measures.advice(points))
        if retraining.is_running:
            sentences.append("The model is being retrained on the answers ...")
        elif retraining.rounds() and (trained := retraining.rounds()[-1].answers):
            sentences.append(f"The labels shown are those of the model retrained on {trained} answers.")
    notes = "".join(f'<div class="rehead-note">{escape(sentence)}</div>' for sentence in sentences)
    if retraining is not None and retraining.problem:
        notes += f'<div class="rehead-warning">{escape(_without_folders(retraining.problem))}</div>'
    rows = [
        (point.answers, value, line)
        for line in ("accuracy", "95% interval, low", "95% interval, high")
        for point in points
        for value in [{"accuracy": point.accuracy, "95% interval, low": point.low}.get(line, point.high)]
    ]
    return [bar + notes, gr.update(value=frame(rows), visible=len(points) > 1)]


def frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Return rows as the data frame of the plot."""
    return pd.DataFrame(rows, columns=list(CURVE))


def _without_folders(problem: str) -> str:
    """Return a problem without the path of a log on the server, which visitors need not know."""
    return problem.partition("; see /")[0]


KEYBOARD = """() => {
    const pressed = event => {
        const area = document.getElementById("review-question");
        if (!area || area.offsetParent === null || event.ctrlKey || event.metaKey || event.altKey) return;
        const field = document.activeElement?.closest?.("input, textarea, select, [contenteditable=true]");
        if (event.key === "Escape" && field) { field.blur(); return; }
        if (field) return;
        const key = event.key.toLowerCase();
        const names = {n: "review-none", s: "review-skip", u: "review-undo"};
        if (key === "/") {
            event.preventDefault();
            document.querySelector("#review-other input, #review-other textarea")?.focus();
            return;
        }
        const id = /^[1-9]$/.test(key) ? `review-label-${key}` : names[key];
        const button = id && document.getElementById(id);
        if (!button || button.offsetParent === null || event.repeat) return;
        event.preventDefault();
        button.click();
    };
    document.addEventListener("keydown", pressed);
}"""
"""JavaScript for the page: the keys of the Review tab press its buttons, except while a field has the focus."""

ANNOUNCE = """() => {
    document.getElementById("review-question")?.setAttribute("aria-live", "polite");
    document.activeElement?.blur?.();
}"""
"""JavaScript: a screen reader reads each new text, and the keys work at once."""

LEAVE = """() => document.querySelector("#review-other input, #review-other textarea")?.blur()"""
