"""`rehead trim-vocab`: a model with the part of its vocabulary that a table of texts needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.core.tables.flags import passed, reading_flags
from service.errors import BadRequest


@click.command()
@click.argument("model")
@click.argument("texts")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="New model folder.")
@click.option("--text", multiple=True, help="Column of the text; repeat it for texts joined from several columns.")
@click.option("--text-pair", help="Column of the second text of a pair.")
@click.option("--labels", help="Labels of a zero-shot model, separated by commas, or @FILE.")
@click.option(
    "--min-count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Occurrences from which a piece is kept.",
)
@click.option("--overwrite", is_flag=True, help="Replace what OUT holds.")
@reading_flags
@click.option("--models", "models_dir", default="models", show_default=True, help="Folder of served names.")
def command(
    model: str,
    texts: str,
    out: Path,
    text: tuple[str, ...],
    text_pair: str | None,
    labels: str | None,
    min_count: int,
    overwrite: bool,
    models_dir: str,
    **reading: Any,
) -> None:
    """Write MODEL with the pieces of its vocabulary that the table TEXTS needs.

    The new folder is smaller and gives the same scores on these texts (and, for a zero-shot model, these labels).
    Special tokens and single characters are kept, so that any text can still be read. For WordPiece and Unigram
    (SentencePiece) tokenizers.
    """
    from finetune.core.hub import download
    from finetune.core.hypothesis import fill
    from finetune.core.model_folder import CLASSIFIER, find, read
    from finetune.core.tables.files import read_table
    from finetune.core.tables.options import TableOptions
    from finetune.modeling.vocabulary import trim_vocabulary
    from service.batch.text_columns import column_of, text_columns_of, text_of
    from service.inference.zero_shot import parse_labels

    location = download(find(model, models_dir), models_dir)
    table = read_table(texts, TableOptions(**passed(**reading)))
    folder = read(location.source) if (Path(location.source) / CLASSIFIER).is_file() else None
    recorded = folder.settings.text_columns if folder is not None else ()
    columns = text_columns_of(table.name, table.columns, text, recorded)
    cells = [str(cell) for row in table.rows if (cell := text_of(row, columns))]
    if text_pair is not None:
        cells += [str(cell) for cell in table.column(column_of(table.name, table.columns, text_pair)) if cell]
    if folder is not None and folder.settings.zero_shot is not None:
        if labels is None:
            raise BadRequest(f"{model} is a zero-shot model, which reads labels too: name them with --labels")
        names = parse_labels(labels)
        cells += [*names, *(fill(folder.settings.zero_shot.hypothesis_template, name) for name in names)]
    done = trim_vocabulary(Path(location.source), cells, out, min_count=min_count, overwrite=overwrite)
    click.echo(
        f"kept {done.pieces:,} of {done.pieces_before:,} pieces; weights {done.size_bytes / 1e6:,.1f} MB, before "
        f"{done.size_bytes_before / 1e6:,.1f} MB"
    )
    click.echo(f"{done.unchanged:,} of {done.texts:,} texts keep their pieces, and so their scores")
    click.echo(f"model: {out}")
