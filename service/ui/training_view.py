"""A training run as HTML and data frames: its data report, status, curves and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.core import events
from finetune.core.number_format import figure
from service.server.training_jobs import Job

INFOS_SHOWN = 6
SCORES_SHOWN = ("accuracy", "macro_f1", "micro_f1", "spearman", "pearson", "r2")
FEWEST_UPDATES = 10
"""Updates on the axis of a plot at least: over fewer it would have fractions."""

LOSSES, SCORES = ("update", "loss"), ("update", "score", "metric")
CSS_CLASSES = {"Info": "rehead-note", "Warned": "rehead-warning", "Failed": "rehead-problem"}
"""Kind of event -> the CSS class of its sentence."""

DROPPED = {
    "empty_texts": "empty texts",
    "empty_labels": "rows without a label",
    "duplicates": "duplicate rows",
    "conflicting_labels": "texts with conflicting labels",
    "evaluation_duplicates": "training rows repeated in validation",
}
"""Reason in the counts of a data report -> its description."""


def report(data: Mapping[str, Any]) -> str:
    """Return the data report of a table (`Jobs.data_report`) as HTML."""
    largest = max(data["labels"].values(), default=1)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td>{count:,}</td><td><meter min="0" max="{largest}" value="{count}" '
        f'aria-label="{escape(name)}"></meter></td></tr>'
        for name, count in data["labels"].items()
    )
    more = data["all_labels"] - len(data["labels"])
    rows += f"<tr><td>and {more} more</td><td></td><td></td></tr>" if more > 0 else ""
    table = f'<table class="rehead-report"><thead><tr><th>label</th><th>rows</th><th></th></tr></thead>{rows}</table>'
    dropped = [f"{data['counts'][key]:,} {reason}" for key, reason in DROPPED.items() if data["counts"].get(key)]
    sentences = [
        f"{data['rows']:,} training rows, {data['validation_rows']:,} validation rows, {data['updates']:,} updates.",
        f"Dropped: {', '.join(dropped)}." if dropped else "No row was dropped.",
        f"{data['near'][:1].upper()}{data['near'][1:]}.",
        f"{data['fit'][:1].upper()}{data['fit'][1:]}.",
    ]
    notes = "".join(f'<div class="rehead-note">{escape(sentence)}</div>' for sentence in sentences)
    warnings = "".join(f'<div class="rehead-warning">{escape(warning)}</div>' for warning in data["warnings"])
    return f'<div class="rehead-data">{table if data["labels"] else ""}{notes}{warnings}</div>'


def ranking(data: Mapping[str, Any]) -> str:
    """Return ranked bases (`Jobs.ranking`) as HTML."""
    heads = ("base", data["metric"], "95% interval", "tokens per word", "unknown", "parameters")
    rows = [
        (
            *(base["name"], figure(base["value"]), f"{figure(base['low'])} to {figure(base['high'])}"),
            *(f"{base['tokenizer']['tokens_per_word']:.2f}", f"{base['tokenizer']['unknown']:.1%}"),
            f"{base['parameters'] / 1e6:.0f}M",
        )
        for base in data["bases"]
    ]
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    sentence = data["recommendation"]
    note = (
        f"{sentence[0].upper()}{sentence[1:]}. Measured by a linear model on frozen embeddings, cross-validated on "
        f"{data['rows']:,} rows."
    )
    return (
        f'<div class="rehead-data"><table class="rehead-report"><thead><tr>{head}</tr></thead>{body}</table>'
        f'<div class="rehead-note">{escape(note)}</div></div>'
    )


def losses(job: Job) -> pd.DataFrame:
    """Return the loss by update; no rows before the first update."""
    return frame([(event.update, event.loss) for event in job.events if isinstance(event, events.Step)], LOSSES)


def scores(job: Job) -> pd.DataFrame:
    """Return the validation scores by update and metric."""
    rows = [
        (event.update, event.metrics[key], key.replace("_", " "))
        for event in job.events
        if isinstance(event, events.Evaluated)
        for key in SCORES_SHOWN
        if key in event.metrics
    ]
    return frame(rows, SCORES)


def updates(job: Job) -> list[int]:
    """Return the first and the last update on the axis of a plot: from 0 to the planned ones, whole numbers."""
    planned = [event.updates for event in job.events if isinstance(event, events.Step)]
    return [0, max([FEWEST_UPDATES, *planned[-1:]])]


def frame(rows: Sequence[tuple[Any, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    """Return rows as a data frame for a plot."""
    return pd.DataFrame(list(rows), columns=list(columns))


def status(job: Job) -> str:
    """Return the status of a run, its results and its messages, as HTML."""
    name = escape(job.name)
    steps = [event for event in job.events if isinstance(event, events.Step)]
    bar, line = "", STATES[job.state].format(name=f"<b>{name}</b>")
    if job.state == "running" and steps:
        last = steps[-1]
        line = (
            f"Training <b>{name}</b>: update {last.update:,} of {last.updates:,}, epoch {last.epoch:.1f}, "
            f"loss {last.loss:.3f}, {last.rows_per_s:,.0f} rows/s, {time_left(last.left_s)}"
        )
        bar = f'<progress max="{last.updates}" value="{last.update}" aria-label="Updates done"></progress> '
    line = f'<div role="status" class="rehead-run rehead-{job.state}">{bar}{line}</div>'
    return f"{line}{_result(job)}{messages(job)}"


def time_left(seconds: float) -> str:
    """Return remaining seconds in words."""
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


def _result(job: Job) -> str:
    """Return the warnings of a finished run, its metrics, and the rows they were measured on."""
    finished = next((event for event in job.events if isinstance(event, events.Finished)), None)
    if finished is None:
        return ""
    warned = {event.text for event in job.events if isinstance(event, events.Warned)}
    warnings = "".join(_sentence("Warned", note) for note in finished.notes if note in warned)
    values = ", ".join(f"{key.replace('_', ' ')} {figure(value)}" for key, value in list(finished.metrics.items())[:4])
    rows = next((event.validation_rows for event in job.events if isinstance(event, events.Started)), None)
    where = f" on {rows:,} validation rows" if rows is not None else ""
    figures = f'<div class="rehead-figures">{escape(f"{values}{where}")}</div>' if values else ""
    others = "".join(_sentence("Info", note) for note in finished.notes if note not in warned)
    return f"{warnings}{figures}{others}"


def _sentence(kind: str, text: str) -> str:
    return f'<div class="{CSS_CLASSES[kind]}">{escape(f"{text[:1].upper()}{text[1:]}")}</div>'


STATES = {
    "running": "Training {name}: loading the data and the base model ...",
    "finished": "{name} is ready to use in the other tabs.",
    "failed": "Training {name} failed.",
    "stopped": "Training {name} was stopped. Train again with the same settings to resume from the last checkpoint.",
}
"""State of a run -> its status line."""


def messages(job: Job) -> str:
    """Return a run's error, its last messages, and the warnings that its result does not repeat."""
    # paths on the server are removed: visitors need not know them
    folders = [job.table.parent, Path(str(job.config["models_dir"]))]
    infos = [event for event in job.events if isinstance(event, events.Info)][-INFOS_SHOWN:]
    repeated = {note for event in job.events if isinstance(event, events.Finished) for note in event.notes}
    failures = [event for event in job.events if isinstance(event, events.Failed)]
    warnings = [event for event in job.events if isinstance(event, events.Warned) and event.text not in repeated]
    shown: list[events.Info | events.Warned | events.Failed] = [*failures, *infos, *warnings]
    return "".join(
        f'<div class="{CSS_CLASSES[type(event).__name__]}">{escape(_without(event.text, folders))}</div>'
        for event in shown
    )


def _without(text: str, folders: list[Path]) -> str:
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return text


def gradients(job: Job) -> str:
    """Return the last gradient snapshot as HTML: gradient norm and update size by part; empty without one."""
    snapshots = [event for event in job.events if isinstance(event, events.GradientsRecorded)]
    if not snapshots:
        return ""
    last = snapshots[-1]
    rows = "".join(
        f"<tr><td>{escape(part)}</td><td>{norm:.2e}</td><td>{last.ratio.get(part, 0.0):.1e}</td></tr>"
        for part, norm in last.gradient.items()
    )
    head = "<tr><th>part</th><th>gradient norm</th><th>update / weights</th></tr>"
    note = f"At update {last.update:,}. A ratio of update to weights around 1e-3 is healthy."
    table = f'<div class="rehead-wide"><table class="rehead-report"><thead>{head}</thead>{rows}</table></div>'
    return f'{table}<div class="rehead-note">{note}</div>'
