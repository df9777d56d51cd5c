"""`rehead evaluate`: how well a model does on a labelled table.

Knows: its own arguments, how metrics look on a terminal.
Does not know: how metrics are computed.
"""

from __future__ import annotations

import json
from typing import Any

import click


@click.command()
@click.argument("model")
@click.argument("file")
@click.option("--text", help="The column of FILE that holds the text.")
@click.option("--label", help="The column of FILE that holds the label.")
@click.option("--text-pair", help="The column of FILE that holds the second text.")
@click.option("--label-names", help="Names for a label column of 0, 1, 2 ..., with commas between them.")
@click.option(
    "--metric", "extra", multiple=True, help="A further metric, by the name that evaluate.load knows; repeat it."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in the shape of metrics.json.")
@click.option("--models", "models_dir", default="models", show_default=True, help="The folder of served names.")
def command(
    model: str,
    file: str,
    label_names: str | None,
    extra: tuple[str, ...],
    as_json: bool,
    models_dir: str,
    **columns: Any,
) -> None:
    """Print the metrics of MODEL on FILE, a table of labelled texts, beside the majority (or mean) baseline."""
    from finetune.config import DataConfig
    from finetune.run import evaluate
    from service import zero_shot
    from service.engine import Engine
    from service.store import resolve

    folder = resolve(model, models_dir)
    names = zero_shot.parse_labels(label_names) if label_names is not None else None
    engine = Engine.load(folder)
    scored, counts = evaluate(
        engine.scores,
        file,
        folder.labels,
        columns=DataConfig(**columns, label_names=names),
        thresholds=folder.settings.thresholds,
        extra=extra,
    )
    if as_json:
        shape = {"split": file, "rows": scored.rows, "metrics": scored.metrics, "baseline": scored.baseline}
        click.echo(json.dumps(shape | {"per_class": scored.per_class, "data": counts}, indent=2))
        return
    click.echo(
        f"{scored.rows} rows of {file}  (" + ", ".join(f"{name}: {count}" for name, count in counts.items()) + ")"
    )
    wide = max(len(name) for name in scored.metrics)
    for name, entry in scored.metrics.items():
        interval = f"  [{entry['low']:.4f}, {entry['high']:.4f}]" if "low" in entry else ""
        baseline = f"  baseline {scored.baseline[name]:.4f}" if name in scored.baseline else ""
        click.echo(f"{name:<{wide}} {entry['value']:.4f}{interval}{baseline}")
    if scored.per_class:
        width = max(len(name) for name in scored.per_class)
        click.echo(f"\n{'label':<{width}}  precision  recall      f1  rows")
        for name, row in scored.per_class.items():
            shares = f"{row['precision']:9.3f} {row['recall']:7.3f} {row['f1']:7.3f}"
            click.echo(f"{name:<{width}}  {shares} {row['support']:5.0f}")
