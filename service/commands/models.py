"""`rehead models`: the models that can be served, from their headers alone."""

from __future__ import annotations

import json
from typing import Any

import click

from finetune.core.number_format import figure

COLUMNS = ("name", "task", "labels", "base", "size", "metric")
LABELS_SHOWN = 4


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--models", "models_dir", default="models", show_default=True, help="The folder of served names.")
def command(as_json: bool, models_dir: str) -> None:
    """List the models that can be served, with task, labels and metric."""
    from finetune.core.errors import CheckpointError
    from finetune.core.model_folder import read, served
    from service.inference.model_store import describe

    entries: list[dict[str, Any]] = []
    for name, path in served(models_dir).items():
        try:
            entries.append(describe(name, read(path)) | {"path": str(path)})
        except CheckpointError as error:
            entries.append({"name": name, "path": str(path), "error": str(error)})
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    usable = [_cells(entry) for entry in entries if "error" not in entry]
    if usable:
        rows = [COLUMNS, *usable]
        widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
        for row in rows:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    else:
        click.echo(f"no usable model in {models_dir}, and none is part of this installation", err=True)
    for entry in entries:
        if "error" in entry:
            click.echo(f"{entry['name']} cannot be used: {entry['error']}", err=True)


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    names, metric = entry["labels"], entry["metric"]
    labels = ", ".join(names[:LABELS_SHOWN]) + (
        f", {len(names) - LABELS_SHOWN} more" if len(names) > LABELS_SHOWN else ""
    )
    return (
        entry["name"],
        entry["task"],
        "any that you name" if entry["task"] == "zero-shot" else labels,
        entry["base"],
        f"{entry['size_bytes'] / 1e6:.1f} MB",
        f"{metric['name']} {figure(metric['value'])}" if metric else "-",
    )
