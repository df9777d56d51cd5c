"""The terminal of `rehead review`: one row at a time, answered by keys."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress

import click

from service.errors import ServiceError
from service.review import measures
from service.review.retraining import Retraining
from service.review.review import Review
from service.review.session import Question
from service.review.typed_names import matching_labels

KEYS = "123456789"
HELP = "1-9 label   / type a label   n none of these   s skip   u undo   q quit"
SHOWN = 12
"""Labels that are listed where several fit what was typed."""


class Quit(Exception):
    """The reviewer has had enough."""


def ask(review: Review, reviewer: str) -> int:
    """Ask a reviewer until no row is left or they quit; return the number of answers given.

    Every answer is on disk before the next row is shown.
    """
    answered, notice = 0, ""
    models = 0 if review.retraining is None else len(review.retraining.rounds())
    try:
        while True:
            if review.retraining is not None:
                review.retraining.poll()
                notice = notice or review.retraining.problem
                if not notice:
                    notice = _retrained(review.retraining, models)
                    models = len(review.retraining.rounds())
            question = review.session.next(reviewer)
            if question is None:
                click.echo("No row is left to answer.")
                break
            _show(review, question, notice)
            notice, change = _answer(review, reviewer, question)
            answered += change
    except (Quit, KeyboardInterrupt, EOFError):
        click.echo()
    if review.retraining is not None:
        review.retraining.poll()
        if review.retraining.is_running:
            click.echo("The model is being retrained; Ctrl-C leaves it for the next time.")
            with suppress(KeyboardInterrupt):
                review.retraining.wait()
        if sentence := _retrained(review.retraining, models):
            click.echo(sentence)
    return answered


def _retrained(retraining: Retraining, known: int) -> str:
    """Return a sentence about the latest model where there are more models than the known ones, else nothing."""
    rounds = retraining.rounds()
    return f"retrained on {rounds[-1].answers} answers: {retraining.published}" if len(rounds) > known else ""


def _show(review: Review, question: Question, notice: str) -> None:
    _drop_typed_ahead()
    width = min(100, shutil.get_terminal_size().columns)
    counts = measures.counts(review.session.answers.current())
    busy = ", retraining" if review.retraining is not None and review.retraining.is_running else ""
    click.echo("-" * width)
    if notice:
        click.secho(notice, fg="yellow")
    measuring = " (held out: it measures, and is not trained on)" if question.held_out else ""
    click.echo(f"{counts['answered']} of {review.session.plan.rows} answered{busy}; row {question.number}{measuring}")
    click.echo()
    for line in question.text.splitlines() or [""]:
        click.secho(textwrap.fill(_printable(line), width - 4, initial_indent="  ", subsequent_indent="  "), bold=True)
    click.echo()
    if question.given is not None:
        click.echo(f"  label in the table: {question.given}")
    for key, (label, score) in zip(KEYS, question.options, strict=False):
        shown = "" if score is None else f"  {score:.3f}"
        click.echo(f"  {click.style(key, fg='cyan')}  {label}{shown}")
    click.echo(f"  {HELP}")


def _answer(review: Review, reviewer: str, question: Question) -> tuple[str, int]:
    """Return a notice and the change in the number of answers, for the key that the reviewer presses."""
    session = review.session
    while True:
        key = click.getchar()
        if len(key) != 1:  # several keys at once, or one such as an arrow
            click.echo(f"  {HELP}")
            continue
        if key in ("q", "Q", "\x03", "\x04"):
            raise Quit
        if key in KEYS and KEYS.index(key) < len(question.options):
            label = question.options[KEYS.index(key)][0]
            session.answer(reviewer, question.row, "label", label)
            return label, 1
        if key in ("n", "N"):
            session.answer(reviewer, question.row, "none_of_these")
            return measures.NONE, 1
        if key in ("s", "S"):
            session.answer(reviewer, question.row, "skip")
            return "skipped", 0
        if key in ("u", "U"):
            before = session.answers.last_of(reviewer)
            if session.undo(reviewer) is None:
                return "there is nothing to undo", 0
            return "undone", -1 if before is not None and before.action != "skip" else 0
        if key == "/":
            typed, notice = _typed(session.labels, click.prompt)
            if typed is None:
                return notice, 0
            try:
                session.answer(reviewer, question.row, "label", typed, new=True)
            except ServiceError as error:
                return str(error), 0
            return typed, 1
        click.echo(f"  {HELP}")


def _typed(labels: tuple[str, ...], prompt: Callable[..., str]) -> tuple[str | None, str]:
    """Return the label that the reviewer types, or None and a notice."""
    typed = prompt("  label", default="", show_default=False).strip()
    if not typed:
        return None, "no label was typed"
    matches = matching_labels(typed, labels)
    if len(matches) == 1:
        return matches[0], ""
    if matches:
        more = f" and {len(matches) - SHOWN} more" if len(matches) > SHOWN else ""
        return None, f"{typed!r} fits {', '.join(matches[:SHOWN])}{more}: type more of it"
    click.echo(f"  {typed!r} is a new label: press y to add it, any other key to go back")
    return (typed, "") if click.getchar() in ("y", "Y") else (None, "no label was added")


def _drop_typed_ahead() -> None:
    """Drop keys that were pressed before a row is shown: they were not meant for it."""
    with suppress(ImportError, OSError, ValueError):
        import termios

        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def _printable(line: str) -> str:
    """Return a line of a table without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "\N{REPLACEMENT CHARACTER}" for letter in line)
