"""`rehead zero-shot`: texts or a table, and candidate labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from finetune.core.tables.flags import passed, reading_flags
from finetune.core.tables.options import TableOptions
from service.commands.label_flags import labels_option
from service.commands.ray_flags import RayFlags, ray_flags


@click.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT... | FILE | -")
@labels_option("Labels with commas between them, or @FILE: a label on each line, or YAML.")
@click.option("--label", "single_labels", multiple=True, help="One label, which may hold a comma; repeat it.")
@click.option("--multi-label", is_flag=True, help="Score each label independently: several may be true.")
@click.option("--template", help='The sentence around a label, with exactly one {}: "This text is about {}."')
@click.option("--scorer", type=click.Choice(["nli", "embedding", "both"]), help="Default: what the model records.")
@click.option("--attention", type=click.Choice(["ordinary", "shared_text"]), help="Default: what the model records.")
@click.option("--keep-identifiers", is_flag=True, help="Read labels such as book_flight as they are, not as words.")
@click.option("--beam", type=click.IntRange(0, 1000), help="Labels followed on each level of a tree; 0: none.")
@click.option("--profile", help="A profile that rehead profile wrote; its labels are used where none are given.")
@click.option("--model", default="topics", show_default=True, help="A path, a served name or a Hub id.")
@click.option("-o", "--out", type=click.Path(), help="Write the scored table here (FILE only).")
@click.option(
    "--text",
    "text_column",
    metavar="COLUMN",
    multiple=True,
    help="The column of FILE that holds the text; repeat it to join several.",
)
@reading_flags
@click.option(
    "--window", help="Windows of long texts: off, tokens, or tokens=256,overlap=64,aggregate=mean (max, first)."
)
@click.option("--top-k", type=click.IntRange(min=1), help="How many labels to show for each text.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--models", "models_dir", default="models", show_default=True, help="The folder of served names.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Maximum rows of a batch; default suits the runtime.")
@click.option("--all-scores", is_flag=True, help="Write a column with the score of each label.")
@click.option("--keep-formulas", is_flag=True, help="Write cells that a spreadsheet would run as formulas unchanged.")
@click.option("--device", help="Device: auto, cpu, cuda, cuda:N or mps; default is REHEAD_DEVICE, else auto.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@ray_flags
def command(
    texts: tuple[str, ...],
    labels: str | None,
    single_labels: tuple[str, ...],
    multi_label: bool,
    template: str | None,
    scorer: str | None,
    attention: str | None,
    keep_identifiers: bool,
    beam: int | None,
    window: str | None,
    profile: str | None,
    model: str,
    out: str | None,
    text_column: tuple[str, ...],
    top_k: int | None,
    as_json: bool,
    models_dir: str,
    batch_size: int | None,
    overwrite: bool,
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
    """Classify texts, or a table of texts, by labels of your own.

    A single argument that names a file, or ends like one, is read: .csv, .tsv, .jsonl, .json, .parquet, .arrow,
    .feather, .xlsx, .xls, or .txt with one text a line; texts also with .gz or .zst.
    A single - reads texts from standard input, one a line.
    """
    from service.commands.classification import Request, answer_on, zero_shot_request
    from service.inference.model_store import resolve
    from service.schema import checked_window

    more = passed(keep_identifiers=keep_identifiers, beam=beam, window=checked_window(window))
    candidates = zero_shot_request(labels, single_labels, multi_label, template, scorer, attention, profile, **more)
    folder = resolve(model, models_dir)
    options = TableOptions(**passed(**reading))
    request = Request(
        texts,
        Path(out) if out else None,
        text_column,
        None,
        top_k,
        as_json,
        batch_size,
        overwrite,
        all_scores,
        keep_formulas,
        options,
        device,
    )
    flags = RayFlags(engine, address, actors, num_gpus_per_actor, keep_order)
    answer_on(flags, request, model, models_dir, folder, candidates, out=out)
