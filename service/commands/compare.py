"""`rehead compare`: several models on the same labeled table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.core.number_format import figure
from finetune.core.tables.flags import passed
from service.commands.evaluate import labeled_table
from service.errors import BadRequest

if TYPE_CHECKING:
    from finetune.config.data import DataConfig
    from finetune.core.labels import LabelSpace
    from finetune.core.model_folder import ModelFolder


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
    from finetune.run import differences
    from service.inference import zero_shot
    from service.inference.model_store import resolve

    if len(arguments) < 3:
        raise BadRequest("compare needs two models or more, and a labeled table", hint="rehead compare A B test.csv")
    *names, file = arguments
    folders = [resolve(name, models_dir) for name in names]
    _require_same_labels(names, folders)
    data = DataConfig(
        **passed(**columns), label_names=zero_shot.parse_labels(label_names) if label_names is not None else None
    )
    labels = folders[0].labels
    evaluations = [_evaluated(folder, file, labels, data) for folder in folders]
    gaps = [differences(labels, evaluations[0].measured, other.measured) for other in evaluations[1:]]
    metrics = [{key: entry["value"] for key, entry in each.measured.scored.metrics.items()} for each in evaluations]
    rows = evaluations[0].measured.scored.rows
    if as_json:
        models = [{"model": name, "metrics": values} for name, values in zip(names, metrics, strict=True)]
        for entry, gap in zip(models[1:], gaps, strict=True):
            entry["difference"] = gap
        click.echo(json.dumps({"file": file, "rows": rows, "first": names[0], "models": models}, indent=2))
        return
    titles = [Path(name).name for name in names]
    click.echo(f"{rows} rows of {file}")
    _print(["", *titles], [[key, *(figure(values[key], 4) for values in metrics)] for key in metrics[0]])
    click.echo(f"\ndifference from {titles[0]}, with 95% intervals")
    _print(["", *titles[1:]], [[key, *(_interval(gap[key]) for gap in gaps)] for key in gaps[0]])


def _require_same_labels(names: Sequence[str], folders: Sequence[ModelFolder]) -> None:
    labels = folders[0].labels
    for name, folder in zip(names, folders, strict=True):
        if (folder.labels.task, set(folder.labels.names)) != (labels.task, set(labels.names)):
            raise BadRequest(
                f"{name} is {folder.labels.task} with {len(folder.labels)} labels and {names[0]} is {labels.task} with "
                f"{len(labels)}, or their names differ: only models with the same labels can be compared"
            )


def _evaluated(folder: ModelFolder, file: str, labels: LabelSpace, data: DataConfig) -> Any:
    """Return a model's evaluation on a table, its scores and thresholds in the order of `labels`."""
    from finetune.run import evaluate
    from service.inference.engine import Engine
    from service.settings import RuntimeSettings

    engine = Engine.load(folder, RuntimeSettings.from_environment().exact())
    recorded = folder.settings.thresholds
    order = [folder.labels.names.index(name) for name in labels.names]

    def predict(texts: Any, pairs: Any) -> Any:
        return engine.scores(texts, pairs)[:, order]

    thresholds = [recorded[index] for index in order] if recorded is not None else None
    joins = folder.settings.text_columns
    return evaluate(predict, file, labels, columns=data, thresholds=thresholds, tfidf=False, text_columns=joins)


def _interval(gap: dict[str, float]) -> str:
    return f"{gap['value']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"


def _print(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
