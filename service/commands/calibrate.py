"""`rehead calibrate`: scores, thresholds and prediction sets of a finished model, from labeled rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from finetune.core.tables.flags import passed
from service.commands.evaluate import labeled_table
from service.errors import BadRequest


@click.command()
@click.argument("model")
@click.argument("file")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The folder to write.")
@click.option(
    "--method",
    type=click.Choice(["auto", "none", "temperature", "platt", "isotonic"]),
    default="auto",
    show_default=True,
    help="Calibration of the scores; auto is temperature for one label a text, platt for several.",
)
@click.option("--thresholds", metavar="RULE", help="Tune the threshold of each label: f1, precision=0.9, recall=0.9.")
@click.option("--positive", metavar="LABEL", help="Of two labels, the one of the threshold; default is the second.")
@click.option("--coverage", type=float, help="Fit prediction sets that hold the true label this often, such as 0.9.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists; without OUT, change the model's own folder.")
@labeled_table
def command(
    model: str,
    file: str,
    out: Path | None,
    method: str,
    thresholds: str | None,
    positive: str | None,
    coverage: float | None,
    overwrite: bool,
    label_names: str | None,
    as_json: bool,
    device: str | None,
    models_dir: str,
    **columns: Any,
) -> None:
    """Fit the scores of MODEL to FILE, a table of labeled texts, and write the model to OUT.

    The rows of FILE must be others than those that MODEL was trained on, since its scores of these are too good. Before
    and after are measured by cross-fitting: each row by what was fitted on the other rows.
    """
    from finetune.config.data import DataConfig
    from service.calibrate import calibrate_folder
    from service.inference import zero_shot

    names = zero_shot.parse_labels(label_names) if label_names is not None else None
    config = DataConfig(**passed(**columns), label_names=names)
    if positive is not None and thresholds is None:
        raise BadRequest("--positive names the label of a threshold: pass --thresholds too")
    result = calibrate_folder(
        model,
        file,
        out,
        config,
        method=method,
        thresholds=thresholds,
        positive=positive,
        coverage=coverage,
        overwrite=overwrite,
        device=device,
        models_dir=models_dir,
    )
    if as_json:
        click.echo(json.dumps(result.content, indent=2))
    else:
        _show(result.content, result.sentences)
        click.echo(f"wrote {result.path}")


def _show(content: dict[str, Any], sentences: list[str]) -> None:
    if "before" in content:
        click.echo(f"{'':<18} before   after   ({content['measured_rows']} rows: {content['measured_on']})")
        for name, before in content["before"].items():
            click.echo(f"{name:<18} {before:6.4f}  {content['after'][name]:6.4f}")
    for sentence in sentences:
        click.echo(sentence)
    if "thresholds" in content:
        _labels(
            "threshold", {name: (entry["threshold"], entry) for name, entry in content["thresholds"]["labels"].items()}
        )
    if "prediction_sets" in content:
        width = max(map(len, content["prediction_sets"]["labels"]))
        click.echo(f"\n{'label':<{width}}  coverage               rows")
        for name, entry in content["prediction_sets"]["labels"].items():
            click.echo(f"{name:<{width}}  {_interval(entry)}  {entry['rows']:5}")


def _labels(title: str, entries: dict[str, tuple[float, dict[str, Any]]]) -> None:
    width = max(map(len, entries))
    click.echo(f"\n{'label':<{width}}  {title}  precision              recall")
    for name, (value, entry) in entries.items():
        click.echo(f"{name:<{width}}  {value:9.3f}  {_interval(entry['precision'])}  {_interval(entry['recall'])}")


def _interval(entry: dict[str, Any]) -> str:
    if "value" not in entry:
        return f"{'no row':<21}"
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
