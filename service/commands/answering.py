"""What `predict` and `zero-shot` share: texts or a table in, answers on the terminal or in a table.

Knows: which arguments go together, labels as the command line writes them.
Does not know: click, and how scores come about.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.artifact import ModelFolder
from finetune.labels import shown
from finetune.tables import read_table
from service import files, zero_shot
from service.commands import render
from service.engine import Engine, nli_model
from service.errors import BadRequest
from service.schema import Answer, TextInput, ZeroShotQuestion


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


def question(
    labels: str | None,
    single_labels: tuple[str, ...],
    multi_label: bool,
    template: str | None,
    scorer: Any,
    attention: Any,
) -> ZeroShotQuestion:
    """The question that the flags of `zero-shot` ask.

    Raises:
        BadRequest: no labels, labels or a template that cannot be used, or a missing @FILE.
    """
    given: list[str] = list(single_labels)
    if labels is not None and labels.startswith("@"):
        given += _label_file(Path(labels[1:]))
    elif labels is not None:
        given += zero_shot.parse_labels(labels)
    if not given:
        raise BadRequest("there are no labels: pass --labels a,b or --label for each")
    if template is not None:
        zero_shot.check_template(template)
    return ZeroShotQuestion(zero_shot.parse_labels(given), multi_label, template, scorer, attention)


def answer(request: Request, folder: ModelFolder, asked: ZeroShotQuestion | None) -> None:
    """Answer a request: with the model's own labels, or those of `asked`."""
    table = files.table_among(request.arguments)
    if table is None and (request.out or request.text_column or request.pair_column):
        raise BadRequest("--out and --text go with a FILE, and these arguments are texts")
    if table is not None and request.out is not None:
        files.check_output(request.out, table, overwrite=request.overwrite)
    if asked is not None:
        nli_model(folder)
    elif folder.is_zero_shot and request.pair_column is None:
        raise BadRequest(
            f"{folder.path.name} is a zero-shot model with labels {shown(folder.labels.names)}",
            hint="use rehead zero-shot, or name a --text-pair column",
        )
    engine = Engine.load(folder, say=lambda line: print(line, file=sys.stderr))

    def score(inputs: list[TextInput]) -> list[Answer]:
        if asked is None:
            return engine.classify(inputs, batch_size=request.batch_size)
        return engine.zero_shot([one.text for one in inputs], asked, batch_size=request.batch_size)

    if table is not None and request.out is not None:
        _write(request, table, request.out, score, folder, asked)
        return
    if table is None:
        inputs = [TextInput(text) for text in request.arguments]
        if any(not one.text.strip() for one in inputs):
            raise BadRequest("a text is empty")
    else:
        inputs = files.texts_of(read_table(table), request.text_column, request.pair_column)
    texts = [one.text if one.pair is None else f"{one.text} | {one.pair}" for one in inputs]
    bars = asked is not None or folder.labels.task != "regression"
    render.show(texts, score(inputs), top_k=request.top_k, as_json=request.as_json, bars=bars)


def _write(
    request: Request, table: Path, out: Path, score: files.Score, folder: ModelFolder, asked: ZeroShotQuestion | None
) -> None:
    task, thresholds = folder.settings.task, None
    if asked is not None:
        task = "multi_label" if asked.multi_label else "multiclass"
    elif folder.settings.thresholds is not None:
        thresholds = dict(zip(folder.labels.names, folder.settings.thresholds, strict=True))
    fresh = files.score_table(
        table,
        out,
        score,
        columns=lambda one: render.columns(one, task=task, thresholds=thresholds),
        text=request.text_column,
        text_pair=request.pair_column,
        overwrite=request.overwrite,
        progress=_progress,
    )
    print(f"wrote {out}, with new columns {shown(fresh)}", file=sys.stderr)


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} rows", end="\n" if done == total else "", file=sys.stderr, flush=True)


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
