"""`rehead predict`: texts or a table through a fine-tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.core.tables.flags import passed, reading_flags
from finetune.core.tables.options import TableOptions


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT... | FILE | -")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the scored table here (FILE only).")
@click.option(
    "--text",
    "text_column",
    metavar="COLUMN",
    multiple=True,
    help="The column of FILE that holds the text; repeat it to join several.",
)
@click.option("--text-pair", "pair_column", metavar="COLUMN", help="The column of FILE that holds the second text.")
@reading_flags
@click.option("--top-k", type=click.IntRange(min=1), help="How many labels to show for each text.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--models", "models_dir", default="models", show_default=True, help="The folder of served names.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Maximum rows of a batch; default suits the runtime.")
@click.option("--all-scores", is_flag=True, help="Write a column with the score of each label.")
@click.option("--keep-formulas", is_flag=True, help="Write cells that a spreadsheet would run as formulas unchanged.")
@click.option("--device", help="Device: auto, cpu, cuda, cuda:N or mps; default is REHEAD_DEVICE, else auto.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def command(
    model: str,
    texts: tuple[str, ...],
    out: Path | None,
    text_column: tuple[str, ...],
    pair_column: str | None,
    top_k: int | None,
    as_json: bool,
    models_dir: str,
    batch_size: int | None,
    overwrite: bool,
    all_scores: bool,
    keep_formulas: bool,
    device: str | None,
    **reading: Any,
) -> None:
    """Classify texts, or a table of texts, with MODEL: a path, a served name or a Hub id.

    A single argument that names a file, or ends like one, is read: .csv, .tsv, .jsonl, .json, .parquet, .arrow,
    .feather, .xlsx, .xls, or .txt with one text a line; texts also with .gz or .zst.
    A single - reads texts from standard input, one a line.
    """
    from service.commands.classification import Request, answer
    from service.inference.model_store import resolve

    folder = resolve(model, models_dir)
    options = TableOptions(**passed(**reading))
    request = Request(
        texts,
        out,
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
    )
    answer(request, folder, None)
