"""Answers, errors and model descriptions as HTML and component updates."""

from __future__ import annotations

import functools
import itertools
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
from service.schema import NONE_OF_THESE, Answer
from service.server.explain import Word
from service.server.telemetry import Telemetry

T = TypeVar("T")

SAME = gr.skip()
HIDDEN = gr.update(value=None, visible=False)
NUMBERS = itertools.count()
INTERNAL_ERROR = "internal server error; see the server's log"
NO_SCORES = '<div class="rehead-note">Scores appear here.</div>'


def about(store: ModelStore[Engine], name: str | None) -> str:
    """Return one line about a model, as HTML."""
    if not name:
        return '<div class="rehead-about">No model of this kind is available.</div>'
    entry = describe(name, store.folder(name))
    labels = "any labels" if entry["task"] == "zero-shot" else ", ".join(entry["labels"][:12])
    parts = [labels, f"from {entry['base']}", f"{entry['size_bytes'] / 1e6:.0f} MB"]
    if entry["metric"]:
        parts.append(f"{entry['metric']['name']} {figure(entry['metric']['value'])} {measured_on(entry)}")
    return f'<div class="rehead-about">{escape(" · ".join(parts))}</div>'


def measured_on(entry: Mapping[str, Any]) -> str:
    """Return the rows that the metric of a model (`describe`) was measured on."""
    metric = entry["metric"]
    what = "pairs of text and hypothesis" if entry["task"] == "zero-shot" else "rows"
    return f"on {metric['rows']:,} {metric['split'].replace('_', ' ')} {what}" if "rows" in metric else ""


def report_of(store: ModelStore[Engine], name: str | None) -> tuple[str, list[tuple[Any, str]]]:
    """Return a model's metrics as an HTML table, and its plots with captions."""
    folder = store.folder(name) if name else None
    if folder is None or not (folder.metrics or {}).get("metrics"):
        return '<div class="rehead-note">This model has no evaluation report.</div>', []
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
    rows_note = f"Measured on {metrics['rows']} rows that were held out from training."
    table = f'<table class="rehead-report"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="rehead-wide">{table}</div><div class="rehead-note">{rows_note}</div>', _plots(folder)


def _plots(folder: ModelFolder) -> list[tuple[Any, str]]:
    from PIL import Image

    plots = []
    for file in folder.report_figures:
        try:
            with Image.open(file) as plot:
                plots.append((plot.copy(), file.stem.replace("_", " ")))
        except OSError:
            continue  # the other plots can still be shown
    return plots


def reporting(
    act: Callable[..., Coroutine[Any, Any, Sequence[Any]]],
    telemetry: Telemetry,
    *,
    otherwise: Sequence[Any],
) -> Callable[..., Coroutine[Any, Any, list[Any]]]:
    """Return the handler `act` with an error as one more output: hidden, or shown behind `otherwise`."""

    async def handler(*arguments: Any) -> list[Any]:
        try:
            return [*await act(*arguments), HIDDEN]
        except Exception as error:
            return [*otherwise, problem(error, telemetry)]

    return handler


def reporting_stream(
    act: Callable[..., AsyncIterator[Sequence[Any]]], telemetry: Telemetry, *, otherwise: Sequence[Any]
) -> Callable[..., AsyncIterator[list[Any]]]:
    """Return what `reporting` does, for a handler that yields its progress."""

    async def handler(*arguments: Any) -> AsyncIterator[list[Any]]:
        try:
            async for shown in act(*arguments):
                yield [*shown, HIDDEN]
        except Exception as error:
            yield [*otherwise, problem(error, telemetry)]

    return handler


HIDE_PROBLEMS = """() => {
    const hide = event => {
        const tab = event.target.closest?.("[role=tabpanel]");
        const alerts = tab?.querySelectorAll("[role=alert].rehead-problem") ?? [];
        for (const alert of alerts)
            if (!alert.closest("[id$=-table-problem]")) alert.style.display = "none";
    };
    for (const kind of ["input", "change", "drop"]) document.addEventListener(kind, hide, true);
    const choices = "[role=option], .token-remove, [aria-label=Clear], [id$=-example]";
    document.addEventListener("pointerdown", event => event.target.closest?.(choices) && hide(event), true);
}"""
"""JavaScript for the page: the errors of requests in a tab are hidden once a person changes a field of it. These are
events of the browser, since gradio's `change` (6.31) also fires late and without a change."""


def scroll_to(element_id: str) -> str:
    """Return JavaScript that scrolls an element to the top of the window, where it begins below or above the window."""
    return f"""() => setTimeout(() => {{
        const element = document.getElementById("{element_id}");
        if (!element) return; // hidden, as the answer to a refused request is
        const top = element.getBoundingClientRect().top;
        if (top < 0 || top > innerHeight - 160) element.scrollIntoView({{block: "start"}});
    }}, 150)"""


def problem(error: Exception, telemetry: Telemetry) -> Any:
    """Return an error as an update of the error field; an unexpected exception goes to the log."""
    message = str(error)
    if not isinstance(error, ServiceError | FinetuneError):
        telemetry.crash("page", error)
        message = INTERNAL_ERROR
    starts_with_word = message.split(" ")[0].isalpha()  # and not with the name of a file
    sentence = message[:1].upper() + message[1:] if starts_with_word else message
    # numbered: an error that was hidden in the browser is shown again, also where its sentence is the same
    shown = f'<div class="rehead-problem" role="alert" data-number="{next(NUMBERS)}">{escape(sentence)}</div>'
    return gr.update(value=shown, visible=True)


class ToolError(gr.Error):
    """An error of the Gradio API whose text is its sentence: `gr.Error` (6.31) puts it in quotes for MCP clients."""

    def __str__(self) -> str:
        return str(self.message)


def as_tool(act: Callable[..., Coroutine[Any, Any, T]], telemetry: Telemetry) -> Callable[..., Coroutine[Any, Any, T]]:
    """Return the function `act` for the Gradio API: errors are raised as `ToolError`."""

    @functools.wraps(act)
    async def tool(*arguments: Any, **named: Any) -> T:
        try:
            return await act(*arguments, **named)
        except (ServiceError, FinetuneError) as error:
            raise ToolError(str(error), print_exception=False) from error  # a traceback would quote the request
        except Exception as error:
            telemetry.crash("page", error)
            raise ToolError(INTERNAL_ERROR, print_exception=False) from None

    return tool


def bars(answer: Answer, *, number: bool = False) -> Any:
    """Return an answer as an update of a `gr.Label`: scores by label, or the plain number of a regression."""
    if answer.decided is not None and answer.scores[answer.decided] != max(answer.scores):
        return gr.update(value=answer.best.label, visible=True)  # the component itself would name the higher score
    scores = {prediction.label: prediction.score for prediction in answer.predictions}
    return gr.update(value=f"{answer.best.score:.6g}" if number else scores, visible=True)


def note(answer: Answer, decisions: Sequence[str] = ()) -> Any:
    """Return the remark on an answer, as an update of the HTML below it.

    Args:
        decisions: what follows from the scores, by `decisions_of`.
    """
    sentences = [escape(sentence) for sentence in decisions]
    if answer.truncated:
        sentences += ["The text is longer than the model reads; its end was truncated."]
    if answer.language is not None:
        sentences += [
            f"The text is in a language ({answer.language}) that the model was not trained for: the answer may be "
            "wrong, however high its score."
        ]
    shown = "".join(f'<div class="rehead-note">{sentence}</div>' for sentence in sentences)
    return gr.update(value=shown, visible=bool(sentences))


def decisions_of(answer: Answer, folder: ModelFolder) -> list[str]:
    """Return what follows from the scores where a model has thresholds or prediction sets, in sentences."""
    settings, names = folder.settings, folder.labels.names
    sentences = []
    if settings.thresholds is not None and settings.task == "binary":
        scores = ", ".join(f"{name} {score:.3f}" for name, score in zip(answer.labels, answer.scores, strict=True))
        sentences += [f"Scores: {scores}. {names[1]} is predicted from {settings.thresholds[1]:.3g} up."]
    elif settings.thresholds is not None:
        bounds = dict(zip(names, settings.thresholds, strict=True))
        labels = [item.label for item in answer.predictions if item.score >= bounds[item.label]]
        sentences += [f"Predicted, by the threshold of each label: {', '.join(labels) or NONE_OF_THESE}."]
    if settings.prediction_sets is not None:
        members = ", ".join(item.label for item in answer.prediction_set)
        stated = f"Prediction set (coverage {settings.prediction_sets.coverage:g})"
        sentences += [f"{stated}: {members or NONE_OF_THESE}."]
    return sentences


def importance(text: str, label: str, score: float, words: Sequence[Word]) -> str:
    """Return a text as HTML with its words shaded by importance; also in words, since color alone is not accessible."""
    if not words:
        return ""
    largest = max(abs(word.weight) for word in words) or 1.0
    parts, at = [], 0
    for word in words:
        relative, side = abs(word.weight) / largest, "for" if word.weight >= 0 else "against"
        title = f"without this word, the score of {label} is {word.without:.3f}"
        parts.append(escape(text[at : word.begin]))
        shown = escape(text[word.begin : word.end])
        style = f"--weight:{relative:.2f}"
        parts.append(f'<span class="rehead-word rehead-{side}" style="{style}" title="{escape(title)}">{shown}</span>')
        at = word.end
    rest = escape(text[at:])
    lists = "".join(
        _strongest(title, text, sorted(side, key=lambda word: -abs(word.weight))[:5])
        for title, side in (
            (f"For {label}", [word for word in words if word.weight > 0]),
            (f"Against {label}", [word for word in words if word.weight < 0]),
        )
    )
    legend = (
        f"Word importance for {escape(label)} (score {score:.3f}): each word was left out in turn. "
        "Shaded words raise the score, underlined words lower it."
    )
    return f'<div class="rehead-words">{"".join(parts)}{rest}</div><div class="rehead-note">{legend}</div>{lists}'


def _strongest(title: str, text: str, words: Sequence[Word]) -> str:
    if not words:
        return ""
    listed = ", ".join(
        f"<b>{escape(text[word.begin : word.end])}</b> (score {word.without:.3f} without it)" for word in words
    )
    return f'<div class="rehead-note">{escape(title)}: {listed}</div>'
