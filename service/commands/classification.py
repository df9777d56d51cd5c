"""What `predict` and `zero-shot` share: texts or a table in, answers on the terminal or in a table."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.core.labels import shown
from finetune.core.model_folder import ModelFolder
from finetune.core.tables.files import read_table
from finetune.core.tables.formats import FORMATS, TEXT_SUFFIXES
from finetune.core.tables.options import TableOptions
from finetune.core.tables.table import Table
from finetune.core.tables.text_file import suffix_of
from finetune.core.windows import Window
from service.batch.batch_scorer import RowScorer, scorer
from service.batch.label_file import read_labels
from service.batch.output_file import DiskFull, check_output, is_disk_full
from service.batch.score_table import write_scored
from service.batch.scoring_task import require_sets, scoring_task
from service.batch.text_arguments import looks_like_file, parse_arguments
from service.batch.text_columns import texts_of
from service.commands import render
from service.commands.ray_flags import RayFlags
from service.errors import BadRequest
from service.inference import zero_shot
from service.inference.engine import Engine
from service.inference.label_parsing import labels_of
from service.inference.profile import ZeroShotProfile
from service.inference.zero_shot_scorer import nli_model
from service.schema import LabelText, TextInput, ZeroShotRequest, with_languages
from service.settings import RuntimeSettings

MISSING_TEXT = "fill it in, or pass -o OUT to score the other rows and write the error beside this one"


@dataclass(frozen=True)
class Request:
    """The arguments that both commands take."""

    arguments: tuple[str, ...]
    out: Path | None
    text_column: tuple[str, ...]
    pair_column: str | None
    top_k: int | None
    as_json: bool
    batch_size: int | None
    overwrite: bool
    all_scores: bool
    keep_formulas: bool
    options: TableOptions
    device: str | None
    abstain: bool = False
    window: Window | None = None

    def scorer(self, engine: Engine, question: ZeroShotRequest | None) -> RowScorer:
        """Return the scorer of the rows of a table."""
        task = scoring_task(engine, question, self.batch_size, abstain=self.abstain, window=self.window)
        answers = scorer(engine, question, self.batch_size, self.window)
        return RowScorer(answers, task, self.text_column, self.pair_column, self.all_scores)


def zero_shot_request(
    labels: str | None,
    single_labels: tuple[str, ...],
    multi_label: bool,
    template: str | None,
    scorer: Any,
    attention: Any,
    profile: str | None = None,
    **more: Any,
) -> ZeroShotRequest:
    """Return the request from the options of `zero-shot`; without labels, those of the profile.

    Args:
        more: further fields of the request.

    Raises:
        BadRequest: labels, template, @FILE or the profile are missing or invalid.
    """
    known = ZeroShotProfile.read(profile) if profile is not None else None
    names: list[str] = list(single_labels)
    for label in (labels or "", *single_labels):
        if not label.startswith("@") and looks_like_file(label):
            raise BadRequest(f"the label {label!r} looks like a file: write --labels @{label} to read its labels")
    texts: tuple[tuple[str, LabelText], ...] = ()
    if labels is not None and labels.startswith("@"):
        of_file = read_labels(Path(labels[1:]))
        names, texts = [*names, *of_file.names], of_file.texts
    elif labels is not None:
        names += zero_shot.parse_labels(labels)
    if not names and known is not None:
        names = list(known.labels)
    if not names:
        raise BadRequest("there are no labels: pass --labels a,b or --label for each")
    if template is not None:
        zero_shot.check_template(template)
    parsed = labels_of(names).names
    return ZeroShotRequest(parsed, multi_label, template, scorer, attention, texts=texts, profile=known, **more)


def answer(request: Request, folder: ModelFolder, zero_shot_request: ZeroShotRequest | None) -> None:
    """Print or write the answers to a request, with the model's own labels or candidate labels.

    Raises:
        DiskFull: standard output or a temporary file could not be written.
    """
    try:
        _answer(request, folder, zero_shot_request)
    except OSError as error:
        if not is_disk_full(error):
            raise
        with suppress(OSError):
            sys.stdout.close()  # else Python would try again to print at its end
        place = error.filename or "standard output or a temporary file"
        raise DiskFull(f"{place} could not be written ({error.strerror}): make room, and run it again") from error


def answer_on(
    flags: RayFlags,
    request: Request,
    model: str,
    models_dir: str,
    folder: ModelFolder,
    zero_shot_request: ZeroShotRequest | None,
    *,
    out: str | None,
) -> None:
    """Answer a request here, or on Ray where the flags say so; `out` may be an address there."""
    if flags.engine == "ray":
        from service.commands.ray_scoring import score_on_ray

        score_on_ray(request, out, model, models_dir, folder, zero_shot_request, flags)
        return
    flags.check_local()
    answer(request, folder, zero_shot_request)


def check(request: Request, folder: ModelFolder, zero_shot_request: ZeroShotRequest | None) -> None:
    """Raise for options that do not fit the model, before any weights are loaded.

    Raises:
        BadRequest: says which, and what to do.
    """
    if zero_shot_request is not None:
        nli_model(folder)
        if zero_shot_request.profile is not None:
            zero_shot_request.profile.applied(zero_shot_request, folder)  # raises before any weights are loaded
    elif folder.is_zero_shot and request.pair_column is None:
        raise BadRequest(
            f"{folder.path.name} is a zero-shot model with labels {shown(folder.labels.names)}",
            hint="use rehead zero-shot, or name a --text-pair column",
        )
    if request.abstain:
        require_sets(folder, zero_shot_request)
        if request.top_k is not None:
            raise BadRequest("--abstain shows the labels of the prediction set: leave out --top-k")


def _answer(request: Request, folder: ModelFolder, zero_shot_request: ZeroShotRequest | None) -> None:
    source = parse_arguments(request.arguments)
    table = source if isinstance(source, Path) else None
    if table is None and (request.out or request.text_column or request.pair_column):
        raise BadRequest("--out and --text need a FILE, and these arguments are texts")
    if table is None and request.options != TableOptions():
        raise BadRequest("--encoding, --separator, --no-header and --sheet need a FILE, and these arguments are texts")
    if request.out is None and (request.all_scores or request.keep_formulas):
        raise BadRequest("--all-scores and --keep-formulas need --out")
    if table is not None and request.out is not None:
        check_output(request.out, table, overwrite=request.overwrite)
    check(request, folder, zero_shot_request)
    runtime = RuntimeSettings.from_environment(device=request.device)
    engine = Engine.load(folder, runtime, log=lambda line: print(line, file=sys.stderr))

    if table is not None and request.out is not None:
        _write(request, table, request.out, engine, zero_shot_request)
        return
    if isinstance(source, list):
        inputs = [TextInput(text) for text in source]
        for number, item in enumerate(inputs, start=1):
            if not item.text.strip():
                raise BadRequest(f"text {number} of {len(inputs)} is empty")
    else:
        inputs = texts_of(
            _read(source, request.options),
            request.text_column,
            request.pair_column,
            hint=MISSING_TEXT,
            recorded=folder.settings.text_columns,
        )
    texts = [item.text if item.pair is None else f"{item.text} | {item.pair}" for item in inputs]
    bars = zero_shot_request is not None or folder.labels.task != "regression"
    answers = scorer(engine, zero_shot_request, request.batch_size, request.window)(inputs)
    answers = with_languages(answers, (item.text for item in inputs), folder.settings.languages)
    render.show(texts, answers, top_k=request.top_k, as_json=request.as_json, bars=bars, abstain=request.abstain)


def _read(file: Path, options: TableOptions) -> Table:
    """Return the table in a file, or a file with one text a line as a table; print notes and warnings."""
    table = read_table(file, options, FORMATS)
    if suffix_of(file) in TEXT_SUFFIXES:
        print(f"{file}: {table.note}", file=sys.stderr)
    for warning in table.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return table


def _write(request: Request, table: Path, out: Path, engine: Engine, zero_shot_request: ZeroShotRequest | None) -> None:
    from tqdm import tqdm

    with tqdm(unit=" rows", file=sys.stderr, disable=None, smoothing=0.1) as bar:

        def progress(done: int, share: float) -> None:
            bar.total = round(done / share) if share else None
            bar.update(done - bar.n)

        result = write_scored(
            table,
            out,
            request.scorer(engine, zero_shot_request),
            keep_formulas=request.keep_formulas,
            overwrite=request.overwrite,
            progress=progress,
            options=request.options,
        )
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    note = f" ({result.note})" if result.note else ""
    resumed = f", resumed after row {result.resumed_after}" if result.resumed_after else ""
    print(f"wrote {out}: {result.rows} rows{note}{resumed}, with new columns {shown(result.columns)}", file=sys.stderr)
    if result.errors:
        print(
            f"note: {result.errors} rows could not be scored; the column {result.columns[-1]} has the reason",
            file=sys.stderr,
        )
