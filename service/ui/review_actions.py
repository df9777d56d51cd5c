"""What the Review tab does with a review: the next row, an answer, the files to download."""

from __future__ import annotations

from typing import Any

import gradio as gr

from service.errors import BadRequest
from service.review.review import CHECKING, Review, write_labeled
from service.review.shared import SharedReviews
from service.review.typed_names import matching_labels
from service.ui import review_view, upload_folder
from service.ui.results import HIDDEN
from service.ui.tab import Page

MATCHES_SHOWN = 8
"""Labels that are listed where several fit what was typed."""


def show_next(review: Review, reviewer: str, notice: str = "") -> list[Any]:
    """Return updates that show the next row of a reviewer, and the measures."""
    question = review.session.next(reviewer)
    return [*review_view.question(review, question, notice), *measured(review)]


def measured(review: Review) -> list[Any]:
    """Return updates of the measures; a retraining that is due is started."""
    if review.retraining is not None:
        review.retraining.poll()
    return review_view.progress(review)


def answer_by_number(review: Review, reviewer: str, row: str, *, number: int) -> str:
    """Answer with a label that has a key, counted from 0, and return a notice."""
    options = review.session.question(reviewer, row).options
    if number >= len(options):
        raise BadRequest("this row has no such label: press another key")
    return answer_with(review, reviewer, row, label=options[number][0])


def answer_with(review: Review, reviewer: str, row: str, *, label: str) -> str:
    """Answer with a label, also a new one, and return a notice; empty where the row was answered before."""
    if not review.session.answer(reviewer, row, "label", label, new=True):
        return ""
    return f"Last answer: {label}"


def answer_none(review: Review, reviewer: str, row: str) -> str:
    """Answer that no label fits, and return a notice."""
    return "Last answer: none of these" if review.session.answer(reviewer, row, "none_of_these") else ""


def skip(review: Review, reviewer: str, row: str) -> str:
    """Leave a row to other reviewers, and return a notice."""
    return "Skipped" if review.session.answer(reviewer, row, "skip") else ""


def undo(review: Review, reviewer: str, row: str) -> str:
    """Take back the last answer, whatever row is shown, and return a notice."""
    return "Undone" if review.session.undo(reviewer) is not None else "There is nothing to undo"


def typed_label(reviews: SharedReviews, state: Any, text: str, before: str | None) -> str:
    """Return the label that a reviewer typed.

    Raises:
        BadRequest: none was typed, several fit, or none fits and it was entered for the first time.
    """
    typed = " ".join((text or "").split())
    if not typed:
        raise BadRequest("type a label first")
    matches = matching_labels(typed, reviews.get(key_of(state)).session.labels)
    if len(matches) > 1:
        more = f" and {len(matches) - MATCHES_SHOWN} more" if len(matches) > MATCHES_SHOWN else ""
        raise BadRequest(f"{typed!r} fits {', '.join(matches[:MATCHES_SHOWN])}{more}: type more of it")
    if not matches and " ".join((before or "").split()) != typed:
        raise BadRequest(f"there is no label {typed!r}: press Enter again to add it as a new one")
    return matches[0] if matches else typed


def key_of(state: Any) -> str | None:
    """Return the key of the review that a browser has begun, None for none."""
    return state["key"] if isinstance(state, dict) else None


def written_files(page: Page, review: Review) -> list[Any]:
    """Return updates of the two download buttons, with copies of the files."""
    file = review.session.answers.file
    page.admission.check_storage(upload_folder.clean_up() + 2 * file.stat().st_size, files=0)
    folder = upload_folder.new_folder()
    answers, labeled = folder / file.name, folder / "labeled.csv"
    answers.write_bytes(file.read_bytes())
    update = gr.update(value=str(answers), visible=True)
    checked = review.session.table if review.session.plan.strategy == CHECKING else None
    try:
        write_labeled(labeled, review.session.answers, checked)
    except BadRequest:
        return [update, HIDDEN]  # there is no label to train on yet
    return [update, gr.update(value=str(labeled), visible=True)]
