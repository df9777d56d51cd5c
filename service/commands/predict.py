"""`rehead predict`: texts or a table through a fine-tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from finetune.core.tables.flags import passed, reading_flags
from finetune.core.tables.options import TableOptions
from service.commands.ray_flags import RayFlags, ray_flags


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT... | FILE | -")
@click.option("-o", "--out", type=click.Path(), help="Write the scored table here (FILE only).")
@click.option(
    "--text",
    "text_column",
    metavar="COLUMN",
    multiple=True,
    help="The column of FILE that holds the text; repeat it to join several.",
)
@click.option("--text-pair", "pair_column", metavar="COLUMN", help="The column of FILE that holds the second text.")
@reading_flags
@click.option(
    "--window", help="Windows of long texts: off, tokens, or tokens=256,overlap=64,aggregate=mean (max, first)."
)
@click.option("--top-k", type=click.IntRange(min=1), help="How many labels to show for each text.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--models", "models_dir", default="models", show_default=True, help="The folder of served names.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Maximum rows of a batch; default suits the runtime.")
@click.option("--abstain", is_flag=True, help="Answer with a set of labels, or with none (see rehead calibrate).")
@click.option("--all-scores", is_flag=True, help="Write a column with the score of each label.")
@click.option("--keep-formulas", is_flag=True, help="Write cells that a spreadsheet would run as formulas unchanged.")
@click.option("--device", help="Device: auto, cpu, cuda, cuda:N or mps; default is REHEAD_DEVICE, else auto.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@ray_flags
def command(
    model: str,
    texts: tuple[str, ...],
    out: str | None,
    text_column: tuple[str, ...],
    pair_column: str | None,
    window: str | None,
    top_k: int | None,
    as_json: bool,
    models_dir: str,
    batch_size: int | None,
    overwrite: bool,
    abstain: bool,
    all_scores: bool,
    keep_formulas: bool,
    device: str | None,
    engine: Literal["local", "ray"],
    address: str | None,
    actors: int | None,
    num_gpus_per_actor: float | None,
    keep_order: bool,
    **reading: Any,
) -> None:
    """Classify texts, or a table of texts, with MODEL: a path, a served name or a Hub id.

    A single argument that names a file, or ends like one, is read: .csv, .tsv, .jsonl, .json, .parquet, .arrow,
    .feather, .xlsx, .xls, or .txt with one text a line; texts also with .gz or .zst.
    A single - reads texts from standard input, one a line.
    """
    from service.commands.classification import Request, answer_on
    from service.inference.model_store import resolve
    from service.schema import checked_window

    folder = resolve(model, models_dir)
    options = TableOptions(**passed(**reading))
    request = Request(
        texts,
        Path(out) if out else None,
        text_column,
        pair_column,
        top_k,
        as_json,
        batch_size,
        overwrite,
        all_scores,
        keep_formulas,
        options,
        device,
        abstain=abstain,
        window=checked_window(window),
    )
    flags = RayFlags(engine, address, actors, num_gpus_per_actor, keep_order)
    answer_on(flags, request, model, models_dir, folder, None, out=out)
