"""`rehead drift`: texts of a table against those that a model was validated on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from finetune.core.tables.flags import passed, reading_flags
from finetune.core.tables.options import TableOptions
from service.errors import BadRequest

WORDS = {"labels": "predicted labels", "top_score": "top score", "length": "length", "unknown_tokens": "unknown tokens"}


@click.command()
@click.argument("model")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--text", "text_column", metavar="COLUMN", multiple=True, help="The column of FILE that holds the text.")
@click.option("--text-pair", "pair_column", metavar="COLUMN", help="The column of FILE that holds the second text.")
@reading_flags
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--device", help="Device: auto, cpu, cuda, cuda:N or mps; default is REHEAD_DEVICE, else auto.")
@click.option("--models", "models_dir", default="models", show_default=True, help="Folder of served names.")
def command(
    model: str,
    file: Path,
    text_column: tuple[str, ...],
    pair_column: str | None,
    as_json: bool,
    device: str | None,
    models_dir: str,
    **reading: Any,
) -> None:
    """Compare the texts of FILE with those that MODEL was validated on.

    The population stability index of predicted labels, top scores, lengths and unknown tokens, with its sampling noise;
    an alarm is an index from 0.1 on that one in a thousand tables without drift reaches.
    """
    from finetune.core.tables.files import read_table
    from finetune.core.tables.formats import FORMATS
    from finetune.evaluation.drift import shifts
    from service.batch.text_columns import texts_of
    from service.inference.model_store import resolve

    folder = resolve(model, models_dir)
    content = reference_of(folder)
    table = read_table(file, TableOptions(**passed(**reading)), FORMATS)
    hint = "fill it in, or leave the row out"
    inputs = texts_of(table, text_column, pair_column, hint=hint, recorded=folder.settings.text_columns)
    shifted = shifts(content, _measured(folder, inputs, device))
    for warning in table.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        quantities = {
            shift.quantity: {
                "index": shift.index,
                "noise": shift.noise,
                "p_value": shift.p_value,
                "alarm": shift.is_alarm,
            }
            for shift in shifted
        }
        content = {"rows": len(inputs), "alarm": any(shift.is_alarm for shift in shifted), "quantities": quantities}
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(f"{len(inputs)} rows of {file}, against {content['rows']} validation rows of {folder.path.name}")
    click.echo(f"{'':<17}  index  noise  p-value")
    for shift in shifted:
        alarm = "  drift" if shift.is_alarm else ""
        click.echo(f"{WORDS[shift.quantity]:<17} {shift.index:6.3f} {shift.noise:6.3f}  {shift.p_value:7.4f}{alarm}")


def reference_of(folder: Any) -> dict[str, Any]:
    """Return the content of a model's drift_reference.json.

    Raises:
        BadRequest: it has none, or it cannot be read.
    """
    from finetune.core.model_folder import DRIFT_REFERENCE

    try:
        content: dict[str, Any] = json.loads((folder.path / DRIFT_REFERENCE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        why = "a zero-shot model has none" if folder.is_zero_shot else "train the model again, which writes it"
        raise BadRequest(f"{folder.path.name} has no {DRIFT_REFERENCE} to compare with: {why}") from error
    except ValueError as error:
        raise BadRequest(
            f"{folder.path / DRIFT_REFERENCE} is damaged ({error}): copy the model folder again"
        ) from error
    return content


def _measured(folder: Any, inputs: list[Any], device: str | None) -> Any:
    from finetune.evaluation.drift import Measured, unknown_id
    from service.inference.cached_tokenizer import encoder_of
    from service.inference.engine import Engine
    from service.settings import RuntimeSettings

    settings = RuntimeSettings.from_environment(device=device).exact()
    engine = Engine.load(folder, settings, log=lambda line: print(line, file=sys.stderr))
    engine.window = None  # the reference is of truncated texts, as training reads them
    encoder = encoder_of(folder, settings.cache)
    texts, pairs = [item.text for item in inputs], [item.pair for item in inputs if item.pair is not None]
    names = () if folder.labels.task == "regression" else folder.labels.names
    rows = encoder(texts, pairs or None)
    return Measured.of(engine.scores(texts, pairs or None), names, rows, unknown_id(encoder.prepared))
