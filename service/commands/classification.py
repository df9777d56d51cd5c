"""What `predict` and `zero-shot` share: texts or a table in, answers on the terminal or in a table.

Knows: which arguments go together, labels as the command line writes them.
Does not know: click, and how scores come about.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.core.labels import shown
from finetune.core.model_folder import ModelFolder
from finetune.core.tables.files import Table, read_table
from finetune.core.tables.options import TableOptions
from service.batch import score_table
from service.batch.output_file import DiskFull, check_output, is_no_room
from service.batch.text_arguments import LINES, lines, looks_like_file, meant
from service.batch.text_columns import texts_of
from service.commands import render
from service.errors import BadRequest
from service.inference import zero_shot
from service.inference.engine import Engine
from service.inference.zero_shot_scorer import nli_model
from service.schema import TextInput, ZeroShotRequest

ROWS_OF_LINES = 4096
MISSING_TEXT = "fill it in, or pass -o OUT: then the other rows are scored, and this one gets its error"


@dataclass(frozen=True)
class Request:
    """The arguments that both commands take."""

    arguments: tuple[str, ...]
    out: Path | None
    text_column: str | None
    pair_column: str | None
    top_k: int | None
    as_json: bool
    batch_size: int | None
    overwrite: bool
    all_scores: bool
    keep_formulas: bool
    options: TableOptions


def question(
    labels: str | None,
    single_labels: tuple[str, ...],
    multi_label: bool,
    template: str | None,
    scorer: Any,
    attention: Any,
) -> ZeroShotRequest:
    """The question that the flags of `zero-shot` ask.

    Raises:
        BadRequest: no labels, labels or a template that cannot be used, or a missing @FILE.
    """
    given: list[str] = list(single_labels)
    for one in (labels or "", *single_labels):
        if not one.startswith("@") and looks_like_file(one):
            raise BadRequest(f"the label {one!r} looks like a file: write --labels @{one} to read its labels")
    if labels is not None and labels.startswith("@"):
        given += _label_file(Path(labels[1:]))
    elif labels is not None:
        given += zero_shot.parse_labels(labels)
    if not given:
        raise BadRequest("there are no labels: pass --labels a,b or --label for each")
    if template is not None:
        zero_shot.check_template(template)
    return ZeroShotRequest(zero_shot.parse_labels(given), multi_label, template, scorer, attention)


def answer(request: Request, folder: ModelFolder, asked: ZeroShotRequest | None) -> None:
    """Answer a request: with the model's own labels, or those of `asked`.

    Raises:
        DiskFull: what is printed, or a temporary file, could not grow.
    """
    try:
        _answer(request, folder, asked)
    except OSError as error:
        if not is_no_room(error):
            raise
        with suppress(OSError):
            sys.stdout.close()  # what could not be printed would be tried again at the end
        place = error.filename or "standard output or a temporary file"
        raise DiskFull(f"{place} could not be written ({error.strerror}): make room, and run it again") from error


def _answer(request: Request, folder: ModelFolder, asked: ZeroShotRequest | None) -> None:
    given = meant(request.arguments)
    table = given if isinstance(given, Path) else None
    if table is None and (request.out or request.text_column or request.pair_column):
        raise BadRequest("--out and --text go with a FILE, and these arguments are texts")
    if table is None and request.options != TableOptions():
        raise BadRequest("--encoding, --separator and --no-header go with a FILE, and these arguments are texts")
    if request.out is None and (request.all_scores or request.keep_formulas):
        raise BadRequest("--all-scores and --keep-formulas go with --out")
    if table is not None and request.out is not None:
        check_output(request.out, table, overwrite=request.overwrite)
    if asked is not None:
        nli_model(folder)
    elif folder.is_zero_shot and request.pair_column is None:
        raise BadRequest(
            f"{folder.path.name} is a zero-shot model with labels {shown(folder.labels.names)}",
            hint="use rehead zero-shot, or name a --text-pair column",
        )
    engine = Engine.load(folder, log=lambda line: print(line, file=sys.stderr))

    if table is not None and request.out is not None:
        _write(request, table, request.out, engine, asked)
        return
    if isinstance(given, list):
        inputs = [TextInput(text) for text in given]
        if any(not one.text.strip() for one in inputs):
            raise BadRequest("a text is empty")
    else:
        inputs = texts_of(_read(given, request.options), request.text_column, request.pair_column, hint=MISSING_TEXT)
    texts = [one.text if one.pair is None else f"{one.text} | {one.pair}" for one in inputs]
    bars = asked is not None or folder.labels.task != "regression"
    answers = score_table.scorer(engine, asked, request.batch_size)(inputs)
    render.show(texts, answers, top_k=request.top_k, as_json=request.as_json, bars=bars)


def _read(file: Path, options: TableOptions) -> Table:
    """The table in a file, or a file of one text a line as a table; what was found out of it is printed."""
    if file.suffix.lower() == LINES:
        found = lines(file, ROWS_OF_LINES, options)
        print(f"{file}: {found.note}", file=sys.stderr)
        return Table(found.columns, [row for part in found.parts for row in part], str(file))
    table = read_table(file, options)
    for warning in table.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return table


def _write(request: Request, table: Path, out: Path, engine: Engine, asked: ZeroShotRequest | None) -> None:
    from tqdm import tqdm

    with tqdm(unit=" rows", file=sys.stderr, disable=None, smoothing=0.1) as bar:

        def progress(done: int, share: float) -> None:
            bar.total = round(done / share) if share else None
            bar.update(done - bar.n)

        found = score_table.score_table(
            table,
            out,
            score_table.scorer(engine, asked, request.batch_size),
            score_table.asked(engine, asked, request.batch_size),
            text=request.text_column,
            text_pair=request.pair_column,
            all_scores=request.all_scores,
            keep_formulas=request.keep_formulas,
            overwrite=request.overwrite,
            progress=progress,
            options=request.options,
        )
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    said = f" ({found.note})" if found.note else ""
    went_on = f", on from row {found.went_on_after}" if found.went_on_after else ""
    print(f"wrote {out}: {found.rows} rows{said}{went_on}, with new columns {shown(found.columns)}", file=sys.stderr)
    if found.errors:
        print(
            f"note: {found.errors} rows could not be scored; the column {found.columns[-1]} says why", file=sys.stderr
        )


def _label_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise BadRequest(f"there is no label file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"the label file {path} cannot be read as UTF-8 text ({error})") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise BadRequest(f"the label file {path} holds no label")
    return names
