"""`rehead label-errors`: rows of a labeled table whose label is likely wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from finetune.core.tables.flags import passed
from service.commands.evaluate import labeled_table
from service.errors import BadRequest

SHOWN = 20


@click.command()
@click.argument("file")
@labeled_table
@click.option("--model", help="Score by this model, which must not have been trained on FILE.")
@click.option(
    "--base", default="topics", show_default=True, help="Encoder whose text embeddings score beside TF-IDF, or none."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write all of them to a new table.")
def command(
    file: str,
    model: str | None,
    base: str,
    out: Path | None,
    label_names: str | None,
    as_json: bool,
    device: str | None,
    models_dir: str,
    **columns: Any,
) -> None:
    """List rows of FILE whose label is likely wrong, the likeliest first.

    FILE is a labeled table, or predictions.csv of `rehead finetune --folds`, whose scores are then used: the best ones.
    Else each row is scored by linear models of the other rows: on TF-IDF and on the text embeddings of a base.
    """
    from finetune.core.tables.files import write_table
    from finetune.evaluation.label_errors import label_errors, records
    from service.inference import zero_shot

    if out is not None and out.exists():
        raise BadRequest(f"{out} exists already: name a new file with --out")
    names = zero_shot.parse_labels(label_names) if label_names is not None else None
    labels, scores, rows = _scored(file, model, base, columns, names, device, models_dir)
    errors = label_errors(labels, scores, rows.values)
    listed = list(records(errors, rows))
    if out is not None and listed:
        write_table(out, iter(listed))
    if as_json:
        click.echo(json.dumps({"rows": len(rows), "errors": listed}, indent=2))
        return
    click.echo(f"{len(listed)} of {len(rows)} rows are likely labeled wrong")
    for row in listed[:SHOWN]:
        text = " ".join(row["text"].split())
        click.echo(
            f"  row {row['row']}: {row['label']} ({row['score_label']:.3f}), suggested {row['suggested']} "
            f"({row['score_suggested']:.3f})  {text[:80]}"
        )
    if len(listed) > SHOWN:
        click.echo(f"  and {len(listed) - SHOWN} more: --out FILE writes all of them")


def _scored(
    file: str, model: str | None, base: str, columns: dict[str, Any], names: Any, device: str | None, models_dir: str
) -> tuple[Any, Any, Any]:
    """Return the label space, the scores `[N, C]` and the rows of a table."""
    from finetune.config.data import DataConfig, Source
    from finetune.data.load import load_rows, load_splits
    from finetune.out_of_fold import out_of_fold_scores
    from service.inference.engine import Engine
    from service.inference.model_store import resolve
    from service.settings import RuntimeSettings

    config = DataConfig(**passed(**columns), label_names=names, train=(Source(path=file),))
    if model is not None:
        folder = resolve(model, models_dir)
        engine = Engine.load(folder, RuntimeSettings.from_environment(device=device).exact())
        rows, _ = load_rows(file, config, folder.labels, folder.settings.text_columns)
        return folder.labels, engine.scores(rows.texts, rows.pairs), rows
    of_folds = _of_folds(file)
    if of_folds is not None:
        return of_folds
    splits = load_splits(config, seed=0, whole=True)
    encoder = None if base == "none" else base
    scores = out_of_fold_scores(splits.labels, splits.train, encoder, models_dir=models_dir, device=device or "auto")
    if scores is None:
        raise BadRequest(f"{file} has too few rows or labels to score each row by the others")
    return splits.labels, scores, splits.train


def _of_folds(file: str) -> tuple[Any, Any, Any] | None:
    """Return what a table of out-of-fold predictions holds; None for another table."""
    import numpy as np

    from finetune.core.labels import LabelSpace
    from finetune.core.tables.files import read_table
    from finetune.data.rows import Rows

    if not Path(file).is_file():
        return None
    table = read_table(Path(file))
    if not {"fold", "row", "text", "label", "prediction"} <= set(table.columns):
        return None
    names = tuple(column.removeprefix("score_") for column in table.columns if column.startswith("score_"))
    labels = LabelSpace("multiclass" if len(names) > 2 else "binary", names)
    scores = np.array([[float(row[f"score_{name}"]) for name in names] for row in table.rows])
    rows = Rows(
        texts=[row["text"] for row in table.rows],
        pairs=None,
        values=[row["label"] for row in table.rows],
        numbers=[int(row["row"]) for row in table.rows],
        source=table.name,
    )
    return labels, scores, rows
