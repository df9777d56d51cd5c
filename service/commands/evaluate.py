"""`rehead evaluate`: the metrics of a model on a labeled table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from finetune.core.number_format import figure
from finetune.core.tables.flags import passed, reading_flags
from service.errors import BadRequest

Command = TypeVar("Command", bound=Callable[..., Any])


def labeled_table(command: Command) -> Command:
    """Add the options of a command that reads a labeled table."""
    options = (
        click.option(
            "--text",
            multiple=True,
            help="The column of FILE that holds the text; repeat it to join the texts of several.",
        ),
        click.option(
            "--label",
            multiple=True,
            help="The column of FILE that holds the label; repeat it for columns of 0 and 1, one for each label.",
        ),
        click.option("--text-pair", help="The column of FILE that holds the second text."),
        click.option("--label-names", help="Names for a label column of 0, 1, 2 ..., separated by commas."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON, in the shape of metrics.json."),
        click.option("--device", help="Device: auto, cpu, cuda, cuda:N or mps; default is REHEAD_DEVICE, else auto."),
        click.option("--models", "models_dir", default="models", show_default=True, help="Folder of served names."),
    )
    for option in reversed(options):
        command = option(command)
    return reading_flags(command)


@click.command()
@click.argument("model")
@click.argument("file")
@labeled_table
@click.option("--metric", "extra", multiple=True, help="A further metric, by its name in evaluate.load; repeatable.")
@click.option("--weight", help="A column of FILE with the weight of each row in all metrics; 2 counts as two rows.")
@click.option("--by", help="A column of FILE; metrics are also printed for each of its values.")
@click.option("--tfidf/--no-tfidf", default=True, show_default=True, help="Measure TF-IDF on the same rows.")
@click.option("--report", type=click.Path(path_type=Path), help="A new folder for plots, errors and metrics.")
def command(
    model: str,
    file: str,
    label_names: str | None,
    extra: tuple[str, ...],
    by: str | None,
    tfidf: bool,
    report: Path | None,
    as_json: bool,
    device: str | None,
    models_dir: str,
    **columns: Any,
) -> None:
    """Print the metrics of MODEL on FILE, a table of labeled texts.

    Each is compared with the majority (or mean) baseline, and with TF-IDF and logistic regression, cross-validated on
    FILE.
    """
    from finetune.config.data import DataConfig
    from finetune.run import ROW_NUMBERS, evaluation_json, write_evaluation
    from service.evaluate import evaluate_model
    from service.inference import zero_shot
    from service.inference.model_store import resolve

    if report is not None and report.exists():
        raise BadRequest(f"{report} exists already", hint="name a new folder with --report")
    folder = resolve(model, models_dir)
    names = zero_shot.parse_labels(label_names) if label_names is not None else None
    config = DataConfig(**passed(**columns), label_names=names)
    evaluation = evaluate_model(folder, file, config, metrics=extra, by=by, tfidf=tfidf, device=device)
    shape = evaluation_json(file, evaluation)
    if report is not None:
        write_evaluation(report, folder.labels, evaluation.measured, shape)
    if as_json:
        click.echo(json.dumps(shape, indent=2))
        return
    scored = evaluation.measured.scored
    counts = ", ".join(f"{name}: {count}" for name, count in evaluation.counts.items())
    weighted = f", weighted by column {evaluation.weight}" if evaluation.weight is not None else ""
    click.echo(f"{scored.rows} rows of {file}{weighted}  ({counts})")
    _table(scored)
    for name, part in evaluation.by.items():
        click.echo(f"\n{by} {name} ({part.rows} rows)")
        _table(part, labels=False)
    if report is not None:
        click.echo(f"report: {report} (in errors.csv, {ROW_NUMBERS})")


def _table(scored: Any, *, labels: bool = True) -> None:
    name_width = max(len(name) for name in scored.metrics)
    for name, entry in scored.metrics.items():
        interval = f"  [{figure(entry['low'], 4)}, {figure(entry['high'], 4)}]" if "low" in entry else ""
        baseline = f"  baseline {figure(scored.baseline[name], 4)}" if name in scored.baseline else ""
        tfidf = f"  TF-IDF {figure(scored.tfidf[name], 4)}" if name in scored.tfidf else ""
        click.echo(f"{name:<{name_width}} {figure(entry['value'], 4)}{interval}{baseline}{tfidf}")
    if labels and scored.per_class:
        width = max(len(name) for name in scored.per_class)
        click.echo(f"\n{'label':<{width}}  precision  recall      f1  rows")
        for name, row in scored.per_class.items():
            shares = f"{row['precision']:9.3f} {row['recall']:7.3f} {row['f1']:7.3f}"
            click.echo(f"{name:<{width}}  {shares} {row['support']:5.0f}")
