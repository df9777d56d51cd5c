"""`rehead export`: a model exported to a runtime, and quantized to int8 if its accuracy allows."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.core.errors import FinetuneError
from finetune.core.tables.columns import matching_column
from finetune.core.tables.flags import passed, reading_flags
from finetune.core.tables.options import TableOptions
from service.errors import BackendFailed, BadRequest

if TYPE_CHECKING:
    from finetune.core.model_folder import ModelFolder
    from service.inference.engine import Engine

CALIBRATION_ROWS = 300
POINT = 0.01


@click.command()
@click.argument("model")
@click.option(
    "--format", "runtime", type=click.Choice(["openvino", "onnx"]), help="Default: onnx with --out, else openvino."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write a folder for ONNX Runtime, to be used anywhere.")
@click.option("--overwrite", is_flag=True, help="Replace the folder at --out.")
@click.option("--int8", is_flag=True, help="Also quantize it to int8, and keep that if --check allows.")
@click.option("--check", metavar="FILE", help="A labeled table to measure the accuracy of int8 on.")
@click.option("--calibrate", metavar="FILE", help="A table of texts to calibrate int8; else the validation split.")
@click.option("--limit", type=click.FloatRange(min=0), default=0.5, show_default=True,
              help="Maximum loss of accuracy by int8, in percentage points.")  # fmt: skip
@click.option("--text", help="The column of both tables that holds the text.")
@click.option("--label", help="The column of --check that holds the label.")
@click.option("--text-pair", help="The column of both tables that holds the second text.")
@reading_flags
@click.option("--models", "models_dir", default="models", show_default=True, help="The folder of served names.")
def command(
    model: str,
    runtime: str | None,
    out: Path | None,
    overwrite: bool,
    int8: bool,
    check: str | None,
    calibrate: str | None,
    limit: float,
    models_dir: str,
    **columns: Any,
) -> None:
    """Export MODEL to a runtime, so that its first start is fast; or with --out as an ONNX folder to take elsewhere.

    With --int8, accuracy on --check is measured before and after; int8 is kept only if it loses no more than --limit.
    --precision int8 then selects it.
    """
    from service.inference.backends import selection
    from service.inference.engine import Engine
    from service.inference.model_store import resolve
    from service.settings import RuntimeSettings

    if out is not None:
        _portable(resolve(model, models_dir), out, runtime, int8 or check is not None, overwrite=overwrite)
        return
    runtime = runtime or "openvino"
    if int8 != (check is not None):
        raise BadRequest("--int8 and --check need each other", hint="name a labeled table to measure accuracy on")
    folder = resolve(model, models_dir)
    kind = selection.exported(runtime)
    settings = RuntimeSettings.from_environment(backend=runtime, precision="float32")
    if check is not None:  # errors in the tables are raised before the export
        score = _scorer(folder, check, columns)
        calibration = _calibration(folder, check, calibrate, columns)
    kind.load(folder, "float32", settings).close()
    click.echo(f"{folder.path.name} is ready for {runtime}")
    if check is None:
        return
    before = score(Engine.load(folder, settings.model_copy(update={"backend": "torch"})))
    with tempfile.TemporaryDirectory() as staging:
        staged = settings.model_copy(update={"precision": "int8", "cache": Path(staging)})
        click.echo("quantizing to int8, which takes a minute or two", err=True)
        quantized = kind.make_int8(folder, calibration, staged)
        after = score(Engine.load(folder, staged))
        figures = f"accuracy on {check}: {after:.4f} in int8, {before:.4f} in float32"
        if after < before - limit * POINT:
            raise BackendFailed(
                f"int8 was not kept, since it loses more than {limit:g} points ({figures})",
                hint="calibrate on texts like those of --check, or allow more with --limit",
            )
        target = settings.cache / quantized.relative_to(staging)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(quantized, target)
    click.echo(figures)
    click.echo(f"kept: serve it with --backend {runtime} --precision int8")


def _portable(folder: ModelFolder, out: Path, runtime: str | None, int8: bool, *, overwrite: bool) -> None:
    from service.inference.portable import export

    if runtime == "openvino" or int8:
        raise BadRequest("--out writes float32 ONNX", hint="leave out --format openvino, --int8 and --check")
    export(folder, out, overwrite=overwrite)
    click.echo(f"{out} holds {folder.path.name} for ONNX Runtime; its README.md shows how to use it")


def _scorer(folder: ModelFolder, check: str, columns: dict[str, Any]) -> Callable[[Engine], float]:
    """Return a function from an engine to its accuracy on the table: of zero-shot answers for an NLI model without
    pairs, else the first of the task's metrics."""
    from finetune.config.data import DataConfig
    from finetune.run import evaluate

    if not folder.is_zero_shot or columns["text_pair"] is not None:
        data = DataConfig(**passed(**columns))
        thresholds = folder.settings.thresholds

        def metric(engine: Engine) -> float:
            evaluation = evaluate(
                engine.scores,
                check,
                folder.labels,
                columns=data,
                thresholds=thresholds,
                tfidf=False,
                text_columns=folder.settings.text_columns,
            )
            return float(next(iter(evaluation.measured.scored.metrics.values()))["value"])

        return metric
    texts, labels = _zero_shot_rows(check, columns, folder.settings.text_columns)

    def accuracy(engine: Engine) -> float:
        from service.schema import ZeroShotRequest

        answers = engine.zero_shot(texts, ZeroShotRequest(tuple(dict.fromkeys(labels))))
        return sum(answer.best.label == label for answer, label in zip(answers, labels, strict=True)) / len(labels)

    return accuracy


def _options(columns: dict[str, Any]) -> TableOptions:
    return TableOptions(**passed(**{name: columns[name] for name in ("encoding", "separator", "header", "sheet")}))


def _zero_shot_rows(check: str, columns: dict[str, Any], recorded: Sequence[str]) -> tuple[list[str], list[str]]:
    from finetune.core.tables.files import read_table
    from service.batch.text_columns import texts_of

    table = read_table(check, _options(columns))
    name = columns["label"] or "label"
    column = matching_column(name, table.columns)
    if column is None:
        raise BadRequest(f"{table.name} has no column {name!r}: name the label's with --label")
    texts = [item.text for item in texts_of(table, columns["text"], recorded=recorded)]
    return texts, [str(cell).replace("_", " ") for cell in table.column(column)]


def _calibration(folder: ModelFolder, check: str, calibrate: str | None, columns: dict[str, Any]) -> Sequence[Any]:
    """Return inputs of the main graph, from the texts of a table or of the model's validation split."""
    from finetune.core.tables.files import read_table
    from finetune.run import validation_rows
    from service.batch.text_columns import texts_of
    from service.inference import quantization_data
    from service.schema import TextInput

    if calibrate is not None and Path(calibrate).resolve() == Path(check).resolve():
        raise BadRequest("--calibrate and --check are the same file: accuracy must be measured on other rows")
    if calibrate is not None:
        table, recorded = read_table(calibrate, _options(columns)), folder.settings.text_columns
        inputs = texts_of(table, columns["text"], columns["text_pair"], recorded=recorded)
    else:
        try:
            split = validation_rows(folder.path)
        except FinetuneError as error:
            raise BadRequest(
                f"the model's validation split cannot be read ({error})", hint="name a table with --calibrate"
            ) from error
        pairs = split.pairs if split.pairs is not None else [None] * len(split.texts)
        inputs = [TextInput(text, pair) for text, pair in zip(split.texts[:CALIBRATION_ROWS], pairs, strict=False)]
    labels = None
    if folder.is_zero_shot and columns["text_pair"] is None:
        labels = list(dict.fromkeys(_zero_shot_rows(check, columns, folder.settings.text_columns)[1]))
    return quantization_data.inputs(folder, inputs[:CALIBRATION_ROWS], labels)
