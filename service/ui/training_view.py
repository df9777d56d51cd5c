"""How a training run is drawn: what was found in its table, its status, its curves, its gradients.

Knows: events as HTML and as frames for plots.
Does not know: the tab it is drawn in, where a run comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.core import events
from finetune.core.number_format import figure
from service.server.training_jobs import Job

SAID_LAST = 6
SCORES_SHOWN = ("accuracy", "macro_f1", "micro_f1", "spearman", "pearson", "r2")
LOSSES, SCORES = ("update", "loss"), ("update", "score", "metric")
LOOKS = {"Said": "rehead-note", "Warned": "rehead-warning", "Failed": "rehead-problem"}
"""Kind of event -> how its sentence looks."""


def report(found: Mapping[str, Any]) -> str:
    """What was found in a table, as HTML."""
    most = max(found["labels"].values(), default=1)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td>{count:,}</td><td><meter min="0" max="{most}" value="{count}" '
        f'aria-label="{escape(name)}"></meter></td></tr>'
        for name, count in found["labels"].items()
    )
    more = found["all_labels"] - len(found["labels"])
    rows += f"<tr><td>and {more} more</td><td></td><td></td></tr>" if more > 0 else ""
    table = f'<table class="rehead-report"><thead><tr><th>label</th><th>rows</th><th></th></tr></thead>{rows}</table>'
    dropped = {
        "empty_texts": "empty texts",
        "empty_labels": "rows without a label",
        "duplicates": "repeated rows",
        "conflicting_labels": "texts with several different labels",
        "evaluation_duplicates": "rows repeated in validation",
    }
    left_out = [f"{found['counts'][key]:,} {told}" for key, told in dropped.items() if found["counts"].get(key)]
    said = [
        f"{found['rows']:,} rows to train on, {found['validation_rows']:,} set aside to measure with, "
        f"{found['updates']:,} updates.",
        f"Left out: {', '.join(left_out)}." if left_out else "No row was left out.",
        f"{found['near'][:1].upper()}{found['near'][1:]}.",
        f"{found['fit'][:1].upper()}{found['fit'][1:]}.",
    ]
    notes = "".join(f'<div class="rehead-note">{escape(one)}</div>' for one in said)
    warned = "".join(f'<div class="rehead-warning">{escape(one)}</div>' for one in found["warnings"])
    return f'<div class="rehead-found">{table if found["labels"] else ""}{notes}{warned}</div>'


def losses(job: Job) -> pd.DataFrame:
    """The loss by update; no rows where there is none yet."""
    return frame([(one.update, one.loss) for one in job.events if isinstance(one, events.Step)], LOSSES)


def scores(job: Job) -> pd.DataFrame:
    """Scores of the validation rows by update and metric."""
    found = [
        (one.update, one.metrics[key], key.replace("_", " "))
        for one in job.events
        if isinstance(one, events.Evaluated)
        for key in SCORES_SHOWN
        if key in one.metrics
    ]
    return frame(found, SCORES)


def frame(rows: Sequence[tuple[Any, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    """Rows as a plot takes them."""
    return pd.DataFrame(list(rows), columns=list(columns))


def status(job: Job) -> str:
    """Where a run is, in a sentence; what it found out and warns of."""
    name = escape(job.name)
    steps = [one for one in job.events if isinstance(one, events.Step)]
    bar, told = "", SAYS[job.state].format(name=f"<b>{name}</b>")
    if job.state == "running" and steps:
        last = steps[-1]
        left = f"{last.left_s / 60:.0f} min" if last.left_s >= 90 else f"{last.left_s:.0f} s"
        told = (
            f"Training <b>{name}</b>: update {last.update:,} of {last.updates:,}, epoch {last.epoch:.1f}, "
            f"loss {last.loss:.3f}, {last.rows_per_s:,.0f} rows a second, about {left} left"
        )
        bar = f'<progress max="{last.updates}" value="{last.update}" aria-label="Updates made"></progress> '
    line = f'<div role="status" class="rehead-run rehead-{job.state}">{bar}{told}</div>'
    return f"{line}{_result(job)}{_sentences(job)}"


def _result(job: Job) -> str:
    """What is wrong with a finished model, its figures, and what they were measured on."""
    finished = next((one for one in job.events if isinstance(one, events.Finished)), None)
    if finished is None:
        return ""
    warned = {one.text for one in job.events if isinstance(one, events.Warned)}
    wrong = "".join(_sentence("Warned", note) for note in finished.notes if note in warned)
    values = ", ".join(f"{key.replace('_', ' ')} {figure(value)}" for key, value in list(finished.metrics.items())[:4])
    rows = next((one.validation_rows for one in job.events if isinstance(one, events.Started)), None)
    where = f" on {rows:,} validation rows" if rows is not None else ""
    figures = f'<div class="rehead-figures">{escape(f"{values}{where}")}</div>' if values else ""
    others = "".join(_sentence("Said", note) for note in finished.notes if note not in warned)
    return f"{wrong}{figures}{others}"


def _sentence(kind: str, text: str) -> str:
    return f'<div class="{LOOKS[kind]}">{escape(f"{text[:1].upper()}{text[1:]}")}</div>'


SAYS = {
    "running": "Training {name}: reading the table and the base ...",
    "finished": "{name} is ready: it is in the other tabs now.",
    "failed": "Training {name} failed.",
    "stopped": "Training {name} was stopped. Train it again with the same settings, and it goes on from its last "
    "checkpoint.",
}


def _sentences(job: Job) -> str:
    """What a run says: its failure, the last few notes, and all warnings that its result does not repeat."""
    # where the operator keeps things is none of a visitor's business
    places = [Path(str(job.config["data"]["train"][0]["path"])).parent, Path(str(job.config["models_dir"]))]
    found = [one for one in job.events if isinstance(one, events.Info | events.Warned | events.Failed)]
    said = [one for one in found if isinstance(one, events.Info)][-SAID_LAST:]
    repeated = {note for one in job.events if isinstance(one, events.Finished) for note in one.notes}
    failed = [one for one in found if isinstance(one, events.Failed)]
    warned = [one for one in found if isinstance(one, events.Warned) and one.text not in repeated]
    shown: list[events.Info | events.Warned | events.Failed] = [*failed, *said, *warned]
    return "".join(
        f'<div class="{LOOKS[type(one).__name__]}">{escape(_without(one.text, places))}</div>' for one in shown
    )


def _without(text: str, places: list[Path]) -> str:
    for place in places:
        text = text.replace(f"{place}/", "")
    return text


def gradients(job: Job) -> str:
    """The last look at the gradients: norm and size of the update, part by part; empty where there was none."""
    looks = [one for one in job.events if isinstance(one, events.GradientsRecorded)]
    if not looks:
        return ""
    last = looks[-1]
    rows = "".join(
        f"<tr><td>{escape(part)}</td><td>{norm:.2e}</td><td>{last.ratio.get(part, 0.0):.1e}</td></tr>"
        for part, norm in last.gradient.items()
    )
    head = "<tr><th>part</th><th>gradient norm</th><th>update / weights</th></tr>"
    note = f"At update {last.update:,}. Updates of about a thousandth of the weights are healthy."
    table = f'<div class="rehead-wide"><table class="rehead-report"><thead>{head}</thead>{rows}</table></div>'
    return f'{table}<div class="rehead-note">{note}</div>'
