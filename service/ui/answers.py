"""How an answer, or a problem, appears on the page.

Knows: bars, the red sentence, the choice of a model.
Does not know: any tab.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from html import escape
from typing import Any, TypeVar

import gradio as gr

from finetune.artifact import ModelFolder
from finetune.errors import CheckpointError, FinetuneError
from service.engine import Engine
from service.errors import ServiceError
from service.schema import Answer
from service.store import ModelStore, describe
from service.telemetry import Telemetry

T = TypeVar("T")
SHOWN_FIRST = ("sentiment", "topics")


def names_where(store: ModelStore[Engine], wanted: Callable[[ModelFolder], bool]) -> list[str]:
    """The served names whose folder can be read and is of the wanted kind, the default first."""
    found = []
    for name in store.names():
        try:
            if wanted(store.folder(name)):
                found.append(name)
        except CheckpointError:
            continue  # the server said so when it started
    return sorted(found, key=lambda name: (name != store.default_name, name not in SHOWN_FIRST))


def about(store: ModelStore[Engine], name: str | None) -> str:
    """One line about a model, as HTML."""
    if not name:
        return '<div class="rehead-about">No model of this kind is served.</div>'
    entry = describe(name, store.folder(name))
    labels = "any labels that you name" if entry["task"] == "zero-shot" else ", ".join(entry["labels"][:12])
    parts = [labels, f"from {entry['base']}", f"{entry['size_bytes'] / 1e6:.0f} MB"]
    if entry["metric"]:
        parts.append(f"{entry['metric']['name']} {entry['metric']['value']:.3f}")
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
            f"{entry['value']:.3f}",
            f"{entry['low']:.3f} to {entry['high']:.3f}" if "low" in entry else "",
            *(f"{values[metric]:.3f}" if metric in values else "" for _, values in others),
        ]
        for metric, entry in metrics["metrics"].items()
    ]
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    words = f"On {metrics['rows']} rows that were set aside from training."
    table = f'<table class="rehead-report"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{table}<div class="rehead-note">{words}</div>', _pictures(folder)


def _pictures(folder: ModelFolder) -> list[tuple[Any, str]]:
    from PIL import Image

    found = []
    for file in folder.report_pictures:
        try:
            with Image.open(file) as picture:
                found.append((picture.copy(), file.stem.replace("_", " ")))
        except OSError:
            continue  # a damaged picture is no reason to hide the others
    return found


def guarded(
    act: Callable[..., Coroutine[Any, Any, Sequence[Any]]], telemetry: Telemetry, *, outputs: int
) -> Callable[..., Coroutine[Any, Any, list[Any]]]:
    """The handler `act` with a sentence after its outputs: empty, or what was wrong, and the outputs cleared."""

    async def handler(*arguments: Any) -> list[Any]:
        try:
            return [*await act(*arguments), gr.update(value="", visible=False)]
        except Exception as error:
            said = str(error)
            if not isinstance(error, ServiceError | FinetuneError):
                telemetry.crash("page", error)
                said = "the server failed; its log says more"
            sentence = said[:1].upper() + said[1:]
            problem = f'<div class="rehead-problem" role="alert">{escape(sentence)}</div>'
            return [*[None] * outputs, gr.update(value=problem, visible=True)]

    return handler


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


def bars(answer: Answer, *, number: bool = False) -> dict[str, float] | str:
    """An answer as `gr.Label` takes it: scores by label, or the plain number of a regression."""
    if number:
        return f"{answer.best.score:.3f}"
    return {one.label: one.score for one in answer.predictions}


def note(answer: Answer) -> Any:
    """What there is to say about an answer, as an update of the HTML below it."""
    sentence = '<div class="rehead-note">The text is longer than the model reads; its end was cut off.</div>'
    return gr.update(value=sentence if answer.truncated else "", visible=answer.truncated)
