"""`rehead compare`: several models on the same labeled table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from finetune.core.number_format import figure
from finetune.core.tables.flags import passed
from service.commands.evaluate import labeled_table
from service.errors import BadRequest


@click.command()
@click.argument("arguments", nargs=-1, metavar="MODEL MODEL... FILE")
@labeled_table
def command(
    arguments: tuple[str, ...], label_names: str | None, as_json: bool, models_dir: str, **columns: Any
) -> None:
    """Print the metrics of every MODEL on FILE in one table, and the difference of each from the first.

    The differences have paired 95% bootstrap intervals: one without zero is hardly explained by chance.
    """
    from finetune.config.data import DataConfig
    from finetune.run import differences, evaluate
    from service.inference import zero_shot
    from service.inference.engine import Engine
    from service.inference.model_store import resolve
    from service.settings import RuntimeSettings

    if len(arguments) < 3:
        raise BadRequest("compare needs two models or more, and a labeled table", hint="rehead compare A B test.csv")
    *names, file = arguments
    folders = [resolve(name, models_dir) for name in names]
    labels = folders[0].labels
    for name, folder in zip(names, folders, strict=True):
        if (folder.labels.task, set(folder.labels.names)) != (labels.task, set(labels.names)):
            raise BadRequest(
                f"{name} is {folder.labels.task} with {len(folder.labels)} labels and {names[0]} is {labels.task} with "
                f"{len(labels)}, or their names differ: only models with the same labels can be compared"
            )
    given_names = zero_shot.parse_labels(label_names) if label_names is not None else None
    evaluations = []
    for folder in folders:
        engine = Engine.load(folder, RuntimeSettings.from_environment().exact())
        recorded = folder.settings.thresholds
        order = [folder.labels.names.index(name) for name in labels.names]

        def predict(texts: Any, pairs: Any, engine: Engine = engine, order: Any = order) -> Any:
            return engine.scores(texts, pairs)[:, order]

        thresholds = [recorded[index] for index in order] if recorded is not None else None
        evaluations.append(
            evaluate(
                predict,
                file,
                labels,
                columns=DataConfig(**passed(**columns), label_names=given_names),
                thresholds=thresholds,
                tfidf=False,
            )
        )
    gaps = [differences(labels, evaluations[0].measured, other.measured) for other in evaluations[1:]]
    metrics = [{key: entry["value"] for key, entry in each.measured.scored.metrics.items()} for each in evaluations]
    if as_json:
        content = {"file": file, "rows": evaluations[0].measured.scored.rows, "first": names[0]}
        models = [{"model": name, "metrics": values} for name, values in zip(names, metrics, strict=True)]
        for entry, gap in zip(models[1:], gaps, strict=True):
            entry["difference"] = gap
        click.echo(json.dumps(content | {"models": models}, indent=2))
        return
    click.echo(f"{evaluations[0].measured.scored.rows} rows of {file}")
    _print(
        ["", *(Path(name).name for name in names)], [[key, *(figure(m[key], 4) for m in metrics)] for key in metrics[0]]
    )
    click.echo(f"\ndifference from {Path(names[0]).name}, with 95% intervals")
    rows = [
        [key, *(f"{gap[key]['value']:+.4f} [{gap[key]['low']:+.4f}, {gap[key]['high']:+.4f}]" for gap in gaps)]
        for key in gaps[0]
    ]
    _print(["", *(Path(name).name for name in names[1:])], rows)


def _print(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
