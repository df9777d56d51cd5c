"""A distillation as HTML: its data report, its status and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby, islice
from typing import Any
from urllib.parse import quote

from finetune.core import events
from finetune.core.number_format import figure
from service.server.training_jobs import Job
from service.ui import training_view

METRICS_SHOWN, LABELS_SHOWN, TEXT_CHARACTERS = 2, 40, 300
STAGES = {"teacher": "teacher", "refined": "refined labels", "student": "student"}
COUNTED = {
    "empty": "without a text",
    "duplicates": "with a text of another row",
    "labeled": "labeled by people, which measure and are not trained on",
    "text_of_a_labeled_row": "with the text of a labeled row",
    "not_drawn": "not drawn",
}
"""Reason in the counts of a corpus -> its description."""

STATES = {
    "running": "Distilling {name}: reading the texts and loading the teacher ...",
    "finished": "{name} is ready to use in the other tabs.",
    "failed": "Distilling {name} failed.",
    "stopped": "Distilling {name} was stopped. Start again with the same table, labels and name to continue: texts "
    "that were scored are not scored again.",
}
"""State of a run -> its status line."""


def report(data: Mapping[str, Any], seconds: float) -> str:
    """Return the data report of a table as HTML.

    Args:
        data: that of `Jobs.data_report`.
        seconds: estimate for scoring all texts.
    """
    counts = data["counts"]
    left_out = [f"{counts[key]:,} {reason}" for key, reason in COUNTED.items() if counts.get(key)]
    minutes = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, seconds):.0f} s"
    measured = f"Accuracy will be measured on {data['measured']:,} rows that people labeled."
    sentences = [
        f"{data['drawn']:,} of {counts['rows']:,} rows will be scored.",
        *([f"Left out: rows {'; '.join(left_out)}."] if left_out else []),
        measured if data["measured"] else "No row is labeled by a person: accuracy will be unknown.",
        f"Scoring takes about {minutes} on this server, measured on {len(data['sample'])} of the texts. Then the "
        "student is trained; the time left is shown once it runs.",
    ]
    notes = "".join(f'<div class="rehead-note">{escape(sentence)}</div>' for sentence in sentences)
    return f'<div class="rehead-data" role="status">{notes}</div>'


def status(job: Job) -> str:
    """Return the stage of a run and its messages, as HTML."""
    name = f"<b>{escape(job.name)}</b>"
    line, done, total = STATES[job.state].format(name=name), 0, 0
    if job.state == "running":
        stage, done, total = _stage(job)
        line = f"{name}: {escape(stage)}" if stage else line
    bar = f'<progress max="{total}" value="{done}" aria-label="Done"></progress> ' if total else ""
    line = f'<div role="status" class="rehead-run rehead-{job.state}">{bar}{line}</div>'
    return line if job.state == "finished" else f"{line}{training_view.messages(job)}"


def _stage(job: Job) -> tuple[str, int, int]:
    """Return what a running job does, and how much of it is done, of how much; 0 of 0 where that is not known."""
    for event in reversed(job.events):
        match event:
            case events.Step() if event.update >= event.updates:
                return "comparing teacher and student ...", 0, 0
            case events.Step():
                line = f"training the student, update {event.update:,} of {event.updates:,}"
                line += f", loss {event.loss:.3f}, {training_view.time_left(event.left_s)}"
                return line, event.update, event.updates
            case events.Started():
                return "training the student ...", 0, 0
            case events.Processed() if event.done >= event.rows:
                return "refining the scores ...", 0, 0
            case events.Processed():
                left = "" if event.left_s is None else f", {training_view.time_left(event.left_s)}"
                return f"{event.verb} {event.done:,} of {event.rows:,} texts{left}", event.done, event.rows
    return "", 0, 0


def result(name: str, content: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> str:
    """Return the report of a finished distillation as HTML.

    Args:
        content: that of `report_files.report_of`.
        examples: those of `report_files.examples_of`.
    """
    address = f"./#tab=sentiment&model={quote(json.dumps(name))}"
    link = f'<p><a href="{escape(address)}" target="_blank">Open {escape(name)} in the Sentiment tab</a></p>'
    warnings = "".join(f'<div class="rehead-warning">{escape(sentence)}</div>' for sentence in content["warnings"])
    parts = (_accuracy(content.get("measured")), warnings, _agreement(content), _shares(content), _examples(examples))
    return f'<div class="rehead-data">{link}{"".join(parts)}</div>'


def _accuracy(measured: Mapping[str, Any] | None) -> str:
    """Return the metrics of teacher, refined labels and student side by side, or that they are unknown."""
    if measured is None:
        return (
            '<div class="rehead-figures">Accuracy is unknown: no row was labeled by a person.</div>'
            '<div class="rehead-note">Download the rows to label next, fill in their column label, upload them under '
            "“Rows labeled by people”, and start again under another name.</div>"
        )
    shown = list(measured["metrics"]["student"])[:METRICS_SHOWN]
    rows = []
    for stage, title in STAGES.items():
        entries = [measured["metrics"][stage][metric] for metric in shown]
        cells = (f"{figure(one['value'])} ({figure(one['low'])} to {figure(one['high'])})" for one in entries)
        rows.append((title, *cells))
    head = ("", *(metric.replace("_", " ") for metric in shown))
    note = f"On {measured['rows']:,} rows that people labeled, none of them trained on; with 95% intervals."
    return (
        f'<div class="rehead-figures">{escape(measured["sentence"])}</div>{_table(head, rows)}'
        f'<div class="rehead-note">{escape(note)}</div>'
    )


def _agreement(content: Mapping[str, Any]) -> str:
    values = content["agreement"]
    sentence = (
        f"Of {content['texts']:,} texts, {content['trained_on']:,} were trained on. Teacher and refined labels agree "
        f"on {values['teacher_refined']:.1%} of them, refined labels and student on {values['refined_student']:.1%}, "
        f"teacher and student on {values['teacher_student']:.1%}."
    )
    return f'<div class="rehead-note">{escape(sentence)}</div>'


def _shares(content: Mapping[str, Any]) -> str:
    """Return the part of the texts that each label has, by each stage."""
    shares = content["shares"]
    rows = [
        (name, *(f"{part[stage]:.1%} ({part[stage] * content['texts']:,.0f})" for stage in STAGES))
        for name, part in list(shares.items())[:LABELS_SHOWN]
    ]
    more = len(shares) - len(rows)
    rows += [(f"and {more} more", "", "", "")] if more > 0 else []
    return _table(("texts by label", *STAGES.values()), rows)


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
    """Return the most and the least confident texts of each label, whose rows follow each other; a section for each."""
    sections = []
    for label, group in islice(groupby(examples, key=lambda row: str(row["label"] or "")), LABELS_SHOWN + 1):
        rows = [(str(row["kind"]), _cut(str(row["text"])), f"{float(row['score']):.3f}") for row in group]
        title = f"Examples of {label}" if label else "Examples that fit no label"
        body = _table(("", "text", "score"), rows, wide=False)
        sections.append(f"<details><summary>{escape(title)}</summary>{body}</details>")
    return "".join(sections)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS else f"{text[:TEXT_CHARACTERS]} ..."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, wide: bool = True) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    table = f'<table class="rehead-report"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="rehead-wide" tabindex="0">{table}</div>' if wide else table
