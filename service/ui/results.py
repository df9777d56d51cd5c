"""How an answer, or a problem, appears on the page.

Knows: bars, words that decided, the red sentence, what is said of a model.
Does not know: any tab.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from html import escape
from typing import Any, TypeVar

import gradio as gr

from finetune.core.errors import FinetuneError
from finetune.core.model_folder import ModelFolder
from finetune.core.number_format import figure
from service.errors import ServiceError
from service.inference.engine import Engine
from service.inference.model_store import ModelStore, describe
from service.schema import Answer
from service.server.explain import Word
from service.server.telemetry import Telemetry

T = TypeVar("T")

SAME = gr.skip()
HIDDEN = gr.update(value=None, visible=False)
NO_SCORES = '<div class="rehead-note">The scores appear here.</div>'


def about(store: ModelStore[Engine], name: str | None) -> str:
    """One line about a model, as HTML."""
    if not name:
        return '<div class="rehead-about">No model of this kind is served.</div>'
    entry = describe(name, store.folder(name))
    labels = "any labels that you name" if entry["task"] == "zero-shot" else ", ".join(entry["labels"][:12])
    parts = [labels, f"from {entry['base']}", f"{entry['size_bytes'] / 1e6:.0f} MB"]
    if entry["metric"]:
        parts.append(f"{entry['metric']['name']} {figure(entry['metric']['value'])}")
    return f'<div class="rehead-about">{escape(" · ".join(parts))}</div>'


def report_of(store: ModelStore[Engine], name: str | None) -> tuple[str, list[tuple[Any, str]]]:
    """A model's figures as an HTML table, and its pictures with their captions."""
    folder = store.folder(name) if name else None
    if folder is None or not (folder.metrics or {}).get("metrics"):
        return '<div class="rehead-note">This model\'s folder holds no report.</div>', []
    metrics: Mapping[str, Any] = folder.metrics or {}
    others = [(title, metrics.get(key) or {}) for title, key in (("baseline", "baseline"), ("TF-IDF", "tfidf"))]
    others = [(title, values) for title, values in others if values]
    head = "".join(f"<th>{escape(title)}</th>" for title in ("", "value", "95% interval", *(t for t, _ in others)))
    rows = [
        [
            metric.replace("_", " "),
            figure(entry["value"]),
            f"{figure(entry['low'])} to {figure(entry['high'])}" if "low" in entry else "",
            *(figure(values[metric]) if metric in values else "" for _, values in others),
        ]
        for metric, entry in metrics["metrics"].items()
    ]
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    words = f"On {metrics['rows']} rows that were set aside from training."
    table = f'<table class="rehead-report"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="rehead-wide">{table}</div><div class="rehead-note">{words}</div>', _pictures(folder)


def _pictures(folder: ModelFolder) -> list[tuple[Any, str]]:
    from PIL import Image

    found = []
    for file in folder.report_figures:
        try:
            with Image.open(file) as picture:
                found.append((picture.copy(), file.stem.replace("_", " ")))
        except OSError:
            continue  # a damaged picture is no reason to hide the others
    return found


def guarded(
    act: Callable[..., Coroutine[Any, Any, Sequence[Any]]],
    telemetry: Telemetry,
    *,
    otherwise: Sequence[Any],
) -> Callable[..., Coroutine[Any, Any, list[Any]]]:
    """The handler `act` with a sentence after its outputs: empty, or what was wrong, behind `otherwise`."""

    async def handler(*arguments: Any) -> list[Any]:
        try:
            return [*await act(*arguments), HIDDEN]
        except Exception as error:
            return [*otherwise, problem(error, telemetry)]

    return handler


def streamed(
    act: Callable[..., AsyncIterator[Sequence[Any]]], telemetry: Telemetry, *, otherwise: Sequence[Any]
) -> Callable[..., AsyncIterator[list[Any]]]:
    """As `guarded`, for a handler that shows how far it is."""

    async def handler(*arguments: Any) -> AsyncIterator[list[Any]]:
        try:
            async for shown in act(*arguments):
                yield [*shown, HIDDEN]
        except Exception as error:
            yield [*otherwise, problem(error, telemetry)]

    return handler


def problem(error: Exception, telemetry: Telemetry) -> Any:
    """What was wrong, as an update of the red sentence; what is our fault goes to the log."""
    said = str(error)
    if not isinstance(error, ServiceError | FinetuneError):
        telemetry.crash("page", error)
        said = "the server failed; its log says more"
    sentence = said[:1].upper() + said[1:] if said.split(" ")[0].isalpha() else said  # a file's name stays
    return gr.update(value=f'<div class="rehead-problem" role="alert">{escape(sentence)}</div>', visible=True)


def as_tool(act: Callable[..., Coroutine[Any, Any, T]], telemetry: Telemetry) -> Callable[..., Coroutine[Any, Any, T]]:
    """The function `act` for callers who are programs: what is wrong is told as gradio tells it."""

    @functools.wraps(act)
    async def tool(*arguments: Any, **named: Any) -> T:
        try:
            return await act(*arguments, **named)
        except (ServiceError, FinetuneError) as error:
            raise gr.Error(str(error), print_exception=False) from error  # a traceback would hold what was sent
        except Exception as error:
            telemetry.crash("page", error)
            raise gr.Error("the server failed; its log says more", print_exception=False) from None

    return tool


def bars(answer: Answer, *, number: bool = False) -> Any:
    """An answer as an update of a `gr.Label`: scores by label, or the plain number of a regression."""
    scores = {one.label: one.score for one in answer.predictions}
    return gr.update(value=f"{answer.best.score:.6g}" if number else scores, visible=True)


def note(answer: Answer) -> Any:
    """What there is to say about an answer, as an update of the HTML below it."""
    sentence = '<div class="rehead-note">The text is longer than the model reads; its end was cut off.</div>'
    return gr.update(value=sentence if answer.truncated else "", visible=answer.truncated)


def decided(text: str, label: str, score: float, words: Sequence[Word]) -> str:
    """A text as HTML, its words shaded by what they add to the label's score; in words, too: colours tell little."""
    if not words:
        return ""
    most = max(abs(word.weight) for word in words) or 1.0
    parts, at = [], 0
    for word in words:
        share, side = abs(word.weight) / most, "for" if word.weight >= 0 else "against"
        told = f"without it, {label} has {word.without:.3f}"
        parts.append(escape(text[at : word.begin]))
        shown = escape(text[word.begin : word.end])
        parts.append(
            f'<span class="rehead-word rehead-{side}" style="--share:{share:.2f}" title="{escape(told)}">{shown}</span>'
        )
        at = word.end
    rest = escape(text[at:])
    lists = "".join(
        _strongest(title, text, sorted(some, key=lambda word: -abs(word.weight))[:5])
        for title, some in (
            (f"For {label}", [word for word in words if word.weight > 0]),
            ("Against it", [word for word in words if word.weight < 0]),
        )
    )
    explained = (
        f"What {escape(label)} ({score:.3f}) rests on: each word was left out in turn. "
        "Shaded words speak for it, underlined ones against it."
    )
    return f'<div class="rehead-words">{"".join(parts)}{rest}</div><div class="rehead-note">{explained}</div>{lists}'


def _strongest(title: str, text: str, words: Sequence[Word]) -> str:
    if not words:
        return ""
    told = ", ".join(f"<b>{escape(text[word.begin : word.end])}</b> ({word.without:.3f} without it)" for word in words)
    return f'<div class="rehead-note">{escape(title)}: {told}</div>'
